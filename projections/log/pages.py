"""Reads a thread's log, one page of entries after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from eventlog.flow import Begin, Call, Finish, Flow, Script, load_script
from eventlog.keys import ThreadKeys

__all__ = ["SCAN", "SCAN_BYTES", "Entry", "LogPage", "Pages", "digest_at", "entry_order", "has_entry", "pages_of"]
__all__ += ["read_entries", "scan_log"]

READ_ENTRIES = load_script("projections/log/read_entries")
SCAN_LOG = load_script("projections/log/scan_log")
READ_DIGEST = load_script("projections/log/read_digest")
SCAN = 1000
"""Most entries in one reply of a scan."""
SCAN_BYTES = 4 * 1024 * 1024
"""Bytes in the log after which a reply of a scan ends early, so that it never occupies the server for long."""

T = TypeVar("T")
Entry = tuple[bytes, list[bytes]]
"""An entry's id, and its fields: names and values in turn."""


class LogPage(NamedTuple):
    """Entries of a log that follow each other.

    The reply of `read_entries.lua`, or of `scan_log.lua`, which has no `last`.
    """

    entries: list[Entry]
    more: int
    """1 if the log may have entries after these, else 0."""
    last: bytes = b""
    """Entry id of the log's last entry."""


class Pages(Generic[T]):
    """Pages that one call after the other reads.

    The server makes the next page while the caller works on one. Memory: two pages.
    """

    def __init__(self, first: Call, decode: Callable[[Any], T], following: Callable[[T], Call | None]) -> None:
        """`following` returns the call for the page after a page, None if there is none."""
        self._call: Call | None = first
        self._decode = decode
        self._following = following
        self._begun: Any = None

    @property
    def more(self) -> bool:
        """Whether there may be a page that was not read."""
        return self._call is not None

    def next(self) -> Flow[T]:
        """The next page.

        One round trip, which overlaps with the caller's work on the page before.
        """
        assert self._call is not None, "there is no more"
        page = self._decode((yield self._call) if self._begun is None else (yield Finish(self._begun)))
        self._call, self._begun = self._following(page), None
        if self._call is not None:
            self._begun = yield Begin(self._call)
        return page


def pages_of(keys: ThreadKeys, script: Script, after: bytes, most: int, most_bytes: int) -> Pages[LogPage]:
    """The pages of a thread's log after an entry (b"": from the start).

    The script is `READ_ENTRIES` or `SCAN_LOG`. A page has at most `most` entries, and ends early once it has `most_bytes`.
    """

    def following(page: LogPage) -> Call | None:
        return _page(keys, script, page.entries[-1][0], most, most_bytes) if page.entries and page.more else None

    return Pages(_page(keys, script, after, most, most_bytes), lambda reply: LogPage(*reply), following)


def read_entries(keys: ThreadKeys, after: bytes, most: int, most_bytes: int) -> Flow[LogPage]:
    """One page of a thread's log after an entry. One round trip."""
    return LogPage(*(yield _page(keys, READ_ENTRIES, after, most, most_bytes)))


def scan_log(keys: ThreadKeys, after: bytes, most: int = SCAN) -> Flow[LogPage]:
    """One page of a thread's log after an entry, values left out. One round trip."""
    return LogPage(*(yield _page(keys, SCAN_LOG, after, most, SCAN_BYTES)))


def _page(keys: ThreadKeys, script: Script, after: bytes, most: int, most_bytes: int) -> Call:
    return Call(script, [keys.log], [after, most, most_bytes])


def digest_at(keys: ThreadKeys, entry_id: bytes) -> Flow[bytes | None]:
    """The digest of an entry, None if the log does not have the entry. One round trip."""
    reply = yield Call(READ_DIGEST, [keys.log], [entry_id])
    return reply[0] if reply else None


def has_entry(keys: ThreadKeys, entry_id: bytes, digest: bytes) -> Flow[bool]:
    """Whether a log has an entry with this digest. One round trip."""
    return (yield from digest_at(keys, entry_id)) == digest


def entry_order(entry_id: bytes) -> tuple[int, int]:
    """The sort key of an entry id; anything else sorts before all entry ids."""
    ms, _, number = entry_id.partition(b"-")
    return (int(ms), int(number)) if ms.isdigit() and number.isdigit() and len(entry_id) < 42 else (0, 0)

"""What the feed knows of threads: the last number that it announced of each, and where that went back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from eventlog.feed.activity import foreign
from eventlog.feed.position import Offset
from eventlog.feed.reading import astray, ends_of
from eventlog.flow import Call, Flow, load_script
from eventlog.keys import Keyspace
from projections.log.pages import Pages

__all__ = ["Announced", "announced"]

ANNOUNCED = load_script("projections/integrity/feed_evidence")
PAGE = 2000
ORIGIN = "0-0"


class Announced(NamedTuple):
    """What the feed says last of a thread."""

    sequence: int
    entry_id: str
    """The entry with that number; "" where the thread has ended."""
    ended: str = ""
    """"deleted" or "expired" where that is its last word."""
    digest: str = ""
    """Of a deleted thread, the digest that its log ended with."""
    lasting: bool = False
    """Whether more than writes without a checkpoint was announced: such a log is dropped after a day."""
    ended_before: bool = False
    """Whether an earlier log of the thread has ended, or may have: in a part of the feed that was trimmed, or before the thread was
    imported.
    """
    behind: tuple[int, str] | None = None
    """Number and entry that the thread was announced with before a lower number was."""


class _FeedPage(NamedTuple):
    """A reply of `feed_evidence.lua`."""

    status: bytes
    """ok, or why the feed cannot be read from there: trimmed, lost."""
    pointers: Sequence[Sequence[bytes]] = ()
    """Of each its id, thread, entry id, number, kind and digest."""
    offset: Offset = Offset(ORIGIN, "")
    """The offset of the last pointer read."""
    more: bool = False

    @classmethod
    def decode(cls, reply: list[Any]) -> _FeedPage:
        if reply[0] != b"ok":
            return cls(reply[0])
        status, pointers, last, fingerprint, more = reply
        return cls(
            status,
            list(zip(*[iter(pointers)] * 6, strict=True)),
            Offset(last.decode(), fingerprint.decode()),
            bool(more),
        )


def announced(keyspace: Keyspace, threads: Sequence[str] | None = None) -> Flow[dict[str, Announced]]:
    """What the feed says last, by thread: of some threads, or of all that it knows.

    A round trip per 2,000 pointers of the partitions concerned; only reads. Of a feed that was trimmed, what is left counts.
    Memory: a few words a thread. Raises `CorruptEntry` for one of these that this project did not write.
    """
    found: dict[str, Announced] = {}
    wanted = None if threads is None else [thread.encode() for thread in threads]
    every = range(keyspace.partitions)
    numbers = list(every) if wanted is None else sorted({keyspace.partition_of(thread) for thread in wanted})
    ends = yield from ends_of(keyspace, numbers)
    for number, (first, _) in ends.items():
        yield from _told(keyspace, number, first, wanted or (), found)
    return found


def _told(
    keyspace: Keyspace, number: int, first: Offset, wanted: Sequence[bytes], found: dict[str, Announced]
) -> Flow[None]:
    """Notes what the feed of a partition says behind an entry."""
    keys = keyspace.partition(number)

    def call(offset: Offset) -> Call:
        return Call(ANNOUNCED, [keys.feed, keys.trimmed], [offset.id, offset.check, PAGE, *wanted])

    def following(page: _FeedPage) -> Call | None:
        return call(page.offset) if page.more else None

    offset, trimmed = first, first.id != ORIGIN
    pages = Pages(call(first), _FeedPage.decode, following)
    while pages.more:
        page = yield from pages.next()
        if page.status != b"ok":
            raise astray(page.status, number, offset)
        for own_id, name, *pointer in page.pointers:
            try:
                if not (name and pointer[2]):
                    raise ValueError("it names no thread, or no kind")
                thread = name.decode()
                found[thread] = _next(found.get(thread), *pointer, trimmed=trimmed)
            except ValueError as error:
                raise foreign(number, own_id, error) from error
        offset = page.offset


def _next(
    before: Announced | None, log_id: bytes, number: bytes, kind: bytes, digest: bytes, *, trimmed: bool
) -> Announced:
    entry_id, sequence = log_id.decode(), int(number)
    if not entry_id:
        return Announced(sequence, "", kind.decode(), digest.decode(), ended_before=True)
    lasting = kind != b"writes"
    if before is None:
        return Announced(sequence, entry_id, lasting=lasting, ended_before=trimmed or kind == b"imported")
    if before.ended or kind in (b"copied", b"imported"):  # which begin a thread
        return Announced(sequence, entry_id, lasting=lasting, ended_before=True)
    behind = before.behind
    if sequence <= before.sequence and (behind is None or before.sequence > behind[0]):
        behind = before.sequence, before.entry_id
    return Announced(
        sequence,
        entry_id,
        lasting=lasting or before.lasting,
        ended_before=trimmed or before.ended_before,
        behind=behind,
    )

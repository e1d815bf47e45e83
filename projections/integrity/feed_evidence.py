"""Reads what the feed knows of threads.

This is the last number that it announced of each thread, and whether it has announced a number twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from eventlog.errors import CorruptEntry
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
    """The feed's last word on a thread."""

    sequence: int
    entry_id: str
    """The entry with that number; "" if the thread has ended."""
    ended: str = ""
    """"deleted" or "expired" if that is the last word."""
    digest: str = ""
    """The digest that the log of a deleted thread ended with."""
    lasting: bool = False
    """Whether more than writes without a checkpoint was announced. A log of such writes is dropped after a day."""
    ended_before: bool = False
    """Whether an earlier log of the thread has ended, or may have: in a trimmed part of the feed, or before an import."""
    behind: tuple[int, str] | None = None
    """Number and entry that were announced before a lower number was."""
    pointer: str = ""
    """The id in the feed of the last pointer."""
    pointer_behind: str = ""
    """The id in the feed of the pointer that `behind` is from."""


class _FeedPage(NamedTuple):
    """A reply of `feed_evidence.lua`."""

    status: bytes
    """ok; trimmed or lost if the feed cannot be read after that offset."""
    pointers: Sequence[Sequence[bytes]] = ()
    """Id, thread, entry id, number, kind and digest of each pointer."""
    offset: Offset = Offset(ORIGIN, "")
    """The offset of the last pointer read."""
    more: bool = False

    @classmethod
    def decode(cls, reply: list[Any]) -> _FeedPage:
        if reply[0] != b"ok":
            return cls(reply[0])
        status, pointers, last, fingerprint, more = reply
        offset = Offset(last.decode(), fingerprint.decode())
        return cls(status, list(zip(*[iter(pointers)] * 6, strict=True)), offset, bool(more))


def announced(
    keyspace: Keyspace, threads: Sequence[str] | None = None, foreign_entries: list[CorruptEntry] | None = None
) -> Flow[dict[str, Announced]]:
    """The feed's last word on some threads, or on all that it knows.

    Of a feed that was trimmed, the rest counts. Only reads: a round trip per 2,000 pointers of the partitions concerned.
    Memory: a few words per thread. Raises `CorruptEntry` for a pointer of these threads that this package did not write. With a
    list of `foreign_entries`, it adds the error to it and goes on.
    """
    found: dict[str, Announced] = {}
    wanted = None if threads is None else [thread.encode() for thread in threads]
    every = range(keyspace.partitions)
    numbers = list(every) if wanted is None else sorted({keyspace.partition_of(thread) for thread in wanted})
    ends = yield from ends_of(keyspace, numbers)
    for number, (first, _) in ends.items():
        yield from _read_partition(keyspace, number, first, wanted or (), found=found, foreign_entries=foreign_entries)
    return found


def _read_partition(
    keyspace: Keyspace,
    number: int,
    first: Offset,
    wanted: Sequence[bytes],
    *,
    found: dict[str, Announced],
    foreign_entries: list[CorruptEntry] | None,
) -> Flow[None]:
    """Notes what a partition's feed says after an offset."""
    keys = keyspace.partition(number)

    def call(offset: Offset) -> Call:
        return Call(ANNOUNCED, [keys.feed, keys.trimmed], [offset.id, offset.fingerprint, PAGE, *wanted])

    offset, trimmed = first, first.id != ORIGIN
    pages = Pages(call(first), _FeedPage.decode, lambda page: call(page.offset) if page.more else None)
    while pages.more:
        page = yield from pages.next()
        if page.status != b"ok":
            raise astray(page.status, number, offset)
        for own_id, name, *pointer in page.pointers:
            try:
                if not (name and pointer[2]):
                    raise ValueError("it names no thread, or no kind")
                thread = name.decode()
                found[thread] = _next(found.get(thread), own_id, pointer, trimmed=trimmed)
            except ValueError as error:
                problem = foreign(number, own_id, error, keyspace.prefix)
                if foreign_entries is None:
                    raise problem from error
                foreign_entries.append(problem)
        offset = page.offset


def _next(before: Announced | None, own_id: bytes, parts: Sequence[bytes], *, trimmed: bool) -> Announced:
    """The last word on a thread after one more pointer."""
    log_id, number, kind, digest = parts
    entry_id, sequence, pointer = log_id.decode(), int(number), own_id.decode()
    if not entry_id:
        return Announced(sequence, "", kind.decode(), digest.decode(), ended_before=True, pointer=pointer)
    lasting = kind != b"writes"
    if before is None:
        ended_before = trimmed or kind == b"imported"
        return Announced(sequence, entry_id, lasting=lasting, ended_before=ended_before, pointer=pointer)
    if before.ended or kind in (b"copied", b"imported"):  # a log begins
        return Announced(sequence, entry_id, lasting=lasting, ended_before=True, pointer=pointer)
    behind, pointer_behind = before.behind, before.pointer_behind
    if sequence <= before.sequence and (behind is None or before.sequence > behind[0]):
        behind, pointer_behind = (before.sequence, before.entry_id), before.pointer
    return before._replace(
        sequence=sequence,
        entry_id=entry_id,
        lasting=lasting or before.lasting,
        ended_before=trimmed or before.ended_before,
        behind=behind,
        pointer=pointer,
        pointer_behind=pointer_behind,
    )

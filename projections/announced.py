"""What the feed knows of threads: the last number that it announced of each, and where that went back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eventlog.feed.activity import Activity, Filters, read_pointer
from eventlog.feed.reading import ends_of, read_on
from eventlog.flow import Flow
from eventlog.keys import Keyspace

__all__ = ["Announced", "announced"]

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


def announced(keyspace: Keyspace, threads: Sequence[str] | None = None) -> Flow[dict[str, Announced]]:
    """What the feed says last, by thread: of some threads, or of all that it knows.

    A round trip per 2,000 pointers of the partitions concerned; only reads. Of a feed that was trimmed, what is left counts.
    Memory: a few words a thread.
    """
    found: dict[str, Announced] = {}
    filters = Filters.of(threads=list(threads)) if threads is not None else Filters()
    numbers = (
        list(range(keyspace.partitions))
        if threads is None
        else sorted({keyspace.partition_of(thread.encode()) for thread in threads})
    )
    ends = yield from ends_of(keyspace, numbers)
    for number, (first, _) in ends.items():
        mark, trimmed, more = first, first.id != ORIGIN, True
        while more:
            page = yield from read_on(keyspace, number, mark, filters, PAGE)
            for entry_id, flat, _ in page.pointers:
                activity = read_pointer(number, entry_id, flat)
                found[activity.thread_id] = _next(found.get(activity.thread_id), activity, trimmed=trimmed)
            mark, more = page.mark, page.more
    return found


def _next(before: Announced | None, activity: Activity, *, trimmed: bool) -> Announced:
    sequence, entry_id, kind = activity.sequence, activity.event_id, activity.kind
    if not entry_id:
        return Announced(sequence, "", kind, activity.digest or "", ended_before=True)
    lasting = kind != "writes"
    if before is None:
        return Announced(sequence, entry_id, lasting=lasting, ended_before=trimmed or kind == "imported")
    if before.ended or kind in ("copied", "imported"):  # which begin a thread
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

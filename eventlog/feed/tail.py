"""Tails: the activity of all threads from a position on, at one reader's own pace.

Activity of one partition comes in the order in which it was committed. Partitions are merged by entry id as far as they
were read. Activity that comes while the reader is at the end is handed out as it comes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial
from heapq import merge
from typing import Any

from eventlog.errors import EventLogError
from eventlog.feed.activity import Activity, Filters, offset_of, read_pointer
from eventlog.feed.position import Offset, Position, id_order
from eventlog.feed.reading import Start, offsets_of, read_on, steadfast
from eventlog.feed.source import SUBJECT, UNUSED, FeedSource
from eventlog.flow import Emit, Flow, Pause, Wait
from eventlog.keys import Keyspace

__all__ = ["Tail"]


@dataclass(slots=True)
class _Stretch:
    """The part of a partition's feed that was read last."""

    offset: Offset
    """The last entry looked at."""
    pointers: list[Any] = field(default_factory=list)
    """Sort key, partition, entry id and fields of each pointer."""
    next: int = 0
    """The index of the pointer to be handed out next."""
    more: bool = True
    """Whether unread entries may follow."""

    def empty(self) -> bool:
        return self.next >= len(self.pointers)


class Tail:
    """Activities from a position on: a sync and an async iterator, one at a time.

    An iterator that is made later goes on after the last activity handed out.
    """

    def __init__(
        self, source: FeedSource, start: Start, filters: Filters, *, follow: bool, batch: int, patience: float
    ) -> None:
        self._source = source
        self._start: Start = start
        self._filters = filters
        self._follow = follow
        self._batch = batch
        self._patience = patience
        self._seen: dict[int, Offset | tuple[bytes, list[bytes]]] = {}
        """For each partition the last entry handed out or left out: its offset, or its id and fields."""

    @property
    def position(self) -> Position:
        """The position after the last activity handed out, empty before the first."""
        return Position({number: offset_of(seen) for number, seen in self._seen.items()})

    def __iter__(self) -> Iterator[Activity]:
        return self._source.runner.iterate(self._flow(), SUBJECT)

    def __aiter__(self) -> AsyncIterator[Activity]:
        return self._source.runner.aiterate(self._flow(), SUBJECT)

    def _flow(self) -> Flow[None]:
        """Emits the activities."""
        keyspace = yield from self._opened()
        if keyspace is None:
            return
        start = self.position if self._seen else self._start
        partitions = self._partitions(keyspace)
        offsets = yield from steadfast(lambda: offsets_of(keyspace, start, partitions), self._patience)
        stretches = {number: _Stretch(offset) for number, offset in offsets.items()}
        self._seen = dict(offsets)
        while True:
            yield from self._fill(keyspace, stretches)
            yield from self._hand_out(stretches)
            if not any(one.more for one in stretches.values()):
                if not self._follow:
                    return
                yield from self._wait(keyspace, stretches)

    def _opened(self) -> Flow[Keyspace | None]:
        while True:
            keyspace = yield from steadfast(self._source.opened, self._patience)
            if keyspace is not None or not self._follow:
                return keyspace
            if self._start == "now":
                self._start = "beginning"  # all activity comes after this moment
            yield Pause(UNUSED)

    def _partitions(self, keyspace: Keyspace) -> list[int]:
        if self._filters.threads:
            return sorted({keyspace.partition_of(thread.encode()) for thread in self._filters.threads})
        return list(range(keyspace.partitions))

    def _fill(self, keyspace: Keyspace, stretches: dict[int, _Stretch]) -> Flow[None]:
        """Reads on where everything read was handed out."""
        for number, one in stretches.items():
            if not one.more or not one.empty():
                continue
            reading = partial(read_on, keyspace, number, one.offset, self._filters, self._batch)
            page = yield from steadfast(reading, self._patience)
            one.pointers = [
                (id_order(entry_id.decode()), number, entry_id, flat) for entry_id, flat, _ in page.pointers
            ]
            one.next, one.offset, one.more = 0, page.offset, page.more
            if not page.pointers:
                self._seen[number] = page.offset

    def _hand_out(self, stretches: dict[int, _Stretch]) -> Flow[None]:
        """Emits the pointers that come before all unread ones, by entry id."""
        ends = [id_order(one.offset.id) for one in stretches.values() if one.more]
        limit = min(ends, default=None)
        ready = merge(*(one.pointers[one.next :] for one in stretches.values() if not one.empty()))
        for order, number, entry_id, flat in ready:
            if limit is not None and order > limit:
                break
            stretches[number].next += 1
            activity = read_pointer(number, entry_id, flat, loader=self._source, before=dict(self._seen))
            self._seen[number] = entry_id, flat  # an activity here would keep all that came before it in memory
            yield Emit(activity)
        for number, one in stretches.items():
            if one.empty():
                self._seen[number] = one.offset

    def _wait(self, keyspace: Keyspace, stretches: dict[int, _Stretch]) -> Flow[None]:
        """Waits a second at most until something comes.

        After a second without news all partitions are read, so that a lost position is noticed.
        """
        streams = [(keyspace.partition(number).feed, one.offset.id.encode()) for number, one in stretches.items()]
        numbers = {key: number for (key, _), number in zip(streams, stretches, strict=True)}
        try:
            news = yield Wait(streams, 1000)
        except EventLogError:  # the reads that follow raise it if it lasts
            news = []
            yield Pause(0.05)
        for number in [numbers[key] for key in news] or stretches:
            stretches[number].more = True

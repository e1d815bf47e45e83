"""Tailing the feed: all threads' activity from some position on, in one reader's own time.

Within a partition activity comes in the order it was committed. Across partitions it is merged by entry id as far as it is there
already; what arrives while a reader is at the end comes as it arrives.
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
from eventlog.feed.source import SUBJECT, FeedSource
from eventlog.flow import Emit, Flow, Pause, Wait
from eventlog.keys import Keyspace

__all__ = ["Tail"]

UNUSED = 0.25
"""Seconds between looks at a prefix that nothing was written to yet."""


class Tail:
    """Activities from a position on: an iterator in either colour, one at a time."""

    def __init__(
        self, source: FeedSource, start: Start, filters: Filters, *, follow: bool, batch: int, patience: float
    ) -> None:
        self._source = source
        self._reader = _Reader(source, start, filters, follow=follow, batch=batch, patience=patience)

    @property
    def position(self) -> Position:
        """Behind the last activity handed out; to start from next time. Empty until the first was asked for."""
        return self._reader.position

    def __iter__(self) -> Iterator[Activity]:
        return self._source.runner.iterate(self._reader.flow(), SUBJECT)

    def __aiter__(self) -> AsyncIterator[Activity]:
        return self._source.runner.aiterate(self._reader.flow(), SUBJECT)


@dataclass(slots=True)
class _Stretch:
    """What was read of a partition and not handed out yet."""

    offset: Offset
    pointers: list[Any] = field(default_factory=list)
    next: int = 0
    more: bool = True
    """Whether something may follow that was not read yet."""

    def empty(self) -> bool:
        return self.next >= len(self.pointers)


class _Reader:
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

    @property
    def position(self) -> Position:
        return Position({number: offset_of(seen) for number, seen in self._seen.items()})

    def flow(self) -> Flow[None]:
        """Emits activities. Begun again, it goes on from where it was."""
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
                self._start = "beginning"  # whatever comes first came after this began
            yield Pause(UNUSED)

    def _partitions(self, keyspace: Keyspace) -> list[int]:
        if self._filters.threads:
            return sorted({keyspace.partition_of(thread.encode()) for thread in self._filters.threads})
        return list(range(keyspace.partitions))

    def _fill(self, keyspace: Keyspace, stretches: dict[int, _Stretch]) -> Flow[None]:
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
        """Emits what was read, by entry id, as far as it is known that nothing unread comes before it."""
        ends = [id_order(one.offset.id) for one in stretches.values() if one.more]
        limit = min(ends, default=None)
        ready = merge(*(one.pointers[one.next :] for one in stretches.values() if not one.empty()))
        for order, number, entry_id, flat in ready:
            if limit is not None and order > limit:
                break
            one = stretches[number]
            one.next += 1
            activity = read_pointer(number, entry_id, flat, loader=self._source, before=dict(self._seen))
            self._seen[number] = entry_id, flat  # not the activity, which knows of those before it
            yield Emit(activity)
        for number, one in stretches.items():
            if one.empty():
                self._seen[number] = one.offset

    def _wait(self, keyspace: Keyspace, stretches: dict[int, _Stretch]) -> Flow[None]:
        """Until something came in, or a second is over, after which all are read again: so a position that was lost is noticed."""
        streams = [(keyspace.partition(number).feed, one.offset.id.encode()) for number, one in stretches.items()]
        numbers = {key: number for (key, _), number in zip(streams, stretches, strict=True)}
        try:
            news = yield Wait(streams, 1000)
        except EventLogError:  # what is wrong shows in the reads that follow
            news = []
            yield Pause(0.05)
        for number in [numbers[key] for key in news if key in numbers] or stretches:
            stretches[number].more = True

"""Which threads there are, those last active first, and how large each is. Everything here only reads."""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import NamedTuple

from eventlog.codec import paired
from eventlog.flow import Call, Emit, Flow, load_script
from eventlog.keys import Keyspace, PartitionKeys
from projections.registry.read import bent, names_of, told_by

__all__ = ["ThreadInfo", "list_threads"]

SIZES_OF = load_script("projections/registry/sizes_of")
MEMORY_OF = load_script("projections/registry/memory_of")
THREADS_PAGE = load_script("projections/registry/threads_page")
PAGES = (16, 64, 256)
"""Threads in the first, second and any later page of a partition."""
NAMES = 1000
"""Threads, or members of a view, that are looked at in one call."""
LATEST = 253_402_300_799_999
"""Ms since 1970 at the end of the year 9999."""


@dataclass(frozen=True, slots=True)
class ThreadInfo:
    """A thread, as a list of threads has it."""

    thread_id: str
    last_activity: datetime
    events: int
    checkpoints: int | None
    """None where the thread's order is missing; the next call on the thread makes it anew."""
    namespaces: tuple[str, ...]
    bytes: int | None
    """What log, index, order and heads take, as the server estimates it; None where the user may not ask."""
    expires: datetime | None


class _Known(NamedTuple):
    """A thread of a partition's registry, to be compared by: the last active first."""

    ms: int
    thread: bytes


def list_threads(
    keyspace: Keyspace,
    *,
    since: datetime | None = None,
    limit: int | None = None,
    ask_memory: bool = True,
    lost_too: bool = False,
) -> Flow[None]:
    """Emits a `ThreadInfo` for each thread that has a checkpoint and was active since a time, those last active first.

    Threads without a log, which have expired or are lost, are left out unless `lost_too`; without `ask_memory` none has its bytes.
    A thread that becomes active meanwhile comes as it was, or not again; none comes twice.
    Round trips: one per partition, then three per page of some threads of a partition; where a partition's registry is missing, one
    per 1000 pointers of its feed. Memory: a page of each partition; where a registry is missing, its threads.
    Raises `CorruptEntry` where a view holds what this project does not write.
    """
    if limit is not None and limit <= 0:
        return
    least = 0 if since is None else int(since.timestamp() * 1000)
    walks = [_Walk(keyspace.partition(number), least) for number in range(keyspace.partitions)]
    due: list[tuple[int, bytes, int]] = []
    for number, walk in enumerate(walks):
        yield from walk.fill()
        _push(due, number, walk)
    seen: set[bytes] = set()
    while due:
        batch: list[tuple[int, _Known]] = []
        while due and len(batch) < (PAGES[1] if limit is None else min(PAGES[1], limit)):
            _, _, number = heapq.heappop(due)
            walk = walks[number]
            known = walk.buffer.pop(0)
            if known.thread not in seen:
                seen.add(known.thread)
                batch.append((number, known))
            if not walk.buffer:
                yield from walk.fill()
            _push(due, number, walk)
        for info in (yield from _described(keyspace, batch, ask_memory=ask_memory, lost_too=lost_too)):
            yield Emit(info)
            if limit is not None:
                limit -= 1
                if not limit:
                    return


def _push(due: list[tuple[int, bytes, int]], number: int, walk: _Walk) -> None:
    if walk.buffer:
        heapq.heappush(due, (-walk.buffer[0].ms, walk.buffer[0].thread, number))


class _Walk:
    """Down the threads of one partition."""

    def __init__(self, keys: PartitionKeys, least: int) -> None:
        self.keys = keys
        self.least = least
        self.buffer: list[_Known] = []
        self.bound = "+inf"
        self.skip = 0
        """How many with the bound as their score were read already."""
        self.finished = False
        self.pages = 0

    def fill(self) -> Flow[None]:
        """Reads the next page into the empty buffer."""
        while not self.buffer and not self.finished:
            count = PAGES[min(self.pages, len(PAGES) - 1)]
            self.pages += 1
            whole, flat = yield Call(
                THREADS_PAGE, [self.keys.threads], [self.bound, b"%d" % self.least, self.skip, count]
            )
            if not whole and self.pages == 1:
                told = yield from told_by(self.keys)
                self.buffer = sorted(
                    (_Known(ms, thread) for thread, ms in told.threads.items() if ms >= self.least), reverse=True
                )
                self.finished = True
                return
            names = names_of(self.keys, flat[::2])
            times = [_ms(self.keys, score) for name, score in paired(flat).items() if name]
            found = [_Known(ms, name) for ms, name in zip(times, names, strict=True)]
            self.finished = len(flat) < 2 * count
            if flat:
                bound = flat[-1].decode()
                same = sum(1 for ms in flat[1::2] if ms.decode() == bound)
                self.skip = same + (self.skip if bound == self.bound else 0)
                self.bound = bound
            self.buffer = found


def _ms(keys: PartitionKeys, score: bytes) -> int:
    """The time that a score says. Raises `CorruptEntry` for one that is none."""
    if not 0 <= float(score) <= LATEST:
        raise bent(keys, f"the score {score.decode()}, which is no time")
    return int(float(score))


def _described(
    keyspace: Keyspace, batch: list[tuple[int, _Known]], *, ask_memory: bool, lost_too: bool
) -> Flow[list[ThreadInfo]]:
    """What is known of some threads, in their order; those that have no log any more are left out."""
    by_partition: dict[int, list[_Known]] = defaultdict(list)
    for number, known in batch:
        by_partition[number].append(known)
    found: dict[bytes, ThreadInfo] = {}
    for some in by_partition.values():
        all_keys = [keyspace.thread(known.thread) for known in some]
        sizes = yield Call(SIZES_OF, [key for keys in all_keys for key in (keys.log, keys.index, keys.order)], [])
        named = []
        for keys, (_, _, namespaces, _) in zip(all_keys, sizes, strict=True):
            named.append([keys.log, keys.index, keys.order, *(keys.head(namespace) for namespace in namespaces)])
        memory = iter((yield Call(MEMORY_OF, [key for keys in named for key in keys], [])) if ask_memory else ())
        for known, keys_of, (events, checkpoints, namespaces, left) in zip(some, named, sizes, strict=True):
            taken = [next(memory) for _ in keys_of] if ask_memory else [-1]
            if left == -2 and not lost_too:
                continue
            found[known.thread] = ThreadInfo(
                known.thread.decode(),
                _time(known.ms),
                events,
                None if checkpoints < 0 else checkpoints,
                tuple(sorted(namespace.decode() for namespace in namespaces)),
                None if -1 in taken else sum(taken),
                None if left < 0 else _time(int(datetime.now(timezone.utc).timestamp() * 1000) + left),
            )
    return [found[known.thread] for _, known in batch if known.thread in found]


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, timezone.utc)

"""Lists threads with their sizes, the last active first. Only reads."""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import NamedTuple

from eventlog.codec import paired
from eventlog.flow import Call, Emit, Flow, load_script
from eventlog.keys import Keyspace
from projections.registry.fold import fold_feed
from projections.registry.foreign import text_ids, thread_ids, time_in
from projections.registry.sizes import ThreadSize, memory_of, sizes_of

__all__ = ["ThreadInfo", "list_threads"]

THREADS_PAGE = load_script("projections/registry/threads_page")
PAGES = (16, 64, 256)
"""Threads in the first, second and any later page of a partition."""
AT_ONCE = 64
"""Most threads whose sizes are read before the first of them is emitted."""


@dataclass(frozen=True, slots=True)
class ThreadInfo:
    """A thread in a list of threads."""

    thread_id: str
    last_activity: datetime
    events: int
    checkpoints: int | None
    """None if the thread's order is missing or damaged. The next call on the thread rebuilds it."""
    namespaces: tuple[str, ...]
    bytes: int | None
    """Bytes of log, index, order and heads, as the server estimates them. None if the user lacks the right to ask."""
    expires: datetime | None


class _Active(NamedTuple):
    """A thread of a partition. It sorts before threads that were active earlier."""

    minus_ms: int
    thread: bytes
    partition: int


def list_threads(
    keyspace: Keyspace,
    *,
    since: datetime | None = None,
    limit: int | None = None,
    ask_memory: bool = True,
    lost_too: bool = False,
    lenient: bool = False,
) -> Flow[None]:
    """Emits a `ThreadInfo` for each thread with a checkpoint, the last active first.

    Args:
        keyspace: the keys of the prefix.
        since: leave out threads that were last active before this time.
        limit: the most threads to emit.
        ask_memory: whether `bytes` is read.
        lost_too: whether threads without a log, which expired or are lost, are emitted, too.
        lenient: whether entries of a feed that are no pointers are left out where a registry is missing. Else they raise
            `CorruptEntry`.

    No thread is emitted twice. A thread that becomes active meanwhile is emitted as it was before, or not at all.
    Round trips: one per partition, then three per page of threads of a partition; where a partition's registry is missing, one
    per 1000 pointers of its feed. Memory: a page of each partition; where a registry is missing, its threads.
    Members of a view that are no threads, and threads with ids above the limit, are left out, with a warning.

    """
    if limit is not None and limit <= 0:
        return
    least = 0 if since is None else int(since.timestamp() * 1000)
    walks = [_Walk(keyspace, number, least, lenient=lenient) for number in range(keyspace.partitions)]
    due: list[_Active] = []
    for walk in walks:
        yield from walk.push_next(due)
    seen: set[bytes] = set()
    while due:
        batch: list[_Active] = []
        while due and len(batch) < (AT_ONCE if limit is None else min(AT_ONCE, limit)):
            active = heapq.heappop(due)
            if active.thread not in seen:
                seen.add(active.thread)
                batch.append(active)
            yield from walks[active.partition].push_next(due)
        for info in (yield from _described(keyspace, batch, ask_memory=ask_memory, lost_too=lost_too)):
            yield Emit(info)
            if limit is not None:
                limit -= 1
                if not limit:
                    return


class _ThreadsPage(NamedTuple):
    """The reply of `threads_page.lua`."""

    is_whole: int
    flat: list[bytes]
    """Members and scores in turn."""


class _Walk:
    """Walks the threads of one partition, the last active first."""

    def __init__(self, keyspace: Keyspace, number: int, least: int, *, lenient: bool) -> None:
        self._keys = keyspace.partition(number)
        self._limits = keyspace.limits
        self._number = number
        self._least = least
        self._lenient = lenient
        self._buffer: deque[_Active] = deque()
        self._bound = "+inf"
        self._skip = 0
        """Number of members with the bound as score that were read."""
        self._finished = False
        self._pages = 0

    def push_next(self, due: list[_Active]) -> Flow[None]:
        """Adds the next thread to a heap, if there is one.

        One round trip per page of threads.
        """
        while not self._buffer and not self._finished:
            yield from self._read()
        if self._buffer:
            heapq.heappush(due, self._buffer.popleft())

    def _read(self) -> Flow[None]:
        keys, count = self._keys, PAGES[min(self._pages, len(PAGES) - 1)]
        self._pages += 1
        page = _ThreadsPage(
            *(yield Call(THREADS_PAGE, [keys.threads], [self._bound, self._least or b"-inf", self._skip, count]))
        )
        if not page.is_whole and self._pages == 1:
            fold = yield from fold_feed(keys, lenient=self._lenient)
            threads = text_ids(keys.feed, fold.threads, self._limits)
            active = [
                _Active(-ms, thread, self._number) for thread in threads if (ms := fold.threads[thread]) >= self._least
            ]
            self._buffer.extend(sorted(active))
            self._finished = True
            return
        for member, score in paired(page.flat).items():
            for thread in thread_ids(keys.threads, [member], self._limits):
                self._buffer.append(_Active(-time_in(keys.threads, member, score), thread, self._number))
        self._finished = len(page.flat) < 2 * count
        if page.flat:
            bound = page.flat[-1].decode()
            same = page.flat[1::2].count(page.flat[-1])
            self._skip = same + (self._skip if bound == self._bound else 0)
            self._bound = bound


def _described(
    keyspace: Keyspace, batch: Sequence[_Active], *, ask_memory: bool, lost_too: bool
) -> Flow[list[ThreadInfo]]:
    """Describes threads, in their order.

    Threads without a log are left out unless `lost_too`.
    """
    by_partition: dict[int, list[_Active]] = defaultdict(list)
    for active in batch:
        by_partition[active.partition].append(active)
    found: dict[bytes, ThreadInfo] = {}
    for some in by_partition.values():
        all_keys = [keyspace.thread(active.thread) for active in some]
        sizes = yield from sizes_of(all_keys)
        memory = (yield from memory_of([*zip(all_keys, sizes, strict=True)])) if ask_memory else [None] * len(sizes)
        for active, size, used in zip(some, sizes, memory, strict=True):
            if size.ms_left != -2 or lost_too:
                found[active.thread] = _info(active, size, used)
    return [found[active.thread] for active in batch if active.thread in found]


def _info(active: _Active, size: ThreadSize, used: int | None) -> ThreadInfo:
    return ThreadInfo(
        active.thread.decode(),
        _time(-active.minus_ms),
        size.events,
        None if size.checkpoints < 0 else size.checkpoints,
        tuple(sorted(namespace.decode() for namespace in size.namespaces)),
        used,
        None if size.ms_left < 0 else _time(int(datetime.now(timezone.utc).timestamp() * 1000) + size.ms_left),
    )


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, timezone.utc)

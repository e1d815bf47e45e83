"""Reading many checkpoints: lists, newest first by checkpoint id, and the ancestors of one.

A list is read lazily, in pages that grow. Over one namespace that is a walk down its order. Over several, of one thread or of
all, the walks are merged: each is begun when its newest checkpoint is the next one due.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eventlog.codec import Malformed
from eventlog.flow import Argument, Call, Emit, Flow, load_script
from eventlog.framing import ordered
from eventlog.keys import Keyspace, ThreadKeys, checkpoint_sort_key, split_sort_key
from projections.checkpoints.read import damaged, decode_view
from projections.integrity.signed_reads import check_bare, check_views
from projections.log.index import call, check_log, rebuild_index
from projections.values.pieces import Pieces
from projections.values.stored import StoredCheckpoint, View, decode_envelope

__all__ = ["Selection", "list_checkpoints"]

READ_PAGE = load_script("projections/checkpoints/read_page")
NEWEST = load_script("projections/checkpoints/newest")

PAGES = (8, 32, 128)
"""Checkpoints in the first, second and any later page of a walk that no limit bounds."""
FIRST_BARE_PAGE, BARE_PAGE = 32, 512
"""The same, of envelopes, which a filter looks through: the first page where there is a limit, and any other."""
PAGE_BYTES = 4 * 1024 * 1024
"""Bytes after which a page ends early."""
THREADS = 500
"""Threads whose newest checkpoints are looked up in one call."""


Matches = Callable[[str, str, Mapping[str, Any]], bool]
"""Whether a checkpoint is wanted, given its thread, id and body."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which checkpoints a list is to have."""

    namespace: str | None = None
    """None: all namespaces."""
    checkpoint_id: str | None = None
    before: str | None = None
    """Only ids below this one, whether or not it exists."""
    matches: Matches | None = None
    """Given a thread, a checkpoint's id and its body. Values and writes are read only of what matches."""
    limit: int | None = None


def list_checkpoints(
    keyspace: Keyspace, threads: Iterable[bytes], selection: Selection, present: Callable[[str, StoredCheckpoint], Any]
) -> Flow[None]:
    """Emits what `present` makes of a thread and its checkpoint, of the selected checkpoints of some threads, newest first by
    checkpoint id over all of them.

    Round trips: one for each 500 threads of a partition where namespaces or threads are several, then one per page of each
    (thread, namespace) that something comes from, and one more per page where there is a filter.
    Memory: a page of each walk that is under way. Raises as `projections.log.index.call`.
    """
    if selection.limit is not None and selection.limit <= 0:
        return
    left = selection.limit
    walks = yield from _begin(keyspace, list(threads), selection)
    heapq.heapify(walks)
    while walks:
        walk = walks[0]
        if walk.buffer:
            found = walk.buffer.popleft()
            walk.bound = walk.buffer[0].checkpoint_id if walk.buffer else walk.scanned or walk.bound
            yield Emit(present(walk.keys.thread.decode(), found.decode()))
            if left is not None:
                left -= 1
                if not left:
                    return
        elif not walk.finished:
            yield from walk.fill(left)
        if walk.buffer or not walk.finished:
            heapq.heapreplace(walks, walk)
        else:
            heapq.heappop(walks)


@dataclass(frozen=True, slots=True)
class _Found:
    """A checkpoint as a page has it. Its values are put together when it is its turn: they may be far longer than their pieces."""

    keys: ThreadKeys
    view: View
    pieces: Pieces
    checkpoint_id: str
    namespace: str

    def decode(self) -> StoredCheckpoint:
        """The checkpoint. Raises `CorruptEntry`."""
        return decode_view(self.keys, self.view, self.pieces)


def _found(keys: ThreadKeys, views: Sequence[View], pieces: Pieces) -> list[_Found]:
    places = (split_sort_key(view[5]) for view in views)
    return [
        _Found(keys, view, pieces, checkpoint_id, namespace)
        for view, (namespace, checkpoint_id, _) in zip(views, places, strict=True)
    ]


class _Walk:
    """Down the checkpoints of one namespace of one thread."""

    def __init__(self, keys: ThreadKeys, namespace: str, selection: Selection, bound: str = "\U0010ffff") -> None:
        self.keys = keys
        self.namespace = namespace
        self.selection = selection
        self.bound: str = bound
        """Nothing that is still to come has a greater checkpoint id."""
        self.scanned = selection.before
        """Checkpoint id that the next page begins below, None for the newest."""
        self.buffer: deque[_Found] = deque()
        self.finished = False
        self.pages = 0

    def __lt__(self, other: _Walk) -> bool:
        """Whether this walk is due before the other. Between equal ids, threads and namespaces decide."""
        mine = (self.bound, self.keys.thread, self.namespace)
        return mine > (other.bound, other.keys.thread, other.namespace)

    def fill(self, left: int | None) -> Flow[None]:
        """Reads the next page into the buffer. `left`: how many are wanted at most."""
        self.pages += 1
        if self.selection.matches is None:
            yield from self._fill_all(left)
        else:
            yield from self._fill_matching(self.selection.matches, left)
        if self.buffer:
            self.bound = self.buffer[0].checkpoint_id
        elif self.scanned is not None:
            self.bound = self.scanned

    def _page(self, *, full: bool, most: int) -> Flow[tuple[list[View], Pieces]]:
        below = b"" if self.scanned is None else ordered(self.scanned.encode())
        place = ordered(self.namespace.encode())
        arguments: list[Argument] = [int(full), PAGE_BYTES, place, below, most]
        _, views, flat, versions, more = yield from call(self.keys, READ_PAGE, arguments)
        pieces = Pieces(flat, versions)
        yield from check_views(self.keys, views, pieces) if full else check_bare(self.keys, views)
        self.finished = not more
        if views:
            self.scanned = split_sort_key(views[-1][-1])[1]
        return views, pieces

    def _fill_all(self, left: int | None) -> Flow[None]:
        most = PAGES[min(self.pages, len(PAGES)) - 1] if left is None else min(left, PAGES[-1])
        views, pieces = yield from self._page(full=True, most=most)
        self.buffer.extend(_found(self.keys, views, pieces))

    def _fill_matching(self, matches: Matches, left: int | None) -> Flow[None]:
        most = BARE_PAGE if left is None or self.pages > 1 else FIRST_BARE_PAGE
        views, _ = yield from self._page(full=False, most=most)
        thread = self.keys.thread.decode()
        places = []
        for envelope, place in views:
            try:
                _, checkpoint_id, body = decode_envelope(envelope)
            except (Malformed, ValueError) as error:
                raise damaged(self.keys, error, place) from error
            if matches(thread, checkpoint_id, body):
                places.append(bare_place(place))
        yield from _read_places(self.keys, places[:left], self.buffer)


def _read_places(keys: ThreadKeys, places: Sequence[bytes], into: deque[_Found]) -> Flow[None]:
    """Reads the checkpoints at some places whole; those that are gone by now are left out."""
    wanted = list(places)
    while wanted:
        _, views, flat, versions, _ = yield from call(keys, READ_PAGE, [1, PAGE_BYTES, b"*", *wanted])
        pieces = Pieces(flat, versions)
        yield from check_views(keys, views, pieces)
        into.extend(_found(keys, views, pieces))
        if not views:
            return
        wanted = wanted[wanted.index(bare_place(views[-1][5])) + 1 :]


def _begin(keyspace: Keyspace, threads: Sequence[bytes], selection: Selection) -> Flow[list[_Walk]]:
    """The walks that a list is merged from."""
    all_keys = [keyspace.thread(thread) for thread in threads]
    if len(all_keys) == 1 and selection.namespace is not None:
        newest = {all_keys[0].thread: {selection.namespace: "\U0010ffff"}}
    else:
        newest = yield from _newest(keyspace, all_keys)
    walks = []
    for keys in all_keys:
        for namespace, checkpoint_id in newest.get(keys.thread, {}).items():
            if selection.namespace not in (None, namespace):
                continue
            walks.append(_Walk(keys, namespace, selection, checkpoint_id))
    if selection.checkpoint_id is None:
        return walks
    return (yield from _only(walks, selection))


def _only(walks: Sequence[_Walk], selection: Selection) -> Flow[list[_Walk]]:
    """Walks that consist of one checkpoint id each, where it is there and selected. One round trip per thread."""
    checkpoint_id = selection.checkpoint_id or ""
    if selection.before is not None and checkpoint_id >= selection.before:
        return []
    by_thread: dict[bytes, dict[str, _Walk]] = {}
    for walk in walks:
        walk.finished, walk.bound = True, checkpoint_id
        by_thread.setdefault(walk.keys.thread, {})[walk.namespace] = walk
    for thread, namespaces in by_thread.items():
        found: deque[_Found] = deque()
        places = [checkpoint_sort_key(namespace.encode(), checkpoint_id.encode()) for namespace in namespaces]
        yield from _read_places(next(iter(namespaces.values())).keys, places, found)
        for one in found:
            if selection.matches is None or selection.matches(thread.decode(), one.checkpoint_id, one.decode().body):
                namespaces[one.namespace].buffer.append(one)
    return [walk for walk in walks if walk.buffer]


def _newest(keyspace: Keyspace, all_keys: Sequence[ThreadKeys]) -> Flow[dict[bytes, dict[str, str]]]:
    """The newest checkpoint id of every namespace of some threads."""
    partitions: dict[int, list[ThreadKeys]] = {}
    for keys in all_keys:
        partitions.setdefault(keyspace.partition_of(keys.thread), []).append(keys)
    newest = {}
    for group in partitions.values():
        for first in range(0, len(group), THREADS):
            some = group[first : first + THREADS]
            replies = yield Call(NEWEST, [key for keys in some for key in (keys.order, keys.log)], [])
            for keys, members in zip(some, replies, strict=True):
                found = members
                if members == 0:
                    yield from rebuild_index(keys)
                    (found,) = yield Call(NEWEST, [keys.order, keys.log], [])
                if not found:
                    yield from check_log(keys)
                places = (split_sort_key(member[1:]) for member in found or ())
                newest[keys.thread] = {namespace: checkpoint_id for namespace, checkpoint_id, _ in places}
    return newest


def bare_place(place: bytes) -> bytes:
    """A checkpoint's place without an entry id behind it."""
    namespace, checkpoint_id, _ = split_sort_key(place)
    return checkpoint_sort_key(namespace.encode(), checkpoint_id.encode())

"""List checkpoints, newest first by checkpoint id.

A list is read lazily, in pages that grow. One namespace is a walk down its order. The walks of several namespaces, of one thread
or of all, are merged: a walk begins when its newest checkpoint is the next one due. Where there is a limit and no filter, only as
many namespaces as the limit are remembered, those with the newest checkpoints, and the server leaves out the others.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from eventlog.codec import Malformed
from eventlog.errors import CorruptEntry, ServerFailedCommand, is_of_contents
from eventlog.flow import Argument, Emit, Flow, load_script
from eventlog.framing import ordered
from eventlog.keys import Keyspace, ThreadKeys, checkpoint_sort_key
from projections.checkpoints.read import damaged, decode_view, malformed
from projections.checkpoints.waiting import with_all_writes
from projections.integrity.signed_reads import check_bare, check_views, until_steady
from projections.log.index import call, check_log, mend, rebuild_index
from projections.log.namespaces import walk_newest
from projections.values.pieces import Pieces
from projections.values.stored import StoredCheckpoint, View, decode_envelope

__all__ = ["PAGE_BYTES", "Selection", "list_checkpoints"]

READ_PAGE = load_script("projections/checkpoints/read_page")

PAGES = (8, 32, 128)
"""Checkpoints in the first, second and any later page of a walk without a limit."""
FIRST_BARE_PAGE, BARE_PAGE = 32, 512
"""Envelopes that a filter looks through in a page: in the first one where there is a limit, and in any other."""
PAGE_BYTES = 4 * 1024 * 1024
"""Bytes after which a page ends early."""
NAMED = 500
"""Checkpoints that are named in one call."""
HIGHEST = "\U0010ffff"
"""An id that no checkpoint id is greater than."""


Matches = Callable[[str, str, Mapping[str, Any]], bool]
"""Whether a checkpoint is wanted, given its thread, id and body."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The checkpoints that a list consists of."""

    namespace: str | None = None
    """None: all namespaces."""
    checkpoint_id: str | None = None
    before: str | None = None
    """Only ids below this one, whether or not it exists."""
    matches: Matches | None = None
    """A filter. Values and writes are read only of the checkpoints that it accepts."""
    limit: int | None = None


def list_checkpoints(
    keyspace: Keyspace, threads: Iterable[bytes], selection: Selection, present: Callable[[str, StoredCheckpoint], Any]
) -> Flow[None]:
    """Emit `present(thread, checkpoint)` for each selected checkpoint, newest first.

    Newest first means by checkpoint id, over all of the threads.
    Round trips: with several threads or namespaces, one for each 500 threads or 1,000 namespaces of a partition. Then one
    per page of each (thread, namespace) that contributes, two with a filter. Memory: a page of each walk that has begun, and some
    hundred bytes for each namespace, or for as many as the limit if there is no filter.
    Raises as `projections.log.index.call`.
    """
    left = selection.limit
    if left is not None and left <= 0:
        return
    all_keys = [keyspace.thread(thread) for thread in threads]
    last_id, passed = "", set[tuple[bytes, str]]()  # the last id, and the threads and namespaces that had it
    more = True
    while more:  # again if checkpoints were deleted after the search for them
        walks, more = yield from _walks(keyspace, all_keys, selection)
        heapq.heapify(walks)
        while walks:
            walk = walks[0]
            if walk.buffer:
                found, name = walk.take(), (walk.keys.thread, walk.namespace)
                if found.checkpoint_id != last_id:
                    last_id, passed = found.checkpoint_id, set()
                if name not in passed:
                    passed.add(name)
                    yield Emit(present(walk.keys.thread.decode(), found.decode()))
                    if left is not None:
                        left -= 1
                        if not left:
                            return
                        if more:  # others may have this id, too
                            selection = replace(selection, before=last_id + "\0", limit=left + len(passed))
            elif not walk.finished:
                yield from walk.fill(left)
            if walk.buffer or not walk.finished:
                heapq.heapreplace(walks, walk)
            else:
                heapq.heappop(walks)


class _Found(NamedTuple):
    """A checkpoint in a page, not decoded yet.

    It is decoded when it is due, since values may be far longer than their pieces.
    """

    keys: ThreadKeys
    view: View
    pieces: Pieces
    namespace: str
    checkpoint_id: str

    @property
    def sort_key(self) -> bytes:
        """Namespace and checkpoint id in the form that sorts."""
        return checkpoint_sort_key(self.namespace.encode(), self.checkpoint_id.encode())

    def decode(self) -> StoredCheckpoint:
        """The checkpoint. Raises `CorruptEntry`."""
        return decode_view(self.keys, self.view, self.pieces)


class _Bare(NamedTuple):
    """The envelope of a checkpoint in a page."""

    envelope: bytes
    sort_key: bytes
    """With the entry id at its end."""


class _Walk:
    """The way down the checkpoints of one namespace of one thread."""

    __slots__ = ("_below", "_pages", "bound", "buffer", "finished", "keys", "namespace", "selection")

    def __init__(self, keys: ThreadKeys, namespace: str, selection: Selection, bound: str) -> None:
        self.keys = keys
        self.namespace = namespace
        self.selection = selection
        self.bound = bound
        """No checkpoint that is still to come has a greater id."""
        self.buffer: list[_Found] = []
        """Checkpoints that were read, the next one last."""
        self.finished = False
        self._below = selection.before
        """The id that the next page begins below, None for the newest."""
        self._pages = 0

    def __lt__(self, other: _Walk) -> bool:
        """Whether this walk is due before the other.

        Threads and namespaces decide between equal ids.
        """
        mine = (self.bound, self.keys.thread, self.namespace)
        return mine > (other.bound, other.keys.thread, other.namespace)

    def take(self) -> _Found:
        """Take the next checkpoint out of the buffer."""
        found = self.buffer.pop()
        self._lower_bound()
        return found

    def fill(self, left: int | None) -> Flow[None]:
        """Read the next page into the buffer. At most `left` checkpoints are wanted."""
        self._pages += 1
        if self.selection.matches is None:
            yield from self._fill_all(left)
        else:
            yield from self._fill_matching(self.selection.matches, left)
        self._lower_bound()

    def _lower_bound(self) -> None:
        self.bound = self.buffer[-1].checkpoint_id if self.buffer else self._below or self.bound

    def _fill_all(self, left: int | None) -> Flow[None]:
        most = PAGES[min(self._pages, len(PAGES)) - 1] if left is None else min(left, PAGES[-1])
        found, more = yield from _read_whole(self.keys, self._page(most))
        self._passed(found[-1].view.sort_key if found else None, more)
        self.buffer = found[::-1]

    def _fill_matching(self, matches: Matches, left: int | None) -> Flow[None]:
        most = BARE_PAGE if left is None or self._pages > 1 else FIRST_BARE_PAGE
        bare, more = yield from _read_bare(self.keys, self._page(most))
        self._passed(bare[-1].sort_key if bare else None, more)
        wanted = list(_matching(self.keys, bare, matches))
        self.buffer = (yield from _read_named(self.keys, wanted[:left]))[::-1]

    def _page(self, most: int) -> list[Argument]:
        below = b"" if self._below is None else ordered(self._below.encode())
        return [ordered(self.namespace.encode()), below, most]

    def _passed(self, last: bytes | None, more: int) -> None:
        self.finished = not more
        if last is not None:
            self._below = self.keys.split_sort_key(last)[1]


def _matching(keys: ThreadKeys, bare: Iterable[_Bare], matches: Matches) -> Iterator[bytes]:
    """The sort keys of the checkpoints that a filter accepts, without entry ids.

    Raises `CorruptEntry`.
    """
    thread = keys.thread.decode()
    for envelope, sort_key in bare:
        namespace, checkpoint_id, entry_id = keys.split_sort_key(sort_key)
        try:
            _, named_id, body = decode_envelope(envelope)
        except (Malformed, ValueError) as error:
            raise damaged(keys, error, entry_id) from error
        if matches(thread, named_id, body):
            yield checkpoint_sort_key(namespace.encode(), checkpoint_id.encode())


def _read_whole(keys: ThreadKeys, arguments: Sequence[Argument]) -> Flow[tuple[list[_Found], int]]:
    """A page of whole checkpoints, and whether there may be more."""

    def read() -> Flow[tuple[list[_Found], int]]:
        page = partial(_read_page, keys, [1, PAGE_BYTES, *arguments])
        _, replied, flat, versions, more = yield from with_all_writes(keys, page, _writes_in_page)
        views, pieces = [View(*one) for one in replied], Pieces(flat, versions, keys.limits)
        yield from check_views(keys, views, pieces)
        return [_Found(keys, view, pieces, *keys.split_sort_key(view.sort_key)[:2]) for view in views], more

    return (yield from (read() if keys.signer is None else until_steady(keys, read)))


def _writes_in_page(reply: list[Any]) -> list[list[list[bytes]]]:
    return [view[4] for view in reply[1]]


def _read_page(keys: ThreadKeys, arguments: Sequence[Argument]) -> Flow[list[Any]]:
    """The reply of `read_page.lua`; the order is rebuilt if it names something that is no checkpoint."""
    reply = yield from call(keys, READ_PAGE, arguments)
    error = malformed(keys, (one[-1] for one in reply[1]))
    if error is not None:
        yield from mend(keys, error)
        reply = yield from call(keys, READ_PAGE, arguments)
    return reply


def _read_bare(keys: ThreadKeys, arguments: Sequence[Argument]) -> Flow[tuple[list[_Bare], int]]:
    """A page of envelopes, and whether there may be more."""

    def read() -> Flow[tuple[list[_Bare], int]]:
        _, replied, _, _, more = yield from _read_page(keys, [0, PAGE_BYTES, *arguments])
        bare = [_Bare(*one) for one in replied]
        yield from check_bare(keys, bare)
        return bare, more

    return (yield from (read() if keys.signer is None else until_steady(keys, read)))


def _read_named(keys: ThreadKeys, sort_keys: Sequence[bytes]) -> Flow[list[_Found]]:
    """The checkpoints at some sort keys, in this order, as far as they still exist."""
    found: list[_Found] = []
    left = list(sort_keys)
    while left:
        some = left[:NAMED]
        page, more = yield from _read_whole(keys, [b"*", *some])
        found += page
        left = left[some.index(page[-1].sort_key) + 1 if page and more else len(some) :]
    return found


def _walks(keyspace: Keyspace, all_keys: Sequence[ThreadKeys], selection: Selection) -> Flow[tuple[list[_Walk], bool]]:
    """The walks that a list is merged from, and whether others were left out that could not contribute.

    Those may contribute once the checkpoints of the walks are deleted.
    """
    if len(all_keys) == 1 and selection.namespace is not None:
        walks = [_Walk(all_keys[0], selection.namespace, selection, HIGHEST)]
        is_cut = False
    else:
        search = _Search(selection)
        partitions: dict[int, list[ThreadKeys]] = {}
        for keys in all_keys:
            partitions.setdefault(keyspace.partition_of(keys.thread), []).append(keys)
        for group in partitions.values():
            yield from search.look_through(group)
        walks, is_cut = search.walks(), search.is_full
    if selection.checkpoint_id is None:
        return walks, is_cut
    return (yield from _only(walks, selection.checkpoint_id, selection)), False


def _only(walks: Sequence[_Walk], checkpoint_id: str, selection: Selection) -> Flow[list[_Walk]]:
    """The walks reduced to one checkpoint id, where it exists and is selected.

    Takes one round trip per thread.
    """
    if selection.before is not None and checkpoint_id >= selection.before:
        return []
    by_thread: dict[bytes, dict[str, _Walk]] = {}
    for walk in walks:
        walk.finished, walk.bound = True, checkpoint_id
        by_thread.setdefault(walk.keys.thread, {})[walk.namespace] = walk
    for thread, namespaces in by_thread.items():
        keys = next(iter(namespaces.values())).keys
        sort_keys = [checkpoint_sort_key(namespace.encode(), checkpoint_id.encode()) for namespace in namespaces]
        for found in (yield from _read_named(keys, sort_keys)):
            if selection.matches is None or selection.matches(thread.decode(), checkpoint_id, found.decode().body):
                namespaces[found.namespace].buffer.append(found)
    return [walk for walk in walks if walk.buffer]


class _Search:
    """Finds the newest selected checkpoint of each namespace of some threads.

    Where there is a limit and no filter, no more namespaces than the limit can contribute: those with the newest checkpoints.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        is_bounded = selection.matches is None and selection.checkpoint_id is None
        self._most = selection.limit if is_bounded else None
        self._found: list[tuple[str, bytes, str, ThreadKeys]] = []
        """Checkpoint id, thread and namespace: a heap with the least one first if their number is bounded."""

    @property
    def is_full(self) -> bool:
        """Whether there may be more namespaces than can contribute."""
        return len(self._found) == self._most

    def walks(self) -> list[_Walk]:
        """The walks of the namespaces that were found."""
        return [
            _Walk(keys, namespace, self._selection, checkpoint_id) for checkpoint_id, _, namespace, keys in self._found
        ]

    def look_through(self, group: Sequence[ThreadKeys]) -> Flow[None]:
        """Adds the namespaces of some threads of one partition. Round trips as `walk_newest`."""
        left = deque(group)
        odd: list[ThreadKeys] = []
        empty: list[ThreadKeys] = []

        def take(members: list[bytes] | None) -> None:
            keys = left.popleft()
            if members is None or self._add(keys, members) is not None:
                odd.append(keys)
            elif not members:
                empty.append(keys)

        try:
            yield from walk_newest(group, self._selection.namespace, self._range, take)
        except (ServerFailedCommand, CorruptEntry):
            odd += left
        for keys in empty:
            yield from check_log(keys)
        for keys in odd:
            yield from self._look_closely(keys)

    def _range(self) -> tuple[bytes, bytes]:
        """The range of checkpoint ids that can contribute."""
        selection = self._selection
        if selection.checkpoint_id is not None:
            only = ordered(selection.checkpoint_id.encode())
            return only, only + b"\xff"
        least = ordered(self._found[0][0].encode()) if self.is_full else b""
        return least, b"" if selection.before is None else ordered(selection.before.encode())

    def _add(self, keys: ThreadKeys, members: Iterable[bytes]) -> CorruptEntry | None:
        """Adds what a result of `walk_newest` names, or nothing if it names something that is no checkpoint: returns the error."""
        try:
            named = [keys.split_sort_key(member[1:]) for member in members if member]
        except CorruptEntry as error:
            return error
        for namespace, checkpoint_id, _ in named:
            found = (checkpoint_id, keys.thread, namespace, keys)
            if self._most is None:
                self._found.append(found)
            elif not self.is_full:
                heapq.heappush(self._found, found)
            else:
                heapq.heappushpop(self._found, found)
        return None

    def _look_closely(self, keys: ThreadKeys) -> Flow[None]:
        """Adds the namespaces of a thread whose order may have to be rebuilt.

        Raises the error of a thread whose order is no view, with the thread's name.
        """
        members = None
        try:
            members = yield from self._newest_of(keys)
        except (ServerFailedCommand, CorruptEntry) as error:
            if not is_of_contents(error):
                raise type(error)(f"Thread {keys.thread.decode()!r}, key {keys.order.decode()!r}: {error}") from error
        problem = None if members is None else self._add(keys, members)
        if members is None or problem is not None:
            yield from (rebuild_index(keys) if problem is None else mend(keys, problem))
            members = yield from self._newest_of(keys)
            problem = self._add(keys, members or ())
            if problem is not None:
                raise problem
        if not members:
            yield from check_log(keys)

    def _newest_of(self, keys: ThreadKeys) -> Flow[list[bytes] | None]:
        found: list[list[bytes] | None] = []
        yield from walk_newest([keys], self._selection.namespace, self._range, found.append)
        return found[0]

"""Walks the namespaces of threads in steps, so that no call occupies the server for long."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from eventlog.flow import Argument, Call, Flow, Script, load_script
from eventlog.framing import ordered
from eventlog.keys import ThreadKeys

__all__ = ["namespaces_in", "newest_of", "parts_of", "stretches", "walk_newest"]

NEWEST = load_script("projections/log/newest")
NAMESPACES = 1000
"""Most namespaces that one call looks at."""
THREADS = 500
"""Most threads in one call."""
KEY_BYTES = 2**20
"""Most bytes in the keys of one call, unless a single thread has more."""


def parts_of(script: Script, keys: Sequence[Sequence[bytes]]) -> Flow[list[list[Any]]]:
    """The replies of a script for threads of one partition, as `walk_threads` passes them on."""
    found: list[list[Any]] = []
    yield from walk_threads(script, keys, tuple, found.append)
    return found


def walk_threads(
    script: Script,
    keys: Sequence[Sequence[bytes]],
    arguments: Callable[[], Sequence[Argument]],
    take: Callable[[list[Any]], None],
) -> Flow[None]:
    """Calls `newest.lua` or `sizes_of.lua` for threads of one partition, and `take` with the reply on each thread, in turn.

    `keys` has the keys of each thread. A reply has parts: one from each call that reached the thread. `arguments` returns further
    arguments of the next call. Round trips: one per 500 threads or 1,000 namespaces.
    """
    for first, end in stretches(keys):
        at, after, parts = first, b"", []
        while at < end:
            flat = [key for some in keys[at:end] for key in some]
            replied, after = yield Call(script, flat, [NAMESPACES, after, *arguments()])
            for number, part in enumerate(replied, 1):
                parts.append(part)
                if number < len(replied) or not after:
                    take(parts)
                    at, parts = at + 1, []


def stretches(keys: Sequence[Sequence[bytes]]) -> Iterator[tuple[int, int]]:
    """Where the stretches of threads begin and end whose keys one call may name: 500 threads, or 1 MiB of keys."""
    first = size = 0
    for number, some in enumerate(keys):
        more = sum(map(len, some))
        if number > first and (size + more > KEY_BYTES or number - first == THREADS):
            yield first, number
            first, size = number, 0
        size += more
    if keys:
        yield first, len(keys)


def newest_of(keys: ThreadKeys) -> Flow[list[bytes] | None]:
    """The order members of the newest checkpoint of each namespace of a thread.

    None if the thread has a log and no order. A round trip per 1,000 namespaces.
    """
    found: list[list[bytes] | None] = []
    yield from walk_newest([keys], None, lambda: (b"", b""), found.append)
    return found[0]


def walk_newest(
    threads: Sequence[ThreadKeys],
    namespace: str | None,
    ids: Callable[[], tuple[bytes, bytes]],
    take: Callable[[list[bytes] | None], None],
) -> Flow[None]:
    """Calls `take` with the order members of the newest checkpoint of each namespace, or of one, for threads of one partition.

    `ids` returns a range of checkpoint ids for the next call: the least, and the end, both in the encoding that sorts, or empty.
    `take` gets [""] for a thread that has checkpoints out of the range only, and None for one that has a log and no order.
    Round trips as `walk_threads`.
    """
    only = b"" if namespace is None else ordered(namespace.encode())

    def take_parts(parts: list[Any]) -> None:
        take(None if 0 in parts else [member for part in parts for member in part])

    keys = [(one.order, one.log) for one in threads]
    yield from walk_threads(NEWEST, keys, lambda: (only, *ids()), take_parts)


def namespaces_in(keys: ThreadKeys, members: Sequence[bytes]) -> list[bytes]:
    """The namespaces of some order members of a thread. Raises `CorruptEntry` for a member that is none."""
    return [keys.split_sort_key(member[1:])[0].encode() for member in members]

"""Walks the namespaces of threads in steps, so that no call occupies the server for long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from eventlog.flow import Call, Flow, Script, load_script
from eventlog.framing import ordered
from eventlog.keys import ThreadKeys

__all__ = ["namespaces_in", "newest_of", "parts_of", "stretches"]

NEWEST = load_script("projections/log/newest")
NAMESPACES = 1000
"""Most namespaces that one call looks at."""
THREADS = 500
"""Most threads in one call."""
KEY_BYTES = 2**20
"""Most bytes in the keys of one call, unless a single thread has more."""


def parts_of(script: Script, keys: Sequence[Sequence[bytes]], *more: bytes) -> Flow[list[list[Any]]]:
    """The replies of `newest.lua` or `sizes_of.lua` for threads of one partition.

    `keys` has the keys of each thread, and the result has the parts of its reply: one from each call that reached the thread.
    Round trips: one per 500 threads or 1,000 namespaces.
    """
    found: list[list[Any]] = [[] for _ in keys]
    for first, end in stretches(keys):
        at, after = first, b""
        while at < end:
            flat = [key for some in keys[at:end] for key in some]
            parts, after = yield Call(script, flat, [NAMESPACES, after, *more])
            for number, part in enumerate(parts, at):
                found[number].append(part)
            at += len(parts) - bool(after)
    return found


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


def newest_of(threads: Sequence[ThreadKeys], namespace: str | None = None) -> Flow[list[list[bytes] | None]]:
    """The order members of the newest checkpoint of each namespace, or of one, of threads of one partition.

    None for a thread that has a log and no order. Round trips as `parts_of`.
    """
    only = b"" if namespace is None else ordered(namespace.encode())
    found = yield from parts_of(NEWEST, [(keys.order, keys.log) for keys in threads], only)
    return [None if 0 in parts else [member for part in parts for member in part] for parts in found]


def namespaces_in(keys: ThreadKeys, members: Sequence[bytes]) -> list[bytes]:
    """The namespaces of some order members of a thread. Raises `CorruptEntry` for a member that is none."""
    return [keys.split_sort_key(member[1:])[0].encode() for member in members]

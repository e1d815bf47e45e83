"""Reads how large the threads of a partition are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from eventlog.errors import CorruptEntry, ServerFailedCommand, is_of_contents
from eventlog.flow import Batch, Call, Command, Flow, load_script
from eventlog.keys import ThreadKeys
from eventlog.limits import brief
from projections.log.namespaces import parts_of, stretches
from projections.registry.foreign import is_text

__all__ = ["ThreadSize", "memory_of", "sizes_of"]

log = logging.getLogger("projections.registry")

SIZES_OF = load_script("projections/registry/sizes_of")
MEMORY_OF = load_script("projections/registry/memory_of")


class ThreadSize(NamedTuple):
    """The size of a thread: one item of the reply of `sizes_of.lua`."""

    events: int
    checkpoints: int
    """-1 if the thread's order is missing or damaged."""
    namespaces: Sequence[bytes]
    ms_left: int
    """Ms until the log expires; -1: never; -2: there is no log."""


def sizes_of(threads: Sequence[ThreadKeys]) -> Flow[list[ThreadSize]]:
    """The sizes of threads of one partition. One round trip per 500 threads or 1,000 namespaces.

    A damaged order counts as a missing one, and a warning names its thread. It costs one more round trip per thread. Raises
    `CorruptEntry`, which names the thread, for a key of another type.
    """
    try:
        found = yield from parts_of(SIZES_OF, [(keys.log, keys.index, keys.order) for keys in threads])
        sizes = [_joined(parts) for parts in found]
        if all(is_text(name) for size in sizes for name in size.namespaces):
            return sizes
    except (ServerFailedCommand, CorruptEntry):
        pass  # one by one, the damaged one is named
    sizes = []
    for keys in threads:
        sizes.append((yield from _size_of(keys)))
    return sizes


def _joined(parts: Sequence[Sequence[Any]]) -> ThreadSize:
    some = [ThreadSize(*part) for part in parts]
    return some[0]._replace(namespaces=[name for part in some for name in part.namespaces])


def _size_of(keys: ThreadKeys) -> Flow[ThreadSize]:
    """The size of one thread, whose order may be damaged."""
    try:
        (parts,) = yield from parts_of(SIZES_OF, [(keys.log, keys.index, keys.order)])
        size = _joined(parts)
        if all(map(is_text, size.namespaces)):
            return size
    except (ServerFailedCommand, CorruptEntry) as error:
        if not is_of_contents(error):
            raise type(error)(f"Thread {keys.thread.decode()!r}, its log or its order: {error}") from error
    events, ms_left = yield Batch([Command("XLEN", keys.log), Command("PTTL", keys.log)])
    warn(keys.thread, keys.order)
    return ThreadSize(events, -1, (), ms_left)


@lru_cache(1000)
def warn(thread: bytes, order: bytes) -> None:
    """Logs once that the order of a thread is damaged."""
    log.warning(
        "Thread %s: its order %s is damaged, so its checkpoints are not counted. The next list of it rebuilds the order, or "
        "saver.rebuild, or agentlog rebuild",
        brief(thread),
        brief(order),
    )


def memory_of(threads: Sequence[tuple[ThreadKeys, ThreadSize]]) -> Flow[list[int | None]]:
    """The bytes that threads of one partition occupy. One round trip per 500 keys.

    None stands for bytes that the user lacks the right to ask for.
    """
    keys_of = [[keys.log, keys.index, keys.order, *map(keys.head, size.namespaces)] for keys, size in threads]
    flat = [key for keys in keys_of for key in keys]
    replies: list[int] = []
    for first, end in stretches([(key,) for key in flat]):
        replies += yield Call(MEMORY_OF, flat[first:end], [])
    reply = iter(replies)
    found = [[next(reply) for _ in keys] for keys in keys_of]
    return [None if -1 in each else sum(each) for each in found]

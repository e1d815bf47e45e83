"""Reads how large the threads of a partition are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eventlog.flow import Call, Flow, load_script
from eventlog.keys import ThreadKeys
from projections.log.namespaces import parts_of, stretches

__all__ = ["ThreadSize", "memory_of", "sizes_of"]

SIZES_OF = load_script("projections/registry/sizes_of")
MEMORY_OF = load_script("projections/registry/memory_of")


class ThreadSize(NamedTuple):
    """The size of a thread: one item of the reply of `sizes_of.lua`."""

    events: int
    checkpoints: int
    """-1 if the thread's order is missing."""
    namespaces: Sequence[bytes]
    ms_left: int
    """Ms until the log expires; -1: never; -2: there is no log."""


def sizes_of(threads: Sequence[ThreadKeys]) -> Flow[list[ThreadSize]]:
    """The sizes of threads of one partition. One round trip per 500 threads or 1,000 namespaces."""
    found = yield from parts_of(SIZES_OF, [(keys.log, keys.index, keys.order) for keys in threads])
    sizes = []
    for parts in found:
        some = [ThreadSize(*part) for part in parts]
        sizes.append(some[0]._replace(namespaces=[name for part in some for name in part.namespaces]))
    return sizes


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

"""Read the writes and values that delta channels are rebuilt from.

They are those of a checkpoint's ancestors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from eventlog.codec import Malformed, TooLarge
from eventlog.flow import Argument, Flow, load_script
from eventlog.framing import ordered
from eventlog.keys import ThreadKeys
from eventlog.limits import Budget, in_channel
from projections.checkpoints.listing import PAGE_BYTES
from projections.checkpoints.read import damaged, malformed
from projections.checkpoints.waiting import with_all_writes
from projections.integrity.signed_reads import check_ancestors, until_steady
from projections.log.index import call, mend
from projections.values.pieces import Pieces, StoredValue
from projections.values.stored import Ancestor, PendingWrite, pending_writes

__all__ = ["Ancestry", "read_ancestry"]

READ_ANCESTORS = load_script("projections/checkpoints/read_ancestors")
STEPS = 500
"""Ancestors read in one call."""


@dataclass(slots=True)
class Ancestry:
    """The serialized history of one channel above a checkpoint.

    LangGraph's `DeltaChannelHistory` is the same, deserialized.
    """

    writes: list[PendingWrite] = field(default_factory=list)
    """Writes to the channel, oldest first."""
    seed: StoredValue | None = None
    """The nearest ancestor's value of the channel; None if no ancestor holds one."""


def read_ancestry(
    keys: ThreadKeys, namespace: str, checkpoint_id: str | None, channels: Sequence[str]
) -> Flow[Mapping[str, Ancestry]]:
    """The writes to each channel in a checkpoint's ancestors, and the nearest value.

    `checkpoint_id` None stands for the latest checkpoint.
    A channel's writes go back to the nearest ancestor that holds a value of it. Takes one round trip per 500 ancestors or 4 MiB.
    Raises as `projections.log.index.call`.
    """
    found, budget = {channel: Ancestry() for channel in channels}, Budget(keys.limits)
    start = b"" if checkpoint_id is None else ordered(checkpoint_id.encode())
    inclusive = 0
    seen: set[bytes] = set()
    while start not in seen:
        seen.add(start)
        left = [channel for channel, one in found.items() if one.seed is None]
        read = partial(_read_page, keys, namespace, left, start, inclusive)
        following, ancestors, pieces = yield from (read() if keys.signer is None else until_steady(keys, read))
        for ancestor in ancestors:
            _gather(keys, found, ancestor, pieces, budget)
        if not following or all(one.seed is not None for one in found.values()):
            break
        start, inclusive = following, 1
    for one in found.values():
        one.writes.reverse()
    return found


def _read_page(
    keys: ThreadKeys, namespace: str, channels: Sequence[str], start: bytes, inclusive: int
) -> Flow[tuple[bytes, list[Ancestor], Pieces]]:
    """A page of the way up: the id to go on at, the ancestors, and their pieces.

    The order is rebuilt if its latest checkpoint is none.
    """
    ns_sort_key = ordered(namespace.encode())
    names = [channel.encode() for channel in channels]
    arguments: list[Argument] = [namespace.encode(), ns_sort_key, start, inclusive, STEPS, PAGE_BYTES, *names]
    for is_mended in (False, True):
        walk = partial(call, keys, READ_ANCESTORS, arguments)
        reply = yield from with_all_writes(keys, walk, _writes_in_walk)
        _, following, steps, flat, origin, origin_id = reply
        began = start or origin_id or ordered(b"")
        error = malformed(keys, [ns_sort_key + began])
        if error is None or is_mended:
            break
        yield from mend(keys, error)
    checkpoint_id = keys.split_sort_key(ns_sort_key + began)[1]
    ancestors, pieces = [Ancestor.in_step(step, channels) for step in steps], Pieces(flat, [], keys.limits)
    yield from check_ancestors(keys, (namespace, checkpoint_id or None), origin, channels, ancestors, pieces)
    return following, ancestors, pieces


def _writes_in_walk(reply: list[Any]) -> list[list[list[bytes]]]:
    return [writes for _, _, writes in reply[2]]


def _gather(
    keys: ThreadKeys, found: Mapping[str, Ancestry], ancestor: Ancestor, pieces: Pieces, budget: Budget
) -> None:
    """Add the writes and values of one ancestor to the channels that lack a value.

    Writes are added newest first.
    """
    try:
        for write in reversed(pending_writes(ancestor.writes)):
            one = found.get(write.write.channel)
            if one is not None and one.seed is None:
                one.writes.append(write)
        for channel, number in ancestor.values.items():
            found[channel].seed = pieces.value(number, b"", budget)
    except TooLarge as error:
        raise damaged(keys, in_channel(channel, error), ancestor.entry_id) from error
    except (Malformed, ValueError) as error:
        raise damaged(keys, error, ancestor.entry_id) from error

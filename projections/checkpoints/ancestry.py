"""Reads the ancestors of a checkpoint, and what a delta channel is built from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eventlog.codec import Malformed
from eventlog.flow import Argument, Flow, load_script
from eventlog.framing import ordered, unordered
from eventlog.keys import ThreadKeys
from projections.checkpoints.listing import PAGE_BYTES
from projections.checkpoints.read import damaged
from projections.integrity.signed_reads import check_ancestors
from projections.log.index import call
from projections.values.pieces import Pieces, StoredValue
from projections.values.stored import PendingWrite, pending_writes

__all__ = ["Ancestry", "read_ancestry"]

READ_ANCESTORS = load_script("projections/checkpoints/read_ancestors")
STEPS = 500
"""Ancestors read in one call."""


@dataclass(frozen=True, slots=True)
class Ancestry:
    """What one channel was built from, on the way up from a checkpoint (`DeltaChannelHistory`, serialized)."""

    writes: Sequence[PendingWrite]
    """Writes to the channel, oldest first."""
    seed: StoredValue | None
    """The nearest ancestor's value of the channel; None if no ancestor holds one."""


def read_ancestry(
    keys: ThreadKeys, namespace: str, checkpoint_id: str | None, channels: Sequence[str]
) -> Flow[Mapping[str, Ancestry]]:
    """For each channel the writes stored with the ancestors of a checkpoint (None: the latest), up to the nearest that holds a
    value of the channel, and that value. One round trip per 500 ancestors or 4 MiB. Raises as `projections.log.index.call`.
    """
    channels = list(dict.fromkeys(channels))
    newest_first: dict[str, list[PendingWrite]] = {channel: [] for channel in channels}
    seeds: dict[str, StoredValue] = {}
    encoded = namespace.encode()
    start = b"" if checkpoint_id is None else ordered(checkpoint_id.encode())
    inclusive = 0
    seen: set[bytes] = set()
    while start not in seen:
        seen.add(start)
        left = [channel for channel in channels if channel not in seeds]
        arguments: list[Argument] = [
            encoded,
            ordered(encoded),
            start,
            inclusive,
            STEPS,
            PAGE_BYTES,
            *(name.encode() for name in left),
        ]
        began = start
        _, start, steps, flat, origin, origin_id = yield from call(keys, READ_ANCESTORS, arguments)
        inclusive = 1
        pieces = Pieces(flat, [])
        known = began or origin_id
        place = namespace, unordered(known)[0].decode() if known else None
        yield from check_ancestors(keys, place, origin, left, steps, pieces)
        for values, writes, _ in steps:
            _gather(keys, left, seeds, newest_first, writes)
            for position, number in zip(values[::2], values[1::2], strict=True):
                seeds[left[position - 1]] = _seed(keys, pieces, number)
        if not start or len(seeds) == len(channels):
            break
    return {channel: Ancestry(newest_first[channel][::-1], seeds.get(channel)) for channel in channels}


def _gather(
    keys: ThreadKeys,
    left: Sequence[str],
    seeds: Mapping[str, StoredValue],
    newest_first: Mapping[str, list[PendingWrite]],
    entries: list[list[bytes]],
) -> None:
    """Adds the writes of one ancestor, newest first, to the channels whose walk has not ended."""
    try:
        pending = pending_writes(entries)
    except (Malformed, ValueError) as error:
        raise damaged(keys, error) from error
    for write in reversed(pending):
        channel = write.write.channel
        if channel in newest_first and channel in left and channel not in seeds:
            newest_first[channel].append(write)


def _seed(keys: ThreadKeys, pieces: Pieces, number: int) -> StoredValue:
    try:
        found = pieces.value(number, b"")
    except (Malformed, ValueError) as error:
        raise damaged(keys, error) from error
    assert found is not None, "the script leaves empty pieces out"
    return found

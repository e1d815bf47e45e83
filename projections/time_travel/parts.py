"""Read parts of a thread's log by the entries that hold them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from eventlog.codec import Malformed
from eventlog.events import CheckpointSaved
from eventlog.flow import Argument, Call, Flow, load_script
from eventlog.keys import ThreadKeys
from projections.checkpoints.read import damaged
from projections.log.index import too_deep
from projections.time_travel.outline import Outline, ValueName
from projections.values.pieces import Pieces
from projections.values.stored import Writes, decode_envelope

__all__ = ["Parts", "read_outline", "read_parts"]

READ_PARTS = load_script("projections/time_travel/read_parts")
WRITES = 500
"""Entries of writes that are read in one call."""


class CheckpointPart(NamedTuple):
    """A checkpoint without values and writes, as `read_parts.lua` replies it."""

    envelope: bytes
    versions: int
    """Number of its versions."""
    parent: bytes
    checksum: bytes
    """Of its versions."""


class Parts(NamedTuple):
    """Parts of a log in the order they were asked for; numbers refer to `pieces`."""

    values: Sequence[int]
    """Number of each value's piece."""
    checkpoints: Sequence[CheckpointPart]
    writes: Sequence[Writes]
    """Entry id, task, task path, then field name and value of each write."""
    pieces: Pieces


def read_parts(
    keys: ThreadKeys,
    values: Collection[ValueName] = (),
    checkpoints: Collection[bytes] = (),
    writes: Collection[bytes] = (),
) -> Flow[Parts | None]:
    """Values by name, checkpoints and writes by entry; None if the log lacks any.

    Takes one round trip, and one more for each further 500 entries of writes.
    Raises `CorruptEntry` for versions or a value that change those of too many entries.
    """
    arguments: list[Argument] = [keys.thread, len(values)]
    for entry_id, channel, version_key in values:
        arguments += (entry_id, version_key.encode(), channel.encode())
    entries = list(writes)
    arguments += (len(checkpoints), *checkpoints, *entries[:WRITES])
    reply = yield Call(READ_PARTS, keys.all, arguments)
    if reply[0] == b"deep":
        raise too_deep(keys, reply)
    numbers, found, written, flat, versions = reply
    for first in range(WRITES, len(entries), WRITES):
        further = yield Call(READ_PARTS, keys.all, [keys.thread, 0, 0, *entries[first : first + WRITES]])
        written += further[2]
    if not (all(numbers) and all(found) and all(written)):
        return None
    return Parts(numbers, [CheckpointPart(*one) for one in found], written, Pieces(flat, versions, keys.limits))


def read_outline(keys: ThreadKeys, entry_id: bytes) -> Flow[Outline | None]:
    """The checkpoint in an entry, without values and writes; None if it is gone.

    Takes one round trip. Raises `CorruptEntry`.
    """
    parts = yield from read_parts(keys, checkpoints=[entry_id])
    if parts is None:
        return None
    (found,) = parts.checkpoints
    try:
        namespace, checkpoint_id, body = decode_envelope(found.envelope)
        versions, depth = parts.pieces.versions(found.versions)
        parent_id = found.parent.decode() or None
    except (Malformed, ValueError) as error:
        raise damaged(keys, error, entry_id) from error
    event = CheckpointSaved(
        namespace, checkpoint_id, parent_id, versions.channels, body, seen=versions.seen, check=found.checksum
    )
    return Outline(event, entry_id, depth, {}, [])

"""A checkpoint as the log has it: put together from a head, or from what a script found in the log.

Pure. A head is a hash of these fields:

    id, at, p     checkpoint id, its entry id, parent id ('' for none)
    e, s          envelope and versions, as in the log entry
    w             number of entries that its writes lie in
    =<channel>    version token, behind its length, then the piece
    !<index>:<task id>   task path, behind its length, then the write as in the log entry

A head is right for a channel exactly if the version it holds is the one that `s` names. Where it is not (a put that names a
version without bringing its value along), the head is incomplete and the log is read instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from eventlog import codec
from eventlog.codec import Keyframe, Malformed
from eventlog.events import Write, decode_versions, decode_write
from eventlog.keys import counted, split_place

__all__ = ["Incomplete", "PendingWrite", "StoredCheckpoint", "from_head", "from_view", "head_fields"]


class Incomplete(Exception):
    """The head lacks a value of its checkpoint."""


class PendingWrite(NamedTuple):
    """A write of a task, in the order LangGraph applies them. Source: `langgraph.checkpoint.base.writes_sort_key`."""

    task_path: str
    task_id: str
    write: Write


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint with its values as they were serialized."""

    namespace: str
    checkpoint_id: str
    parent_id: str | None
    body: Mapping[str, Any]
    versions: Mapping[str, str]
    values: Mapping[str, Keyframe]
    writes: Sequence[PendingWrite]
    place: bytes = b""


def _split_counted(data: bytes) -> tuple[bytes, bytes]:
    length, _, rest = data.partition(b":")
    size = int(length)
    return rest[:size], rest[size:]


def _envelope(data: bytes) -> tuple[str, str, dict[str, Any]]:
    body = codec.decode(data)
    if not isinstance(body, dict) or type(body.get("ns")) is not str or type(body.get("id")) is not str:
        raise Malformed("has an envelope of another shape than this project writes")
    body.pop("parts", None)
    return body.pop("ns"), body.pop("id"), body


def from_head(flat: Sequence[bytes]) -> StoredCheckpoint:
    """The checkpoint in a head. Raises `Incomplete`, and `Malformed` for bytes this project did not write."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    try:
        namespace, checkpoint_id, body = _envelope(fields[b"e"])
        versions = decode_versions(fields[b"s"])
        parent = fields[b"p"].decode() or None
        values = {}
        for channel, token in versions.items():
            held = fields.get(b"=" + channel.encode())
            if held is None:
                raise Incomplete(channel)
            version, piece = _split_counted(held)
            if version != token.encode():
                raise Incomplete(channel)
            if (value := codec.decode_piece(piece)) is not None:
                values[channel] = value
        writes = sorted(_pending_of_head(fields), key=_sort_key)
    except (KeyError, ValueError) as error:
        raise Malformed(f"head: {error}") from error
    return StoredCheckpoint(namespace, checkpoint_id, parent, body, versions, values, writes)


def _pending_of_head(fields: Mapping[bytes, bytes]) -> Iterable[PendingWrite]:
    for name, value in fields.items():
        if name[:1] == b"!":
            index, _, task = name[1:].partition(b":")
            path, write = _split_counted(value)
            yield PendingWrite(path.decode(), task.decode(), decode_write(int(index), write))


def _sort_key(pending: PendingWrite) -> tuple[str, str, int]:
    return pending.task_path, pending.task_id, pending.write.idx


View = list[Any]
"""What view.lua replies for a checkpoint: envelope, versions, parent, positions of pieces, writes, place, entries of writes."""


def from_view(view: View, pieces: Sequence[bytes]) -> StoredCheckpoint:
    """The checkpoint a script found in the log. Raises `Malformed`."""
    envelope, encoded, parent, positions, writes, place, _ = view
    namespace, checkpoint_id, body = _envelope(envelope)
    versions = decode_versions(encoded)
    values = {}
    if positions:
        for channel, position in zip(versions, positions, strict=True):
            if position and (value := codec.decode_piece(pieces[position - 1])) is not None:
                values[channel] = value
    pending = sorted(pending_writes(writes), key=_sort_key)
    return StoredCheckpoint(namespace, checkpoint_id, parent.decode() or None, body, versions, values, pending, place)


def winning_writes(flat: Sequence[bytes]) -> dict[tuple[bytes, bytes], tuple[bytes, bytes]]:
    """Of writes (task, path, field name, value, ...), those of each task in log order, what counts: (name, task) -> (path, value).

    An ordinary write is kept as it came first, a special one as it came last.
    """
    kept: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}
    for task, path, name, value in zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True):
        if name[1:2] == b"-":
            kept[name, task] = path, value
        else:
            kept.setdefault((name, task), (path, value))
    return kept


def pending_writes(flat: Sequence[bytes]) -> list[PendingWrite]:
    """The writes that count, of those of each task in log order, sorted as LangGraph applies them. Raises `Malformed`."""
    kept = winning_writes(flat)
    found = [
        PendingWrite(path.decode(), task.decode(), decode_write(int(name[1:]), value))
        for (name, task), (path, value) in kept.items()
    ]
    return sorted(found, key=_sort_key)


def head_fields(view: View, pieces: Sequence[bytes]) -> list[bytes]:
    """The head of a checkpoint that a script found in the log: names and values in turn."""
    envelope, encoded, parent, positions, writes, place, entries = view
    _, checkpoint_id, entry_id = split_place(place)
    kept = winning_writes(writes)
    fields = [b"id", checkpoint_id.encode(), b"at", entry_id, b"p", parent, b"e", envelope, b"s", encoded]
    fields += [b"w", b"%d" % entries]
    for (channel, token), position in zip(decode_versions(encoded).items(), positions, strict=True):
        fields += [
            b"=" + channel.encode(),
            counted(token.encode()) + (pieces[position - 1] if position else codec.EMPTY),
        ]
    for (name, task), (path, value) in kept.items():
        fields += [name + b":" + task, counted(path) + value]
    return fields

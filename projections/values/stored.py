"""Assembles stored checkpoints from heads, or from views that scripts reply.

Pure. A head is a hash of these fields:

    id, at, p     checkpoint id, its entry id, parent id ('' for none)
    e, s, q, y    envelope, versions, versions seen ('' for none), and the checksum of both, as in the log entry
    b             number of changes to the versions since: s1, q1, s2, q2, ...
    w             number of entries of its writes
    vb, wb        bytes of its values, and of its writes: those of the fields that follow, without their names
    =<channel>    a keyframe that deltas may be made against; or the version key, after its length, and a short keyframe or the
                  piece of no value
    +<number>:<channel>  a delta since, from 1 on
    #<channel>    for a keyframe with deltas: their number, ':', entry of the last piece, ':', checksum and version key of the value
    !<number>     the writes of an entry, from 1 on: task, task path, then field name and value of each, all after their lengths

A head is right for a channel if the version of its last piece is the one that `s` names. Otherwise a put had named a version
without bringing its value. The head is incomplete then, and the log is read instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from eventlog import codec
from eventlog.codec import Malformed, TooLarge, counted_part, paired
from eventlog.events import Write, decode_seen, decode_versions, decode_write
from eventlog.framing import counted, unordered
from eventlog.limits import Budget, Limits, in_channel
from projections.values.pieces import DEEPEST, Pieces, StoredValue, assemble
from projections.values.versions import Versions, overlaid, verify

__all__ = [
    "Ancestor",
    "Incomplete",
    "PendingWrite",
    "StoredCheckpoint",
    "View",
    "from_head",
    "from_view",
    "head_of_view",
]


HEAD_WRITES = 10_000
"""Entries of writes in a head, as in `eventlog/log.lua`."""


class Incomplete(Exception):
    """The head lacks a value of its checkpoint."""


class PendingWrite(NamedTuple):
    """A write of a task, which sorts as LangGraph applies writes.

    Source: `langgraph.checkpoint.base.writes_sort_key`.
    """

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
    values: Mapping[str, StoredValue]
    writes: Sequence[PendingWrite]
    seen: Mapping[str, Any] | None = None
    """Versions seen, None if the body has them."""
    entry_id: bytes = b""
    checksum: bytes = b""
    """The checksum of its versions, empty if they are few."""
    depth: int = 0
    """Number of changes of versions since whole ones."""


def decode_envelope(data: bytes) -> tuple[str, str, dict[str, Any]]:
    """Namespace, checkpoint id and body in an envelope. Raises `Malformed`."""
    body = codec.decode(data)
    if not isinstance(body, dict) or type(body.get("ns")) is not str or type(body.get("id")) is not str:
        raise Malformed("has an envelope of another shape than this project writes")
    body.pop("parts", None)
    return body.pop("ns"), body.pop("id"), body


def from_head(head: Mapping[bytes, bytes] | Sequence[bytes], limits: Limits | None = None) -> StoredCheckpoint:
    """The checkpoint in a head, given as a mapping, or as names and values in turn.

    Raises `Incomplete` if there is no head or it lacks a value, `TooLarge` if it is above the limits, and `Malformed` for bytes
    that this project did not write.
    """
    fields = head if isinstance(head, Mapping) else paired(head)
    if not fields:
        raise Incomplete("head")
    try:
        namespace, checkpoint_id, body = decode_envelope(fields[b"e"])
        versions, seen = Versions(decode_versions(fields[b"s"]), decode_seen(fields[b"q"]))
        depth = int(fields.get(b"b", b"0"))
        if depth > DEEPEST:
            raise Malformed("has more changes of versions than this package makes")
        for number in range(1, depth + 1):
            changes = Versions(decode_versions(fields[b"s%d" % number]), decode_seen(fields[b"q%d" % number]))
            versions, seen = overlaid(Versions(versions, seen), changes)
        checksum = fields.get(b"y", b"")
        limits = limits or Limits()
        limits.check_versions(len(versions), len(seen or ()))
        verify(Versions(versions, seen), checksum)
        parent = fields[b"p"].decode() or None
        values, budget = {}, Budget(limits)
        for channel, version in versions.items():
            try:
                value = _value_in(fields, channel.encode(), version.encode(), budget)
            except TooLarge as error:
                raise in_channel(channel, error) from None
            if value is not None:
                values[channel] = value
        writes = _pending(_writes_of_head(fields))
    except TooLarge:
        raise
    except (KeyError, ValueError) as error:
        raise Malformed(f"head: {error}") from error
    entry_id = fields.get(b"at", b"")
    return StoredCheckpoint(
        namespace, checkpoint_id, parent, body, versions, values, writes, seen, entry_id, checksum, depth
    )


def _value_in(fields: Mapping[bytes, bytes], channel: bytes, version: bytes, budget: Budget) -> StoredValue | None:
    """A head's value of a channel, None if there is none.

    Raises `Incomplete` if the head lacks the value, or has another version of it.
    """
    first = fields.get(b"=" + channel)
    if first is None:
        raise Incomplete(channel)
    tracked = fields.get(b"#" + channel)
    if tracked is None:
        found, at = counted_part(first, 0)
        if found != version:
            raise Incomplete(channel)
        return assemble([first[at:]], version, budget=budget)
    count, entry_id, latest = tracked.split(b":", 2)
    if latest[8:] != version:
        raise Incomplete(channel)
    chain = [first, *(fields[b"+%d:%b" % (number, channel)] for number in range(1, int(count) + 1))]
    if codec.check_in(chain[-1]) != latest[:8]:
        raise Malformed("holds another value than it says")
    return assemble(chain, version, entry_id, budget)


Writes = Sequence[bytes]
"""The writes of an entry: task, task path, then field name and value of each."""


def _writes_of_head(fields: Mapping[bytes, bytes]) -> Iterable[Writes]:
    for number in range(1, int(fields[b"w"]) + 1):
        packed = fields[b"!%d" % number]
        parts, at = [], 0
        while at < len(packed):
            part, at = counted_part(packed, at)
            parts.append(part)
        yield parts


def _pending(entries: Iterable[Writes]) -> list[PendingWrite]:
    """The writes that count, sorted as LangGraph applies them; `entries` in log order.

    The first ordinary write of a name and task counts, and the last special one. Raises `Malformed`.
    """
    kept: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}
    for task, path, *writes in entries:
        for name, value in zip(writes[::2], writes[1::2], strict=True):
            if name[1:2] == b"-":
                kept[name, task] = path, value
            else:
                kept.setdefault((name, task), (path, value))
    found = [
        PendingWrite(path.decode(), task.decode(), decode_write(int(name[1:]), value))
        for (name, task), (path, value) in kept.items()
    ]
    found.sort(key=_sort_key)
    return found


def _sort_key(pending: PendingWrite) -> tuple[str, str, int]:
    return pending.task_path, pending.task_id, pending.write.idx


class View(NamedTuple):
    """A checkpoint as `checkpoint_view.lua` replies it.

    Its numbers refer to the `Pieces` of the same reply.
    """

    envelope: bytes
    versions: int
    """Number of its versions."""
    parent: bytes
    """Parent id, empty for none."""
    values: Sequence[int]
    """Number of the piece of each channel's value, 0 where none was stored."""
    writes: Sequence[Writes]
    """Of each entry of writes its id, task, task path, then field name and value of each write."""
    sort_key: bytes
    """Its order member without the first letter: namespace, checkpoint id, entry id."""

    @property
    def entry_id(self) -> bytes:
        """The entry of the checkpoint."""
        return _split(self.sort_key)[1]


def _split(sort_key: bytes) -> tuple[bytes, bytes]:
    """Checkpoint id and entry id in a sort key, whether or not they are text."""
    _, rest = unordered(sort_key)
    return unordered(rest)


class Ancestor(NamedTuple):
    """A checkpoint on the way up from another, as some channels need it."""

    entry_id: bytes
    values: Mapping[str, int]
    """Of the channels that it holds a value of, the number of the value's piece."""
    writes: Sequence[Writes]
    """As in `View`."""

    @classmethod
    def in_step(cls, step: Sequence[Any], channels: Sequence[str]) -> Ancestor:
        """The checkpoint in a step of `read_ancestors.lua`, called for these channels."""
        entry_id, values, writes = step
        names = (channels[position - 1] for position in values[::2])
        return cls(entry_id, dict(zip(names, values[1::2], strict=True)), writes)


def from_view(view: View, pieces: Pieces) -> StoredCheckpoint:
    """The checkpoint in a view. Raises `Malformed`."""
    namespace, checkpoint_id, body = decode_envelope(view.envelope)
    (versions, seen), depth = pieces.versions(view.versions)
    checksum = pieces.encoded_versions(view.versions)[-1][2]
    values, budget, channel = {}, pieces.budget(), ""
    try:
        for (channel, version), number in zip(versions.items(), view.values, strict=True):
            if (value := pieces.value(number, version.encode(), budget)) is not None:
                values[channel] = value
    except TooLarge as error:
        raise in_channel(channel, error) from None
    parent_id, entry_id = view.parent.decode() or None, view.entry_id
    pending = pending_writes(view.writes)
    return StoredCheckpoint(
        namespace, checkpoint_id, parent_id, body, versions, values, pending, seen, entry_id, checksum, depth
    )


def pending_writes(entries: Iterable[Sequence[bytes]]) -> list[PendingWrite]:
    """The writes that count, sorted as LangGraph applies them.

    Each of `entries` is an entry id, followed by the writes. Raises `Malformed`.
    """
    return _pending(writes for _, *writes in sorted(entries, key=_entry_order))


def _entry_order(writes: Sequence[bytes]) -> int:
    return int(writes[0].partition(b"-")[0])


def head_of_view(view: View, pieces: Pieces, limits: Limits) -> list[bytes] | None:
    """The head of a checkpoint, names and values in turn; None if it would be above a limit.

    Then nothing is decompressed.
    """
    if len(view.writes) > HEAD_WRITES or _least_size(view, pieces) > limits.head_bytes:
        return None
    fields = _head_fields(view, pieces)
    sizes = dict.fromkeys(b"=+!", 0)
    for name, content in zip(fields[::2], fields[1::2], strict=True):
        if name[0] in sizes:
            sizes[name[0]] += len(content)
    values, writes = sizes[ord("=")] + sizes[ord("+")], sizes[ord("!")]
    return None if values + writes > limits.head_bytes else [*fields, b"vb", b"%d" % values, b"wb", b"%d" % writes]


def _least_size(view: View, pieces: Pieces) -> int:
    values = sum(codec.size_of(piece) for number in view.values for piece in pieces.chain(number))
    return values + sum(len(part) for _, *parts in view.writes for part in parts)


def _head_fields(view: View, pieces: Pieces) -> list[bytes]:
    checkpoint_id, entry_id = _split(view.sort_key)
    fields = [b"id", checkpoint_id, b"at", entry_id, b"p", view.parent, b"e", view.envelope]
    fields += [b"w", b"%d" % len(view.writes)]
    vectors = pieces.encoded_versions(view.versions)
    for count, (encoded, seen, _) in enumerate(vectors):
        suffix = b"%d" % count if count else b""
        fields += [b"s" + suffix, encoded, b"q" + suffix, seen]
    if len(vectors) > 1:
        fields += [b"b", b"%d" % (len(vectors) - 1)]
    if checksum := vectors[-1][2]:
        fields += [b"y", checksum]
    (versions, _), _ = pieces.versions(view.versions)
    for (channel, version), piece in zip(versions.items(), view.values, strict=True):
        fields += _value_fields(channel.encode(), version.encode(), piece, pieces)
    for number, (_, *parts) in enumerate(sorted(view.writes, key=_entry_order), 1):
        fields += [b"!%d" % number, b"".join(map(counted, parts))]
    return fields


def _value_fields(channel: bytes, version: bytes, number: int, pieces: Pieces) -> Iterator[bytes]:
    chain = [pieces.plain(piece) for piece in pieces.chain(number)] or [codec.EMPTY]
    value = pieces.value(number, version, pieces.budget())
    if value is None or not value.entry_id:
        yield b"=" + channel
        yield counted(version) + chain[0]
        return
    for position, piece in enumerate(chain):
        yield b"+%d:%b" % (position, channel) if position else b"=" + channel
        yield piece
    yield b"#" + channel
    yield b"%d:%b:%b%b" % (len(chain) - 1, value.entry_id, codec.check_in(chain[-1]), version)

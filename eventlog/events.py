"""Events are frozen records of changes to a thread, each stored as a stream entry.

A stream entry is a flat list of fields:

    n   sequence number, gapless from 1
    d   digest that chains the entry to the previous one
    k   kind, one of `KINDS`
    v   schema version of the kind
    e   envelope: CBOR map
    p   parent checkpoint id                                                           (checkpoint)
    s   versions: CBOR list of channel, version key, channel, version key, ...         (checkpoint)
    q   versions seen: CBOR map by node                                                (checkpoint)
    y   checksum of the whole s and q, if they are long                                (checkpoint)
    b   if s and q have only changes: counted entry id and checksum of their base      (checkpoint)
    t   task id                                                                        (writes)
    a   task path                                                                      (writes)
    u   audit: CBOR map of who appended the event and why, if known
    r   idempotency key: with every checkpoint, otherwise only with a serializer that encrypts
    g   seal, if the writer has a key (`eventlog.signing`)
    =<counted version key><channel>   piece
    !<index>                          write: counted channel, counted serde type, bytes

The script that appends sets `n` and `d`. The other fields are the content of the event; the digest covers them in their
order. Scripts read `p`, `s`, `t`, `a` and the names of fields; no script decodes an envelope.

Schema versions: `UPCASTERS` lifts an entry of an older version, one version at a time. A newer version is an error.

The functions that decode parts of an entry raise `codec.Malformed`; `decode_entry` raises errors for callers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Union

from eventlog import codec
from eventlog.errors import CorruptEntry, NewerSchema
from eventlog.framing import counted
from eventlog.keys import split_value_name
from eventlog.signing import life_of

SCHEMA = b"1"
Fields = dict[bytes, bytes]


class Write(NamedTuple):
    """One write of a task, with its serialized value."""

    idx: int
    """Number among the writes of the task, negative for special channels."""
    channel: str
    type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ValuesSaved:
    """Values precede their checkpoint in the same append.

    A script can append a few thousand fields at most in one entry.
    """

    kind: ClassVar[bytes] = b"values"
    namespace: str
    checkpoint_id: str
    values: Mapping[tuple[str, str], bytes]
    """Piece by (channel, version key)."""


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A checkpoint was put."""

    kind: ClassVar[bytes] = b"checkpoint"
    namespace: str
    checkpoint_id: str
    parent_id: str | None
    versions: Mapping[str, str]
    """Version key of each channel; with a `base`, of those that changed."""
    body: Mapping[str, Any]
    """The rest of the checkpoint and its metadata: plain data in the form of the saver."""
    values: Mapping[tuple[str, str], bytes] = field(default_factory=dict)
    """Piece by (channel, version key), of the channels that changed."""
    parts: tuple[str, ...] = ()
    """Content digests of the `ValuesSaved` that precede it."""
    idempotency_key: bytes = b""
    """Identifies a repeated call, in whichever form its values are stored."""
    seen: Mapping[str, Any] | None = None
    """LangGraph's `versions_seen`, unless the body has it; with a `base`, of the nodes that saw more."""
    check: bytes = b""
    """Checksum of the whole versions and seen; empty if they are short."""
    base: tuple[bytes, bytes] | None = None
    """Entry id and checksum of the checkpoint that versions and seen changed from; None if they are whole."""
    audit: Mapping[str, Any] | None = None
    """The stamp of who appended the event and why (`eventlog.attribution`)."""


@dataclass(frozen=True, slots=True)
class WritesSaved:
    """Writes of a task were put."""

    kind: ClassVar[bytes] = b"writes"
    namespace: str
    checkpoint_id: str
    task_id: str
    task_path: str
    writes: tuple[Write, ...]
    idempotency_key: bytes = b""
    """As of `CheckpointSaved`, but only with a serializer whose bytes differ each time."""
    audit: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ThreadCopied:
    """Earlier entries are a copy of a source, up to a sequence number and digest."""

    kind: ClassVar[bytes] = b"copied"
    source: str
    sequence: int
    digest: str
    audit: Mapping[str, Any] | None = None
    signed_for: str | None = None
    """The thread that the previous entry was signed for, if that is not the source.

    It differs if the source is a copy itself, and this copy ends before the source's own `ThreadCopied`.
    """
    life: str = ""
    """The mark of the source's life in hex; "" if its seals have none."""
    seals: Mapping[str, Sequence[int]] | None = None
    """The copied seals: by writer in hex, the writer's counts, each but the first as the difference from the one before.

    None if nobody signed the copy, or a version before seals with marks.
    """


@dataclass(frozen=True, slots=True)
class Removed:
    """The checkpoints and entries that a removal took."""

    dropped: tuple[tuple[str, str], ...]
    """(namespace, checkpoint id) of those removed. Entries that a kept checkpoint needs stay in the log."""
    hidden: tuple[tuple[str, str], ...]
    """(namespace, checkpoint id) of those kept unlisted, as ancestors that delta channels need."""
    gone: tuple[tuple[int, int, str], ...]
    """(first number, last number, digest of the last) of each range of entries that was removed."""


@dataclass(frozen=True, slots=True)
class HistoryPruned:
    """Checkpoints were pruned."""

    kind: ClassVar[bytes] = b"pruned"
    strategy: str
    removed: Removed
    audit: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RunsDeleted:
    """Checkpoints of runs were deleted."""

    kind: ClassVar[bytes] = b"runs_deleted"
    runs: tuple[str, ...]
    removed: Removed
    audit: Mapping[str, Any] | None = None


Event = Union[ValuesSaved, CheckpointSaved, WritesSaved, ThreadCopied, HistoryPruned, RunsDeleted]


class Recorded(NamedTuple):
    """An event of a log, with its entry id, number and digest."""

    entry_id: bytes
    sequence: int
    digest: bytes
    event: Event
    signed: bool = False
    """Whether it has a seal (`eventlog.signing`), which decoding does not verify."""
    life: bytes = b""
    """The mark of the life in that seal."""


def ids_in(event: Event) -> Iterator[tuple[str, str | bytes]]:
    """The ids and names in an event, each after the name of its field."""
    if isinstance(event, (CheckpointSaved, ValuesSaved, WritesSaved)):
        yield "checkpoint_ns", event.namespace
        yield "checkpoint_id", event.checkpoint_id
    if isinstance(event, (CheckpointSaved, WritesSaved)) and event.idempotency_key:
        yield "idempotency key", event.idempotency_key
    if isinstance(event, CheckpointSaved):
        yield "parent_id", event.parent_id or ""
        yield from (("channel", channel) for channel in event.versions)
        yield from (("version", version) for version in event.versions.values())
    if isinstance(event, (CheckpointSaved, ValuesSaved)):
        for channel, version in event.values:
            yield "channel", channel
            yield "version", version
    elif isinstance(event, WritesSaved):
        yield "task_id", event.task_id
        yield "task_path", event.task_path
        yield from (("channel", write.channel) for write in event.writes)
    elif isinstance(event, ThreadCopied):
        yield "source", event.source
        yield "signed_for", event.signed_for or ""
    elif isinstance(event, RunsDeleted):
        yield from (("run_id", run) for run in event.runs)
    if isinstance(event, (HistoryPruned, RunsDeleted)):
        for namespace, checkpoint_id in (*event.removed.dropped, *event.removed.hidden):
            yield "checkpoint_ns", namespace
            yield "checkpoint_id", checkpoint_id


UPCASTERS: dict[tuple[bytes, bytes], Callable[[Fields], Fields]] = {}
"""By kind and version, a function from fields to those of the next version."""


def value_fields(values: Mapping[tuple[str, str], bytes]) -> list[bytes]:
    """Names and pieces of values, in turn."""
    fields: list[bytes] = []
    for (channel, version), piece in values.items():
        encoded = version.encode()
        fields += (b"=%d:%b%b" % (len(encoded), encoded, channel.encode()), piece)
    return fields


def encode_versions(versions: Mapping[str, str]) -> bytes:
    """The field `s` of version keys by channel."""
    return codec.encode([text for item in versions.items() for text in item])


def _removed(removed: Removed) -> dict[str, Any]:
    return {name: [list(item) for item in getattr(removed, name)] for name in ("dropped", "hidden", "gone")}


def encode_event(event: Event) -> list[bytes]:
    """The fields of an event without `n` and `d`, names and values in turn."""
    fields = [b"k", event.kind, b"v", SCHEMA, b"e"]
    if isinstance(event, CheckpointSaved):
        fields += _checkpoint_fields(event)
    elif isinstance(event, ValuesSaved):
        fields += (codec.encode({"ns": event.namespace, "id": event.checkpoint_id}), *value_fields(event.values))
    elif isinstance(event, WritesSaved):
        fields += (codec.encode({"ns": event.namespace, "id": event.checkpoint_id}),)
        fields += (b"t", event.task_id.encode(), b"a", event.task_path.encode())
        if event.idempotency_key:
            fields += (b"r", event.idempotency_key)
        for idx, channel, type_, data in event.writes:
            fields += (b"!%d" % idx, codec.encode_write(channel, type_, data))
    elif isinstance(event, ThreadCopied):
        fields += (codec.encode(_copy_envelope(event)),)
    elif isinstance(event, HistoryPruned):
        fields += (codec.encode({"strategy": event.strategy, **_removed(event.removed)}),)
    else:
        fields += (codec.encode({"runs": list(event.runs), **_removed(event.removed)}),)
    if not isinstance(event, ValuesSaved) and event.audit:
        fields += (b"u", codec.encode(event.audit))
    return fields


def _copy_envelope(event: ThreadCopied) -> dict[str, Any]:
    envelope: dict[str, Any] = {"source": event.source, "seq": event.sequence, "digest": event.digest}
    if event.signed_for is not None:
        envelope["for"] = event.signed_for
    if event.seals is not None:
        envelope.update(life=event.life, seals={writer: list(counts) for writer, counts in event.seals.items()})
    return envelope


def _checkpoint_fields(event: CheckpointSaved) -> list[bytes]:
    envelope = {"ns": event.namespace, "id": event.checkpoint_id, **event.body}
    if event.parts:
        envelope["parts"] = list(event.parts)
    fields = [codec.encode(envelope), b"s", encode_versions(event.versions)]
    if event.seen is not None:
        fields += (b"q", codec.encode(event.seen))
    if event.check:
        fields += (b"y", event.check)
    if event.base is not None:
        fields += (b"b", counted(event.base[0]) + event.base[1])
    if event.parent_id is not None:
        fields += (b"p", event.parent_id.encode())
    if event.idempotency_key:
        fields += (b"r", event.idempotency_key)
    fields += value_fields(event.values)
    return fields


def decode_versions(data: bytes) -> dict[str, str]:
    """Version keys by channel, from the field `s`."""
    texts = codec.decode_texts(data)
    if len(texts) % 2:
        raise codec.Malformed("names a channel without its version")
    return codec.paired(texts)


def decode_seen(data: bytes) -> dict[str, Any] | None:
    """The versions that each node has seen; None for no bytes."""
    return _map(data, "versions seen") if data else None


def _map(data: bytes, subject: str) -> dict[str, Any]:
    found = codec.decode(data)
    if type(found) is not dict:
        raise codec.Malformed(f"has {subject} that are not a map")
    return found


def decode_write(idx: int, data: bytes) -> Write:
    """A write of a task; only its index if a scan left out the bytes."""
    if not data:
        return Write(idx, "", "", b"")
    return Write(idx, *codec.decode_write(data))


_ADDRESS = ("ns", str), ("id", str)
_REMOVED = ("dropped", list), ("hidden", list), ("gone", list)


def _envelope(fields: Fields, types: Iterable[tuple[str, type]]) -> dict[str, Any]:
    envelope = codec.decode(fields[b"e"])
    if not isinstance(envelope, dict):
        raise codec.Malformed("has an envelope that is not a map")
    for name, kind in types:
        if type(envelope.get(name)) is not kind:
            raise codec.Malformed(f"has an envelope without {name!r}")
    return envelope


def _values(fields: Fields) -> dict[tuple[str, str], bytes]:
    values = {}
    for name, piece in fields.items():
        if name.startswith(b"="):
            channel, version = split_value_name(name[1:])
            values[channel.decode(), version.decode()] = piece
    return values


def _check_pieces(entry_id: bytes, pieces: Iterable[bytes]) -> None:
    """Refuses malformed pieces, and deltas whose base is not in an earlier entry."""
    own = entry_ms(entry_id)
    for piece in pieces:
        codec.check_in(piece)
        if codec.is_delta(piece):
            base, version = codec.base_of(piece)
            version.decode()
            if entry_ms(base) >= own:
                raise codec.Malformed("has a delta whose base is not in an earlier entry")


LATEST = 253_402_300_799_999
"""The last ms of the year 9999, after which Python has no dates."""
DIGITS = len(str(LATEST))


def entry_ms(entry_id: bytes) -> int:
    """The ms of an entry id, by which entries sort."""
    ms, _, number = entry_id.partition(b"-")
    if not ms.isdigit() or number != b"0" or len(ms) > DIGITS or int(ms) > LATEST:
        raise codec.Malformed("names an entry by an id that this package never gives")
    return int(ms)


def _taken(envelope: dict[str, Any]) -> Removed:
    for name, shape in (("dropped", [str, str]), ("hidden", [str, str]), ("gone", [int, int, str])):
        if any(not isinstance(item, list) or [type(part) for part in item] != shape for item in envelope[name]):
            raise codec.Malformed(f"has an envelope whose {name!r} has an unknown form")
    return Removed(*(tuple(tuple(item) for item in envelope[name]) for name in ("dropped", "hidden", "gone")))


def _checkpoint(fields: Fields) -> Event:
    body = _envelope(fields, _ADDRESS)
    parts = tuple(body.pop("parts", ()))
    parent, base = fields.get(b"p"), fields.get(b"b")
    return CheckpointSaved(
        body.pop("ns"),
        body.pop("id"),
        None if parent is None else parent.decode(),
        decode_versions(fields[b"s"]),
        body,
        _values(fields),
        parts,
        fields.get(b"r", b""),
        decode_seen(fields.get(b"q", b"")),
        fields.get(b"y", b""),
        None if base is None else _base(base),
        _audit(fields),
    )


def _audit(fields: Fields) -> dict[str, Any] | None:
    return _map(fields[b"u"], "audit entries") if b"u" in fields else None


def _base(field: bytes) -> tuple[bytes, bytes]:
    entry_id, at = codec.counted_part(field, 0)
    return entry_id, field[at:]


def _writes(fields: Fields) -> Event:
    envelope = _envelope(fields, _ADDRESS)
    writes = tuple(decode_write(int(name[1:]), data) for name, data in fields.items() if name[:1] == b"!")
    task_id, task_path, idempotency_key = fields[b"t"].decode(), fields[b"a"].decode(), fields.get(b"r", b"")
    return WritesSaved(envelope["ns"], envelope["id"], task_id, task_path, writes, idempotency_key, _audit(fields))


def _values_saved(fields: Fields) -> Event:
    envelope = _envelope(fields, _ADDRESS)
    return ValuesSaved(envelope["ns"], envelope["id"], _values(fields))


def _copied(fields: Fields) -> Event:
    envelope = _envelope(fields, [("source", str), ("seq", int), ("digest", str)])
    signed_for = envelope.get("for")
    if signed_for is not None and not isinstance(signed_for, str):
        raise codec.Malformed("has an envelope whose 'for' is not a text")
    copied = envelope["source"], envelope["seq"], envelope["digest"], _audit(fields), signed_for
    seals, life = envelope.get("seals"), envelope.get("life", "")
    if seals is None:
        return ThreadCopied(*copied)
    lists = list(seals.values()) if isinstance(seals, dict) else [None]
    if type(life) is not str or any(type(one) is not list or set(map(type, one)) - {int} for one in lists):
        raise codec.Malformed("has an envelope whose 'seals' have an unknown form")
    return ThreadCopied(*copied, life, seals)


def _pruned(fields: Fields) -> Event:
    envelope = _envelope(fields, [("strategy", str), *_REMOVED])
    return HistoryPruned(envelope["strategy"], _taken(envelope), _audit(fields))


def _runs_deleted(fields: Fields) -> Event:
    envelope = _envelope(fields, [("runs", list), *_REMOVED])
    if not all(isinstance(run, str) for run in envelope["runs"]):
        raise codec.Malformed("has an envelope whose 'runs' are not texts")
    return RunsDeleted(tuple(envelope["runs"]), _taken(envelope), _audit(fields))


KINDS: dict[bytes, Callable[[Fields], Event]] = {
    ValuesSaved.kind: _values_saved,
    CheckpointSaved.kind: _checkpoint,
    WritesSaved.kind: _writes,
    ThreadCopied.kind: _copied,
    HistoryPruned.kind: _pruned,
    RunsDeleted.kind: _runs_deleted,
}


def decode_entry(thread: str, entry_id: bytes, flat: list[bytes]) -> Recorded:
    """The event in a stream entry.

    Raises:
        NewerSchema: a newer version of this package wrote it.
        CorruptEntry: this package did not write it; the message names thread and entry.

    """
    try:
        entry_ms(entry_id)
    except codec.Malformed:
        raise CorruptEntry(f"{_named(thread, entry_id)} has an id that this package never gives. {_FOREIGN}") from None
    fields = codec.paired(flat)
    kind, schema = fields.get(b"k", b""), fields.get(b"v", b"")
    while schema != SCHEMA and (upcast := UPCASTERS.get((kind, schema))):
        fields = upcast(fields)
        schema = fields[b"v"]
    if schema != SCHEMA or kind not in KINDS:
        raise _unknown(thread, entry_id, kind, schema)
    try:
        event = KINDS[kind](fields)
        if isinstance(event, (CheckpointSaved, ValuesSaved)):
            _check_pieces(entry_id, event.values.values())
        seal = fields.get(b"g")
        return Recorded(entry_id, int(fields[b"n"]), fields[b"d"], event, seal is not None, life_of(seal or b""))
    except KeyError as error:
        raise CorruptEntry(f"{_named(thread, entry_id)} lacks field {error}. {_FOREIGN}") from error
    except (codec.Malformed, ValueError, TypeError, LookupError) as error:
        raise CorruptEntry(f"{_named(thread, entry_id)} {error}. {_FOREIGN}") from error


def _unknown(thread: str, entry_id: bytes, kind: bytes, schema: bytes) -> CorruptEntry:
    if schema.isdigit() and len(schema) < 9 and int(schema) > int(SCHEMA):
        return NewerSchema(
            f"{_named(thread, entry_id)} has schema version {int(schema)}; this version of the package reads "
            f"up to {int(SCHEMA)}. Upgrade it."
        )
    if not kind:
        return CorruptEntry(f"{_named(thread, entry_id)} is not an event of this package. {_FOREIGN}")
    return CorruptEntry(
        f"{_named(thread, entry_id)} has unknown kind {kind.decode(errors='replace')!r}, "
        f"version {schema.decode(errors='replace')!r}. {_FOREIGN}"
    )


def _named(thread: str, entry_id: bytes) -> str:
    return f"Entry {entry_id.decode(errors='replace')} of thread {thread!r}"


_FOREIGN = "If another program added it, remove it with XDEL; otherwise restore the log from a backup."

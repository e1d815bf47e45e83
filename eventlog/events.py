"""What can happen to a thread: typed, frozen, past tense; and how each event lies in a stream entry.

A stream entry is a flat list of fields:

    k   kind, one of `KINDS`             n   sequence number, gapless from 1
    v   schema version of the kind       d   digest that chains this entry to its predecessor
    e   envelope: CBOR map
    p   parent checkpoint id             s   versions: CBOR list channel, token, channel, token, ...      (checkpoint)
                                         q   versions seen: CBOR map by node
                                         y   check of these, where they are many
                                         b   where s and q are only what changed: the entry, behind its length, and check of
                                             those that they changed from
    t   task id                          a   task path                                                    (writes)
    u   audit: CBOR map of who did it and why, where that is known
    r   idempotency key of the call: always with a checkpoint, else only with a serializer that encrypts
    =<channel and version>  piece        !<index>  channel and serde type, each behind its length, then the bytes

`n` and `d` are set by the script that appends; the rest is the event's content, which the digest covers in the order it was
sent. Scripts read `p`, `s`, `t`, `a` and the names of the fields; no script decodes an envelope.

Schema versions: an entry of an older version passes through `UPCASTERS` (kind, version) until it is of today's; one of a newer
version is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Union

from eventlog import codec
from eventlog.errors import CorruptEntry, NewerSchema
from eventlog.framing import counted
from eventlog.keys import split_value_name

__all__ = [
    "CheckpointSaved",
    "Event",
    "HistoryPruned",
    "Recorded",
    "Removed",
    "RunsDeleted",
    "ThreadCopied",
    "ValuesSaved",
    "Write",
    "WritesSaved",
    "decode_entry",
    "encode_event",
]

SCHEMA = b"1"
Fields = dict[bytes, bytes]


class Write(NamedTuple):
    """One write of a task: its index among the task's writes (negative for special channels), and the value as serialized."""

    idx: int
    channel: str
    type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ValuesSaved:
    """Values of a checkpoint that follows in the same append: a stream entry holds a few thousand fields at most."""

    kind: ClassVar[bytes] = b"values"
    namespace: str
    checkpoint_id: str
    values: Mapping[tuple[str, str], bytes]
    """Piece by (channel, version token)."""


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A checkpoint was put."""

    kind: ClassVar[bytes] = b"checkpoint"
    namespace: str
    checkpoint_id: str
    parent_id: str | None
    versions: Mapping[str, str]
    """Version token by channel, of every channel of the checkpoint; with a `base`, of those that changed."""
    body: Mapping[str, Any]
    """The rest of the checkpoint and its metadata, as the saver laid it out (plain data)."""
    values: Mapping[tuple[str, str], bytes] = field(default_factory=dict)
    """Piece by (channel, version token), of the channels that changed."""
    parts: tuple[str, ...] = ()
    """Content digests of the `ValuesSaved` that go before it."""
    idempotency_key: bytes = b""
    """What tells a call that is made again, whatever form its values are stored in."""
    seen: Mapping[str, Any] | None = None
    """What each node has seen (LangGraph's `versions_seen`), if it is not in the body; with a `base`, of nodes that saw more."""
    check: bytes = b""
    """Check of versions and seen, whole; empty where they are few."""
    base: tuple[bytes, bytes] | None = None
    """Entry id and check of the checkpoint since which versions and seen changed, None where they are whole."""
    audit: Mapping[str, Any] | None = None
    """Who did it and why, and in which trace (`eventlog.attribution`)."""


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
    """Where a serializer writes the same differently each time, as of `CheckpointSaved`."""
    audit: Mapping[str, Any] | None = None
    """Who did it and why, and in which trace (`eventlog.attribution`)."""


@dataclass(frozen=True, slots=True)
class ThreadCopied:
    """All before this came from another thread, up to the sequence number and digest named."""

    kind: ClassVar[bytes] = b"copied"
    source: str
    sequence: int
    digest: str
    audit: Mapping[str, Any] | None = None
    """Who did it and why, and in which trace (`eventlog.attribution`)."""
    signed_for: str | None = None
    """The thread that the last entry before this was signed for, if that is not the source: of a copy that ends before the event
    that made its source a copy.
    """


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal took: which checkpoints are no longer listed, and which entries are gone from the log."""

    dropped: tuple[tuple[str, str], ...]
    """(namespace, checkpoint id), no longer there. Entries that a kept checkpoint needs stay in the log all the same."""
    hidden: tuple[tuple[str, str], ...]
    """(namespace, checkpoint id), no longer listed, kept as ancestors that a kept checkpoint's delta channels are rebuilt from."""
    gone: tuple[tuple[int, int, str], ...]
    """Sequence ranges (first, last, digest of last) of entries taken out of the log."""


@dataclass(frozen=True, slots=True)
class HistoryPruned:
    """Checkpoints were pruned."""

    kind: ClassVar[bytes] = b"pruned"
    strategy: str
    removed: Removed
    audit: Mapping[str, Any] | None = None
    """Who did it and why, and in which trace (`eventlog.attribution`)."""


@dataclass(frozen=True, slots=True)
class RunsDeleted:
    """Checkpoints of runs were deleted."""

    kind: ClassVar[bytes] = b"runs_deleted"
    runs: tuple[str, ...]
    removed: Removed
    audit: Mapping[str, Any] | None = None
    """Who did it and why, and in which trace (`eventlog.attribution`)."""


Event = Union[ValuesSaved, CheckpointSaved, WritesSaved, ThreadCopied, HistoryPruned, RunsDeleted]


class Recorded(NamedTuple):
    """An event in its place in the log."""

    entry_id: bytes
    sequence: int
    digest: bytes
    event: Event
    signed: bool = False
    """Whether it has a seal (`eventlog.signing`), which is not checked here."""


UPCASTERS: dict[tuple[bytes, bytes], Callable[[Fields], Fields]] = {}
"""(kind, version) -> what makes its fields those of the next version."""


def value_fields(values: Mapping[tuple[str, str], bytes]) -> list[bytes]:
    """Names and pieces in turn."""
    fields: list[bytes] = []
    for (channel, token), piece in values.items():
        version = token.encode()
        fields += (b"=%d:%b%b" % (len(version), version, channel.encode()), piece)
    return fields


def encode_versions(versions: Mapping[str, str]) -> bytes:
    """Version token by channel, as the field `s` holds it."""
    return codec.encode([text for item in versions.items() for text in item])


def _removed(removed: Removed) -> dict[str, Any]:
    return {name: [list(item) for item in getattr(removed, name)] for name in ("dropped", "hidden", "gone")}


def encode_event(event: Event) -> list[bytes]:
    """The fields of an event, name and value in turn, without `n` and `d`."""
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
        signed_for = {} if event.signed_for is None else {"for": event.signed_for}
        fields += (codec.encode({"source": event.source, "seq": event.sequence, "digest": event.digest, **signed_for}),)
    elif isinstance(event, HistoryPruned):
        fields += (codec.encode({"strategy": event.strategy, **_removed(event.removed)}),)
    else:
        fields += (codec.encode({"runs": list(event.runs), **_removed(event.removed)}),)
    if not isinstance(event, ValuesSaved) and event.audit:
        fields += (b"u", codec.encode(event.audit))
    return fields


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
    """Version token by channel. Raises `codec.Malformed`."""
    texts = codec.decode_texts(data)
    if len(texts) % 2:
        raise codec.Malformed("names a channel without its version")
    return codec.paired(texts)


def decode_seen(data: bytes) -> dict[str, Any] | None:
    """What each node has seen; None for no bytes. Raises `codec.Malformed`."""
    if not data:
        return None
    seen = codec.decode(data)
    if type(seen) is not dict:
        raise codec.Malformed("has versions seen that are not a map")
    return seen


def decode_write(idx: int, data: bytes) -> Write:
    """A write of a task; of one whose bytes a scan left out, the index alone. Raises `codec.Malformed`."""
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
            channel, token = split_value_name(name[1:])
            values[channel.decode(), token.decode()] = piece
    return values


def _check_pieces(entry_id: bytes, pieces: Iterable[bytes]) -> None:
    """Raises `codec.Malformed` for a piece that is none, or that goes back to one that did not come before."""
    own = entry_ms(entry_id)
    for piece in pieces:
        codec.check_in(piece)
        if codec.is_delta(piece):
            base, token = codec.base_of(piece)
            token.decode()
            if entry_ms(base) >= own:
                raise codec.Malformed("holds a delta that was made against a later entry")


def entry_ms(entry_id: bytes) -> int:
    """What entry ids sort by. Raises `codec.Malformed` for one that this project did not give."""
    ms, _, number = entry_id.partition(b"-")
    if not ms.isdigit() or number != b"0":
        raise codec.Malformed("names an entry by an id that this project never gives")
    return int(ms)


def _taken(envelope: dict[str, Any]) -> Removed:
    for name, shape in (("dropped", [str, str]), ("hidden", [str, str]), ("gone", [int, int, str])):
        if any(not isinstance(item, list) or [type(part) for part in item] != shape for item in envelope[name]):
            raise codec.Malformed(f"has an envelope whose {name!r} is of another shape than this project writes")
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
    if b"u" not in fields:
        return None
    audit = codec.decode(fields[b"u"])
    if type(audit) is not dict:
        raise codec.Malformed("says who did it in another shape than this project writes")
    return audit


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
        raise codec.Malformed("has an envelope whose 'for' is no text")
    return ThreadCopied(envelope["source"], envelope["seq"], envelope["digest"], _audit(fields), signed_for)


def _pruned(fields: Fields) -> Event:
    envelope = _envelope(fields, [("strategy", str), *_REMOVED])
    return HistoryPruned(envelope["strategy"], _taken(envelope), _audit(fields))


def _runs_deleted(fields: Fields) -> Event:
    envelope = _envelope(fields, [("runs", list), *_REMOVED])
    if not all(isinstance(run, str) for run in envelope["runs"]):
        raise codec.Malformed("has an envelope whose 'runs' are no texts")
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
        NewerSchema: written by a newer version of this project.
        CorruptEntry: anything that this project did not write, naming thread and entry.

    """
    if not entry_id.endswith(b"-0"):
        raise CorruptEntry(f"{_named(thread, entry_id)} has an id that this package never gives. {_FOREIGN}")
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
        return Recorded(entry_id, int(fields[b"n"]), fields[b"d"], event, b"g" in fields)
    except KeyError as error:
        raise CorruptEntry(f"{_named(thread, entry_id)} lacks field {error}. {_FOREIGN}") from error
    except (codec.Malformed, ValueError, TypeError, LookupError) as error:
        raise CorruptEntry(f"{_named(thread, entry_id)} {error}. {_FOREIGN}") from error


def _unknown(thread: str, entry_id: bytes, kind: bytes, schema: bytes) -> CorruptEntry:
    if schema.isdigit() and len(schema) < 9 and int(schema) > int(SCHEMA):
        return NewerSchema(
            f"{_named(thread, entry_id)} has schema version {int(schema)}; this version reads up to {int(SCHEMA)}. Upgrade this "
            "package."
        )
    if not kind:
        return CorruptEntry(f"{_named(thread, entry_id)} is no event of this package. {_FOREIGN}")
    told = f"kind {kind.decode(errors='replace')!r}, version {schema.decode(errors='replace')!r}"
    return CorruptEntry(f"{_named(thread, entry_id)} is of unknown {told}. {_FOREIGN}")


def _named(thread: str, entry_id: bytes) -> str:
    return f"Entry {entry_id.decode(errors='replace')} of thread {thread!r}"


_FOREIGN = "If something other than this package added it, remove it with XDEL; else restore the log from a backup."

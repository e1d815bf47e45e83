"""Activities: the small pointers to events that the feed consists of.

The script that appends an event writes its pointer in the same step. So a partition's feed has the events of its threads
in the order in which they were committed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from hashlib import sha1
from typing import Any, Protocol

from eventlog import codec
from eventlog.errors import CorruptEntry, InvalidArgument
from eventlog.events import LATEST, CheckpointSaved, Recorded, WritesSaved
from eventlog.feed.position import Offset, Position
from eventlog.framing import counted, split_counted
from eventlog.keys import text

__all__ = ["KINDS", "Activity", "ActivityLoader", "Filters"]

KINDS = ("checkpoint", "writes", "copied", "imported", "pruned", "runs_deleted", "deleted", "expired")
"""The kinds of activity.

The log of a "deleted" or "expired" thread is gone. All other kinds have an event in the thread's log. The next write with
a ttl in its partition announces that a thread has expired.
"""

_WITH_RUNS = (b"copied", b"imported")
"""The kinds whose pointers name several runs, each after its length."""
NAMED = 64
"""The most channels, and the most nodes, that a pointer names. It stays small, whatever its event contains."""
MOST_DIGITS = 20
ORDER_LENGTH = 26
"""The length of `Activity.order`."""
_NOTHING: Mapping[int, Any] = {}
_NAMES = [b"thread", b"id", b"seq", b"kind", b"ns", b"checkpoint", b"source", b"step", b"run", b"channels", b"nodes"]


class ActivityLoader(Protocol):
    """A feed, which loads the whole event of an activity."""

    prefix: str

    def load(self, activity: Activity, /) -> Recorded:
        """Loads the event."""

    async def aload(self, activity: Activity, /) -> Recorded:
        """Async form of `load`."""


@dataclass(frozen=True)
class Activity:
    """One event of an agent, as the feed announces it."""

    thread_id: str
    kind: str
    """One of `KINDS`."""
    namespace: str
    """LangGraph's checkpoint namespace: a subgraph's, or "" for the graph's own and for events on the whole thread."""
    checkpoint_id: str | None
    """The checkpoint that was saved, or that writes were saved to."""
    source: str | None
    """LangGraph's `source` of a checkpoint: "input", "loop", "update" or "fork"."""
    step: int | None
    """LangGraph's step of the checkpoint, or the step that the writes belong to, where the writer knew it."""
    run_id: str | None
    channels: tuple[str, ...]
    """The channels whose values changed, or that were written to; 64 at most."""
    nodes: tuple[str, ...]
    """The nodes whose tasks ran for a checkpoint, or the node that wrote, where the writer knew them; 64 at most."""
    sequence: int
    """The event's number in its thread's log; for a deleted thread, the number of the last event."""
    event_id: str
    """The event's entry id in its thread's log; "" for an activity without an event."""
    digest: str | None
    """For a deleted thread, the digest at the end of its log."""
    audit: Mapping[str, Any] | None
    """For a deleted thread, the stamp of `eventlog.attribution`, which other activities have in their events."""
    partition: int
    id: str
    """The pointer's entry id in its partition's feed."""
    attempt: int = 1
    """For a member of a group: 1, and 1 more for each recorded failure of the event."""
    _before: Mapping[int, Any] = field(default_factory=dict, repr=False, compare=False)
    _loader: ActivityLoader | None = field(default=None, repr=False, compare=False)

    @property
    def node(self) -> str | None:
        """The first of the nodes, None without nodes."""
        return self.nodes[0] if self.nodes else None

    @property
    def time(self) -> datetime:
        """The time when the event was appended, by the server's clock, in UTC; at most the end of the year 9999."""
        return datetime.fromtimestamp(min(int(self.id.partition("-")[0]), LATEST) / 1000, timezone.utc)

    @property
    def position(self) -> Position:
        """The reader's position after this activity, where the next reader can start.

        From a tail it has all partitions, from a member of a group this activity's own.
        """
        offsets = {number: offset_of(before) for number, before in self._before.items()}
        offsets[self.partition] = self.offset
        return Position(offsets)

    @property
    def offset(self) -> Offset:
        """The activity's offset in its partition's feed."""
        named = (self.thread_id, self.event_id, str(self.sequence), self.kind)
        return Offset(self.id, _fingerprint(*(part.encode() for part in named)))

    @property
    def order(self) -> str:
        """Text that sorts as the feed does, within a thread and within a partition.

        A store that keeps the greatest one it has applied can skip an activity that is handed out again.
        """
        ms, _, number = self.id.partition("-")
        return f"{int(ms):015d}-{int(number):010d}"

    @property
    def config(self) -> dict[str, Any]:
        """The config of the thread or checkpoint, for a graph or a saver's `get_tuple`."""
        configurable = {"thread_id": self.thread_id, "checkpoint_ns": self.namespace}
        if self.checkpoint_id is not None:
            configurable["checkpoint_id"] = self.checkpoint_id
        return {"configurable": configurable}

    def load(self) -> Recorded:
        """Loads the whole event: its envelope, and pieces of values as they are stored.

        It also checks that the event agrees with this pointer, and, if the feed has a key, the event's signature. One
        round trip. Raises `EventGone`, whose `reason` says why, `CorruptEntry` or `SignatureInvalid`, and the server's
        errors.
        """
        return self._feed().load(self)

    async def aload(self) -> Recorded:
        """Async form of `load`."""
        return await self._feed().aload(self)

    def _feed(self) -> ActivityLoader:
        if self._loader is None:
            raise InvalidArgument(
                f"This activity of thread {self.thread_id!r} did not come from a feed; call feed.load(activity)."
            )
        return self._loader

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain data for JSON."""
        names = ("thread_id", "kind", "namespace", "checkpoint_id", "source", "step", "run_id", "channels", "nodes")
        ends = ("digest", "audit") if self.kind == "deleted" else ()
        found = {name: getattr(self, name) for name in (*names, "sequence", "event_id", *ends, "partition", "id")}
        time = self.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"time": time, **found, "channels": list(self.channels), "nodes": list(self.nodes)}


def offset_of(seen: Offset | tuple[bytes, list[bytes]]) -> Offset:
    """The offset of an entry of the feed, given as an offset, or as its id and fields."""
    if isinstance(seen, Offset):
        return seen
    entry_id, flat = seen
    return Offset(entry_id.decode(), fingerprint_of(flat).decode())


def read_pointer(
    partition: int,
    entry_id: bytes,
    flat: list[bytes],
    *,
    loader: ActivityLoader | None = None,
    before: Mapping[int, Any] | None = None,
    attempt: int = 1,
) -> Activity:
    """Decodes an entry of a feed; raises `CorruptEntry` if it is no pointer."""
    try:
        if flat[::2] == _NAMES:
            thread, event_id, sequence, kind, namespace, checkpoint, source, step, run, channels, nodes = flat[1::2]
            digest = audit = None
        else:
            named = codec.paired(flat)
            thread, event_id, sequence, kind = (named[name] for name in _NAMES[:4])
            namespace, checkpoint, source, step, run, channels, nodes = (named.get(name, b"") for name in _NAMES[4:])
            digest = named.get(b"digest", b"").decode() or None
            audit = codec.decode(named[b"audit"]) if named.get(b"audit") else None
        values = {
            "thread_id": thread.decode(),
            "kind": kind.decode(),
            "namespace": namespace.decode(),
            "checkpoint_id": checkpoint.decode() or None,
            "source": source.decode() or None,
            "step": _step(step),
            "run_id": (run.decode() or None) if kind not in _WITH_RUNS else None,
            "channels": _texts(channels),
            "nodes": _texts(nodes),
            "sequence": int(sequence),
            "event_id": event_id.decode(),
            "digest": digest,
            "audit": audit,
            "partition": partition,
            "id": entry_id.decode(),
            "attempt": attempt,
            "_before": before or _NOTHING,
            "_loader": loader,
        }
    except (KeyError, ValueError) as error:
        raise foreign(partition, entry_id, error, "PREFIX" if loader is None else loader.prefix) from error
    activity = object.__new__(Activity)  # a frozen dataclass takes five times as long to set its fields one by one
    object.__setattr__(activity, "__dict__", values)
    return activity


def foreign(partition: int, entry_id: bytes, error: Exception, prefix: str) -> CorruptEntry:
    """Makes the error for an entry of a partition's feed that is no pointer."""
    shown = entry_id.decode(errors="replace")
    lacking = error.args[0] if isinstance(error, KeyError) else None
    problem = f"it lacks the field {lacking.decode()!r}" if isinstance(lacking, bytes) else str(error)
    return CorruptEntry(
        f"Entry {shown} of the feed of partition {partition} was not written by this package: {problem}. If another program "
        f"added it, remove it with XDEL {{{prefix}:{partition}}}:feed {shown}."
    )


def check_pointer(activity: Activity, recorded: Recorded) -> None:
    """Checks that a pointer agrees with its event; raises `CorruptEntry`.

    It compares number, kind, namespace, checkpoint and channels. Of a checkpoint it also compares source, step and run,
    unless its metadata is encrypted. The event does not have the nodes, nor step and run of writes.
    """
    event = recorded.event
    said: dict[str, Any] = {"seq": activity.sequence}
    found: dict[str, Any] = {"seq": recorded.sequence}
    if activity.kind != "imported":  # it points at the last event of the log, of any kind
        said |= {"kind": activity.kind, "ns": activity.namespace, "checkpoint": activity.checkpoint_id}
        found |= {"kind": event.kind.decode(), "ns": "", "checkpoint": None}
    if isinstance(event, (CheckpointSaved, WritesSaved)) and activity.kind != "imported":
        found |= {"ns": event.namespace, "checkpoint": event.checkpoint_id or None}
        own = _channels(event)
        is_whole = isinstance(event, CheckpointSaved) and not event.parts  # else earlier entries have more channels
        agrees = own == set(activity.channels) if is_whole else own <= set(activity.channels)
        if not agrees and len(activity.channels) < NAMED:
            said["channels"], found["channels"] = activity.channels, tuple(sorted(own))
    metadata = event.body.get("metadata") if isinstance(event, CheckpointSaved) and "kind" in said else None
    if isinstance(metadata, dict):
        source, step, run = (_written(metadata.get(name)) for name in ("source", "step", "run_id"))
        said |= {"source": activity.source, "step": activity.step, "run": activity.run_id}
        found |= {"source": source or None, "step": _step(step.encode()), "run": run or None}
    for name, value in said.items():
        if value != found[name]:
            raise CorruptEntry(
                f"Pointer {activity.id} of partition {activity.partition} says {name} {value!r:.200} of event "
                f"{activity.event_id!r} of thread {activity.thread_id!r}, whose log has {found[name]!r:.200}. The pointer was "
                "forged or damaged. Verify the thread, find out who may write to the feed, and skip the pointer."
            )


def _channels(event: CheckpointSaved | WritesSaved) -> set[str]:
    """The channels of the values or writes in an event."""
    if isinstance(event, CheckpointSaved):
        return {channel for channel, _ in event.values}
    return {write.channel for write in event.writes}


def _written(value: object) -> str:
    return "" if value is None else str(value)


def _step(written: bytes) -> int | None:
    """A step as a whole number; None for other texts, which metadata may have, too."""
    return int(written) if written.removeprefix(b"-").isdigit() and len(written) < MOST_DIGITS else None


def fingerprint_of(flat: list[bytes]) -> bytes:
    """The fingerprint of a pointer, as `pointer_check` of pointers.lua makes it."""
    named = codec.paired(flat)
    return _fingerprint(*(named.get(name, b"") for name in _NAMES[:4])).encode()


def _fingerprint(thread: bytes, event_id: bytes, sequence: bytes, kind: bytes) -> str:
    named = b"\n".join((thread, event_id, sequence, kind))
    return sha1(named, usedforsecurity=False).hexdigest()[:8]


@lru_cache(4096)
def _texts(parts: bytes) -> tuple[str, ...]:
    return tuple(part.decode() for part in split_counted(parts)) if parts else ()


def pack_pointer(activity: Activity) -> bytes:
    """Encodes a waiting event, so that waiting events sort as in the feed."""
    values = (
        activity.thread_id,
        activity.event_id,
        str(activity.sequence),
        activity.kind,
        activity.namespace,
        activity.checkpoint_id or "",
        activity.source or "",
        "" if activity.step is None else str(activity.step),
        activity.run_id or "",
    )
    packed = b"".join(counted(value.encode()) for value in values)
    for names in (activity.channels, activity.nodes):
        packed += counted(b"".join(counted(name.encode()) for name in names))
    packed += counted((activity.digest or "").encode())
    packed += counted(codec.encode(activity.audit) if activity.audit else b"")
    packed += counted(activity.id.encode())
    return activity.order.encode() + packed


def unpack_pointer(
    partition: int, packed: bytes, *, loader: ActivityLoader | None = None, attempt: int = 1
) -> Activity:
    """Decodes an activity that `pack_pointer` encoded. Raises `CorruptEntry`."""
    try:
        values = split_counted(packed[ORDER_LENGTH:])
        flat = [part for pair in zip((*_NAMES, b"digest", b"audit"), values[:-1], strict=True) for part in pair]
    except (ValueError, IndexError) as error:
        raise CorruptEntry(
            f"A waiting event in partition {partition} was not written by this package: {packed!r:.100}."
        ) from error
    return read_pointer(partition, values[-1], flat, loader=loader, attempt=attempt)


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of a reader, which the server applies; empty ones pass everything."""

    kinds: tuple[str, ...] = ()
    threads: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()

    @classmethod
    def of(cls, kinds: Any = None, threads: Any = None, namespaces: Any = None, nodes: Any = None) -> Filters:
        """Makes filters from texts or lists of texts, or refuses them."""
        given = cls(
            _several("kind", kinds),
            _several("thread", threads),
            _several("namespace", namespaces),
            _several("node", nodes),
        )
        if unknown := set(given.kinds) - set(KINDS):
            raise InvalidArgument(f"Unknown kind {min(unknown)!r}; kinds are {', '.join(KINDS)}.")
        return given

    def arguments(self) -> list[bytes | int]:
        """The filters in the form that scripts take."""
        out: list[bytes | int] = []
        for some in (self.kinds, self.threads, self.namespaces, self.nodes):
            out += [len(some), *(one.encode() for one in some)]
        return out

    def names(self) -> Iterator[tuple[str, str]]:
        """Threads, namespaces and nodes, each after the name of its filter."""
        for kind, some in (("thread", self.threads), ("namespace", self.namespaces), ("node", self.nodes)):
            yield from ((kind, one) for one in some)

    def as_dict(self) -> dict[str, list[str]]:
        """The filters that are set, as plain data."""
        return {name: list(some) for name, some in asdict(self).items() if some}


def _several(field: str, given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    some = [given] if isinstance(given, (str, int)) and not isinstance(given, bool) else given
    if not isinstance(some, (list, tuple, set, frozenset)):
        raise TypeError(f"{field} must be a text or a list of texts, not {type(given).__name__}.")
    out = []
    for one in some:
        if isinstance(one, bool) or not isinstance(one, (str, int)):
            raise TypeError(f"{field} must be a text or a list of texts, not one of {type(one).__name__}.")
        text(field, str(one))
        out.append(str(one))
    return tuple(sorted(set(out)))

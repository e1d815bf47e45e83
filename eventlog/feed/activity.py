"""What the feed says of one event: a small pointer, no values.

A pointer is written by the script that appends the event, in the same step, so the order of a partition's feed is the order in
which its threads' events were committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from hashlib import sha1
from typing import Any, Protocol

from eventlog import codec
from eventlog.errors import CorruptEntry, InvalidArgument
from eventlog.events import Recorded
from eventlog.feed.position import Offset, Position
from eventlog.framing import counted, split_counted
from eventlog.keys import text

__all__ = ["KINDS", "Activity", "ActivityLoader", "Filters"]

KINDS = ("checkpoint", "writes", "copied", "imported", "pruned", "runs_deleted", "deleted", "expired")
"""Kinds of activity. Of all but the last two, whose logs are gone, the thread's log has an event. That a thread has expired is
announced by the next write with a ttl in its partition."""

_WITH_RUNS = (b"copied", b"imported")
"""Kinds whose pointers name several runs, each behind its length."""
_NOTHING: Mapping[int, Any] = {}
_NAMES = [b"thread", b"id", b"seq", b"kind", b"ns", b"checkpoint", b"source", b"step", b"run", b"channels", b"nodes"]


class ActivityLoader(Protocol):
    """Loads the whole event that an activity names: a feed."""

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
    """LangGraph's checkpoint namespace: "" the graph's own, else a subgraph's. "" too where an event concerns the whole thread."""
    checkpoint_id: str | None
    """The checkpoint saved, or that writes were saved to."""
    source: str | None
    """Of a checkpoint, LangGraph's `source`: "input", "loop", "update" or "fork"."""
    step: int | None
    """LangGraph's step: of a checkpoint its own, of writes the one that they are made in, where the writer knew it."""
    run_id: str | None
    channels: tuple[str, ...]
    """Channels whose values changed, or were written to; 64 at most."""
    nodes: tuple[str, ...]
    """Nodes whose tasks ran for a checkpoint, or the one that wrote, where the writer knew them; 64 at most."""
    sequence: int
    """The event's number in its thread's log; of a deleted thread, that of the last."""
    event_id: str
    """The event's entry id in its thread's log; "" where there is none."""
    digest: str | None
    """Of a deleted thread, the digest that its log ended with."""
    audit: Mapping[str, Any] | None
    """Of a deleted thread, who deleted it and why (`eventlog.attribution`); of others the event itself has it."""
    partition: int
    id: str
    """The pointer's entry id in its partition's feed."""
    attempt: int = 1
    """For a member of a group: how many times this event has been handed out, this one included, as far as failures tell."""
    _before: Mapping[int, Any] = field(default_factory=dict, repr=False, compare=False)
    _loader: ActivityLoader | None = field(default=None, repr=False, compare=False)

    @property
    def node(self) -> str | None:
        """The first of the nodes."""
        return self.nodes[0] if self.nodes else None

    @property
    def time(self) -> datetime:
        """When the event was appended, by the server's clock, in UTC, to the millisecond."""
        return datetime.fromtimestamp(int(self.id.partition("-")[0]) / 1000, timezone.utc)

    @property
    def position(self) -> Position:
        """The reader's position behind this activity: from here on, the next reader sees what this one had not seen yet.

        From a tail it has all partitions, from a member of a group this activity's own.
        """
        offsets = {number: offset_of(before) for number, before in self._before.items()}
        offsets[self.partition] = self.offset
        return Position(offsets)

    @property
    def offset(self) -> Offset:
        """The activity's place in its partition's feed."""
        return Offset(
            self.id, _check(*(part.encode() for part in (self.thread_id, self.event_id, str(self.sequence), self.kind)))
        )

    @property
    def order(self) -> str:
        """Text that sorts, within a thread and within a partition, as the feed does. What is to have effect once is
        kept by this.
        """
        ms, _, number = self.id.partition("-")
        return f"{int(ms):015d}-{int(number):010d}"

    @property
    def config(self) -> dict[str, Any]:
        """The config that names the thread and, where there is one, the checkpoint: for `get_tuple` of a saver, or for a graph."""
        configurable = {"thread_id": self.thread_id, "checkpoint_ns": self.namespace}
        if self.checkpoint_id is not None:
            configurable["checkpoint_id"] = self.checkpoint_id
        return {"configurable": configurable}

    def load(self) -> Recorded:
        """The whole event, `eventlog.events.Recorded`: envelope and stored pieces of values, which are not
        deserialized. One round trip.

        Raises `EventGone`, whose `reason` says why, and the server's errors.
        """
        return self._feed().load(self)

    async def aload(self) -> Recorded:
        """Async twin of `load`."""
        return await self._feed().aload(self)

    def _feed(self) -> ActivityLoader:
        if self._loader is None:
            raise InvalidArgument(
                f"This activity of thread {self.thread_id!r} came from no feed; call feed.load(activity)."
            )
        return self._loader

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "time": self.time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "thread_id": self.thread_id,
            "kind": self.kind,
            "namespace": self.namespace,
            "checkpoint_id": self.checkpoint_id,
            "source": self.source,
            "step": self.step,
            "run_id": self.run_id,
            "channels": list(self.channels),
            "nodes": list(self.nodes),
            "sequence": self.sequence,
            "event_id": self.event_id,
            **({"digest": self.digest, "audit": self.audit} if self.kind == "deleted" else {}),
            "partition": self.partition,
            "id": self.id,
        }


def offset_of(seen: Offset | tuple[bytes, list[bytes]]) -> Offset:
    """The offset of an entry of the feed, given that, or its id and fields."""
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
    """The activity in an entry of a partition's feed. Raises `CorruptEntry` for what this project did not write."""
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
            "step": int(step) if step[-1:].isdigit() else None,
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
        raise foreign(partition, entry_id, error) from error
    activity = object.__new__(Activity)
    object.__setattr__(
        activity, "__dict__", values
    )  # a frozen dataclass takes five times as long to set its fields one by one
    return activity


def foreign(partition: int, entry_id: bytes, error: Exception) -> CorruptEntry:
    """The error for an entry of a partition's feed that is no pointer."""
    return CorruptEntry(
        f"Entry {entry_id.decode(errors='replace')} of the feed of partition {partition} is none that this package writes "
        f"({error!r}). If something else added it, remove it with XDEL."
    )


def fingerprint_of(flat: list[bytes]) -> bytes:
    """By what a pointer is told from another that has the same entry id; `pointer_check` of pointers.lua."""
    named = codec.paired(flat)
    return _check(*(named.get(name, b"") for name in _NAMES[:4])).encode()


def _check(thread: bytes, event_id: bytes, sequence: bytes, kind: bytes) -> str:
    named = b"\n".join((thread, event_id, sequence, kind))
    return sha1(named, usedforsecurity=False).hexdigest()[:8]


@lru_cache(4096)
def _texts(parts: bytes) -> tuple[str, ...]:
    return tuple(part.decode() for part in split_counted(parts)) if parts else ()


def pack_pointer(activity: Activity) -> bytes:
    """A pointer as it waits behind one that failed: its place first, so that such sort as in the feed."""
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
    """The activity that `pack_pointer` packed. Raises `CorruptEntry`."""
    try:
        values = split_counted(packed[26:])
        flat = [part for pair in zip((*_NAMES, b"digest", b"audit"), values[:-1], strict=True) for part in pair]
    except (ValueError, IndexError) as error:
        raise CorruptEntry(
            f"What waits in partition {partition} is nothing that this package wrote: {packed!r:.100}."
        ) from error
    return read_pointer(partition, values[-1], flat, loader=loader, attempt=attempt)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which activities are wanted, decided at the server; an empty one lets all pass."""

    kinds: tuple[str, ...] = ()
    threads: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()

    @classmethod
    def of(cls, kinds: Any = None, threads: Any = None, namespaces: Any = None, nodes: Any = None) -> Filters:
        """From texts or lists of texts. Raises `TypeError`, and `InvalidArgument` for a kind that there is none of."""
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
        """As the scripts take them."""
        out: list[bytes | int] = []
        for some in (self.kinds, self.threads, self.namespaces, self.nodes):
            out.append(len(some))
            out += [one.encode() for one in some]
        return out

    def as_dict(self) -> dict[str, list[str]]:
        """Those that are set, as plain data."""
        named = {"kinds": self.kinds, "threads": self.threads, "namespaces": self.namespaces, "nodes": self.nodes}
        return {name: list(some) for name, some in named.items() if some}


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

"""Folds a thread's log, event by event, into its index.

Theory of operation.

1. The log is the truth. The index says where things lie in the log, and nothing that the log does not say.
2. A fold depends on the event and the index so far, and on nothing else: no clock, no server, no randomness. Folding the same log
   always gives the same index.
3. Events are numbered without a gap. An event whose number was folded before changes nothing.
4. A gap stands for entries that were removed. A later removal must name them. Otherwise the log is damaged, and the fold says so.
5. A checkpoint is found by namespace and id. The last checkpoint saved under an id counts, and so does the last piece saved of a
   channel's version. All entries of writes to a checkpoint count, in log order. Readers decide which of the writes win.
6. A removal does not touch what is in the log. It says which checkpoints are no longer listed. An entry stays if a kept checkpoint
   needs one of its values, and so do the index fields that lead to it.

The scripts of this package do the same inline, one event at a time. Tests compare both.

Warts. By rule 5, two different values under one version of one channel share the bytes of the last one, as in LangGraph's own
savers. LangGraph never makes such values. A write that arrives after its checkpoint was removed stays in the log until the thread
is deleted, as does a write whose checkpoint never comes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any

from eventlog.codec import check_in
from eventlog.errors import CorruptEntry
from eventlog.events import (
    CheckpointSaved,
    HistoryPruned,
    Recorded,
    RunsDeleted,
    ThreadCopied,
    ValuesSaved,
    WritesSaved,
)
from eventlog.framing import counted, ordered
from eventlog.keys import checkpoint_sort_key, value_name

__all__ = ["Fold", "Index", "fold", "lacking", "settle"]


@dataclass(slots=True)
class Fold(ABC):
    """The rules, and how far a fold has come. Subclasses keep where things lie."""

    sequence: int = 0
    digest: bytes = b""
    last: bytes = b"0-0"
    """Entry id of the last entry."""
    entries: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """First and last of the sequence numbers that are missing."""
    gone: list[tuple[int, int]] = field(default_factory=list)
    """First and last of the sequence numbers that a removal accounts for."""

    def add(self, recorded: Recorded) -> None:
        """Folds one event."""
        if recorded.sequence <= self.sequence:
            return
        if recorded.sequence > self.sequence + 1:
            self.gaps.append((self.sequence + 1, recorded.sequence - 1))
        self.sequence, self.digest, self.last = recorded.sequence, recorded.digest, recorded.entry_id
        self.entries += 1
        _FOLDS[recorded.event.kind](self, recorded.entry_id, recorded.event)

    def state(self) -> dict[bytes, bytes]:
        """The end of the log, as the index key has it."""
        return {b"n": b"%d" % self.sequence, b"d": self.digest, b"l": self.last, b"c": b"%d" % self.entries}

    def missing(self) -> int | None:
        """The first missing sequence number that no removal accounts for, if any."""
        covered: Iterator[tuple[float, float]] = iter([*sorted(self.gone), (inf, inf)])
        start, end = next(covered)
        for first, last in self.gaps:
            while first <= last:
                while end < first:
                    start, end = next(covered)
                if start > first:
                    return first
                first = int(end) + 1  # noqa: PLW2901
        return None

    @abstractmethod
    def locate(self, name: bytes, location: bytes) -> None:
        """An index field leads to a value, by its entry id and the value's checksum."""

    @abstractmethod
    def write(self, sort_key: bytes, task_id: bytes, entry_id: bytes) -> None:
        """Another entry has writes of a task to a checkpoint."""

    @abstractmethod
    def change(self, letter: bytes, sort_key: bytes, entry_id: bytes = b"") -> None:
        """A checkpoint was put in an entry (`c`), dropped (`d`), or is no longer listed (`h`)."""

    def _values(self, entry_id: bytes, event: ValuesSaved | CheckpointSaved) -> None:
        namespace = b"v" + counted(event.namespace.encode())
        for (channel, version), piece in event.values.items():
            self.locate(namespace + value_name(channel.encode(), version.encode()), entry_id + check_in(piece))

    def _checkpoint(self, entry_id: bytes, event: CheckpointSaved) -> None:
        self._values(entry_id, event)
        self.change(b"c", _sort_key(event.namespace, event.checkpoint_id), entry_id)

    def _writes(self, entry_id: bytes, event: WritesSaved) -> None:
        self.write(_sort_key(event.namespace, event.checkpoint_id), event.task_id.encode(), entry_id)

    def _removal(self, _: bytes, event: HistoryPruned | RunsDeleted) -> None:
        for name in event.removed.dropped:
            self.change(b"d", _sort_key(*name))
        for name in event.removed.hidden:
            self.change(b"h", _sort_key(*name))
        self.gone += [(first, last) for first, last, _ in event.removed.gone]


@dataclass(slots=True)
class Index(Fold):
    """Where things lie in a thread's log."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    """Location of a value by its index field: namespace, channel and version."""
    checkpoints: dict[bytes, bytes] = field(default_factory=dict)
    """Entry id of each listed checkpoint by its sort key."""
    hidden: dict[bytes, bytes] = field(default_factory=dict)
    """Entry id of each ancestor that is kept for delta channels, by its sort key."""
    writes: dict[bytes, list[tuple[bytes, bytes]]] = field(default_factory=dict)
    """Task id and entry id of each entry of writes, in log order, by the checkpoint's sort key."""

    def hash(self) -> dict[bytes, bytes]:
        """The contents of the index key."""
        return self.state() | self.places()

    def places(self) -> dict[bytes, bytes]:
        """The contents of the index key without the end of the log."""
        return {**({b"h": b"%d" % len(self.hidden)} if self.hidden else {}), **self.values}

    def value_entry(self, namespace: str, channel: str, version_key: str) -> bytes | None:
        """The entry of a value; None if none was stored."""
        name = b"v" + counted(namespace.encode()) + value_name(channel.encode(), version_key.encode())
        found = self.values.get(name)
        return None if found is None else found[:-8]

    def members(self) -> Iterator[bytes]:
        """The contents of the order key."""
        yield b""
        for letter, checkpoints in ((b"c", self.checkpoints), (b"h", self.hidden)):
            for sort_key, entry_id in checkpoints.items():
                yield letter + sort_key + entry_id
        for sort_key, written in self.writes.items():
            for task_id, entry_id in written:
                yield b"w" + sort_key + ordered(task_id) + entry_id

    def locate(self, name: bytes, location: bytes) -> None:
        """See `Fold`."""
        self.values[name] = location

    def write(self, sort_key: bytes, task_id: bytes, entry_id: bytes) -> None:
        """See `Fold`."""
        self.writes.setdefault(sort_key, []).append((task_id, entry_id))

    def change(self, letter: bytes, sort_key: bytes, entry_id: bytes = b"") -> None:
        """See `Fold`."""
        listed = self.checkpoints.pop(sort_key, None)
        if letter == b"h":
            if listed is not None:
                self.hidden[sort_key] = listed
            return
        self.hidden.pop(sort_key, None)
        if letter == b"c":
            self.checkpoints[sort_key] = entry_id


_FOLDS: dict[bytes, Callable[[Fold, bytes, Any], None]] = {
    ValuesSaved.kind: Fold._values,
    CheckpointSaved.kind: Fold._checkpoint,
    WritesSaved.kind: Fold._writes,
    HistoryPruned.kind: Fold._removal,
    RunsDeleted.kind: Fold._removal,
    ThreadCopied.kind: lambda *_: None,
}


def _sort_key(namespace: str, checkpoint_id: str) -> bytes:
    return checkpoint_sort_key(namespace.encode(), checkpoint_id.encode())


def fold(thread: str, events: Iterable[Recorded]) -> Index:
    """The index of a whole log. Raises as `settle`."""
    index = Index()
    for recorded in events:
        index.add(recorded)
    settle(thread, index)
    return index


def settle(thread: str, index: Fold) -> None:
    """Raises `CorruptEntry` if a fold lacks entries that no removal accounts for."""
    if (missing := index.missing()) is not None:
        raise CorruptEntry(lacking(thread, missing))


def lacking(thread: str, sequence: int) -> str:
    """The error text for a log that lacks an entry."""
    return (
        f"The log of thread {thread!r} lacks the entry with sequence number {sequence}, which was not removed by this package. "
        "Restore the log from a backup, or delete the thread."
    )

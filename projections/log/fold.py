"""The fold: a thread's log, event by event, into its index.

Theory of operation.

1. The log is the truth. The index says where in the log things lie, nothing that the log does not.
2. A fold looks at an event and at the index so far, at nothing else: no clock, no server, no chance. Folding the same log
   gives the same index, whoever does it and whenever.
3. Events are numbered without a gap. One whose number was folded already changes nothing.
4. A gap stands for entries that were taken out. A later removal must name it; else the log is damaged, and folding says so.
5. A checkpoint is found by namespace and id, and the last one saved under an id counts. Of a channel's version the last piece
   saved counts. Of the writes to a checkpoint every entry counts, in log order; which of them win is decided when they are read.
6. A removal does not touch what lies in the log: it says which checkpoints are no longer listed. An entry that a kept
   checkpoint needs a value of stays, and so do the index fields that lead to it.

The scripts of this package do the same inline, one event at a time. Tests hold the two against each other.

Warts. Rule 5 means that two different values under one version of one channel (which LangGraph never makes) share the last
one's bytes, as in LangGraph's own savers. And a write that arrives after its checkpoint was removed is kept in the log until
the thread is deleted, as an early write is.
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
    """The rules, and how far a fold is. Where things lie is for those who derive from it to keep."""

    sequence: int = 0
    digest: bytes = b""
    last: bytes = b"0-0"
    """Entry id of the last entry."""
    entries: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """First and last of the sequence numbers that are not there."""
    gone: list[tuple[int, int]] = field(default_factory=list)
    """First and last of those that a removal accounts for."""

    def add(self, recorded: Recorded) -> None:
        """Folds one event in."""
        if recorded.sequence <= self.sequence:
            return
        if recorded.sequence > self.sequence + 1:
            self.gaps.append((self.sequence + 1, recorded.sequence - 1))
        self.sequence, self.digest, self.last = recorded.sequence, recorded.digest, recorded.entry_id
        self.entries += 1
        _FOLDS[recorded.event.kind](self, recorded.entry_id, recorded.event)

    def state(self) -> dict[bytes, bytes]:
        """Where the log ends, as the index key has it."""
        return {b"n": b"%d" % self.sequence, b"d": self.digest, b"l": self.last, b"c": b"%d" % self.entries}

    def missing(self) -> int | None:
        """The first sequence number that is not there and that no removal accounts for; None if all is well."""
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
    def hold(self, name: bytes, place: bytes) -> None:
        """An index field leads to a value: its entry, and its check."""

    @abstractmethod
    def put(self, place: bytes, entry_id: bytes) -> None:
        """A checkpoint is in an entry, and in none before it."""

    @abstractmethod
    def write(self, place: bytes, task_id: bytes, entry_id: bytes) -> None:
        """Writes of a task to a checkpoint are in an entry, too."""

    @abstractmethod
    def drop(self, place: bytes) -> None:
        """A checkpoint is no longer there."""

    @abstractmethod
    def hide(self, place: bytes) -> None:
        """A checkpoint is no longer listed."""

    def _values(self, entry_id: bytes, event: ValuesSaved | CheckpointSaved) -> None:
        namespace = b"v" + counted(event.namespace.encode())
        for (channel, token), piece in event.values.items():
            self.hold(namespace + value_name(channel.encode(), token.encode()), entry_id + check_in(piece))

    def _checkpoint(self, entry_id: bytes, event: CheckpointSaved) -> None:
        self._values(entry_id, event)
        self.put(_place(event.namespace, event.checkpoint_id), entry_id)

    def _writes(self, entry_id: bytes, event: WritesSaved) -> None:
        self.write(_place(event.namespace, event.checkpoint_id), event.task_id.encode(), entry_id)

    def _removal(self, _: bytes, event: HistoryPruned | RunsDeleted) -> None:
        for name in event.removed.dropped:
            self.drop(_place(*name))
        for name in event.removed.hidden:
            self.hide(_place(*name))
        self.gone += [(first, last) for first, last, _ in event.removed.gone]


@dataclass(slots=True)
class Index(Fold):
    """Where things lie in a thread's log."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    """Index field of a (namespace, channel, version) -> entry id and check of the value."""
    checkpoints: dict[bytes, bytes] = field(default_factory=dict)
    """Place of a listed checkpoint -> entry id."""
    hidden: dict[bytes, bytes] = field(default_factory=dict)
    """Place of an ancestor kept for delta channels -> entry id."""
    writes: dict[bytes, list[tuple[bytes, bytes]]] = field(default_factory=dict)
    """Place of a checkpoint -> (task id, entry id) of its writes, in log order."""

    def hash(self) -> dict[bytes, bytes]:
        """Contents of the index key."""
        return self.state() | self.places()

    def places(self) -> dict[bytes, bytes]:
        """The same without where the log ends: where values lie, and the number of hidden checkpoints if there are any."""
        return {**({b"h": b"%d" % len(self.hidden)} if self.hidden else {}), **self.values}

    def members(self) -> Iterator[bytes]:
        """Contents of the order key."""
        yield b""
        for letter, places in ((b"c", self.checkpoints), (b"h", self.hidden)):
            for place, entry_id in places.items():
                yield letter + place + entry_id
        for place, written in self.writes.items():
            for task_id, entry_id in written:
                yield b"w" + place + ordered(task_id) + entry_id

    def hold(self, name: bytes, place: bytes) -> None:
        """See `Fold`."""
        self.values[name] = place

    def put(self, place: bytes, entry_id: bytes) -> None:
        """See `Fold`."""
        self.checkpoints[place] = entry_id
        self.hidden.pop(place, None)

    def write(self, place: bytes, task_id: bytes, entry_id: bytes) -> None:
        """See `Fold`."""
        self.writes.setdefault(place, []).append((task_id, entry_id))

    def drop(self, place: bytes) -> None:
        """See `Fold`."""
        self.checkpoints.pop(place, None)
        self.hidden.pop(place, None)

    def hide(self, place: bytes) -> None:
        """See `Fold`."""
        if place in self.checkpoints:
            self.hidden[place] = self.checkpoints.pop(place)


_FOLDS: dict[bytes, Callable[[Fold, bytes, Any], None]] = {
    ValuesSaved.kind: Fold._values,
    CheckpointSaved.kind: Fold._checkpoint,
    WritesSaved.kind: Fold._writes,
    HistoryPruned.kind: Fold._removal,
    RunsDeleted.kind: Fold._removal,
    ThreadCopied.kind: lambda *_: None,
}


def _place(namespace: str, checkpoint_id: str) -> bytes:
    return checkpoint_sort_key(namespace.encode(), checkpoint_id.encode())


def fold(thread: str, events: Iterable[Recorded]) -> Index:
    """Index of a whole log. Raises `CorruptEntry` if entries are missing that no removal accounts for."""
    index = Index()
    for recorded in events:
        index.add(recorded)
    settle(thread, index)
    return index


def settle(thread: str, index: Fold) -> None:
    """Checks a finished fold. Raises `CorruptEntry` if entries are missing that no removal accounts for."""
    if (missing := index.missing()) is not None:
        raise CorruptEntry(lacking(thread, missing))


def lacking(thread: str, sequence: int) -> str:
    """What is wrong with a log that lacks an entry."""
    return (
        f"The log of thread {thread!r} lacks the entry with sequence number {sequence}, which was not removed by this package. "
        "Restore the log from a backup, or delete the thread."
    )

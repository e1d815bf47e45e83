"""Plan which entries of a thread's log a removal takes out. Pure.

A checkpoint that stays keeps its entry, its writes, the entries of the values that its versions name, the entries that its deltas
build on, and the ancestors that its delta channels are rebuilt from. Such ancestors are hidden rather than listed.

The new index is the fold of the entries that stay. The removal's event lists the dropped and hidden checkpoints, and the removed
ranges of sequence numbers with the digest of the last entry of each. A gap that no removal accounts for is damage.

An entry that stays for one value keeps its envelope, and the next removal names its checkpoint as dropped again. A removal repeats
the ranges of earlier prunings, so that a log that is pruned after each step stays short. Events of deleted runs stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from eventlog.codec import EMPTY, base_of, is_delta
from eventlog.events import CheckpointSaved, HistoryPruned, Recorded, Removed, ValuesSaved, WritesSaved
from eventlog.keys import checkpoint_sort_key, split_sort_key
from projections.log.fold import Index

__all__ = ["History", "Plan", "Replayed", "plan", "sort_key_of"]

Replayed = Callable[[CheckpointSaved], Iterable[str]]
"""Names the channels of a checkpoint that are rebuilt from its ancestors' writes where it holds no value of them."""
Checkpoints = Mapping[bytes, CheckpointSaved]
"""Checkpoints by sort key."""
Pieces = Mapping[tuple[bytes, tuple[str, str]], bytes]
"""By entry id and (channel, version key), the parts of pieces that a scan of the log returns."""


@dataclass(slots=True)
class History:
    """A thread's log without its values, and its index."""

    index: Index
    events: list[Recorded] = field(default_factory=list)

    def checkpoints(self) -> dict[bytes, CheckpointSaved]:
        """Listed checkpoints by sort key, in the order they were saved."""
        return self._at(self.index.checkpoints)

    def hidden(self) -> dict[bytes, CheckpointSaved]:
        """Checkpoints kept only as ancestors, by sort key."""
        return self._at(self.index.hidden)

    def _at(self, entries: Mapping[bytes, bytes]) -> dict[bytes, CheckpointSaved]:
        by_entry = {entry_id: sort_key for sort_key, entry_id in entries.items()}
        return {
            by_entry[recorded.entry_id]: recorded.event
            for recorded in self.events
            if recorded.entry_id in by_entry and isinstance(recorded.event, CheckpointSaved)
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes that a removal makes to the log."""

    removed: Removed
    entries: Sequence[bytes]
    """The ids of the entries to remove."""
    rest: Sequence[Recorded]
    """The events that stay."""


def sort_key_of(event: CheckpointSaved | ValuesSaved | WritesSaved) -> bytes:
    """The sort key of the checkpoint that an event belongs to."""
    return checkpoint_sort_key(event.namespace.encode(), event.checkpoint_id.encode())


def plan(history: History, drop: set[bytes], replayed: Replayed) -> Plan:
    """The removal of the checkpoints at some sort keys.

    It leaves what other checkpoints need: the values of their versions, their writes, the entries that these build on, and the
    ancestors that channels without a value are rebuilt from.
    """
    index, events = history.index, history.events
    listed, hidden = history.checkpoints(), history.hidden()
    checkpoints = listed | hidden
    staying = listed.keys() - drop
    pieces = _pieces_of(events)
    support: set[bytes] = set()
    for sort_key in staying:
        support |= _support(index, checkpoints[sort_key], checkpoints, pieces, replayed)
    support -= staying
    kept, leaving = staying | support, (drop | hidden.keys()) - support
    stay = {entry_id for sort_key in kept for entry_id in _entries_of(index, sort_key, checkpoints[sort_key])}
    stay |= {recorded.entry_id for recorded in events if not _is_removable(index, recorded, leaving, kept)}
    stay |= _bases(events, stay)
    rest = [recorded for recorded in events if recorded.entry_id in stay]
    gone = [recorded for recorded in events if recorded.entry_id not in stay]
    carriers = {sort_key_of(recorded.event) for recorded in rest if isinstance(recorded.event, CheckpointSaved)} - kept
    removed = Removed(_names(leaving | carriers), _names(support), tuple(_ranges(gone)))
    return Plan(removed, [recorded.entry_id for recorded in gone], rest)


def _is_removable(index: Index, recorded: Recorded, leaving: AbstractSet[bytes], kept: AbstractSet[bytes]) -> bool:
    """Whether an entry that nothing needs may go.

    Writes whose checkpoint is unknown may be early ones, so they stay. A checkpoint that was replaced goes. The new event repeats
    the content of earlier prunings, so that the log does not grow by being pruned.
    """
    event = recorded.event
    if isinstance(event, HistoryPruned):
        return True
    if isinstance(event, WritesSaved):
        return sort_key_of(event) in leaving
    if isinstance(event, CheckpointSaved):
        sort_key = sort_key_of(event)
        return sort_key not in kept or recorded.entry_id not in (
            index.checkpoints.get(sort_key),
            index.hidden.get(sort_key),
        )
    return isinstance(event, ValuesSaved) and sort_key_of(event) not in kept


def _pieces_of(events: Iterable[Recorded]) -> Pieces:
    return {
        (recorded.entry_id, name): piece
        for recorded in events
        if isinstance(recorded.event, (CheckpointSaved, ValuesSaved))
        for name, piece in recorded.event.values.items()
    }


def _bases(events: Sequence[Recorded], stay: AbstractSet[bytes]) -> set[bytes]:
    """The entries that the deltas and versions in those that stay were made against."""
    by_entry = {recorded.entry_id: recorded.event for recorded in events}
    found: set[bytes] = set()
    waiting = list(stay)
    while waiting:
        event = by_entry.get(waiting.pop())
        if not isinstance(event, (CheckpointSaved, ValuesSaved)):
            continue
        bases = {base_of(piece)[0] for piece in event.values.values() if is_delta(piece)}
        if isinstance(event, CheckpointSaved) and event.base:
            bases.add(event.base[0])
        fresh = bases - stay - found
        found |= fresh
        waiting += fresh
    return found


def _entries_of(index: Index, sort_key: bytes, event: CheckpointSaved) -> set[bytes]:
    """The entries that a checkpoint consists of."""
    values = (index.value_entry(event.namespace, channel, key) for channel, key in event.versions.items())
    return {
        index.checkpoints.get(sort_key) or index.hidden[sort_key],
        *(entry_id for _, entry_id in index.writes.get(sort_key, ())),
        *(entry_id for entry_id in values if entry_id),
    }


def _support(
    index: Index, event: CheckpointSaved, checkpoints: Checkpoints, pieces: Pieces, replayed: Replayed
) -> set[bytes]:
    """The sort keys of the ancestors that a checkpoint's channels are rebuilt from."""

    def holds(one: CheckpointSaved, channel: str) -> bool:
        version_key = one.versions.get(channel)
        if version_key is None:
            return False
        entry_id = index.value_entry(one.namespace, channel, version_key)
        return entry_id is not None and pieces.get((entry_id, (channel, version_key)), EMPTY) != EMPTY

    support: set[bytes] = set()
    waiting = {channel for channel in replayed(event) if not holds(event, channel)}
    while waiting and event.parent_id is not None:
        sort_key = checkpoint_sort_key(event.namespace.encode(), event.parent_id.encode())
        parent = checkpoints.get(sort_key)
        if parent is None or sort_key in support:
            break
        support.add(sort_key)
        event = parent
        waiting = {channel for channel in waiting if not holds(parent, channel)}
    return support


def _names(sort_keys: Iterable[bytes]) -> tuple[tuple[str, str], ...]:
    return tuple(split_sort_key(sort_key)[:2] for sort_key in sorted(sort_keys))


def _ranges(gone: Iterable[Recorded]) -> list[tuple[int, int, str]]:
    """The ranges of sequence numbers that are gone: first, last, digest of the last.

    Among them are the ranges in removed prunings. Ranges that meet are joined.
    """
    ranges = []
    for recorded in gone:
        ranges.append((recorded.sequence, recorded.sequence, recorded.digest.decode()))
        if isinstance(recorded.event, HistoryPruned):
            ranges += recorded.event.removed.gone
    joined: list[tuple[int, int, str]] = []
    for first, last, digest in sorted(ranges):
        meets = joined and joined[-1][1] + 1 == first
        joined.append((joined.pop()[0] if meets else first, last, digest))
    return joined

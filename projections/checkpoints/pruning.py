"""Taking checkpoints out of a thread, without taking what the others need.

What to remove is decided here, on events alone: `plan` is pure. The script carries it out if the log has not moved on since; else
it is planned again. Many checkpoints go in several steps, each whole in itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Union

from eventlog.attribution import stamp
from eventlog.codec import EMPTY, base_of, content_digest, encode, is_delta
from eventlog.errors import (
    EventLogError,
    InvalidArgument,
    ServerOutOfMemory,
    SignatureInvalid,
    ThreadBusy,
    ThreadNotFound,
)
from eventlog.events import (
    CheckpointSaved,
    HistoryPruned,
    Recorded,
    Removed,
    RunsDeleted,
    ValuesSaved,
    WritesSaved,
    decode_entry,
    encode_event,
)
from eventlog.flow import Argument, Call, Flow, load_script
from eventlog.framing import counted
from eventlog.keys import ThreadKeys, checkpoint_sort_key, split_sort_key, value_name
from projections.integrity.findings import Verified
from projections.integrity.verify import verify_thread
from projections.log.fold import Index
from projections.log.index import call, check_log, rebuild_index, scan
from projections.log.pages import scan_log

__all__ = ["delete_thread", "remove_checkpoints"]

REMOVE = load_script("projections/checkpoints/remove_checkpoints")
DELETE_THREAD = load_script("projections/checkpoints/delete_thread")

AT_ONCE = 1000
"""Checkpoints taken out in one step."""
ATTEMPTS = 50

Replayed = Callable[[CheckpointSaved], Iterable[str]]
"""Names the channels of a checkpoint that are rebuilt from its ancestors' writes where it holds no value of them."""
Choice = Callable[[Sequence[CheckpointSaved]], Iterable[CheckpointSaved]]
"""Of the listed checkpoints of a thread, in the order they were saved, those to remove."""
Describe = Callable[[Removed], Union[HistoryPruned, RunsDeleted]]


@dataclass(slots=True)
class History:
    """A thread's log without its values, and its index."""

    index: Index
    events: list[Recorded] = field(default_factory=list)

    def checkpoints(self) -> dict[bytes, CheckpointSaved]:
        """Listed checkpoints by place, in the order they were saved."""
        return self._at(self.index.checkpoints)

    def hidden(self) -> dict[bytes, CheckpointSaved]:
        """Checkpoints kept as ancestors only, by place."""
        return self._at(self.index.hidden)

    def _at(self, places: dict[bytes, bytes]) -> dict[bytes, CheckpointSaved]:
        by_entry = {entry_id: place for place, entry_id in places.items()}
        return {
            by_entry[recorded.entry_id]: recorded.event
            for recorded in self.events
            if recorded.entry_id in by_entry and isinstance(recorded.event, CheckpointSaved)
        }


def place_of(event: CheckpointSaved | ValuesSaved | WritesSaved) -> bytes:
    """Place of the checkpoint that an event belongs to."""
    return checkpoint_sort_key(event.namespace.encode(), event.checkpoint_id.encode())


@dataclass(frozen=True, slots=True)
class Plan:
    """What a removal does to the log."""

    removed: Removed
    entries: Sequence[bytes]
    """Entry ids to take out."""
    rest: Sequence[Recorded]
    """The events that stay."""


def plan(history: History, drop: set[bytes], replayed: Replayed) -> Plan:
    """How to take the checkpoints at some places out, keeping what the others need: the values of their versions, their writes,
    and the ancestors that channels they hold no value of are rebuilt from.
    """
    listed, hidden = history.checkpoints(), history.hidden()
    ancestors = listed | hidden
    forms = _forms(history.events)
    needed: set[bytes] = set()
    support: set[bytes] = set()
    for place, event in listed.items():
        if place not in drop:
            needed |= _entries_of(history.index, place, event)
            support |= _support(history.index, event, ancestors, forms, replayed)
    support -= listed.keys() - drop
    for place in support:
        needed |= _entries_of(history.index, place, ancestors[place])
    leave = (drop | hidden.keys()) - support
    kept = (listed.keys() - drop) | support
    stay = needed | {
        recorded.entry_id for recorded in history.events if not _removable(history.index, recorded, leave, kept)
    }
    stay |= _bases(history.events, stay)
    rest = [recorded for recorded in history.events if recorded.entry_id in stay]
    gone = [recorded for recorded in history.events if recorded.entry_id not in stay]
    carriers = {place_of(recorded.event) for recorded in rest if isinstance(recorded.event, CheckpointSaved)} - kept
    removed = Removed(_names(leave | carriers), _names(support), tuple(_ranges(gone)))
    return Plan(removed, [recorded.entry_id for recorded in gone], rest)


def _removable(index: Index, recorded: Recorded, leave: set[bytes], kept: set[bytes]) -> bool:
    """Whether an entry that nothing needs may go. Writes whose checkpoint is unknown may be early: they stay.

    A checkpoint that was replaced goes. What an earlier pruning says is said by the new event as well, so that the log does not
    grow by being pruned.
    """
    event = recorded.event
    if isinstance(event, HistoryPruned):
        return True
    if isinstance(event, WritesSaved):
        return place_of(event) in leave
    if isinstance(event, CheckpointSaved):
        place = place_of(event)
        return place not in kept or recorded.entry_id not in (index.checkpoints.get(place), index.hidden.get(place))
    return isinstance(event, ValuesSaved) and place_of(event) not in kept


Forms = dict[tuple[bytes, tuple[str, str]], bytes]
"""What a scan leaves of each piece, by entry id and (channel, version token)."""


def _forms(events: Iterable[Recorded]) -> Forms:
    return {
        (recorded.entry_id, name): piece
        for recorded in events
        if isinstance(recorded.event, (CheckpointSaved, ValuesSaved))
        for name, piece in recorded.event.values.items()
    }


def _bases(events: Sequence[Recorded], stay: set[bytes]) -> set[bytes]:
    """Entries that those which stay build on: what their deltas were made against, and what their versions changed from."""
    by_entry = {recorded.entry_id: recorded.event for recorded in events}
    found: set[bytes] = set()
    waiting = list(stay)
    while waiting:
        event = by_entry.get(waiting.pop())
        if not isinstance(event, (CheckpointSaved, ValuesSaved)):
            continue
        bases = [base_of(piece)[0] for piece in event.values.values() if is_delta(piece)]
        if isinstance(event, CheckpointSaved) and event.base:
            bases.append(event.base[0])
        for base in bases:
            if base not in stay and base not in found:
                found.add(base)
                waiting.append(base)
    return found


def _value_entry(index: Index, namespace: str, channel: str, token: str) -> bytes | None:
    place = index.values.get(b"v" + counted(namespace.encode()) + value_name(channel.encode(), token.encode()))
    return None if place is None else place[:-8]


def _entries_of(index: Index, place: bytes, event: CheckpointSaved) -> set[bytes]:
    """Entries that a checkpoint consists of."""
    entries = {
        index.checkpoints.get(place) or index.hidden[place],
        *(entry_id for _, entry_id in index.writes.get(place, ())),
    }
    for channel, token in event.versions.items():
        if entry_id := _value_entry(index, event.namespace, channel, token):
            entries.add(entry_id)
    return entries


def _support(
    index: Index,
    event: CheckpointSaved,
    ancestors: dict[bytes, CheckpointSaved],
    forms: Forms,
    replayed: Replayed,
) -> set[bytes]:
    """Places of the ancestors that a checkpoint's channels are rebuilt from."""

    def holds(at: CheckpointSaved, channel: str) -> bool:
        token = at.versions.get(channel)
        entry_id = token is not None and _value_entry(index, at.namespace, channel, token)
        return bool(entry_id) and forms.get((entry_id, (channel, token)), EMPTY) != EMPTY  # type: ignore[arg-type]

    support: set[bytes] = set()
    waiting = {channel for channel in replayed(event) if not holds(event, channel)}
    while waiting and event.parent_id is not None:
        place = checkpoint_sort_key(event.namespace.encode(), event.parent_id.encode())
        parent = ancestors.get(place)
        if parent is None or place in support:
            break
        support.add(place)
        event = parent
        waiting = {channel for channel in waiting if not holds(event, channel)}
    return support


def _names(places: Iterable[bytes]) -> tuple[tuple[str, str], ...]:
    return tuple(split_sort_key(place)[:2] for place in sorted(places))


def _ranges(gone: Iterable[Recorded]) -> list[tuple[int, int, str]]:
    """Sequence ranges of entries, and of what they in turn say is gone: first, last, digest of the last; joined where they meet."""
    ranges = []
    for recorded in gone:
        ranges.append((recorded.sequence, recorded.sequence, recorded.digest.decode()))
        if isinstance(recorded.event, HistoryPruned):
            ranges += recorded.event.removed.gone
    joined: list[tuple[int, int, str]] = []
    for first, last, digest in sorted(ranges):
        if joined and joined[-1][1] + 1 == first:
            first = joined.pop()[0]  # noqa: PLW2901
        joined.append((first, last, digest))
    return joined


def remove_checkpoints(keys: ThreadKeys, choose: Choice, replayed: Replayed, describe: Describe) -> Flow[int]:
    """Takes out the checkpoints that `choose` names, and returns how many they were. If none is left, the thread is deleted.

    Round trips: one per 1000 entries or 4 MiB of the log, and one per 1000 checkpoints.

    Raises:
        ThreadBusy: other writers changed the thread each time before the plan could be carried out.
        CorruptEntry, LogLost: see `projections.log.index.call`.

    """
    taken = failures = 0
    history: History | None = None
    while True:
        if history is None:
            history = yield from read_history(keys)
        listed = history.checkpoints()
        drop = [place_of(event) for event in choose(list(listed.values()))]
        if not drop:
            yield from check_log(keys)
            return taken
        if len(drop) == len(listed):
            if (yield from delete_thread(keys, only=history.index.digest)):
                return taken + len(drop)
            history = None
        else:
            step = set(drop[:AT_ONCE])
            history = yield from carry_out_removal(keys, history, plan(history, step, replayed), describe)
            taken += len(step) if history else 0
            if history and len(step) == len(drop):
                return taken
        if history is None:
            failures += 1
        if failures == ATTEMPTS:
            raise ThreadBusy(
                f"Thread {keys.thread.decode()!r} was written to each time before {len(drop)} of its checkpoints could be "
                "removed. Nothing is broken; call again when it is less busy."
            )


def carry_out_removal(keys: ThreadKeys, history: History, plan: Plan, describe: Describe) -> Flow[History | None]:
    """The history after the plan was carried out; None if it was not, since the log has moved on."""
    before = history.index
    if keys.signer is None and history.events and history.events[-1].signed:
        raise InvalidArgument(
            f"Thread {keys.thread.decode()!r} is signed: a removal without a key would spoil it. "
            "Pass the signing_key that wrote it."
        )
    event = describe(plan.removed)
    fields = keys.signed(encode_event(event))
    after = _folded([*plan.rest, Recorded(b"", before.sequence + 1, b"", event)])
    had, has = before.places(), after.places()
    before_members, after_members = set(before.members()), set(after.members())
    lists: list[list[bytes]] = [
        list(plan.entries),
        [name for name in had if name not in has],
        [part for name, value in has.items() if had.get(name) != value for part in (name, value)],
        list(before_members - after_members),
        [part for member in after_members - before_members for part in (b"0", member)],
    ]
    arguments: list[Argument] = [before.digest, event.kind, content_digest(fields), len(fields), *fields]
    for some in lists:
        arguments += (len(some), *some)
    namespaces = {namespace for namespace, _ in (*plan.removed.dropped, *plan.removed.hidden)}
    heads = [keys.head(namespace.encode()) for namespace in sorted(namespaces)]
    reply = yield from call(keys, REMOVE, arguments, heads)
    if reply[0] != b"ok":
        return None
    keys.note(reply[1], reply[2])
    events = [*plan.rest, Recorded(reply[1], before.sequence + 1, reply[2], event)]
    return History(_folded(events), events)


def _folded(events: Iterable[Recorded]) -> Index:
    index = Index()
    for recorded in events:
        index.add(recorded)
    return index


def read_history(keys: ThreadKeys) -> Flow[History]:
    """A thread's history as a removal needs it. One of a signed thread is signed, so its log is verified first.

    Round trips: one per 1000 entries or 4 MiB of the log, and with a signer those of `verify_thread`. Raises `CorruptEntry`, and
    `SignatureInvalid` for a log that is not as it was written.
    """
    if keys.signer is not None:
        try:
            found: Verified | None = yield from verify_thread(keys)
        except ThreadNotFound:
            found = None  # which is nothing to remove from
        if found is not None and not found.sound:
            raise SignatureInvalid(
                f"Thread {keys.thread.decode()!r}: {found.findings[0].told}. Nothing was removed. Verify the thread, keep what is "
                "there with export_threads(..., damaged=True), and restore its log from an export or a backup."
            )
    history = History(Index())
    history.index = yield from scan(keys, history.events)
    return history


def delete_thread(keys: ThreadKeys, *, only: bytes | None = None) -> Flow[bool]:
    """Deletes every key of a thread and leaves a tombstone in the feed; False if its digest is not `only`.

    One round trip for a thread with checkpoints in the root namespace only, two for any other. A damaged log is deleted too. A
    server that is out of memory refuses the tombstone: there all goes but the last entry of the log, then the tombstone is
    tried again, which a later call does where the server is full still.
    """
    namespaces = [b""]
    mode = b""
    made_room = False
    given = stamp()
    by = b"" if given is None else encode(given)
    while True:
        call_keys = [*keys.all, *(keys.head(namespace) for namespace in namespaces)]
        try:
            reply = yield Call(DELETE_THREAD, call_keys, [keys.thread, only or b"", mode, by, *namespaces])
        except ServerOutOfMemory:
            if made_room:
                raise
            made_room = True
            mode = b"make room"
            continue
        if reply[0] == b"namespaces":
            namespaces = reply[1]
        elif reply[0] == b"stale" and only is not None and not made_room:
            yield from rebuild_index(keys)
        elif reply[0] == b"stale":
            namespaces = yield from _namespaces_in_log(keys)
            mode = b"anyway"
        elif reply[0] == b"room":
            mode = b"anyway"
        else:
            if reply[0] != b"moved":
                keys.forget()
            return bool(reply[0] == b"ok")


def _namespaces_in_log(keys: ThreadKeys) -> Flow[list[bytes]]:
    """Namespaces that the readable entries of a log name."""
    found = {b""}
    after = b""
    more = 1
    while more:
        entries, more, _ = yield from scan_log(keys, after)
        for after, flat in entries:
            try:
                event = decode_entry(keys.thread.decode(), after, flat).event
            except EventLogError:
                continue  # what cannot be read is about to be deleted
            if isinstance(event, (CheckpointSaved, ValuesSaved, WritesSaved)):
                found.add(event.namespace.encode())
    return sorted(found)

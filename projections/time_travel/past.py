"""A thread as it was: its log folded event by event, up to where one is, and the checkpoints that could be read there and then.

What is kept, of each namespace, is its latest checkpoint without values: where these lie, and which entries hold its pending
writes. From one event to the next that takes nothing but the event, as long as a checkpoint follows the latest one, or replaces it,
or comes too late to be the latest. Anything else (a fork, whose values lie further back; a removal of the latest) is looked up
in an index, which is folded up to the event at hand when it is first needed, and gone on from there.

Values are put together as they are asked for (`states.py`). Nothing is taken from views, and nothing is written.

What was pruned is gone from the log, also for the time before. A state from before is given only if the log still shows that it was
so: its checkpoint was not removed or replaced since, none with a greater id was removed since, and its values were not replaced.
Else it is `Unavailable`. (Known limit: of a checkpoint that was put twice with different contents, and whose first entry was pruned
since, the log does not tell that there was a first. Until the second it counts as not there.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Union

from eventlog.chain import links
from eventlog.codec import Malformed
from eventlog.errors import CorruptEntry, EventGone, LogLost, SignatureInvalid, ThreadNotFound
from eventlog.events import (
    CheckpointSaved,
    HistoryPruned,
    Recorded,
    Removed,
    RunsDeleted,
    ValuesSaved,
    WritesSaved,
    decode_entry,
    entry_ms,
)
from eventlog.flow import Call, Flow, load_script
from eventlog.framing import counted, ordered
from eventlog.keys import ThreadKeys, checkpoint_sort_key, split_sort_key, value_name
from projections.log.fold import Index, lacking
from projections.log.pages import SCAN, SCAN_BYTES, read_entries, scan_log
from projections.log.signatures import Names, signed_page
from projections.time_travel.moment import Moment
from projections.time_travel.states import READ_PARTS, Held, States, damaged_entry
from projections.values.pieces import Pieces
from projections.values.stored import StoredCheckpoint, decode_envelope
from projections.values.versions import Versions, overlaid, verify

__all__ = ["Past", "State", "Unavailable"]

MEASURE = load_script("projections/time_travel/measure_log")
NAMESPACES = 128
"""Namespaces that are followed at a time; others are looked up when something happens in them again."""
VECTORS = 64
"""Checkpoints whose versions are kept: those that later ones change are among the last."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A state that the log no longer has, or no longer tells for sure."""

    message: str
    reason: str = "pruned"


State = Union[StoredCheckpoint, Unavailable, None]
"""What could be read of a namespace after an event: None where there was no checkpoint."""


@dataclass(slots=True)
class _Spot:
    """A namespace where one is."""

    held: Held | None = None
    early: dict[str, list[bytes]] = field(default_factory=dict)
    """Entries of writes to checkpoints that are yet to come and would be the latest then."""


@dataclass(frozen=True, slots=True)
class _Removal:
    sequence: int
    first: int
    """The first sequence number that it says is gone."""
    greatest: dict[str, str]
    """By namespace, the greatest id of those it dropped."""


class Past:
    """A thread, event by event. Call `begin`, then either `add` each event in turn, or `go_to` a moment.

    Memory: some latest checkpoints, 8,192 values and writes, of 32 MiB at most, beyond the state last given, and a short name for
    each namespace. Where something had to be looked up, or entries were pruned, the thread's index too (some 0.3 KiB an event).
    """

    def __init__(self, keys: ThreadKeys) -> None:
        self.keys = keys
        self.thread = keys.thread.decode()
        self._names = Names(keys)
        self.sequence = 0
        self.reached = 0
        """The number up to which events had happened then: those right behind the one one is at may be gone."""
        self.last = b""
        """Entry of the event one is at."""
        self._digest = b""
        self.end = 0
        """Where the log ended when it was begun, in ms."""
        self.index = Index()
        """Folded up to some event that one has passed."""
        self._spots: OrderedDict[str, _Spot] = OrderedDict()
        self._elsewhere: set[str] = set()
        """Namespaces that have to be looked up."""
        self._skipped = False
        """Whether any namespace that is not followed has to be looked up."""
        self._removals: list[_Removal] = []
        self._final: Index | None = None
        """Where entries are gone: what the whole log comes to, as far as it can be read."""
        self._damage: tuple[int, str] | None = None
        """The first number that lacks, or follows what cannot be read, and what is wrong there."""
        self._cut = ""
        """What is wrong with the log's end."""
        self._vectors: OrderedDict[bytes, tuple[Versions, int]] = OrderedDict()
        self._states = States(keys)
        self._parts: tuple[tuple[str, str], dict[tuple[str, str], bytes]] | None = None
        """Namespace and id of a checkpoint whose values have begun to come, and their entries."""

    def begin(self) -> Flow[None]:
        """Finds out how far the log goes, and whether entries are gone from it. A round trip; where they are, one more per 1000
        entries or 4 MiB.

        A log that is damaged is no error until one comes to where it is. Raises `ThreadNotFound`, `LogLost`, or `CorruptEntry` for
        one whose last entry is none.
        """
        count, last, sequence, indexed = yield Call(MEASURE, [self.keys.log, self.keys.index], [])
        if not count and indexed:
            raise LogLost(
                f"The log of thread {self.thread!r} is gone, though the thread was not deleted: evicted, or deleted by hand. "
                "Restore it from a backup, or call delete_thread to begin anew."
            )
        if not count:
            raise ThreadNotFound(f"Thread {self.thread!r} has no log. Check the id, and the prefix.")
        try:
            self.end = entry_ms(last)
        except Malformed as error:
            raise CorruptEntry(f"The log of thread {self.thread!r} {error}. Restore it from a backup.") from error
        if sequence != b"%d" % count:
            yield from self._look_ahead()
        if indexed.isdigit() and sequence.isdigit() and int(indexed) > int(sequence):
            self._cut = f"ends with event {sequence.decode()}, its index knows of {indexed.decode()}: the end was taken out by hand"

    def _look_ahead(self) -> Flow[None]:
        """Reads the whole log, or up to where it is damaged, for what is left of it."""
        index, removals = Index(), []
        more, unreadable = 1, ""
        while more:
            try:
                events, more = yield from self.page(index.last if index.entries else b"", SCAN)
            except (CorruptEntry, SignatureInvalid) as error:
                unreadable = str(error)
                break
            for recorded in events:
                index.add(recorded)
                if isinstance(recorded.event, (HistoryPruned, RunsDeleted)):
                    removals.append(_removal_in(recorded.sequence, recorded.event.removed))
        missing = index.missing()
        if missing is not None:  # what is there no more may be accounted for behind what cannot be read
            self._damage = missing, unreadable or lacking(self.thread, missing)
        self._final, self._removals = index, removals

    @property
    def whole_to(self) -> int:
        """The last event that can be read: what follows it lacks, or is damaged."""
        return self.sequence if self._damage is None else min(self.sequence, self._damage[0] - 1)

    def check_end(self) -> None:
        """Raises `CorruptEntry` if the log's end was taken out, as its index knows."""
        if self._cut:
            raise self._cannot_go_on(f"The log of thread {self.thread!r} {self._cut}. Restore it from a backup.")

    def _check_reached(self) -> None:
        if self._damage is not None and self.reached >= self._damage[0]:
            raise self._cannot_go_on(self._damage[1])

    def _cannot_go_on(self, told: str) -> CorruptEntry:
        return CorruptEntry(f"{told} What happened up to event {self.whole_to} can be read." if self.whole_to else told)

    def page(self, after: bytes, most: int) -> Flow[tuple[list[Recorded], int]]:
        """Events behind an entry, values left out, and whether there may be more."""
        if self.keys.signer is not None:
            entries, more, _ = yield from signed_page(self._names, after, most, SCAN_BYTES, values=False)
        else:
            entries, more, _ = yield from scan_log(self.keys, after, most)
        events = self._decoded(entries)
        return events, more or int(len(events) < len(entries))

    def whole_page(self, after: bytes, most: int, most_bytes: int) -> Flow[list[Recorded]]:
        """Events behind an entry, whole."""
        if self.keys.signer is not None:
            entries, *_ = yield from signed_page(self._names, after, most, most_bytes)
        else:
            entries, *_ = yield from read_entries(self.keys, after, most, most_bytes)
        return self._linked(entries, self._decoded(entries))

    def _linked(self, entries: Sequence[tuple[bytes, list[bytes]]], events: list[Recorded]) -> list[Recorded]:
        """The events, which follow the one one is at, up to the first whose digest does not hold. Raises `CorruptEntry` where that
        is the first of all.
        """
        sequence, digest = self.sequence, self._digest
        for number, (recorded, (entry_id, flat)) in enumerate(zip(events, entries, strict=False)):
            if recorded.sequence == sequence + 1 and not links(digest, entry_id, flat):
                if number:
                    return events[:number]
                raise CorruptEntry(
                    f"Entry {entry_id.decode()} of thread {self.thread!r} is not what its digest says, or its predecessor is not "
                    "the one it followed on: one of them was altered. Restore the log from a backup. What comes behind can be read "
                    f"from event {recorded.sequence + 1} on."
                )
            sequence, digest = recorded.sequence, recorded.digest
        return events

    def _decoded(self, entries: Sequence[tuple[bytes, list[bytes]]]) -> list[Recorded]:
        """The events in some entries, up to the first that is none. Raises `CorruptEntry` where that is the first of all."""
        events: list[Recorded] = []
        for entry_id, flat in entries:
            try:
                events.append(decode_entry(self.thread, entry_id, flat))
            except CorruptEntry:
                if not events:
                    raise
                break  # it is the first of the next page
        return events

    def gone(self) -> EventGone:
        """The error for a log that went away meanwhile."""
        return EventGone(f"Thread {self.thread!r} was deleted, or expired, while its history was being read.")

    # moving on

    def go_to(self, moment: Moment | None = None) -> Flow[Recorded | None]:
        """Goes to the last event at or before a moment (None: to the end); the event right behind it, if one was seen.

        One round trip per 1000 entries or 4 MiB.
        """
        after, more, ahead = b"", 1, None
        while more and ahead is None and not (moment is not None and 0 < self.sequence == moment.sequence):
            events, more = yield from self.page(after, SCAN)
            for recorded in events:
                after = recorded.entry_id
                if moment is not None and not moment.covers(recorded):
                    ahead = recorded
                    break
                self._follows(recorded)
                self.index.add(recorded)
        self._skipped = True
        if ahead is not None:
            last = None if moment is None else moment.sequence
            self.reached = ahead.sequence - 1 if last is None else min(last, ahead.sequence - 1)
        gaps = list(self.index.gaps)
        if ahead is not None and ahead.sequence > self.sequence + 1:
            gaps.append((self.sequence + 1, ahead.sequence - 1))
        if any(self._final is None or gap not in self._final.gaps for gap in gaps):
            yield from self._look_ahead()
        self._check_reached()
        if ahead is None and (moment is None or moment.sequence is None or moment.sequence > self.sequence):
            self.check_end()
        return ahead

    def add(self, recorded: Recorded) -> Flow[Recorded]:
        """Goes on by one event; the same, with its versions whole."""
        gap = (self.sequence + 1, recorded.sequence - 1)
        if gap[0] <= gap[1] and (self._final is None or gap not in self._final.gaps):
            yield from self._look_ahead()  # it was pruned meanwhile
        self._follows(recorded)
        self._check_reached()
        event = recorded.event
        if isinstance(event, CheckpointSaved):
            event, depth = yield from self._whole(recorded.entry_id, event)
            yield from self._checkpoint(recorded.entry_id, event, depth)
            return recorded._replace(event=event)
        if isinstance(event, ValuesSaved):
            self._part(recorded.entry_id, event)
            return recorded
        self._end_parts()
        if isinstance(event, WritesSaved):
            self._write(recorded.entry_id, event)
        elif isinstance(event, (HistoryPruned, RunsDeleted)):
            self._remove(event.removed)
        return recorded

    def _follows(self, recorded: Recorded) -> None:
        if recorded.sequence <= self.sequence:
            raise CorruptEntry(
                f"Entry {recorded.entry_id.decode()} of thread {self.thread!r} has sequence number {recorded.sequence}, which came "
                "before. If something other than this package added it, remove it with XDEL; else restore the log from a backup."
            )
        self.sequence, self.last, self.reached = recorded.sequence, recorded.entry_id, recorded.sequence
        self._digest = recorded.digest

    def _whole(self, entry_id: bytes, event: CheckpointSaved) -> Flow[tuple[CheckpointSaved, int]]:
        """A checkpoint with its versions whole, and how many changes they are behind whole ones."""
        own, depth = Versions(event.versions, event.seen), 0
        if event.base is not None:
            known = self._vectors.get(event.base[0])
            if known is None:
                loaded = yield from self._load(event.base[0])
                if loaded is None:
                    raise CorruptEntry(
                        f"The log of thread {self.thread!r} lacks entry {event.base[0].decode(errors='replace')}, which entry "
                        f"{entry_id.decode()} builds on. Restore the log from a backup, or delete the thread."
                    )
                known = Versions(loaded.event.versions, loaded.event.seen), loaded.depth
            own, depth = overlaid(known[0], own), known[1] + 1
        try:
            verify(own, event.check)
        except Malformed as error:
            raise damaged_entry(self.keys, error, entry_id) from error
        self._vectors[entry_id] = own, depth
        if len(self._vectors) > VECTORS:
            self._vectors.popitem(last=False)
        return replace(event, versions=own.channels, seen=own.seen), depth

    def _checkpoint(self, entry_id: bytes, event: CheckpointSaved, depth: int) -> Flow[None]:
        brought = self._brought(entry_id, event)
        spot = self._followed(event.namespace)
        if spot is None:
            return
        held = spot.held
        if held is not None and event.checkpoint_id < held.event.checkpoint_id:
            _renew(held, brought)
            return
        places: dict[str, bytes | None] = {}
        for name in event.versions.items():
            channel, token = name
            if name in brought:
                places[channel] = brought[name]
            elif held is not None and held.event.versions.get(channel) == token:
                places[channel] = held.places[channel]
            else:
                index = yield from self._caught_up()
                places[channel] = _place_in(index, event.namespace, channel, token)
        if held is not None and held.event.checkpoint_id == event.checkpoint_id:
            writes = held.writes
        else:
            writes = spot.early.pop(event.checkpoint_id, [])
            spot.early = {one: entries for one, entries in spot.early.items() if one > event.checkpoint_id}
        spot.held = Held(replace(event, values={}), entry_id, depth, places, writes)

    def _part(self, entry_id: bytes, event: ValuesSaved) -> None:
        """Notes values of a checkpoint that follows: nobody could read them before it."""
        name = event.namespace, event.checkpoint_id
        if self._parts is not None and self._parts[0] != name:
            self._end_parts()
        _, entries = self._parts = self._parts or (name, {})
        entries.update(dict.fromkeys(event.values, entry_id))

    def _end_parts(self) -> None:
        """Counts values whose checkpoint is no longer there."""
        if self._parts is None:
            return
        (namespace, _), entries = self._parts
        self._parts = None
        spot = self._spots.get(namespace)
        if spot is not None and spot.held is not None:
            _renew(spot.held, entries)

    def _brought(self, entry_id: bytes, event: CheckpointSaved) -> dict[tuple[str, str], bytes]:
        """Entries of the values that came with a checkpoint."""
        if self._parts is not None and self._parts[0] != (event.namespace, event.checkpoint_id):
            self._end_parts()
        parts = {} if self._parts is None else self._parts[1]
        self._parts = None
        return {**parts, **dict.fromkeys(event.values, entry_id)}

    def _write(self, entry_id: bytes, event: WritesSaved) -> None:
        spot = self._followed(event.namespace)
        if spot is None:
            return
        latest = "" if spot.held is None else spot.held.event.checkpoint_id
        if spot.held is not None and event.checkpoint_id == latest:
            spot.held.writes.append(entry_id)
        elif spot.held is None or event.checkpoint_id > latest:
            spot.early.setdefault(event.checkpoint_id, []).append(entry_id)

    def _remove(self, removed: Removed) -> None:
        for namespace, checkpoint_id in (*removed.dropped, *removed.hidden):
            spot = self._spots.get(namespace)
            if spot is not None and spot.held is not None and spot.held.event.checkpoint_id == checkpoint_id:
                del self._spots[namespace]
                self._elsewhere.add(namespace)

    def _followed(self, namespace: str) -> _Spot | None:
        """A namespace, begun if it is new; None if it has to be looked up."""
        spot = self._spots.get(namespace)
        if spot is not None:
            self._spots.move_to_end(namespace)
            return spot
        if self._skipped or namespace in self._elsewhere:
            return None
        return self._follow(namespace, _Spot())

    def _follow(self, namespace: str, spot: _Spot) -> _Spot:
        self._spots[namespace] = spot
        if len(self._spots) > NAMESPACES:
            self._elsewhere.add(self._spots.popitem(last=False)[0])
        return spot

    # looking up

    def _caught_up(self) -> Flow[Index]:
        """The index up to the event one is at."""
        while self.index.sequence < self.sequence:
            after = self.index.last if self.index.entries else b""
            events, _ = yield from self.page(after, min(SCAN, self.sequence - self.index.sequence))
            wanted = [recorded for recorded in events if recorded.sequence <= self.sequence]
            for recorded in wanted:
                self.index.add(recorded)
            if not wanted:
                break  # the entry went away
        return self.index

    def _spot(self, namespace: str) -> Flow[_Spot]:
        spot = self._followed(namespace)
        if spot is not None:
            return spot
        index = yield from self._caught_up()
        spot = _Spot()
        latest = max(_within(namespace, index.checkpoints), default=b"")
        if latest:
            spot.held = yield from self._found(index, namespace, latest, index.checkpoints[latest])
        for place in _within(namespace, index.writes):
            if place > latest:
                spot.early[split_sort_key(place)[1]] = [entry_id for _, entry_id in index.writes[place]]
        self._elsewhere.discard(namespace)
        return self._follow(namespace, spot)

    def _found(self, index: Index, namespace: str, place: bytes, entry_id: bytes) -> Flow[Held]:
        """The checkpoint in an entry that an index names."""
        held = yield from self._load(entry_id)
        if held is None:
            raise self.gone()
        held.places = {
            channel: _place_in(index, namespace, channel, token) for channel, token in held.event.versions.items()
        }
        held.writes = [written for _, written in index.writes.get(place, ())]
        return held

    def _load(self, entry_id: bytes) -> Flow[Held | None]:
        """The checkpoint in an entry, without places and writes; None if the entry is gone. One round trip."""
        reply = yield Call(READ_PARTS, self.keys.all, [self.keys.thread, 0, 1, entry_id])
        _, [found], _, flat, vectors = reply
        if not found:
            return None
        envelope, number, parent, check = found
        try:
            namespace, checkpoint_id, body = decode_envelope(envelope)
            versions, depth = Pieces(flat, vectors).versions(number)
            event = CheckpointSaved(
                namespace,
                checkpoint_id,
                parent.decode() or None,
                versions.channels,
                body,
                seen=versions.seen,
                check=check,
            )
        except (Malformed, ValueError) as error:
            raise damaged_entry(self.keys, error, entry_id) from error
        return Held(event, entry_id, depth, {}, [])

    # states

    def ids(self, namespace: str) -> Flow[list[str]]:
        """Ids of the checkpoints that could be read where one is, smallest first."""
        index = yield from self._caught_up()
        return [split_sort_key(place)[1] for place in sorted(_within(namespace, index.checkpoints))]

    def namespaces(self) -> Flow[list[str]]:
        """Namespaces that had a checkpoint where one is."""
        index = yield from self._caught_up()
        return sorted({split_sort_key(place)[0] for place in index.checkpoints})

    def state(self, namespace: str) -> Flow[State]:
        """The latest checkpoint of a namespace, where one is. No round trip if what it needs was seen lately, else one; those of an
        index where it has to be looked up.
        """
        held = (yield from self._spot(namespace)).held
        if self._unsettled() and not (held is not None and self._intact(held) and self._is_latest(held)):
            return self._unavailable(namespace)
        return None if held is None else (yield from self._assembled(held))

    def checkpoint(self, namespace: str, checkpoint_id: str) -> Flow[State]:
        """The checkpoint of an id, where one is. Round trips as of `state`."""
        spot = self._spots.get(namespace)
        held = None if spot is None else spot.held
        if held is None or held.event.checkpoint_id != checkpoint_id:
            index = yield from self._caught_up()
            place = checkpoint_sort_key(namespace.encode(), checkpoint_id.encode())
            entry_id = index.checkpoints.get(place)
            if entry_id is None:
                return self._unavailable(namespace) if self._unsettled() else None
            held = yield from self._found(index, namespace, place, entry_id)
        if self._unsettled() and not self._intact(held):
            return self._unavailable(namespace)
        return (yield from self._assembled(held))

    def _unsettled(self) -> bool:
        """Whether entries from before are gone that were there still."""
        return any(one.sequence > self.sequence and one.first <= self.reached for one in self._removals)

    def _intact(self, held: Held) -> bool:
        """Whether a checkpoint is, in the end, what it was: neither removed nor replaced, nor any of its values."""
        event, final = held.event, self._final
        assert final is not None
        place = checkpoint_sort_key(event.namespace.encode(), event.checkpoint_id.encode())
        if held.entry_id not in (final.checkpoints.get(place), final.hidden.get(place)):
            return False
        return all(
            _place_in(final, event.namespace, channel, token) == held.places[channel]
            for channel, token in event.versions.items()
        )

    def _is_latest(self, held: Held) -> bool:
        """Whether no checkpoint with a greater id was removed since."""
        event = held.event
        return not any(
            one.sequence > self.sequence
            and one.first <= self.reached
            and one.greatest.get(event.namespace, "") > event.checkpoint_id
            for one in self._removals
        )

    def _unavailable(self, namespace: str) -> Unavailable:
        where = f", namespace {namespace!r}," if namespace else ""
        return Unavailable(
            f"The state of thread {self.thread!r}{where} as of event {self.sequence} is no longer known: what it needs was pruned "
            "since. Restore the log from a backup or an export to look at it."
        )

    def _assembled(self, held: Held) -> Flow[State]:
        """A checkpoint with its values and pending writes. Raises `CorruptEntry` if some of it is gone, unless it was pruned."""
        state = yield from self._states.assembled(held)
        if state is not None:
            return state
        yield from self._look_ahead()
        if self._final is not None and self._final.gaps:
            return self._unavailable(held.event.namespace)
        raise damaged_entry(self.keys, Malformed("needs what the log lacks, though nothing was pruned"), held.entry_id)

    def offer(self, recorded: Recorded) -> None:
        """Keeps what an event that was read whole has of values and writes, for states to come. Raises `CorruptEntry`."""
        self._states.offer(recorded)


def _removal_in(sequence: int, removed: Removed) -> _Removal:
    greatest: dict[str, str] = {}
    for namespace, checkpoint_id in removed.dropped:
        greatest[namespace] = max(checkpoint_id, greatest.get(namespace, ""))
    return _Removal(sequence, min((first for first, _, _ in removed.gone), default=sequence + 1), greatest)


def _renew(held: Held, entries: dict[tuple[str, str], bytes]) -> None:
    """Notes values that came for versions of a checkpoint that is there: the last one saved counts."""
    for (channel, token), entry_id in entries.items():
        if held.event.versions.get(channel) == token:
            held.places[channel] = entry_id


def _within(namespace: str, places: Iterable[bytes]) -> Iterator[bytes]:
    """Those places that are of a namespace."""
    own = ordered(namespace.encode())
    for place in places:
        if place.startswith(own) and place[len(own) : len(own) + 1] != b"\xff":  # the name ends there
            yield place


def _place_in(index: Index, namespace: str, channel: str, token: str) -> bytes | None:
    """Entry of a value, None if none was stored."""
    name = b"v" + counted(namespace.encode()) + value_name(channel.encode(), token.encode())
    place = index.values.get(name)
    return None if place is None else place[:-8]

"""A member's partitions and the event it has in hand: the state, and what changes it. No I/O.

Theory of operation:

1. The *assignment* is the set of partitions that a member leases. Each *assigned partition* is read in batches, and the
   events of a batch are handed out in order. `PARTITIONS` says how a partition goes from one state to another.
2. An event is *in hand* from the moment it is handed out until it is done with. There is one at a time. `EVENTS` says
   what the member writes when it is done with an event. An event whose write the server did not accept stays in hand.
3. The position of a partition moves past an event in memory. The position is *settled*, which means written to the
   server, with the next read, with any other write, or when it has been open for `acknowledge_within`.
4. An event that fails becomes a *waiting event*. Later events of its thread join it instead of being handed out. The
   other threads of the partition go on. A thread that is due has its waiting events handed out in order.
5. Each read and each settlement names the fencing token of the lease and the entry read last. If another member has
   the lease, the partition is gone at once, with all that was not settled. If the server lost the entry, as in a
   failover, the partition is astray: the member raises the error once, and asks the server for the group's position.
6. The fast path (`Assignment.finish_and_ready`) only replaces a fresh event by the next fresh event of a partition that
   stays ready. Each other change goes through the tables.

Warts:

- An event that was handled, but not settled when its member died or lost its lease, is handed out again.
- A thread that was freed from outside (`Group.skip`) counts as waiting until its next event joined and came out again.
- After a settlement whose reply was lost, the same settlement has to be sent before any other. A member that leaves
  with a failure instead raises `PositionLost`, and the event is handed out again.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Any, NamedTuple

from eventlog.errors import CorruptEntry
from eventlog.feed.activity import (
    Activity,
    ActivityLoader,
    fingerprint_of,
    pack_pointer,
    read_pointer,
    unpack_pointer,
)
from eventlog.feed.effects import Effects
from eventlog.feed.failures import Failure
from eventlog.feed.leases import Gained, Leases
from eventlog.feed.position import Offset
from eventlog.feed.replies import Page, Schedule
from eventlog.framing import ordered
from eventlog.keys import GroupKeys, Keyspace

__all__ = [
    "EVENTS",
    "PARTITIONS",
    "AssignedPartition",
    "Assignment",
    "Backlog",
    "EventState",
    "Happened",
    "InHand",
    "Outcome",
    "PartitionState",
    "Progress",
    "Retry",
    "Step",
    "Write",
]

log = logging.getLogger("eventlog.feed")


class PartitionState(Enum):
    """The states of an assigned partition."""

    BEHIND = "behind: all events read are handed out, and more may follow"
    READY = "ready: events are read, and more may follow"
    LAST_READY = "ready: the last events are read"
    CAUGHT_UP = "caught up: all events read are handed out, and no more are known"
    ASTRAY = "astray: the server lost the entry read last"
    GONE = "gone: the lease was lost or given back"


class Happened(Enum):
    """What can happen to an assigned partition."""

    EVENTS = "a read returned events, and more may follow"
    LAST_EVENTS = "a read returned the last events"
    SKIPPED = "a read returned no events, since filters left them out, and more may follow"
    NOTHING = "a read returned no events"
    DRAINED = "the last event read was handed out"
    UNREADABLE = "the next event read cannot be decoded"
    RUNG = "something may have come, or may be due"
    LOST = "the server replied that it does not have the entry read last"
    LEFT = "another member has the lease, or it was given back"


class EventState(Enum):
    """The states of an event that was handed out."""

    FRESH = "read from the feed, without effects"
    BOUND = "read from the feed, to be acknowledged by a round trip of its own"
    WAITED = "handed out from the waiting events"
    DONE = "done with"


class Outcome(Enum):
    """What can happen to an event in hand."""

    EFFECT = "its handler added an effect"
    HANDLED = "its handler is through with it"
    FAILED = "its handler raised"
    LET_GO = "the member leaves it to be handed out again"


class Write(NamedTuple):
    """What a settlement writes of the event in hand."""

    advances: bool = False
    """The position moves past the event."""
    takes_out: bool = False
    """The event leaves the waiting events."""
    lays_aside: bool = False
    """The event is a waiting event, with its failure."""
    effects: bool = False
    """The effects run."""


class Step(NamedTuple):
    """The state that follows, and what has to be written first; None for no round trip."""

    state: EventState
    write: Write | None = None


_P, _H, _E, _O = PartitionState, Happened, EventState, Outcome

PARTITIONS: dict[PartitionState, dict[Happened, PartitionState]] = {
    _P.BEHIND: {
        _H.EVENTS: _P.READY,
        _H.LAST_EVENTS: _P.LAST_READY,
        _H.SKIPPED: _P.BEHIND,
        _H.NOTHING: _P.CAUGHT_UP,
        _H.RUNG: _P.BEHIND,
        _H.LOST: _P.ASTRAY,
        _H.LEFT: _P.GONE,
    },
    _P.READY: {
        _H.DRAINED: _P.BEHIND,
        _H.UNREADABLE: _P.BEHIND,
        _H.RUNG: _P.READY,
        _H.LOST: _P.ASTRAY,
        _H.LEFT: _P.GONE,
    },
    _P.LAST_READY: {
        _H.DRAINED: _P.CAUGHT_UP,
        _H.UNREADABLE: _P.BEHIND,
        _H.RUNG: _P.READY,
        _H.LOST: _P.ASTRAY,
        _H.LEFT: _P.GONE,
    },
    _P.CAUGHT_UP: {
        _H.RUNG: _P.BEHIND,
        _H.LOST: _P.ASTRAY,
        _H.LEFT: _P.GONE,
    },
    _P.ASTRAY: {
        _H.LEFT: _P.GONE,
    },
    _P.GONE: {},
}
"""What follows when something happens to a partition in some state. A pair without an entry is impossible."""

EVENTS: dict[EventState, dict[Outcome, Step]] = {
    _E.FRESH: {
        _O.EFFECT: Step(_E.BOUND),
        _O.HANDLED: Step(_E.DONE),
        _O.FAILED: Step(_E.DONE, Write(advances=True, lays_aside=True)),
        _O.LET_GO: Step(_E.DONE),
    },
    _E.BOUND: {
        _O.EFFECT: Step(_E.BOUND),
        _O.HANDLED: Step(_E.DONE, Write(advances=True, effects=True)),
        _O.FAILED: Step(_E.DONE, Write(advances=True, lays_aside=True)),
        _O.LET_GO: Step(_E.DONE),
    },
    _E.WAITED: {
        _O.EFFECT: Step(_E.WAITED),
        _O.HANDLED: Step(_E.DONE, Write(takes_out=True, effects=True)),
        _O.FAILED: Step(_E.DONE, Write(lays_aside=True)),
        _O.LET_GO: Step(_E.DONE),
    },
    _E.DONE: {},
}
"""What follows when something happens to an event in some state. A pair without an entry is impossible."""

FRESH, BOUND, WAITED, DONE = EventState
"""The states, at hand for the fast path: before Python 3.12 looking up a member of an enum takes long."""
READY_STATES = (PartitionState.READY, PartitionState.LAST_READY)


class Progress(NamedTuple):
    """A place in a partition's feed."""

    offset: Offset
    n: int
    """The number of entries of the feed up to the offset, trimmed ones included."""


STAY = Progress(Offset(""), 0)
"""The position stays as it is."""


@dataclass(slots=True)
class Stretch:
    """The part of a partition's feed that was read last."""

    start: Progress
    """The last entry before it."""
    end: Progress
    """The last entry looked at."""
    pointers: list[Any] = field(default_factory=list)
    """As `Page.pointers`."""
    next: int = 0
    """The index of the pointer to be handed out next."""

    def is_drained(self) -> bool:
        """Whether all pointers were handed out."""
        return self.next >= len(self.pointers)

    def cut(self) -> Stretch:
        """The part that was handed out, so that the rest is read again."""
        if not self.next:
            return Stretch(self.start, self.start)
        pointers = self.pointers[: self.next]
        entry = pointers[-1]
        last = Offset(entry[0].decode(), fingerprint_of(entry[1]).decode())
        return Stretch(self.start, Progress(last, self.start.n + looked(entry, self.next)), pointers, self.next)


def looked(entry: Any, index: int) -> int:
    """The number of entries of a stretch up to a pointer, which is the last of `index` pointers."""
    return int(entry[2]) if len(entry) > 2 else index


@dataclass(slots=True)
class Unsettled:
    """What was done in a partition since the last settlement."""

    last: InHand | None = None
    """The last event that is done with."""
    handled: int = 0
    """The number of events handled."""
    joined: list[bytes] = field(default_factory=list)
    """Threads and packed events, in turn, that become waiting events."""


@dataclass(slots=True, eq=False)
class AssignedPartition:
    """A partition that the member leases."""

    number: int
    token: bytes
    """The fencing token of the lease."""
    keys: GroupKeys
    stretch: Stretch
    settled: str
    """The entry id of the position that the server has."""
    stamp: bytes
    """The stamp of the last settlement."""
    waiting: set[str]
    """Threads with waiting events."""
    due: deque[bytes] = field(default_factory=deque)
    """Threads whose waiting events are to be handed out now."""
    next_due: float = inf
    """When, by the monotonic clock, the next thread is due."""
    unsettled: Unsettled = field(default_factory=Unsettled)
    state: PartitionState = PartitionState.BEHIND

    def became(self, happened: Happened) -> None:
        """Goes to the state that follows. Raises `RuntimeError` for a pair that `PARTITIONS` does not have."""
        following = PARTITIONS[self.state].get(happened)
        if following is None:
            raise RuntimeError(f"Partition {self.number}: {happened.value!r} is impossible while {self.state.value!r}.")
        self.state = following

    @property
    def is_held(self) -> bool:
        """Whether the member may read and settle the partition."""
        return self.state is not PartitionState.GONE and self.state is not PartitionState.ASTRAY


class Retry(NamedTuple):
    """The failure of an event, and when the event is tried again."""

    failure: Failure
    delay: float
    """Seconds from the failure on; `inf` for an event that is parked."""


@dataclass(slots=True, eq=False)
class InHand:
    """An event that was handed out."""

    partition: AssignedPartition
    activity: Activity
    n: int
    """As `Progress.n`, 0 for an event that waited."""
    state: EventState
    packed: bytes = b""
    """The member of the waiting events, for an event that waited."""
    retry: Retry | None = None
    """What was decided when it failed, kept so that a repeated settlement is the same."""

    def step(self, outcome: Outcome) -> Step:
        """What follows. Raises `RuntimeError` for a pair that `EVENTS` does not have."""
        step = EVENTS[self.state].get(outcome)
        if step is None:
            raise RuntimeError(
                f"Event {self.activity.event_id}: {outcome.value!r} is impossible while {self.state.value!r}."
            )
        return step


@dataclass(slots=True)
class Backlog:
    """Waiting events of one thread, fetched and not handed out yet."""

    partition: AssignedPartition
    thread: bytes
    events: deque[bytes]
    attempt: int
    """The attempt that handing out the first event is."""


class Assignment:
    """The partitions of one member. Used by one thread or task at a time; only the leases are kept up beside it."""

    def __init__(
        self, keyspace: Keyspace, group: str, leases: Leases, loader: ActivityLoader, acknowledge_within: float
    ) -> None:
        self._keyspace = keyspace
        self._group = group
        self._leases = leases
        self._loader = loader
        self._within = acknowledge_within
        self._fresh = FRESH if acknowledge_within else BOUND
        self.partitions: dict[int, AssignedPartition] = {}
        self.in_hand: InHand | None = None
        self.effects = Effects()
        """The effects of the event in hand."""
        self.backlog: Backlog | None = None
        self.since_backlog = 0
        """The number of events handed out since a backlog was fetched last."""
        self.settle_at = inf
        """When, by the monotonic clock, what was done has to be settled."""
        self._ready: deque[AssignedPartition] = deque()
        """Partitions in a state of `READY_STATES`, in the order they are handed out."""

    # The event in hand.

    def finish_and_ready(self) -> Activity | None:
        """Counts the event in hand as handled, and hands out the next, if no round trip has to come first."""
        if self._leases.news or self.backlog is not None:
            return None
        now = time.monotonic()
        hand = self.in_hand
        if hand is not None:  # as `finish_in_memory`, without its calls: this runs for each event
            if hand.state is not FRESH:
                return None
            hand.state, self.in_hand = DONE, None
            unsettled = hand.partition.unsettled
            unsettled.last = hand
            unsettled.handled += 1
            if self.settle_at == inf:
                self.settle_at = now + self._within
        return None if now >= self.settle_at else self.next_ready()

    def finish_in_memory(self) -> bool:
        """Counts the event in hand as handled, if that needs no round trip."""
        hand = self.in_hand
        if hand is None:
            return True
        if hand.step(Outcome.HANDLED).write is not None:
            return False
        hand.partition.unsettled.handled += 1
        self._pass(hand)
        self.let_go(Outcome.HANDLED)
        return True

    def let_go(self, outcome: Outcome = Outcome.LET_GO) -> None:
        """Ends the event in hand: its outcome is written, or it is left to be handed out again."""
        if self.in_hand is not None:
            self.in_hand.state = self.in_hand.step(outcome).state
        self.in_hand = None
        self.effects.clear()

    def add_effect(self, hand: InHand, command: str, name: bytes, arguments: Any) -> None:
        """Adds an effect to those of the event in hand."""
        self.effects.add(command, hand.partition.keys.effects + name, arguments)
        hand.state = hand.step(Outcome.EFFECT).state

    # Handing out.

    @property
    def is_ready(self) -> bool:
        """Whether events are read that were not handed out."""
        return bool(self._ready)

    def next_ready(self) -> Activity | None:
        """Hands out the next event that was read. Raises `CorruptEntry`, and has it read again later."""
        while self._ready:
            partition = self._ready[0]
            stretch, waiting = partition.stretch, partition.waiting
            while stretch.next < len(stretch.pointers):
                entry = stretch.pointers[stretch.next]
                try:
                    activity = read_pointer(partition.number, entry[0], entry[1], loader=self._loader)
                except CorruptEntry:
                    partition.stretch = stretch.cut()
                    self._unready(partition, Happened.UNREADABLE)
                    raise
                stretch.next += 1
                n = stretch.start.n + (entry[2] if len(entry) > 2 else stretch.next)
                hand = InHand(partition, activity, n, self._fresh)
                if waiting and activity.thread_id in waiting:
                    self._join(hand)
                    continue
                self.since_backlog += 1
                self.in_hand = hand
                return activity
            self._unready(partition, Happened.DRAINED)
        return None

    def next_waiting(self) -> Activity | None:
        """Hands out the next event of the backlog."""
        backlog = self.backlog
        if backlog is None:
            return None
        if not backlog.events:
            self.backlog = None
            return None
        packed = backlog.events.popleft()
        attempt, backlog.attempt = backlog.attempt, 1
        partition = backlog.partition
        pointer = packed[len(ordered(backlog.thread)) :]
        activity = unpack_pointer(partition.number, pointer, loader=self._loader, attempt=attempt)
        self.in_hand = InHand(partition, activity, 0, WAITED, packed)
        return activity

    def _join(self, hand: InHand) -> None:
        """Has an event wait with its thread instead of being handed out."""
        hand.partition.unsettled.joined += (hand.activity.thread_id.encode(), packed_event(hand))
        self._pass(hand)

    def _pass(self, hand: InHand) -> None:
        """Moves a partition's position past an event, in memory."""
        hand.partition.unsettled.last = hand
        if self.settle_at == inf:
            self.settle_at = time.monotonic() + self._within

    def _unready(self, partition: AssignedPartition, happened: Happened) -> None:
        partition.became(happened)
        self._ready.remove(partition)

    # Partitions.

    def held(self) -> Iterator[AssignedPartition]:
        """The partitions that may be read and settled; they may come and go meanwhile."""
        return (one for one in list(self.partitions.values()) if one.is_held)

    def hear(self) -> None:
        """Takes in what the upkeep of the leases found out."""
        while self._leases.news:
            news = self._leases.news.popleft()
            if isinstance(news, Gained):
                self._gain(news)
                continue
            partition = self.partitions.get(news.number)
            if partition is not None and partition.token == news.token:
                self.drop(partition)

    def _gain(self, news: Gained) -> None:
        if self._leases.tokens.get(news.number) != news.token:
            return
        if news.number in self.partitions:
            self._forget(self.partitions[news.number])
        keys = self._keyspace.partition(news.number).group(self._group.encode())
        start = Progress(news.at.offset, news.at.n)
        self.partitions[news.number] = AssignedPartition(
            news.number, news.token, keys, Stretch(start, start), start.offset.id, news.at.stamp, set(news.at.waiting)
        )

    def drop(self, partition: AssignedPartition) -> None:
        """Forgets a partition whose lease is lost or given back."""
        log.info("Group %r: partition %d went to another member", self._group, partition.number)
        self._leases.drop(partition.number, partition.token)
        self._forget(partition)

    def _forget(self, partition: AssignedPartition) -> None:
        self._set_aside(partition, Happened.LEFT)
        del self.partitions[partition.number]

    def go_astray(self, partition: AssignedPartition) -> None:
        """Notes that the server lost the entry that was read last of a partition."""
        self._set_aside(partition, Happened.LOST)

    def _set_aside(self, partition: AssignedPartition, happened: Happened) -> None:
        partition.became(happened)
        if partition in self._ready:
            self._ready.remove(partition)
        if self.backlog is not None and self.backlog.partition is partition:
            self.backlog = None

    def take_in(self, partition: AssignedPartition, page: Page, schedule: Schedule) -> None:
        """Takes in what was read of a partition, and the threads that are due there."""
        start = partition.stretch.end
        partition.stretch = Stretch(start, Progress(page.offset, start.n + page.looked), page.pointers)
        partition.due = deque(schedule.due)
        partition.next_due = time.monotonic() + schedule.seconds
        if page.pointers:
            partition.became(Happened.EVENTS if page.more else Happened.LAST_EVENTS)
            self._ready.append(partition)
        else:
            partition.became(Happened.SKIPPED if page.more else Happened.NOTHING)

    # Settling.

    def reached(self, partition: AssignedPartition, done: InHand | None = None) -> Progress:
        """The position to be written; `STAY` if the server has it. `done`: an event that counts as done with."""
        hand, stretch = self.in_hand, partition.stretch
        is_open = hand is not None and hand is not done and hand.partition is partition and not hand.packed
        last = done or partition.unsettled.last
        if stretch.is_drained() and not is_open:
            found = stretch.end
        elif last is not None:
            found = Progress(last.activity.offset, last.n)
        else:
            return STAY
        return STAY if found.offset.id == partition.settled else found

    def is_unsettled(self, partition: AssignedPartition) -> bool:
        """Whether there is something to write of a partition."""
        return bool(partition.unsettled.joined) or self.reached(partition) is not STAY

    def note_settled(self, partition: AssignedPartition, position: Progress, stamp: bytes) -> None:
        """Takes in that the server accepted a settlement."""
        partition.stamp = stamp
        partition.unsettled = Unsettled()
        if position is not STAY:
            partition.settled = position.offset.id

    def note_handled(self, hand: InHand, free: Sequence[bytes]) -> None:
        """Takes in that the server accepted that the event in hand was handled; `free`: threads with no waiting events."""
        partition, thread = hand.partition, hand.activity.thread_id.encode()
        if hand.packed and thread in free:
            partition.waiting.discard(hand.activity.thread_id)
        elif hand.packed and (self.backlog is None or not self.backlog.events):
            partition.due.append(thread)
        self.let_go(Outcome.HANDLED)

    def note_failed(self, hand: InHand, delay: float) -> None:
        """Takes in that the server accepted that the event in hand failed; it is due in `delay` seconds."""
        partition, thread = hand.partition, hand.activity.thread_id.encode()
        partition.waiting.add(hand.activity.thread_id)
        partition.due = deque(other for other in partition.due if other != thread)
        partition.next_due = min(partition.next_due, time.monotonic() + delay)
        if self.backlog is not None and self.backlog.partition is partition and self.backlog.thread == thread:
            self.backlog = None
        self.let_go(Outcome.FAILED)


def packed_event(hand: InHand) -> bytes:
    """The member of the waiting events for an event."""
    return hand.packed or ordered(hand.activity.thread_id.encode()) + pack_pointer(hand.activity)

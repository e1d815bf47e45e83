"""A member's assigned partitions and the event that it has in hand, without I/O.

`states.py` has the theory of operation and the tables. The round trips are in `delivery.py`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from eventlog.errors import CorruptEntry, InvalidArgument
from eventlog.feed.activity import (
    Activity,
    ActivityLoader,
    fingerprint_of,
    pack_pointer,
    read_pointer,
    unpack_pointer,
)
from eventlog.feed.effects import Effect, effect_of
from eventlog.feed.failures import Failure
from eventlog.feed.leases import Gained, Leases
from eventlog.feed.position import Offset
from eventlog.feed.replies import Page, Schedule
from eventlog.feed.states import (
    BOUND,
    DONE,
    EVENTS,
    FRESH,
    PARTITIONS,
    EventState,
    Happened,
    Outcome,
    PartitionState,
    Step,
)
from eventlog.framing import ordered
from eventlog.keys import GroupKeys, Keyspace, text

__all__ = ["STAY", "AssignedPartition", "Assignment", "Backlog", "InHand", "Progress", "Retry"]

log = logging.getLogger("eventlog.feed")


class Progress(NamedTuple):
    """An offset, and the number of entries up to it."""

    offset: Offset
    n: int
    """The number of entries of the feed up to the offset, trimmed ones included."""


STAY = Progress(Offset(""), 0)
"""A position that is not to be written."""


@dataclass(slots=True)
class Stretch:
    """The part of a partition's feed that was read last."""

    start: Progress
    """The last entry before the stretch."""
    end: Progress
    """The last entry looked at."""
    pointers: list[Any] = field(default_factory=list)
    """The same as `Page.pointers`."""
    next: int = 0
    """The index of the pointer to be handed out next."""

    def is_drained(self) -> bool:
        """Whether all pointers were handed out."""
        return self.next >= len(self.pointers)

    def cut(self) -> Stretch:
        """The stretch without the pointers that were not handed out."""
        if not self.next:
            return Stretch(self.start, self.start)
        pointers = self.pointers[: self.next]
        entry_id, flat, *looked = pointers[-1]
        last = Offset(entry_id.decode(), fingerprint_of(flat).decode())
        return Stretch(
            self.start, Progress(last, self.start.n + (looked[0] if looked else self.next)), pointers, self.next
        )


@dataclass(slots=True)
class Unsettled:
    """The progress in a partition since its last settlement."""

    last: InHand | None = None
    """The last event that is done with."""
    handled: int = 0
    """The number of events handled."""
    joined: list[bytes] = field(default_factory=list)
    """Threads and packed events, in turn, of events that join the waiting events."""


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
    """The threads with waiting events."""
    due: deque[bytes] = field(default_factory=deque)
    """The threads whose waiting events are due."""
    next_due: float = inf
    """The time, by the monotonic clock, when another thread is due."""
    unsettled: Unsettled = field(default_factory=Unsettled)
    state: PartitionState = PartitionState.BEHIND

    def became(self, happened: Happened) -> None:
        """Goes to the next state; a pair without one raises `RuntimeError`."""
        following = PARTITIONS[self.state].get(happened)
        if following is None:
            raise RuntimeError(f"Partition {self.number} is {self.state.name}; {happened.name} is impossible then.")
        self.state = following

    @property
    def is_assigned(self) -> bool:
        """Whether the member may read and settle the partition."""
        return self.state is not PartitionState.ASTRAY and self.state is not PartitionState.GONE


class Retry(NamedTuple):
    """The failure of an event, and the time until its next attempt."""

    failure: Failure
    delay: float
    """The seconds from the failure on; `inf` for an event that is parked."""


@dataclass(slots=True, eq=False)
class InHand:
    """An event that was handed out."""

    partition: AssignedPartition
    activity: Activity
    n: int
    """The same as `Progress.n`; 0 for an event that waited."""
    state: EventState
    packed: bytes = b""
    """The stored form of an event that waited."""
    retry: Retry | None = None
    """The decision on an event that failed, kept so that a repeated settlement is the same."""

    def step(self, outcome: Outcome) -> Step:
        """The step that follows; a pair without one raises `RuntimeError`."""
        step = EVENTS[self.state].get(outcome)
        if step is None:
            raise RuntimeError(
                f"Event {self.activity.event_id} is {self.state.name}; {outcome.name} is impossible then."
            )
        return step

    @property
    def thread(self) -> bytes:
        """The thread of the event."""
        return self.activity.thread_id.encode()

    def as_waiting(self) -> bytes:
        """The form in which the event is stored among the waiting events."""
        return self.packed or ordered(self.thread) + pack_pointer(self.activity)


@dataclass(slots=True)
class Backlog:
    """Waiting events of one thread that were fetched."""

    partition: AssignedPartition
    thread: bytes
    events: deque[bytes]
    """The events that were not handed out."""
    attempt: int
    """The number of the attempt on the first event."""


class Assignment:
    """The partitions of one member, for one thread or task at a time."""

    def __init__(
        self, keyspace: Keyspace, group: str, leases: Leases, loader: ActivityLoader, acknowledge_within: float
    ) -> None:
        self._keyspace = keyspace
        self._group = group
        self._leases = leases
        self._loader = loader
        self._within = acknowledge_within
        self._first_state = FRESH if acknowledge_within else BOUND
        self.partitions: dict[int, AssignedPartition] = {}
        self.in_hand: InHand | None = None
        self.effects: list[Effect] = []
        """The effects of the event in hand."""
        self.backlog: Backlog | None = None
        self.since_backlog = 0
        """The number of events handed out since the last backlog was fetched."""
        self.settle_at = inf
        """The time, by the monotonic clock, when the progress has to be settled."""
        self._ready: deque[AssignedPartition] = deque()
        """The partitions that have events to hand out, first read first."""

    # The event in hand.

    def finish_and_ready(self) -> Activity | None:
        """Finishes the event in hand and hands out the next, if no round trip comes first."""
        if self._leases.news or self.backlog is not None:
            return None
        now = time.monotonic()
        hand = self.in_hand
        if hand is not None:  # the same as `finish_in_memory`, without its calls: this runs for each event
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
        self._advance(hand)
        self.let_go(Outcome.HANDLED)
        return True

    def let_go(self, outcome: Outcome = Outcome.LET_GO) -> None:
        """Ends the event in hand."""
        if self.in_hand is not None:
            self.in_hand.state = self.in_hand.step(outcome).state
        self.in_hand = None
        self.effects = []

    def add_effect(self, command: object, name: str, arguments: Sequence[object]) -> None:
        """Adds an effect to those of the event in hand, or refuses it."""
        hand = self.in_hand
        if hand is None:
            raise InvalidArgument("An effect belongs to the event in hand; there is none.")
        key = text("effect key", name)
        self._keyspace.limits.check_ids([("effect key", key)])
        self.effects.append(effect_of(command, hand.partition.keys.effects + key, arguments))
        hand.state = hand.step(Outcome.EFFECT).state

    # Handing out.

    @property
    def is_ready(self) -> bool:
        """Whether events are read and not handed out."""
        return bool(self._ready)

    def next_ready(self) -> Activity | None:
        """Hands out the next event that was read.

        Raises `CorruptEntry` for an entry that is no pointer, and reads it again later.
        """
        while self._ready:
            partition = self._ready[0]
            stretch, waiting = partition.stretch, partition.waiting
            while stretch.next < len(stretch.pointers):
                entry = stretch.pointers[stretch.next]
                try:
                    activity = read_pointer(partition.number, entry[0], entry[1], loader=self._loader)
                except CorruptEntry:
                    partition.stretch = stretch.cut()
                    self._end_turn(partition, Happened.UNREADABLE)
                    raise
                stretch.next += 1
                n = stretch.start.n + (entry[2] if len(entry) > 2 else stretch.next)
                hand = InHand(partition, activity, n, self._first_state)
                if waiting and activity.thread_id in waiting:
                    partition.unsettled.joined += (hand.thread, hand.as_waiting())
                    self._advance(hand)
                    continue
                self.since_backlog += 1
                self.in_hand = hand
                return activity
            self._end_turn(partition, Happened.DRAINED)
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
        partition, pointer = backlog.partition, packed[len(ordered(backlog.thread)) :]
        activity = unpack_pointer(partition.number, pointer, loader=self._loader, attempt=attempt)
        self.in_hand = InHand(partition, activity, 0, EventState.WAITED, packed)
        return activity

    def _advance(self, hand: InHand) -> None:
        """Moves the position past an event, in memory."""
        hand.partition.unsettled.last = hand
        if self.settle_at == inf:
            self.settle_at = time.monotonic() + self._within

    def _end_turn(self, partition: AssignedPartition, happened: Happened) -> None:
        """Takes a partition out of those that have events to hand out."""
        partition.became(happened)
        if partition in self._ready:
            self._ready.remove(partition)

    # Partitions.

    def assigned(self) -> Iterator[AssignedPartition]:
        """The partitions that may be read and settled, as they are at each step."""
        return (one for one in list(self.partitions.values()) if one.is_assigned)

    def hear(self) -> None:
        """Takes in the news of the leases' upkeep."""
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
            self._end(self.partitions.pop(news.number), Happened.LEFT)
        keys = self._keyspace.partition(news.number).group(self._group.encode())
        start = Progress(news.at.offset, news.at.n)
        self.partitions[news.number] = AssignedPartition(
            news.number, news.token, keys, Stretch(start, start), start.offset.id, news.at.stamp, set(news.at.waiting)
        )

    def drop(self, partition: AssignedPartition) -> None:
        """Forgets a partition whose lease was lost or given back."""
        log.info("Group %r: partition %d went to another member", self._group, partition.number)
        self._leases.drop(partition.number, partition.token)
        self._end(self.partitions.pop(partition.number), Happened.LEFT)

    def go_astray(self, partition: AssignedPartition) -> None:
        """Notes that the server lost the entry read last of a partition."""
        self._end(partition, Happened.LOST)

    def _end(self, partition: AssignedPartition, happened: Happened) -> None:
        self._end_turn(partition, happened)
        if self.backlog is not None and self.backlog.partition is partition:
            self.backlog = None

    def take_in(self, partition: AssignedPartition, page: Page, schedule: Schedule) -> None:
        """Takes in the page that was read of a partition, and the threads due there."""
        start = partition.stretch.end
        partition.stretch = Stretch(start, Progress(page.offset, start.n + page.looked), page.pointers)
        partition.due = deque(schedule.due)
        partition.next_due = time.monotonic() + schedule.seconds
        if page.pointers:
            partition.became(Happened.MORE if page.more else Happened.LAST)
            self._ready.append(partition)
        else:
            partition.became(Happened.SKIPPED if page.more else Happened.END)

    # Settling.

    def reached(self, partition: AssignedPartition, done: InHand | None = None) -> Progress:
        """The position to be written, or `STAY`; `done` counts as done with."""
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
        """Whether a partition has progress to be written."""
        return bool(partition.unsettled.joined) or self.reached(partition) is not STAY

    def note_settled(self, partition: AssignedPartition, position: Progress, stamp: bytes) -> None:
        """Takes in that the server accepted a settlement."""
        partition.stamp = stamp
        partition.unsettled = Unsettled()
        if position is not STAY:
            partition.settled = position.offset.id

    def note_handled(self, hand: InHand, free: Sequence[bytes]) -> None:
        """Ends the event in hand, which was handled; `free` threads wait no longer."""
        if hand.packed and hand.thread in free:
            hand.partition.waiting.discard(hand.activity.thread_id)
        elif hand.packed and (self.backlog is None or not self.backlog.events):
            hand.partition.due.append(hand.thread)
        self.let_go(Outcome.HANDLED)

    def note_failed(self, hand: InHand, delay: float) -> None:
        """Ends the event in hand, which failed and is due in `delay` seconds."""
        partition, thread = hand.partition, hand.thread
        partition.waiting.add(hand.activity.thread_id)
        partition.due = deque(other for other in partition.due if other != thread)
        partition.next_due = min(partition.next_due, time.monotonic() + delay)
        if self.backlog is not None and self.backlog.partition is partition and self.backlog.thread == thread:
            self.backlog = None
        self.let_go(Outcome.FAILED)

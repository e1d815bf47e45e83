"""The states of a member's partitions and of the event in hand, as tables.

Theory of operation:

1. The *assignment* of a member is the set of partitions that it leases. Each *assigned partition* is read in batches, and
   the events of a batch are handed out in order. `PARTITIONS` has the states of a partition.
2. An event is *in hand* from the moment it is handed out until it is done with. There is one at a time. `EVENTS` has its
   states, and the writes that end it. An event stays in hand until the server has accepted its write.
3. The position of a partition moves past an event in memory. It is *settled*, which means written to the server, with the
   next read, with any other write, or when the oldest change is `acknowledge_within` old.
4. An event that fails becomes a *waiting event*. Later events of its thread join it instead of being handed out, and the
   other threads of the partition go on. The waiting events of a thread that is due are handed out in order.
5. Each read and each settlement names the fencing token of the lease and the entry read last. If another member has the
   lease, the partition is gone at once, with all progress that was not settled. If the server lost the entry, as in a
   failover, the partition is astray: the member raises the error once, and asks the server for the group's position.
6. The fast path (`Assignment.finish_and_ready`) only replaces a fresh event by the next one of a partition that stays
   ready. All other changes go through the tables.

Warts:

- An event that was handled, but not settled when its member died or lost its lease, is handed out again.
- A thread that an operator freed (`Group.skip`) still counts as waiting. Its next event joins, and is handed out then.
- A settlement whose reply was lost has to be sent again before any other. If the member writes something else, as when it
  leaves with a failure, the server answers that the stamp is wrong, and the member raises `PositionLost`.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["EVENTS", "PARTITIONS", "EventState", "Happened", "Outcome", "PartitionState", "Step", "Write"]


class PartitionState(Enum):
    """The states of an assigned partition."""

    BEHIND = "all events read are handed out, and more may follow"
    READY = "events are read, and more may follow"
    LAST_READY = "the last events are read"
    CAUGHT_UP = "all events read are handed out, and no more are known"
    ASTRAY = "the server lost the entry read last"
    GONE = "the lease was lost or given back"


class Happened(Enum):
    """The things that happen to an assigned partition."""

    MORE = "a read returned events, and more may follow"
    LAST = "a read returned the last events"
    SKIPPED = "a read returned no events that pass the filters, and more may follow"
    END = "a read returned no events"
    DRAINED = "the last event read was handed out"
    UNREADABLE = "the next event read cannot be decoded"
    RUNG = "something may have come, or may be due"
    LOST = "the server does not have the entry read last"
    LEFT = "another member has the lease, or it was given back"


class EventState(Enum):
    """The states of an event that was handed out."""

    FRESH = "read from the feed"
    BOUND = "read from the feed, to be acknowledged in a round trip of its own"
    WAITED = "handed out from the waiting events"
    DONE = "done with"


class Outcome(Enum):
    """The things that happen to an event in hand."""

    EFFECT = "the handler added an effect"
    HANDLED = "the handler returned"
    FAILED = "the handler raised"
    LET_GO = "the member leaves the event to be handed out again"


class Write(NamedTuple):
    """The part of a settlement that concerns the event in hand."""

    advances: bool = False
    """The position moves past the event."""
    takes_out: bool = False
    """The event is no longer a waiting event."""
    lays_aside: bool = False
    """The event becomes a waiting event, or stays one, with a record of its failure."""
    effects: bool = False
    """The effects run."""


class Step(NamedTuple):
    """The next state of an event, and the write that comes first."""

    state: EventState
    write: Write | None = None


BEHIND, READY, LAST_READY, CAUGHT_UP, ASTRAY, GONE = PartitionState
MORE, LAST, SKIPPED, END, DRAINED, UNREADABLE, RUNG, LOST, LEFT = Happened
FRESH, BOUND, WAITED, DONE = EventState
EFFECT, HANDLED, FAILED, LET_GO = Outcome

AWAY = {LOST: ASTRAY, LEFT: GONE}
PARTITIONS: dict[PartitionState, dict[Happened, PartitionState]] = {
    BEHIND: {MORE: READY, LAST: LAST_READY, SKIPPED: BEHIND, END: CAUGHT_UP, RUNG: BEHIND, **AWAY},
    READY: {DRAINED: BEHIND, UNREADABLE: BEHIND, RUNG: READY, **AWAY},
    LAST_READY: {DRAINED: CAUGHT_UP, UNREADABLE: BEHIND, RUNG: READY, **AWAY},
    CAUGHT_UP: {RUNG: BEHIND, **AWAY},
    ASTRAY: {LEFT: GONE},
    GONE: {},
}
"""The next state of a partition, by its state and by `Happened`. Pairs without an entry are impossible."""

ACKNOWLEDGE = Step(DONE, Write(advances=True, effects=True))
TAKE_OUT = Step(DONE, Write(takes_out=True, effects=True))
LAY_ASIDE = Step(DONE, Write(advances=True, lays_aside=True))
LAY_BACK = Step(DONE, Write(lays_aside=True))
EVENTS: dict[EventState, dict[Outcome, Step]] = {
    FRESH: {EFFECT: Step(BOUND), HANDLED: Step(DONE), FAILED: LAY_ASIDE, LET_GO: Step(DONE)},
    BOUND: {EFFECT: Step(BOUND), HANDLED: ACKNOWLEDGE, FAILED: LAY_ASIDE, LET_GO: Step(DONE)},
    WAITED: {EFFECT: Step(WAITED), HANDLED: TAKE_OUT, FAILED: LAY_BACK, LET_GO: Step(DONE)},
    DONE: {},
}
"""The step of an event in hand, by its state and `Outcome`. Pairs without an entry are impossible."""

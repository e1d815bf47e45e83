"""A partition that a member leases, and what of it is in hand."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from eventlog.feed.activity import Activity, fingerprint_of
from eventlog.feed.failures import Failure
from eventlog.feed.position import Offset
from eventlog.keys import GroupKeys

__all__ = ["STAY", "Again", "InHand", "Lane"]

STAY = Offset("")
"""Where the position is to stay as it is."""


@dataclass(slots=True, eq=False)
class Lane:
    """A partition that is leased."""

    number: int
    token: bytes
    keys: GroupKeys
    offset: Offset
    """Read up to here."""
    n: int
    """Entries of the feed up to the offset, ever."""
    held: set[str]
    """Threads that wait."""
    stamp: bytes
    """Of what was written down last."""
    pointers: list[Any] = field(default_factory=list)
    """Entry ids, fields, and, if some were left out, how many were looked at up to each."""
    next: int = 0
    base: int = 0
    """Entries of the feed before those in `pointers`."""
    before: Offset = STAY
    """The last entry before these."""
    more: bool = True
    open: bool = False
    """Whether the event handed out last, of those read, is not done with."""
    done: Activity | None = None
    """The last event that is done with, if that is not settled."""
    done_n: int = 0
    handled: int = 0
    waits: list[bytes] = field(default_factory=list)
    """Threads and packed events, in turn, that are to wait."""
    settled: str = ""
    """Entry id up to which it is settled."""
    due: list[bytes] = field(default_factory=list)
    next_due: float | None = None
    read_at: float = 0.0

    def take_for_done(self, hand: InHand) -> None:
        """Moves on behind an event that was handed out."""
        self.open, self.done, self.done_n = False, hand.activity, hand.n

    def reached(self) -> tuple[Offset, int]:
        """How far it is done, and the number of entries up to there; STAY if that is settled."""
        if self.next >= len(self.pointers) and not self.open:
            offset, n = self.offset, self.n
        elif self.done is not None:
            offset, n = self.done.offset, self.done_n
        else:
            return STAY, 0
        return (STAY, 0) if offset.id == self.settled else (offset, n)

    def is_unsettled(self) -> bool:
        """Whether there is something to write down."""
        return bool(self.reached()[0].id or self.waits)

    def read_again(self) -> None:
        """Has what was not handed out yet read again: it may have been mended."""
        if self.next:
            entry = self.pointers[self.next - 1]
            looked = entry[2] if len(entry) > 2 else self.next
            self.offset, self.n = Offset(entry[0].decode(), fingerprint_of(entry[1]).decode()), self.base + looked
        else:
            self.offset, self.n = self.before, self.base
        self.pointers, self.more = self.pointers[: self.next], True


@dataclass(slots=True)
class Again:
    """Events of a thread that waited, on their way to be handed out."""

    lane: Lane
    thread: bytes
    events: deque[bytes]
    attempt: int


@dataclass(slots=True)
class InHand:
    """The event handed out last."""

    lane: Lane
    activity: Activity
    n: int
    again: bytes | None
    """Packed, if it waited before."""
    failure: Failure | None = None
    """What is known of its failure, and in how many seconds it is tried again: the same if the server is told again."""
    delay: float = 0.0

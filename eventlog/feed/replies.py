"""The replies of the feed's scripts, one named tuple per script.

They are decoded here and nowhere else. Most scripts reply with a status and, where it is `OK`, with more. Fields that a
reply lacks have their defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from eventlog.feed.activity import fingerprint_of
from eventlog.feed.position import ORIGIN, Offset

__all__ = [
    "FENCED",
    "NONE",
    "OK",
    "Counted",
    "Ends",
    "LagReply",
    "Leased",
    "LeasedPage",
    "Loaded",
    "Page",
    "PageReply",
    "Registered",
    "Schedule",
    "Settled",
    "TrimReply",
    "Waiting",
    "flattened",
]

OK = b"ok"
FENCED = b"fenced"
"""The lease has another fencing token."""
NONE = b"none"
"""The group is not registered."""


class Page(NamedTuple):
    """Pointers that were read of a partition's feed."""

    pointers: list[Any]
    """Entry id and fields; of a read with filters also the number of entries looked at up to the pointer."""
    offset: Offset
    """The last entry looked at."""
    looked: int
    """The number of entries looked at."""
    more: bool
    """Whether more may follow."""

    @classmethod
    def of_entries(cls, entries: Any, offset: Offset, count: int) -> Page:
        """Decodes the reply of an `XRANGE` of `count` entries at most after an offset."""
        if not entries:
            return cls([], offset, 0, more=False)
        pointers = flattened(entries)
        entry_id, flat = pointers[-1]
        last = Offset(entry_id.decode(), fingerprint_of(flat).decode())
        return cls(pointers, last, len(pointers), len(pointers) == count)

    @classmethod
    def of(cls, pointers: list[Any], entry_id: bytes, fingerprint: bytes, looked: int, more: int) -> Page:
        """Decodes the five items that `read_on` of reading.lua returns."""
        return cls(pointers, _offset(entry_id, fingerprint), looked, bool(more))


NO_PAGE = Page([], ORIGIN, 0, more=False)


class PageReply(NamedTuple):
    """read.lua: the status, and the page that was read."""

    status: bytes
    page: Page = NO_PAGE

    @classmethod
    def of(cls, reply: list[Any]) -> PageReply:
        """Decodes the reply."""
        status, *page = reply
        return cls(status, Page.of(*page)) if status == OK else cls(status)


class Schedule(NamedTuple):
    """When threads with a failed event are tried again."""

    due: Sequence[bytes] = ()
    """Threads that are due now."""
    seconds: float = inf
    """Seconds until the next thread is due."""

    @classmethod
    def of(cls, due: Sequence[bytes], ms: int) -> Schedule:
        """Decodes the two items that `due_of` of reading.lua returns."""
        return cls(due, inf if ms < 0 else ms / 1000)


class LeasedPage(NamedTuple):
    """read_leased.lua: the status, the page that was read, and the schedule."""

    status: bytes
    page: Page = NO_PAGE
    schedule: Schedule = Schedule()
    entries: Any = ()
    """The reply of the `XRANGE` that was sent after the script."""

    @classmethod
    def of(cls, reply: list[Any], entries: Any = ()) -> LeasedPage:
        """Decodes the reply."""
        status, *rest = reply
        return cls(status, Page.of(*rest[:5]), Schedule.of(*rest[5:]), entries) if status == OK else cls(status)


class Settled(NamedTuple):
    """settle.lua: the status, and its consequences."""

    status: bytes
    free: Sequence[bytes] = ()
    """The threads of events done with that have no waiting events any more."""
    schedule: Schedule = Schedule()
    refused: int = 0
    """The number of the effect that the server refused."""
    error: str = ""
    """The server's error for that effect."""
    entries: Any = ()
    """The reply of the `XRANGE` that was sent after the script."""

    @classmethod
    def of(cls, reply: list[Any], entries: Any = ()) -> Settled:
        """Decodes the reply."""
        status, *rest = reply
        if status == OK:
            return cls(status, rest[0], Schedule.of(*rest[1:]), entries=entries)
        return cls(status, refused=rest[0], error=rest[1].decode()) if rest else cls(status)


class Leased(NamedTuple):
    """lease.lua: the status and, of a lease that was taken, the group's position."""

    status: bytes
    offset: Offset = ORIGIN
    n: int = 0
    """The number of entries of the feed up to the offset, trimmed ones included."""
    waiting: frozenset[str] = frozenset()
    """Threads with waiting events."""
    stamp: bytes = b""
    """The stamp of the last settlement."""

    @classmethod
    def of(cls, reply: list[Any]) -> Leased:
        """Decodes the reply."""
        if len(reply) != 6:
            return cls(reply[0])
        status, entry_id, fingerprint, n, waiting, stamp = reply
        threads = frozenset(thread.decode() for thread in waiting)
        return cls(status, _offset(entry_id or b"0-0", fingerprint or b""), int(n or 0), threads, stamp)


class Registered(NamedTuple):
    """register.lua: the status, and whether the group was not registered before."""

    status: bytes
    added: bool = False

    @classmethod
    def of(cls, reply: list[Any]) -> Registered:
        """Decodes the reply."""
        return cls(reply[0], reply[0] == OK and bool(reply[1]))


class Counted(NamedTuple):
    """count.lua: the number of entries on the page, and the id of the last."""

    entries: int
    last: str

    @classmethod
    def of(cls, reply: list[Any]) -> Counted:
        """Decodes the reply."""
        entries, last = reply
        return cls(entries, last.decode())


class Ends(NamedTuple):
    """ends.lua: the last entry that was trimmed, and the last that was appended."""

    first: Offset
    last: Offset

    @classmethod
    def of(cls, reply: list[Any]) -> Ends:
        """Decodes the reply."""
        return cls(_offset(*reply[:2]), _offset(*reply[2:]))


class Loaded(NamedTuple):
    """load.lua: the status, or the reason why the event is gone, and its fields."""

    status: bytes
    fields: list[bytes]


class Waiting(NamedTuple):
    """waiting.lua: the waiting events of a thread."""

    events: list[bytes]
    failure: bytes
    """The record of the first event's failure, "" if it has not failed."""
    due: bytes
    """The ms since 1970 when the first is due: "inf" for a parked event, "" for a thread with no waiting events."""
    total: int
    """The number of waiting events."""

    @property
    def is_parked(self) -> bool:
        """Whether the first event is parked."""
        return bool(self.events) and self.due == b"inf"


class LagReply(NamedTuple):
    """lag.lua: the status, and how far a group is in a partition."""

    status: bytes
    position: str = ""
    pending: int = 0
    age: float | None = None
    waiting: int = 0
    threads: int = 0
    parked: int = 0
    handled: int = 0
    throughput: float = 0.0
    member: str | None = None

    @classmethod
    def of(cls, reply: list[Any]) -> LagReply:
        """Decodes the reply."""
        if reply[0] != OK:
            return cls(reply[0])
        status, position, pending, age, waiting, threads, parked, handled, rate, member = reply
        return cls(
            status,
            position.decode(),
            pending,
            None if age < 0 else age / 1000,
            waiting,
            threads,
            parked,
            handled,
            float(rate),
            member_name(member) or None,
        )


class TrimReply(NamedTuple):
    """trim.lua: the status, and the entries taken out and held back."""

    status: bytes
    taken: int = 0
    groups: Sequence[tuple[str, int, float]] = ()
    """The groups that hold entries back: name, number of entries, age of the oldest in seconds."""
    more: bool = False
    """Whether another call takes more."""
    foreign: str = ""
    """The id of an entry that is no pointer."""

    @classmethod
    def of(cls, reply: list[Any]) -> TrimReply:
        """Decodes the reply."""
        status, *rest = reply
        if status != OK:
            return cls(status, foreign=rest[0].decode() if rest else "")
        taken, flat, more = rest
        groups = [
            (group.decode(), entries, ms / 1000)
            for group, entries, ms in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        ]
        return cls(status, taken, groups, bool(more))


def member_name(stored: bytes) -> str:
    """The name of a member, without the part that makes it unique."""
    return stored.decode().rpartition("/")[0]


def flattened(entries: Any) -> list[Any]:
    """Entries in the server's form, also where redis-py made dicts of their fields."""
    if isinstance(entries[0][1], dict):
        return [(entry_id, [part for pair in fields.items() for part in pair]) for entry_id, fields in entries]
    return entries  # type: ignore[no-any-return]


def _offset(entry_id: bytes, fingerprint: bytes) -> Offset:
    return Offset(entry_id.decode(), fingerprint.decode())

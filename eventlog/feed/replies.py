"""The replies of the feed's scripts, one named tuple per script.

They are decoded here and nowhere else. Most scripts reply with a status and, where it is `OK`, with more. Fields that a
reply lacks have their defaults.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from eventlog.feed.activity import fingerprint_of
from eventlog.feed.position import ORIGIN, Offset
from eventlog.framing import unordered

__all__ = ["FENCED", "NONE", "OK", "Ends", "Leased", "Page", "PageReply", "Schedule", "Settled", "Waiting", "flattened"]

_OFFSET = re.compile(rb"([0-9]{1,20}-[0-9]{1,20})?\.([0-9a-f]{8})?")
OK = b"ok"
FENCED = b"fenced"
"""The lease has another fencing token."""
NONE = b"none"
"""The group is not registered."""


class Page(NamedTuple):
    """Pointers that were read of a partition's feed."""

    pointers: list[Any]
    """Entry id and fields; of a script also the number of entries looked at up to the pointer."""
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
        return cls(pointers, _offset(entry_id, fingerprint_of(flat)), len(pointers), len(pointers) == count)


class Schedule(NamedTuple):
    """The times at which threads with a failed event are tried again."""

    due: Sequence[bytes] = ()
    """The threads that are due now."""
    seconds: float = inf
    """The seconds until the next thread is due."""

    @classmethod
    def of(cls, due: Sequence[bytes], ms: int) -> Schedule:
        """Decodes the two items that `due_of` of reading.lua returns."""
        return cls(due, inf if ms < 0 else ms / 1000)


class PageReply(NamedTuple):
    """read.lua and read_leased.lua: the page that was read, and the latter's schedule."""

    status: bytes
    page: Page = Page([], ORIGIN, 0, more=False)
    schedule: Schedule = Schedule()
    entries: Any = ()
    """The reply of the `XRANGE` that was sent after the script."""

    @classmethod
    def of(cls, reply: list[Any], entries: Any = ()) -> PageReply:
        """Decodes the reply."""
        if reply[0] != OK:
            return cls(reply[0])
        status, pointers, entry_id, fingerprint, looked, more, *schedule = reply
        page = Page(pointers, _offset(entry_id, fingerprint), looked, bool(more))
        return cls(status, page, Schedule.of(*schedule) if schedule else Schedule(), entries)


class Settled(NamedTuple):
    """settle.lua: the schedule, or the effect that the server refused."""

    status: bytes
    free: Sequence[bytes] = ()
    """The threads of events done with that have no waiting events any more."""
    schedule: Schedule = Schedule()
    refused: int = 0
    """The number of the effect."""
    error: str = ""
    """The server's error for it."""
    entries: Any = ()
    """The reply of the `XRANGE` that was sent after the script."""

    @classmethod
    def of(cls, reply: list[Any], entries: Any = ()) -> Settled:
        """Decodes the reply."""
        status, *rest = reply
        if status == OK:
            return cls(status, rest[0], Schedule.of(*rest[1:]), entries=entries)
        return cls(status, refused=rest[0], error=rest[1].decode(errors="replace")) if rest else cls(status)


class Leased(NamedTuple):
    """lease.lua: the group's position, where a lease was taken."""

    status: bytes
    offset: Offset = ORIGIN
    n: int = 0
    """The number of entries of the feed up to the offset, trimmed ones included."""
    waiting: frozenset[str] = frozenset()
    """The threads with waiting events."""
    stamp: bytes = b""
    """The stamp of the last settlement."""
    bound: bytes = b""
    """The bound from which more of these threads are read, "" if there are no more."""

    @classmethod
    def of(cls, reply: list[Any]) -> Leased:
        """Decodes the reply. Raises `ValueError` for a state that this package does not write."""
        if len(reply) == 1:
            return cls(reply[0])
        status, entry_id, fingerprint, n, waiting, stamp, bound = reply
        threads = frozenset(unordered(thread)[0].decode() for thread in waiting)
        return cls(status, _offset(entry_id or b"0-0", fingerprint or b""), int(n or 0), threads, stamp, bound)


class Registered(NamedTuple):
    """register.lua: 1 for a new group, or an entry id from which to count."""

    status: bytes
    added: int | bytes = 0


class Counted(NamedTuple):
    """count.lua: the number of entries on the page, and the id of the last."""

    entries: int
    last: bytes


class Ends(NamedTuple):
    """ends.lua: the last entry that was trimmed, and the last that was appended."""

    first: Offset
    last: Offset

    @classmethod
    def of(cls, reply: list[Any]) -> Ends:
        """Decodes the reply."""
        return cls(_offset(*reply[:2]), _offset(*reply[2:]))


class Loaded(NamedTuple):
    """load.lua: an event's fields; the status says why it is gone."""

    status: bytes
    fields: list[bytes]


class Waiting(NamedTuple):
    """waiting.lua: the waiting events of a thread."""

    events: list[bytes]
    failure: bytes
    """The record of the first event's failure, "" if it has not failed."""
    due: bytes
    """The ms since 1970 when the first is due: "inf" for a parked event, "" without waiting events."""
    total: int
    """The number of waiting events."""

    @property
    def is_parked(self) -> bool:
        """Whether the first event is parked."""
        return bool(self.events) and self.due == b"inf"


class LagReply(NamedTuple):
    """lag.lua: the progress of a group in a partition, as `PartitionLag` has it."""

    status: bytes
    position: bytes = b""
    pending: int = 0
    age: int = -1
    """In ms, -1 if no entries are pending."""
    waiting: int = 0
    threads: int = 0
    parked: int = 0
    handled: int = 0
    throughput: bytes = b""
    member: bytes = b""


class TrimReply(NamedTuple):
    """trim.lua: the entries taken out and held back, or the id of a foreign one."""

    status: bytes
    taken: int | bytes = 0
    holders: Sequence[Any] = ()
    """For each group that holds entries back: name, number of entries, age of the oldest in ms."""
    more: int = 0
    """1 if another call takes more."""


def member_name(stored: bytes) -> str:
    """The name of a member, without the part that makes it unique."""
    return stored.decode(errors="replace").rpartition("/")[0]


def flattened(entries: Any) -> list[Any]:
    """Entries in the server's form, also where redis-py made dicts of their fields."""
    if isinstance(entries[0][1], dict):
        return [(entry_id, [part for pair in fields.items() for part in pair]) for entry_id, fields in entries]
    return entries  # type: ignore[no-any-return]


def _offset(entry_id: bytes, fingerprint: bytes) -> Offset:
    """An offset; raises `ValueError` for bytes that are none."""
    if not _OFFSET.fullmatch(entry_id + b"." + fingerprint):
        raise ValueError(f"{entry_id!r:.80} with fingerprint {fingerprint!r:.80} is no entry of a feed")
    return Offset(entry_id.decode(), fingerprint.decode())

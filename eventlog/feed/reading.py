"""Reading partitions of the feed, as flows: what both a tail and a group's member do."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import TypeVar, Union

from eventlog.errors import (
    EventGone,
    EventLogError,
    InvalidArgument,
    LayoutMismatch,
    PositionLost,
    PositionTrimmed,
    ServerLoading,
    ServerReadOnly,
    ServerUnavailable,
)
from eventlog.events import Recorded, decode_entry
from eventlog.feed.activity import Activity, Filters
from eventlog.feed.position import ORIGIN, Offset, Position
from eventlog.feed.replies import OK, Ends, Loaded, Page, PageReply, flattened
from eventlog.flow import Argument, Batch, Call, Command, Flow, Pause, load_script
from eventlog.keys import LAYOUT, Keyspace

__all__ = ["Start", "ends_of", "flattened", "load_event", "offsets_of", "open_keyspace", "read_on", "steadfast"]

T = TypeVar("T")
Start = Union[str, datetime, Position]

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
SCAN = 2000
"""Pointers that a filter looks at in one call."""


READ = load_script("eventlog/feed/read")
ENDS = load_script("eventlog/feed/ends")
LOAD = load_script("eventlog/feed/load")
PASSING = (ServerUnavailable, ServerLoading, ServerReadOnly)
"""Errors of a server that restarts or fails over."""


def open_keyspace(prefix: str, partitions: int | None) -> Flow[Keyspace | None]:
    """The keys of a prefix, with as many partitions as it was laid out with; None if nothing was laid out yet. One round trip.

    Raises `LayoutMismatch` where the prefix is laid out differently from what is asked for.
    """
    keyspace = Keyspace(prefix, partitions or 1)
    reply = yield Batch([Command("HGET", keyspace.meta, ["layout"]), Command("HGET", keyspace.meta, ["partitions"])])
    layout, found = reply
    if layout is None and found is None:
        return None
    if not (layout or b"").isdigit() or not (found or b"").isdigit():
        raise LayoutMismatch(f"Prefix {prefix!r} has a meta key that this package did not write. Use another prefix.")
    if int(layout) != LAYOUT:
        raise LayoutMismatch(
            f"Prefix {prefix!r} has layout version {int(layout)}, this package has {LAYOUT}. Use the version that laid it out."
        )
    if partitions is not None and int(found) != partitions:
        raise LayoutMismatch(
            f"Prefix {prefix!r} was laid out with partitions={int(found)}, this feed was given partitions={partitions}. Leave "
            "partitions out: a feed takes what the prefix has."
        )
    return Keyspace(prefix, int(found))


def steadfast(make: Callable[[], Flow[T]], patience: float, stopped: Callable[[], bool] = lambda: False) -> Flow[T]:
    """Result of the flow that `make` makes; made again, with growing pauses, while the server cannot be reached, for
    `patience` seconds, or until `stopped()`.
    """
    deadline: float | None = None
    pause = 0.05
    while True:
        try:
            return (yield from make())
        except PASSING:
            now = time.monotonic()
            deadline = now + patience if deadline is None else deadline
            if now + pause > deadline or stopped():
                raise
        yield Pause(pause)
        pause = min(pause * 2, 1.0)


def ends_of(keyspace: Keyspace, partitions: list[int]) -> Flow[dict[int, Ends]]:
    """Of some partitions, what lies right before the first entry there is, and the last entry. One round trip each."""
    offsets = {}
    for number in partitions:
        keys = keyspace.partition(number)
        offsets[number] = Ends.of((yield Call(ENDS, [keys.feed, keys.trimmed], [])))
    return offsets


def check_start(start: object) -> None:
    """Raises `InvalidArgument` or `TypeError` for what is no start."""
    if isinstance(start, (Position, datetime)) or start in ("beginning", "now"):
        if isinstance(start, datetime) and start.tzinfo is None:
            raise InvalidArgument(f"start {start!r} has no time zone; pass e.g. datetime.now(timezone.utc).")
        return
    if isinstance(start, str):
        Position.parse(start)
        return
    raise TypeError(f'start must be "beginning", "now", a datetime or a position, not {type(start).__name__}.')


def offsets_of(keyspace: Keyspace, start: Start, partitions: list[int]) -> Flow[dict[int, Offset]]:
    """Behind which entry of each partition a reader begins. A round trip per partition for "now" and "beginning", else none."""
    if start in ("now", "beginning"):
        ends = yield from ends_of(keyspace, partitions)
        return {number: last if start == "now" else first for number, (first, last) in ends.items()}
    if isinstance(start, datetime):
        ms = (start - EPOCH) // timedelta(milliseconds=1)
        return dict.fromkeys(partitions, Offset(f"{max(0, ms - 1)}-{2**64 - 1}"))
    position = Position.parse(start) if isinstance(start, str) else start
    if foreign := [number for number in position if number >= keyspace.partitions]:
        raise InvalidArgument(
            f"The position names partition {foreign[0]}, prefix {keyspace.prefix!r} has {keyspace.partitions}. It belongs to "
            "another prefix; pass one that was read from this."
        )
    return {number: position.get(number, ORIGIN) for number in partitions}


def read_on(keyspace: Keyspace, number: int, offset: Offset, filters: Filters, count: int) -> Flow[Page]:
    """Pointers behind an entry of a partition's feed. One round trip. Raises `PositionLost` or `PositionTrimmed`."""
    keys = keyspace.partition(number)
    arguments: list[Argument] = [offset.id, offset.check, count, max(SCAN, count), *filters.arguments()]
    reply = PageReply.of((yield Call(READ, [keys.feed, keys.trimmed], arguments)))
    if reply.status != OK:
        raise astray(reply.status, number, offset)
    return reply.page


def after(feed: bytes, offset: Offset, count: int) -> Command:
    """The command that reads entries behind a offset."""
    return Command("XRANGE", feed, [b"(" + offset.id.encode(), b"+", b"COUNT", count])


def astray(what: bytes, number: int, offset: Offset) -> EventLogError:
    """The error for a position that the feed no longer goes on from."""
    if what == b"trimmed" and offset == ORIGIN:
        return PositionTrimmed(
            f"The feed no longer reaches back to its beginning: partition {number} was trimmed. What is folded from zero would be "
            'incomplete. Start from "beginning" for what is left, or keep the feed for longer.'
        )
    if what == b"trimmed" and offset.id.endswith(f"-{2**64 - 1}"):
        since = EPOCH + timedelta(milliseconds=int(offset.id.partition("-")[0]) + 1)
        return PositionTrimmed(
            f"The feed no longer reaches back to {since.isoformat()}: partition {number} was trimmed beyond that. Start from "
            '"beginning" for what is left.'
        )
    if what == b"trimmed":
        return PositionTrimmed(
            f"Partition {number} of the feed was trimmed beyond entry {offset.id}: what came between was not read. Start from "
            '"beginning", rebuild what was made of the feed, and register a group, which trimming waits for.'
        )
    return PositionLost(
        f"Partition {number} of the feed does not have entry {offset.id}, which was read from it: the server lost its last events, "
        "as a failover to a replica that was behind does. What was read up to there may tell of events that are no more. "
        "Rebuild what was made of the feed, or go on from a position or a time before it."
    )


def load_event(keyspace: Keyspace, activity: Activity) -> Flow[Recorded]:
    """The whole event that an activity leads to. One round trip. Raises `EventGone` or `CorruptEntry`."""
    where = f"Event {activity.event_id} ({activity.kind}) of thread {activity.thread_id!r}"
    if not activity.event_id:
        what = "expired" if activity.kind == "expired" else "was deleted"
        told = f"Thread {activity.thread_id!r} {what}, and its log with it: there is no event to load."
        raise EventGone(told, activity.kind)
    keys = keyspace.thread(activity.thread_id.encode())
    wanted: list[Argument] = [keys.thread, activity.event_id, activity.sequence]
    found = Loaded(*(yield Call(LOAD, [keys.log, keys.index, keys.shared.expiries], wanted)))
    if found.status == OK:
        return decode_entry(activity.thread_id, activity.event_id.encode(), found.fields)
    reasons = {b"pruned": "was pruned from its log", b"expired": "is gone: the thread expired"}
    raise EventGone(
        f"{where} {reasons.get(found.status, 'is gone: the thread was deleted, or expired a while ago')}.",
        found.status.decode(),
    )

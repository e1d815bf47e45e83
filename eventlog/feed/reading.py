"""Reads partitions of the feed: the flows that tails and members of groups share."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import TypeVar, Union

from eventlog.connect.connections import Connections
from eventlog.connect.server import layout_of
from eventlog.errors import (
    CorruptEntry,
    EventGone,
    EventLogError,
    InvalidArgument,
    LayoutMismatch,
    PositionLost,
    PositionTrimmed,
    ServerLoading,
    ServerReadOnly,
    ServerUnavailable,
    SignatureInvalid,
)
from eventlog.events import Recorded, decode_entry
from eventlog.feed.activity import Activity, Filters, check_pointer
from eventlog.feed.position import ORIGIN, Offset, Position
from eventlog.feed.replies import OK, Ends, Loaded, Page, PageReply, Waiting, flattened
from eventlog.flow import Argument, Call, Command, Flow, Pause, load_script
from eventlog.framing import is_number
from eventlog.keys import LAYOUT, GroupKeys, Keyspace
from eventlog.limits import Limits
from eventlog.signing import Signer

__all__ = ["Start", "ends_of", "flattened", "load_event", "offsets_of", "open_keyspace", "read_on", "steadfast"]

T = TypeVar("T")
Start = Union[str, datetime, Position]

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
LAST = 2**64 - 1
"""The greatest second part of an entry id."""
SCAN = 2000
"""The most pointers that filters look at in one call."""

READ = load_script("eventlog/feed/read")
ENDS = load_script("eventlog/feed/ends")
LOAD = load_script("eventlog/feed/load")
WAITING = load_script("eventlog/feed/waiting")
PASSING = (ServerUnavailable, ServerLoading, ServerReadOnly)
"""Errors of a server that restarts or fails over."""


def open_keyspace(
    connections: Connections,
    prefix: str,
    partitions: int | None,
    signer: Signer | None = None,
    limits: Limits | None = None,
) -> Flow[Keyspace | None]:
    """Reads the layout of a prefix, and returns its keys; None without a layout.

    One round trip. Warns of an old server as `layout_of`.

    With a `signer`, the signatures of events that are loaded are checked. Raises `LayoutMismatch` if the
    layout has another version, or another number of partitions than given.
    """
    keyspace = Keyspace(prefix, partitions or 1, limits=limits)
    layout, found = yield from layout_of(keyspace, connections)
    if layout is None and found is None:
        return None
    if layout is None or found is None or not is_number(layout) or not is_number(found):
        raise LayoutMismatch(f"Prefix {prefix!r} has a meta key that this package did not write. Use another prefix.")
    if int(layout) != LAYOUT:
        raise LayoutMismatch(
            f"Prefix {prefix!r} has layout version {int(layout)}, this package has {LAYOUT}. Use the version that laid it out."
        )
    if partitions is not None and int(found) != partitions:
        raise LayoutMismatch(
            f"Prefix {prefix!r} was laid out with partitions={int(found)}, this feed was given partitions={partitions}. Leave "
            "partitions out: a feed takes the number that the prefix has."
        )
    return Keyspace(prefix, int(found), signer, limits=limits)


def steadfast(make: Callable[[], Flow[T]], patience: float, stopped: Callable[[], bool] = lambda: False) -> Flow[T]:
    """Runs the flow of `make`, again and again while the server cannot be reached.

    The pauses grow. After `patience` seconds, or once `stopped()`, the server's error is raised.
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
    """Reads the ends of some partitions' feeds, in a round trip per partition."""
    offsets = {}
    for number in partitions:
        keys = keyspace.partition(number)
        reply = yield Call(ENDS, [keys.feed, keys.trimmed], [])
        try:
            offsets[number] = Ends.of(reply)
        except ValueError as error:
            raise CorruptEntry(
                f"{keys.trimmed.decode()!r}, or an entry of {keys.feed.decode()!r}, was not written by this package ({error}). "
                "Restore the feed from a backup."
            ) from error
    return offsets


def check_start(start: object) -> None:
    """Checks a start. Raises `InvalidArgument` or `TypeError`."""
    if isinstance(start, (Position, datetime)) or start in ("beginning", "now"):
        if isinstance(start, datetime) and start.tzinfo is None:
            raise InvalidArgument(f"start {start!r} has no time zone; pass e.g. datetime.now(timezone.utc).")
        return
    if isinstance(start, str):
        Position.parse(start)
        return
    raise TypeError(f'start must be "beginning", "now", a datetime or a position, not {type(start).__name__}.')


def offsets_of(keyspace: Keyspace, start: Start, partitions: list[int]) -> Flow[dict[int, Offset]]:
    """Returns the offset after which a reader begins, for each partition.

    One round trip per partition for "now" and "beginning", else none.
    """
    if start in ("now", "beginning"):
        ends = yield from ends_of(keyspace, partitions)
        return {number: one.last if start == "now" else one.first for number, one in ends.items()}
    if isinstance(start, datetime):
        ms = (start - EPOCH) // timedelta(milliseconds=1)
        return dict.fromkeys(partitions, Offset(f"{max(0, ms - 1)}-{LAST}"))
    position = Position.parse(start) if isinstance(start, str) else start
    if foreign := [number for number in position if number >= keyspace.partitions]:
        raise InvalidArgument(
            f"The position names partition {foreign[0]}, prefix {keyspace.prefix!r} has {keyspace.partitions}. It belongs to "
            "another prefix; pass a position of this one."
        )
    return {number: position.get(number, ORIGIN) for number in partitions}


def read_on(keyspace: Keyspace, number: int, offset: Offset, filters: Filters, count: int) -> Flow[Page]:
    """Reads pointers after an offset, or raises the error of `astray`."""
    keys = keyspace.partition(number)
    arguments: list[Argument] = [offset.id, offset.fingerprint, count, max(SCAN, count), *filters.arguments()]
    reply = PageReply.of((yield Call(READ, [keys.feed, keys.trimmed], arguments)))
    if reply.status != OK:
        raise astray(reply.status, number, offset)
    return reply.page


def after(feed: bytes, offset: Offset, count: int) -> Command:
    """The command that reads entries after an offset."""
    return Command("XRANGE", feed, [b"(" + offset.id.encode(), b"+", b"COUNT", count])


def astray(status: bytes, number: int, offset: Offset) -> EventLogError:
    """Makes the error for an offset, by the status of a script's reply."""
    if status != b"trimmed":
        return PositionLost(
            f"Partition {number} of the feed does not have entry {offset.id}, which was read from it: the server lost its last "
            "events, as in a failover to a replica that lagged. Data made from the feed may reflect events that no longer exist. "
            "Rebuild that data, or start from an earlier position or time."
        )
    if offset == ORIGIN:
        return PositionTrimmed(
            f"The feed no longer reaches back to its beginning: partition {number} was trimmed. Data folded from zero would be "
            'incomplete. Start from "beginning" for the entries that are left, or keep the feed for longer.'
        )
    if offset.id.endswith(f"-{LAST}"):
        since = EPOCH + timedelta(milliseconds=int(offset.id.partition("-")[0]) + 1)
        return PositionTrimmed(
            f"The feed no longer reaches back to {since.isoformat()}: partition {number} was trimmed beyond that. Start from "
            '"beginning" for the entries that are left.'
        )
    return PositionTrimmed(
        f"Partition {number} of the feed was trimmed beyond entry {offset.id}: the entries between were not read. Start from "
        '"beginning", rebuild the data made from the feed, and register a group, which trimming waits for.'
    )


def load_event(keyspace: Keyspace, activity: Activity) -> Flow[Recorded]:
    """Loads the whole event, and checks that its pointer agrees with it.

    Raises `EventGone`, or `CorruptEntry` if the event is malformed or the pointer was forged. With a signer it checks the
    event's signature first, and raises `SignatureInvalid`. All pointed events are signed for the thread that has the
    pointer, also in a copy, which ends with an event of its own.
    """
    if not activity.event_id:
        what = "expired" if activity.kind == "expired" else "was deleted"
        raise EventGone(
            f"Thread {activity.thread_id!r} {what}, and its log with it: there is no event to load.",
            activity.kind,
            thread_id=activity.thread_id,
            event_id="",
        )
    keys = keyspace.thread(activity.thread_id.encode())
    wanted: list[Argument] = [keys.thread, activity.event_id, activity.sequence]
    found = Loaded(*(yield Call(LOAD, [keys.log, keys.index, keys.shared.expiries], wanted)))
    if found.status == OK:
        if keys.signer is not None:
            try:
                keys.signer.check(keys.thread, activity.event_id.encode(), found.fields[4:])
            except SignatureInvalid as error:
                raise SignatureInvalid(f"Thread {activity.thread_id!r}: {error}") from error
        recorded = decode_entry(activity.thread_id, activity.event_id.encode(), found.fields)
        check_pointer(activity, recorded)
        return recorded
    reasons = {b"pruned": "was pruned from its log", b"expired": "is gone: the thread expired"}
    reason = reasons.get(found.status, "is gone: the thread was deleted, or expired a while ago")
    raise EventGone(
        f"Event {activity.event_id} ({activity.kind}) of thread {activity.thread_id!r} {reason}.",
        found.status.decode(),
        thread_id=activity.thread_id,
        event_id=activity.event_id,
    )


def waiting_events(keys: GroupKeys, thread: bytes, most: int) -> Flow[Waiting]:
    """Reads the first waiting events of a thread of a group. One round trip."""
    return Waiting(*(yield Call(WAITING, [keys.held, keys.failures, keys.due], [thread, most])))

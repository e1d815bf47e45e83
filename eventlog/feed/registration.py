"""Registers consumer groups in each partition, and in the list of groups."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from eventlog import codec
from eventlog.errors import CorruptEntry, InvalidArgument, PositionLost, PositionTrimmed
from eventlog.events import LATEST
from eventlog.feed.activity import Filters
from eventlog.feed.position import Offset
from eventlog.feed.reading import Start, astray, offsets_of
from eventlog.feed.replies import OK, Counted, Registered
from eventlog.flow import Argument, Call, Command, Flow, load_script
from eventlog.keys import GroupKeys, Keyspace
from eventlog.limits import brief

__all__ = ["decoded", "drop_in", "filters_in", "register", "register_in", "registration", "state_damaged"]

REGISTER = load_script("eventlog/feed/register")
COUNT = load_script("eventlog/feed/count")
DROP = load_script("eventlog/feed/drop")
PAGE = 1000
"""The number of entries that one call of count.lua counts at most."""


def registration(keyspace: Keyspace, group: str) -> Flow[dict[str, Any] | None]:
    """Reads a group's registration, None without one. Raises `CorruptEntry`."""
    record = yield Command("HGET", keyspace.groups, [group.encode()])
    return None if record is None else decoded(group, record)


def register(keyspace: Keyspace, group: str, start: Start, filters: Filters) -> Flow[None]:
    """Registers a group that is not in the list.

    The list comes last, so that the next call completes a registration that was cut short. Raises `InvalidArgument`,
    `PositionLost` or `PositionTrimmed`, and undoes its writes then.
    """
    partitions = list(range(keyspace.partitions))
    if start in ("beginning", "now"):
        starts: dict[int, Offset] = dict.fromkeys(partitions, Offset("end" if start == "now" else "beginning"))
    else:
        starts = yield from offsets_of(keyspace, start, partitions)
    done: list[int] = []
    try:
        for number, offset in starts.items():
            if (yield from register_in(keyspace, group, number, offset)):
                done.append(number)
    except (InvalidArgument, PositionLost, PositionTrimmed):
        for number in done:
            yield from drop_in(keyspace, group, number)
        raise
    named = start.isoformat() if isinstance(start, datetime) else str(start)
    created = int(datetime.now(timezone.utc).timestamp() * 1000)
    record = codec.encode({"v": 1, "created": created, "start": named, "filters": filters.as_dict()})
    yield Command("HSETNX", keyspace.groups, [group.encode(), record])


def register_in(keyspace: Keyspace, group: str, number: int, offset: Offset) -> Flow[bool]:
    """Registers a group in a partition; False if it was registered there.

    One round trip, and one more per thousand entries after the offset.
    """
    shared = keyspace.partition(number)
    keys = [shared.feed, shared.trimmed, shared.positions, shared.group(group.encode()).state]
    start, following = (offset.id or "beginning").encode(), 0
    counted_to = start
    while True:
        words: list[Argument] = [group.encode(), start, offset.fingerprint, counted_to, following]
        reply = Registered(*(yield Call(REGISTER, keys, words)))
        if reply.status == OK:
            return bool(reply.added)
        if reply.status == b"future":
            raise InvalidArgument(
                f'Group {group!r}: its start lies in the future by the server\'s clock. Pass "now", or register it later.'
            )
        if reply.status != b"count":
            raise astray(reply.status, number, offset)
        page = Counted(PAGE, counted_to)
        while page.entries == PAGE:
            page = Counted(*(yield Call(COUNT, [shared.feed], [page.last])))
            following += page.entries
        counted_to = page.last


def drop_in(keyspace: Keyspace, group: str, number: int) -> Flow[int]:
    """Removes a group from a partition; 1 if it was registered there. One round trip."""
    shared = keyspace.partition(number)
    keys = shared.group(group.encode())
    dropped = yield Call(DROP, [shared.positions, keys.state, keys.held, keys.failures, keys.due], [group.encode()])
    return int(dropped)


def decoded(group: str, record: bytes) -> dict[str, Any]:
    """Decodes a registration. Raises `CorruptEntry`."""
    try:
        found: Any = codec.decode(record)
        version = found.get("v") if isinstance(found, dict) else 1
        if version != 1:
            raise codec.Malformed(f"is of version {version!r:.40}; upgrade this package")
        if not _is_registration(found):
            raise codec.Malformed("is no registration")
    except codec.Malformed as error:
        raise CorruptEntry(
            f"The record of group {brief(group)} {error}. Drop the group, and register it again."
        ) from error
    registered: dict[str, Any] = found
    return registered


def _is_registration(found: Any) -> bool:
    if not isinstance(found, dict):
        return False
    created, start, filters = (found.get(name) for name in ("created", "start", "filters"))
    if type(created) is not int or not 0 <= created <= LATEST or type(start) is not str or type(filters) is not dict:
        return False
    return all(
        type(name) is str and type(some) is list and all(type(one) is str for one in some)
        for name, some in filters.items()
    )


def state_damaged(group: str, keys: GroupKeys, error: Exception) -> CorruptEntry:
    """Makes the error for a group's keys in a partition that this package did not write."""
    return CorruptEntry(
        f"Group {group!r}: {keys.state.decode()!r} or {keys.due.decode()!r} was not written by this package ({error}). Restore "
        "them from a backup, or drop the group and register it again."
    )


def filters_in(record: dict[str, Any]) -> Filters:
    """The filters of a registration."""
    given = record["filters"]
    return Filters.of(given.get("kinds"), given.get("threads"), given.get("namespaces"), given.get("nodes"))

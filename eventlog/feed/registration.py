"""Registering a consumer group: in every partition, where it begins, then in the list of groups with its filters."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from eventlog import codec
from eventlog.errors import CorruptEntry, InvalidArgument, PositionLost, PositionTrimmed
from eventlog.feed.activity import Filters
from eventlog.feed.position import Offset
from eventlog.feed.reading import Start, astray, offsets_of
from eventlog.feed.replies import OK, Counted, Registered
from eventlog.flow import Argument, Call, Command, Flow, load_script
from eventlog.keys import Keyspace

__all__ = ["drop_in", "filters_in", "register", "register_in", "registration"]

REGISTER = load_script("eventlog/feed/register")
COUNT = load_script("eventlog/feed/count")
DROP = load_script("eventlog/feed/drop")


def registration(keyspace: Keyspace, group: str) -> Flow[dict[str, Any] | None]:
    """What a group was registered with, None if it is not. One round trip. Raises `CorruptEntry`."""
    told = yield Command("HGET", keyspace.groups, [group.encode()])
    return None if told is None else decoded(group, told)


def register(keyspace: Keyspace, group: str, start: Start, filters: Filters) -> Flow[None]:
    """Registers a group that is not in the list: partition by partition, then in the list, so that one that was cut short is
    completed by the next. Raises `InvalidArgument`, `PositionLost` or `PositionTrimmed`; nothing that was not there before is left
    then.
    """
    partitions = list(range(keyspace.partitions))
    if start in ("beginning", "now"):
        where: dict[int, Offset] = dict.fromkeys(partitions, Offset("end" if start == "now" else "beginning"))
    else:
        where = yield from offsets_of(keyspace, start, partitions)
    done: list[int] = []
    try:
        for number, offset in where.items():
            if (yield from register_in(keyspace, group, number, offset)):
                done.append(number)
    except (InvalidArgument, PositionLost, PositionTrimmed):
        for number in done:
            yield from drop_in(keyspace, group, number)
        raise
    named = start.isoformat() if isinstance(start, datetime) else str(start)
    created = int(datetime.now(timezone.utc).timestamp() * 1000)
    told = codec.encode({"v": 1, "created": created, "start": named, "filters": filters.as_dict()})
    yield Command("HSETNX", keyspace.groups, [group.encode(), told])


def register_in(keyspace: Keyspace, group: str, number: int, offset: Offset) -> Flow[bool]:
    """Registers a group in a partition; False if it was there. One round trip, and one per thousand entries behind a offset."""
    shared = keyspace.partition(number)
    keys = [shared.feed, shared.trimmed, shared.positions, shared.group(group.encode()).state]
    entry_id, following = offset.id or "beginning", 0
    counted_to = entry_id
    while True:
        words: list[Argument] = [group.encode(), entry_id, offset.check, counted_to, following]
        reply = Registered.of((yield Call(REGISTER, keys, words)))
        if reply.status == OK:
            return reply.added
        if reply.status == b"future":
            raise InvalidArgument(
                f'Group {group!r}: its start lies in the future by the server\'s clock. Pass "now", or register it later.'
            )
        if reply.status != b"count":
            raise astray(reply.status, number, offset)
        page = Counted(1000, counted_to)
        while page.entries == 1000:
            page = Counted.of((yield Call(COUNT, [shared.feed], [page.last])))
            following += page.entries
        counted_to = page.last


def drop_in(keyspace: Keyspace, group: str, number: int) -> Flow[int]:
    """Takes a group out of a partition; 1 if it was registered there. One round trip."""
    shared = keyspace.partition(number)
    keys = shared.group(group.encode())
    dropped = yield Call(DROP, [shared.positions, keys.state, keys.held, keys.failures, keys.due], [group.encode()])
    return int(dropped)


def decoded(group: str, told: bytes) -> dict[str, Any]:
    """A registration. Raises `CorruptEntry`."""
    try:
        found = codec.decode(told)
        if not isinstance(found, dict) or not isinstance(found.get("filters"), dict):
            raise codec.Malformed("is no registration")
        if found.get("v") != 1:
            raise codec.Malformed(f"is of version {found.get('v')!r}; upgrade this package")
    except codec.Malformed as error:
        raise CorruptEntry(
            f"What is known of group {group!r} {error}. Drop the group, and register it anew."
        ) from error
    return found


def filters_in(found: dict[str, Any]) -> Filters:
    """The filters that a group was registered with."""
    given = found["filters"]
    return Filters.of(given.get("kinds"), given.get("threads"), given.get("namespaces"), given.get("nodes"))

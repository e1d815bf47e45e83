"""What a soak left behind: the logs, the feed, what the group `record` noted, and the database of the group `sink`."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from scripts.soaking.member import Handling, read_handlings
from scripts.soaking.plan import RECORD
from scripts.soaking.sink import open_database
from scripts.soaking.stage import Stage

__all__ = ["Evidence", "Repeat", "collect"]

PAGE = 1000


@dataclass(frozen=True)
class Repeat:
    """An event that was handled again: by whom before, by whom then."""

    before: Handling
    after: Handling


@dataclass
class Evidence:
    """All of it, by thread."""

    logs: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Sequence and entry id of each entry of the log."""
    feed: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    """The same, as announced."""
    orders: dict[str, str] = field(default_factory=dict)
    """`order` of the last activity announced."""
    handled: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Sequences in the order in which the group `record` handled them for the first time."""
    handlings: int = 0
    handled_between: tuple[float, float] = (0.0, 0.0)
    repeats: list[Repeat] = field(default_factory=list)
    applied: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Sequences in the order in which the group `sink` had their effects."""
    applied_between: tuple[float, float] = (0.0, 0.0)
    counts: dict[str, int] = field(default_factory=dict)
    positions: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    """Events that the group `sink` was handed again, and left out."""
    writers: list[dict[str, Any]] = field(default_factory=list)
    """What the writers said of themselves."""
    counted: dict[str, int] = field(default_factory=dict)
    """Events handled, as each group counts them."""


def collect(stage: Stage) -> Evidence:
    """Reads it. The members have ended."""
    found = Evidence()
    for thread in stage.plan.made():
        found.logs[thread] = _log_of(stage, thread)
    for activity in stage.feed.tail("beginning", follow=False, batch=PAGE):
        found.feed[activity.thread_id].append((activity.sequence, activity.event_id))
        found.orders[activity.thread_id] = activity.order
    _read_record(stage, found)
    _read_sink(stage, found)
    found.writers = [json.loads(writer.out) for writer in stage.writers]
    found.counted = {name: group.lag().handled for name, group in stage.groups.items()}
    return found


def _log_of(stage: Stage, thread: str) -> list[tuple[int, str]]:
    log = stage.keyspace.thread(thread.encode()).log
    entries: list[tuple[int, str]] = []
    start = "-"
    while page := stage.redis.xrange(log, start, "+", count=PAGE):
        entries += [(int(fields[b"n"]), entry_id.decode()) for entry_id, fields in page]
        start = f"({entries[-1][1]}"
    return entries


def _read_record(stage: Stage, found: Evidence) -> None:
    handlings: list[Handling] = []
    for member in stage.members:
        if member.name.startswith(RECORD):
            handlings += read_handlings(stage.noted_by(member.name), member.name)
    handlings.sort()
    found.handlings = len(handlings)
    if handlings:
        found.handled_between = handlings[0].at, handlings[-1].at
    last: dict[tuple[str, str], Handling] = {}
    for one in handlings:
        before = last.get((one.thread, one.feed_id))
        if before is None:
            found.handled[one.thread].append(one.sequence)
        else:
            found.repeats.append(Repeat(before, one))
        last[one.thread, one.feed_id] = one


def _read_sink(stage: Stage, found: Evidence) -> None:
    database = open_database(stage.database)
    try:
        for thread, sequence in database.execute("SELECT thread, sequence FROM applied ORDER BY rowid"):
            found.applied[thread].append(sequence)
        for thread, position, count in database.execute("SELECT thread, position, count FROM positions"):
            found.positions[thread], found.counts[thread] = position, count
        (between,) = database.execute("SELECT coalesce(min(at), 0), coalesce(max(at), 0) FROM applied")
        found.applied_between = between
        ((found.left_out,),) = database.execute("SELECT count(*) FROM left_out")
    finally:
        database.close()

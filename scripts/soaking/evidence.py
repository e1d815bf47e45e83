"""The evidence of a soak: logs, feed, notes of `record`, database of `sink`."""

from __future__ import annotations

import contextlib
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
    """Two handlings of the same event, one after the other."""

    before: Handling
    after: Handling


@dataclass
class Evidence:
    """All evidence, by thread."""

    logs: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Sequence and entry id of each entry of the log."""
    feed: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    """The same, as the feed announced them."""
    orders: dict[str, str] = field(default_factory=dict)
    """The `order` of the last event that the feed announced."""
    handled: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Sequences in the order in which the group `record` handled them for the first time."""
    handled_between: tuple[float, float] = (0.0, 0.0)
    repeats: list[Repeat] = field(default_factory=list)
    applied: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Sequences in the order in which the group `sink` applied them."""
    applied_between: tuple[float, float] = (0.0, 0.0)
    counts: dict[str, int] = field(default_factory=dict)
    positions: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    """Events that the group `sink` handled again, and left out."""
    writers: list[dict[str, Any]] = field(default_factory=list)
    """The reports of the writers."""
    counted: dict[str, int] = field(default_factory=dict)
    """Events handled, as each group counts them."""


def collect(stage: Stage) -> Evidence:
    """Read the evidence, once the members have ended."""
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
    with contextlib.closing(open_database(stage.database)) as database:
        for thread, sequence in database.execute("SELECT thread, sequence FROM applied ORDER BY rowid"):
            found.applied[thread].append(sequence)
        for thread, position, count in database.execute("SELECT thread, position, count FROM positions"):
            found.positions[thread], found.counts[thread] = position, count
        (found.applied_between,) = database.execute("SELECT coalesce(min(at), 0), coalesce(max(at), 0) FROM applied")
        ((found.left_out,),) = database.execute("SELECT count(*) FROM left_out")

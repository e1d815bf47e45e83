"""A process that is a member of a group.

Usage: `-m scripts.soaking.member URL PLAN GROUP NAME sync|async PATH`. A member of the group `record` notes each
handling in its own file, with one write each, so a kill loses none. A member of the group `sink` applies events in
the database that all of them share.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

from eventlog import Activity, ActivityFeed, Member
from scripts.soaking.child import end_with_parent
from scripts.soaking.plan import RECORD, Plan
from scripts.soaking.sink import Sink

__all__ = ["Handling", "read_handlings"]


class Handling(NamedTuple):
    """One handling of an event by a member, with the time of the machine's clock."""

    at: float
    thread: str
    sequence: int
    feed_id: str
    member: str


class Recorder:
    """Notes handlings in a file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, activity: Activity) -> None:
        """Note that an event is handled now."""
        line = f"{time.monotonic():.6f} {activity.thread_id} {activity.sequence} {activity.id}\n"
        os.write(self._file, line.encode())


def read_handlings(path: Path, member: str) -> list[Handling]:
    """Return the handlings that a member noted."""
    handlings = []
    for line in path.read_text().splitlines() if path.exists() else ():
        at, thread, sequence, feed_id = line.split()
        handlings.append(Handling(float(at), thread, int(sequence), feed_id, member))
    return handlings


def record(member: Member, recorder: Recorder) -> None:
    """Iterate over the events, sync."""
    with member:
        for activity in member:
            recorder.note(activity)


async def arecord(member: Member, recorder: Recorder) -> None:
    """Iterate over the events, async."""
    async with member:
        async for activity in member:
            recorder.note(activity)


def main(arguments: list[str]) -> None:
    """Handle events until a signal ends the process."""
    url, plan_text, group, name, driver, path_text = arguments
    plan, path = Plan.load(plan_text), Path(path_text)
    feed = ActivityFeed.from_conn_string(url, prefix=plan.prefix)
    member = feed.group(group).member(name, lease=plan.lease)
    if group == RECORD and driver == "sync":
        record(member, Recorder(path))
    elif group == RECORD:
        asyncio.run(arecord(member, Recorder(path)))
    elif driver == "sync":
        member.run(Sink(path, name).apply)
    else:
        asyncio.run(member.arun(Sink(path, name).apply))


if __name__ == "__main__":
    end_with_parent()
    main(sys.argv[1:])

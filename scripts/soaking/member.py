"""Another process that is a member of a group: `-m scripts.soaking.member URL PLAN GROUP NAME sync|async PATH`.

A member of the group `record` notes each handling in a file of its own, in one write each, so that being killed loses none. One of
the group `sink` has its effects in the database that all of them share.
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
    """That an event was handled, when by the machine's clock, and by whom."""

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
        """That an event is handled now."""
        line = f"{time.monotonic():.6f} {activity.thread_id} {activity.sequence} {activity.id}\n"
        os.write(self._file, line.encode())


def read_handlings(path: Path, member: str) -> list[Handling]:
    """What a member noted."""
    handlings = []
    for line in path.read_text().splitlines() if path.exists() else ():
        at, thread, sequence, feed_id = line.split()
        handlings.append(Handling(float(at), thread, int(sequence), feed_id, member))
    return handlings


def record(member: Member, recorder: Recorder) -> None:
    """Iterates, sync."""
    with member:
        for activity in member:
            recorder.note(activity)


async def arecord(member: Member, recorder: Recorder) -> None:
    """Iterates, async."""
    async with member:
        async for activity in member:
            recorder.note(activity)


def main(url: str, told: str, group: str, name: str, *rest: str) -> None:
    """Works until it is told to stop."""
    plan, colour, path = Plan.load(told), rest[0], Path(rest[1])
    feed = ActivityFeed.from_conn_string(url, prefix=plan.prefix)
    member = feed.group(group).member(name, lease=plan.lease)
    if group == RECORD and colour == "sync":
        record(member, Recorder(path))
    elif group == RECORD:
        asyncio.run(arecord(member, Recorder(path)))
    elif colour == "sync":
        member.run(Sink(path, name).apply)
    else:
        asyncio.run(member.arun(Sink(path, name).apply))


if __name__ == "__main__":
    end_with_parent()
    main(*sys.argv[1:])

"""Another process that follows the feed: `-m scripts.benchmark.feed_child URL PREFIX GROUP sync|async|bare`.

It prints each event it is handed, with the machine's clock, for whoever measures how late it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import redis

from eventlog import Activity, ActivityFeed
from scripts.benchmark.clock import now
from scripts.benchmark.servers import Servers
from scripts.soaking.child import Child, end_with_parent

__all__ = ["Follower", "follow"]

PATIENCE = 20.0
"""Seconds within which a follower joins, and hears of what was put."""
READY = "ready"


class Follower:
    """One of them, as its parent sees it."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def await_ready(self) -> None:
        """Until it has joined."""
        self._await(1)

    def arrivals(self, count: int) -> dict[tuple[str, int], int]:
        """When it was handed the event of a thread with a sequence number, once there are so many."""
        lines = self._await(count + 1)[1:]
        found = {}
        for line in lines:
            thread, sequence, at = line.split()
            found[thread, int(sequence)] = int(at)
        return found

    def _await(self, count: int) -> list[str]:
        deadline = time.monotonic() + PATIENCE
        while len(lines := self._child.out.splitlines()) < count:
            if self._child.code is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._child.name}: {len(lines)} of {count} lines. {self._child.complaint}")
            time.sleep(0.02)
        return lines


@contextlib.contextmanager
def follow(servers: Servers, prefix: str, group: str, kind: str) -> Iterator[Follower]:
    """A follower that has joined."""
    child = Child(
        f"follower-{group}", "scripts.benchmark.feed_child", [servers.url, prefix, group, kind], servers.folder
    )
    try:
        follower = Follower(child)
        follower.await_ready()
        yield follower
    finally:
        child.kill()


def _tell(activity: Activity) -> None:
    at = now()
    os.write(1, f"{activity.thread_id} {activity.sequence} {at}\n".encode())


def _sync(feed: ActivityFeed, group: str) -> None:
    with feed.group(group, start="now").member("bench") as member:
        os.write(1, f"{READY}\n".encode())
        for activity in member:
            _tell(activity)


async def _async(feed: ActivityFeed, group: str) -> None:
    async with feed.group(group, start="now").member("bench") as member:
        os.write(1, f"{READY}\n".encode())
        async for activity in member:
            _tell(activity)


def _bare(url: str, prefix: str, group: str) -> None:
    client: Any = redis.Redis.from_url(url)
    feeds = {f"{{{prefix}:{number}}}:feed": ">" for number in range(16)}
    for key in feeds:
        client.xgroup_create(key, group, "$", mkstream=True)
    os.write(1, f"{READY}\n".encode())
    while True:
        reply = client.xreadgroup(group, "bench", feeds, count=100, block=1000) or ()
        for key, entries in reply.items() if isinstance(reply, dict) else reply:
            found = entries[0] if entries and isinstance(entries[0], list) else entries
            for _, fields in found:
                at = now()
                os.write(1, b"%b %b %d\n" % (fields[b"thread"], fields[b"seq"], at))
            client.xack(key, group, *(entry_id for entry_id, _ in found))


def main(url: str, prefix: str, group: str, kind: str) -> None:
    """Follows until it is killed."""
    if kind == "bare":
        _bare(url, prefix, group)
    feed = ActivityFeed.from_conn_string(url, prefix=prefix)
    if kind == "async":
        asyncio.run(_async(feed, group))
    else:
        _sync(feed, group)


if __name__ == "__main__":
    end_with_parent()
    main(*sys.argv[1:5])

"""A process that follows the feed, and prints each event with the machine's clock.

Usage: `run.py scripts.benchmark.feed_child URL PREFIX GROUP sync|async|bare`. The parent process measures the delay.
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

__all__ = ["Follower", "follow", "read_bare"]

PATIENCE = 20.0
"""Seconds within which a follower joins, and receives all events."""
READY = "ready"


class Follower:
    """A follower, as its parent sees it."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def await_lines(self, count: int) -> list[str]:
        """Wait for that many lines of output.

        The first line says that the follower has joined.
        """
        deadline = time.monotonic() + PATIENCE
        while len(lines := self._child.out.splitlines()) < count:
            if self._child.code is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._child.name}: {len(lines)} of {count} lines. {self._child.complaint}")
            time.sleep(0.02)
        return lines

    def arrivals(self, count: int) -> dict[tuple[str, int], int]:
        """Wait for that many events, and return the arrival of each (thread, sequence)."""
        lines = self.await_lines(count + 1)[1:]
        found = {}
        for line in lines:
            thread, sequence, at = line.split()
            found[thread, int(sequence)] = int(at)
        return found


@contextlib.contextmanager
def follow(servers: Servers, prefix: str, group: str, kind: str) -> Iterator[Follower]:
    """Start a follower, and wait until it has joined."""
    child = Child(
        f"follower-{group}", "scripts.benchmark.feed_child", [servers.url, prefix, group, kind], servers.folder
    )
    try:
        follower = Follower(child)
        follower.await_lines(1)
        yield follower
    finally:
        child.kill()


def _report(activity: Activity) -> None:
    at = now()
    os.write(1, f"{activity.thread_id} {activity.sequence} {at}\n".encode())


def _sync(feed: ActivityFeed, group: str) -> None:
    with feed.group(group, start="now").member("bench") as member:
        os.write(1, f"{READY}\n".encode())
        for activity in member:
            _report(activity)


async def _async(feed: ActivityFeed, group: str) -> None:
    async with feed.group(group, start="now").member("bench") as member:
        os.write(1, f"{READY}\n".encode())
        async for activity in member:
            _report(activity)


def _bare(url: str, prefix: str, group: str) -> None:
    client: Any = redis.Redis.from_url(url)
    feeds = {f"{{{prefix}:{number}}}:feed": ">" for number in range(16)}
    for key in feeds:
        client.xgroup_create(key, group, "$", mkstream=True)
    os.write(1, f"{READY}\n".encode())
    while True:
        for key, entries in read_bare(client, group, feeds, count=100, block=1000):
            for _, fields in entries:
                at = now()
                os.write(1, b"%b %b %d\n" % (fields[b"thread"], fields[b"seq"], at))
            client.xack(key, group, *(entry_id for entry_id, _ in entries))


def read_bare(client: Any, group: str, feeds: dict[Any, Any], **options: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Yield the streams and entries of one XREADGROUP, with RESP2 or RESP3."""
    reply = client.xreadgroup(group, "bench", feeds, **options) or ()
    for key, entries in reply.items() if isinstance(reply, dict) else reply:
        yield key, entries[0] if entries and isinstance(entries[0], list) else entries


def main(url: str, prefix: str, group: str, kind: str) -> None:
    """Follow the feed until a kill."""
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

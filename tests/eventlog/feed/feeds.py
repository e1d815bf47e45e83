"""Feeds of pointers that were made up, and members that work in threads of their own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from eventlog import Activity, ActivityFeed, Group, GroupNotFound, Keyspace, Lag, Member
from eventlog.framing import counted
from tests.servers import Server, connect

AT_ONCE: dict[str, Any] = {"retry": Retry(NoBackoff(), 0)}
"""Client options with which a server that is down is noticed at once."""
QUICK: dict[str, Any] = {"lease": 0.5, "backoff": 0.02}
"""Options of members that do not keep tests waiting."""


class Made:
    """A feed whose pointers are made up, under a prefix that is laid out by hand."""

    def __init__(self, url: str, prefix: str, partitions: int = 4) -> None:
        self.url = url
        self.prefix = prefix
        self.keyspace = Keyspace(prefix, partitions)
        self.client: Any = connect(url)
        self.client.hset(self.keyspace.meta, mapping={"layout": 1, "partitions": partitions})
        self.sequences: dict[str, int] = {}

    def partition_of(self, thread: str) -> int:
        """Where a thread's events are announced."""
        return self.keyspace.partition_of(thread.encode())

    def stream(self, thread: str) -> bytes:
        """The key that they are announced in."""
        return self.keyspace.partition(self.partition_of(thread)).feed

    def add(self, thread: str, entry_id: str = "*", client: Any = None, **fields: Any) -> str:
        """Announces the next event of a thread; the pointer's entry id."""
        number = self.sequences[thread] = self.sequences.get(thread, 0) + 1
        nodes = b"".join(counted(name.encode()) for name in fields.pop("nodes", ()))
        pointer = {
            "thread": thread,
            "id": f"{number}-0",
            "seq": number,
            "kind": "checkpoint",
            "ns": "",
            "checkpoint": "c",
            "source": "loop",
            "step": number,
            "run": "",
            "channels": "",
            "nodes": nodes,
            **fields,
        }
        made: bytes = (client or self.client).xadd(self.stream(thread), pointer, id=entry_id)
        return made.decode()

    def apart(self, count: int, name: str = "thread") -> list[str]:
        """Threads that lie in different partitions."""
        found: dict[int, str] = {}
        number = 0
        while len(found) < count:
            found.setdefault(self.partition_of(f"{name}{number}"), f"{name}{number}")
            number += 1
        return list(found.values())

    def together(self, count: int, partition: int = 0) -> list[str]:
        """Threads that lie in one partition."""
        names = (f"thread{number}" for number in range(100_000))
        return [
            name for name, _ in zip((n for n in names if self.partition_of(n) == partition), range(count), strict=False)
        ]

    def feed(self, **options: Any) -> ActivityFeed:
        """A feed with connections of its own."""
        return ActivityFeed.from_conn_string(self.url, prefix=self.prefix, **options)

    def close(self) -> None:
        """Ends its own connection."""
        self.client.close()


@contextmanager
def made_feed(url: str, prefix: str, partitions: int = 4) -> Iterator[tuple[Made, ActivityFeed]]:
    """A feed to fill, and one to read it by."""
    made = Made(url, prefix, partitions)
    try:
        with made.feed() as feed:
            yield made, feed
    finally:
        made.close()


WORKERS: list[Worker] = []
"""Those of the test that runs."""


class Worker:
    """A member that runs in a thread, with either driver, and notes the events that it gets."""

    def __init__(
        self,
        url: str,
        prefix: str,
        group: str,
        handler: Callable[[Activity], object] | None = None,
        *,
        driver: str = "sync",
        name: str = "worker",
        client: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.handed: list[tuple[str, int]] = []
        """Thread and sequence number of each event."""
        self.activities: list[Activity] = []
        self.error: BaseException | None = None
        self.member: Member | None = None
        self._handler = handler
        self._open: Callable[[], ActivityFeed] = lambda: ActivityFeed.from_conn_string(
            url, prefix=prefix, **(client or {})
        )
        self._make: Callable[[ActivityFeed], Member] = lambda feed: feed.group(group).member(
            name, **{**QUICK, **options}
        )
        self._thread = threading.Thread(target=self._arun if driver == "async" else self._run, daemon=True)
        self._thread.start()
        WORKERS.append(self)

    @property
    def partitions(self) -> tuple[int, ...]:
        """Those that it leases."""
        return () if self.member is None else self.member.partitions

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def join(self, seconds: float = 20) -> None:
        """Waits for its end. Raises what ended it."""
        self._thread.join(seconds)
        assert not self.alive
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Ends it after the event in hand. Raises what ended it before."""
        eventually(lambda: self.member is not None or not self.alive)
        if self.member is not None:
            self.member.stop()
        self.join()

    def _handle(self, activity: Activity) -> None:
        self.handed.append((activity.thread_id, activity.sequence))
        self.activities.append(activity)
        if self._handler is not None:
            self._handler(activity)

    def _run(self) -> None:
        try:
            with self._open() as feed:
                self.member = self._make(feed)
                self.member.run(self._handle)
        except BaseException as error:
            self.error = error

    def _arun(self) -> None:
        async def work() -> None:
            async with self._open() as feed:
                self.member = self._make(feed)
                await self.member.arun(self._handle)

        try:
            asyncio.run(work())
        except BaseException as error:
            self.error = error


def async_connect(server: Server) -> Any:
    """`connect`, of redis.asyncio."""
    if not server.is_cluster:
        return redis.asyncio.Redis.from_url(server.url)
    host, port = server.url.rpartition("/")[2].split(",")[0].split(":")
    return redis.asyncio.RedisCluster(host=host, port=int(port))


def eventually(condition: Callable[[], object], seconds: float = 15) -> float:
    """Waits until something is so; the seconds that took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, "it did not become so in time"
        time.sleep(0.01)
    return time.monotonic() - begin


def through(group: Group) -> bool:
    """Whether a group has worked everything off."""
    try:
        lag: Lag = group.lag()
    except GroupNotFound:  # not registered yet
        return False
    return lag.pending == 0 and lag.waiting == 0


def in_order(handed: list[tuple[str, int]]) -> bool:
    """Whether the first time that each thread's events were handed out was in their order, without a gap."""
    seen: dict[str, int] = {}
    for thread, number in handed:
        if number > seen.get(thread, 0) + 1:
            return False
        seen[thread] = max(number, seen.get(thread, 0))
    return True


async def take(source: Any, count: int, driver: str) -> list[Activity]:
    """The next activities of a tail or a member, within 20 s."""
    if driver == "sync":
        found: list[Activity] = await in_thread(lambda: _take(source, count))
        return found
    return await asyncio.wait_for(_atake(source, count), 20)


async def _atake(source: Any, count: int) -> list[Activity]:
    found = []
    async for activity in source:
        found.append(activity)
        if len(found) == count:
            break
    return found


async def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns, run in a thread that nobody waits for if it hangs; within 20 s."""
    done: futures.Future[Any] = futures.Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wait_for(asyncio.wrap_future(done), 20)


def _take(source: Any, count: int) -> list[Activity]:
    found = []
    for activity in source:
        found.append(activity)
        if len(found) == count:
            break
    return found

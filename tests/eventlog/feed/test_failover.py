"""A replica that is behind becomes the primary: what was read and is gone is noticed, and work goes on from what there is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from eventlog import Activity, ActivityFeed, PositionLost
from tests.eventlog.feed.feeds import AT_ONCE, Made, Worker, eventually, in_order, take, through
from tests.proxy import Proxy
from tests.servers import RunningServer, free_ports


class Pair:
    """A primary and a replica; `url` leads to the primary, after `fail_over` to the replica."""

    def __init__(self, start: Callable[..., RunningServer], prefix: str) -> None:
        self._primary, self._replica = (start("--repl-diskless-sync-delay", "0", port=port) for port in free_ports(2))
        self.made = Made(self._primary.url, prefix, 1)
        self.replica: Any = self._replica.client()
        call: Any = self.replica.execute_command
        call("REPLICAOF", "127.0.0.1", self._primary.port)
        self.level()
        self.proxy = Proxy(self._primary.url)
        self.url = self.proxy.url

    def level(self) -> None:
        """Until the replica has all that the primary has."""
        self.made.client.set("level", time.time())
        eventually(lambda: self.made.client.execute_command("WAIT", 1, 100) == 1)

    def part(self) -> None:
        """From here on the replica hears of nothing; it is a primary, that nobody talks to yet."""
        self.replica.execute_command("REPLICAOF", "NO", "ONE")

    def fail_over(self) -> None:
        """The primary dies, and everyone comes to the replica."""
        self.proxy._upstream = urlsplit(self._replica.url)
        self._primary.kill()
        for one in tuple(self.proxy._open):
            with suppress(OSError):
                one.shutdown(2)

    def feed(self) -> ActivityFeed:
        """A feed by way of the proxy."""
        return ActivityFeed.from_conn_string(self.url, prefix=self.made.prefix, **AT_ONCE)

    def close(self) -> None:
        """Ends its connections."""
        self.proxy.close()
        self.replica.close()
        self.made.close()


@pytest.fixture
def pair(private_server: Callable[..., RunningServer], prefix: str) -> Iterator[Pair]:
    """A primary and its replica, level."""
    opened = Pair(private_server, prefix)
    yield opened
    opened.close()


@pytest.mark.parametrize(("another", "driver"), [(False, "async"), (True, "sync")])
async def test_a_tail_that_is_ahead(pair: Pair, another: bool, driver: str) -> None:
    """It notices, also if another event has taken the place; so does a check of its position; one that is not ahead goes on."""
    pair.made.add("a")
    pair.level()
    async with pair.feed() as feed:
        tail, level = feed.tail("beginning"), feed.tail("beginning")
        await take(level, 1, driver)
        pair.part()
        lost = pair.made.add("a")
        found = await take(tail, 2, driver)
        pair.fail_over()
        if another:
            pair.made.add("b", entry_id=lost, client=pair.replica)
        with pytest.raises(PositionLost, match=lost):
            await take(tail, 1, driver)
        for position in (found[-1].position, str(tail.position)):
            with pytest.raises(PositionLost):
                await feed.acheck(position)
        await feed.acheck(found[0].position)
        pair.made.add("c", client=pair.replica)
        assert [one.thread_id for one in await take(level, 1 + another, driver)] == ["b", "c"][1 - another :]


def test_a_member_that_is_ahead(pair: Pair, driver: str) -> None:
    """It raises once, and goes on from where the server is: what took the place of the lost events is handled too."""
    for _ in range(3):
        pair.made.add("a")
    with pair.feed() as feed:
        group = feed.group("g")
        group.register()
        worker = Worker(pair.url, pair.made.prefix, "g", driver=driver, client=AT_ONCE)
        eventually(lambda: through(group))
        pair.level()
        pair.part()
        lost = [pair.made.add("a") for _ in range(2)]
        eventually(lambda: len(worker.handed) == 5 and through(group))
        pair.fail_over()
        for entry_id in lost:
            pair.made.add("b", entry_id=entry_id, client=pair.replica)
        eventually(lambda: not worker.alive)
        with pytest.raises(PositionLost):
            worker.join()
        later = Worker(pair.url, pair.made.prefix, "g", driver=driver, client=AT_ONCE)
        eventually(lambda: through(group))
        later.stop()
        assert later.handed == [("b", 1), ("b", 2)]


async def test_the_same_member_goes_on(pair: Pair) -> None:
    """Who catches the error and asks on gets all that the server has."""
    pair.made.add("a")
    with pair.feed() as feed:
        group = feed.group("g")
        with group.member("m", lease=5, acknowledge_within=0) as member:
            next(member)
            member.acknowledge()
            pair.level()
            pair.part()
            lost = pair.made.add("a")
            assert next(member).sequence == 2
            member.acknowledge()
            pair.fail_over()
            pair.made.add("b", entry_id=lost, client=pair.replica)
            pair.made.add("b", client=pair.replica)
            raised = 0
            found: list[Activity] = []
            while len(found) < 2:
                try:
                    found.append(next(member))
                except PositionLost:
                    raised += 1
            assert raised == 1
            assert [(one.thread_id, one.sequence) for one in found] == [("b", 1), ("b", 2)]
            member.acknowledge()
        assert through(group)


def until_it_lost(pair: Pair, worker: Worker) -> None:
    """The servers change, and the worker ends on request."""
    pair.fail_over()
    eventually(lambda: not worker.alive)
    with pytest.raises(PositionLost):
        worker.join()


def test_a_failure_that_was_lost(pair: Pair, driver: str) -> None:
    """The replica has the events, not that one of them failed: it is tried again all the same, in its thread's order."""
    done: list[tuple[str, int]] = []
    failed: list[int] = []

    def handle(activity: Activity) -> None:
        if activity.thread_id == "bad" and not failed:
            pair.level()
            pair.part()
            failed.append(activity.sequence)
            raise ValueError("not yet")
        done.append((activity.thread_id, activity.sequence))

    with pair.feed() as feed:
        group = feed.group("g")
        group.register()
        pair.made.add("bad")
        pair.made.add("good")
        pair.made.add("bad")
        worker = Worker(pair.url, pair.made.prefix, "g", handle, driver=driver, client=AT_ONCE, max_attempts=1)
        eventually(lambda: group.lag().parked == 1 and group.lag().pending == 0)
        assert (failed, done, group.lag().waiting) == ([1], [("good", 1)], 2)
        until_it_lost(pair, worker)
        assert (group.lag().waiting, group.lag().pending) == (0, 3)
        later = Worker(pair.url, pair.made.prefix, "g", handle, driver=driver, client=AT_ONCE)
        eventually(lambda: through(group))
        later.stop()
    assert set(done[1:]) == {("bad", 1), ("good", 1), ("bad", 2)}
    assert in_order(done)


def test_an_effect_that_was_lost(pair: Pair) -> None:
    """It is gone together with its acknowledgement: the event is handed out again, and counts once."""
    for _ in range(3):
        pair.made.add("a")
    with pair.feed() as feed:
        group = feed.group("g")
        with group.member("m", lease=5) as member:
            for number in (1, 2, 3):
                assert next(member).sequence == number
                member.effect("HINCRBY", "counts", "a", 1)
                if number == 2:
                    pair.level()
                    pair.part()
            member.acknowledge()
            (key,) = group.effect_keys("counts")
            assert pair.made.client.hgetall(key) == {b"a": b"3"}
            pair.fail_over()
            assert pair.replica.hgetall(key) == {b"a": b"1"}
            with pytest.raises(PositionLost):
                next(member)
            for number in (2, 3):
                assert next(member).sequence == number
                member.effect("HINCRBY", "counts", "a", 1)
            member.acknowledge()
            assert pair.replica.hgetall(key) == {b"a": b"3"}
            assert group.lag().handled == 3


async def test_nothing_is_lost_where_the_replica_was_level(pair: Pair, driver: str) -> None:
    """Members and tails go on as if nothing had been."""
    for _ in range(5):
        pair.made.add("a")
    async with pair.feed() as feed:
        tail = feed.tail("beginning")
        await take(tail, 5, driver)
        worker = Worker(pair.url, pair.made.prefix, "g", driver=driver, client=AT_ONCE)
        group = feed.group("g")
        await asyncio.to_thread(eventually, lambda: through(group))
        await asyncio.sleep(0.2)
        pair.level()
        pair.part()
        pair.fail_over()
        for _ in range(5):
            pair.made.add("a", client=pair.replica)
        assert [one.sequence for one in await take(tail, 5, driver)] == [6, 7, 8, 9, 10]
        await asyncio.to_thread(eventually, lambda: through(group))
        await asyncio.to_thread(worker.stop)
        assert worker.handed == [("a", number) for number in range(1, 11)]

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
        self._primary = start(port=free_ports(1)[0])
        self._replica = start("--repl-diskless-sync-delay", "0", port=free_ports(1)[0])
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


@pytest.mark.parametrize("another", [False, True])
async def test_a_tail_that_is_ahead(pair: Pair, another: bool, colour: str) -> None:
    """It notices, also if another event has taken the place; so does a check of its position; one that is not ahead goes on."""
    pair.made.add("a")
    pair.level()
    async with pair.feed() as feed:
        tail, level = feed.tail("beginning"), feed.tail("beginning")
        await take(level, 1, colour)
        pair.part()
        lost = pair.made.add("a")
        found = await take(tail, 2, colour)
        pair.fail_over()
        if another:
            pair.made.add("b", entry_id=lost, client=pair.replica)
        with pytest.raises(PositionLost, match=lost):
            await take(tail, 1, colour)
        for position in (found[-1].position, str(tail.position)):
            with pytest.raises(PositionLost):
                await feed.acheck(position)
        await feed.acheck(found[0].position)
        pair.made.add("c", client=pair.replica)
        assert [one.thread_id for one in await take(level, 1 + another, colour)] == ["b", "c"][1 - another :]


def test_a_member_that_is_ahead(pair: Pair, colour: str) -> None:
    """It raises once, and goes on from where the server is: what took the place of the lost events is handled too."""
    for _ in range(3):
        pair.made.add("a")
    with pair.feed() as feed:
        group = feed.group("g")
        group.register()
        worker = Worker(pair.url, pair.made.prefix, "g", colour=colour, client=AT_ONCE)
        eventually(lambda: through(group))
        pair.level()
        pair.part()
        lost = [pair.made.add("a") for _ in range(2)]
        eventually(lambda: len(worker.handed) == 5 and through(group))
        pair.fail_over()
        for entry_id in lost:
            pair.made.add("b", entry_id=entry_id, client=pair.replica)
        eventually(lambda: not worker.alive, 20)
        with pytest.raises(PositionLost):
            worker.join()
        later = Worker(pair.url, pair.made.prefix, "g", colour=colour, client=AT_ONCE)
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


def test_a_failure_that_was_lost(pair: Pair, colour: str) -> None:
    """The replica has the events, not that one of them failed: it is tried again all the same."""
    with pair.feed() as feed:
        group = feed.group("g")
        group.register()
        failing = [True]

        def handle(activity: Activity) -> None:
            if failing[0] and activity.thread_id == "bad":
                raise ValueError("not yet")
            done.append((activity.thread_id, activity.sequence))

        done: list[tuple[str, int]] = []
        worker = Worker(pair.url, pair.made.prefix, "g", handle, colour=colour, client=AT_ONCE, lease=5, max_attempts=1)
        eventually(lambda: len(worker.partitions) == 1)
        # The events reach the replica while the member, held up, has not seen them.
        pair.made.add("first")
        eventually(lambda: through(group))
        hold = pair.made.client
        with hold.pipeline(transaction=True) as pipeline:
            for thread in ("bad", "good"):
                pair.made.add(thread, client=_Piped(pipeline))
            pipeline.execute()
        _copy(pair)
        eventually(lambda: group.lag().parked == 1 and through_but(group, 1))
        pair.fail_over()
        failing[0] = False
        pair.made.sequences.clear()
        pair.made.add("later", client=pair.replica)
        try:
            eventually(lambda: ("later", 1) in done or not worker.alive)
            if worker.alive:
                worker.stop()
            else:
                with pytest.raises(PositionLost):
                    worker.join()
        finally:
            last = Worker(pair.url, pair.made.prefix, "g", handle, colour=colour, client=AT_ONCE, lease=5)
            eventually(lambda: group.lag().pending == 0)
            group.retry()
            eventually(lambda: through(group))
            last.stop()
        assert ("bad", 1) in done
        assert in_order(done)


class _Piped:
    """A pipeline that `Made.add` can write to."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def xadd(self, *args: Any, **kwargs: Any) -> bytes:
        """Queues it."""
        self._pipeline.xadd(*args, **kwargs)
        return b""


def _copy(pair: Pair) -> None:
    """Parts the replica, and gives it the feed's entries that it lacks, but nothing else."""
    pair.part()
    stream = pair.made.stream("bad")
    has = {entry_id for entry_id, _ in pair.replica.xrange(stream)}
    for entry_id, fields in pair.made.client.xrange(stream):
        if entry_id not in has:
            pair.replica.xadd(stream, fields, id=entry_id)
    state = pair.made.keyspace.partition(0).group(b"g")
    first = pair.replica.xrange(stream)[0][0]
    # Should it have heard of what the member wrote already, that is taken back.
    pair.replica.delete(state.held, state.failures, state.due)
    pair.replica.hset(state.state, mapping={"id": first, "n": 1, "check": _check_of(pair, first)})
    pair.replica.hset(state.shared.positions, "g", first)


def _check_of(pair: Pair, entry_id: bytes) -> str:
    feed = ActivityFeed(pair.made.client, prefix=pair.made.prefix)
    return next(one.mark.check for one in feed.tail("beginning", follow=False) if one.id == entry_id.decode())


def through_but(group: Any, waiting: int) -> bool:
    """Whether all is worked off but for so many that wait."""
    lag = group.lag()
    return bool(lag.pending == 0 and lag.waiting == waiting)


async def test_nothing_is_lost_where_the_replica_was_level(pair: Pair, colour: str) -> None:
    """Members and tails go on as if nothing had been."""
    for _ in range(5):
        pair.made.add("a")
    async with pair.feed() as feed:
        tail = feed.tail("beginning")
        await take(tail, 5, colour)
        worker = Worker(pair.url, pair.made.prefix, "g", colour=colour, client=AT_ONCE)
        group = feed.group("g")
        await asyncio.to_thread(eventually, lambda: through(group))
        await asyncio.sleep(0.2)
        pair.level()
        pair.part()
        pair.fail_over()
        for _ in range(5):
            pair.made.add("a", client=pair.replica)
        assert [one.sequence for one in await take(tail, 5, colour)] == [6, 7, 8, 9, 10]
        await asyncio.to_thread(eventually, lambda: through(group))
        await asyncio.to_thread(worker.stop)
        assert worker.handed == [("a", number) for number in range(1, 11)]

"""Members that lose a partition or the server, and groups that lose records."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

import pytest

from eventlog import Activity, ActivityFeed, Member
from eventlog.errors import PositionLost, ServerUnavailable
from tests.eventlog.feed.feeds import AT_ONCE, QUICK, Made, Worker, eventually, made_feed, through
from tests.servers import RunningServer, Server


def take_lease(made: Made, thread: str) -> None:
    """Gives the lease of a thread's partition to another member, for no time."""
    state = made.keyspace.partition(made.partition_of(thread)).group(b"g").state
    made.client.hset(state, mapping={"token": "another", "until": "0"})


def test_a_failure_after_the_lease_was_lost(made: Made, driver: str, caplog: pytest.LogCaptureFixture) -> None:
    """The failure is logged, and not recorded, since another member may have the event; it is a first attempt again."""
    made.add("a")

    def handle(_: Activity) -> None:
        if len(worker.handed) == 1:
            take_lease(made, "a")
            raise ValueError

    with made.feed() as feed:
        worker = Worker(made.url, made.prefix, "g", handle, driver=driver)
        eventually(lambda: through(feed.group("g")))
        worker.stop()
        assert [one.attempt for one in worker.activities] == [1, 1]
    assert [record.getMessage() for record in caplog.records if "left to the member" in record.getMessage()]


def test_reading_on_after_the_lease_was_lost(one: tuple[Made, ActivityFeed]) -> None:
    """Progress that a member can no longer settle is left out, and the events are handed out again."""
    made, feed = one
    for _ in range(3):
        made.add("a")
    with feed.group("g").member("m", batch=2, acknowledge_within=100, **QUICK) as member:
        assert [next(member).sequence for _ in range(2)] == [1, 2]
        take_lease(made, "a")
        assert [next(member).sequence for _ in range(3)] == [1, 2, 3]
        member.acknowledge()
    assert through(feed.group("g"))


def test_leaving_after_a_loss(one: tuple[Made, ActivityFeed]) -> None:
    """A member that cannot settle its progress says so as it leaves, and gives its leases back nevertheless."""
    made, feed = one
    made.add("a")
    made.add("a")
    with pytest.raises(PositionLost), feed.group("g").member("m", lease=60, acknowledge_within=100) as member:
        next(member)
        next(member)
        made.client.delete(made.stream("a"))
    assert feed.group("g").lag().members == ()
    assert {one.member for one in feed.group("g").lag().partitions} == {None}


def backoff_that_raises(attempts: int) -> float:
    """No delay."""
    raise LookupError(attempts)


@pytest.mark.parametrize("backoff", [backoff_that_raises, lambda _: math.nan])
def test_a_backoff_that_is_no_time(made: Made, backoff: Callable[[int], float]) -> None:
    """The event waits for an hour, and its member goes on."""
    bad, good = made.together(2)
    made.add(bad)
    made.add(good)

    def handle(activity: Activity) -> None:
        if activity.thread_id == bad:
            raise ValueError

    worker = Worker(made.url, made.prefix, "g", handle, backoff=backoff)
    eventually(lambda: (good, 1) in worker.handed)
    worker.stop()
    due = made.client.zscore(made.keyspace.partition(0).group(b"g").due, bad)
    seconds, _ = made.client.time()
    assert 3000 < due / 1000 - seconds <= 3601


def test_a_waiting_thread_whose_events_are_gone(made: Made) -> None:
    """A thread of which another program deleted the waiting events is freed, and goes on with its next event."""
    made.add("a")
    keys = made.keyspace.partition(made.partition_of("a")).group(b"g")

    def handle(activity: Activity) -> None:
        if activity.sequence == 1:
            raise ValueError

    with made.feed() as feed:
        first = Worker(made.url, made.prefix, "g", handle, backoff=60)
        eventually(lambda: made.client.zcard(keys.held))
        first.stop()
        made.client.delete(keys.held)
        made.client.zadd(keys.due, {"a": 1})
        second = Worker(made.url, made.prefix, "g", handle)
        eventually(lambda: not made.client.exists(keys.due))
        made.add("a")
        eventually(lambda: through(feed.group("g")))
        second.stop()
        assert second.handed == [("a", 2)]


def test_a_group_that_one_partition_lost(one: tuple[Made, ActivityFeed], caplog: pytest.LogCaptureFixture) -> None:
    """A partition whose record of the group is gone starts with the oldest entry, and a warning says so."""
    made, feed = one
    first, second = made.apart(2)
    made.add(first)
    made.add(second)
    group = feed.group("g")
    group.register()
    with group.member("m", **QUICK) as member:
        assert {next(member).thread_id, next(member).thread_id} == {first, second}
        member.acknowledge()
    keys = made.keyspace.partition(made.partition_of(first))
    made.client.hdel(keys.positions, "g")
    made.client.delete(keys.group(b"g").state)
    with caplog.at_level(logging.WARNING), group.member("m", **QUICK) as member:
        assert next(member).thread_id == first
        member.acknowledge()
    assert f"lost in partition {made.partition_of(first)}" in caplog.text
    assert through(group)


def test_a_registration_that_was_cut_short(one: tuple[Made, ActivityFeed]) -> None:
    """Registering again completes it, and keeps the positions of partitions that were done."""
    made, feed = one
    made.add("a")
    group = feed.group("g", start="now")
    group.register()
    made.add("a")
    made.client.hdel(made.keyspace.groups, "g")
    feed.group("g", start="now").register()
    assert group.lag().pending == 1


async def test_a_server_that_is_down(private_server: Callable[..., RunningServer], prefix: str, driver: str) -> None:
    """A member that cannot join raises; one that cannot leave logs it, and the body's own error is raised."""
    running = private_server()
    with made_feed(running.url, prefix) as (made, _):
        made.add("a")
        async with made.feed(**AT_ONCE) as feed:
            member = feed.group("g").member("m", patience=0, **QUICK)

            async def body() -> None:
                if driver == "sync":
                    with member:
                        running.kill()
                        raise ZeroDivisionError
                async with member:
                    running.kill()
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await body()
            for _ in range(2):  # it is free again after it could not join
                with pytest.raises(ServerUnavailable):
                    await join(member, driver)


async def join(member: Member, driver: str) -> None:
    """Joins, sync or async."""
    if driver == "sync":
        with member:
            pass
    else:
        async with member:
            pass


def test_stopped_before_the_first_write(any_server: Server, prefix: str, driver: str) -> None:
    """A member that waits for the first write under its prefix ends when it is stopped."""
    worker = Worker(any_server.url, prefix, "g", driver=driver)
    worker.stop()
    assert worker.handed == []


def test_handlers_of_either_form(made: Made) -> None:
    """`run` refuses a coroutine function, and counts an awaitable result as a failure; `arun` awaits it."""
    made.add("a")
    done = []

    async def handle(activity: Activity) -> None:
        await asyncio.sleep(0)
        done.append(activity.thread_id)
        member.stop()

    with made.feed() as feed:
        group = feed.group("g")
        member = group.member("m", max_attempts=1, **QUICK)
        with pytest.raises(TypeError, match="arun"):
            member.run(handle)
        group.register()
        stopped = group.member("m", max_attempts=1, **QUICK)

        def disguised(activity: Activity) -> object:
            stopped.stop()
            return handle(activity)

        stopped.run(disguised)
        assert "awaitable" in group.parked()[0].error
        group.retry()

        async def work() -> None:
            nonlocal member
            async with made.feed() as other:
                member = other.group("g").member("m", **QUICK)
                await asyncio.wait_for(member.arun(handle), 20)

        asyncio.run(work())
        assert done == ["a"]
        assert through(group)

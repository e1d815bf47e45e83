"""Groups: registered, worked off by sync and async members, measured, dropped."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventlog import Activity, ActivityFeed, EventGone, Group, GroupNotFound, InvalidArgument, Member, Position
from eventlog.errors import PositionLost, PositionTrimmed
from saver import RedisStreamSaver
from tests.eventlog.feed.feeds import (
    QUICK,
    Made,
    Worker,
    async_connect,
    eventually,
    in_order,
    in_thread,
    made_feed,
    take,
    through,
)
from tests.saver.audit import put_of
from tests.servers import Server, connect

pytestmark = pytest.mark.telling


def work_off(made: Made, group: Group, driver: str = "sync", **options: Any) -> Worker:
    """A member that works until nothing is left, and has left."""
    worker = Worker(made.url, made.prefix, group.name, driver=driver, **options)
    eventually(lambda: through(group))
    worker.stop()
    return worker


@pytest.mark.parametrize("driver", ["sync"])
def test_a_member_works_everything_off(made_on_each: Made, driver: str) -> None:
    """Each event once, in order, what is there and what comes; afterwards nothing is left, and a further member gets nothing."""
    made = made_on_each
    threads = made.apart(4) + made.together(3)
    with made.feed() as feed:
        group = feed.group("g")
        for number in range(40):
            made.add(threads[number % 7])
        group.register()
        lag = group.lag()
        assert (lag.pending, lag.handled, lag.members) == (40, 0, ())
        assert lag.age is not None
        assert 0 <= lag.age < 30
        worker = Worker(made.url, made.prefix, "g", driver=driver, batch=6, name="m/1")
        eventually(lambda: len(worker.handed) == 40)
        for number in range(20):
            made.add(threads[number % 7])
        eventually(lambda: through(group))
        assert group.lag().members == ("m/1",)
        assert {one.member for one in group.lag().partitions} == {"m/1"}
        worker.stop()
        assert len(worker.handed) == 60 == len(set(worker.handed))
        assert in_order(worker.handed)
        lag = group.lag()
        assert (lag.pending, lag.age, lag.handled, lag.waiting, lag.parked, lag.members) == (0, None, 60, 0, 0, ())
        assert {one.member for one in lag.partitions} == {None}
        assert lag.throughput > 0
        made.add("more")
        assert [one[0] for one in work_off(made, group, driver).handed] == ["more"]


async def test_acknowledged_when_the_body_is_through(made: Made, driver: str) -> None:
    """By break the event in hand is left, unless it was acknowledged."""
    for _ in range(4):
        made.add("a")
    async with made.feed() as feed:

        async def read(count: int, acknowledge: bool) -> list[int]:
            found = []
            if driver == "sync":

                def work() -> None:
                    with feed.group("g").member("m", **QUICK) as member:
                        for one in member:
                            found.append(one.sequence)
                            if len(found) == count:
                                if acknowledge:
                                    member.acknowledge()
                                break

                await in_thread(work)
            else:
                async with feed.group("g").member("m", **QUICK) as member:
                    async for one in member:
                        found.append(one.sequence)
                        if len(found) == count:
                            if acknowledge:
                                await member.aacknowledge()
                            break
            return found

        assert await read(2, acknowledge=False) == [1, 2]
        assert await read(2, acknowledge=True) == [2, 3]
        assert await read(1, acknowledge=True) == [4]
        assert (await feed.group("g").alag()).pending == 0


@pytest.mark.parametrize("start", ["beginning", "now", "time", "position", "text"])
def test_where_a_group_begins(made: Made, start: str) -> None:
    """Lag is exact from the start on, and the member gets just what follows."""
    threads = made.apart(3)
    with made.feed() as feed:
        for thread in threads:
            made.add(thread)
        time.sleep(0.005)
        at: Any = feed.tail("beginning", follow=False)
        position = [one.position for one in at][-1]
        begin: Any = {"beginning": "beginning", "now": "now", "position": position, "text": str(position)}.get(start)
        if start == "time":
            begin = list(feed.tail("beginning", follow=False))[-1].time + timedelta(milliseconds=1)
        group = feed.group("g", start=begin)
        if start == "now":
            group.register()
        for thread in threads[:2]:
            made.add(thread)
        group.register()
        expected = 5 if start == "beginning" else 2
        assert group.lag().pending == expected
        feed.trim(0)
        assert group.lag().pending == expected
        assert len(work_off(made, group).handed) == expected
        made.add(threads[2])
        assert group.lag().pending == 1
        assert group.lag().pending == 1


@pytest.mark.parametrize("following", [1000, 1500])
def test_a_group_that_begins_far_back(one: tuple[Made, ActivityFeed], following: int) -> None:
    """What follows its start is counted whole, page by page."""
    made, feed = one
    made.add("a")
    position = feed.now()
    pipeline = made.client.pipeline()
    for number in range(following):
        pipeline.xadd(made.stream("a"), {"thread": "a", "id": "1-0", "seq": number, "kind": "writes"})
    pipeline.execute()
    group = feed.group("g", start=position)
    group.register()
    assert group.lag().pending == following


def test_a_start_in_the_future(one: tuple[Made, ActivityFeed]) -> None:
    """It is refused, by a time or a position, and nothing is left of it; so is a member of such a group."""
    made, feed = one
    made.add("a")
    later = datetime.now(timezone.utc) + timedelta(seconds=60)
    for start in (later, Position.parse(f"{made.partition_of('a')}:{int(later.timestamp() * 1000)}-0")):
        group = feed.group("g", start=start)
        with pytest.raises(InvalidArgument, match="future"):
            group.register()
        with pytest.raises(InvalidArgument, match="future"), group.member("m", **QUICK):
            pass
    assert feed.groups() == []
    assert not any(made.client.exists(made.keyspace.partition(number).positions) for number in range(4))
    assert work_off(made, feed.group("g")).handed == [("a", 1)]


def test_a_start_that_is_lost_or_trimmed(one: tuple[Made, ActivityFeed]) -> None:
    """It is refused when the group is registered, rather than that its members fail forever."""
    made, feed = one
    ids = [made.add("a") for _ in range(3)]
    places = [activity.position for activity in feed.tail("beginning", follow=False)]
    feed.trim(4)
    with pytest.raises(PositionTrimmed):
        feed.group("g", start=places[0]).register()
    made.client.xdel(made.stream("a"), ids[-1])
    with pytest.raises(PositionLost):
        feed.group("h", start=places[-1]).register()
    assert feed.groups() == []


@pytest.mark.parametrize("driver", ["async"])
def test_filters(made_on_each: Made, driver: str) -> None:
    """They are the group's, decided at the server; what they leave out is done with."""
    made = made_on_each
    with made.feed() as feed:
        group = feed.group("g", kinds=["writes", "deleted"], node="n")
        group.register()
        for number in range(30):
            made.add(
                "abc"[number % 3], kind="writes" if number % 2 else "checkpoint", nodes=("n",) if number < 20 else ()
            )
        worker = work_off(made, group, driver, batch=3)
        assert len(worker.handed) == 10
        assert {one.kind for one in worker.activities} == {"writes"}
        assert group.lag().handled == 10
        feed.group("g").register()
        feed.group("g", kinds=["deleted", "writes"], node=["n"]).register()
        with pytest.raises(InvalidArgument, match="filters"):
            feed.group("g", kinds="writes").register()


def test_two_groups(made: Made) -> None:
    """Neither knows of the other; the feed is kept for the slower."""
    threads = made.apart(4)
    with made.feed() as feed:
        slow, fast = feed.group("slow"), feed.group("fast")
        slow.register()
        for number in range(20):
            made.add(threads[number % 4])
        assert len(work_off(made, fast).handed) == 20
        trimmed = feed.trim(0)
        assert trimmed.entries == 0
        assert {held.group for held in trimmed.held_back} == {"slow"}
        assert len(work_off(made, slow).handed) == 20
        assert feed.trim(0).entries == 20
        assert [(one.name, one.members) for one in feed.groups()] == [("fast", ()), ("slow", ())]
        feed.drop_group("slow")
        assert [one.name for one in feed.groups()] == ["fast"]


def test_groups_that_there_are_not(made: Made) -> None:
    """Each call says so; a member registers its group."""
    with made.feed() as feed:
        group = feed.group("none")
        for call in (group.lag, group.parked, group.retry, group.skip, lambda: feed.drop_group("none")):
            with pytest.raises(GroupNotFound, match="'none'"):
                call()
        with group.member("m", lease=0.5):
            assert group.lag().pending == 0
        for name, kind in (("", InvalidArgument), ("\ud800", InvalidArgument), (5, TypeError)):
            bad: Any = name
            with pytest.raises(kind):
                feed.group(bad)


def test_dropped_under_its_member(made: Made, driver: str) -> None:
    """The member ends with an error; registered again it begins again."""
    made.add("a")
    with made.feed() as feed:
        group = feed.group("g")
        worker = Worker(made.url, made.prefix, "g", driver=driver)
        eventually(lambda: worker.handed)
        feed.drop_group("g")
        eventually(lambda: not worker.alive, 5)
        with pytest.raises(GroupNotFound, match="dropped|no group"):
            worker.join()
        assert feed.groups() == []
        assert work_off(made, group, driver).handed == [("a", 1)]


async def test_both_drivers_in_one_group(made: Made) -> None:
    """They share the partitions, and the work."""
    threads = made.apart(4)
    with made.feed() as feed:
        group = feed.group("g")
        workers = [Worker(made.url, made.prefix, "g", driver=one, name=one) for one in ("sync", "async")]
        eventually(lambda: [len(one.partitions) for one in workers] == [2, 2])
        for number in range(80):
            made.add(threads[number % 4])
        eventually(lambda: through(group))
        assert group.lag().members == ("async", "sync")
        for one in workers:
            one.stop()
        handed = workers[0].handed + workers[1].handed
        assert len(handed) == 80 == len(set(handed))
        assert all(len(one.handed) == 40 and in_order(one.handed) for one in workers)


@pytest.mark.parametrize("given", ["sync", "async"])
async def test_connections_of_one_driver(of_either_kind: Server, prefix: str, given: str, driver: str) -> None:
    """A member works over either kind of connection with either driver, and keeps its leases meanwhile."""
    made = Made(of_either_kind.url, prefix)
    for number in range(8):
        made.add(f"t{number}")
    client: Any
    if given == "sync":
        client = connect(made.url)
        feed = ActivityFeed(client, prefix=made.prefix)
    else:
        client = async_connect(of_either_kind)
        feed = ActivityFeed(async_connection=client, prefix=made.prefix)
    group = feed.group("g")
    if driver == "sync":

        def work() -> list[Activity]:
            with group.member("m", lease=0.3) as member:
                found = []
                for one in member:
                    found.append(one)
                    time.sleep(0.05)
                    if len(found) == 8:
                        member.stop()
                return found

        found = await in_thread(work)
    else:
        async with group.member("m", lease=0.3) as member:
            found = await take(member, 8, driver)
            await member.aacknowledge()
    assert len({one.thread_id for one in found}) == 8 == len(found)
    assert (await group.alag()).pending == 0
    if given == "sync":
        client.close()
    else:
        await client.aclose()
    made.close()


def test_events_that_are_gone_block_nothing(any_server: Server, prefix: str, driver: str) -> None:
    """A handler that lets `EventGone` escape has handled the event; a real saver's traffic, removed before it is read."""
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=2) as saver,
        ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed,
    ):
        for number in range(1, 5):
            saver.put(*put_of("pruned", number, number - 1 or None))
            saver.put(*put_of("deleted", number, number - 1 or None))
        saver.prune(["pruned"])
        saver.delete_thread("deleted")
        reasons: list[str] = []

        def handle(activity: Activity) -> None:
            try:
                feed.load(activity)
            except EventGone as gone:
                reasons.append(gone.reason)
                raise

        group = feed.group("g")
        worker = Worker(any_server.url, prefix, "g", handle, driver=driver)
        eventually(lambda: len(worker.handed) == 10 and through(group))
        worker.stop()
        assert sorted(reasons) == ["deleted"] * 5 + ["pruned"] * 3
        assert (group.lag().handled, group.parked()) == (10, [])


async def one_event(member: Member, driver: str, handle: Callable[[Activity], object]) -> None:
    """Handles one event in a loop's body, within 20 s; an error ends the loop."""

    def loop() -> None:
        with member:
            for activity in member:
                handle(activity)
                member.acknowledge()
                return

    async def aloop() -> None:
        async with member:
            async for activity in member:
                handle(activity)
                await member.aacknowledge()
                return

    await (in_thread(loop) if driver == "sync" else asyncio.wait_for(aloop(), 20))


@pytest.mark.parametrize("acknowledge_within", [0.05, 0])
async def test_a_loop_that_lets_event_gone_out_has_handled_it(
    any_server: Server, prefix: str, driver: str, acknowledge_within: float
) -> None:
    """A body that raises `EventGone` ends its loop, and the next member goes on after that event."""
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as saver,
        ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed,
    ):
        saver.put(*put_of("gone", 1, None))
        saver.put(*put_of("gone", 2, 1))
        saver.delete_thread("gone")
        saver.put(*put_of("kept", 1, None))
        group = feed.group("g")
        handed: list[tuple[str, str]] = []

        async def one_loop() -> None:
            await one_event(group.member("m", acknowledge_within=acknowledge_within, **QUICK), driver, handle)

        def handle(activity: Activity) -> None:
            handed.append((activity.thread_id, activity.kind))
            activity.load()

        for _ in range(3):  # a member that is handed one event over and over fails here, and does not hang
            with pytest.raises(EventGone):
                await one_loop()
        await one_loop()
        assert handed == [*[("gone", "checkpoint")] * 2, ("gone", "deleted"), ("kept", "checkpoint")]
        lag = await group.alag()
        assert (lag.handled, lag.pending, lag.waiting, await group.aparked()) == (4, 0, 0, [])


async def test_an_event_that_is_gone_when_it_is_retried_frees_its_thread(
    any_server: Server, prefix: str, driver: str
) -> None:
    """An event that failed, and is gone at its second attempt, counts as handled; its thread goes on."""
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as saver,
        ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed,
    ):
        saver.put(*put_of("t", 1, None))
        saver.put(*put_of("t", 2, 1))
        group = feed.group("g", kinds="checkpoint")
        handed: list[tuple[int, int]] = []

        def handle(activity: Activity) -> None:
            handed.append((activity.sequence, activity.attempt))
            if len(handed) == 1:
                raise ValueError("the first attempt fails")
            activity.load()

        async def one_loop() -> None:
            await one_event(group.member("m", **QUICK), driver, handle)

        with pytest.raises(ValueError, match="first attempt"):
            await one_loop()
        saver.prune(["t"])
        with pytest.raises(EventGone):
            await one_loop()
        await one_loop()
        assert handed == [(1, 1), (1, 2), (2, 1)]
        lag = await group.alag()
        assert (lag.handled, lag.pending, lag.waiting, await group.aparked()) == (2, 0, 0, [])


@given(
    threads=st.integers(1, 6),
    events=st.integers(1, 40),
    batches=st.lists(st.sampled_from([1, 2, 3, 10, 100]), min_size=1, max_size=3),
    failing=st.integers(0, 50),
    seed=st.integers(0, 10**6),
    filtered=st.booleans(),
)
@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_whatever_happens(
    any_server: Server, threads: int, events: int, batches: list[int], failing: int, seed: int, filtered: bool
) -> None:
    """Failures by chance, members that come and go, any batches: each event is handled, once, in its thread's order."""
    chance = random.Random(seed)
    prefix = "t" + uuid.uuid4().hex[:8]
    done: list[tuple[str, int]] = []
    with made_feed(any_server.url, prefix, partitions=3) as (made, feed):

        def handle(activity: Activity) -> None:
            if chance.randrange(100) < failing:
                raise ValueError("by chance")
            done.append((activity.thread_id, activity.sequence))

        group = feed.group("g", kinds="checkpoint") if filtered else feed.group("g")
        group.register()
        workers: list[Worker] = []
        for number in range(events):
            made.add(f"t{chance.randrange(threads)}")
            if filtered:
                made.add("other", kind="writes")
            if number % 10 == 0:
                options: dict[str, Any] = {"lease": 2.0, "max_attempts": 1000, "backoff": chance.choice([0.0, 0.005])}
                driver = chance.choice(["sync", "async"])
                batch = batches[len(workers) % len(batches)]
                within = chance.choice([0.0, 0.05])
                workers.append(
                    Worker(
                        made.url, prefix, "g", handle, driver=driver, batch=batch, acknowledge_within=within, **options
                    )
                )
            if number % 14 == 13:
                workers[chance.randrange(len(workers))].stop()
        last = Worker(made.url, prefix, "g", handle, lease=2.0, max_attempts=1000, backoff=0.001)
        eventually(lambda: through(group), 30)
        for one in (*workers, last):
            one.stop()
        expected = {(thread, number) for thread, count in made.sequences.items() for number in range(1, count + 1)}
        assert set(done) == {one for one in expected if one[0] != "other"}
        assert len(done) == len(set(done))
        assert in_order(done)
        lag = group.lag()
        assert (lag.pending, lag.waiting, lag.parked, lag.handled) == (0, 0, 0, len(done))
        feed.drop_group("g")


def test_the_group_s_position_survives(made: Made, driver: str) -> None:
    """Members that come later go on where others were."""
    with made.feed() as feed:
        group = feed.group("g")
        handed = []
        for turn in range(1, 4):
            for _ in range(turn):
                made.add("a")
            handed += work_off(made, group, driver).handed
        assert handed == [("a", number) for number in range(1, 7)]


def test_a_member_is_used_once_at_a_time(one: tuple[Made, ActivityFeed]) -> None:
    """It says so; after it has left it may join again."""
    made, feed = one
    member = feed.group("g").member("m", lease=0.5)
    with pytest.raises(InvalidArgument, match="with"):
        next(member)
    with member, pytest.raises(InvalidArgument, match="in use"):
        member.__enter__()
    made.add("a")
    with member:
        assert next(member).thread_id == "a"


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 0},
        {"batch": 10**6},
        {"lease": 0.01},
        {"max_attempts": 0},
        {"max_attempts": True},
        {"backoff": -1},
        {"patience": -1},
    ],
)
def test_options_that_are_none(one: tuple[Made, ActivityFeed], options: dict[str, Any]) -> None:
    """They are refused when a member is made."""
    with pytest.raises(InvalidArgument):
        one[1].group("g").member("m", **options)


async def test_a_member_waits_for_the_first_write(any_server: Server, prefix: str) -> None:
    """It may join before anything was written under the prefix."""
    worker = Worker(any_server.url, prefix, "g")
    await asyncio.sleep(0.1)
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:
        await saver.aput(*put_of("t", 1))
    await in_thread(lambda: eventually(lambda: worker.handed))
    await in_thread(worker.stop)
    assert worker.handed == [("t", 1)]

"""Tails: where they begin, what they let through, in what order, and how they go on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventlog import (
    Activity,
    ActivityFeed,
    EventGone,
    FeedClosed,
    Position,
    PositionLost,
    PositionTrimmed,
    ServerUnavailable,
)
from eventlog.errors import LayoutMismatch, NoSyncConnection
from saver import RedisStreamSaver
from tests.eventlog.feed.feeds import AT_ONCE, Made, async_connect, made_feed, take
from tests.saver.audit import put_of
from tests.servers import RunningServer, Server, connect

pytestmark = pytest.mark.telling


@pytest.fixture
async def feed(made: Made) -> AsyncIterator[ActivityFeed]:
    """A feed to read."""
    async with made.feed() as opened:
        yield opened


async def all_of(feed: ActivityFeed, start: Any, driver: str, **options: Any) -> list[Activity]:
    """What there is from a start on."""
    return await take(feed.tail(start, follow=False, **options), 10**9, driver)


async def test_on_each_server(made_on_each: Made) -> None:
    """All there is, filtered or not, then what comes."""
    made = made_on_each
    threads = made.apart(4)
    async with made.feed() as feed:
        for number in range(20):
            made.add(threads[number % 4], kind="writes" if number % 2 else "checkpoint", nodes=("n", "m"))
        for batch in (3, 100):
            assert len(await all_of(feed, "beginning", "sync", batch=batch)) == 20
            found = await all_of(feed, "beginning", "async", batch=batch, kinds="writes", node=["m"], thread=threads[1])
            assert [one.sequence for one in found] == [1, 2, 3, 4, 5]
        assert await all_of(feed, str(feed.now()), "sync", namespace="") == []
        waiting = asyncio.create_task(take(feed.tail("now"), 4, "async"))
        await asyncio.sleep(0.2)
        for thread in threads:
            made.add(thread)
        assert {one.thread_id for one in await waiting} == set(threads)


async def test_from_the_beginning(made: Made, feed: ActivityFeed, driver: str) -> None:
    """All there is, merged by entry id, whatever the batches."""
    threads = made.apart(4)
    ids = [made.add(threads[number % 4]) for number in range(30)]
    for batch in (1, 7, 100):
        found = await all_of(feed, "beginning", driver, batch=batch)
        assert len(found) == 30
        keys = [(tuple(map(int, one.id.split("-"))), one.partition) for one in found]
        assert keys == sorted(keys)
    assert {one.id for one in found} == set(ids)


async def test_live_from_now_on(made: Made, feed: ActivityFeed, driver: str) -> None:
    """What was there is left out; what comes, comes soon."""
    threads = made.apart(4)
    for thread in threads:
        made.add(thread)
    tail = feed.tail("now")

    async def later() -> float:
        await asyncio.sleep(0.2)
        for thread in threads:
            made.add(thread)
            await asyncio.sleep(0.02)
        return time.monotonic()

    task = asyncio.create_task(later())
    found = await take(tail, 4, driver)
    assert time.monotonic() - await task < 0.9
    assert sorted((one.thread_id, one.sequence) for one in found) == [(thread, 2) for thread in sorted(threads)]
    made.add(threads[0])
    assert [one.sequence for one in await take(tail, 1, driver)] == [3]


async def test_filters(made: Made, feed: ActivityFeed, driver: str) -> None:
    """By kind, thread, namespace and node, each of several, and all together."""
    for thread in ("a", "b", "c"):
        made.add(thread, nodes=("n", "m"))
        made.add(thread, kind="writes", ns="sub", nodes=("m",))
        made.add(thread, kind="deleted", id="")

    async def wanted(**filters: Any) -> list[tuple[str, int]]:
        found = await all_of(feed, "beginning", driver, batch=2, **filters)
        return sorted((one.thread_id, one.sequence) for one in found)

    assert await wanted(kinds="writes") == [("a", 2), ("b", 2), ("c", 2)]
    assert await wanted(kinds=["writes", "deleted"], thread="b") == [("b", 2), ("b", 3)]
    assert (await wanted(thread=["a", "c", "x"])) == [(t, n) for t in "ac" for n in (1, 2, 3)]
    assert await wanted(namespace="sub") == [("a", 2), ("b", 2), ("c", 2)]
    assert await wanted(namespace="su") == []
    assert len(await wanted(namespace="")) == 6
    assert await wanted(node="n") == [("a", 1), ("b", 1), ("c", 1)]
    assert len(await wanted(node=["n", "m"])) == 6
    assert await wanted(node="m", kinds="checkpoint", thread="c", namespace="") == [("c", 1)]


async def test_a_filter_that_little_passes(made: Made, feed: ActivityFeed, driver: str) -> None:
    """The position moves over what is left out, so that it is not looked at again."""
    common, rare = made.together(2)
    pipeline = made.client.pipeline()
    for number in range(2500):
        fields = {"thread": common, "id": f"{number}-0", "seq": number, "kind": "checkpoint"}
        pipeline.xadd(made.stream(common), fields)
    pipeline.execute()
    made.add(rare)
    tail = feed.tail("beginning", follow=False, thread=rare)
    (found,) = await take(tail, 10**9, driver)
    assert found.thread_id == rare
    made.client.xtrim(made.stream(common), maxlen=1)
    assert await all_of(feed, found.position, driver) == []
    assert await all_of(feed, str(tail.position), driver) == []


@given(
    events=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["checkpoint", "writes"])), max_size=25),
    stops=st.lists(st.integers(0, 6), max_size=8),
    batch=st.sampled_from([1, 2, 3, 50]),
    filters=st.sampled_from([{}, {"kinds": "writes"}, {"thread": ["a", "b", "c"]}, {"node": "n"}]),
    text=st.booleans(),
    of_tail=st.booleans(),
)
@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_positions_resume_without_loss_or_repetition(
    any_server: Server,
    events: list[tuple[str, str]],
    stops: list[int],
    batch: int,
    filters: dict[str, Any],
    text: bool,
    of_tail: bool,
) -> None:
    """However often a reader stops and begins again, with more coming in meanwhile, it sees each once and in order."""
    prefix = f"t{time.time_ns():x}"
    with made_feed(any_server.url, prefix) as (made, feed):
        half = len(events) // 2
        for thread, kind in events[:half]:
            made.add(thread, kind=kind, nodes=("n",) if kind == "writes" else ())
        position: Any = Position({})
        found: list[Activity] = []
        for stop in [*stops, 10**9]:
            if stop == 10**9:
                for thread, kind in events[half:]:
                    made.add(thread, kind=kind, nodes=("n",) if kind == "writes" else ())
            tail = feed.tail(str(position) if text else position, follow=False, batch=batch, **filters)
            for seen, activity in enumerate(tail, 1):
                found.append(activity)
                position = activity.position
                if seen >= stop:
                    break
            if of_tail:
                position = tail.position
        whole = list(feed.tail("beginning", follow=False, **filters))
        assert sorted(one.id for one in found) == sorted(one.id for one in whole)
        for thread in "abcdefgh":
            ours = [one.sequence for one in found if one.thread_id == thread]
            assert ours == [one.sequence for one in whole if one.thread_id == thread]
        made.client.delete(*(made.keyspace.partition(number).feed for number in range(4)), made.keyspace.meta)


async def test_trimmed_under_a_reader(made: Made, feed: ActivityFeed, driver: str) -> None:
    """What was not read and is gone is an error; a reader that had read it goes on."""
    for _ in range(6):
        made.add("a")
    tail = feed.tail("beginning", batch=2)
    (first,) = await take(tail, 1, driver)
    behind = feed.tail("beginning")
    await take(behind, 6, driver)
    await feed.atrim(0)
    with pytest.raises(PositionTrimmed, match="trimmed beyond"):
        await take(tail, 6, driver)
    with pytest.raises(PositionTrimmed):
        await all_of(feed, str(first.position), driver)
    made.add("a")
    assert [one.sequence for one in await take(behind, 1, driver)] == [7]
    assert [one.sequence for one in await all_of(feed, "beginning", driver)] == [7]


async def test_lost_under_a_reader(made: Made, feed: ActivityFeed, driver: str) -> None:
    """A tail that waits at the end notices within seconds that the end is gone."""
    made.add("a")
    last = made.add("a")
    tail = feed.tail("beginning")
    await take(tail, 2, driver)
    made.client.xdel(made.stream("a"), last)
    with pytest.raises(PositionLost, match=last):
        await asyncio.wait_for(take(tail, 1, driver), 10)


async def test_before_anything_was_written(any_server: Server, prefix: str, driver: str) -> None:
    """A tail of a prefix that is not used yet waits, and begins with the first event."""
    async with ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed:
        assert await all_of(feed, "beginning", driver) == []
        waiting = asyncio.create_task(take(feed.tail("now"), 1, driver))
        await asyncio.sleep(0.1)
        async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:
            await saver.aput(*put_of("t", 1))
        (found,) = await asyncio.wait_for(waiting, 5)
        assert (found.thread_id, found.kind, found.sequence) == ("t", "checkpoint", 1)


async def test_a_feed_takes_the_layout_there_is(made: Made, driver: str) -> None:
    """Another number of partitions is refused."""
    async with made.feed(partitions=5) as feed:
        with pytest.raises(LayoutMismatch, match="partitions=4"):
            await all_of(feed, "beginning", driver)


async def test_a_saver_s_events_are_loaded(of_either_kind: Server, prefix: str, driver: str) -> None:
    """An activity leads to its whole event; a deleted or pruned one says so."""
    url = of_either_kind.url
    async with (
        RedisStreamSaver.from_conn_string(url, prefix=prefix) as saver,
        ActivityFeed.from_conn_string(url, prefix=prefix) as feed,
    ):
        for number in range(1, 4):
            await saver.aput(*put_of("t", number, number - 1 or None))
        await saver.aput(*put_of("gone", 1))
        await saver.adelete_thread("gone")

        async def load(activity: Activity) -> Any:
            return activity.load() if driver == "sync" else await activity.aload()

        found = await all_of(feed, "beginning", driver, thread="t")
        assert [(await load(one)).sequence for one in found] == [1, 2, 3]
        await saver.aprune(["t"])
        for one in found[:2]:
            with pytest.raises(EventGone) as pruned:
                await load(one)
            assert pruned.value.reason == "pruned"
        assert (await load(found[2])).sequence == 3
        first, last = await all_of(feed, "beginning", driver, thread="gone")
        assert (first.kind, last.kind) == ("checkpoint", "deleted")
        for one in (first, last):
            with pytest.raises(EventGone) as deleted:
                await load(one)
            assert deleted.value.reason == "deleted"
        await saver.aput(*put_of("gone", 1))
        with pytest.raises(EventGone) as again:
            await load(first)
        assert again.value.reason == "deleted"


async def test_an_expired_thread(any_server: Server, prefix: str, driver: str) -> None:
    """Its events say that it expired."""
    async with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, ttl=0.005) as saver,
        ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed,
    ):
        await saver.aput(*put_of("t", 1))
        (found,) = await all_of(feed, "beginning", driver)
        await asyncio.sleep(0.4)
        with pytest.raises(EventGone) as gone:
            found.load() if driver == "sync" else await found.aload()
        assert gone.value.reason == "expired"


@pytest.mark.parametrize("given", ["sync", "async"])
async def test_connections_of_one_driver(of_either_kind: Server, prefix: str, given: str, driver: str) -> None:
    """A tail works over either kind of connection with either driver, as a saver does; connections given stay open."""
    made = Made(of_either_kind.url, prefix)
    made.add("a")
    client: Any
    if given == "sync":
        client = connect(made.url)
        feed = ActivityFeed(client, prefix=made.prefix)
    else:
        client = async_connect(of_either_kind)
        feed = ActivityFeed(async_connection=client, prefix=made.prefix)
    waiting = asyncio.create_task(take(feed.tail("beginning"), 2, driver))
    await asyncio.sleep(0.2)
    made.add("a")
    assert [one.sequence for one in await asyncio.wait_for(waiting, 10)] == [1, 2]
    if given == "async":
        with pytest.raises(NoSyncConnection, match="sync_connection"):
            list(feed.tail("beginning", follow=False))
    await feed.aclose()
    if given == "sync":
        assert client.ping()
        client.close()
    else:
        assert await client.ping()
        await client.aclose()
    made.close()


async def test_a_closed_feed(made: Made, driver: str) -> None:
    """Its tails say so."""
    feed = made.feed()
    await feed.aclose()
    with pytest.raises(FeedClosed, match="the feed is closed"):
        await all_of(feed, "beginning", driver)


async def test_a_server_that_restarts(
    private_server: Callable[..., RunningServer], tmp_path: Any, prefix: str, driver: str
) -> None:
    """A tail waits for it, and goes on where it was."""
    running = private_server("--appendonly", "yes", "--appendfsync", "always", dir=tmp_path)
    with made_feed(running.url, prefix) as (made, _):
        made.add("a")
        async with made.feed(**AT_ONCE) as feed:
            tail = feed.tail("beginning", patience=20)
            await take(tail, 1, driver)

            def again() -> None:
                time.sleep(0.2)
                running.kill()
                time.sleep(0.3)
                running.start()
                made.add("a")

            thread = threading.Thread(target=again)
            thread.start()
            (found,) = await asyncio.wait_for(take(tail, 1, driver), 20)
            assert found.sequence == 2
            thread.join()


async def test_patience_ends(private_server: Callable[..., RunningServer], prefix: str, driver: str) -> None:
    """A server that stays away is an error after that time."""
    running = private_server()
    with made_feed(running.url, prefix) as (made, _):
        made.add("a")
        async with made.feed(**AT_ONCE) as feed:
            tail = feed.tail("beginning", patience=0.5)
            await take(tail, 1, driver)
            running.kill()
            begin = time.monotonic()
            with pytest.raises(ServerUnavailable):
                await take(tail, 1, driver)
            assert 0.2 < time.monotonic() - begin < 5


async def test_many_tails_at_once(made: Made, feed: ActivityFeed) -> None:
    """Readers with both drivers on one feed each see everything."""
    now = feed.now()
    tails = [asyncio.create_task(take(feed.tail(now), 20, "async" if n % 2 else "sync")) for n in range(6)]
    await asyncio.sleep(0.2)
    for number in range(20):
        made.add(f"t{number % 5}")
    for tail in tails:
        found = await asyncio.wait_for(tail, 15)
        for thread in {one.thread_id for one in found}:
            assert [one.sequence for one in found if one.thread_id == thread] == [1, 2, 3, 4]

"""Calls of feeds and groups, sync and async, also where there is little or nothing to read."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from eventlog import ActivityFeed, GroupNotFound, InvalidArgument, LayoutMismatch, Position, PositionTrimmed
from tests.eventlog.feed.feeds import QUICK, Made, in_thread
from tests.servers import Server


@pytest.fixture
def unused(any_server: Server, prefix: str) -> Iterator[ActivityFeed]:
    """A feed on a prefix that nothing was written under."""
    with ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed:
        yield feed


async def call(driver: str, owner: object, name: str, *arguments: Any) -> Any:
    """The result of a method, or of its async form."""
    if driver == "sync":
        return await in_thread(lambda: getattr(owner, name)(*arguments))
    outcome = getattr(owner, f"a{name}")(*arguments)
    assert inspect.isawaitable(outcome)
    return await outcome


async def test_a_group_s_life(one: tuple[Made, ActivityFeed], driver: str) -> None:
    """Each call has both forms: register, lag, parked, retry, skip, effect_keys, groups, drop_group."""
    made, feed = one
    group = feed.group("g")
    first, second = made.apart(2)
    made.add(first)
    made.add(second)
    await call(driver, group, "register")
    assert (await call(driver, group, "lag")).pending == 2
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), group.member("m", max_attempts=1, **QUICK) as member:
            next(member)
            _ = 1 / 0
    assert {one.thread_id for one in await call(driver, group, "parked")} == {first, second}
    assert await call(driver, group, "retry", first) == 1
    assert await call(driver, group, "retry", first) == 0
    assert await call(driver, group, "skip") == 1
    assert len(set(await call(driver, group, "effect_keys", "k"))) == 4
    assert [one.name for one in await call(driver, feed, "groups")] == ["g"]
    await call(driver, feed, "drop_group", "g")
    assert await call(driver, feed, "groups") == []


async def test_positions(one: tuple[Made, ActivityFeed], driver: str) -> None:
    """`now`, `check`, `wait_beyond` and `trim` have both forms."""
    made, feed = one
    before = await call(driver, feed, "now")
    assert not await call(driver, feed, "wait_beyond", before, 0.01)
    made.add("a")
    assert await call(driver, feed, "wait_beyond", before, 10)
    await call(driver, feed, "check", before)
    after = await call(driver, feed, "now")
    assert after != before
    assert len(after) == 4
    assert (await call(driver, feed, "trim", 0)).entries == 1
    await call(driver, feed, "check", after)
    with pytest.raises(PositionTrimmed, match="beginning"):
        await call(driver, feed, "check", before)
    with pytest.raises(InvalidArgument, match="trim needs a bound"):
        await call(driver, feed, "trim", None)


def test_a_start_before_the_trimmed_part(one: tuple[Made, ActivityFeed]) -> None:
    """A tail from zero or from a time before the trimmed part says that the feed does not reach back to it."""
    made, feed = one
    made.add("a")
    feed.trim(0)
    for start in (Position({}), datetime(2001, 1, 1, tzinfo=timezone.utc)):
        with pytest.raises(PositionTrimmed, match="no longer reaches back"):
            next(iter(feed.tail(start)))


async def test_an_unused_prefix(unused: ActivityFeed, driver: str) -> None:
    """There are no groups and no news, and calls that need the layout say that nothing was written."""
    assert await call(driver, unused, "groups") == []
    assert not await call(driver, unused, "wait_beyond", Position({}), 0.01)
    with pytest.raises(GroupNotFound):
        await call(driver, unused, "drop_group", "g")
    for owner, name in ((unused, "now"), (unused.group("g"), "register")):
        with pytest.raises(InvalidArgument, match="Nothing was written"):
            await call(driver, owner, name)


@pytest.mark.parametrize(
    ("meta", "partitions", "message"),
    [
        ({"layout": "x", "partitions": 4}, None, "did not write"),
        ({"layout": 1}, None, "did not write"),
        ({"layout": 99, "partitions": 4}, None, "layout version 99"),
        ({"layout": 1, "partitions": 4}, 5, "partitions=4"),
    ],
)
def test_another_layout(made: Made, meta: dict[str, Any], partitions: int | None, message: str) -> None:
    """A feed refuses a prefix of another layout."""
    made.client.delete(made.keyspace.meta)
    made.client.hset(made.keyspace.meta, mapping=meta)
    with made.feed(partitions=partitions) as feed, pytest.raises(LayoutMismatch, match=message):
        feed.now()

"""Positions: text that leads back to them, order, and what is refused."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import ActivityFeed, InvalidArgument, Offset, Position, PositionLost, PositionTrimmed
from eventlog.feed.position import id_order
from tests.eventlog.feed.feeds import Made

NUMBERS = st.integers(0, 2**64 - 1)
IDS = st.builds("{}-{}".format, NUMBERS, NUMBERS)
MARKS = st.builds(Offset, IDS, st.just("") | st.from_regex("[0-9a-f]{8}", fullmatch=True))
POSITIONS = st.builds(Position, st.dictionaries(st.integers(0, 16383), MARKS, max_size=20))


@given(POSITIONS)
def test_text_leads_back(position: Position) -> None:
    """Whatever ids the entries have, up to the greatest that a stream can have."""
    parsed = Position.parse(str(position))
    assert parsed == position
    assert hash(parsed) == hash(position)
    assert eval(repr(position), {"Position": Position}) == position


@given(POSITIONS, POSITIONS)
def test_the_later_of_each_partition(one: Position, other: Position) -> None:
    """`|` has all partitions, of each the later entry."""
    both = one | other
    assert set(both) == {*one, *other}
    for partition, offset in both.items():
        assert offset in (one.get(partition), other.get(partition))
        assert all(id_order(offset.id) >= id_order(some[partition].id) for some in (one, other) if partition in some)
    assert both | one == both
    assert one | Position({}) == one


@pytest.mark.parametrize(
    "text",
    [
        "now",
        "0",
        "0:",
        "0:1",
        "0:1-",
        "0:1-2.",
        "0:1-2.xyz",
        "0:1-2,0:1-3",
        "x:1-2",
        "0:1-2 ",
        "0:1-2.ABCDEF01",
        "٣:1-2",
    ],
)
def test_text_that_is_none(text: str) -> None:
    """It is refused, with what to pass instead."""
    with pytest.raises(InvalidArgument, match=r"str\(position\)"):
        Position.parse(text)


@pytest.mark.parametrize("given_", [None, 5, b"0:1-2", Position({})])
def test_parse_takes_text(given_: Any) -> None:
    """Anything else is a mistake of type."""
    with pytest.raises(TypeError, match="text"):
        Position.parse(given_)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (None, TypeError),
        (5, TypeError),
        (timedelta(1), TypeError),
        ("yesterday", InvalidArgument),
        (datetime(2026, 1, 1), InvalidArgument),  # noqa: DTZ001 - that is the point
    ],
)
def test_starts_that_are_none(one: tuple[Made, ActivityFeed], start: Any, kind: type[Exception]) -> None:
    """A tail and a group refuse them before they read."""
    _, feed = one
    with pytest.raises(kind):
        feed.tail(start)
    with pytest.raises(kind):
        feed.group("g", start=start)


def test_a_position_of_another_prefix(one: tuple[Made, ActivityFeed]) -> None:
    """One that names partitions which there are not is refused."""
    _, feed = one
    foreign = Position.parse("4:1-0")
    with pytest.raises(InvalidArgument, match="partition 4"):
        next(iter(feed.tail(foreign, follow=False)))
    with pytest.raises(InvalidArgument, match="partition 4"):
        feed.check(foreign)
    with pytest.raises(InvalidArgument, match="partition 4"):
        feed.group("g", start=foreign).register()


async def test_a_position_is_checked(one: tuple[Made, ActivityFeed], driver: str) -> None:
    """Right, trimmed, lost, and lost because another event has its place."""
    made, feed = one

    async def check(position: Position | str) -> None:
        if driver == "sync":
            feed.check(position)
        else:
            await feed.acheck(position)

    ids = [made.add("a") for _ in range(4)]
    places = [activity.position for activity in feed.tail("beginning", follow=False)]
    for place in places:
        await check(place)
        await check(str(place))
    await check(Position({}))
    await check("")
    feed.trim(4)  # a partition keeps its share, one entry
    with pytest.raises(PositionTrimmed, match="beginning"):
        await check(places[1])
    await check(places[2])
    number = made.partition_of("a")
    await check(Position({number: places[3][number]}))
    made.client.xdel(made.stream("a"), ids[3])
    with pytest.raises(PositionLost, match=ids[3]):
        await check(places[3])
    made.client.delete(made.stream("a"))
    made.add("b" * 3 if made.partition_of("bbb") == number else "a", entry_id=ids[3], kind="writes")
    with pytest.raises(PositionLost):
        await check(places[3])
    await feed.aclose()


def test_the_position_behind_everything(one: tuple[Made, ActivityFeed]) -> None:
    """`now` is where a tail begins that has seen all there is."""
    made, feed = one
    for thread in made.apart(3):
        made.add(thread)
    now = feed.now()
    assert set(now) == set(range(4))
    assert list(feed.tail(now, follow=False)) == []
    made.add("later")
    assert [activity.thread_id for activity in feed.tail(str(now), follow=False)] == ["later"]


@pytest.mark.parametrize("text", [False, True])
def test_a_position_from_a_time(one: tuple[Made, ActivityFeed], text: bool) -> None:
    """A tail that began at a time can be resumed, though it has read nothing of some partitions."""
    made, feed = one
    first, other, *_ = made.apart(2)
    made.add(first)
    tail = feed.tail(datetime.now(timezone.utc) - timedelta(hours=1), follow=False)
    (activity,) = tail
    made.add(other)
    for position in (activity.position, tail.position):
        start = str(position) if text else position
        assert [found.thread_id for found in feed.tail(start, follow=False)] == [other]


def test_a_time_is_exact_to_the_millisecond(one: tuple[Made, ActivityFeed]) -> None:
    """A tail from an activity's time begins with it, and with none of the millisecond before."""
    made, feed = one
    begin = int(time.time() * 1000) - 100_000
    for ms in range(begin, begin + 300, 7):
        made.add("a", entry_id=f"{ms}-0")
        made.add("a", entry_id=f"{ms}-5")
    for activity in list(feed.tail("beginning", follow=False))[::20]:
        found = next(iter(feed.tail(activity.time, follow=False)))
        assert found.id.partition("-")[0] == activity.id.partition("-")[0]
        assert found.id.endswith("-0")

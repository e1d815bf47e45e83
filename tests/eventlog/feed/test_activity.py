"""Activities: what a pointer says, in every stored form, and entries that are no pointers."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventlog import Activity, ActivityFeed, CorruptEntry, InvalidArgument
from eventlog.feed.activity import KINDS, Filters, fingerprint_of, pack_pointer, read_pointer, unpack_pointer
from eventlog.framing import counted
from tests.eventlog.feed.feeds import Made, Worker, eventually, through

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ODD = ["", "a:b", "5:abc", "\0", "a\0\xff", "ÿ\U0001f600", "*[]?{}", " ", "\n", "0-0", "'\""]
NAMES = TEXT | st.sampled_from(ODD)
LAST_MS = 253_402_300_799_999
"""The end of the year 9999, beyond which there is no datetime."""
ENTRY_IDS = st.builds("{}-{}".format, st.integers(1, LAST_MS), st.integers(0, 10**10 - 1))


@st.composite
def pointers(draw: Any) -> tuple[bytes, list[bytes]]:
    """An entry's id and its fields, as the scripts write them."""
    kind = draw(st.sampled_from(KINDS))
    gone = kind in ("deleted", "expired")
    parts = [
        ("thread", draw(NAMES)),
        ("id", "" if gone else draw(ENTRY_IDS)),
        ("seq", "0" if kind == "expired" else str(draw(st.integers(0, 2**53)))),
        ("kind", kind),
        ("ns", draw(NAMES)),
        ("checkpoint", draw(NAMES)),
        ("source", draw(st.sampled_from(["", "loop", "input"]))),
        ("step", draw(st.just("") | st.integers(-1, 10**6).map(str))),
        ("run", draw(NAMES)),
    ]
    flat = [part.encode() for pair in parts for part in pair]
    for name in (b"channels", b"nodes"):
        flat += [name, b"".join(counted(one.encode()) for one in draw(st.lists(NAMES, max_size=4)))]
    if gone:
        flat += [b"digest", draw(st.from_regex("[0-9a-f]{0,32}", fullmatch=True)).encode()]
    return draw(ENTRY_IDS).encode(), flat


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(pointers(), st.integers(1, 9))
def test_packed_and_unpacked(pointer: tuple[bytes, list[bytes]], attempt: int) -> None:
    """What waits behind a failed event is the same when it comes back."""
    activity = read_pointer(3, *pointer)
    again = unpack_pointer(3, pack_pointer(activity), attempt=attempt)
    assert again.as_dict() == activity.as_dict()
    assert (again.digest, again.attempt) == (activity.digest, attempt)
    assert again.time == activity.time
    assert json.loads(json.dumps(activity.as_dict())) == activity.as_dict()


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(pointers())
def test_the_check_is_that_of_the_fields(pointer: tuple[bytes, list[bytes]]) -> None:
    """A position made from an activity names the entry as the server does."""
    entry_id, flat = pointer
    activity = read_pointer(0, entry_id, flat)
    assert activity.offset == (entry_id.decode(), fingerprint_of(flat).decode())
    assert unpack_pointer(0, pack_pointer(activity)).offset == activity.offset


@pytest.mark.parametrize("entry_id", [b"253402300800000-0", b"18446744073709551615-1"])
def test_a_pointer_after_the_last_year(entry_id: bytes) -> None:
    """Someone who writes to the feed chooses its ids, and later pointers go on from there."""
    fields = [b"thread", b"t", b"id", b"1-0", b"seq", b"1", b"kind", b"writes"]
    assert read_pointer(0, entry_id, fields).time.year == 9999


@given(st.lists(ENTRY_IDS, min_size=2, max_size=8, unique=True))
def test_packed_pointers_sort_as_the_feed(ids: list[str]) -> None:
    """So that what waits comes back in order."""
    fields = [b"thread", b"t", b"id", b"1-0", b"seq", b"1", b"kind", b"writes"]
    found = [read_pointer(0, one.encode(), fields) for one in ids]
    by_feed = sorted(found, key=lambda one: tuple(map(int, one.id.split("-"))))
    assert sorted(found, key=pack_pointer) == by_feed
    assert sorted(found, key=lambda one: one.order) == by_feed


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"message": "hello"},
        {"thread": "t", "id": "1-0", "seq": "1"},
        {"thread": "t", "id": "1-0", "seq": "one", "kind": "writes"},
        {"thread": b"\xff", "id": "1-0", "seq": "1", "kind": "writes"},
        {"thread": "t", "id": b"\xff", "seq": "1", "kind": "writes"},
        {"thread": "t", "id": "1-0", "seq": "1", "kind": "writes", "channels": "9:a"},
        {"thread": "t", "id": "1-0", "seq": "1", "kind": "writes", "nodes": "a"},
    ],
)
@pytest.mark.parametrize("filtered", [False, True])
def test_an_entry_of_somebody_else(one: tuple[Made, ActivityFeed], fields: dict[str, Any], filtered: bool) -> None:
    """It is named by a tail and by a member, which go on once it is taken out."""
    made, feed = one
    before = made.add("t")
    stream = made.stream("t")
    foreign = made.client.xadd(stream, fields or {"": ""})
    wanted: dict[str, Any] = {"kinds": [*KINDS]} if filtered and "kind" in fields else {}
    found = []
    with pytest.raises(CorruptEntry, match=foreign.decode()):
        for activity in feed.tail("beginning", follow=False, **wanted):
            found.append(activity.id)
    assert found == [before]
    group = feed.group("g", **wanted)
    with pytest.raises(CorruptEntry, match=foreign.decode()), group.member("m", lease=0.5) as member:
        for activity in member:
            found.append(activity.id)
    assert found == [before] * 2
    made.client.xdel(stream, foreign)
    after = made.add("t")
    worker = Worker(made.url, made.prefix, "g")
    eventually(lambda: through(group))
    worker.stop()
    assert [activity.id for activity in worker.activities][-1:] == [after]


def test_what_an_activity_tells(one: tuple[Made, ActivityFeed]) -> None:
    """Each field of the pointer by its name, and what follows from them."""
    made, feed = one
    ms = 1_700_000_000_123
    made.add(
        "t", entry_id=f"{ms}-4", kind="writes", ns="sub:1", checkpoint="cp", run="r", nodes=("n", "m"),
        channels=b"1:a2:bc", step=-1,
    )  # fmt: skip
    (activity,) = feed.tail("beginning", follow=False)
    assert activity.time == datetime.fromtimestamp(ms / 1000, timezone.utc)
    assert (activity.nodes, activity.node, activity.channels) == (("n", "m"), "n", ("a", "bc"))
    assert (activity.step, activity.run_id, activity.kind, activity.attempt) == (-1, "r", "writes", 1)
    assert activity.config == {"configurable": {"thread_id": "t", "checkpoint_ns": "sub:1", "checkpoint_id": "cp"}}
    assert activity.as_dict()["time"] == "2023-11-14T22:13:20.123Z"
    assert activity.order == f"{ms:015d}-0000000004"


def test_an_activity_of_no_feed() -> None:
    """It cannot be loaded by itself, and says what can."""
    fields = [b"thread", b"t", b"id", b"1-0", b"seq", b"1", b"kind", b"writes"]
    with pytest.raises(InvalidArgument, match="feed.load"):
        read_pointer(0, b"1-0", fields).load()


@pytest.mark.parametrize(
    "wanted", [{"kinds": "nonsense"}, {"threads": "\ud800"}, {"nodes": ["\ud800"]}, {"kinds": ["writes", "x"]}]
)
def test_filters_that_are_none(wanted: dict[str, Any]) -> None:
    """They are refused with what there is."""
    with pytest.raises(InvalidArgument):
        Filters.of(**wanted)


@pytest.mark.parametrize(
    "wanted", [{"kinds": 2.5}, {"threads": b"t"}, {"nodes": [b"n"]}, {"threads": True}, {"kinds": {"a": 1}}]
)
def test_filters_of_other_types(wanted: dict[str, Any]) -> None:
    """They are mistakes of type."""
    with pytest.raises(TypeError, match="text"):
        Filters.of(**wanted)


def test_filters_are_sets() -> None:
    """In whatever order they are given, and however often."""
    assert Filters.of(threads=["b", "a", "b"]) == Filters.of(threads={"a", "b"})
    assert Filters.of(kinds=("writes", "checkpoint"), nodes="n") == Filters.of(
        kinds=["checkpoint", "writes"], nodes=["n"]
    )


def test_an_expired_thread_in_the_middle(one: tuple[Made, ActivityFeed]) -> None:
    """A pointer that leads to no event is a place like any other, to go on from and to be acknowledged alone."""
    made, feed = one
    made.add("t")
    made.add("t", kind="expired", id="", seq=0, checkpoint="", source="", step="")
    made.add("t")
    for activity in feed.tail("beginning", follow=False):
        feed.check(activity.position)
    group = feed.group("g")
    with group.member("m", lease=0.5) as member:
        kinds = []
        for activity in member:
            kinds.append(activity.kind)
            member.acknowledge()
            if len(kinds) == 3:
                break
    assert kinds == ["checkpoint", "expired", "checkpoint"]
    assert group.lag().pending == 0


def test_activities_are_values(one: tuple[Made, ActivityFeed]) -> None:
    """Two readers' activities are equal, and can be kept in sets."""
    made, feed = one
    made.add("t")
    (a,), (b,) = feed.tail("beginning", follow=False), feed.tail("beginning", follow=False)
    assert a == b
    assert len({a, b}) == 1
    assert isinstance(a, Activity)

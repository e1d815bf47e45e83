"""Effects: carried out together with the acknowledgement, once, whatever is lost on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventlog import Activity, ActivityFeed, EffectRefused, Group, InvalidArgument
from eventlog.errors import EventLogError
from tests.eventlog.feed.feeds import QUICK, Made, Worker, eventually, through
from tests.proxy import Cut, Proxy
from tests.servers import Server


def counts(made: Made, group: Group, name: str = "counts") -> dict[str, int]:
    """What handlers counted, of all partitions."""
    found: dict[str, int] = {}
    for key in group.effect_keys(name):
        for thread, count in made.client.hgetall(key).items():
            found[thread.decode()] = int(count)
    return found


def counting(worker: list[Any], failing: dict[tuple[str, int], int] | None = None) -> Callable[[Activity], None]:
    """A handler that counts events by thread; some fail first."""

    def handle(activity: Activity) -> None:
        worker[0].member.effect("HINCRBY", "counts", activity.thread_id, 1)
        event = activity.thread_id, activity.sequence
        if failing and failing.get(event, 0) > 0:
            failing[event] -= 1
            raise ValueError("not yet")

    return handle


def run(
    made: Made, feed: ActivityFeed, url: str, driver: str, failing: dict[tuple[str, int], int] | None = None
) -> Worker:
    """Works everything off by a member that counts."""
    box: list[Any] = []
    group = feed.group("g")
    group.register()
    worker = Worker(
        url,
        made.prefix,
        "g",
        lambda activity: handle(activity),  # noqa: PLW0108 - it is made below
        driver=driver,
        backoff=0.01,
    )
    box.append(worker)
    handle = counting(box, failing)
    eventually(lambda: through(group))
    worker.stop()
    return worker


@pytest.mark.parametrize("driver", ["sync"])
def test_once_each(made_on_each: Made, driver: str) -> None:
    """Of events that fail first too: what an attempt that failed had asked for is dropped."""
    made = made_on_each
    threads = made.together(2) + made.apart(4, "other")
    with made.feed() as feed:
        for number in range(30):
            made.add(threads[number % 6])
        run(made, feed, made.url, driver, {(threads[0], 1): 2, (threads[1], 3): 1, (threads[3], 5): 1})
        assert counts(made, feed.group("g")) == dict.fromkeys(threads, 5)
        assert feed.group("g").lag().handled == 30


@pytest.fixture
def proxy(any_server: Server) -> Iterator[Proxy]:
    """Between the member and the quick server."""
    with Proxy(any_server.url) as opened:
        yield opened


@pytest.mark.parametrize(
    ("how", "every", "driver"),
    [(Cut.BEFORE, 4, "sync"), (Cut.AFTER, 3, "sync"), (Cut.AFTER, 4, "async"), (Cut.WITHIN, 7, "async")],
)
def test_replies_that_are_lost(one: tuple[Made, ActivityFeed], proxy: Proxy, how: Cut, every: int, driver: str) -> None:
    """Whatever call is cut, each event counts once, those that fail first too."""
    made, feed = one
    threads = made.together(3)
    for number in range(12):
        made.add(threads[number % 3])
    proxy.plan(lambda number, name: how if number % every == 0 and name.startswith(b"EVAL") else None)
    run(made, feed, proxy.url, driver, {(threads[0], 1): 1, (threads[1], 2): 2})
    assert proxy.cuts
    assert counts(made, feed.group("g")) == dict.fromkeys(threads, 4)
    assert feed.group("g").lag().handled == 12


def test_events_without_effects_count_once_too(one: tuple[Made, ActivityFeed], proxy: Proxy) -> None:
    """The number handled is exact, though replies are lost."""
    made, feed = one
    for _ in range(20):
        made.add("a")
    proxy.plan(lambda number, name: Cut.AFTER if number % 3 == 0 and name.startswith(b"EVAL") else None)
    group = feed.group("g")
    group.register()
    worker = Worker(proxy.url, made.prefix, "g", batch=2)
    eventually(lambda: through(group))
    worker.stop()
    assert len(worker.handed) == 20
    assert group.lag().handled == 20


@pytest.mark.parametrize("halfway", [False, True])
def test_an_effect_that_is_refused(made: Made, driver: str, halfway: bool) -> None:
    """It counts as a failure of the handler; where others were carried out before it, the event is parked at once."""
    made.add("a")
    made.add("b")
    with made.feed() as feed:
        group = feed.group("g")
        group.register()

        def handle(activity: Activity) -> None:
            assert worker.member is not None
            if activity.thread_id == "a":
                worker.member.effect("INCRBY", "number", 1)
                if halfway:
                    worker.member.effect("HSET", "number", "f", "v")
                else:
                    worker.member.effect("INCRBY", "number", "no number")

        made.client.set(group.effect_keys("number")[made.partition_of("a")], "text") if not halfway else None
        worker = Worker(made.url, made.prefix, "g", handle, driver=driver, max_attempts=2)
        eventually(group.parked)
        (parked,) = group.parked()
        assert parked.attempts == (1 if halfway else 2)
        assert parked.error.startswith("eventlog.errors.EffectRefused")
        eventually(lambda: ("b", 1) in worker.handed)
        worker.stop()


def test_refused_to_who_iterates(one: tuple[Made, ActivityFeed]) -> None:
    """Who catches it and goes on gets the next event; the one refused is tried again or parked as any that failed."""
    made, feed = one
    first, second = made.together(2)
    made.add(first)
    made.add(second)
    group = feed.group("g")
    with group.member("m", max_attempts=1, **QUICK) as member:
        assert next(member).thread_id == first
        member.effect("INCRBY", "n", "no number")
        with pytest.raises(EffectRefused, match="INCRBY"):
            next(member)
        assert next(member).thread_id == second
        member.stop()
        assert next(member, None) is None
    assert [one.thread_id for one in group.parked()] == [first]


def test_effects_of_nothing(one: tuple[Made, ActivityFeed]) -> None:
    """Without an event in hand, or of a command that is none."""
    made, feed = one
    made.add("a")
    with feed.group("g").member("m", **QUICK) as member:
        with pytest.raises(InvalidArgument, match="in hand"):
            member.effect("SET", "k", "v")
        next(member)
        for command in ("EVAL", "FLUSHALL", "", "EXPIRE"):
            with pytest.raises(InvalidArgument, match="no effect"):
                member.effect(command, "k")
        member.effect("set", "k", "v")
        member.acknowledge()
        with pytest.raises(InvalidArgument, match="in hand"):
            member.effect("SET", "k", "w")
    assert made.client.get(feed.group("g").effect_keys("k")[made.partition_of("a")]) == b"v"


def test_a_member_that_lost_its_lease_has_no_effect(one: tuple[Made, ActivityFeed]) -> None:
    """Its acknowledgement and its effects are refused together; who has the lease has them once."""
    made, feed = one
    made.add("a")
    group = feed.group("g")
    with group.member("old", **QUICK) as old:
        next(old)
        old.effect("INCRBY", "n", 1)
        state = made.keyspace.partition(made.partition_of("a")).group(b"g").state
        made.client.hset(state, mapping={"token": "another", "until": "0"})
        try:
            old.acknowledge()
        except EventLogError:
            pass
        key = group.effect_keys("n")[made.partition_of("a")]
        assert made.client.get(key) is None
        assert group.lag().pending == 1
        again = next(old)
        assert again.thread_id == "a"
        old.effect("INCRBY", "n", 1)
        old.acknowledge()
        assert made.client.get(key) == b"1"
        assert through(group)

"""Handlers that fail: tried again, parked, retried and skipped, while all else goes on."""

from __future__ import annotations

import time
from typing import Any

import pytest

from eventlog import Activity
from eventlog.feed import leases
from tests.eventlog.feed.feeds import Made, Worker, eventually, through


class Failing:
    """A handler that fails for some events until it is mended; what it was through with is noted."""

    def __init__(self, *events: tuple[str, int], times: int = 10**9) -> None:
        self.left = dict.fromkeys(events, times)
        self.done: list[tuple[str, int]] = []
        self.attempts: list[int] = []
        self.at: list[float] = []

    def __call__(self, activity: Activity) -> None:
        """Handles an event, or not."""
        event = activity.thread_id, activity.sequence
        if self.left.get(event, 0) > 0:
            self.left[event] -= 1
            self.attempts.append(activity.attempt)
            self.at.append(time.monotonic())
            raise ValueError(f"cannot {event[1]} \ud800")
        self.done.append(event)

    def of(self, thread: str) -> list[int]:
        """What was done of a thread."""
        return [number for name, number in self.done if name == thread]


def test_tried_again(made: Made, driver: str) -> None:
    """With growing pauses; its thread waits, other threads of the same partition do not, and order holds."""
    bad, good = made.together(2)
    for _ in range(3):
        made.add(bad)
        made.add(good)
    handler = Failing((bad, 1), (bad, 3), times=3)
    with made.feed() as feed:
        group = feed.group("g")
        group.register()
        worker = Worker(made.url, made.prefix, "g", handler, driver=driver, backoff=0.3)
        eventually(lambda: handler.of(good) == [1, 2, 3])
        assert handler.of(bad) == []
        eventually(lambda: (group.lag().pending, group.lag().waiting) == (0, 3))
        assert group.lag().parked == 0
        made.add(bad)
        eventually(lambda: through(group))
        worker.stop()
        assert handler.of(bad) == [1, 2, 3, 4]
        assert handler.attempts == [1, 2, 3] * 2
        gaps = [later - earlier for earlier, later in zip(handler.at, handler.at[1:], strict=False)]
        assert gaps[0] >= 0.299
        assert gaps[1] >= 0.599
        assert group.lag().handled == 7


def test_many_waiting_threads(made_on_each: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member reads in steps which threads wait when it takes a partition, whatever they are called; all of them go on waiting."""
    made = made_on_each
    monkeypatch.setattr(leases, "WAITING", 2)
    bad = [*made.together(5), *(name for name in map("n\0\xff{}".format, range(40)) if not made.partition_of(name))]
    (good,) = made.together(6)[5:]
    assert len(bad) > 8
    for thread in bad:
        made.add(thread)
    failing = Failing(*((thread, 1) for thread in bad))
    with made.feed() as feed:
        group = feed.group("g")
        group.register()
        worker = Worker(made.url, made.prefix, "g", failing, max_attempts=1)
        eventually(lambda: len(group.parked()) == len(bad))
        worker.stop()
        made.client.zadd(made.keyspace.partition(0).group(b"g").held, {b"\0\xff": 0, b"thread": 0, b"~": 0})
        for thread in (*bad, good):
            made.add(thread)
        handler = Failing()
        worker = Worker(made.url, made.prefix, "g", handler)
        eventually(lambda: handler.done == [(good, 1)] and group.lag().pending == 0)
        worker.stop()
        assert handler.done == [(good, 1)]


@pytest.mark.parametrize("driver", ["async"])
def test_parked_retried_and_skipped(made_on_each: Made, driver: str) -> None:
    """After so many attempts, with error and traceback; retry tries as often again, skip gives the event up."""
    made = made_on_each
    bad, worse, good = (*made.together(2), made.apart(4)[2])
    for thread in (bad, worse, good) * 2:
        made.add(thread)
    handler = Failing((bad, 1), (worse, 1))
    with made.feed() as feed:
        group = feed.group("g")
        group.register()
        worker = Worker(made.url, made.prefix, "g", handler, driver=driver, max_attempts=3, name="m")
        eventually(lambda: len(group.parked()) == 2)
        assert handler.of(good) == [1, 2]
        for parked in group.parked():
            assert parked.activity.sequence == 1
            assert (parked.attempts, parked.waiting, parked.member) == (3, 1, "m")
            assert parked.error == "ValueError: cannot 1 \\ud800"
            assert "in __call__" in parked.traceback
            assert parked.activity.partition == made.partition_of(parked.thread_id)
        assert (group.lag().parked, group.lag().waiting) == (2, 4)
        handler.attempts.clear()
        assert group.retry(bad) == 1
        assert group.retry(good) == 0
        eventually(lambda: handler.attempts == [1, 2, 3])
        eventually(lambda: len(group.parked()) == 2)
        handler.left[bad, 1] = 0
        assert group.retry(bad) == 1
        assert group.skip(worse) == 1
        eventually(lambda: through(group))
        worker.stop()
        assert (handler.of(bad), handler.of(worse)) == ([1, 2], [2])
        assert (group.parked(), group.retry(), group.skip()) == ([], 0, 0)


def test_parked_events_outlive_their_member(made: Made, driver: str) -> None:
    """Others find them, with what waits; all are retried at once."""
    threads = [*made.together(2), *made.apart(4)]
    handler = Failing(*((thread, 1) for thread in threads))
    for _ in range(3):
        for thread in threads:
            made.add(thread)
    with made.feed() as feed:
        group = feed.group("g")
        group.register()
        worker = Worker(made.url, made.prefix, "g", handler, driver=driver, max_attempts=1)
        eventually(lambda: len(group.parked()) == len(set(threads)))
        worker.stop()
        handler.left.clear()
        later = Worker(made.url, made.prefix, "g", handler, driver=driver)
        for thread in set(threads):
            made.add(thread)
        eventually(lambda: group.lag().pending == 0)
        assert handler.done == []
        assert group.retry() == len(set(threads))
        eventually(lambda: through(group))
        later.stop()
        for thread in set(threads):
            assert handler.of(thread) == list(range(1, made.sequences[thread] + 1))


def test_many_events_wait(made: Made) -> None:
    """More than are fetched at once, and more that come while they are handed out."""
    handler = Failing(("a", 1), times=1)
    for _ in range(180):
        made.add("a")
    with made.feed() as feed:
        worker = Worker(made.url, made.prefix, "g", handler, backoff=0.3, batch=20)
        eventually(lambda: feed.group("g").lag().waiting == 180 if feed.groups() else False)
        for _ in range(30):
            made.add("a")
        eventually(lambda: through(feed.group("g")))
        worker.stop()
    assert handler.of("a") == list(range(1, 211))


@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_body_that_raises(made: Made, acknowledged: bool) -> None:
    """The error goes to the caller, the event is tried again by the next member, unless it was acknowledged."""
    made.add("a")
    with made.feed() as feed:
        group = feed.group("g")
        member = group.member("m", lease=0.5, backoff=0.01)
        with pytest.raises(ZeroDivisionError), member:
            for _ in member:
                if acknowledged:
                    member.acknowledge()
                _ = 1 / 0
        assert group.lag().waiting == (0 if acknowledged else 1)
        if not acknowledged:
            with member:
                for activity in member:
                    assert activity.attempt == 2
                    member.stop()
        assert through(group)


def test_backoff_by_a_function(made: Made) -> None:
    """It is asked with the number of attempts made."""
    made.add("a")
    asked: list[int] = []

    def backoff(attempts: int) -> float:
        asked.append(attempts)
        return 0.01

    options: dict[str, Any] = {"backoff": backoff, "max_attempts": 4}
    handler = Failing(("a", 1))
    with made.feed() as feed:
        worker = Worker(made.url, made.prefix, "g", handler, **options)
        eventually(lambda: feed.groups() and feed.group("g").parked())
        worker.stop()
    assert asked == [1, 2, 3]
    assert handler.attempts == [1, 2, 3, 4]

"""Leases: fair shares, who gets what when members join, leave, die or are late, and how they stop."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventlog import Activity, PositionLost
from eventlog.feed import delivery
from tests.eventlog.feed.feeds import AT_ONCE, QUICK, Made, Worker, eventually, in_order, made_feed, through
from tests.servers import RunningServer

LEASE = 0.5
SOON = LEASE + LEASE / 3 + 1.5
ROOT = Path(__file__).parents[3]


def shares(workers: list[Worker]) -> list[int]:
    """How many partitions each has, none of them two."""
    held = [one.partitions for one in workers]
    flat = [number for some in held for number in some]
    return sorted(map(len, held)) if len(flat) == len(set(flat)) else []


def shared_out(workers: list[Worker], wanted: list[int]) -> float:
    """Waits until each has as many; the seconds that took."""
    return eventually(lambda: shares(workers) == wanted)


def come_and_go(made: Made, driver: str, *steps: list[int]) -> None:
    """Members join one by one, then those that joined first leave one by one: each time the shares are so, and soon."""
    workers: list[Worker] = []
    for expected in steps:
        workers.append(Worker(made.url, made.prefix, "g", driver=driver, lease=LEASE))
        assert shared_out(workers, expected) < SOON
    for expected in reversed(steps[:-1]):
        workers.pop(0).stop()
        assert shared_out(workers, expected) < SOON
    workers.pop().stop()


def test_leases_move(made_on_each: Made) -> None:
    """To a member that joins, and back from one that left."""
    come_and_go(made_on_each, "async", [4], [2, 2])


def test_fair_shares(made: Made, driver: str) -> None:
    """Members that come and go have equal shares in time, more members than partitions too; no partition is two's."""
    come_and_go(made, driver, [4], [2, 2], [1, 1, 2], [1] * 4, [0, 1, 1, 1, 1])


def test_traffic_goes_on_while_members_come_and_go(made: Made) -> None:
    """Nothing twice, nothing lost, in order."""
    threads = made.apart(4) + made.together(2)
    handed: list[tuple[str, int]] = []
    ended = threading.Event()

    def write() -> None:
        number = 0
        while not ended.is_set():
            made.add(threads[number % 6])
            number += 1
            time.sleep(0.002)

    def handle(activity: Activity) -> None:
        handed.append((activity.thread_id, activity.sequence))

    writer = threading.Thread(target=write)
    writer.start()
    workers = []
    for number in range(6):
        workers.append(Worker(made.url, made.prefix, "g", handle, driver=("sync", "async")[number % 2], lease=3.0))
        time.sleep(0.15)
        if number % 2:
            workers.pop(0).stop()
    ended.set()
    writer.join()
    with made.feed() as feed:
        eventually(lambda: through(feed.group("g")))
    for one in workers:
        one.stop()
    assert len(handed) == len(set(handed)) == sum(made.sequences.values())
    assert in_order(handed)


@pytest.fixture
def process(made: Made) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts members in processes of their own."""
    started: list[subprocess.Popen[str]] = []

    def start(seconds: float = 0.02) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.eventlog.feed.member_worker", made.url, made.prefix, "g", str(LEASE)]
        started.append(subprocess.Popen([*command, str(seconds)], cwd=ROOT, text=True, stdout=subprocess.PIPE))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def events_of(lines: Iterable[str], word: str) -> list[tuple[str, int]]:
    """What a process printed that it began, or ended."""
    split = [line.split() for line in lines]
    return [
        (thread, int(number)) for told, thread, number in (some for some in split if len(some) == 3) if told == word
    ]


def test_killed(made: Made, process: Callable[..., subprocess.Popen[str]]) -> None:
    """Its partitions are another's soon, which begins with what was not acknowledged."""
    threads = made.apart(4)
    for _ in range(50):
        for thread in threads:
            made.add(thread)
    one = process()
    assert one.stdout is not None
    told = [one.stdout.readline() for _ in range(20)]
    worker = Worker(made.url, made.prefix, "g", lambda _: time.sleep(0.005), lease=LEASE)
    eventually(lambda: len(worker.partitions) == 2)
    one.kill()
    assert eventually(lambda: len(worker.partitions) == 4) < SOON
    with made.feed() as feed:
        eventually(lambda: through(feed.group("g")))
    worker.stop()
    told += one.stdout.readlines()
    ended = events_of(told, "end")
    assert len(ended) == len(set(ended))
    assert in_order(ended)
    assert set(ended) | set(worker.handed) == {(thread, number) for thread in threads for number in range(1, 51)}
    for thread in threads:
        numbers = [number for name, number in worker.handed if name == thread]
        assert numbers == list(range(51 - len(numbers), 51))
    again = set(ended) & set(worker.handed)
    assert len(again) <= 4  # those of 50 ms, each of which took 20


def test_sigterm(made: Made, process: Callable[..., subprocess.Popen[str]]) -> None:
    """The event in hand is finished and acknowledged, the leases are given back at once."""
    for _ in range(10):
        made.add("a")
    one = process(0.3)
    assert one.stdout is not None
    assert one.stdout.readline() == "begin a 1\n"
    one.send_signal(signal.SIGTERM)
    assert one.stdout.read().splitlines() == ["end a 1", "left"]
    assert one.wait(5) == 0
    for number in range(4):
        assert not made.client.hexists(made.keyspace.partition(number).group(b"g").state, "token")
    worker = Worker(made.url, made.prefix, "g", lease=LEASE)
    eventually(lambda: len(worker.handed) == 9)
    worker.stop()
    assert worker.handed[0] == ("a", 2)


def test_a_stopped_process_is_fenced(made: Made, process: Callable[..., subprocess.Popen[str]]) -> None:
    """One that slept through its lease finishes nothing that another has; both go on afterwards, in order."""
    threads = made.apart(4)
    for _ in range(15):
        for thread in threads:
            made.add(thread)
    one = process()
    assert one.stdout is not None
    for _ in range(10):
        one.stdout.readline()
    one.send_signal(signal.SIGSTOP)
    worker = Worker(made.url, made.prefix, "g", lease=LEASE)
    assert eventually(lambda: len(worker.partitions) == 4) < SOON
    with made.feed() as feed:
        group = feed.group("g")
        eventually(lambda: through(group))
        handled = group.lag().handled
        one.send_signal(signal.SIGCONT)
        eventually(lambda: len(worker.partitions) == 2)
        assert (group.lag().handled, group.lag().pending) == (handled, 0)
        for thread in threads:
            made.add(thread)
        eventually(lambda: through(group))
    worker.stop()


def test_a_slow_handler_keeps_its_lease(made: Made, driver: str) -> None:
    """However long it takes, against a member that wants the partition; the event is handed out once."""
    for _ in range(2):
        made.add("a")
    slow = Worker(made.url, made.prefix, "g", lambda _: time.sleep(1.0), driver="sync", lease=0.5)
    eventually(lambda: slow.handed)
    other = Worker(made.url, made.prefix, "g", driver=driver, lease=0.5)
    with made.feed() as feed:
        eventually(lambda: through(feed.group("g")))
    for one in (slow, other):
        one.stop()
    assert sorted(slow.handed + other.handed) == [("a", 1), ("a", 2)]


def test_stopped_while_idle(made: Made, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a second, leases given back."""
    monkeypatch.setattr(delivery, "IDLE", 1.0)  # as it is in earnest
    worker = Worker(made.url, made.prefix, "g", driver=driver, lease=30)
    eventually(lambda: len(worker.partitions) == 4)
    begin = time.monotonic()
    worker.stop()
    assert time.monotonic() - begin < 3
    later = Worker(made.url, made.prefix, "g", driver=driver, lease=30)
    assert eventually(lambda: len(later.partitions) == 4) < 10
    later.stop()


def test_news_wake_a_member(made: Made, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is handed what comes when it comes, not when it looks up by itself."""
    monkeypatch.setattr(delivery, "IDLE", 60.0)

    def handle(activity: Activity) -> None:
        if activity.sequence == 3:
            assert worker.member is not None
            worker.member.stop()

    worker = Worker(made.url, made.prefix, "g", handle, driver=driver)
    eventually(lambda: len(worker.partitions) == 4)
    for number in range(1, 4):
        time.sleep(0.1)
        made.add("a")
        assert eventually(lambda: len(worker.handed) == number, 5) < 3  # noqa: B023 - it is asked here
    worker.join()


@pytest.mark.parametrize("goes_on", [False, True])
def test_what_was_lost_is_nobody_s_for_long(made: Made, goes_on: bool) -> None:
    """A member that learned of a loss goes on at once, or leaves the partition to others, however long its lease is."""
    made.add("a")
    with made.feed() as feed:
        group = feed.group("g")
        with group.member("m", lease=15) as member:
            next(member)
            member.acknowledge()
            keys = made.keyspace.partition(made.partition_of("a"))
            had = {key: made.client.dump(key) for key in (keys.feed, keys.positions, keys.group(b"g").state)}
            made.add("a")
            next(member)
            member.acknowledge()
            for key, value in had.items():  # as a replica that was behind has it
                made.client.restore(key, 0, value, replace=True)
            again = made.add("a")
            with pytest.raises(PositionLost):
                next(member)
            if goes_on:
                begin = time.monotonic()
                assert next(member).id == again
                assert time.monotonic() - begin < 3
                member.acknowledge()
        worker = Worker(made.url, made.prefix, "g")
        assert eventually(lambda: len(worker.partitions) == 4, 5) < 3
        worker.stop()


@pytest.mark.parametrize(("how", "driver"), [("kill", "sync"), ("restart", "async")])
def test_a_server_that_restarts(
    private_server: Callable[..., RunningServer], tmp_path: Any, prefix: str, how: str, driver: str
) -> None:
    """Members wait for it and go on, without loss."""
    running = private_server("--appendonly", "yes", "--appendfsync", "always", dir=tmp_path)
    with made_feed(running.url, prefix) as (made, feed):
        for _ in range(20):
            made.add("a")
        worker = Worker(made.url, prefix, "g", lambda _: time.sleep(0.02), driver=driver, lease=LEASE, client=AT_ONCE)
        eventually(lambda: len(worker.handed) > 5)
        getattr(running, how)()
        time.sleep(0.2)
        running.start()
        for _ in range(5):
            made.add("a")
        eventually(lambda: through(feed.group("g")))
        worker.stop()
        assert set(worker.handed) == {("a", number) for number in range(1, 26)}
        assert in_order(worker.handed)


def test_stopped_while_the_server_is_away(
    private_server: Callable[..., RunningServer], prefix: str, driver: str
) -> None:
    """It ends within seconds, whatever its patience."""
    running = private_server()
    with made_feed(running.url, prefix) as (made, _):
        worker = Worker(made.url, prefix, "g", driver=driver, client=AT_ONCE, patience=30)
        eventually(lambda: len(worker.partitions) == 4)
        running.kill()
        time.sleep(0.3)
        assert worker.member is not None
        worker.member.stop()
        eventually(lambda: not worker.alive, 8)


def test_a_server_that_takes_no_writes_for_a_while(
    private_server: Callable[..., RunningServer], prefix: str, driver: str
) -> None:
    """A primary that is a replica for a moment, as in a failover, does not end a member."""
    running = private_server()
    with made_feed(running.url, prefix) as (made, feed):
        worker = Worker(made.url, prefix, "g", driver=driver, client=AT_ONCE, lease=0.3)
        eventually(lambda: len(worker.partitions) == 4)
        client: Any = made.client
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        time.sleep(0.6)
        client.execute_command("REPLICAOF", "NO", "ONE")
        made.add("a")
        eventually(lambda: through(feed.group("g")))
        worker.stop()
        assert worker.handed == [("a", 1)]


def test_a_member_that_left_is_not_alive(made: Made, driver: str) -> None:
    """Nor are its keys left once the group is dropped."""
    with made.feed() as feed:
        group = feed.group("g")
        worker = Worker(made.url, made.prefix, "g", driver=driver, **{**QUICK, "lease": 30})
        eventually(lambda: len(worker.partitions) == 4)
        worker.stop()
        assert group.lag().members == ()
        feed.drop_group("g")
        assert not made.client.exists(made.keyspace.members(b"g"))
        for number in range(4):
            keys = made.keyspace.partition(number).group(b"g")
            assert not any(made.client.exists(key) for key in (keys.state, keys.held, keys.failures, keys.due))

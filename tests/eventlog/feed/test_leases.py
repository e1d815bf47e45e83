"""Leases: fair shares, who gets what when members join, leave, die or are late, and how they stop."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventlog import Activity
from tests.eventlog.feed.feeds import AT_ONCE, QUICK, Made, Worker, eventually, in_order, made_feed, through
from tests.servers import RunningServer

LEASE = 0.6
SOON = LEASE + LEASE / 3 + 1
ROOT = Path(__file__).parents[3]


def shares(workers: list[Worker]) -> list[int]:
    """How many partitions each has, none of them two."""
    held = [one.partitions for one in workers]
    flat = [number for some in held for number in some]
    return sorted(map(len, held)) if len(flat) == len(set(flat)) else []


def shared_out(workers: list[Worker], wanted: list[int]) -> float:
    """Waits until each has as many; the seconds that took."""
    return eventually(lambda: shares(workers) == wanted)


def test_fair_shares(made: Made, colour: str) -> None:
    """Members that come and go have equal shares in time, more members than partitions too; no partition is two's."""
    workers: list[Worker] = []
    for expected in ([4], [2, 2], [1, 1, 2], [1] * 4, [0, 1, 1, 1, 1]):
        workers.append(Worker(made.url, made.prefix, "g", colour=colour, lease=LEASE))
        assert shared_out(workers, expected) < SOON
    for expected in ([1] * 4, [1, 1, 2], [2, 2], [4]):
        workers.pop(0).stop()
        assert shared_out(workers, expected) < SOON
    workers.pop().stop()


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
        workers.append(Worker(made.url, made.prefix, "g", handle, colour=("sync", "async")[number % 2], lease=2.0))
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


def test_killed(made: Made, process: Callable[..., subprocess.Popen[str]]) -> None:
    """Its partitions are another's soon, which begins with what was not acknowledged."""
    for _ in range(10):
        for thread in made.apart(4):
            made.add(thread)
    one = process()
    assert one.stdout is not None
    for _ in range(20):
        one.stdout.readline()
    worker = Worker(made.url, made.prefix, "g", lease=LEASE)
    eventually(lambda: len(worker.partitions) == 2)
    one.kill()
    assert eventually(lambda: len(worker.partitions) == 4) < SOON
    with made.feed() as feed:
        eventually(lambda: through(feed.group("g")))
    worker.stop()
    before = [tuple(line.split()[1:]) for line in one.stdout if line.startswith("begin")]
    assert len(set(worker.handed)) + len(set(before)) >= 30
    assert in_order(worker.handed) or before


def test_sigterm(made: Made, process: Callable[..., subprocess.Popen[str]]) -> None:
    """The event in hand is finished and acknowledged, the leases are given back at once."""
    for _ in range(10):
        made.add("a")
    one = process(0.4)
    assert one.stdout is not None
    assert one.stdout.readline() == "begin a 1\n"
    one.send_signal(signal.SIGTERM)
    assert one.stdout.read().splitlines() == ["end a 1", "left"]
    assert one.wait(5) == 0
    begin = time.monotonic()
    worker = Worker(made.url, made.prefix, "g", lease=LEASE)
    eventually(lambda: len(worker.partitions) == 4)
    assert time.monotonic() - begin < LEASE
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


def test_a_slow_handler_keeps_its_lease(made: Made, colour: str) -> None:
    """However long it takes, against a member that wants the partition; the event is handed out once."""
    for _ in range(2):
        made.add("a")
    slow = Worker(made.url, made.prefix, "g", lambda _: time.sleep(1.2), colour="sync", lease=0.3)
    eventually(lambda: slow.handed)
    other = Worker(made.url, made.prefix, "g", colour=colour, lease=0.3)
    with made.feed() as feed:
        eventually(lambda: through(feed.group("g")))
    for one in (slow, other):
        one.stop()
    assert sorted(slow.handed + other.handed) == [("a", 1), ("a", 2)]


def test_stopped_while_idle(made: Made, colour: str) -> None:
    """Within a second, leases given back."""
    worker = Worker(made.url, made.prefix, "g", colour=colour, lease=30)
    eventually(lambda: len(worker.partitions) == 4)
    begin = time.monotonic()
    worker.stop()
    assert time.monotonic() - begin < 1.8
    later = Worker(made.url, made.prefix, "g", colour=colour, lease=30)
    assert eventually(lambda: len(later.partitions) == 4) < 1
    later.stop()


@pytest.mark.parametrize("how", ["kill", "restart"])
def test_a_server_that_restarts(
    private_server: Callable[..., RunningServer], tmp_path: Any, prefix: str, how: str, colour: str
) -> None:
    """Members wait for it and go on, without loss."""
    running = private_server("--appendonly", "yes", "--appendfsync", "always", dir=tmp_path)
    with made_feed(running.url, prefix) as (made, feed):
        for _ in range(20):
            made.add("a")
        worker = Worker(made.url, prefix, "g", lambda _: time.sleep(0.02), colour=colour, lease=LEASE, client=AT_ONCE)
        eventually(lambda: len(worker.handed) > 5)
        getattr(running, how)()
        time.sleep(0.3)
        running.start()
        for _ in range(5):
            made.add("a")
        eventually(lambda: through(feed.group("g")))
        worker.stop()
        assert set(worker.handed) == {("a", number) for number in range(1, 26)}
        assert in_order(worker.handed)


def test_stopped_while_the_server_is_away(
    private_server: Callable[..., RunningServer], prefix: str, colour: str
) -> None:
    """It ends within seconds, whatever its patience."""
    running = private_server()
    with made_feed(running.url, prefix) as (made, _):
        worker = Worker(made.url, prefix, "g", colour=colour, client=AT_ONCE, patience=30)
        eventually(lambda: len(worker.partitions) == 4)
        running.kill()
        time.sleep(0.3)
        assert worker.member is not None
        worker.member.stop()
        eventually(lambda: not worker.alive, 4)


def test_a_server_that_takes_no_writes_for_a_while(
    private_server: Callable[..., RunningServer], prefix: str, colour: str
) -> None:
    """A primary that is a replica for a moment, as in a failover, does not end a member."""
    running = private_server()
    with made_feed(running.url, prefix) as (made, feed):
        worker = Worker(made.url, prefix, "g", colour=colour, client=AT_ONCE, lease=0.3)
        eventually(lambda: len(worker.partitions) == 4)
        client: Any = made.client
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        time.sleep(0.6)
        client.execute_command("REPLICAOF", "NO", "ONE")
        made.add("a")
        eventually(lambda: through(feed.group("g")), 5)
        worker.stop()
        assert worker.handed == [("a", 1)]


def test_a_member_that_left_is_not_alive(made: Made, colour: str) -> None:
    """Nor are its keys left once the group is dropped."""
    with made.feed() as feed:
        group = feed.group("g")
        worker = Worker(made.url, made.prefix, "g", colour=colour, **{**QUICK, "lease": 30})
        eventually(lambda: len(worker.partitions) == 4)
        worker.stop()
        assert group.lag().members == ()
        feed.drop_group("g")
        assert not made.client.exists(made.keyspace.members(b"g"))
        for number in range(4):
            keys = made.keyspace.partition(number).group(b"g")
            assert not any(made.client.exists(key) for key in (keys.state, keys.held, keys.failures, keys.due))

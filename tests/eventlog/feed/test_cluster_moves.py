"""Clusters that change under members and tails: a slot that moves, a node that fails over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from eventlog import Activity, ActivityFeed, PositionLost
from tests.eventlog.feed.feeds import QUICK, Made, Worker, eventually, in_order, through
from tests.servers import RunningCluster, RunningServer, launch_cluster, preferred_binary


class Traffic:
    """A writer, two members and a tail, all at once."""

    def __init__(self, made: Made) -> None:
        self.made = made
        self.threads = made.apart(4)
        self.written: list[tuple[str, int]] = []
        self.handed: list[tuple[str, int]] = []
        self.tailed: list[tuple[str, int]] = []
        self.errors: list[BaseException] = []
        self._ended = threading.Event()
        self._feed = made.feed()
        self._feed.group("g").register()
        self.workers = [
            Worker(made.url, made.prefix, "g", self._handle, colour=one, lease=1.0, name=one)
            for one in ("sync", "async")
        ]
        self._running = [
            threading.Thread(target=self._tail, daemon=True),
            threading.Thread(target=self._write, daemon=True),
        ]
        for one in self._running:
            one.start()
        eventually(lambda: len(self.tailed) > 20 and len(self.handed) > 20)

    def _handle(self, activity: Activity) -> None:
        self.handed.append((activity.thread_id, activity.sequence))

    def _write(self) -> None:
        number = 0
        while not self._ended.is_set():
            thread = self.threads[number % 4]
            before = self.made.sequences.get(thread, 0)
            try:
                self.made.add(thread)
                self.written.append((thread, before + 1))
                number += 1
            except (redis.RedisError, redis.exceptions.RedisClusterException, OSError):
                self.made.sequences[thread] = before
            time.sleep(0.003)

    def _tail(self) -> None:
        try:
            for activity in self._feed.tail("beginning"):
                self.tailed.append((activity.thread_id, activity.sequence))
                if self._ended.is_set() and set(self.written) <= set(self.tailed):
                    return
        except BaseException as error:
            self.errors.append(error)

    def goes_on(self, events: int) -> None:
        """Waits until so many more are handled."""
        count = len(self.handed)
        eventually(lambda: len(self.handed) > count + events, 30)

    def end(self) -> None:
        """Ends it, and looks whether all came, in order."""
        self._ended.set()
        self._running[1].join(20)
        self.made.add(self.threads[0])
        self._running[0].join(20)
        assert not self.errors
        assert not self._running[0].is_alive()
        group = self._feed.group("g")
        eventually(lambda: through(group), 30)
        for worker in self.workers:
            worker.stop()
        assert set(self.written) <= set(self.handed)
        assert in_order(self.handed)
        assert in_order(self.tailed)
        self._feed.close()


@pytest.fixture
def launched() -> Iterator[Callable[[int], RunningCluster]]:
    """Starts clusters of the test's own."""
    started: list[RunningCluster] = []

    def start(replicas: int = 0) -> RunningCluster:
        started.append(launch_cluster(preferred_binary(), replicas))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def run(node: RunningServer, *words: Any) -> Any:
    """A command on one node."""
    with redis.Redis(unix_socket_path=str(node.socket), protocol=2) as client:
        call: Any = client.execute_command
        return call(*words)


def test_a_slot_that_moves(launched: Callable[[int], RunningCluster], prefix: str) -> None:
    """To another node and back while all goes on: nothing lost, order holds."""
    cluster = launched(0)
    made = Made(cluster.url, prefix)
    traffic = Traffic(made)
    slot = key_slot(made.stream(traffic.threads[0]))
    masters = {run(node, "CLUSTER", "MYID").decode(): node for node in cluster.nodes}
    owner = next(name for name, node in masters.items() if run(node, "CLUSTER", "COUNTKEYSINSLOT", slot))
    other = next(name for name in masters if name != owner)
    for source, target in ((owner, other), (other, owner)):
        run(masters[target], "CLUSTER", "SETSLOT", slot, "IMPORTING", source)
        run(masters[source], "CLUSTER", "SETSLOT", slot, "MIGRATING", target)
        while keys := run(masters[source], "CLUSTER", "GETKEYSINSLOT", slot, 2):
            run(masters[source], "MIGRATE", "127.0.0.1", masters[target].port, "", 0, 5000, "KEYS", *keys)
            time.sleep(0.1)
        for name in (target, source, *masters):
            run(masters[name], "CLUSTER", "SETSLOT", slot, "NODE", target)
        traffic.goes_on(40)
    traffic.end()
    made.close()


def test_a_node_that_fails_over(launched: Callable[[int], RunningCluster], prefix: str) -> None:
    """Its replica takes over in order: members and tails go on."""
    cluster = launched(1)
    made = Made(cluster.url, prefix)
    traffic = Traffic(made)
    assert run(cluster.nodes[3], "CLUSTER", "FAILOVER") in (b"OK", True)
    traffic.goes_on(200)
    traffic.end()
    made.close()


def test_a_node_that_is_killed(launched: Callable[[int], RunningCluster], prefix: str) -> None:
    """Its replica, which was behind, takes over: who was ahead is told, and the member goes on with what there is."""
    cluster = launched(1)
    made = Made(cluster.url, prefix)
    number = next(
        n for n in range(4) if run(cluster.nodes[0], "CLUSTER", "KEYSLOT", made.keyspace.partition(n).feed) < 5461
    )
    (thread,) = made.together(1, number)
    made.add(thread)
    with ActivityFeed.from_conn_string(cluster.url, prefix=prefix) as feed:
        group = feed.group("g")
        with group.member("m", **{**QUICK, "lease": 60}) as member:
            next(member)
            member.acknowledge()
            time.sleep(0.3)
            threading.Timer(0.6, cluster.nodes[0].kill).start()
            time.sleep(0.8)
            run(cluster.nodes[3], "CLUSTER", "FAILOVER", "TAKEOVER")
            eventually(lambda: run(cluster.nodes[3], "INFO", "REPLICATION")["role"] == "master")
            feed_key = made.stream(thread)
            state = made.keyspace.partition(number).group(b"g")
            eventually(lambda: run(cluster.nodes[3], "EXISTS", feed_key))
            run(cluster.nodes[3], "DEL", feed_key)
            run(cluster.nodes[3], "HSET", state.state, "id", "0-0", "check", "", "n", 0)
            made.sequences.clear()

            def added() -> bool:
                try:
                    made.add(thread)
                except (redis.RedisError, redis.exceptions.RedisClusterException, OSError):
                    made.sequences.clear()
                    return False
                return True

            eventually(added, 20)
            with pytest.raises(PositionLost):
                next(member)
            assert next(member).sequence == 1
            member.acknowledge()
    made.close()

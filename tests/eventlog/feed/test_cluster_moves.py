"""Clusters that change under members and tails: a slot that moves, a node that fails over."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from eventlog import Activity, ActivityFeed, PositionLost
from tests.eventlog.feed.feeds import QUICK, Made, Worker, eventually, in_order, through
from tests.servers import RunningCluster, RunningServer, launch_cluster, preferred_binary

pytestmark = [pytest.mark.server, pytest.mark.slow]


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
            Worker(made.url, made.prefix, "g", self._handle, driver=one, lease=1.0, name=one)
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


class Changing:
    """A cluster with a replica of each node, that tests change and others find whole again."""

    def __init__(self) -> None:
        self.cluster: RunningCluster = launch_cluster(preferred_binary(), 1)
        self.url = self.cluster.url
        self.nodes = {run(node, "CLUSTER", "MYID").decode(): node for node in self.cluster.nodes}

    def owner(self, key: bytes) -> str:
        """The node that has a key's slot."""
        with self.cluster.client() as client:
            owner: Any = client.get_node_from_key(key)
            name: str = next(one for one, node in self.nodes.items() if node.port == owner.port)
        return name

    def masters(self) -> list[str]:
        """Names of those."""
        return [name for name, node in self.nodes.items() if run(node, "ROLE")[0] == b"master"]

    def replica_of(self, name: str) -> RunningServer:
        """Its only one."""
        port = self.nodes[name].port
        return next(node for node in self.nodes.values() if run(node, "ROLE")[:3] == [b"slave", b"127.0.0.1", port])

    def whole(self) -> bool:
        """Whether three masters serve, each with a replica that is level."""
        roles = [run(node, "ROLE") for node in self.nodes.values()]
        level = [role for role in roles if role[0] == b"slave" and role[3] == b"connected"]
        served = [b"cluster_state:ok" in run(node, "CLUSTER", "INFO") for node in self.nodes.values()]
        return len(level) == 3 and len({role[2] for role in level}) == 3 and all(served)


@pytest.fixture(scope="module")
def _changing() -> Iterator[Changing]:
    opened = Changing()
    yield opened
    opened.cluster.stop()


@pytest.fixture
def changing(_changing: Changing) -> Changing:
    """The cluster, whole."""
    for node in _changing.cluster.nodes:
        node.start()
    eventually(_changing.whole, 60)
    return _changing


def run(node: RunningServer, *words: Any) -> Any:
    """A command on one node."""
    with redis.Redis(unix_socket_path=str(node.socket), protocol=2) as client:
        call: Any = client.execute_command
        return call(*words)


def test_a_slot_that_moves(changing: Changing, prefix: str) -> None:
    """To another node and back while all goes on: nothing lost, order holds."""
    made = Made(changing.url, prefix)
    traffic = Traffic(made)
    stream = made.stream(traffic.threads[0])
    slot = key_slot(stream)
    owner, nodes = changing.owner(stream), changing.nodes
    other = next(name for name in changing.masters() if name != owner)
    for source, target in ((owner, other), (other, owner)):
        run(nodes[target], "CLUSTER", "SETSLOT", slot, "IMPORTING", source)
        run(nodes[source], "CLUSTER", "SETSLOT", slot, "MIGRATING", target)
        while keys := run(nodes[source], "CLUSTER", "GETKEYSINSLOT", slot, 2):
            run(nodes[source], "MIGRATE", "127.0.0.1", nodes[target].port, "", 0, 5000, "KEYS", *keys)
            time.sleep(0.1)
        for name in (target, source, *(name for name in changing.masters() if name not in (target, source))):
            run(nodes[name], "CLUSTER", "SETSLOT", slot, "NODE", target)
        traffic.goes_on(40)
    traffic.end()
    made.close()


def test_a_node_that_fails_over(changing: Changing, prefix: str) -> None:
    """Its replica takes over in order: members and tails go on."""
    made = Made(changing.url, prefix)
    traffic = Traffic(made)
    replica = changing.replica_of(changing.owner(made.stream(traffic.threads[0])))
    assert run(replica, "CLUSTER", "FAILOVER") in (b"OK", True)
    eventually(lambda: run(replica, "ROLE")[0] == b"master")
    traffic.goes_on(200)
    traffic.end()
    made.close()


def test_a_node_that_is_killed(changing: Changing, prefix: str) -> None:
    """Its replica, which was behind, takes over: a reader that was ahead gets an error, and goes on with what there is."""
    made = Made(changing.url, prefix)
    (thread,) = made.apart(1)
    made.add(thread)
    owner = changing.owner(made.stream(thread))
    primary, replica = changing.nodes[owner], changing.replica_of(owner)
    with ActivityFeed.from_conn_string(changing.url, prefix=prefix) as feed:
        group = feed.group("g")
        tail = feed.tail("beginning")
        with group.member("m", **QUICK) as member:
            assert next(member).sequence == next(iter(tail)).sequence == 1
            member.acknowledge()
            eventually(lambda: run(primary, "WAIT", 1, 100) == 1)
            eventually(lambda: run(replica, "ROLE")[4] == run(primary, "ROLE")[1])
            os.kill(replica.pid, signal.SIGSTOP)
            run(primary, "CLIENT", "KILL", "TYPE", "replica")
            lost = made.add(thread)
            assert next(member).id == next(iter(tail)).id == lost
            member.acknowledge()
            primary.kill()
            os.kill(replica.pid, signal.SIGCONT)
            eventually(lambda: run(replica, "CLUSTER", "FAILOVER", "TAKEOVER") in (b"OK", True))
            eventually(lambda: run(replica, "ROLE")[0] == b"master")
            for reader in (iter(member), iter(tail)):
                with pytest.raises(PositionLost, match=lost):
                    next(reader)
            made.client.nodes_manager.initialize()
            again = made.add(thread)
            assert next(member).id == again
            member.acknowledge()
            eventually(lambda: through(group))
            assert group.lag().handled == 2
    made.close()

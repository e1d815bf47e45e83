"""The servers on which all other tests run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.servers import RunningServer, Server, free_ports, launch_cluster, oldest_name, preferred_binary

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[1]


def test_every_server_answers(server: Server, prefix: str) -> None:
    """Each server stores a value and returns it as bytes."""
    with server.client() as client:
        client.set(prefix, "1", px=60_000)
        assert client.get(prefix) == b"1"


def test_the_oldest_server_is_marked(server: Server, request: pytest.FixtureRequest) -> None:
    """Exactly the tests on the oldest server are those that run with the lowest versions."""
    assert (request.node.get_closest_marker("oldest") is not None) == (server.name == oldest_name())


def test_cluster_is_three_masters_that_cover_all_slots(cluster: Server) -> None:
    """The cluster has three masters without replicas, which share the keys."""
    client: Any
    with cluster.client() as client:
        assert len(client.get_primaries()) == 3
        assert client.get_replicas() == []
        assert len({client.get_node_from_key(str(i)).port for i in range(50)}) == 3


def test_flush_empties_every_node(cluster: Server) -> None:
    """`flush` reaches all masters of a cluster."""
    with cluster.client() as client:
        for i in range(30):
            client.set(f"flush{i}", 1)
        cluster.flush()
        assert [client.get(f"flush{i}") for i in range(30)] == [None] * 30


def test_killed_server_keeps_what_it_had_synced(
    private_server: Callable[..., RunningServer], binary: Path, tmp_path: Path
) -> None:
    """A server with `appendfsync always` has its data after SIGKILL and a restart."""
    running = private_server("--appendonly", "yes", "--appendfsync", "always", binary=binary, dir=tmp_path)
    with running.client() as client:
        client.set("k", "v")
        running.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("k")
        running.restart()
        assert client.get("k") == b"v"


def test_private_server_with_password_and_port(private_server: Callable[..., RunningServer]) -> None:
    """A private server takes TCP connections and any setting, such as a password."""
    running = private_server("--requirepass", "secret", port=free_ports(1)[0])
    with running.client(password="secret") as client:
        assert client.ping()
    with running.client() as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_cluster_with_replicas() -> None:
    """A cluster for failover tests has one replica for each master."""
    running = launch_cluster(preferred_binary(), replicas=1)
    try:
        client: Any
        with running.client() as client:
            assert (len(client.get_primaries()), len(client.get_replicas())) == (3, 3)
    finally:
        running.stop()


def test_servers_end_with_a_killed_owner() -> None:
    """A server ends with the process that launched it, and its files are removed."""
    code = "from tests.servers import *; s = launch(preferred_binary()); print(s.pid, s.socket, flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, path = owner.stdout.readline().split()
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (_alive(int(pid)) or Path(path).exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(int(pid))
    assert not Path(path).exists()


def _alive(pid: int) -> bool:
    """Return whether the process runs and is not a zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")

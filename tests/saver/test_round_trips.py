"""What each operation costs, counted by what the server received: requests, and bytes where they must not be sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
import redis

from saver import RedisStreamSaver
from tests.saver.drivers import Call, call_sync
from tests.saver.threads import config, keys_of, keys_under, step, values_of
from tests.servers import Server

CONNECTING = {"HELLO", "CLIENT", "AUTH", "SELECT", "COMMAND", "PING"}
BIG = Random(1).randbytes(100_000)


@pytest.fixture
async def warm(any_server: Server, prefix: str, call: Call) -> AsyncIterator[RedisStreamSaver]:
    """A saver that is connected, has checked the server, and whose scripts the server knows."""
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:
        first = await call(saver, "put", config("warm"), *step({"x": 1}))
        latest = await call(saver, "put", first, *step({"x": 2}, run_id="warm"))
        await call(saver, "put", config("warm", "sub"), *step({"x": 1}))
        await call(saver, "put_writes", latest, [("x", 1)], "task")
        await call(saver, "get_tuple", latest)
        await call(saver, "list", config("warm"), limit=1)
        await call(saver, "list", {"configurable": {"thread_id": "warm"}}, limit=1)
        await call(saver, "get_delta_channel_history", config=latest, channels=["x"])
        await call(saver, "prune", ["warm"])
        await call(saver, "get_tuple", config("warm"))
        await call(saver, "delete_for_runs", ["warm"])
        await call(saver, "delete_thread", "warm")
        yield saver


@contextmanager
def requests(server: Server) -> Iterator[list[str]]:
    """The names of the requests that the server received meanwhile, those of connecting left out; filled at the end."""
    received: list[str] = []
    with server.client() as client, server.client() as watching:
        watcher: Any = watching
        with watcher.monitor() as monitor:
            yield received
            client.echo("the end")
            while True:
                seen: Any = monitor.next_command()
                name, _, rest = seen["command"].partition(" ")
                if name.upper() == "ECHO" and rest == "the end":
                    return
                if seen["client_type"] != "lua" and name.upper() not in CONNECTING:
                    received.append(name.upper())


@contextmanager
def sent(server: Server) -> Iterator[list[int]]:
    """How many bytes the server sent meanwhile, put into the list at the end."""
    told: list[int] = []
    with server.client() as client:
        assert isinstance(client, redis.Redis)
        before = client.info("stats")["total_net_output_bytes"]
        yield told
        told.append(client.info("stats")["total_net_output_bytes"] - before)


async def put_history(call: Call, saver: Any, length: int, value: Any = 1, thread: str = "t") -> list[Any]:
    """Put a line of checkpoints, each with a write; their configs, oldest first."""
    configs: list[Any] = [config(thread)]
    for number in range(length):
        value_here = value if isinstance(value, int) else value + b"%d" % number
        configs.append(await call(saver, "put", configs[-1], *step({"x": value_here}, step=number)))
        await call(saver, "put_writes", configs[-1], [("x", number)], "task")
    return configs[1:]


async def test_first_use(single_server: Server, prefix: str, call: Call) -> None:
    """The first call of a saver takes one request more, to check server and prefix; set-up done by hand takes it instead."""
    async with RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix) as other:
        await call(other, "put", config("t"), *step({"x": 1}))
    async with RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix) as saver:
        with requests(single_server) as received:
            await call(saver, "put", config("t"), *step({"x": 1}))
        assert received == ["EVALSHA"] * 2
        with requests(single_server) as received:
            await call(saver, "put", config("t"), *step({"x": 1}))
        assert received == ["EVALSHA"]
    async with RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix) as saver:
        await call(saver, "setup")
        with requests(single_server) as received:
            await call(saver, "put", config("t"), *step({"x": 1}))
        assert received == ["EVALSHA"]


async def test_nothing_before_the_first_use(any_server: Server, prefix: str) -> None:
    """Making a saver sends nothing, and opens no connection."""
    with requests(any_server) as received:
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix).close()
    assert received == []


async def test_writing(any_server: Server, warm: RedisStreamSaver, call: Call) -> None:
    """A put is one request and so are writes, whether the state is narrow or wide, new or old."""
    latest: Any = config("t")
    for width in (1, 1, 3_000):
        with requests(any_server) as received:
            latest = await call(warm, "put", latest, *step({str(number): number for number in range(width)}))
        assert received == ["EVALSHA"]
        with requests(any_server) as received:
            await call(warm, "put_writes", latest, [("x", number) for number in range(width)], "task")
        assert received == ["EVALSHA"]
    with requests(any_server) as received:
        await call(warm, "put_writes", latest, [], "task")
    assert received == []


async def test_reading_one(any_server: Server, warm: RedisStreamSaver, call: Call) -> None:
    """Any checkpoint by id is one request, the latest two that go out together; what is not there costs no more."""
    first, *_ = await put_history(call, warm, 5)
    for named in (config("t"), first, config("t", "none"), config("t", "", "none"), config("nobody")):
        with requests(any_server) as received:
            await call(warm, "get_tuple", named)
        assert received == (["EVALSHA"] if "checkpoint_id" in named["configurable"] else ["EVALSHA", "HGETALL"])


async def test_reading_without_a_head(any_server: Server, warm: RedisStreamSaver, prefix: str, call: Call) -> None:
    """Where the head is missing the latest checkpoint takes one request more, once."""
    await put_history(call, warm, 5)
    with any_server.client() as client:
        client.delete(keys_of(prefix, "t").head(b""))
    for expected in (["EVALSHA"], []):
        with requests(any_server) as received:
            await call(warm, "get_tuple", config("t"))
        assert received == ["EVALSHA", "HGETALL", *expected]


async def test_deleting(any_server: Server, warm: RedisStreamSaver, prefix: str, call: Call) -> None:
    """Deleting a thread is one request, two if it has subgraphs, however long it is."""
    for namespaces, expected in (([], 1), (["a", "b", "c"], 2)):
        await put_history(call, warm, 20)
        for namespace in namespaces:
            await call(warm, "put", config("t", namespace), *step({"x": 1}))
        with requests(any_server) as received:
            await call(warm, "delete_thread", "t")
        assert received == ["EVALSHA"] * expected
        assert not any(b"head" in key for key in keys_under(any_server, prefix))


async def test_listing_a_page(any_server: Server, warm: RedisStreamSaver, call: Call) -> None:
    """Up to 128 checkpoints of a namespace come in one request; over all namespaces it is one more to find them."""
    await put_history(call, warm, 130)
    for limit in (1, 10, 128):
        with requests(any_server) as received:
            assert len(await call(warm, "list", config("t"), limit=limit)) == limit
        assert received == ["EVALSHA"]
    with requests(any_server) as received:
        assert len(await call(warm, "list", {"configurable": {"thread_id": "t"}}, limit=10)) == 10
    assert received == ["EVALSHA"] * 2
    with requests(any_server) as received:
        assert await call(warm, "list", config("t"), limit=0) == []
    assert received == []
    with requests(any_server) as received:
        assert len(await call(warm, "list", config("t"))) == 130
    assert len(received) <= 5


async def test_listing_lazily(any_server: Server, warm: RedisStreamSaver, call: Call) -> None:
    """A list fetches nothing before it is asked, and then page by page, as far as it is asked."""
    await put_history(call, warm, 100)
    with requests(any_server) as received:
        listing = warm.list(config("t")) if call is call_sync else warm.alist(config("t"))
    assert received == []

    async def take(count: int) -> list[Any]:
        if isinstance(listing, Iterator):
            return [next(listing) for _ in range(count)]
        return [await anext(listing) for _ in range(count)]

    counts = []
    for count in (1, 7, 1, 31, 1):
        with requests(any_server) as received:
            assert len(await take(count)) == count
        counts.append(len(received))
    assert counts == [1, 0, 1, 0, 1]
    if not isinstance(listing, Iterator):
        await listing.aclose()  # type: ignore[attr-defined]


async def test_limit_reads_no_more(any_server: Server, one_saver: RedisStreamSaver, call: Call) -> None:
    """The newest one of a thousand is sent alone, not with the others."""
    latest: Any = config("t")
    for number in range(1_000):
        latest = await call(one_saver, "put", latest, *step({"x": b"z" * 2_000, "n": number}))
    with sent(any_server) as told:
        (found,) = await call(one_saver, "list", config("t"), limit=1)
    assert values_of(found)["n"] == 999
    assert told[0] < 20_000


async def test_filter_reads_no_values(any_server: Server, warm: RedisStreamSaver, call: Call) -> None:
    """Values of checkpoints that a filter leaves out are not sent; those it keeps take one request more."""
    configs = await put_history(call, warm, 8, BIG)
    with sent(any_server) as told, requests(any_server) as received:
        assert await call(warm, "list", config("t"), filter={"source": "fork"}) == []
    assert told[0] < len(BIG)
    assert received == ["EVALSHA"]
    with sent(any_server) as told, requests(any_server) as received:
        (found,) = await call(warm, "list", config("t"), filter={"step": 5}, limit=1)
    assert found.config == configs[5]
    assert len(BIG) < told[0] < 2 * len(BIG)
    assert received == ["EVALSHA"] * 2


async def test_shared_values_are_sent_once(any_server: Server, warm: RedisStreamSaver, call: Call) -> None:
    """A value that all checkpoints of a page have is sent once."""
    before = step({"big": BIG, "n": 0})
    latest = await call(warm, "put", config("t"), *before)
    for number in range(8):
        checkpoint, metadata, versions = step({"n": number})
        checkpoint["channel_values"]["big"] = BIG
        checkpoint["channel_versions"]["big"] = before[0]["channel_versions"]["big"]
        latest = await call(warm, "put", latest, checkpoint, metadata, versions)
    with sent(any_server) as told:
        listed = await call(warm, "list", config("t"), limit=9)
    assert [values_of(one)["big"] for one in listed] == [BIG] * 9
    assert told[0] < 2 * len(BIG)


async def test_delta_history(any_server: Server, warm: RedisStreamSaver, call: Call) -> None:
    """The writes of all ancestors up to the nearest value come in one request."""
    latest = await call(warm, "put", config("t"), *step({"x": [0]}))
    for number in range(50):
        await call(warm, "put_writes", latest, [("x", [number])], "task")
        latest = await call(warm, "put", latest, *step({}))
    with requests(any_server) as received:
        found = await call(warm, "get_delta_channel_history", config=config("t"), channels=["x", "y"])
    assert received == ["EVALSHA"]
    assert found["x"]["seed"] == [0]
    assert len(found["x"]["writes"]) == 50


async def test_a_put_costs_what_changed(any_server: Server, warm: RedisStreamSaver, call: Call) -> None:
    """Neither sending nor storing a small change depends on the values that did not change."""
    before = step({"big": BIG, "n": 0})
    latest = await call(warm, "put", config("t"), *before)
    checkpoint, metadata, versions = step({"n": 1})
    checkpoint["channel_values"]["big"] = BIG
    checkpoint["channel_versions"]["big"] = before[0]["channel_versions"]["big"]
    with any_server.client() as client:
        assert isinstance(client, redis.Redis)
        received = client.info("stats")["total_net_input_bytes"]
        await call(warm, "put", latest, checkpoint, metadata, versions)
        assert client.info("stats")["total_net_input_bytes"] - received < 5_000
    assert values_of(await call(warm, "get_tuple", config("t"))) == {"big": BIG, "n": 1}


async def test_upkeep(any_server: Server, warm: RedisStreamSaver, call: Call) -> None:
    """Pruning reads the log once and changes it once, and so does deleting a run on the threads it wrote to; neither reads values."""
    for method, arguments in (("prune", ["t"]), ("delete_for_runs", ["run"])):
        configs = await put_history(call, warm, 8, BIG)
        await call(warm, "put", configs[-1], *step({"x": 1}, run_id="run"))
        with sent(any_server) as told, requests(any_server) as received:
            await call(warm, method, arguments)
        assert received.count("EVALSHA") == 2
        assert told[0] < len(BIG)
        await call(warm, "delete_thread", "t")

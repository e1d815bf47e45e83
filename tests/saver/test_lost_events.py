"""What a saver does when the log lacks what it saw there: refused or restored whole, and never a torn state."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from operator import add
from typing import Annotated, Any

import pytest
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from eventlog.errors import LayoutMismatch, LogLost, LogRolledBack, ThreadDeleted, VersionMissing
from eventlog.keys import ThreadKeys
from saver import RedisStreamSaver
from tests.saver.drivers import Call
from tests.saver.threads import Step, config, follow, keys_of, keys_under, step, values_of
from tests.servers import Client, Server

FIRST: dict[str, Any] = {"who": "Ada", "doc": "x" * 300, "n": 0}
"""A state of which the steps below change one channel."""


@pytest.fixture
def keys(prefix: str) -> ThreadKeys:
    """The keys of thread "t"."""
    return keys_of(prefix, "t")


def kept(server: Server, prefix: str) -> Mapping[bytes, bytes]:
    """The keys of a prefix, as the server dumps them."""
    with server.client() as client:
        return {key: client.dump(key) for key in keys_under(server, prefix)}


def contents(server: Server, prefix: str) -> Mapping[bytes, Any]:
    """What the keys of a prefix hold."""
    readers = {b"stream": "xrange", b"hash": "hgetall", b"zset": "zrange"}
    with server.client() as client:
        return {
            key: getattr(client, readers[kind])(
                key, *(("-", "+") if kind == b"stream" else (0, -1) if kind == b"zset" else ())
            )
            for key in keys_under(server, prefix)
            for kind in [client.type(key)]
        }


def roll_back(server: Server, prefix: str, before: Mapping[bytes, bytes]) -> None:
    """Lets the server lose what happened since `before`."""
    with server.client() as client:
        for key in keys_under(server, prefix):
            client.delete(key)
        for key, dumped in before.items():
            client.restore(key, 0, dumped)


async def put_steps(call: Call, saver: Any, count: int, last: tuple[Any, Step] | None = None) -> tuple[Any, Step]:
    """Puts a checkpoint and so many after it, each with writes; the config and the step of the last."""
    if last is None:
        made = step(FIRST)
        last = await call(saver, "put", config("t"), *made), made
    for number in range(count):
        await call(saver, "put_writes", last[0], [("n", number)], f"task {number}")
        made = follow(last[1], {"n": number})
        last = await call(saver, "put", last[0], *made), made
    return last


async def refused(
    call: Call, saver: Any, last: tuple[Any, Step], error: type[Exception], says: str = "thread 't'"
) -> None:
    """Both kinds of writes of a run are refused, however often they are tried."""
    for _ in range(2):
        with pytest.raises(error, match="(?i)" + says):
            await call(saver, "put_writes", last[0], [("n", 1)], "late")
        with pytest.raises(error, match="(?i)" + says):
            await call(saver, "put", last[0], *follow(last[1], {"n": 99}))


async def test_a_run_over_a_rollback(saver: RedisStreamSaver, server: Server, prefix: str, call: Call) -> None:
    """Writes are refused and change nothing until the thread is read; then the run begins again from what there is."""
    old = await put_steps(call, saver, 2)
    state = await call(saver, "get_tuple", config("t"))
    before = kept(server, prefix)
    lost = await put_steps(call, saver, 3, old)
    roll_back(server, prefix, before)
    there = contents(server, prefix)
    await refused(call, saver, lost, LogRolledBack, r"thread 't': event 11 was acknowledged .* ends with event 5")
    assert contents(server, prefix) == there
    assert await call(saver, "get_tuple", config("t")) == state
    again = await put_steps(call, saver, 1, old)
    assert values_of(await call(saver, "get_tuple", config("t"))) == {**FIRST, "n": 0}
    assert (await call(saver, "get_tuple", config("t"))).config == again[0]
    assert saver.check("t").ok


async def test_a_read_over_a_rollback(saver: RedisStreamSaver, server: Server, prefix: str, call: Call) -> None:
    """The loss is reported once, and then what there is. A saver that saw nothing reads it at once."""
    await put_steps(call, saver, 2)
    state = await call(saver, "get_tuple", config("t"))
    before = kept(server, prefix)
    await put_steps(call, saver, 3)
    roll_back(server, prefix, before)
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as other:
        assert await call(other, "get_tuple", config("t")) == state
    with pytest.raises(LogRolledBack, match="thread 't'"):
        await call(saver, "get_tuple", config("t"))
    for _ in range(2):
        assert await call(saver, "get_tuple", config("t")) == state


@pytest.mark.parametrize("more", [1, 2, 9])
async def test_another_went_on(saver: RedisStreamSaver, server: Server, prefix: str, call: Call, more: int) -> None:
    """The loss is noticed although the log is as long again, or longer."""
    old = await put_steps(call, saver, 2)
    before = kept(server, prefix)
    lost = await put_steps(call, saver, 1, old)
    roll_back(server, prefix, before)
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as other:
        await put_steps(call, other, more, old)
        state = await call(other, "get_tuple", config("t"))
    await refused(call, saver, lost, LogRolledBack, "thread 't'")
    assert await call(saver, "get_tuple", config("t")) == state


@pytest.mark.parametrize("is_signed", [False, True])
async def test_all_data_lost(server: Server, prefix: str, call: Call, is_signed: bool) -> None:
    """A server that comes back empty: the run is refused, new threads are whole, and the prefix is checked again."""
    more: dict[str, Any] = {"signing_key": b"s" * 32} if is_signed else {}
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, **more) as saver:
        lost = await put_steps(call, saver, 2)
        roll_back(server, prefix, {})
        await refused(call, saver, lost, LogRolledBack, "the log now is gone")
        assert not keys_under(server, prefix)
        assert await call(saver, "get_tuple", config("t")) is None
        made = step(FIRST)
        await call(saver, "put", config("t"), *made)
        assert values_of(await call(saver, "get_tuple", config("t"))) == FIRST
        assert {key.rpartition(b":")[2] for key in keys_under(server, prefix)} >= {b"meta", b"feed"}
        async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, partitions=3) as other:
            with pytest.raises(LayoutMismatch, match="partitions=16"):
                await call(other, "get_tuple", config("t"))


async def test_deleted_after_a_loss(saver: RedisStreamSaver, server: Server, prefix: str, call: Call) -> None:
    """A caller that deletes the thread, as the error says, begins a new one without a read."""
    lost = await put_steps(call, saver, 2)
    roll_back(server, prefix, {})
    await refused(call, saver, lost, LogRolledBack, "or delete the thread")
    await call(saver, "delete_thread", "t")
    await put_steps(call, saver, 1)
    assert values_of(await call(saver, "get_tuple", config("t"))) == {**FIRST, "n": 0}


async def test_deleted_without_a_registry(saver: RedisStreamSaver, server: Server, prefix: str, call: Call) -> None:
    """The end of a thread is noted although no view of the partition had it."""
    shared = keys_of(prefix, "t").shared
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as other:
        for begin in (True, False):
            late = await put_steps(call, saver, 2)
            with server.client() as client:
                client.delete(shared.threads, shared.expiries)
            await call(other, "delete_thread", "t")
            if begin:
                await put_steps(call, saver, 1)
            else:
                await refused(call, saver, late, ThreadDeleted)


async def test_writes_ahead_of_the_clock(server: Server, prefix: str, keys: ThreadKeys, call: Call) -> None:
    """A thread that expired is known to have done so although its entry ids were ahead of the clock."""
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, ttl=10) as saver:
        last = await put_steps(call, saver, 1)
        with server.client() as client:
            state = client.hgetall(keys.index)
            ahead = b"%d-0" % (int(time.time() * 1000) + 100_000)
            fields = client.xrevrange(keys.log, count=1)[0][1]
            client.xdel(keys.log, state[b"l"])
            client.xadd(keys.log, fields, ahead)
            client.hset(keys.index, b"l", ahead)
        await call(saver, "get_tuple", config("t"))
        await call(saver, "put_writes", last[0], [("n", 7)], "task")
        with server.client() as client:
            expire(client, keys)
        await call(saver, "put", last[0], *follow(last[1], {"n": 8}))
        assert values_of(await call(saver, "get_tuple", config("t"))) == {**FIRST, "n": 8}


async def test_a_prefix_that_another_took(saver: RedisStreamSaver, server: Server, prefix: str, call: Call) -> None:
    """A living saver notices at its next write that the prefix has another number of partitions since the server lost its data."""
    await put_steps(call, saver, 1)
    roll_back(server, prefix, {})
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, partitions=3) as other:
        await call(other, "put", config("other"), *step(FIRST))
    with pytest.raises(LogRolledBack):
        await call(saver, "get_tuple", config("t"))
    assert await call(saver, "get_tuple", config("t")) is None
    with pytest.raises(LayoutMismatch, match="partitions=3"):
        await call(saver, "put", config("t"), *step(FIRST))


@pytest.mark.parametrize("strategy", ["keep_latest", "runs"])
async def test_a_removal_by_another(
    saver: RedisStreamSaver, server: Server, prefix: str, call: Call, strategy: str
) -> None:
    """A prune or a deleted run that takes the event which was seen is no loss: the run goes on, and its state stays whole."""
    first = step(FIRST, run_id="old")
    at = await call(saver, "put", config("t"), *first)
    await call(saver, "put", config("t", "sub"), *step({"s": 1}, run_id="old"))
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as other:
        made = follow(first, {"n": 1}, run_id="new")
        last = await call(other, "put", at, *made), made
        if strategy == "runs":
            await call(other, "delete_for_runs", ["old"])
        else:
            await call(other, "prune", ["t"])
            await call(other, "put", config("t", "sub"), *step({"s": 2}))
            await call(other, "prune", ["t"])
    end = await put_steps(call, saver, 3, last)
    assert values_of(await call(saver, "get_tuple", config("t"))) == {**FIRST, "n": 2}
    assert (await call(saver, "get_tuple", config("t"))).config == end[0]
    assert saver.check("t").ok


@pytest.mark.parametrize("who", ["same", "other"])
async def test_deleted_while_a_run_goes_on(
    saver: RedisStreamSaver, server: Server, prefix: str, call: Call, who: str
) -> None:
    """What is late is refused, so that the thread stays deleted; a run that reads first begins a new one."""
    late = await put_steps(call, saver, 2)
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as other:
        await call(saver if who == "same" else other, "delete_thread", "t")
    await refused(call, saver, late, ThreadDeleted, "thread 't' was deleted")
    assert not any(b":log:" in key for key in keys_under(server, prefix))
    assert await call(saver, "get_tuple", config("t")) is None
    await put_steps(call, saver, 1)
    assert values_of(await call(saver, "get_tuple", config("t"))) == FIRST


async def test_deleted_and_begun_again(saver: RedisStreamSaver, server: Server, prefix: str, call: Call) -> None:
    """What is late does not reach the thread that another has begun under the name; a new thread needs no read."""
    late = await put_steps(call, saver, 2)
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as other:
        await call(other, "delete_thread", "t")
        await put_steps(call, other, 5)
        state = await call(other, "get_tuple", config("t"))
    await refused(call, saver, late, ThreadDeleted)
    assert await call(saver, "get_tuple", config("t")) == state
    await call(saver, "delete_thread", "t")
    await put_steps(call, saver, 1)
    assert values_of(await call(saver, "get_tuple", config("t"))) == FIRST


def expire(client: Client, keys: ThreadKeys, namespaces: tuple[str, ...] = ("",)) -> None:
    """Lets a thread's time be over."""
    end = int(time.time() * 1000) + 100
    client.zadd(keys.shared.expiries, {b"t" + keys.thread: end})
    for key in (keys.log, keys.index, keys.order, *(keys.head(ns.encode()) for ns in namespaces)):
        client.pexpireat(key, end)
    while client.exists(keys.log):
        time.sleep(0.001)


async def test_expired_while_a_run_goes_on(server: Server, prefix: str, keys: ThreadKeys, call: Call) -> None:
    """The thread begins again with the whole state, in every namespace, whatever comes first."""
    sub = step({"s": 1, "kept": "y" * 200})
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, ttl=10) as saver:
        last = await put_steps(call, saver, 2)
        inner = await call(saver, "put", config("t", "sub"), *sub)
        with server.client() as client:
            expire(client, keys, ("", "sub"))
        await call(saver, "put_writes", last[0], [("n", 7)], "late")
        await call(saver, "put", inner, *follow(sub, {"s": 2}))
        await put_steps(call, saver, 2, last)
        assert values_of(await call(saver, "get_tuple", config("t"))) == {**FIRST, "n": 1}
        assert values_of(await call(saver, "get_tuple", config("t", "sub"))) == {"s": 2, "kept": "y" * 200}
        assert saver.check("t").ok
        assert not saver.verify("t").findings


async def test_another_noted_that_it_expired(server: Server, prefix: str, keys: ThreadKeys, call: Call) -> None:
    """The run goes on whole where another writer has announced the end, and begun the thread again."""
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, ttl=10, partitions=1) as saver:
        mine = keys_of(prefix, "t", 1)
        last = await put_steps(call, saver, 2)
        with server.client() as client:
            expire(client, mine)
        async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, ttl=10, partitions=1) as other:
            await call(other, "put", config("else"), *step(FIRST))
            assert await call(other, "get_tuple", config("t")) is None
            await call(other, "put", config("t", "sub"), *step({"x": 1}))
        await put_steps(call, saver, 1, last)
        assert values_of(await call(saver, "get_tuple", config("t"))) == {**FIRST, "n": 0}


async def test_an_expired_delta_channel(server: Server, prefix: str, keys: ThreadKeys, call: Call) -> None:
    """The value of a delta channel is in writes that expired: it cannot be restored, so the put is refused."""
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, ttl=10) as saver:
        made = step({**FIRST, "said": "a"})
        at = await call(saver, "put", config("t"), *made)
        following = follow(made, {"n": 1}, counters_since_delta_snapshot={"said": (1, 1)})
        del following[0]["channel_values"]["said"]
        with server.client() as client:
            expire(client, keys)
        with pytest.raises(VersionMissing, match="Thread 't'.*'said'"):
            await call(saver, "put", at, *following)
        assert not any(b":log:" in key for key in keys_under(server, prefix))


async def test_a_version_that_nobody_brought(saver: RedisStreamSaver, server: Server, prefix: str, call: Call) -> None:
    """A put that names it is refused, in a new thread and in one that goes on, whatever else it brings."""
    checkpoint, metadata, versions = step(FIRST)
    del versions["who"]
    with pytest.raises(VersionMissing, match=r"Thread 't': checkpoint .* names versions of 'who'") as caught:
        await call(saver, "put", config("t"), checkpoint, metadata, versions)
    assert isinstance(caught.value, LogLost)
    assert not any(b":log:" in key for key in keys_under(server, prefix))
    last = await put_steps(call, saver, 2)
    before = contents(server, prefix)
    checkpoint, metadata, versions = follow(last[1], {"n": 5})
    checkpoint["channel_versions"]["doc"] = "00000000000000000000000000000009.1"
    checkpoint["channel_versions"]["strange"] = "1"
    with pytest.raises(VersionMissing, match="'doc', 'strange'"):
        await call(saver, "put", last[0], checkpoint, metadata, versions)
    assert contents(server, prefix) == before
    await put_steps(call, saver, 1, last)
    assert values_of(await call(saver, "get_tuple", config("t"))) == {**FIRST, "n": 0}


async def test_a_fork_of_what_was_removed(saver: RedisStreamSaver, server: Server, prefix: str, call: Call) -> None:
    """A put on a checkpoint whose values another has pruned meanwhile is refused; on one that is left it goes through."""
    first = step({"doc": "y" * 300})
    at = await call(saver, "put", config("t"), *first)
    made = follow(first, {"doc": "z" * 400})
    last = await call(saver, "put", at, *made)
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as other:
        await call(other, "prune", ["t"])
    with pytest.raises(VersionMissing, match="'doc'"):
        await call(saver, "put", at, *follow(first, {"n": 1}))
    await call(saver, "put", last, *follow(made, {"n": 2}))
    assert values_of(await call(saver, "get_tuple", config("t"))) == {"doc": "z" * 400, "n": 2}


class State(TypedDict, total=False):
    """The state of a graph: one channel that every node changes, and two that the first one sets."""

    said: Annotated[list[str], add]
    who: str
    doc: str


def interrupted(loss: Callable[[], None], saver: Any) -> Any:
    """A graph of three nodes, in the middle one of which the server loses something."""

    def first(state: State) -> State:
        return {"said": ["first"], "who": "Ada", "doc": "d" * 300}

    def second(state: State) -> State:
        loss()
        return {"said": ["second"]}

    def third(state: State) -> State:
        return {"said": [f"third knows {state['who']}"]}

    builder = StateGraph(State)
    for name, node in (("first", first), ("second", second), ("third", third)):
        builder.add_node(name, node)
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", "third")
    builder.add_edge("third", END)
    return builder.compile(checkpointer=saver)


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_a_graph_over_a_rollback(
    saver: RedisStreamSaver, server: Server, prefix: str, call: Call, durability: str
) -> None:
    """The run ends with the error, the thread is no mixture, and the next run completes it."""
    before: dict[bytes, bytes] = {}
    once: list[int] = []

    def loss() -> None:
        if not once:
            once.append(1)
            roll_back(server, prefix, before)

    graph = interrupted(loss, saver)
    await call(saver, "put_writes", config("u", "", "c"), [("x", 1)], "task")
    before.update(kept(server, prefix))
    with pytest.raises(LogRolledBack, match="thread 't'"):
        await call(graph, "invoke", {"said": ["question"]}, config("t"), durability=durability)
    assert await call(saver, "get_tuple", config("t")) is None
    done = await call(graph, "invoke", {"said": ["question"]}, config("t"), durability=durability)
    assert done["said"] == ["question", "first", "second", "third knows Ada"]
    assert saver.check("t").ok


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_a_graph_over_an_expiry(
    server: Server, prefix: str, keys: ThreadKeys, call: Call, durability: str
) -> None:
    """A ttl that ends while a node runs: the run completes, and so is the state that is read back."""

    def loss() -> None:
        with server.client() as client:
            while client.xlen(keys.log) < 4:  # what is in flight would prolong the life of the thread
                time.sleep(0.001)
            time.sleep(0.1)
            expire(client, keys)

    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, ttl=10) as saver:
        graph = interrupted(loss, saver)
        done = await call(graph, "invoke", {"said": ["question"]}, config("t"), durability=durability)
        assert done["said"] == ["question", "first", "second", "third knows Ada"]
        assert (await call(graph, "get_state", config("t"))).values == done
        again = await call(graph, "invoke", {"said": ["more"]}, config("t"), durability=durability)
        assert again["said"][-1] == "third knows Ada"


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_a_graph_over_a_deletion(
    saver: RedisStreamSaver, server: Server, prefix: str, keys: ThreadKeys, call: Call, durability: str
) -> None:
    """The run ends with the error, and the thread stays deleted."""

    def loss() -> None:
        with server.client() as client:
            while client.xlen(keys.log) < 4:  # what is in flight before the first reply has seen nothing
                time.sleep(0.001)
            time.sleep(0.1)
        saver.delete_thread("t")

    graph = interrupted(loss, saver)
    with pytest.raises(ThreadDeleted, match="Thread 't'"):
        await call(graph, "invoke", {"said": ["question"]}, config("t"), durability=durability)
    assert not any(b":log:" in key for key in keys_under(server, prefix))

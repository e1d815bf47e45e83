"""Ids and values that are odd, wrong, huge or many: they work, or they are refused by name and leave nothing behind."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from redis.backoff import NoBackoff
from redis.retry import Retry

import projections.checkpoints.save
from eventlog.errors import EventLogError, InvalidArgument, ValueTooLarge, ValueUnwritable
from saver import RedisStreamSaver
from tests.saver.drivers import Call
from tests.saver.threads import config, keys_of, keys_under, length_of, step, values_of, writes_of
from tests.servers import RunningServer, Server

ODD = [
    *("a", "a\0", "a\0\0", "a:b", "a b", " ", "", "\0", "\n", "a\r\nb"),
    *("{a}", "{", "}", "*", "a*", "[a-z]", "?", "\\", '"', "%s", "🙂", "￿", "1:a", "ta", "x" * 10_240),
]


@pytest.fixture
async def held(any_server: Server, prefix: str) -> Any:
    """A saver whose thread "t" has one checkpoint."""
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:
        await saver.aput(config("t"), *step({"x": 1}))
        yield saver


async def test_odd_threads_keep_apart(server: Server, prefix: str, saver: RedisStreamSaver, call: Call) -> None:
    """Whatever its id, a thread is written, read, listed, copied, pruned and deleted without touching another."""
    for thread in ODD:
        first = await call(saver, "put", config(thread), *step({"x": "old"}, run_id=thread))
        latest = await call(saver, "put", first, *step({"x": thread}, run_id=thread))
        await call(saver, "put_writes", latest, [("x", thread)], f"task {thread}")

    async def assert_whole(thread: str, count: int) -> None:
        found = await call(saver, "get_tuple", config(thread))
        listed = await call(saver, "list", {"configurable": {"thread_id": thread}})
        assert values_of(found) == {"x": thread}
        assert writes_of(found) == [(f"task {thread}", "x", thread)]
        assert found.config["configurable"]["thread_id"] == thread
        assert [values_of(one)["x"] for one in listed] == [thread, "old"][:count]

    for thread in ODD:
        await assert_whole(thread, 2)
    await call(saver, "prune", ODD[::2])
    for thread in ODD:
        await assert_whole(thread, 1 if thread in ODD[::2] else 2)
    await call(saver, "copy_thread", ODD[3], "copy*")
    for position, thread in enumerate(ODD):
        await call(saver, "delete_thread", thread)
        assert await call(saver, "get_tuple", config(thread)) is None
        assert await call(saver, "list", {"configurable": {"thread_id": thread}}) == []
        if following := ODD[position + 1 : position + 2]:
            await assert_whole(following[0], 1 if following[0] in ODD[::2] else 2)
    assert values_of(await call(saver, "get_tuple", config("copy*"))) == {"x": ODD[3]}
    await call(saver, "delete_thread", "copy*")
    shared = {key.rpartition(b":")[2] for key in keys_under(server, prefix)}
    assert shared == {b"meta", b"feed", b"threads", b"runs", b"expiries"}


async def test_odd_namespaces_keep_apart(server: Server, prefix: str, saver: RedisStreamSaver, call: Call) -> None:
    """Whatever its name, a namespace is written, read and listed on its own, and all of them go with the thread."""
    for namespace in ODD:
        latest = await call(saver, "put", config("t", namespace), *step({"x": namespace}))
        await call(saver, "put_writes", latest, [("x", namespace)], "task")
    for namespace in ODD:
        found = await call(saver, "get_tuple", config("t", namespace))
        assert values_of(found) == {"x": namespace}
        assert writes_of(found) == [("task", "x", namespace)]
        assert found.config["configurable"]["checkpoint_ns"] == namespace
        assert [values_of(one) for one in await call(saver, "list", config("t", namespace))] == [{"x": namespace}]
    listed = await call(saver, "list", {"configurable": {"thread_id": "t"}})
    assert [values_of(one)["x"] for one in listed] == ODD[::-1]
    await call(saver, "delete_thread", "t")
    assert {key.rpartition(b":")[2] for key in keys_under(server, prefix)} == {
        b"meta",
        b"feed",
        b"threads",
        b"runs",
        b"expiries",
    }


async def test_odd_names_inside(saver: RedisStreamSaver, call: Call) -> None:
    """Channels, tasks, paths, checkpoint ids and runs may have any characters too."""
    for odd in [one for one in ODD if one]:
        values = {odd: 1, odd + "2": 2}
        latest = await call(saver, "put", config("t"), *step(values, checkpoint_id=odd, run_id=odd))
        await call(saver, "put_writes", latest, [(odd, odd)], odd, odd)
        found = await call(saver, "get_tuple", config("t", "", odd))
        assert values_of(found) == values
        assert writes_of(found) == [(odd, odd, odd)]
        assert found.metadata["run_id"] == in_metadata(odd)
    await call(saver, "delete_for_runs", ["a", "*"])
    left = await call(saver, "list", config("t"))
    expected = [one for one in ODD if one and in_metadata(one) not in {"a", "*"}]
    assert sorted(one.checkpoint["id"] for one in left) == sorted(expected)


def in_metadata(value: str) -> str:
    """What LangGraph makes of text in metadata (`get_checkpoint_metadata`)."""
    return value.replace("\0", "")


async def test_numbers_as_threads(one_saver: RedisStreamSaver, call: Call) -> None:
    """An int names the thread of its digits, as LangGraph takes it."""
    await call(one_saver, "put", config(7), *step({"x": 1}))
    assert values_of(await call(one_saver, "get_tuple", config("7"))) == {"x": 1}
    await call(one_saver, "delete_thread", 7)
    assert await call(one_saver, "get_tuple", config("7")) is None


Refused = tuple[str, Callable[[Any], tuple[Any, ...]], str]
TAKES_ID: list[Refused] = [
    ("get_tuple", lambda bad: (config(bad),), "thread_id"),
    ("get_tuple", lambda bad: (config("t", bad),), "checkpoint_ns"),
    ("get_tuple", lambda bad: (config("t", "", bad),), "checkpoint_id"),
    ("list", lambda bad: (config(bad),), "thread_id"),
    ("put", lambda bad: (config(bad), *step({})), "thread_id"),
    ("put_writes", lambda bad: (config(bad, "", "c"), [("x", 1)], "task"), "thread_id"),
    ("put_writes", lambda bad: (config("t", "", "c"), [("x", 1)], bad), "task_id"),
    ("put_writes", lambda bad: (config("t", "", "c"), [("x", 1)], "task", bad), "task_path"),
    ("put_writes", lambda bad: (config("t", "", "c"), [(bad, 1)], "task"), "channel"),
    ("put", lambda bad: (config("t"), *step({bad: 1})), "channel"),
    ("put", lambda bad: (config("t"), *step({}, checkpoint_id=bad)), "checkpoint.*id"),
    ("delete_thread", lambda bad: (bad,), "thread_id"),
    ("copy_thread", lambda bad: (bad, "u"), "source_thread_id"),
    ("copy_thread", lambda bad: ("t", bad), "target_thread_id"),
    ("prune", lambda bad: ([bad],), "thread_ids"),
    ("delete_for_runs", lambda bad: ([bad],), "run_ids"),
]


def _names(one: Refused) -> str:
    return f"{one[0]}-{one[2]}"


@pytest.mark.parametrize("bad", [True, 1.5, b"t", uuid.UUID(int=1), ["t"]], ids=lambda bad: type(bad).__name__)
@pytest.mark.parametrize("refused", TAKES_ID, ids=_names)
async def test_ids_of_wrong_type(held: RedisStreamSaver, call: Call, refused: Refused, bad: Any) -> None:
    """An id that is no string is refused by name, before anything is sent."""
    method, arguments, field = refused
    if bad == ["t"] and field == "channel":
        bad = ("t",)
    with pytest.raises((TypeError, ValueError), match=f"(?i){field}"):
        await call(held, method, *arguments(bad))


@pytest.mark.parametrize("refused", TAKES_ID, ids=_names)
async def test_ids_that_are_no_unicode(held: RedisStreamSaver, call: Call, refused: Refused) -> None:
    """A lone surrogate, which has no UTF-8 form, is refused by name."""
    method, arguments, field = refused
    with pytest.raises(InvalidArgument, match=f"(?i){field}"):
        await call(held, method, *arguments("\ud800"))


@pytest.mark.parametrize("key", ["source", "run_id"])
async def test_metadata_that_is_no_unicode(held: RedisStreamSaver, call: Call, key: str) -> None:
    """A lone surrogate in what the feed tells of the metadata is refused as well, by thread and name."""
    with pytest.raises(EventLogError, match=f"(?s)'t'.*{key}|{key}.*'t'"):
        await call(held, "put", config("t"), *step({}, **{key: "\ud800"}))


async def test_surrogates_elsewhere(held: RedisStreamSaver, call: Call) -> None:
    """`before` and the channels of a delta history are ids too."""
    with pytest.raises(InvalidArgument, match="checkpoint_id"):
        await call(held, "list", config("t"), before=config("t", "", "\ud800"))
    with pytest.raises(InvalidArgument, match="channel"):
        await call(held, "get_delta_channel_history", config=config("t"), channels=["\ud800"])


@pytest.mark.parametrize("method", ["get_tuple", "list", "put", "put_writes"])
@pytest.mark.parametrize("bad", [{}, {"configurable": {}}, {"configurable": {"thread_id": None}}], ids=str)
async def test_no_thread(held: RedisStreamSaver, call: Call, method: str, bad: Any) -> None:
    """A config without a thread says what it lacks."""
    rest = {"put": step({}), "put_writes": ([("x", 1)], "task")}.get(method, ())
    with pytest.raises(InvalidArgument, match="thread_id"):
        await call(held, method, bad, *rest)


async def test_writes_need_a_checkpoint(held: RedisStreamSaver, call: Call) -> None:
    """Writes that name no checkpoint are refused: they would belong to nothing."""
    with pytest.raises(InvalidArgument, match=r"'t'.*checkpoint_id"):
        await call(held, "put_writes", config("t"), [("x", 1)], "task")


@pytest.mark.parametrize("bad", [lambda: None, threading.Lock(), object()], ids=["lambda", "lock", "object"])
async def test_unwritable(any_server: Server, prefix: str, held: RedisStreamSaver, call: Call, bad: Any) -> None:
    """What the serializer cannot write is refused by thread and channel, and nothing at all is appended."""
    keys = keys_of(prefix, "t")
    with any_server.client() as client:
        before = length_of(client, keys), client.xlen(keys.shared.feed), keys_under(any_server, prefix)
        with pytest.raises(ValueUnwritable, match=r"'t'.*'bad'"):
            await call(held, "put", config("t"), *step({"good": 1, "bad": [bad]}))
        with pytest.raises(ValueUnwritable, match=r"'t'.*'bad'"):
            await call(held, "put_writes", config("t", "", "c"), [("good", 1), ("bad", bad)], "task")
        with pytest.raises(ValueUnwritable, match=r"'t'.*metadata"):
            await call(held, "put", config("t"), *step({"good": 1}, bad=bad))
        assert before == (length_of(client, keys), client.xlen(keys.shared.feed), keys_under(any_server, prefix))


async def test_over_the_limit(
    any_server: Server, prefix: str, held: RedisStreamSaver, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value, or a put, larger than a server takes is refused before it is sent, by thread."""
    big = config("t"), *step({"x": b"z" * 3_000})
    monkeypatch.setattr(projections.checkpoints.save, "LARGEST_VALUE", 2_000)
    with pytest.raises(ValueTooLarge, match=r"'t'.*3,0\d\d bytes"):
        await call(held, "put", *big)
    with pytest.raises(ValueTooLarge, match="'t'"):
        await call(held, "put_writes", config("t", "", "c"), [("x", b"z" * 3_000)], "task")
    monkeypatch.setattr(projections.checkpoints.save, "LARGEST_VALUE", 5_000)
    monkeypatch.setattr(projections.checkpoints.save, "LARGEST_EVENT", 5_000)
    with pytest.raises(ValueTooLarge, match="'t'"):
        await call(held, "put", config("t"), *step({"x": b"z" * 3_000, "y": b"z" * 3_000}))
    with any_server.client() as client:
        assert length_of(client, keys_of(prefix, "t")) == 1
    await call(held, "put", *big)


async def test_over_the_limit_of_this_server(
    private_server: Callable[..., RunningServer], prefix: str, call: Call
) -> None:
    """A server with a lower limit of its own hangs up: the error tells of the limit, nothing is half-written, the saver goes on."""
    server = private_server("--proto-max-bulk-len", "1mb")
    again: Any = {"retry": Retry(NoBackoff(), 3)}  # a connection that the server hung up on is noticed by its next user
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, **again) as saver:
        await call(saver, "put", config("t"), *step({"x": 1}))
        with pytest.raises(ValueTooLarge, match="'t'.*proto-max-bulk-len"):
            await call(saver, "put", config("t"), *step({"x": b"z" * 2_000_000}))
        with server.client() as client:
            assert length_of(client, keys_of(prefix, "t")) == 1
        assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": 1}
        await call(saver, "put", config("t"), *step({"x": 2}))
        assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": 2}


async def test_wide_state(saver: RedisStreamSaver, call: Call) -> None:
    """5,000 channels at once, and then 2,500 changed ones, come back: latest, by id and in a list."""
    values = {f"channel {number}": number for number in range(5_000)}
    first = await call(saver, "put", config("t"), *step(values))
    second = await call(saver, "put", first, *step({**values, **{f"channel {number}": 0 for number in range(2_500)}}))
    changed = {name: 0 if number < 2_500 else number for name, number in values.items()}
    assert values_of(await call(saver, "get_tuple", config("t"))) == changed
    assert values_of(await call(saver, "get_tuple", first)) == values
    assert [values_of(one) for one in await call(saver, "list", config("t"))] == [changed, values]
    await call(saver, "prune", ["t"])
    assert await call(saver, "get_tuple", first) is None
    assert values_of(await call(saver, "get_tuple", second)) == changed


async def test_fan_out(saver: RedisStreamSaver, call: Call) -> None:
    """12,000 writes of one task, as a large fan-out makes them, come back in order."""
    latest = await call(saver, "put", config("t"), *step({"x": 1}))
    writes = [("__pregel_tasks", number) for number in range(12_000)]
    await call(saver, "put_writes", latest, writes, "task")
    await call(saver, "put_writes", latest, writes, "task")
    expected = [("task", "__pregel_tasks", number) for number in range(12_000)]
    assert writes_of(await call(saver, "get_tuple", config("t"))) == expected
    assert writes_of(await call(saver, "get_tuple", latest)) == expected


async def test_many_namespaces(any_server: Server, prefix: str, one_saver: RedisStreamSaver, call: Call) -> None:
    """A thread of 2,000 namespaces is listed from the newest, pruned and deleted."""
    names = [f"sub|{number}" for number in range(2_000)]
    for name in names:
        await call(one_saver, "put", config("t", name), *step({"x": name}))
    listed = await call(one_saver, "list", {"configurable": {"thread_id": "t"}}, limit=3)
    assert [values_of(one)["x"] for one in listed] == names[:-4:-1]
    await call(one_saver, "prune", ["t"])
    assert values_of(await call(one_saver, "get_tuple", config("t", names[7]))) == {"x": names[7]}
    await call(one_saver, "delete_thread", "t")
    assert {key.rpartition(b":")[2] for key in keys_under(any_server, prefix)} == {
        b"meta",
        b"feed",
        b"threads",
        b"expiries",
        b"runs",
    }


async def test_large_and_tiny_values(one_saver: RedisStreamSaver, call: Call) -> None:
    """20 MB in one value, and values of next to nothing, side by side."""
    values: dict[str, Any] = {
        "large": b"\0\xff" * 10_000_000,
        "bytes": b"",
        "text": "",
        "none": None,
        "no": False,
        "list": [],
        "map": {},
    }
    latest = await call(one_saver, "put", config("t"), *step(values))
    await call(one_saver, "put_writes", latest, list(values.items()), "task")
    for named in (config("t"), latest):
        found = await call(one_saver, "get_tuple", named)
        assert values_of(found) == values
        assert writes_of(found) == [("task", channel, value) for channel, value in values.items()]
    await call(one_saver, "delete_thread", "t")


async def test_nothing_at_all(saver: RedisStreamSaver, call: Call) -> None:
    """A checkpoint without channels is a checkpoint; no writes are no event."""
    latest = await call(saver, "put", config("t"), *step({}))
    await call(saver, "put_writes", latest, [], "task")
    found = await call(saver, "get_tuple", config("t"))
    assert (values_of(found), writes_of(found)) == ({}, [])

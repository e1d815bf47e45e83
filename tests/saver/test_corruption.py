"""What others did to the keys: it is noticed, named by thread and entry, and harms no other thread."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from eventlog import codec
from eventlog.errors import CorruptEntry, EventLogError, LogLost, NewerSchema, ThreadNotFound
from eventlog.keys import ThreadKeys
from saver import RedisStreamSaver
from tests.saver.drivers import Call
from tests.saver.threads import config, following, keys_of, keys_under, length_of, step, values_of
from tests.servers import Client, Server

Fields = dict[bytes, bytes]
OPERATIONS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "get_tuple": lambda: (config("t"),),
    "list": lambda: (config("t"),),
    "put": lambda: (config("t"), *step({"x": 9})),
    "put_writes": lambda: (config("t", "", "c"), [("x", 9)], "task"),
    "prune": lambda: (["t"],),
    "delete_for_runs": lambda: (["run"],),
    "copy_thread": lambda: ("t", "copy"),
}


@pytest.fixture
async def neighbours(any_server: Server, prefix: str) -> Any:
    """A saver with threads "t", of three checkpoints, and "u", of one, in one partition."""
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as saver:
        latest: Any = config("t")
        for number in range(3):
            latest = await saver.aput(latest, *step({"x": number}, run_id="run"))
        await saver.aput(config("u"), *step({"x": "u"}))
        yield saver


@pytest.fixture
def keys(prefix: str) -> ThreadKeys:
    """The keys of thread "t"."""
    return keys_of(prefix, "t", 1)


def drop_views(client: Client, keys: ThreadKeys) -> None:
    """Delete what is derived from the log of a thread."""
    for key in (keys.index, keys.order, keys.head(b"")):
        client.delete(key)


def last_entry(client: Client, keys: ThreadKeys) -> tuple[bytes, Fields]:
    """Entry id and fields of the last entry of a log."""
    entries: Any = client.xrevrange(keys.log, count=1)
    entry_id, fields = entries[0]
    return entry_id, fields


async def assert_others_live(call: Call, saver: RedisStreamSaver) -> None:
    """Another thread of the partition can be read and written."""
    assert values_of(await call(saver, "get_tuple", config("u"))) == {"x": "u"}
    await call(saver, "put", config("u"), *step({"x": "u"}))


def _following(fields: Fields, **changes: bytes) -> Fields:
    """A copy of an entry as the next one of its log, with some fields changed."""
    return {
        **fields,
        b"n": b"%d" % (int(fields[b"n"]) + 1),
        **{name.encode(): value for name, value in changes.items()},
    }


FOREIGN: dict[str, tuple[Callable[[Fields], Fields], type[EventLogError]]] = {
    "garbage": (lambda _: {b"x": b"\xff\x00"}, CorruptEntry),
    "no fields to speak of": (lambda _: {b"": b""}, CorruptEntry),
    "unknown kind": (lambda fields: _following(fields, k=b"mystery"), CorruptEntry),
    "no version": (lambda fields: _following(fields, v=b""), CorruptEntry),
    "newer version": (lambda fields: _following(fields, v=b"2"), NewerSchema),
    "absurd version": (lambda fields: _following(fields, v=b"9" * 5_000), CorruptEntry),
    "truncated envelope": (lambda fields: _following(fields, e=fields[b"e"][:-1]), CorruptEntry),
    "trailing bytes": (lambda fields: _following(fields, e=fields[b"e"] + b"\0"), CorruptEntry),
    "a tag in the envelope": (lambda fields: _following(fields, e=b"\xd8\x23" + fields[b"e"]), CorruptEntry),
    "another envelope": (lambda fields: _following(fields, e=codec.encode([1, 2])), CorruptEntry),
    "truncated versions": (lambda fields: _following(fields, s=fields[b"s"][:-1]), CorruptEntry),
    "no number": (lambda fields: _following(fields, n=b"next"), CorruptEntry),
    "lacks fields": (lambda fields: {name: fields[name] for name in (b"k", b"v", b"n")}, CorruptEntry),
}


@pytest.mark.parametrize("views", [True, False], ids=["views kept", "views dropped"])
@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=list(FOREIGN))
async def test_foreign_entry(
    any_server: Server, prefix: str, call: Call, keys: ThreadKeys, foreign: Any, views: bool
) -> None:
    """An entry that this project did not write stops its thread, with thread and entry named, and no other one."""
    make, kind = foreign
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as saver:
        latest = await call(saver, "put", config("t"), *step({"x": 1}))
        await call(saver, "put", latest, *step({"x": 2}))
        await call(saver, "put", config("u"), *step({"x": "u"}))
        with any_server.client() as client:
            last, fields = last_entry(client, keys)
            entry_id: Any = client.xadd(keys.log, make(fields), id=following(last))
            if not views:
                drop_views(client, keys)
            before = length_of(client, keys)
            for method, arguments in OPERATIONS.items():
                if method == "delete_for_runs":
                    continue  # knows of no such run
                with pytest.raises(kind, match=f"{entry_id.decode()} of thread 't'"):
                    await call(saver, method, *arguments())
            assert length_of(client, keys) == before
        await assert_others_live(call, saver)
        await call(saver, "delete_thread", "t")
        assert not [key for key in keys_under(any_server, prefix) if key.endswith((b":t", b":head:1:t"))]
        assert await call(saver, "get_tuple", config("t")) is None
        await call(saver, "put", config("t"), *step({"x": 3}))
        assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": 3}


async def test_foreign_entry_removed(server: Server, saver: RedisStreamSaver, prefix: str, call: Call) -> None:
    """Removing the foreign entry, as the error says, mends the thread, on every server."""
    keys = keys_of(prefix, "t")
    first = await call(saver, "put", config("t"), *step({"x": 1}))
    with server.client() as client:
        entry_id: Any = client.xadd(keys.log, {b"x": b"y"}, id=following(last_entry(client, keys)[0]))
        with pytest.raises(CorruptEntry, match=re.escape(entry_id.decode())):
            await call(saver, "get_tuple", config("t"))
        client.xdel(keys.log, entry_id)
    assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": 1}
    await call(saver, "put", first, *step({"x": 2}))
    assert [values_of(one)["x"] for one in await call(saver, "list", config("t"))] == [2, 1]


@pytest.mark.parametrize("views", [True, False], ids=["views kept", "views dropped"])
async def test_lost_and_damaged_everywhere(
    server: Server, saver: RedisStreamSaver, prefix: str, call: Call, views: bool
) -> None:
    """On every server an entry taken by hand is a damaged log, and a deleted log a lost one."""
    keys = keys_of(prefix, "t")
    first = await call(saver, "put", config("t"), *step({"x": 1}))
    await call(saver, "put", first, *step({"x": 2}))
    with server.client() as client:
        entries: Any = client.xrange(keys.log)
        client.xdel(keys.log, entries[0][0])
        if not views:
            drop_views(client, keys)
        with pytest.raises(CorruptEntry, match="'t'"):
            await call(saver, "get_tuple", config("t"))
        client.delete(keys.log)
        with pytest.raises(LogLost, match="'t'"):
            await call(saver, "get_tuple", config("t"))


async def test_large_gap(any_server: Server, one_saver: RedisStreamSaver, prefix: str, call: Call) -> None:
    """An entry with an absurd sequence number is refused without a place in memory for each number that is missing."""
    await call(one_saver, "put", config("t"), *step({"x": 1}))
    keys = keys_of(prefix, "t")
    with any_server.client() as client:
        last, fields = last_entry(client, keys)
        client.xadd(keys.log, {**fields, b"n": b"300000"}, id=following(last))
    tracemalloc.start()
    with pytest.raises(CorruptEntry, match="'t'"):
        await call(one_saver, "get_tuple", config("t"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize(("position", "views"), [(0, True), (1, True), (2, True), (0, False), (1, False)])
async def test_entry_removed_by_hand(
    any_server: Server, neighbours: RedisStreamSaver, keys: ThreadKeys, call: Call, position: int, views: bool
) -> None:
    """A log from which an entry was taken by hand is damaged: it is never read as if the entry had not been.

    That the last entry is missing can be reported by the index alone, while there is one.
    """
    with any_server.client() as client:
        entries: Any = client.xrange(keys.log)
        client.xdel(keys.log, entries[position][0])
        if not views:
            drop_views(client, keys)
    for method in ("get_tuple", "list", "put", "put_writes", "prune", "delete_for_runs", "copy_thread"):
        with pytest.raises(CorruptEntry, match="'t'"):
            await call(neighbours, method, *OPERATIONS[method]())
    await assert_others_live(call, neighbours)
    await call(neighbours, "delete_thread", "t")
    assert await call(neighbours, "get_tuple", config("t")) is None


@pytest.mark.parametrize("gone", ["log", "log and views", "all entries"])
@pytest.mark.parametrize("method", OPERATIONS)
async def test_log_lost(
    any_server: Server, neighbours: RedisStreamSaver, keys: ThreadKeys, call: Call, method: str, gone: str
) -> None:
    """A known thread whose log is gone is never taken for a new or an empty one, whatever is called."""
    with any_server.client() as client:
        if gone == "all entries":
            client.xtrim(keys.log, maxlen=0, approximate=False)
        else:
            client.delete(keys.log)
        if gone == "log and views":
            drop_views(client, keys)
    with pytest.raises(LogLost, match="'t'"):
        await call(neighbours, method, *OPERATIONS[method]())
    await assert_others_live(call, neighbours)


@pytest.mark.parametrize("gone", ["log", "log and views"])
async def test_list_of_everything_with_a_lost_log(
    any_server: Server, neighbours: RedisStreamSaver, keys: ThreadKeys, call: Call, gone: str
) -> None:
    """Lists over all namespaces, or all threads, do not pass over a thread whose log is gone."""
    with any_server.client() as client:
        client.delete(keys.log)
        if gone == "log and views":
            drop_views(client, keys)
    with pytest.raises(LogLost, match="'t'"):
        await call(neighbours, "list", {"configurable": {"thread_id": "t"}})
    with pytest.raises(LogLost, match="'t'"):
        await call(neighbours, "list", None)


async def test_begin_anew_after_a_loss(
    any_server: Server, neighbours: RedisStreamSaver, keys: ThreadKeys, prefix: str, call: Call
) -> None:
    """A lost thread can be deleted, and then starts over; nothing of it is left."""
    with any_server.client() as client:
        client.delete(keys.log)
    await call(neighbours, "delete_thread", "t")
    assert not [key for key in keys_under(any_server, prefix) if key.endswith((b":t", b":head:1:t"))]
    assert await call(neighbours, "get_tuple", config("t")) is None
    with pytest.raises(ThreadNotFound):
        await call(neighbours, "copy_thread", "t", "copy")
    await call(neighbours, "put", config("t"), *step({"x": "new"}))
    assert [values_of(one) for one in await call(neighbours, "list", config("t"))] == [{"x": "new"}]


async def test_copy_over_a_lost_thread(
    any_server: Server, neighbours: RedisStreamSaver, keys: ThreadKeys, call: Call
) -> None:
    """A copy put in the place of a lost thread shows nothing of what the thread was."""
    with any_server.client() as client:
        client.delete(keys.log)
    await call(neighbours, "copy_thread", "u", "t")
    assert values_of(await call(neighbours, "get_tuple", config("t"))) == {"x": "u"}
    assert [values_of(one) for one in await call(neighbours, "list", config("t"))] == [{"x": "u"}]


async def test_log_restored_from_a_backup(any_server: Server, prefix: str, keys: ThreadKeys, call: Call) -> None:
    """After an older log was restored, as errors advise, the latest checkpoint is the latest in that log."""
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as saver:
        first = await call(saver, "put", config("t"), *step({"x": "kept"}))
        with any_server.client() as client:
            backup: Any = client.dump(keys.log)
            await call(saver, "put", first, *step({"x": "after the backup"}))
            restore: Any = client.restore
            restore(keys.log, 0, backup, replace=True)
        assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": "kept"}
        await call(saver, "put", first, *step({"x": "new"}))
        assert [values_of(one)["x"] for one in await call(saver, "list", config("t"))] == ["new", "kept"]


@pytest.mark.parametrize("name", ["log", "index", "order", "head", "feed", "threads", "runs"])
async def test_key_of_another_type(
    any_server: Server, neighbours: RedisStreamSaver, keys: ThreadKeys, call: Call, name: str
) -> None:
    """A key that holds something else is an error that names the thread, and the log does not grow for it."""
    shared = {"feed": keys.shared.feed, "threads": keys.shared.threads, "runs": keys.shared.runs}
    own = {"log": keys.log, "index": keys.index, "order": keys.order, "head": keys.head(b"")}
    key = (own | shared)[name]
    with any_server.client() as client:
        client.delete(key)
        client.set(key, b"something else")
        before = None if name == "log" else length_of(client, keys)
        with pytest.raises(CorruptEntry, match=r"'t'.*prefix of its own"):
            await call(neighbours, "put", config("t"), *step({"x": 3}, run_id="run"))
        if before is not None:
            assert length_of(client, keys) == before
    if name in own:
        await assert_others_live(call, neighbours)

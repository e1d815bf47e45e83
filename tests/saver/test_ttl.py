"""Threads with a time to live: all their keys expire together, and what the partition knew of them goes too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from eventlog import ActivityFeed
from eventlog.errors import EventLogError, InvalidArgument
from eventlog.keys import ThreadKeys
from saver import RedisStreamSaver
from tests.saver.drivers import Call
from tests.saver.threads import config, keys_of, keys_under, step, values_of
from tests.servers import Client, Server

SHORT = 0.005
"""Minutes that a test waits for the end of: 0.3 s."""
SHARED = {b"meta", b"feed", b"threads", b"runs"}

Open = Callable[..., RedisStreamSaver]


@pytest.fixture
def on(prefix: str) -> Open:
    """Savers with one partition and a ttl, on a server."""

    def open_saver(server: Server, ttl: Any) -> RedisStreamSaver:
        return RedisStreamSaver.from_conn_string(server.url, prefix=prefix, partitions=1, ttl=ttl)

    return open_saver


@pytest.fixture
def keys(prefix: str) -> ThreadKeys:
    """The keys of thread "t"."""
    return keys_of(prefix, "t", 1)


async def expired(server: Server, keys: ThreadKeys) -> None:
    """Wait until a thread's log has expired."""
    deadline = time.monotonic() + 5
    with server.client() as client:
        while client.exists(keys.log):
            assert time.monotonic() < deadline, "the log did not expire in time"
            await asyncio.sleep(0.01)


def lives(client: Client, *keys: bytes) -> list[int]:
    """What is left of each key, in ms; -1 without an end, -2 where there is no key."""
    left: list[Any] = [client.pttl(key) for key in keys]
    return left


def own(server: Server, prefix: str) -> set[bytes]:
    """What the keys of a prefix are, but for those that threads share."""
    return {key.partition(b"}:")[2] or key.rpartition(b":")[2] for key in keys_under(server, prefix)} - SHARED


async def put_thread(call: Call, saver: Any, thread: str = "t") -> Any:
    """Put two checkpoints, writes and a subgraph; the config of the latest."""
    first = await call(saver, "put", config(thread), *step({"x": 1}, run_id="run"))
    await call(saver, "put", config(thread, "sub|1"), *step({"x": "sub"}, run_id="run"))
    latest = await call(saver, "put", first, *step({"x": 2}, run_id="run"))
    await call(saver, "put_writes", latest, [("x", 3)], "task")
    return latest


@pytest.mark.parametrize("ttl", [SHORT, {"default_ttl": SHORT}, {"default_ttl": SHORT, "refresh_on_read": False}])
async def test_all_of_a_thread_expires(
    any_server: Server, prefix: str, on: Open, keys: ThreadKeys, call: Call, ttl: Any
) -> None:
    """Minutes, whole or not, in either form: log, views and every namespace's head end together and leave nothing."""
    async with on(any_server, ttl) as saver:
        await put_thread(call, saver)
        await expired(any_server, keys)
        assert own(any_server, prefix) == {b"expiries"}
        assert await call(saver, "get_tuple", config("t")) is None
        assert await call(saver, "get_tuple", config("t", "sub|1")) is None
        assert await call(saver, "list", config("t")) == []
        assert await call(saver, "list", None) == []


async def test_one_end_for_all_keys(any_server: Server, on: Open, keys: ThreadKeys, call: Call) -> None:
    """Each write moves the end of log and views to the same moment, `ttl` minutes on."""
    async with on(any_server, 10) as saver:
        await put_thread(call, saver)
        with any_server.client() as client:
            (log, *views) = lives(client, keys.log, keys.index, keys.order, keys.head(b""))
            assert 590_000 < log <= 600_000
            assert all(abs(view - log) < 100 for view in views)
            for key in (keys.log, keys.index, keys.order, keys.head(b"")):
                client.pexpire(key, 60_000)
            await call(saver, "put_writes", config("t", "", "other"), [("x", 1)], "task")
            assert min(lives(client, keys.log, keys.index, keys.order)) > 590_000
            assert -1 not in lives(client, keys.head(b""), keys.head(b"sub|1"))


async def test_partition_is_swept(server: Server, prefix: str, on: Open, keys: ThreadKeys, call: Call) -> None:
    """Later puts in the partition forget the threads that expired, their runs included."""
    async with on(server, SHORT) as saver:
        for number in range(6):
            await put_thread(call, saver, f"gone {number}")
        await expired(server, keys_of(prefix, "gone 5", 1))
        for _ in range(2):
            await call(saver, "put", config("t"), *step({"x": 1}))
        with server.client() as client:
            shared = keys.shared
            assert client.zrange(shared.threads, 0, -1) == [b"", b"tt"]
            assert client.zrange(shared.expiries, 0, -1) == [b"tt", b""]
            assert client.zrange(shared.runs, 0, -1) == [b""]


@pytest.mark.parametrize("by", ["latest", "id"])
async def test_refresh_on_read(any_server: Server, on: Open, keys: ThreadKeys, call: Call, by: str) -> None:
    """With `refresh_on_read` a read, of the latest or by id, gives all keys of the thread their full time again."""
    async with on(any_server, {"default_ttl": 10, "refresh_on_read": True}) as saver:
        latest = await put_thread(call, saver)
        with any_server.client() as client:
            own_keys = keys.log, keys.index, keys.order, keys.head(b"")
            for key in own_keys:
                client.pexpire(key, 60_000)
            await call(saver, "get_tuple", config("t") if by == "latest" else latest)
            assert min(lives(client, *own_keys)) > 590_000
            end: Any = client.zscore(keys.shared.expiries, b"tt")
            assert abs(end - time.time() * 1000 - 600_000) < 10_000


@pytest.mark.parametrize("ttl", [10, {"default_ttl": 10}, {"default_ttl": 10, "refresh_on_read": False}])
async def test_no_refresh_unless_asked_for(
    any_server: Server, on: Open, keys: ThreadKeys, call: Call, ttl: Any
) -> None:
    """Without `refresh_on_read` a read prolongs nothing."""
    async with on(any_server, ttl) as saver:
        latest = await put_thread(call, saver)
        with any_server.client() as client:
            for key in (keys.log, keys.index, keys.order, keys.head(b"")):
                client.pexpire(key, 60_000)
            for named in (config("t"), latest):
                await call(saver, "get_tuple", named)
            assert max(lives(client, keys.log, keys.index, keys.order, keys.head(b""))) <= 60_000


async def test_a_read_thread_outlives_its_ttl(any_server: Server, on: Open, keys: ThreadKeys, call: Call) -> None:
    """A thread that is read again and again lives on past the time of its last write, then ends."""
    async with on(any_server, {"default_ttl": SHORT, "refresh_on_read": True}) as saver:
        await put_thread(call, saver)
        until = time.monotonic() + 3 * SHORT * 60
        while time.monotonic() < until:
            assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": 2}
            await asyncio.sleep(0.05)
        await expired(any_server, keys)
        assert await call(saver, "get_tuple", config("t")) is None


@pytest.mark.parametrize("ttl", [None, -1, {"default_ttl": None}, {"default_ttl": -1, "refresh_on_read": True}, {}])
async def test_no_ttl(any_server: Server, prefix: str, on: Open, keys: ThreadKeys, call: Call, ttl: Any) -> None:
    """Without a ttl nothing of a thread ends, but for the heads of idle subgraphs, which are views."""
    async with on(any_server, ttl) as saver:
        await put_thread(call, saver)
        await call(saver, "get_tuple", config("t"))
        with any_server.client() as client:
            lasting = lives(client, keys.log, keys.index, keys.order, keys.head(b""), *vars_of(keys))
            assert set(lasting) == {-1}
            assert 0 < lives(client, keys.head(b"sub|1"))[0] <= 3_600_000
            client.delete(keys.head(b"sub|1"))
        assert values_of(await call(saver, "get_tuple", config("t", "sub|1"))) == {"x": "sub"}
        with any_server.client() as client:
            assert client.zrange(keys.shared.expiries, 0, -1) == [b""]


def vars_of(keys: ThreadKeys) -> tuple[bytes, ...]:
    """The shared keys that always are."""
    return keys.shared.threads, keys.shared.feed, keys.shared.runs


async def test_plain_saver_on_a_thread_with_an_end(any_server: Server, on: Open, keys: ThreadKeys, call: Call) -> None:
    """A saver without ttl that writes to a thread with one leaves its end, for new namespaces as well."""
    async with on(any_server, 10) as mortal, on(any_server, None) as plain:
        latest = await put_thread(call, mortal)
        await call(plain, "put", latest, *step({"x": 3}))
        await call(plain, "put", config("t", "new"), *step({"x": 4}))
        await call(plain, "put_writes", latest, [("x", 5)], "other")
        with any_server.client() as client:
            left = lives(client, keys.log, keys.index, keys.order, keys.head(b""), keys.head(b"new"))
        assert all(0 < one <= 600_000 for one in left)


async def test_ttl_on_a_thread_without_an_end(any_server: Server, on: Open, keys: ThreadKeys, call: Call) -> None:
    """A saver with a ttl that writes to a thread without one gives it an end."""
    async with on(any_server, None) as plain, on(any_server, SHORT) as mortal:
        latest = await put_thread(call, plain)
        await call(mortal, "put", latest, *step({"x": 3}))
        await expired(any_server, keys)
        assert await call(plain, "get_tuple", config("t")) is None


async def test_a_longer_life_is_kept(any_server: Server, on: Open, keys: ThreadKeys, call: Call) -> None:
    """A shorter ttl does not bring the end forward."""
    async with on(any_server, 60) as longer, on(any_server, 1) as shorter:
        latest = await put_thread(call, longer)
        await call(shorter, "put", latest, *step({"x": 3}))
        with any_server.client() as client:
            assert min(lives(client, keys.log, keys.index, keys.order, keys.head(b""))) > 3_500_000


@pytest.mark.parametrize("again", [SHORT * 100, None], ids=["with ttl", "without"])
async def test_begin_afresh_after_expiry(
    server: Server, prefix: str, on: Open, keys: ThreadKeys, call: Call, again: float | None
) -> None:
    """An expired thread begins afresh with the next put, which is no loss, and stays known however others come and go."""
    async with on(server, SHORT) as mortal, on(server, again) as second, on(server, SHORT * 200) as third:
        await put_thread(call, mortal)
        await expired(server, keys)
        await call(second, "put", config("t"), *step({"x": "new"}))
        await call(third, "put", config("other"), *step({"x": 1}))
        assert [values_of(one) for one in await call(second, "list", config("t"))] == [{"x": "new"}]
        assert own(server, prefix) >= {b"log:t", b"index:t", b"order:t"}
        assert {one.config["configurable"]["thread_id"] for one in await call(second, "list", None)} == {"t", "other"}


async def test_writes_after_expiry(any_server: Server, on: Open, keys: ThreadKeys, call: Call) -> None:
    """Writes to an expired thread are early writes of a new one."""
    async with on(any_server, SHORT) as saver:
        latest = await put_thread(call, saver)
        await expired(any_server, keys)
        await call(saver, "put_writes", latest, [("x", "late")], "task")
        assert await call(saver, "get_tuple", latest) is None


async def test_early_writes_with_an_end(
    any_server: Server, prefix: str, on: Open, keys: ThreadKeys, call: Call
) -> None:
    """Early writes of a saver with a ttl, and the checkpoint of one without: the thread stays known when others expire."""
    async with on(any_server, SHORT) as mortal, on(any_server, None) as plain:
        await call(mortal, "put_writes", config("t", "", "c1"), [("x", 1)], "task")
        await call(plain, "put", config("t"), *step({"x": 1}, checkpoint_id="c1"))
        await call(mortal, "put", config("gone"), *step({"x": 1}))
        await expired(any_server, keys_of(prefix, "gone", 1))
        await call(mortal, "put", config("other"), *step({"x": 1}))
        known = {one.config["configurable"]["thread_id"] for one in await call(plain, "list", None)}
        with any_server.client() as client:
            assert known == ({"t", "other"} if client.exists(keys.log) else {"other"})


async def test_early_writes_keep_the_end_they_were_given(
    any_server: Server, on: Open, keys: ThreadKeys, call: Call
) -> None:
    """Early writes of a saver with a ttl give the thread an end, which the checkpoint of one without leaves as it is."""
    async with on(any_server, 10) as mortal, on(any_server, None) as plain:
        await call(mortal, "put_writes", config("t", "", "c1"), [("x", 1)], "task")
        await call(plain, "put", config("t"), *step({"x": 1}, checkpoint_id="c1"))
        with any_server.client() as client:
            assert 590_000 < lives(client, keys.log)[0] <= 600_000


async def test_the_day_that_early_writes_wait_is_no_ttl(
    any_server: Server, on: Open, keys: ThreadKeys, call: Call
) -> None:
    """Early writes wait a day for their checkpoint; when it comes from a saver with a ttl, that is the thread's."""
    async with on(any_server, 10) as mortal, on(any_server, None) as plain:
        await call(plain, "put_writes", config("t", "", "c1"), [("x", 1)], "task")
        with any_server.client() as client:
            assert 86_000_000 < lives(client, keys.log)[0] <= 86_400_000
            await call(mortal, "put", config("t"), *step({"x": 1}, checkpoint_id="c1"))
            assert 590_000 < lives(client, keys.log)[0] <= 600_000


async def test_copy_of_a_thread_with_an_end(any_server: Server, prefix: str, on: Open, call: Call) -> None:
    """A copy has the end that the copying saver gives, whatever the source and an expired namesake had."""
    async with on(any_server, SHORT) as mortal, on(any_server, None) as plain:
        await put_thread(call, mortal, "copy")
        await expired(any_server, keys_of(prefix, "copy", 1))
        await put_thread(call, plain)
        await call(plain, "copy_thread", "t", "copy")
        await call(mortal, "put", config("other"), *step({"x": 1}))
        assert values_of(await call(plain, "get_tuple", config("copy"))) == {"x": 2}
        known = {one.config["configurable"]["thread_id"] for one in await call(plain, "list", None)}
        assert known == {"t", "copy", "other"}


async def test_a_view_of_another_type_stops_a_write_before_it_begins(
    any_server: Server, on: Open, keys: ThreadKeys, call: Call
) -> None:
    """With a ttl a write may forget threads that have ended, and so looks at all views first: nothing is half-written."""
    saver = on(any_server, 10)
    await call(saver, "put", config("t"), *step({"x": 1}))
    with any_server.client() as client:
        before = client.xlen(keys.log)
        client.delete(keys.shared.runs)
        client.set(keys.shared.runs, "foreign")
        for method, arguments in (
            ("put", (config("t"), *step({"x": 2}))),
            ("put_writes", (config("t", "", "1"), [("x", 1)], "task")),
        ):
            with pytest.raises(EventLogError):
                await call(saver, method, *arguments)
        assert client.xlen(keys.log) == before
        client.delete(keys.shared.runs)


async def test_expiries_are_a_view(any_server: Server, on: Open, keys: ThreadKeys, call: Call) -> None:
    """If what the partition knows of ends is deleted, an expired thread is still no loss."""
    async with on(any_server, SHORT) as saver:
        await put_thread(call, saver)
        with any_server.client() as client:
            client.delete(keys.shared.expiries)
        await expired(any_server, keys)
        assert await call(saver, "get_tuple", config("t")) is None
        await call(saver, "put", config("t"), *step({"x": "new"}))


BAD: list[Any] = [0, 0.0, -2, 1e-9, 10**12, float("nan"), float("inf"), True, "5", [5]]


@pytest.mark.parametrize("bad", [*BAD, *({"default_ttl": one} for one in BAD)], ids=repr)
def test_bad_ttl(any_server: Server, on: Open, bad: Any) -> None:
    """A time that is none is refused when the saver is made."""
    with pytest.raises((InvalidArgument, TypeError), match="ttl must be"):
        on(any_server, bad)


@pytest.mark.parametrize("bad", [{"ttl": 5}, {"default_ttl": 5, "refresh": True}, {1: 2, "a": 3}], ids=repr)
def test_unknown_settings(any_server: Server, on: Open, bad: Any) -> None:
    """A misspelt setting is refused rather than ignored."""
    with pytest.raises(InvalidArgument, match="unknown"):
        on(any_server, bad)


@pytest.mark.parametrize("bad", [1, "yes", None])
def test_bad_refresh(any_server: Server, on: Open, bad: Any) -> None:
    """`refresh_on_read` is a bool."""
    with pytest.raises(TypeError, match="refresh_on_read"):
        on(any_server, {"default_ttl": 5, "refresh_on_read": bad})


async def test_an_expired_thread_is_announced_and_stays_gone(
    server: Server, on: Open, keys: ThreadKeys, prefix: str
) -> None:
    """The next write with a ttl says in the feed that a thread ended, so that a registry rebuilt from the feed does not have it."""
    with on(server, SHORT) as saver, ActivityFeed.from_conn_string(server.url, prefix=prefix) as feed:
        saver.put(config("t"), *step({"a": 1}))
        await expired(server, keys)
        with on(server, 60) as longer:
            longer.put(config("u"), *step({"a": 1}))
        told = [(activity.thread_id, activity.kind) for activity in feed.tail("beginning", follow=False)]
        with server.client() as client:
            client.delete(keys.shared.threads)
        assert ("t", "expired") in told
        assert [found.config["configurable"]["thread_id"] for found in saver.list(None)] == ["u"]

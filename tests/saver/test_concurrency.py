"""Many callers at once on one saver: threads, tasks, event loops and processes."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from eventlog.errors import ThreadBusy, ThreadNotFound
from saver import RedisStreamSaver
from tests.proxy import Cut, Proxy
from tests.saver.audit import Audit, checkpoint_id, config, number_of, put_of
from tests.saver.conftest import Server

ROOT = Path(__file__).parents[2]
THREADS, TASKS = 64, 200


@pytest.fixture
def audit(any_server: Server, prefix: str) -> Iterator[Audit]:
    """A look behind the savers of the one quick server."""
    with Audit(any_server.url, prefix) as opened:
        yield opened


def _at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Results of `work(0)`, `work(1)`, ..., each in a thread of its own, begun together."""
    ready = threading.Barrier(count)

    def begin(number: int) -> Any:
        ready.wait(30)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def _converse(saver: RedisStreamSaver, number: int) -> None:
    """A short life of a thread of its own."""
    thread = f"thread {number}"
    for at in (1, 2, 3):
        assert saver.put(*put_of(thread, at, at - 1 or None)) == config(thread, at)
        saver.put_writes(config(thread, at), [("n", [number, at])], "task")
        found = saver.get_tuple(config(thread))
        assert found is not None
        assert number_of(found) == at
        assert found.config == config(thread, at)
        assert found.pending_writes == [("task", "n", [number, at])]


async def _aconverse(saver: RedisStreamSaver, number: int) -> None:
    thread = f"thread {number}"
    for at in (1, 2):
        assert await saver.aput(*put_of(thread, at, at - 1 or None)) == config(thread, at)
        await saver.aput_writes(config(thread, at), [("n", [number, at])], "task")
        found = await saver.aget_tuple(config(thread))
        assert found is not None
        assert number_of(found) == at
        assert found.config == config(thread, at)
        assert found.pending_writes == [("task", "n", [number, at])]


@pytest.fixture
async def sync_saver(any_server: Server, prefix: str) -> AsyncIterator[RedisStreamSaver]:
    """A saver on a sync pool of four connections that itself raises when it has none left."""
    with redis.ConnectionPool.from_url(any_server.url, max_connections=4) as pool:
        yield RedisStreamSaver(pool, prefix=prefix)


@pytest.fixture
async def async_saver(any_server: Server, prefix: str) -> AsyncIterator[RedisStreamSaver]:
    """A saver on an asyncio pool of four connections that itself raises when it has none left."""
    pool = redis.asyncio.ConnectionPool.from_url(any_server.url, max_connections=4)
    yield RedisStreamSaver(async_connection=pool, prefix=prefix)
    await pool.aclose()


def test_64_threads_on_one_saver(server: Server, prefix: str) -> None:
    """64 threads that write and read at once lose nothing and never fail for want of a connection."""
    with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, max_connections=16) as saver:
        _at_once(THREADS, lambda number: _converse(saver, number))
        assert len(list(saver.list(None))) == 3 * THREADS


async def test_200_tasks_on_one_saver(server: Server, prefix: str) -> None:
    """200 tasks that write and read at once lose nothing and never fail for want of a connection."""
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, max_connections=16) as saver:
        await asyncio.gather(*(_aconverse(saver, number) for number in range(TASKS)))
        assert len([found async for found in saver.alist(None)]) == 2 * TASKS


def test_64_threads_on_a_given_pool_of_four(sync_saver: RedisStreamSaver) -> None:
    """Calls wait for one of four connections, though the pool that was given raises rather than wait."""
    _at_once(THREADS, lambda number: _converse(sync_saver, number))
    assert len(list(sync_saver.list(None))) == 3 * THREADS


async def test_200_tasks_on_a_given_pool_of_four(async_saver: RedisStreamSaver) -> None:
    """Tasks wait for one of four connections, though the pool that was given raises rather than wait."""
    await asyncio.gather(*(_aconverse(async_saver, number) for number in range(TASKS)))
    assert len([found async for found in async_saver.alist(None)]) == 2 * TASKS


def test_64_writers_to_one_checkpoint(one_saver: RedisStreamSaver, audit: Audit) -> None:
    """The writes of 64 tasks to one checkpoint are all kept, in the order of their paths, early ones as well."""
    paths = [f"~{number:02}" for number in range(THREADS)]

    def write(number: int) -> None:
        one_saver.put_writes(config("t", 1), [("n", number), ("__error__", number)], f"task {number}", paths[number])

    with ThreadPoolExecutor(8) as pool:
        early = pool.map(write, range(0, THREADS, 2))
        one_saver.put(*put_of("t", 1))
        late = pool.map(write, range(1, THREADS, 2))
        assert len([*early, *late]) == THREADS
    expected = [(f"task {number}", channel, number) for number in range(THREADS) for channel in ("__error__", "n")]
    for _ in ("from the head", "from the log"):
        found = one_saver.get_tuple(config("t"))
        assert found is not None
        assert found.pending_writes == expected
        assert sorted(audit.kinds("t")) == ["checkpoint"] + ["writes"] * THREADS
        audit.forget_views("t")


def test_64_forks_of_one_parent(one_saver: RedisStreamSaver, audit: Audit) -> None:
    """Checkpoints put at once on the same parent are all kept, numbered without a gap; the greatest id is the latest."""
    one_saver.put(*put_of("t", 1))
    numbers = random.sample(range(2, 2 + THREADS), THREADS)
    _at_once(THREADS, lambda at: one_saver.put(*put_of("t", numbers[at], 1)))
    assert audit.kinds("t") == ["checkpoint"] * (1 + THREADS)
    for _ in ("from the head", "from the log"):
        latest = one_saver.get_tuple(config("t"))
        assert latest is not None
        assert number_of(latest) == 1 + THREADS
        listed = list(one_saver.list(config("t")))
        assert [number_of(found) for found in listed] == list(range(1 + THREADS, 0, -1))
        assert all(found.parent_config == config("t", 1) for found in listed[:-1])
        audit.forget_views("t")


async def test_200_tasks_on_one_thread(async_saver: RedisStreamSaver, audit: Audit) -> None:
    """Tasks that put and write to one thread at once, over four connections, lose nothing."""

    async def work(number: int) -> None:
        await async_saver.aput(*put_of("t", number, None))
        await async_saver.aput_writes(config("t", 1), [("n", number)], f"task {number}")

    await asyncio.gather(*(work(number) for number in range(1, TASKS + 1)))
    assert len(audit.check("t")) == 2 * TASKS
    first = await async_saver.aget_tuple(config("t", 1))
    assert first is not None
    assert sorted(value for _, _, value in first.pending_writes or ()) == list(range(1, TASKS + 1))
    assert [number_of(found) async for found in async_saver.alist(config("t"))] == list(range(TASKS, 0, -1))


def test_two_processes_on_one_thread(
    one_saver: RedisStreamSaver, audit: Audit, any_server: Server, prefix: str
) -> None:
    """Two processes write to a thread at once: everything of both is kept, and the views are the fold of what they wrote."""
    one_saver.put(*put_of("t", 1))
    command = [sys.executable, "-m", "tests.saver.crash_worker", "write", any_server.url, prefix, "t"]
    workers = [subprocess.Popen([*command, str(first), "50"], cwd=ROOT) for first in (100, 200)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert sorted(audit.kinds("t")) == ["checkpoint"] * 101 + ["writes"] * 100
    assert audit.forms("t").count("D") > 60
    numbers = [*range(100, 150), *range(200, 250)]
    assert {number_of(found) for found in one_saver.list(config("t"))} == {1, *numbers}
    first = one_saver.get_tuple(config("t", 1))
    assert first is not None
    assert sorted(value for _, _, value in first.pending_writes or ()) == numbers


def test_readers_while_views_are_deleted(server: Server, prefix: str) -> None:
    """Heads, indexes and orders vanish at random under readers and a writer: none of them notices."""
    with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as saver, Audit(server.url, prefix) as audit:
        saver.put(*put_of("t", 1))
        saver.put_writes(config("t", 1), [("n", 1)], "task")
        written, done = [1], threading.Event()

        def write() -> None:
            try:
                for number in range(2, 101):
                    saver.put(*put_of("t", number, number - 1))
                    saver.put_writes(config("t", number), [("n", number)], "task")
                    written.append(number)
            finally:
                done.set()

        def read() -> None:
            while not done.is_set():
                at_least = written[-1]
                found = saver.get_tuple(config("t"))
                assert found is not None
                assert number_of(found) >= at_least
                if number_of(found) == at_least:
                    assert found.pending_writes == [("task", "n", at_least)]
                old = saver.get_tuple(config("t", at_least))
                assert old is not None
                assert old.pending_writes == [("task", "n", at_least)]

        def forget() -> None:
            seen = 0
            while not done.wait(0.001):
                if written[-1] > seen + 3:  # slower than the writer, so that all get ahead
                    seen = written[-1]
                    audit.client.delete(random.choice(audit.views("t")))

        with ThreadPoolExecutor(5) as pool:
            for one in [pool.submit(work) for work in (write, read, read, read, forget)]:
                one.result(60)
        latest = saver.get_tuple(config("t"))
        assert latest is not None
        assert number_of(latest) == 100
        assert audit.kinds("t") == ["checkpoint", "writes"] * 100


def test_event_loops_in_turn_and_threads_between(any_server: Server, prefix: str) -> None:
    """One saver serves one event loop after another, and sync calls between them."""
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:
        for first in (0, 10, 20):
            asyncio.run(_several(saver, first))
            _converse(saver, first + 5)
        assert len(list(saver.list(None))) == 3 * (5 * 2 + 3)


async def _several(saver: RedisStreamSaver, first: int) -> None:
    await asyncio.gather(*(_aconverse(saver, number) for number in range(first, first + 5)))


def test_event_loops_and_threads_at_once(any_server: Server, prefix: str) -> None:
    """One saver serves four event loops and four threads at the same time."""
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:

        def work(number: int) -> None:
            if number % 2:
                asyncio.run(_several(saver, 10 * number))
            else:
                _converse(saver, 10 * number)

        _at_once(8, work)
        assert len(list(saver.list(None))) == 4 * 5 * 2 + 4 * 3


async def test_sync_calls_over_an_async_connection(async_saver: RedisStreamSaver) -> None:
    """From other threads sync methods run on the loop of the async connection; on its own thread they say what to do."""
    await asyncio.gather(*(asyncio.to_thread(_converse, async_saver, number) for number in range(16)))
    assert len(await asyncio.to_thread(lambda: list(async_saver.list(None)))) == 3 * 16
    for refused in (
        lambda: async_saver.get_tuple(config("t")),
        lambda: async_saver.put(*put_of("t", 1)),
        lambda: list(async_saver.list(None)),
        lambda: async_saver.delete_thread("t"),
    ):
        with pytest.raises(asyncio.InvalidStateError, match="Await the async method"):
            refused()


def test_sync_calls_without_a_loop_for_the_async_connection(any_server: Server, prefix: str) -> None:
    """Where no event loop runs, sync methods over an async connection say which argument to pass."""
    client = redis.asyncio.Redis.from_url(any_server.url)
    saver = RedisStreamSaver(async_connection=client, prefix=prefix)
    with pytest.raises(asyncio.InvalidStateError, match="sync_connection"):
        saver.get_tuple(config("t"))

    async def work() -> None:
        async with client:
            await _several(saver, 0)

    asyncio.run(work())
    with pytest.raises(asyncio.InvalidStateError, match="sync_connection"):
        saver.get_tuple(config("t"))


async def test_async_calls_over_a_sync_connection(sync_saver: RedisStreamSaver) -> None:
    """Async methods over a sync connection run in threads, and do not hold the event loop up."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*(_aconverse(sync_saver, number) for number in range(32)))
    ticking.cancel()
    assert ticks > 64
    listed = [found async for found in sync_saver.alist(None, limit=3)]
    assert [found.checkpoint["id"] for found in listed] == [checkpoint_id(2)] * 3


MOST = 300
"""More commands than any operation here needs."""


@pytest.fixture
def meddled(any_server: Server, prefix: str) -> Iterator[tuple[RedisStreamSaver, Proxy]]:
    """A saver whose every command can be preceded by something that another client does."""
    retry = Retry(NoBackoff(), 0)
    with (
        Proxy(any_server.url) as proxy,
        RedisStreamSaver.from_conn_string(proxy.url, prefix=prefix, retry=retry) as opened,
    ):
        yield opened, proxy


def _before_each(proxy: Proxy, act: Callable[[int], object]) -> None:
    """Do something before each command; hang up where there is no end to the commands."""

    def decide(at: int, _: bytes) -> Cut | None:
        act(at)
        return Cut.BEFORE if at > MOST else None

    proxy.plan(decide)


def test_a_list_ends_however_fast_others_write(
    meddled: tuple[RedisStreamSaver, Proxy], one_saver: RedisStreamSaver, audit: Audit
) -> None:
    """The registry of threads is rebuilt though its feed grows before each of the rebuild's commands."""
    saver, proxy = meddled
    one_saver.put(*put_of("t", 1))
    shared = audit.keyspace.thread(b"t").shared
    audit.client.delete(shared.threads)
    _before_each(proxy, lambda at: one_saver.put(*put_of("t", 1 + at, at)))
    listed = list(saver.list(None, limit=1))
    assert [found.config["configurable"]["thread_id"] for found in listed] == ["t"]


def test_a_copy_ends_however_fast_others_write(
    meddled: tuple[RedisStreamSaver, Proxy], one_saver: RedisStreamSaver, audit: Audit
) -> None:
    """A thread to which an event is added before each of the copy's commands is copied up to a point."""
    saver, proxy = meddled
    for number in range(1, 61):
        one_saver.put(*put_of("t", number, number - 1 or None))
    _before_each(proxy, lambda at: one_saver.put(*put_of("t", 60 + at, 59 + at)))
    saver.copy_thread("t", "copy")
    copied = [number_of(found) for found in one_saver.list(config("copy"))]
    assert copied == list(range(len(copied), 0, -1))
    assert len(copied) >= 60
    audit.check("copy")


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "deleted and begun again"])
def test_a_thread_deleted_while_it_is_copied(
    meddled: tuple[RedisStreamSaver, Proxy], one_saver: RedisStreamSaver, audit: Audit, *, again: bool
) -> None:
    """Whenever the source is deleted, the copy is one of a whole thread, or there is none and an error says so."""
    saver, proxy = meddled
    saver.setup()
    for moment in range(1, 81, 4):  # the copy takes some 70 commands
        source, target = f"source {moment}", f"target {moment}"
        for number in range(1, 61):  # more than a page
            one_saver.put(*put_of(source, number, number - 1 or None))

        def meddle(at: int, source: str = source, moment: int = moment) -> None:
            if at == moment:
                one_saver.delete_thread(source)
                for number in range(100, 105) if again else ():
                    one_saver.put(*put_of(source, number))

        _before_each(proxy, meddle)
        with suppress(ThreadNotFound, ThreadBusy):
            saver.copy_thread(source, target)
        copied = [number_of(found) for found in one_saver.list(config(target))]
        assert copied in ([], list(range(60, 0, -1)), list(range(104, 99, -1))), moment
        audit.check(target)

"""Servers and clients that are killed: what was acknowledged is there, and work goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.backoff import NoBackoff
from redis.retry import Retry

from eventlog.errors import ServerLoading, ServerUnavailable
from saver import RedisStreamSaver
from tests.saver.audit import Audit, checkpoint_id, config, number_of, put_of
from tests.saver.conftest import Server
from tests.saver.crash_worker import counting_graph, text_of
from tests.saver.drivers import Call
from tests.servers import RunningServer
from tests.servers import Server as StartedServer

ROOT = Path(__file__).parents[2]
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
Launch = Callable[..., RunningServer]


@pytest.fixture
def durable(binary: Path, private_server: Launch, tmp_path: Path) -> RunningServer:
    """A server of each binary that has every acknowledged command on disk."""
    return private_server(*DURABLE, binary=binary, dir=tmp_path)


put_shared = partial(put_of, shared=True)
"""A checkpoint whose value is stored as a delta against the one before."""


class Writer:
    """Writes to a thread until the server is gone, and knows what was acknowledged."""

    def __init__(self, saver: RedisStreamSaver, thread: str, first: int, step: int) -> None:
        self.saver = saver
        self.thread = thread
        self.put: list[int] = []
        self.written: list[int] = []
        self.attempts = 0
        self._number, self._step = first, step

    def write(self, acknowledged: Callable[[], None]) -> None:
        parent = self.put[-1] if self.put else None
        try:
            while True:
                number, self._number = self._number, self._number + self._step
                self.attempts += 2
                self.saver.put(*put_of(self.thread, number, parent, shared=True))
                self.put.append(number)
                acknowledged()
                writes = [("n", number), ("__error__", number)]
                self.saver.put_writes(config(self.thread, number), writes, "task")
                self.written.append(number)
                acknowledged()
                parent = number
        except ServerUnavailable:
            return

    def check(self) -> None:
        for number in self.put:
            found = self.saver.get_tuple(config(self.thread, number))
            assert found is not None, f"put {number} was acknowledged"
            assert number_of(found) == number
            if number in self.written:
                assert found.pending_writes == [("task", "__error__", number), ("task", "n", number)]


def _traffic_until_killed(writers: list[Writer], server: RunningServer, after: int) -> None:
    """Let writers write at once, and kill the server after so many acknowledged calls, and two puts of each writer."""
    enough, lock, seen = threading.Event(), threading.Lock(), [0]

    def acknowledged() -> None:
        with lock:
            seen[0] += 1
        if seen[0] >= after and all(len(one.put) > 1 for one in writers):
            enough.set()

    with ThreadPoolExecutor(len(writers)) as pool:
        running = [pool.submit(writer.write, acknowledged) for writer in writers]
        assert enough.wait(30)
        server.kill()
        for one in running:
            one.result(30)


def test_a_killed_server_has_all_that_it_acknowledged(durable: RunningServer, prefix: str) -> None:
    """After SIGKILL amid traffic, again and again, every acknowledged call is there whole, and every view is the log's fold.

    The values are deltas, but for those of one thread.
    """
    server = durable
    threads = ["shared", "own 1", "own 2"]
    retry: Any = {"retry": Retry(NoBackoff(), 0)}
    with (
        RedisStreamSaver.from_conn_string(server.url, prefix=prefix, **retry) as saver,
        RedisStreamSaver.from_conn_string(server.url, prefix=prefix, cache_bytes=0, **retry) as plain,
    ):
        writers = [Writer(saver, "shared", 1, 2), Writer(saver, "shared", 2, 2)]
        writers += [Writer(saver, "own 1", 1, 1), Writer(plain, "own 2", 1, 1)]
        for crash in range(1, 4):
            _traffic_until_killed(writers, server, after=40 * crash)
            server.start()
            for writer in writers:
                writer.check()
            with Audit(server.url, prefix) as audit:
                for thread in threads:
                    events = audit.check(thread)
                    mine = [writer for writer in writers if writer.thread == thread]
                    done = sum(len(writer.put) + len(writer.written) for writer in mine)
                    assert done <= len(events) <= done + crash * len(mine)
                    latest = saver.get_tuple(config(thread))
                    assert latest is not None
                    assert number_of(latest) >= max(writer.put[-1] for writer in mine)
                    assert ("D" in audit.forms(thread)) == (thread != "own 2")
                    audit.forget_views(thread)
                    assert saver.get_tuple(config(thread)) == latest
                    audit.check(thread)


def _worker(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.saver.crash_worker", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_killed_client_leaves_a_thread_that_resumes(any_server: Server, prefix: str) -> None:
    """A graph whose process is killed between two operations, then amid traffic, is resumed and counts on without a gap."""
    done = 0
    numbers = [text_of(number) for number in range(40)]
    for prompts, last in ((4, 3), (1000, 15)):  # the second worker is never waited for
        with _worker("count", any_server.url, prefix, "t", "40") as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("\n" * (prompts - 1))
            worker.stdin.flush()
            counted = [int(worker.stdout.readline())]
            while counted[-1] < last:
                counted.append(int(worker.stdout.readline()))
            worker.kill()
        assert done in {counted[0], counted[0] - 1}  # a step that was reported may not have been saved
        done = counted[-1]
        with Audit(any_server.url, prefix) as audit:
            audit.check("t")
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver,
        Audit(any_server.url, prefix) as audit,
    ):
        named: Any = {**config("t"), "recursion_limit": 1000}
        state = counting_graph(saver, 40).invoke(None, named)
        assert state == {"log": numbers}
        assert "D" in audit.forms("t", "log")
        latest = saver.get_tuple(config("t"))
        audit.check("t")
        audit.forget_views("t")
        assert saver.get_tuple(config("t")) == latest
        audit.check("t")


@pytest.mark.parametrize("how", ["killed", "restarted"])
async def test_a_saver_outlives_its_server(durable: RunningServer, prefix: str, call: Call, how: str) -> None:
    """While the server is down calls raise ServerUnavailable; once it is back the same saver reads and writes on."""
    server, put_of = durable, put_shared
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, retry=Retry(NoBackoff(), 0)) as saver:
        await call(saver, "put", *put_of("t", 1))
        if how == "killed":
            server.kill()
            for method, *arguments in (
                ("put", *put_of("t", 2, 1)),
                ("put_writes", config("t", 1), [("n", 1)], "task"),
                ("get_tuple", config("t")),
                ("list", config("t")),
                ("list", None),
                ("delete_thread", "t"),
                ("copy_thread", "t", "copy"),
                ("prune", ["t"]),
                ("delete_for_runs", ["r"]),
            ):
                with pytest.raises(ServerUnavailable):
                    await call(saver, method, *arguments)
            server.start()
        else:
            server.restart()
        # A connection that the old server closed is noticed at its next use, if not before.
        found = await _once_more(call, saver, "get_tuple", config("t"))
        assert number_of(found) == 1
        await call(saver, "put", *put_of("t", 2, 1))
        await call(saver, "put_writes", config("t", 2), [("n", 1)], "task")
        assert [number_of(found) for found in await call(saver, "list", None)] == [2, 1]
        await call(saver, "copy_thread", "t", "copy")
        await call(saver, "prune", ["t"])
        await call(saver, "delete_for_runs", ["r"])
        assert await call(saver, "list", None) == []


async def _once_more(call: Call, saver: RedisStreamSaver, method: str, *arguments: Any) -> Any:
    try:
        return await call(saver, method, *arguments)
    except (ServerUnavailable, ServerLoading):
        return await call(saver, method, *arguments)


async def test_a_restart_goes_unnoticed_by_waiting_calls(private_server: Launch, tmp_path: Path, prefix: str) -> None:
    """With redis-py's own retries, sync and async calls that meet a crashed server wait for it and then succeed, once each."""
    server, put_of = private_server(*DURABLE, dir=tmp_path), put_shared
    back = asyncio.Event()
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as saver:

        async def put_sync(*arguments: Any) -> None:
            await asyncio.to_thread(saver.put, *arguments)

        async def write(thread: str, put: Callable[..., Any], *, warm: asyncio.Event) -> int:
            number = 0
            while not back.is_set() or number < 20:
                number += 1
                await put(*put_of(thread, number, number - 1 or None))
                if number == 10:
                    warm.set()
            return number

        async def crash(*warm: asyncio.Event) -> None:
            for event in warm:
                await event.wait()
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            back.set()

        warm = asyncio.Event(), asyncio.Event()
        sync = write("sync", put_sync, warm=warm[0])
        puts, aputs, _ = await asyncio.gather(sync, write("async", saver.aput, warm=warm[1]), crash(*warm))
        with Audit(server.url, prefix) as audit:
            assert audit.kinds("sync") == ["checkpoint"] * puts
            assert audit.kinds("async") == ["checkpoint"] * aputs
            assert audit.forms("sync").count("D") > 10
            assert audit.forms("async").count("D") > 10


async def test_scripts_are_sent_again_where_the_server_forgot_them(
    saver: RedisStreamSaver, server: StartedServer, call: Call
) -> None:
    """After SCRIPT FLUSH each operation sends its script whole once, and goes on."""
    put_of = put_shared

    async def forgotten(method: str, *arguments: Any, **options: Any) -> Any:
        with server.client() as client:
            client.script_flush()
        return await call(saver, method, *arguments, **options)

    await forgotten("put", *put_of("t", 1))
    await forgotten("put_writes", config("t", 1), [("n", 1)], "task")
    assert number_of(await forgotten("get_tuple", config("t"))) == 1
    assert number_of(await forgotten("get_tuple", config("t", 1))) == 1
    await forgotten("put", *put_of("t", 2, 1))
    await forgotten("copy_thread", "t", "copy")
    await forgotten("prune", ["t"])
    listed = await forgotten("list", None)
    assert sorted((found.config["configurable"]["thread_id"], number_of(found)) for found in listed) == [
        ("copy", 1),
        ("copy", 2),
        ("t", 2),
    ]
    history = await forgotten("get_delta_channel_history", config=config("copy"), channels=["n"])
    assert [value for _, _, value in history["n"]["writes"]] == [1]
    await forgotten("delete_for_runs", ["r"])
    assert await forgotten("get_tuple", config("copy")) is None
    await forgotten("delete_thread", "t")
    assert checkpoint_id(1) not in str(await forgotten("list", None))

"""Waiting for news of streams, on one server and on a cluster, with both drivers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from eventlog import Connections, Runner
from eventlog.flow import Flow, Pause, Wait
from eventlog.transport.waiting import LONGEST, block_for, keys_in, xread
from tests.eventlog.feed.feeds import Made, in_thread
from tests.servers import Server


def waiting(streams: list[tuple[bytes, bytes]], ms: int) -> Flow[list[bytes]]:
    """A flow that waits."""
    found: list[bytes] = yield Wait(streams, ms)
    yield Pause(0)
    return found


async def wait(runner: Runner, driver: str, streams: list[tuple[bytes, bytes]], ms: int) -> tuple[list[bytes], float]:
    """What has news, and the seconds that took."""
    begin = time.monotonic()
    if driver == "sync":
        found = await in_thread(lambda: runner.run(waiting(streams, ms), "streams"))
    else:
        found = await runner.arun(waiting(streams, ms), "streams")
    return found, time.monotonic() - begin


async def test_news_of_streams(of_either_kind: Server, prefix: str, driver: str) -> None:
    """Entries that exist are reported at once, what comes soon after it came, nothing when the time is over."""
    made = Made(of_either_kind.url, prefix)
    threads = made.apart(4)
    streams = [(made.stream(thread), b"0-0") for thread in threads]
    connections = Connections.from_url(made.url)
    runner = Runner(connections)
    try:
        await runner.arun(_touch(made), "meta")
        found, took = await wait(runner, driver, streams, 300)
        assert found == []
        assert 0.25 < took < 3
        task = asyncio.create_task(wait(runner, driver, streams, 9000))
        await asyncio.sleep(0.2)
        made.add(threads[1])
        found, took = await task
        assert found == [made.stream(threads[1])]
        assert 0.15 < took < 4
        found, took = await wait(runner, driver, streams, 9000)
        assert found == [made.stream(threads[1])]
        assert took < 4
        streams = [(key, b"$" if key == made.stream(threads[1]) else after) for key, after in streams]
        await asyncio.gather(*(wait(runner, driver, streams, 100) for _ in range(3)))
    finally:
        await connections.aclose()
        made.close()


def _touch(made: Made) -> Flow[None]:
    from eventlog.flow import Command

    yield Command("HGET", made.keyspace.meta, ["layout"])


@pytest.mark.parametrize(
    ("timeout", "ms", "expected"), [(None, 5000, LONGEST), (None, 10, 10), (0.5, 5000, 400), (0.001, 5000, 1)]
)
async def test_a_wait_is_shorter_than_the_timeout(
    of_either_kind: Server, timeout: float | None, ms: int, expected: int
) -> None:
    """So that the server is not taken for dead; and never without end."""
    server = of_either_kind
    if server.is_cluster and timeout == 0.001:
        timeout, expected = 0.5, 400
    connections = Connections.from_url(server.url, socket_timeout=timeout)
    clients: list[Any] = [connections.async_client()]
    if timeout != 0.001:
        clients.append(connections.sync_client())
    for client in clients:
        assert block_for(client, ms) == expected
    await connections.aclose()


def test_replies_in_all_forms() -> None:
    """As RESP2, RESP3 and redis-py's callbacks have them."""
    assert keys_in(None) == keys_in([]) == keys_in({}) == []
    assert keys_in([[b"k", [[b"1-0", [b"a", b"b"]]]]]) == [b"k"]
    assert keys_in({b"k": [[(b"1-0", {b"a": b"b"})]], b"l": []}) == [b"k", b"l"]
    assert xread([(b"a", b"1-0"), (b"b", b"0-0")], 7)[-4:] == [b"a", b"b", b"1-0", b"0-0"]

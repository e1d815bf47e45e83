"""Sync calls on connections that stay out of their pool: they find dead ones, never want for one, and end with their pool."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.exceptions as rx
from redis.backoff import NoBackoff
from redis.retry import Retry

from eventlog.connect.connections import Connections
from eventlog.errors import CorruptEntry, PoolExhausted, ServerFailedCommand, ServerUnavailable
from eventlog.flow import Batch, Call, Command, Flow, Script
from eventlog.transport.drivers import Runner
from eventlog.transport.kept import KeptConnections
from tests.forks import in_child
from tests.proxy import Cut, Proxy
from tests.servers import RunningServer, Server

CODE = b"return ARGV[1]"
ECHO = Script("echo", CODE, hashlib.sha1(CODE).hexdigest())
SLOW_CODE = b"local n = 0 for i = 1, 2000000 do n = n + i end return ARGV[1]"
SLOW = Script("slow", SLOW_CODE, hashlib.sha1(SLOW_CODE).hexdigest())


def once(request: Any) -> Flow[Any]:
    return (yield request)


def echo(runner: Runner, word: bytes = b"x", script: Script = ECHO) -> Any:
    return runner.run(once(Call(script, [b"k"], [word])), "key 'k'")


@pytest.fixture
def runner(any_server: Server) -> Iterator[Runner]:
    connections = Connections.from_url(any_server.url)
    yield Runner(connections)
    connections.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_call_keeps_its_connection(single_server: Server, prefix: str) -> None:
    """Calls in turn all use the connection that was used last; to the pool it is in use."""
    connections = Connections.from_url(single_server.url, client_name=prefix)
    runner = Runner(connections)
    with single_server.client() as probe:
        for _ in range(20):
            assert echo(runner) == b"x"
        listed: Any = probe.client_list()
    assert [one["name"] for one in listed].count(prefix) == 1
    connections.close()


@pytest.mark.parametrize("retries", [0, 1])
def test_a_connection_killed_between_calls(any_server: Server, prefix: str, retries: int) -> None:
    """A dead connection is reopened before the call goes out, whatever the retry policy."""
    connections = Connections.from_url(any_server.url, client_name=prefix, retry=Retry(NoBackoff(), retries))
    runner = Runner(connections)
    with any_server.client() as probe:
        for _ in range(3):
            assert echo(runner) == b"x"
            listed: Any = probe.client_list()
            for one in listed:
                if one["name"] == prefix:
                    probe.client_kill_filter(_id=one["id"])
    assert echo(runner) == b"x"
    connections.close()


def test_a_server_restarted_between_calls(private_server: Callable[..., RunningServer], binary: Path) -> None:
    """A call after a restart does not fail, though the server knows neither connection nor script any more."""
    server = private_server(binary=binary)
    connections = Connections.from_url(server.url, retry=Retry(NoBackoff(), 0))
    runner = Runner(connections)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            assert list(threads.map(lambda _: echo(runner), range(40))) == [b"x"] * 40
            server.kill()
            with pytest.raises(ServerUnavailable):
                echo(runner)
            server.restart()
    assert echo(runner) == b"x"
    connections.close()


@pytest.mark.parametrize("how", list(Cut))
def test_a_connection_cut_within_a_call(any_server: Server, how: Cut) -> None:
    """The call is made again as often as the retry policy has it; without retries it fails, and the next one works."""
    with Proxy(any_server.url) as proxy:
        for retries in (1, 0):
            connections = Connections.from_url(proxy.url, retry=Retry(NoBackoff(), retries))
            runner = Runner(connections)
            echo(runner)
            proxy.cut(1, how)
            if retries:
                assert echo(runner, b"y") == b"y"
                assert proxy.commands == [b"EVALSHA", b"EVALSHA"]
            else:
                with pytest.raises(ServerUnavailable):
                    echo(runner, b"y")
            assert echo(runner, b"z") == b"z"
            connections.close()


def test_errors_leave_the_connection_in_step(runner: Runner) -> None:
    """A refused call raises an error, and the next call has its own reply."""
    wrong = b"return redis.call('GET')"
    for word in (b"1", b"2"):
        with pytest.raises(ServerFailedCommand):
            echo(runner, word, Script("wrong", wrong, hashlib.sha1(wrong).hexdigest()))
        assert echo(runner, word) == word


@pytest.mark.parametrize("most", [1, 2, 5])
def test_calls_wait_for_a_connection(any_server: Server, prefix: str, most: int) -> None:
    """Many threads on few connections: calls, commands and batches all come through, on no more connections than allowed."""
    connections = Connections.from_url(any_server.url, max_connections=most, timeout=10, client_name=prefix)
    runner = Runner(connections)
    peak = 0

    def work(number: int) -> None:
        for turn in range(30):
            word = b"%d %d" % (number, turn)
            assert echo(runner, word) == word
            if turn % 7 == number % 7:
                assert runner.run(once(Command("ECHO", word)), "echo") == word
                assert runner.run(once(Batch([Command("ECHO", word)] * 2)), "echo") == [word] * 2

    with ThreadPoolExecutor(24) as threads, any_server.client() as probe:
        working = [threads.submit(work, number) for number in range(24)]
        while not all(one.done() for one in working):
            listed: Any = probe.client_list()
            peak = max(peak, [one["name"] for one in listed].count(prefix))
        for one in working:
            one.result()
    assert peak <= most
    connections.close()


def test_patience_with_a_full_pool_ends(any_server: Server) -> None:
    """A call that finds every connection in use for longer than the pool waits says so."""
    connections = Connections.from_url(any_server.url, max_connections=1, timeout=0.05)
    runner = Runner(connections)
    echo(runner)
    kept = runner._sync_ways().short
    assert isinstance(kept, KeptConnections)
    taken = kept._take()
    with pytest.raises(PoolExhausted):
        echo(runner)
    kept._give_back(taken)
    assert echo(runner) == b"x"
    connections.close()


def test_closing_closes_what_is_kept(any_server: Server) -> None:
    """No connection outlives its pool, and a later call opens a new one."""
    connections = Connections.from_url(any_server.url)
    runner = Runner(connections)
    before = open_files()
    for _ in range(2):
        ready = threading.Barrier(4)

        def work(ready: threading.Barrier = ready) -> None:
            ready.wait()
            echo(runner, script=SLOW)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert open_files() > before
        connections.close()
        assert open_files() == before


def test_a_connection_to_be_replaced(any_server: Server) -> None:
    """A kept connection that redis-py marks goes back to its pool, which reconnects it."""
    connections = Connections.from_url(any_server.url)
    runner = Runner(connections)
    assert echo(runner) == b"x"
    (connection,) = runner._sync_ways().short._idle
    if not hasattr(connection, "mark_for_reconnect"):
        pytest.skip("this version of redis-py does not mark connections")
    connection.mark_for_reconnect()
    assert echo(runner) == b"x"
    assert runner._sync_ways().short._idle == []
    assert echo(runner) == b"x"
    connections.close()


def test_after_a_fork(any_server: Server) -> None:
    """A child opens connections of its own; the parent's go on as before."""
    connections = Connections.from_url(any_server.url)
    runner = Runner(connections)
    shared = Call(ECHO, [b"k"], [b"x"], shared=True)
    assert echo(runner) == b"x"
    assert asyncio.run(runner.arun(once(shared), "k")) == b"x"
    kept = runner._sync_ways().short
    assert kept is not None
    of_the_parent = list(kept._idle)

    def work() -> None:
        assert echo(runner) == b"x"
        assert not set(of_the_parent) & set(kept._idle)
        assert asyncio.run(runner.arun(once(shared), "k")) == b"x"
        connections.close()

    in_child(work)
    assert kept._idle == of_the_parent
    assert echo(runner, b"y") == b"y"
    assert asyncio.run(runner.arun(once(shared), "k")) == b"x"
    connections.close()


def test_connections_that_were_given_go_back(any_server: Server) -> None:
    """A pool that others may use has its connections back after each call."""
    pool = redis.ConnectionPool.from_url(any_server.url, max_connections=1)
    runner = Runner(Connections(pool))
    client = redis.Redis(connection_pool=pool)
    for word in (b"1", b"2"):
        assert echo(runner, word) == word
        assert client.ping()
    pool.disconnect()


def test_a_pool_that_must_see_its_connections_is_left_alone(any_server: Server) -> None:
    """Where credentials are renewed on connections that come back, none is kept."""
    provider = redis.UsernamePasswordCredentialProvider("default", "")
    connections = Connections.from_url(any_server.url, credential_provider=provider)
    runner = Runner(connections)
    assert runner._sync_ways().short is None
    connections.close()


def test_timeouts_are_errors(private_server: Callable[..., RunningServer]) -> None:
    """A server that does not answer in time is an error, and the late reply goes to nobody."""
    server = private_server()
    connections = Connections.from_url(server.url, socket_timeout=0.2, retry=Retry(NoBackoff(), 0))
    runner = Runner(connections)
    assert echo(runner) == b"x"
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(ServerUnavailable) as raised:
        echo(runner, b"late")
    assert isinstance(raised.value.__cause__, rx.TimeoutError)
    os.kill(server.pid, signal.SIGCONT)
    assert echo(runner, b"y") == b"y"
    connections.close()


@pytest.mark.parametrize("then", [None, Command("GET", b"k")], ids=["one reply", "two"])
@pytest.mark.parametrize("reads", [0, 1], ids=["before any reply", "after the first"])
def test_an_interrupted_call_leaves_no_reply_behind(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, then: Command | None, reads: int
) -> None:
    """A caller that is interrupted between sending and reading leaves no reply for the next call."""
    assert echo(runner, b"first") == b"first"
    left = reads
    read = redis.Connection.read_response

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return read(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(redis.Connection, "read_response", interrupted)
        try:
            runner.run(once(Call(ECHO, [b"k"], [b"lost"], then=then)), "key 'k'")
        except KeyboardInterrupt:
            pass
    for word in (b"next", b"last"):
        assert echo(runner, word) == word


def test_a_command_behind_a_call(server: Server) -> None:
    """Both replies come back, in one write where there is no cluster; an error of either is the call's."""
    connections = Connections.from_url(server.url)
    runner = Runner(connections)
    key = b"{behind}k"
    runner.run(once(Command("SET", key, [b"value"])), "key")
    assert runner.run(once(Call(ECHO, [key], [b"x"], then=Command("GET", key))), "key") == (b"x", b"value")
    with pytest.raises(CorruptEntry, match="key: WRONGTYPE"):
        runner.run(once(Call(ECHO, [key], [b"x"], then=Command("LLEN", key))), "key")

    async def both() -> None:
        for shared in (False, True):
            call = Call(ECHO, [key], [b"x"], shared=shared, then=Command("GET", key))
            assert await runner.arun(once(call), "key") == (b"x", b"value")
        await connections.aclose()

    asyncio.run(both())
    runner.run(once(Command("DEL", key)), "key")
    connections.close()

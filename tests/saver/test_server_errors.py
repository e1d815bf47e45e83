"""Servers that are down, full, read-only, closed to us or set up to forget: each is an error of its own, by thread."""

from __future__ import annotations

import os
import shutil
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from eventlog import ActivityFeed
from eventlog.errors import (
    AccessDenied,
    AuthenticationFailed,
    EventLogError,
    InvalidArgument,
    LayoutMismatch,
    ServerLoading,
    ServerMisconfigured,
    ServerOutOfMemory,
    ServerReadOnly,
    ServerUnavailable,
)
from saver import RedisStreamSaver
from tests.saver.drivers import Call
from tests.saver.threads import AT_ONCE, config, keys_of, step, values_of
from tests.servers import RunningServer, Server, free_ports

Launch = Callable[..., RunningServer]
Kind = TypeVar("Kind", bound=EventLogError)

WRITES: list[tuple[str, Callable[[], tuple[Any, ...]]]] = [
    ("put", lambda: (config("t"), *step({"x": 2}))),
    ("put_writes", lambda: (config("t", "", "c"), [("x", 2)], "task")),
]
READS: list[tuple[str, Callable[[], tuple[Any, ...]]]] = [
    ("get_tuple", lambda: (config("t"),)),
    ("list", lambda: (config("t"),)),
    ("get_delta_channel_history", lambda: ()),
]


def saver_on(url: str, **options: Any) -> RedisStreamSaver:
    """A saver that does not try again by itself."""
    return RedisStreamSaver.from_conn_string(url, **{**AT_ONCE, **options})


async def fails(kind: type[Kind], call: Call, saver: Any, method: str, *arguments: Any) -> Kind:
    """The error of a call, which is of `kind`, names the thread and has redis-py's error as its cause."""
    kwargs = {"config": config("t"), "channels": ["x"]} if method == "get_delta_channel_history" else {}
    with pytest.raises(kind, match="thread.*'t'") as caught:
        await call(saver, method, *arguments, **kwargs)
    assert caught.value.__cause__ is not None
    assert "To fix it" in str(caught.value)
    return caught.value


async def all_fail(kind: type[EventLogError], call: Call, saver: Any) -> None:
    """Every method that needs the server fails in the same way."""
    upkeep: list[Any] = [("delete_thread", lambda: ("t",)), ("prune", lambda: (["t"],))]
    for method, arguments in [*WRITES, *READS, *upkeep, ("copy_thread", lambda: ("t", "u"))]:
        await fails(kind, call, saver, method, *arguments())


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait for a server to come to a state."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the server did not come to the state that the test needs"
        time.sleep(0.02)


@pytest.mark.server
@pytest.mark.parametrize("where", ["redis://127.0.0.1:1", "redis+cluster://127.0.0.1:1", "unix:///nowhere/s.sock"])
async def test_server_down(where: str, prefix: str, call: Call) -> None:
    """A refused connection, a cluster without a node and a socket that is not there are a server that cannot be reached."""
    async with saver_on(where, prefix=prefix) as saver:
        await all_fail(ServerUnavailable, call, saver)


async def test_server_dies(private_server: Launch, tmp_path: Path, prefix: str, call: Call) -> None:
    """A server that dies between two calls is an error, never an empty thread; when it is back, the saver goes on."""
    server = private_server("--appendonly", "yes", "--appendfsync", "always", dir=tmp_path)
    async with saver_on(server.url, prefix=prefix) as saver:
        await call(saver, "put", config("t"), *step({"x": 1}))
        server.kill()
        await all_fail(ServerUnavailable, call, saver)
        server.start()
        assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": 1}
        await call(saver, "put", config("t"), *step({"x": 2}))


class _Loading(socketserver.BaseRequestHandler):
    """Answers whatever it is sent as a server that is loading its data."""

    def handle(self) -> None:
        while self.request.recv(65536):
            self.request.sendall(b"-LOADING Redis is loading the dataset in memory\r\n")


@pytest.fixture
def loading() -> Iterator[str]:
    """The address of a server that never ends loading."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Loading) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"redis://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.server
@pytest.mark.parametrize("protocol", [2, 3])
async def test_loading(loading: str, prefix: str, call: Call, protocol: int) -> None:
    """A server that is still loading its data is distinguished from one that is down, at the first word or later."""
    async with saver_on(loading, prefix=prefix, protocol=protocol) as saver:
        for method, arguments in [*WRITES, *READS]:
            await fails(ServerLoading, call, saver, method, *arguments())


async def test_read_only_replica(private_server: Launch, binary: Path, prefix: str, call: Call) -> None:
    """A replica answers reads, those whose views are missing too, and refuses writes as a replica."""
    (port,) = free_ports(1)
    primary = private_server("--repl-diskless-sync-delay", "0", binary=binary, port=port)
    async with saver_on(primary.url, prefix=prefix) as saver:
        await call(saver, "put", config("t"), *step({"x": 1}))
    with primary.client() as client:
        client.delete(keys_of(prefix, "t").head(b""))
    replica = private_server("--replicaof", "127.0.0.1", str(port), binary=binary)
    with replica.client() as client:
        wait_until(lambda: client.info("replication")["master_link_status"] == "up" and client.dbsize())
    async with saver_on(replica.url, prefix=prefix) as saver:
        for method, arguments in [*WRITES, ("delete_thread", lambda: ("t",))]:
            await fails(ServerReadOnly, call, saver, method, *arguments())
        assert len(await call(saver, "list", config("t"))) == 1
        assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": 1}


async def test_too_few_replicas(private_server: Launch, binary: Path, prefix: str, call: Call) -> None:
    """A server that waits for replicas takes no write, and still tells what it has."""
    server = private_server(binary=binary)
    async with saver_on(server.url, prefix=prefix) as saver:
        await call(saver, "put", config("t"), *step({"x": 1}))
        with server.client() as client:
            client.config_set("min-replicas-to-write", 1)
        for method, arguments in WRITES:
            error = await fails(ServerUnavailable, call, saver, method, *arguments())
            assert "min-replicas-to-write" in str(error)
        assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": 1}


async def test_cannot_persist(private_server: Launch, binary: Path, tmp_path: Path, prefix: str, call: Call) -> None:
    """A server that could not write its snapshot takes no more writes, and says why."""
    directory = tmp_path / "gone"
    directory.mkdir()
    server = private_server(binary=binary, dir=directory)
    async with saver_on(server.url, prefix=prefix) as saver:
        await call(saver, "put", config("t"), *step({"x": 1}))
        with server.client() as client:
            client.config_set("save", "3600 1000000")
            shutil.rmtree(directory)
            client.bgsave()
            wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        for method, arguments in WRITES:
            await fails(ServerMisconfigured, call, saver, method, *arguments())
        assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": 1}


async def fill(call: Call, saver: RedisStreamSaver) -> None:
    """Put a large thread and a small one, each with a subgraph."""
    for thread, size in (("t", 1), ("large", 3_000_000)):
        latest = await call(saver, "put", config(thread), *step({"x": 1}))
        await call(saver, "put", config(thread, "sub"), *step({"x": 1}))
        await call(saver, "put_writes", latest, [("x", os.urandom(size))], "task")


async def test_out_of_memory(private_server: Launch, binary: Path, prefix: str, call: Call) -> None:
    """A full server takes no write, tells what it has, and deleting threads works and makes room."""
    server = private_server(binary=binary)
    async with saver_on(server.url, prefix=prefix, partitions=1) as saver:
        await fill(call, saver)
        with server.client() as client:
            client.script_flush("SYNC")  # what Lua holds for the moment counts too, on some servers
            wait_until(
                lambda: client.info("memory")["mem_clients_normal"] < 300_000
            )  # the buffer of the large value is freed
            client.config_set("maxmemory", client.info("memory")["used_memory"] - 500_000)
            for method, arguments in WRITES:
                await fails(ServerOutOfMemory, call, saver, method, *arguments())
            client.delete(keys_of(prefix, "t", 1).head(b""))
            assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": 1}
            assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": 1}
            await call(saver, "delete_thread", "large")
            await call(saver, "put", config("t"), *step({"x": 2}))
            kept = client.keys(f"*{prefix}*large*")
            announced: Any = client.xrevrange(keys_of(prefix, "t", 1).shared.feed, count=2)
        assert kept == []
        assert [fields[b"kind"] for _, fields in announced] == [b"checkpoint", b"deleted"]


async def test_delete_that_makes_too_little_room(private_server: Launch, binary: Path, prefix: str, call: Call) -> None:
    """On a server that stays full a deletion frees what it can and says so; it is finished, tombstone and all, by a later call."""
    server = private_server(binary=binary)
    async with saver_on(server.url, prefix=prefix, partitions=1) as saver:
        await fill(call, saver)
        with server.client() as client:
            client.script_flush("SYNC")  # what Lua holds for the moment counts too, on some servers
            wait_until(
                lambda: client.info("memory")["mem_clients_normal"] < 300_000
            )  # the buffer of the large value is freed
            client.config_set("maxmemory", client.info("memory")["used_memory"] - 500_000)
            await fails(ServerOutOfMemory, call, saver, "delete_thread", "t")
            client.config_set("maxmemory", 0)
            with pytest.raises(EventLogError, match="'t'"):
                await call(saver, "get_tuple", config("t"))
            await call(saver, "delete_thread", "t")
            assert client.keys(f"*{prefix}*:t") == []
            feed = [fields[b"kind"] for _, fields in client.xrange(f"{{{prefix}:0}}:feed") if fields[b"thread"] == b"t"]
            assert [b"deleted"] == [kind for kind in feed if kind == b"deleted"]
        assert await call(saver, "get_tuple", config("t")) is None


async def test_wrong_password(private_server: Launch, binary: Path, prefix: str, call: Call) -> None:
    """No password and a wrong one are distinguished from a server that is down, and the password is not repeated."""
    server = private_server("--requirepass", "right", binary=binary)
    for options in ({}, {"password": "my-wrong-one"}, {"username": "nobody", "password": "my-wrong-one"}):
        async with saver_on(server.url, prefix=prefix, **options) as saver:
            for method, arguments in [*WRITES, *READS]:
                error = await fails(AuthenticationFailed, call, saver, method, *arguments())
                assert "my-wrong-one" not in str(error)


@pytest.mark.parametrize("rights", [["-xadd"], ["-evalsha", "-eval"], ["-@write"]], ids=" ".join)
async def test_too_few_rights(private_server: Launch, binary: Path, prefix: str, call: Call, rights: list[str]) -> None:
    """A user who may not run a command, in a script or outside, is denied access."""
    server = private_server(binary=binary)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "weak", "on", ">pw", "~*", "+@all", *rights)
    async with saver_on(server.url, prefix=prefix, username="weak", password="pw") as saver:
        for method, arguments in WRITES:
            await fails(AccessDenied, call, saver, method, *arguments())


async def test_a_reader_without_an_index(private_server: Launch, binary: Path, prefix: str, call: Call) -> None:
    """A user who may only read gets an error that names the calls that work without an index, and can call them."""
    server = private_server(binary=binary)
    async with saver_on(server.url, prefix=prefix) as saver:
        await fill(call, saver)
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "auditor", "on", ">pw", "~*", "+@read", "+@connection", "+eval", "+evalsha", "+info"
        )
        client.delete(*(key for key in client.keys("*") if b":index:" in key or b":head:" in key))
    async with saver_on(server.url, prefix=prefix, username="auditor", password="pw") as saver:
        error = await fails(AccessDenied, call, saver, "get_tuple", config("t"))
        assert "get_tuple_as_of" in str(error)
        assert await call(saver, "get_tuple_as_of", config("t"), 1) is not None


async def test_keys_of_others(private_server: Launch, binary: Path, prefix: str, call: Call) -> None:
    """A user who may not touch the prefix is denied access to it."""
    server = private_server(binary=binary)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "other", "on", ">pw", "~other:*", "+@all")
    async with saver_on(server.url, prefix=prefix, username="other", password="pw") as saver:
        for method, arguments in [*WRITES, *READS]:
            await fails(AccessDenied, call, saver, method, *arguments())


@pytest.mark.parametrize(
    ("policy", "ttl", "refused"),
    [
        ("allkeys-lru", None, True),
        ("allkeys-random", 5, True),
        ("volatile-lru", 5, True),
        ("volatile-ttl", None, False),
        ("noeviction", 5, False),
    ],
)
async def test_eviction_policy(
    private_server: Launch, prefix: str, call: Call, policy: str, ttl: float | None, refused: bool
) -> None:
    """A server that may evict logs is refused at the first use; one that evicts what has a ttl, where there is a ttl."""
    server = private_server("--maxmemory-policy", policy)
    async with saver_on(server.url, prefix=prefix, ttl=ttl) as saver:
        if not refused:
            await call(saver, "put", config("t"), *step({"x": 1}))
            return
        for method, arguments in [*WRITES, *READS[:2], ("setup", lambda: ())]:
            with pytest.raises(ServerMisconfigured, match=f"{policy}.*noeviction"):
                await call(saver, method, *arguments())
        with server.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
        await call(saver, "put", config("t"), *step({"x": 1}))


async def test_other_partitions(server: Server, prefix: str, call: Call) -> None:
    """A prefix keeps the number of partitions it began with; a saver with another gets both in the error."""
    async with saver_on(server.url, prefix=prefix, partitions=4) as first:
        await call(first, "put", config("t"), *step({"x": 1}))
    async with saver_on(server.url, prefix=prefix) as saver:
        for method, arguments in [*WRITES, *READS[:2], ("delete_thread", lambda: ("t",))]:
            with pytest.raises(LayoutMismatch, match=f"{prefix}.*partitions=4.*partitions=16"):
                await call(saver, method, *arguments())
    async with saver_on(server.url, prefix=prefix, partitions=4) as saver:
        assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": 1}


@pytest.mark.parametrize(
    "layout",
    [{"layout": "2", "partitions": "16"}, {"layout": "x"}, {"layout": "1"}, {"layout": "9" * 5000, "partitions": "1"}],
    ids=lambda layout: str(layout)[:30],
)
async def test_other_layout(any_server: Server, prefix: str, call: Call, layout: dict[str, str]) -> None:
    """A prefix laid out by another version, or by something else, is refused."""
    with any_server.client() as client:
        client.hset(f"{prefix}:meta", mapping=layout)
    async with saver_on(any_server.url, prefix=prefix) as saver:
        with pytest.raises(LayoutMismatch, match=f"{prefix}.*layout"):
            await call(saver, "get_tuple", config("t"))
    with (
        ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed,
        pytest.raises(LayoutMismatch, match=prefix),
    ):
        feed.now()


@pytest.mark.parametrize("bad", ["", "{a}", "a{", "}", "\ud800", None, b"a"])
def test_bad_prefix(any_server: Server, bad: Any) -> None:
    """A prefix has to be text without braces, which would move its keys to other slots."""
    with pytest.raises((InvalidArgument, TypeError), match="prefix"):
        saver_on(any_server.url, prefix=bad)


@pytest.mark.parametrize("bad", [0, -1, 16385, True, 1.0, "16", None])
def test_bad_partitions(any_server: Server, prefix: str, bad: Any) -> None:
    """The number of partitions is an int that a cluster has slots for."""
    with pytest.raises((InvalidArgument, TypeError), match="partitions"):
        saver_on(any_server.url, prefix=prefix, partitions=bad)

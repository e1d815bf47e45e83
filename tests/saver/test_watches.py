"""Transactions on a watched thread: when they are used, and what a broken connection, another writer or a server's refusal does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.backoff import NoBackoff
from redis.retry import Retry

from eventlog.errors import CorruptEntry, ServerOutOfMemory, ServerReadOnly, ServerUnavailable
from eventlog.transport import watched
from saver import RedisStreamSaver
from tests.forks import in_child
from tests.proxy import Cut, Proxy
from tests.saver.audit import config, put_of, value_of
from tests.saver.threads import keys_of
from tests.servers import RunningServer, Server


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine does not keep a connection from watching."""
    monkeypatch.setattr(watched, "LAG", 60.0)


Launch = Callable[..., RunningServer]


def replies(client: Any, command: str) -> int:
    """How often a server carried a command out."""
    found: Any = client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})
    return int(found["calls"])


def needs_transactions(client: Any) -> None:
    if client.info("server")["redis_version"] < "7":
        pytest.skip("its scripts do not learn of a full memory within a transaction")


def begin(saver: RedisStreamSaver, thread: str = "t", last: int = 3) -> None:
    """A line of checkpoints, each with writes. The next checkpoint or writes may be a transaction."""
    for number in range(1, last + 1):
        saver.put(*put_of(thread, number, number - 1 or None))
        saver.put_writes(config(thread, number), [("n", number)], "task")


def whole(saver: RedisStreamSaver, thread: str, events: int) -> None:
    """Asserts that a thread has so many events, and that all views agree."""
    checked = saver.check(thread)
    assert (checked.events, checked.differences) == (events, ())
    assert saver.verify(thread).findings == ()


@contextmanager
def transactions(client: Any, expected: int) -> Iterator[None]:
    """Asserts how many transactions a block causes."""
    before = replies(client, "exec")
    yield
    assert replies(client, "exec") - before == expected


def test_a_run_goes_by_transactions(single_server: Server, prefix: str) -> None:
    """After its first put, a run's puts and writes are transactions; each event is announced."""
    with single_server.client() as client, RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix) as saver:
        needs_transactions(client)
        with transactions(client, 19):
            begin(saver, last=10)
        whole(saver, "t", 20)
        feed: Any = client.xrange(keys_of(prefix, "t", 16).shared.feed)
        assert [fields[b"seq"] for _, fields in feed] == [b"%d" % number for number in range(1, 21)]
        assert saver.get_tuple(config("t")).checkpoint["channel_values"] == {"n": value_of(10)}  # type: ignore[union-attr]


def test_another_writer_is_noticed(single_server: Server, prefix: str) -> None:
    """Savers that take turns lose no event, though each one's watch is always broken."""
    with (
        RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix) as saver,
        RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix) as other,
    ):
        begin(saver)
        for number in range(4, 20):
            (saver if number % 3 else other).put(*put_of("t", number, number - 1))
        whole(saver, "t", 22)


@pytest.mark.parametrize("how", list(Cut))
def test_a_connection_cut_within_a_transaction(single_server: Server, prefix: str, how: Cut) -> None:
    """Wherever the connection ends, the event is appended once, by a script if necessary."""
    with Proxy(single_server.url) as proxy, single_server.client() as client:
        needs_transactions(client)
        options: Any = {"retry": Retry(NoBackoff(), 1)}
        with RedisStreamSaver.from_conn_string(proxy.url, prefix=prefix, **options) as saver:
            for at in range(1, 15):
                thread = f"t{at}"
                begin(saver, thread)
                proxy.cut(at, how)
                saver.put(*put_of(thread, 4, 3))
                assert proxy.commands[0] == b"MULTI"
                assert proxy.cuts or at > 12
                proxy.cut(at, how)
                saver.put_writes(config(thread, 4), [("n", 1)], "task")
                proxy.plan()
                whole(saver, thread, 8)


def test_a_client_killed_within_a_transaction(single_server: Server, prefix: str) -> None:
    """A process that dies between MULTI and EXEC has written nothing."""
    with single_server.client() as client:
        needs_transactions(client)

    def work() -> None:
        saver = RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix)
        begin(saver)
        watching = saver._runner._sync_ways().short._watching
        (place,) = watching._places.values()
        place.connection._sock = place.socket = _Dying(place.socket)
        saver.put(*put_of("t", 4, 3))

    with pytest.raises(AssertionError):
        in_child(work)
    with RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix) as saver:
        whole(saver, "t", 6)
        saver.put(*put_of("t", 4, 3))
        whole(saver, "t", 7)


class _Dying:
    """A socket that sends the first part of a transaction, and ends the process."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def sendall(self, data: bytes) -> None:
        self._real.sendall(data[: data.index(b"EXEC")])
        os.kill(os.getpid(), signal.SIGKILL)


def test_connections_killed_between_calls(single_server: Server, prefix: str) -> None:
    """A watch that died with its connection is not trusted, though redis-py would connect again."""
    options: Any = {"client_name": prefix}
    with (
        single_server.client() as client,
        RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix, **options) as saver,
        RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix) as other,
    ):
        begin(saver)
        for number in range(4, 8):
            listed: Any = client.client_list()
            for one in listed:
                if one["name"] == prefix:
                    client.client_kill_filter(_id=one["id"])
            if number % 2:
                other.put_writes(config("t", number - 1), [("n", 1)], "other")
            saver.put(*put_of("t", number, number - 1))
        whole(saver, "t", 12)


def test_a_forked_child_leaves_the_watch_alone(single_server: Server, prefix: str) -> None:
    """Parent and child go on with one thread in turn, each on connections of its own."""
    with RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix) as saver:
        begin(saver)
        in_child(lambda: saver.put(*put_of("t", 4, 3)))
        saver.put(*put_of("t", 5, 4))
        in_child(lambda: saver.put(*put_of("t", 6, 5)))
        saver.put(*put_of("t", 7, 6))
        whole(saver, "t", 10)


def test_a_server_that_refuses_to_watch(single_server: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """There is one warning, and puts go on by scripts."""
    with single_server.client() as client:
        client.execute_command("ACL SETUSER", prefix, "reset", "on", ">x", "~*", "+@all", "-watch")
        options: Any = {"username": prefix, "password": "x"}
        with RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix, **options) as saver:
            begin(saver)
            assert len([message for message in caplog.messages if "refuses WATCH" in message]) == 1
            with transactions(client, 0):
                saver.put(*put_of("t", 4, 3))
            whole(saver, "t", 7)
        client.execute_command("ACL DELUSER", prefix)


def test_a_server_that_refuses_writes(private_server: Launch, binary: Path) -> None:
    """A transaction that a full or read-only server discards raises what a script raises; afterwards it goes on."""
    server = private_server(binary=binary)
    with server.client() as client, RedisStreamSaver.from_conn_string(server.url) as saver:
        begin(saver)
        client.config_set("maxmemory", 1)
        with pytest.raises(ServerOutOfMemory):
            saver.put(*put_of("t", 4, 3))
        with pytest.raises(ServerOutOfMemory):
            saver.put_writes(config("t", 3), [("n", 1)], "other")
        client.config_set("maxmemory", 0)
        begin(saver, "u")
        client.config_set("min-replicas-to-write", 1)
        with pytest.raises(ServerUnavailable, match="NOREPLICAS"):
            saver.put(*put_of("u", 4, 3))
        client.config_set("min-replicas-to-write", 0)
        begin(saver, "v")
        client.replicaof("localhost", 1)
        with pytest.raises(ServerReadOnly):
            saver.put(*put_of("v", 4, 3))
        client.replicaof("NO", "ONE")
        for thread in ("t", "u", "v"):
            saver.put(*put_of(thread, 4, 3))
            whole(saver, thread, 7)


@pytest.mark.parametrize("most", [1, 2, 4])
def test_more_threads_than_connections(single_server: Server, prefix: str, most: int) -> None:
    """Watches take at most half of a pool, and go back where a call waits for a connection."""
    with RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix, max_connections=most) as saver:

        def work(number: int) -> None:
            begin(saver, f"t{number}")
            assert len(list(saver.list(config(f"t{number}")))) == 3

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(16)))
            list(threads.map(lambda number: saver.put(*put_of(f"t{number}", 4, 3)), range(16)))
        for number in range(16):
            whole(saver, f"t{number}", 7)


def test_threads_beyond_the_bound_leave_the_others_their_watch(single_server: Server, prefix: str) -> None:
    """Where more threads are at work than may be watched, some are watched throughout, and the others go by scripts."""
    with (
        single_server.client() as client,
        RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix, max_connections=4) as saver,
    ):
        needs_transactions(client)
        for number in range(1, 4):
            with transactions(client, 2 if number > 1 else 0):
                for thread in "abcdef":
                    saver.put(*put_of(thread, number, number - 1 or None))
        for thread in "abcdef":
            whole(saver, thread, 3)


def test_calls_of_one_thread_at_once(single_server: Server, prefix: str) -> None:
    """Writes of many tasks at once, as LangGraph sends them, are all appended, one after the other."""
    with single_server.client() as client, RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix) as saver:
        needs_transactions(client)
        begin(saver)
        before = replies(client, "exec")
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda task: saver.put_writes(config("t", 3), [("n", 1)], f"t{task}"), range(40)))
        assert replies(client, "exec") > before  # a thread that waited for long takes a script
        whole(saver, "t", 46)


def test_keys_that_are_deleted_by_hand(single_server: Server, prefix: str) -> None:
    """A view that is gone is rebuilt: no transaction adds to the part of it that a command would begin again."""
    keys = keys_of(prefix, "t", 16)
    with single_server.client() as client, RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix) as saver:
        begin(saver)
        number = 3
        for key in (
            keys.index,
            keys.order,
            keys.head(b""),
            keys.shared.threads,
            keys.shared.runs,
            keys.shared.expiries,
        ):
            for _ in range(2):
                client.delete(key)
                number += 1
                saver.put(*put_of("t", number, number - 1))
                saver.put(*put_of("t", number + 1, number))
                number += 1
        assert [found.config for found in saver.list(None, limit=1)] == [saver.get_tuple(config("t")).config]  # type: ignore[union-attr]
        whole(saver, "t", number + 3)


def test_a_feed_of_another_type(single_server: Server, prefix: str) -> None:
    """It is an error, and no later call takes a half-written event for a whole one."""
    keys = keys_of(prefix, "t", 16)
    with single_server.client() as client, RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix) as saver:
        begin(saver)
        client.rename(keys.shared.feed, keys.shared.feed + b":aside")
        client.set(keys.shared.feed, "by hand")
        with pytest.raises(CorruptEntry, match="another type"):
            saver.put(*put_of("t", 4, 3))
        client.rename(keys.shared.feed + b":aside", keys.shared.feed)
        saver.put(*put_of("t", 5, 4))
        assert saver.check("t").differences == ()

"""Calls in flight together on one loop: they share writes, keep their order, and fail or are cancelled one by one."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import socket
import tempfile
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.exceptions as rx
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from eventlog.connect.connections import Connections
from eventlog.errors import (
    CorruptEntry,
    EventLogError,
    SaverClosed,
    ServerError,
    ServerOutOfMemory,
    ServerReadOnly,
    ServerUnavailable,
)
from eventlog.flow import Argument, Call, Command, Flow, Script
from eventlog.transport import sharing, steps
from eventlog.transport.drivers import Runner
from eventlog.transport.wire import Wire
from tests.proxy import Cut, Proxy
from tests.servers import RunningServer, Server


def script(source: str) -> Script:
    code = source.encode()
    return Script("test", code, hashlib.sha1(code).hexdigest())


ADD = script("redis.call('RPUSH', KEYS[1], ARGV[1]) return ARGV[1]")
ADD_TOO = script("redis.call('RPUSH', KEYS[1], ARGV[1]) return {ARGV[1]}")
MARK = script("redis.call('SADD', KEYS[1], ARGV[1]) return ARGV[1]")
ECHO = script("return ARGV[1]")
REFUSED = script("return redis.error_reply('READONLY not yet')")
REFUSED_ONCE = script(
    "if redis.call('INCR', KEYS[1]) == 1 then return redis.error_reply('READONLY not yet') end return ARGV[1]"
)


def once(request: Call | Command) -> Flow[Any]:
    return (yield request)


class Caller:
    """Makes shared calls on keys of the test's own."""

    def __init__(self, runner: Runner, prefix: str) -> None:
        self.runner = runner
        self.prefix = prefix

    def key(self, name: object) -> bytes:
        return f"{{{self.prefix}}}:{name}".encode()

    async def __call__(self, code: Script, name: object, argument: Argument = b"") -> Any:
        call = Call(code, [self.key(name)], [argument], shared=True)
        return await self.runner.arun(once(call), f"key {name!r}")

    async def warm(self) -> None:
        """Open the connections of every slot, and make the scripts known."""
        for code in (ADD, MARK, ECHO):
            await asyncio.gather(*(self(code, f"{code.sha}{number}") for number in range(4)))

    def list_of(self, client: Any, name: object) -> list[bytes]:
        return list(client.lrange(self.key(name), 0, -1))


class Relay:
    """Passes bytes between clients and a server, notes each piece, and can stop either direction."""

    def __init__(self, url: str, path: str) -> None:
        self.upstream = url.removeprefix("unix://")
        self.path = path
        self.url = f"unix://{self.path}"
        self.pieces: list[bytes] = []
        self.arrived = threading.Condition()
        self.requests, self.replies = threading.Event(), threading.Event()
        self.requests.set()
        self.replies.set()
        self.sockets: list[socket.socket] = []
        self.threads: list[threading.Thread] = []
        self.listener = self.keep(socket.socket(socket.AF_UNIX))
        self.listener.bind(self.path)
        self.listener.listen(64)
        self.start(self.accept)

    def calls(self) -> list[int]:
        """How many calls arrived in each piece that had any."""
        return [count for piece in self.pieces if (count := piece.count(b"EVALSHA"))]

    async def seen(self, count: int) -> None:
        """Wait until so many calls arrived."""

        def wait() -> None:
            with self.arrived:
                assert self.arrived.wait_for(lambda: sum(self.calls()) >= count, 10), self.calls()

        await asyncio.to_thread(wait)

    def keep(self, made: socket.socket) -> socket.socket:
        self.sockets.append(made)
        return made

    def start(self, target: Callable[..., None], *arguments: object) -> None:
        self.threads.append(threading.Thread(target=target, args=arguments))
        self.threads[-1].start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self.keep(self.listener.accept()[0])
                server = self.keep(socket.socket(socket.AF_UNIX))
                server.connect(self.upstream)
                self.start(self.carry, client, server, self.requests, self.pieces)
                self.start(self.carry, server, client, self.replies, [])

    def carry(self, source: socket.socket, target: socket.socket, gate: threading.Event, pieces: list[bytes]) -> None:
        with suppress(OSError):
            while True:
                if pieces is self.pieces:
                    gate.wait()
                if not (data := source.recv(2**20)):
                    break
                with self.arrived:
                    pieces.append(data)
                    self.arrived.notify_all()
                gate.wait()
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.requests.set()
        self.replies.set()
        for end in (self.listener, *self.sockets):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        for end in self.sockets:
            end.close()


@pytest.fixture
def relay(any_server: Server) -> Iterator[Relay]:
    """A relay in front of the one quick server."""
    with tempfile.TemporaryDirectory(prefix="relay-") as home:
        opened = Relay(any_server.url, f"{home}/s")
        yield opened
        opened.close()


@asynccontextmanager
async def calling(url: str, prefix: str, **options: Any) -> AsyncIterator[Caller]:
    """A caller on connections of its own."""
    connections = Connections.from_url(url, **options)
    try:
        yield Caller(Runner(connections), prefix)
    finally:
        await connections.aclose()


@pytest.fixture
async def caller(any_server: Server, prefix: str) -> AsyncIterator[Caller]:
    async with calling(any_server.url, prefix) as made:
        yield made


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """The commands of every exchange."""
    seen: list[list[bytes]] = []
    exchange = Wire.exchange

    async def noting(
        self: Wire, connection: Any, commands: list[bytes], counts: list[int], settle: Callable[[int, Any], None]
    ) -> None:
        seen.append(commands)
        await exchange(self, connection, commands, counts, settle)

    monkeypatch.setattr(Wire, "exchange", noting)
    return seen


async def failures(calls: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


# Going out


async def test_calls_in_flight_share_writes(any_server: Server, prefix: str, relay: Relay) -> None:
    """Calls that come while one is under way go out together, in one write."""
    async with calling(relay.url, prefix) as caller:
        await caller.warm()
        relay.pieces.clear()
        relay.replies.clear()
        first = asyncio.create_task(caller(ECHO, "first", b"0"))
        await relay.seen(1)
        others = [asyncio.create_task(caller(ECHO, number, number)) for number in range(30)]
        await relay.seen(31)
        assert relay.calls() == [1, 30]
        relay.replies.set()
        assert await first == b"0"
        assert await asyncio.gather(*others) == [b"%d" % number for number in range(30)]


async def test_calls_gather_while_every_slot_is_taken(any_server: Server, prefix: str, relay: Relay) -> None:
    """What comes while as much is under way as may be waits, and then goes out together."""
    async with calling(relay.url, prefix) as caller:
        await caller.warm()
        relay.pieces.clear()
        relay.replies.clear()
        calls = []
        for number in range(sharing.SLOTS):
            calls.append(asyncio.create_task(caller(ECHO, number)))
            await relay.seen(number + 1)
        calls += [asyncio.create_task(caller(ECHO, f"later {number}")) for number in range(30)]
        await asyncio.sleep(0.01)
        assert relay.calls() == [1] * sharing.SLOTS
        relay.replies.set()
        await asyncio.gather(*calls)
        assert relay.calls() == [1] * sharing.SLOTS + [30]


async def test_a_lone_call_goes_out_at_once(any_server: Server, caller: Caller) -> None:
    """With nothing under way a call is written before the event loop turns."""
    await caller(ADD, "k", "warm")
    call = caller(ADD, "k", "lone")
    waits_for = call.send(None)
    with any_server.client() as probe:
        while caller.list_of(probe, "k") != [b"warm", b"lone"]:
            pass
    with pytest.raises(StopIteration) as ended:
        while True:
            await asyncio.wait([waits_for])
            waits_for = call.send(None)
    assert ended.value.value == b"lone"


async def test_batches_are_bounded(caller: Caller, batches: list[list[bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch has more calls or bytes than it may, and every call is answered."""
    replies = await asyncio.gather(*(caller(ECHO, number, b"%05d" % number * 50) for number in range(300)))
    assert replies == [b"%05d" % number * 50 for number in range(300)]
    assert max(map(len, batches)) == sharing.BATCH_CALLS
    batches.clear()
    monkeypatch.setattr(sharing, "BATCH_BYTES", 20_000)
    await asyncio.gather(*(caller(ECHO, number, b"x" * 5000) for number in range(30)))
    assert max(map(len, batches)) == 4


async def test_a_big_call_goes_alone(caller: Caller, batches: list[list[bytes]]) -> None:
    """A call of many bytes shares with none, and others do not wait for it; calls on its key keep their order."""
    big = b"x" * (sharing.ALONE_BYTES + 1)
    before = [caller(ADD, "k", number) for number in range(10)]
    after = [caller(ADD, "k", number) for number in range(10, 20)]
    await asyncio.gather(*before, caller(ADD, "k", big), *after, *(caller(ADD, "other", big) for _ in range(3)))
    assert sum(map(len, batches)) >= 24
    assert all(len(batch) == 1 for batch in batches if max(map(len, batch)) > sharing.ALONE_BYTES)
    order = await caller.runner.arun(once(Command("LRANGE", caller.key("k"), [0, -1])), "k")
    assert order == [b"%d" % number for number in range(10)] + [big] + [b"%d" % number for number in range(10, 20)]


async def test_512_calls_at_once(single_server: Server, prefix: str) -> None:
    """Many calls on few connections all come through."""
    async with calling(single_server.url, prefix, max_connections=2) as caller:
        replies = await asyncio.gather(*(caller(ADD, number % 100, number) for number in range(512)))
        assert replies == [b"%d" % number for number in range(512)]


async def test_a_given_pool_with_one_connection(any_server: Server, prefix: str) -> None:
    """Calls wait for the only connection of a pool that raises rather than wait, which is left as it was."""
    pool = redis.asyncio.ConnectionPool.from_url(any_server.url, max_connections=1)
    caller = Caller(Runner(Connections(async_connection=pool)), prefix)
    replies = await asyncio.gather(*(caller(ADD, number % 10, number) for number in range(100)))
    assert replies == [b"%d" % number for number in range(100)]
    await redis.asyncio.Redis(connection_pool=pool).ping()
    await pool.aclose()


async def test_a_pool_that_stays_exhausted_is_an_error(
    any_server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience ends for every call, and the next ones work once there is a connection."""
    monkeypatch.setattr(steps, "PATIENCE", 0.0)
    pool = redis.asyncio.ConnectionPool.from_url(any_server.url, max_connections=1)
    caller = Caller(Runner(Connections(async_connection=pool)), prefix)
    taken = await pool.get_connection()  # type: ignore[no-untyped-call,unused-ignore]
    found = await failures([caller(ECHO, number) for number in range(5)])
    assert {type(error).__name__ for error in found} == {"PoolExhausted"}
    await pool.release(taken)
    assert await caller(ECHO, "k", b"x") == b"x"
    await pool.aclose()


def test_many_loops_in_many_threads(any_server: Server, prefix: str) -> None:
    """Loops that run at once in threads share one runner, and no connection."""
    connections = Connections.from_url(any_server.url)
    caller = Caller(Runner(connections), prefix)
    done: list[int] = []

    async def calls(place: int) -> None:
        replies = await asyncio.gather(*(caller(ADD, f"{place}.{number % 7}", number) for number in range(100)))
        assert replies == [b"%d" % number for number in range(100)]
        done.append(place)

    threads = [threading.Thread(target=lambda place=place: asyncio.run(calls(place))) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(6))
    connections.close()


# Order


@pytest.mark.parametrize("known", [[], [ADD], [ADD_TOO], [ADD, ADD_TOO]], ids=["none", "one", "other", "both"])
async def test_calls_on_a_key_keep_their_order(
    private_server: Callable[..., RunningServer], prefix: str, known: list[Script]
) -> None:
    """Whatever scripts the server knows, calls on one key are carried out as they were made, and each has its own reply."""
    server = private_server()
    async with calling(server.url, prefix) as caller:
        with server.client() as probe:
            for code in known:
                probe.script_load(code.source)
            scripts = [ADD, ADD_TOO, ADD_TOO, ADD, ADD]
            replies = await asyncio.gather(*(caller(scripts[number % 5], number % 7, number) for number in range(400)))
            assert [reply if isinstance(reply, bytes) else reply[0] for reply in replies] == [
                b"%d" % number for number in range(400)
            ]
            for name in range(7):
                assert caller.list_of(probe, name) == [b"%d" % number for number in range(name, 400, 7)]


async def test_a_script_is_sent_whole_only_where_it_has_to_be(
    private_server: Callable[..., RunningServer], prefix: str, batches: list[list[bytes]]
) -> None:
    """Where a server forgot a script, each batch sends it whole once at most."""
    server = private_server()
    async with calling(server.url, prefix) as caller:
        await caller.warm()
        with server.client() as probe:
            probe.script_flush()
        batches.clear()
        replies = await asyncio.gather(
            caller(ECHO, "first"), *(caller(ADD if number % 3 == 0 else ECHO, number, number) for number in range(30))
        )
        assert replies[1:] == [b"%d" % number for number in range(30)]
        sent = [command for batch in batches for command in batch]
        assert sum(b"$4\r\nEVAL\r\n" in command for command in sent) <= 3
        assert len(batches) <= 4


# Errors of one call


async def test_an_error_reaches_its_own_call_only(single_server: Server, prefix: str) -> None:
    """What the server says to one call is no matter of the others in its batch."""
    async with calling(single_server.url, prefix) as caller:
        await caller(MARK, "set", "x")
        calls = [caller(ADD, "set" if number % 10 == 5 else number, number) for number in range(60)]
        found = await failures(calls)
    for number, reply in enumerate(found):
        if number % 10 == 5:
            assert isinstance(reply, CorruptEntry)
            assert "key 'set'" in str(reply)
        else:
            assert reply == b"%d" % number
    errors = [reply.__cause__ for reply in found if isinstance(reply, EventLogError)]
    assert len(set(map(id, errors))) == 6


async def test_a_full_server_refuses_writes_alone(private_server: Callable[..., RunningServer], prefix: str) -> None:
    """Only calls that write raise the out-of-memory error; those that read in the same batch have their replies."""
    server = private_server("--maxmemory", "100mb", "--maxmemory-policy", "noeviction")
    async with calling(server.url, prefix) as caller:
        await asyncio.gather(*(caller(code, code.sha) for code in (ADD, ECHO)))
        with server.client() as probe:
            probe.config_set("maxmemory", "1mb")
        found = await failures([caller(ECHO if number % 2 else ADD, number, number) for number in range(20)])
    for number, reply in enumerate(found):
        if number % 2:
            assert reply == b"%d" % number
        else:
            assert isinstance(reply, ServerOutOfMemory)


async def test_a_replica_refuses_writes_alone(private_server: Callable[..., RunningServer], prefix: str) -> None:
    """Only calls that write raise the error of a read-only server."""
    server = private_server()
    async with calling(server.url, prefix) as caller:
        await asyncio.gather(*(caller(code, code.sha) for code in (ADD, ECHO)))
        with server.client() as probe:
            probe.replicaof("127.0.0.1", "1")
        found = await failures([caller(ECHO if number % 2 else ADD, number, number) for number in range(20)])
    assert [type(reply) for reply in found] == [ServerReadOnly, bytes] * 10


async def test_a_reply_that_the_policy_retries(any_server: Server, prefix: str, batches: list[list[bytes]]) -> None:
    """An error reply that the caller's retry policy covers is tried again, for its own call."""
    policy = Retry(NoBackoff(), 2, supported_errors=(rx.ConnectionError, rx.TimeoutError, rx.ReadOnlyError))
    async with calling(any_server.url, prefix, retry=policy) as caller:
        await caller(ECHO, "warm")
        replies = await asyncio.gather(
            *(caller(REFUSED_ONCE if number % 5 == 0 else ECHO, number, number) for number in range(20))
        )
    assert replies == [b"%d" % number for number in range(20)]
    assert len(batches) < 10


async def test_a_reply_that_the_policy_retries_for_good(any_server: Server, prefix: str) -> None:
    """A call and the command after it are repeated together; an error that stays reaches its caller."""
    policy = Retry(NoBackoff(), 2, supported_errors=(rx.ConnectionError, rx.TimeoutError, rx.ReadOnlyError))
    async with calling(any_server.url, prefix, retry=policy) as caller:
        key = caller.key("k")
        then = Command("STRLEN", key)
        call = Call(REFUSED_ONCE, [key], [b"x"], shared=True, then=then)
        reply, length = await caller.runner.arun(once(call), "k")
        assert (reply, length >= 0) == (b"x", True)
        with pytest.raises(ServerReadOnly):
            await caller(REFUSED, "k")


def test_an_error_that_cannot_be_copied() -> None:
    """Callers of a batch share an error whose constructor takes other arguments."""

    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(one + two)

    error = Odd(1, 2)
    assert sharing._copy_of(error) is error
    copied = sharing._copy_of(rx.TimeoutError("slow"))
    assert str(copied) == "slow"


# Cancelled callers


async def test_a_call_cancelled_before_it_is_sent_is_dropped(any_server: Server, prefix: str, relay: Relay) -> None:
    """It never reaches the server; those beside it do."""
    async with calling(relay.url, prefix) as caller:
        await caller.warm()
        relay.replies.clear()
        under_way = [asyncio.create_task(caller(ADD, f"slot {number}")) for number in range(2)]
        await asyncio.sleep(0.01)
        waiting = [asyncio.create_task(caller(ADD, "k", number)) for number in range(10)]
        await asyncio.sleep(0.01)
        for task in waiting[::2]:
            task.cancel()
        relay.replies.set()
        found = await failures([*under_way, *waiting])
        assert [type(one) for one in found[2:]] == [asyncio.CancelledError, bytes] * 5
        with any_server.client() as probe:
            assert caller.list_of(probe, "k") == [b"%d" % number for number in range(1, 10, 2)]


@pytest.mark.parametrize("which", [[0], [1], [5], [20], [3, 4, 5], range(21)], ids=str)
async def test_calls_cancelled_after_they_were_sent(
    any_server: Server, prefix: str, relay: Relay, which: Sequence[int]
) -> None:
    """Their replies are thrown away; every other call, and every later one, has its own."""
    async with calling(relay.url, prefix) as caller:
        await caller.warm()
        relay.pieces.clear()
        relay.replies.clear()
        calls = [asyncio.create_task(caller(ECHO, number, number)) for number in range(21)]
        await relay.seen(21)
        for number in which:
            calls[number].cancel()
        await asyncio.sleep(0)
        relay.replies.set()
        found = await failures(calls)
        for number, reply in enumerate(found):
            assert isinstance(reply, asyncio.CancelledError) if number in which else reply == b"%d" % number
        again = await asyncio.gather(*(caller(ECHO, number, b"again %d" % number) for number in range(30)))
        assert again == [b"again %d" % number for number in range(30)]


async def test_callers_cancelled_during_a_write(prefix: str, relay: Relay) -> None:
    """Where the socket takes no more, a cancelled call leaves the others theirs."""
    async with calling(relay.url, prefix) as caller:
        await caller.warm()
        big = b"x" * 2_000_000
        await asyncio.gather(*(caller(ECHO, number, big) for number in range(9)))
        relay.requests.clear()
        calls = [asyncio.create_task(caller(ECHO, number, big if number % 3 else number)) for number in range(9)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert not any(call.done() for call in calls)
        for number in (0, 1, 3, 4):
            calls[number].cancel()
        await asyncio.sleep(0.01)
        relay.requests.set()
        for number, reply in enumerate(await failures(calls)):
            if number in {0, 1, 3, 4}:
                assert isinstance(reply, asyncio.CancelledError)
            else:
                assert reply == (big if number % 3 else b"%d" % number)
        again = await asyncio.gather(*(caller(ECHO, number, number) for number in range(20)))
        assert again == [b"%d" % number for number in range(20)]


async def test_a_cancelled_slot_harms_no_caller(any_server: Server, prefix: str, relay: Relay) -> None:
    """If the task of a batch is cancelled, and not the callers, its calls go out again."""
    async with calling(relay.url, prefix) as caller:
        await caller.warm()
        relay.pieces.clear()
        relay.replies.clear()
        before = asyncio.all_tasks()
        calls = [asyncio.create_task(caller(MARK, number, number)) for number in range(20)]
        await relay.seen(20)
        slots = [task for task in asyncio.all_tasks() - before - set(calls) if "_drain" in repr(task.get_coro())]
        assert len(slots) == 1
        slots[0].cancel()
        await asyncio.sleep(0)
        relay.replies.set()
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(20)]


# Broken connections


@pytest.mark.parametrize("how", list(Cut))
@pytest.mark.parametrize("number", [1, 2, 7, 20, 40])
async def test_a_connection_cut_within_a_batch(any_server: Server, prefix: str, how: Cut, number: int) -> None:
    """What has no reply yet is sent again; each call ends with its own reply, and every one was carried out."""
    with Proxy(any_server.url) as proxy:
        async with calling(proxy.url, prefix, retry=Retry(NoBackoff(), 3)) as caller:
            await caller.warm()
            proxy.cut(number, how)
            replies = await asyncio.gather(*(caller(MARK, place % 5, place) for place in range(40)))
            assert replies == [b"%d" % place for place in range(40)]
            assert proxy.cuts == 1
    with any_server.client() as probe:
        assert sum(int(probe.scard(caller.key(place))) for place in range(5)) == 40  # type: ignore[arg-type,unused-ignore]


async def test_a_connection_that_fails_for_good(any_server: Server, prefix: str) -> None:
    """Without retries every call of the batch fails, each with an exception of its own; later ones work."""
    with Proxy(any_server.url) as proxy:
        async with calling(proxy.url, prefix, retry=Retry(NoBackoff(), 0)) as caller:
            await caller.warm()
            proxy.plan(lambda at, _: Cut.AFTER if at == 10 else None)
            found = await failures([caller(ECHO, number, number) for number in range(40)])
            failed = [one for one in found if isinstance(one, ServerUnavailable)]
            assert failed
            assert [one for one in found if one not in failed] == [
                b"%d" % number for number, one in enumerate(found) if one not in failed
            ]
            for one, name in [(one, place) for place, one in enumerate(found) if one in failed]:
                assert f"key {name!r}" in str(one)
            assert len({id(one.__cause__) for one in failed}) == len(failed)
            assert await caller(ECHO, "k", b"x") == b"x"


async def test_a_server_that_is_gone_and_comes_back(private_server: Callable[..., RunningServer], prefix: str) -> None:
    """While it is gone every call fails; when it is back, calls need not know."""
    server = private_server()
    async with calling(server.url, prefix, retry=Retry(NoBackoff(), 1)) as caller:
        await caller.warm()
        server.kill()
        found = await failures([caller(ECHO, number) for number in range(100)])
        assert {type(one) for one in found} == {ServerUnavailable}
        server.restart()
        await asyncio.gather(*(caller(ECHO, number) for number in range(100)))


async def test_connections_killed_between_calls(any_server: Server, prefix: str) -> None:
    """Connections that the server closed between calls are reopened, even without retries."""
    async with calling(any_server.url, prefix, retry=Retry(NoBackoff(), 0), client_name=prefix) as caller:
        for _ in range(3):
            await asyncio.gather(*(caller(ECHO, number, number) for number in range(20)))
            with any_server.client() as probe:
                listed: Any = probe.client_list()
                for one in listed:
                    if one["name"] == prefix:
                        probe.client_kill_filter(_id=one["id"])
            await asyncio.sleep(0.02)
        assert await caller(ECHO, "k", b"x") == b"x"


async def test_a_server_that_does_not_answer(any_server: Server, prefix: str, relay: Relay) -> None:
    """`socket_timeout` holds for calls in batches; the connection is not used again with replies outstanding."""
    options = {"socket_timeout": 0.1, "retry": Retry(NoBackoff(), 0)}
    async with calling(relay.url, prefix, **options) as caller:
        await caller.warm()
        relay.replies.clear()
        found = await failures([caller(ECHO, number) for number in range(10)])
        assert {type(one) for one in found} == {ServerUnavailable}
        assert {type(one.__cause__) for one in found} == {rx.TimeoutError}
        relay.replies.set()
        assert await asyncio.gather(*(caller(ECHO, number, number) for number in range(5))) == [
            b"0",
            b"1",
            b"2",
            b"3",
            b"4",
        ]


# Ends


async def test_closing_while_calls_wait(any_server: Server, prefix: str, relay: Relay) -> None:
    """Calls that are under way or wait as their saver is closed say so, and no connection stays."""
    async with calling(relay.url, prefix) as caller:
        await caller.warm()
        relay.replies.clear()
        calls = [asyncio.create_task(caller(ECHO, number)) for number in range(200)]
        await relay.seen(70)
        caller.runner.closed = True
        await caller.runner.connections.aclose()
        found = await failures(calls)
        assert {type(one) for one in found} == {SaverClosed}
    gc.collect()


async def test_a_runner_that_goes_on_after_closing(any_server: Server, prefix: str, relay: Relay) -> None:
    """Calls of a runner that is not closed are made again on new connections."""
    async with calling(relay.url, prefix) as caller:
        await caller.warm()
        relay.replies.clear()
        calls = [asyncio.create_task(caller(ECHO, number, number)) for number in range(200)]
        await asyncio.sleep(0.01)
        caller.runner.connections.close()
        relay.replies.set()
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(200)]


def test_a_loop_that_ends_with_calls_under_way(any_server: Server, prefix: str) -> None:
    """Nothing is left of them: no task, no connection, no warning; the next loop works."""
    connections = Connections.from_url(any_server.url)
    caller = Caller(Runner(connections), prefix)

    async def leaves() -> None:
        await caller(ECHO, "warm")
        calls = [asyncio.create_task(caller(ECHO, number)) for number in range(200)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not all(call.done() for call in calls)

    async def stays() -> None:
        await asyncio.gather(*(caller(ECHO, number) for number in range(20)))

    for _ in range(3):
        asyncio.run(leaves())
        asyncio.run(stays())
        gc.collect()
    connections.close()


async def test_a_runner_that_is_dropped(any_server: Server, prefix: str) -> None:
    """One that nobody closed is gone at once, with its connections, and not when garbage is collected."""
    caller = Caller(Runner(Connections.from_url(any_server.url, client_name=prefix)), prefix)
    await asyncio.gather(*(caller(ECHO, number) for number in range(20)))
    gc.disable()
    try:
        seen = weakref.ref(caller.runner)
        del caller
        assert seen() is None
        for _ in range(5):
            await asyncio.sleep(0)
        with any_server.client() as probe:
            while any(one["name"] == prefix for one in probe.client_list()):
                pass
    finally:
        gc.enable()


# Clients that do not share


async def test_a_client_with_ways_of_its_own_is_asked_itself(any_server: Server, prefix: str) -> None:
    """A client that overrides how commands are carried out, or has but one connection, is used through its own method."""
    asked: list[str] = []

    class Own(redis.asyncio.Redis):
        async def execute_command(self, *words: Any, **options: Any) -> Any:  # type: ignore[override,unused-ignore]
            asked.append(str(words[0]))
            return await super().execute_command(*words, **options)  # type: ignore[no-untyped-call,unused-ignore]

    retry = AsyncRetry(NoBackoff(), 1)
    for client in (
        Own.from_url(any_server.url, retry=retry),
        redis.asyncio.Redis.from_url(any_server.url, single_connection_client=True),
    ):
        caller = Caller(Runner(Connections(async_connection=client)), prefix)
        assert await asyncio.gather(*(caller(ECHO, number, number) for number in range(5))) == [
            b"0",
            b"1",
            b"2",
            b"3",
            b"4",
        ]
        await client.aclose()
    assert asked.count("EVALSHA") == 5


async def test_a_cluster_is_asked_call_by_call(cluster: Server, prefix: str) -> None:
    """On a cluster every call goes to its node by redis-py's own way."""
    async with calling(cluster.url, prefix) as caller:
        replies = await asyncio.gather(*(caller(ADD, number, number) for number in range(50)))
        assert replies == [b"%d" % number for number in range(50)]


def test_sync_calls_cross_to_the_loop(any_server: Server, prefix: str) -> None:
    """Sync calls over an async connection, from many threads, share as well."""

    async def main() -> None:
        async with redis.asyncio.Redis.from_url(any_server.url) as client:
            runner = Runner(Connections(async_connection=client))
            key = Caller(runner, prefix).key("k")

            def work(number: int) -> Any:
                return runner.run(once(Call(ECHO, [key], [number], shared=True)), "k")

            replies = await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(20)))
            assert replies == [b"%d" % number for number in range(20)]

    asyncio.run(main())


def test_errors_are_of_one_family() -> None:
    """What a caller sees is always one of this project's errors."""
    assert issubclass(ServerUnavailable, ServerError)

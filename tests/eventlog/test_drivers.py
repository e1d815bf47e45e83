"""Drivers carry requests and translate errors; the clients here stand in for redis-py, not for Redis."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Any

import pytest
import redis.exceptions as rx

from eventlog import errors
from eventlog.errors import (
    AccessDenied,
    AuthenticationFailed,
    EventLogError,
    NoSyncConnection,
    PoolExhausted,
    ServerFailedCommand,
    ServerLoading,
    ServerMisconfigured,
    ServerOutOfMemory,
    ServerReadOnly,
    ServerUnavailable,
    translate,
)
from eventlog.flow import Batch, Begin, Call, Command, Emit, Finish, Flow, Script, blocking, collected
from eventlog.transport import steps
from eventlog.transport.drivers import Runner

SCRIPT = Script("x", b"return 1", "sha")


class Client:
    """Replies with prepared answers, and remembers the commands."""

    def __init__(self, *answers: Any) -> None:
        self.answers = deque(answers)
        self.asked: list[tuple[Any, ...]] = []

    def execute_command(self, *words: Any) -> Any:
        self.asked.append(words)
        answer = self.answer(words)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def answer(self, _: tuple[Any, ...]) -> Any:
        return self.answers.popleft()


class AsyncClient(Client):
    async def execute_command(self, *words: Any) -> Any:
        return super().execute_command(*words)


class OneClient:
    """Connections with one client."""

    home_loop = None

    def __init__(self, client: Client) -> None:
        self.client = client
        self.has_async = isinstance(client, AsyncClient)
        self.has_sync = not self.has_async

    def sync_client(self) -> Client:
        return self.client

    async_client = sync_client


def run(client: Client, flow: Flow[Any], take: Any = id) -> Any:
    """Run a flow on a client, with the driver of the client."""
    runner = Runner(OneClient(client))  # type: ignore[arg-type]
    if isinstance(client, AsyncClient):
        return asyncio.run(runner.arun(flow, "thread '1'", take))
    return runner.run(flow, "thread '1'", take)


def once(request: Any) -> Flow[Any]:
    return (yield request)


both = pytest.mark.parametrize("kind", [Client, AsyncClient])


@both
def test_a_script_is_sent_whole_where_it_is_not_known(kind: type[Client]) -> None:
    """EVALSHA first; EVAL after NOSCRIPT, with the same keys and arguments."""
    client = kind(rx.NoScriptError("NOSCRIPT"), b"done")
    assert run(client, once(Call(SCRIPT, [b"k"], [b"a", 1]))) == b"done"
    assert client.asked == [
        ("EVALSHA", "sha", b"1", b"k", b"a", b"1"),
        ("EVAL", b"return 1", b"1", b"k", b"a", b"1"),
    ]


@both
def test_a_call_waits_for_a_connection(kind: type[Client]) -> None:
    """A pool that does not wait itself is asked again."""
    client = kind(rx.MaxConnectionsError(), rx.ConnectionError("Too many connections"), b"done")
    assert run(client, once(Command("GET", b"k"))) == b"done"


@both
def test_patience_with_a_pool_ends(kind: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that stays exhausted is a typed error."""
    monkeypatch.setattr(steps, "PATIENCE", 0.0)
    with pytest.raises(PoolExhausted, match="thread '1'.*max_connections"):
        run(kind(rx.MaxConnectionsError("Too many connections")), once(Command("GET", b"k")))


@both
def test_errors_reach_the_flow_typed(kind: type[Client]) -> None:
    """A flow may catch an error and go on; the original is chained."""

    def flow() -> Flow[Any]:
        try:
            yield Command("GET", b"k")
        except ServerOutOfMemory as error:
            assert isinstance(error.__cause__, rx.OutOfMemoryError)
        return (yield Command("GET", b"k"))

    assert run(kind(rx.OutOfMemoryError("OOM"), b"after"), flow()) == b"after"


@both
def test_errors_that_no_flow_catches_reach_the_caller(kind: type[Client]) -> None:
    """They name what was being done, and chain the original."""
    with pytest.raises(ServerReadOnly, match="thread '1'") as raised:
        run(kind(rx.ReadOnlyError("READONLY")), once(Command("GET", b"k")))
    assert isinstance(raised.value.__cause__, rx.ReadOnlyError)


def test_items_are_emitted_as_they_come() -> None:
    """Nothing is asked of the server before an item is wanted."""

    def flow() -> Flow[None]:
        for _ in range(3):
            yield Emit((yield Command("GET", b"k")))

    client = Client(1, 2, 3)
    items = Runner(OneClient(client)).iterate(flow(), "all")  # type: ignore[arg-type]
    assert client.asked == []
    assert next(items) == 1
    assert len(client.asked) == 1
    assert list(items) == [2, 3]


def test_a_sync_call_on_a_loop_that_does_not_run_says_what_to_pass() -> None:
    """With an async connection only, and its loop not running."""
    with pytest.raises(asyncio.InvalidStateError, match="sync_connection"):
        Runner(OneClient(AsyncClient())).run(once(Batch([])), "thread '1'")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (rx.ConnectionError("refused"), ServerUnavailable),
        (rx.TimeoutError("slow"), ServerUnavailable),
        (rx.RedisClusterException("no node"), ServerUnavailable),
        (rx.ClusterDownError("CLUSTERDOWN"), ServerUnavailable),
        (OSError("broken pipe"), ServerUnavailable),
        (rx.ConnectionError("No connection available."), PoolExhausted),
        (rx.BusyLoadingError("loading"), ServerLoading),
        (rx.AuthenticationError("WRONGPASS"), AuthenticationFailed),
        (rx.ResponseError("NOAUTH Authentication required."), AuthenticationFailed),
        (rx.NoPermissionError("NOPERM"), AccessDenied),
        (rx.ResponseError("ACL failure in script: no permission"), AccessDenied),
        (rx.ResponseError("MISCONF Errors writing to the AOF file"), ServerMisconfigured),
        (rx.ResponseError("NOREPLICAS Not enough good replicas to write."), ServerUnavailable),
        (rx.ResponseError("-OOM command not allowed script: 1"), ServerOutOfMemory),
        (rx.MovedError("7 127.0.0.1:7000"), ServerMisconfigured),
        (rx.ResponseError("ERR something else"), ServerFailedCommand),
    ],
)
def test_every_error_has_a_type_and_a_subject(error: Exception, kind: type[EventLogError]) -> None:
    """redis-py's errors and the server's words become ours at one place."""
    typed = translate(error, "thread '1'")
    assert type(typed) is kind
    assert "thread '1'" in str(typed)


def test_errors_alone_are_public() -> None:
    """The public names of the module of errors are errors."""
    assert all(issubclass(getattr(errors, name), EventLogError) for name in errors.__all__)


@both
def test_a_call_goes_on_while_the_flow_does(kind: type[Client]) -> None:
    """It is sent where it is begun; reply and errors come where it is finished."""

    def flow() -> Flow[Any]:
        begun = yield Begin(Call(SCRIPT, [b"k"], [b"a"]))
        between = yield Command("GET", b"k")
        yield Begin(Call(SCRIPT, [b"k"], [b"nobody waits for it"]))
        failing = yield Begin(Call(SCRIPT, [b"k"], [b"b"]))
        with pytest.raises(ServerReadOnly, match="thread '1'"):
            yield Finish(failing)
        return (yield Finish(begun)), between

    def answer(_: Client, words: tuple[Any, ...]) -> Any:
        return {b"k": b"between", b"a": b"done"}.get(words[-1], rx.ReadOnlyError("READONLY"))

    client = type("Knowing", (kind,), {"answer": answer})()
    assert run(client, flow()) == (b"done", b"between")
    assert {words[-1] for words in client.asked} >= {b"k", b"a", b"b"}


@both
def test_work_that_blocks_leaves_the_event_loop_free(kind: type[Client]) -> None:
    """It runs in the caller's thread, or beside the event loop; items go to the caller's thread."""
    taken: list[tuple[str, threading.Thread]] = []

    def flow() -> Flow[bool]:
        yield Emit("item")
        return (yield from blocking(threading.current_thread)) is threading.current_thread()

    in_this_thread = run(kind(), flow(), lambda item: taken.append((item, threading.current_thread())))
    assert in_this_thread is (kind is Client)
    assert taken == [("item", threading.current_thread())]


@both
@pytest.mark.parametrize("where", ["work", "take"])
def test_an_error_outside_of_a_flow_ends_it(kind: type[Client], where: str) -> None:
    """An error of work, or of the function that takes items, is raised as it is, and the flow cleans up before."""
    steps = []

    def fail(_: object = None) -> None:
        raise OSError(where)

    def flow() -> Flow[None]:
        try:
            if where == "work":
                yield from blocking(fail)
            yield Emit("item")
        finally:
            steps.append("closed")

    with pytest.raises(OSError, match=where):
        run(kind(), flow(), fail)
    assert steps == ["closed"]


@both
def test_items_are_collected(kind: type[Client]) -> None:
    """A flow may take the items of another, whose requests and errors pass through."""

    def items() -> Flow[None]:
        yield Emit((yield Command("GET", b"k")))
        try:
            yield Command("GET", b"k")
        except EventLogError as error:
            yield Emit(type(error))

    assert run(kind(b"1", rx.ReadOnlyError()), collected(items())) == [b"1", ServerReadOnly]


def test_a_call_begun_where_no_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call is carried out at once where no thread can be started, as while Python ends."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def flow() -> Flow[Any]:
        begun = yield Begin(Call(SCRIPT, [b"k"], []))
        return (yield Finish(begun))

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert run(Client(b"done"), flow()) == b"done"


@pytest.mark.server  # a loop opens a socket pair
@pytest.mark.parametrize("end", ["stop", "cancel"])
def test_a_loop_that_ends_during_a_sync_call(end: str) -> None:
    """A sync call over an async connection says so if the connection's loop stops, or ends its tasks."""
    loop = asyncio.new_event_loop()
    asked = threading.Event()

    class Silent(AsyncClient):
        async def execute_command(self, *_: Any) -> Any:
            asked.set()
            await asyncio.sleep(3600)

    class OnLoop(OneClient):
        home_loop = loop  # type: ignore[assignment]

    def cancel_all() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    def end_loop() -> None:
        asked.wait(20)
        loop.call_soon_threadsafe(cancel_all if end == "cancel" else loop.stop)

    threads = [threading.Thread(target=work) for work in (loop.run_forever, end_loop)]
    for thread in threads:
        thread.start()
    with pytest.raises(NoSyncConnection, match="ended during a sync call"):
        Runner(OnLoop(Silent())).run(once(Command("GET", b"k")), "thread '1'")  # type: ignore[arg-type]
    if end == "cancel":
        loop.call_soon_threadsafe(loop.stop)
    for thread in threads:
        thread.join()
    cancel_all()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

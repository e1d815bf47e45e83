"""Two drivers run flows over redis-py's sync and async clients.

A call takes the shortest way that its client allows. A sync call goes out on a connection that is kept out of its pool
(`eventlog.transport.kept`). An async call shares writes with others (`eventlog.transport.sharing`). All other requests,
and all other clients, use redis-py's public methods (`eventlog.transport.client`).

Every error of redis-py becomes one of ours. A call that is begun is carried out in a thread or a task of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextvars import copy_context
from typing import Any, NamedTuple, TypeVar

import redis
import redis.asyncio
import redis.exceptions as rx

from eventlog.connect.connections import Connections
from eventlog.connect.given import is_cluster
from eventlog.connect.loops import running_loop
from eventlog.errors import EventLogError, NoSyncConnection, SaverClosed, translate
from eventlog.flow import Batch, Begin, Call, Command, Emit, Finish, Flow, Pause, Request, Wait, Work
from eventlog.forks import renew_after_fork
from eventlog.transport.client import ask, ask_async
from eventlog.transport.kept import KeptConnections, can_keep
from eventlog.transport.sharing import SLOTS, ClientClosed, SharedCalls, can_share
from eventlog.transport.steps import finish, finish_async
from eventlog.transport.waiting import StreamWaits

__all__ = ["Runner", "in_own_thread"]

T = TypeVar("T")
Take = Callable[[Any], object]


def _refuse(_: Any) -> None:
    raise AssertionError("a flow that emits must be iterated over")


_REDIS_ERRORS = (rx.RedisError, rx.RedisClusterException, OSError)


class _Ways(NamedTuple):
    """A client, and its ways beside redis-py's methods."""

    client: Any
    short: Any = None
    """`KeptConnections` or `SharedCalls`."""
    waits: StreamWaits | None = None


async def in_own_thread(work: Callable[[], T]) -> T:
    """The result of a function that may block, called in a thread of its own.

    The function may wait for code that needs the loop's shared threads, so it takes none of them.
    """
    executor = concurrent.futures.ThreadPoolExecutor(1)
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, copy_context().run, work)
    finally:
        executor.shutdown(wait=False)


class Runner:
    """Runs flows, sync or async, on the given connections.

    With a sync connection only, async calls run in a thread. With an async connection only, a sync call runs on the
    event loop of that connection and works from other threads only.
    """

    def __init__(
        self, connections: Connections, owner: str = "saver", closed_error: type[EventLogError] = SaverClosed
    ) -> None:
        """Run flows on `connections`; after `closed`, calls raise a `closed_error`."""
        self.connections = connections
        self.closed = False
        """The owner sets it as it closes the connections that it opened."""
        self._owner = owner
        self._closed_error = closed_error
        self._begin_process()
        renew_after_fork(self)
        self._sync: _Ways | None = None
        self._async: dict[asyncio.AbstractEventLoop, _Ways] = {}

    def _begin_process(self) -> None:
        self._lock = threading.Lock()

    @property
    def must_await(self) -> bool:
        """Whether only `arun` works in this thread.

        This is so on the event loop of an async connection without a sync connection.
        """
        here = running_loop()
        return here is not None and not self.connections.has_sync and self.connections.home_loop in (here, None)

    def run(self, flow: Flow[T], subject: str, take: Take = _refuse) -> T:
        """The result of `flow`; errors name the `subject`, such as "thread '42'".

        `take` receives the items that the flow emits. Work that may block is done in this thread.
        """
        advance = self._advance if self.connections.has_sync else self._cross
        found, result = advance(flow, subject)
        while found:
            with _closing_on_error(flow):
                result() if isinstance(result, Work) else take(result)
            found, result = advance(flow, subject)
        return result  # type: ignore[no-any-return]

    async def arun(self, flow: Flow[T], subject: str, take: Take = _refuse) -> T:
        """The result of `flow`, on the running loop; errors name the `subject`.

        `take` is called on the loop. Work that may block is done in threads of its own.
        """
        found, result = await self._aadvance(flow, subject)
        while found:
            with _closing_on_error(flow):
                await in_own_thread(result) if isinstance(result, Work) else take(result)
            found, result = await self._aadvance(flow, subject)
        return result  # type: ignore[no-any-return]

    def iterate(self, flow: Flow[None], subject: str) -> Iterator[Any]:
        """The items of `flow`, as it emits them."""
        advance = self._advance if self.connections.has_sync else self._cross
        while (step := advance(flow, subject))[0]:
            yield step[1]

    async def aiterate(self, flow: Flow[None], subject: str) -> AsyncIterator[Any]:
        """The items of `flow`, as it emits them, on the running loop."""
        while (step := await self._aadvance(flow, subject))[0]:
            yield step[1]

    def _advance(self, flow: Flow[Any], subject: str) -> tuple[bool, Any]:
        """Drives `flow` to its next item (True, item) or to its end (False, result)."""
        self._refuse_closed(subject)
        try:
            request = next(flow)
            while not isinstance(request, Emit):
                try:
                    reply = _SYNC[type(request)](self, request)
                except _REDIS_ERRORS as error:
                    request = flow.throw(_typed(error, subject))
                else:
                    request = flow.send(reply)
        except StopIteration as stop:
            return False, stop.value
        except BaseException:
            flow.close()  # interrupted: the flow cleans up now rather than when it is collected
            raise
        return True, request.item

    async def _aadvance(self, flow: Flow[Any], subject: str) -> tuple[bool, Any]:
        self._refuse_closed(subject)
        handlers = _ASYNC if self.connections.has_async else _IN_THREAD
        try:
            request = next(flow)
            while not isinstance(request, Emit):
                try:
                    reply = await handlers[type(request)](self, request, subject)
                except _REDIS_ERRORS as error:
                    request = flow.throw(_typed(error, subject))
                else:
                    request = flow.send(reply)
        except StopIteration as stop:
            return False, stop.value
        except BaseException:
            flow.close()
            raise
        return True, request.item

    def _ask(self, request: Request) -> Any:
        return _SYNC[type(request)](self, request)

    def _call(self, call: Call) -> Any:
        client, kept, _ = self._sync_ways()
        return ask(client, call) if kept is None else kept.run(call)

    def _through_client(self, request: Command | Batch | Wait) -> Any:
        client, kept, _ = self._sync_ways()
        with contextlib.nullcontext() if kept is None else kept.lent():
            return ask(client, request)

    def _wait(self, request: Wait) -> Any:
        waits = self._sync_ways().waits
        return self._through_client(request) if waits is None else finish(waits.wait(request))

    def _begin(self, request: Begin) -> concurrent.futures.Future[Any]:
        """Starts a call in another thread."""
        begun: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def carry_out() -> None:
            try:
                begun.set_result(self._call(request.call))
            except BaseException as error:  # noqa: BLE001 - raised where the call is finished
                begun.set_exception(error)

        try:
            threading.Thread(target=carry_out, name="call begun", daemon=True).start()
        except RuntimeError:  # no thread can be started, for example while Python ends
            carry_out()
        return begun

    async def _acall(self, call: Call, subject: str) -> Any:
        while True:
            client, shared, _ = self._async_ways()
            if shared is None or not call.shared:
                return await ask_async(client, call)
            try:
                return await shared.run(call)
            except ClientClosed:  # the next turn uses the client that replaces it
                self._refuse_closed(subject)

    async def _athrough_client(self, request: Command | Batch | Wait, _: str) -> Any:
        return await ask_async(self.connections.async_client(), request)

    async def _await(self, request: Wait, subject: str) -> Any:
        waits = self._async_ways().waits
        return await (self._athrough_client(request, subject) if waits is None else finish_async(waits.wait(request)))

    async def _abegin(self, request: Begin, subject: str) -> _Begun:
        begun = _Begun(asyncio.ensure_future(self._acall(request.call, subject)))
        await asyncio.sleep(0)  # the task sends the call
        return begun

    async def _in_thread(self, request: Any, _: str) -> Any:
        """Asks in a thread; the flow stays here, so a cancelled caller loses no item."""
        return await asyncio.to_thread(self._ask, request)

    def _sync_ways(self) -> _Ways:
        client = self.connections.sync_client()
        ways = self._sync
        if ways is None or ways.client is not client:
            with self._lock:
                ways = self._sync
                if ways is None or ways.client is not client:
                    kept = None
                    if isinstance(client, redis.Redis) and self.connections.opened(client) and can_keep(client):
                        kept = KeptConnections(client, lambda: self.closed)
                    ways = self._sync = _Ways(client, kept, StreamWaits(client) if is_cluster(client) else None)
        return ways

    def _async_ways(self) -> _Ways:
        client, loop = self.connections.async_client(), asyncio.get_running_loop()
        ways = self._async.get(loop)
        if ways is None or ways.client is not client:
            for ended in [other for other in list(self._async) if other.is_closed()]:
                self._async.pop(ended, None)
            shared = None
            if isinstance(client, redis.asyncio.Redis) and can_share(client):
                connections = self.connections  # not this runner, which would make a garbage cycle
                keep = connections.opened(client) and can_keep(client, at_least=SLOTS + 1)
                shared = SharedCalls(client, keep=keep, closed=lambda: not connections.serves(client))
            ways = self._async[loop] = _Ways(client, shared, StreamWaits(client) if is_cluster(client) else None)
        return ways

    def _refuse_closed(self, subject: str) -> None:
        if self.closed:
            raise self._closed_error(
                f"{subject}: the {self._owner} is closed, and so are the connections that it opened. Open a new one, or "
                "make the call inside its `with` block."
            )

    def _cross(self, flow: Flow[Any], subject: str) -> tuple[bool, Any]:
        """Advances `flow` on the async connection's loop, which runs in another thread."""
        loop = self.connections.home_loop
        if loop is None or not loop.is_running():
            raise NoSyncConnection(
                f"{subject}: a sync call over an async connection needs the event loop of that connection to run in "
                "another thread. Pass sync_connection=... as well, or call the async method."
            )
        if loop is running_loop():
            raise NoSyncConnection(
                f"{subject}: a sync call would block the event loop on which its own connection runs. Await the async "
                "method (aget_tuple, aput, graph.ainvoke, ...), or pass sync_connection=... as well."
            )
        future = asyncio.run_coroutine_threadsafe(self._aadvance(flow, subject), loop)
        while True:
            try:
                return future.result(timeout=1)
            except concurrent.futures.TimeoutError:
                if future.done() or loop.is_running():
                    continue
                future.cancel()
            except concurrent.futures.CancelledError:
                pass
            raise NoSyncConnection(
                f"{subject}: the event loop of the async connection ended during a sync call. The server may or may not "
                "have carried it out. Call again on a running loop, or pass sync_connection=... as well."
            )


_SYNC: Mapping[type, Callable[[Runner, Any], Any]] = {
    Call: Runner._call,
    Command: Runner._through_client,
    Batch: Runner._through_client,
    Wait: Runner._wait,
    Begin: Runner._begin,
    Finish: lambda _, request: request.begun.result(),
    Pause: lambda _, request: time.sleep(request.seconds),
}
"""How the sync driver carries out each type of request."""
_ASYNC: Mapping[type, Callable[[Runner, Any, str], Awaitable[Any]]] = {
    Call: Runner._acall,
    Command: Runner._athrough_client,
    Batch: Runner._athrough_client,
    Wait: Runner._await,
    Begin: Runner._abegin,
    Finish: lambda _, request, __: request.begun.task,
    Pause: lambda _, request, __: asyncio.sleep(request.seconds),
}
"""How the async driver carries out each type of request."""
_IN_THREAD = {**dict.fromkeys(_SYNC, Runner._in_thread), Pause: _ASYNC[Pause]}
"""How the async driver carries out each type of request without an async connection."""


class _Begun:
    """A task that ends with its flow, which alone refers to this object."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # an error is raised at `Finish`

    def __del__(self) -> None:
        if not self.task.done():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.task.get_loop().call_soon_threadsafe(self.task.cancel)


def _typed(error: Exception, subject: str) -> Exception:
    """Our error for one of redis-py's, which a flow may catch."""
    typed = translate(error, subject)
    typed.__cause__ = error
    return typed


@contextlib.contextmanager
def _closing_on_error(flow: Flow[Any]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        flow.close()
        raise

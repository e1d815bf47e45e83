"""The thin shell of I/O: two drivers run a flow over redis-py's sync and async clients.

What both share is here once: scripts are called by digest and sent whole where the server does not know them; a call waits for
a connection of an exhausted pool rather than fail; every error of redis-py becomes one of ours. A call that is begun is carried out
by a thread of its own, async by a task.

Calls take a shorter way where there is one: sync on connections kept out of the pool (`kept.py`), async in writes shared
with others (`eventlog.transport.sharing`). Everything else, and every other client, goes through redis-py's `execute_command`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

import redis
import redis.asyncio
import redis.exceptions as rx
from redis.asyncio.cluster import RedisCluster

from eventlog.connect.connections import Connections
from eventlog.connect.given import AsyncClient, SyncClient, is_cluster
from eventlog.errors import EventLogError, NoSyncConnection, SaverClosed, is_exhausted, translate
from eventlog.flow import Batch, Begin, Call, Command, Emit, Finish, Flow, Pause, Request, Wait, load_script
from eventlog.forks import renew_after_fork
from eventlog.transport.kept import KeptConnections, can_keep
from eventlog.transport.patience import pauses
from eventlog.transport.sharing import LANES, ClientClosed, SharedCalls, can_share
from eventlog.transport.waiting import AsyncWaits, SyncWaits, block_for, keys_in
from eventlog.transport.waiting import words as waiting_words
from eventlog.transport.wire import settled, words

__all__ = ["Runner"]

T = TypeVar("T")

_REDIS_ERRORS = (rx.RedisError, rx.RedisClusterException, OSError)


class Runner:
    """Runs flows on the connections at hand, in either colour.

    Given one kind of connection only, the other colour's methods work where they honestly can: async over a sync connection
    runs in a thread; sync over an async connection runs on the loop that connection lives on, from another thread.
    """

    def __init__(
        self, connections: Connections, owner: str = "saver", closed_error: type[EventLogError] = SaverClosed
    ) -> None:
        """`owner`: what errors call the one whose connections these are; `closed_error`: what its calls raise once it is closed."""
        self.connections = connections
        self.closed = False
        """Set by whoever opened the connections and closed them: every call raises `closed_error` from then on."""
        self._owner = owner
        self._closed_error = closed_error
        self._begin_process()
        renew_after_fork(self)
        self._kept: tuple[SyncClient, KeptConnections | None] | None = None
        self._shared: dict[asyncio.AbstractEventLoop, tuple[AsyncClient, SharedCalls | None]] = {}
        self._waits: SyncWaits | None = None
        self._async_waits: dict[asyncio.AbstractEventLoop, AsyncWaits] = {}

    def _begin_process(self) -> None:
        self._lock = threading.Lock()

    @property
    def must_await(self) -> bool:
        """Whether only `arun` can work in this thread.

        So it is on the event loop of an async connection without a sync one beside it.
        """
        here = _running_loop()
        return here is not None and not self.connections.has_sync and self.connections.home_loop in (here, None)

    def run(self, flow: Flow[T], subject: str) -> T:
        """Result of `flow`. `subject` names what it is about in errors."""
        if self.connections.has_sync:
            found, result = self._advance(flow, subject)
        else:
            found, result = self._cross(flow, subject)
        assert not found, "a flow that emits must be iterated over"
        return result  # type: ignore[no-any-return]

    async def arun(self, flow: Flow[T], subject: str) -> T:
        """Result of `flow`, on the running loop."""
        found, result = await self._aadvance(flow, subject)
        assert not found, "a flow that emits must be iterated over"
        return result  # type: ignore[no-any-return]

    def iterate(self, flow: Flow[None], subject: str) -> Iterator[Any]:
        """What `flow` emits, as it emits it."""
        advance = self._advance if self.connections.has_sync else self._cross
        while True:
            found, item = advance(flow, subject)
            if not found:
                return
            yield item

    async def aiterate(self, flow: Flow[None], subject: str) -> AsyncIterator[Any]:
        """What `flow` emits, as it emits it, on the running loop."""
        while True:
            found, item = await self._aadvance(flow, subject)
            if not found:
                return
            yield item

    def _advance(self, flow: Flow[Any], subject: str) -> tuple[bool, Any]:
        """Drives `flow` to its next item (True, item) or its end (False, result)."""
        self._refuse_closed(subject)
        try:
            request = next(flow)
            while not isinstance(request, Emit):
                try:
                    reply = self._ask(request)
                except _REDIS_ERRORS as error:
                    request = flow.throw(_typed(error, subject))
                else:
                    request = flow.send(reply)
        except StopIteration as stop:
            return False, stop.value
        except BaseException:
            flow.close()  # interrupted: what it holds is put in order now, and not when it is forgotten
            raise
        return True, request.item

    async def _aadvance(self, flow: Flow[Any], subject: str) -> tuple[bool, Any]:
        self._refuse_closed(subject)
        try:
            request = next(flow)
            while not isinstance(request, Emit):
                try:
                    reply = await self._aask(request, subject)
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
        if isinstance(request, Pause):
            time.sleep(request.seconds)
            return None
        if isinstance(request, Begin):
            return self._begin(request.call)
        if isinstance(request, Finish):
            return request.begun.result()
        client = self.connections.sync_client()
        if isinstance(request, Wait) and is_cluster(client):
            return self._waits_on(client).wait(request)
        kept = self._keeping(client)
        if kept is None:
            return _run(client, request)
        if isinstance(request, Call):
            return kept.run(request)
        with kept.lent():
            return _run(client, request)

    async def _aask(self, request: Request, subject: str) -> Any:
        if isinstance(request, Pause):
            await asyncio.sleep(request.seconds)
            return None
        if not self.connections.has_async:  # the flow stays here, so that a caller who gives up takes no item along
            return await asyncio.to_thread(self._ask, request)
        if isinstance(request, Begin):
            return await self._abegin(request.call, subject)
        if isinstance(request, Finish):
            return await request.begun.task
        if isinstance(request, Wait) and isinstance(client := self.connections.async_client(), RedisCluster):
            return await self._async_waits_on(client).wait(request)
        while isinstance(request, Call) and request.shared:
            shared = self._sharing(self.connections.async_client())
            if shared is None:
                break
            try:
                return await shared.run(request)
            except ClientClosed:
                self._refuse_closed(subject)
        return await _arun(self.connections.async_client(), request)

    def _begin(self, call: Call) -> concurrent.futures.Future[Any]:
        """A call that another thread carries out: most of its time goes by in the server and on the socket."""
        begun: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def carry_out() -> None:
            try:
                begun.set_result(self._ask(call))
            except BaseException as error:  # noqa: BLE001 - raised where the call is finished
                begun.set_exception(error)

        try:
            threading.Thread(target=carry_out, name="call begun", daemon=True).start()
        except RuntimeError:  # there can be no more threads, as where Python is about to end
            carry_out()
        return begun

    async def _abegin(self, call: Call, subject: str) -> _Begun:
        begun = _Begun(asyncio.ensure_future(self._aask(call, subject)))
        await asyncio.sleep(0)  # it is sent
        return begun

    def _waits_on(self, client: SyncClient) -> SyncWaits:
        with self._lock:
            if self._waits is None or self._waits.client is not client:
                self._waits = SyncWaits(client)
            return self._waits

    def _async_waits_on(self, client: AsyncClient) -> AsyncWaits:
        loop = asyncio.get_running_loop()
        found = self._async_waits.get(loop)
        if found is None or found.client is not client:
            for ended in [other for other in list(self._async_waits) if other.is_closed()]:
                self._async_waits.pop(ended, None)
            found = self._async_waits[loop] = AsyncWaits(client)
        return found

    def _keeping(self, client: SyncClient) -> KeptConnections | None:
        """The kept connections of a client, None where it keeps none."""
        found = self._kept
        if found is None or found[0] is not client:
            with self._lock:
                found = self._kept
                if found is None or found[0] is not client:
                    kept = None
                    if isinstance(client, redis.Redis) and self.connections.opened(client) and can_keep(client):
                        kept = KeptConnections(client, lambda: self.closed)
                    found = self._kept = client, kept
        return found[1]

    def _sharing(self, client: AsyncClient) -> SharedCalls | None:
        """The shared calls of a client on the running loop, None where its calls go out one by one."""
        loop = asyncio.get_running_loop()
        found = self._shared.get(loop)
        if found is None or found[0] is not client:
            for ended in [other for other in list(self._shared) if other.is_closed()]:
                self._shared.pop(ended, None)
            shared = None
            if isinstance(client, redis.asyncio.Redis) and can_share(client):
                connections = self.connections  # and not this runner, so that dropping it leaves no garbage cycle
                keep = connections.opened(client) and can_keep(client, at_least=LANES + 1)
                shared = SharedCalls(client, keep=keep, closed=lambda: not connections.serves(client))
            found = self._shared[loop] = client, shared
        return found[1]

    def _refuse_closed(self, subject: str) -> None:
        if self.closed:
            raise self._closed_error(
                f"{subject}: the {self._owner} is closed, and so are the connections it had opened. Open a new one, or keep what "
                "uses it inside its `with` block."
            )

    def _cross(self, flow: Flow[Any], subject: str) -> tuple[bool, Any]:
        loop = self.connections.home_loop
        if loop is None or not loop.is_running():
            raise NoSyncConnection(
                f"{subject}: a sync call over an async connection needs that connection's event loop to be running in another "
                "thread. Pass sync_connection=... as well, or call the async method."
            )
        if loop is _running_loop():
            raise NoSyncConnection(
                f"{subject}: a sync call would block the event loop its own connection runs on. Await the async method "
                "(aget_tuple, aput, graph.ainvoke, ...), or pass sync_connection=... as well."
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
                f"{subject}: the event loop of the async connection ended during a sync call. Whether it was carried out is not "
                "known; call again on a loop that runs, or pass sync_connection=... as well."
            )


class _Begun:
    """A task that ends with the flow that began it, which alone holds this."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        task.add_done_callback(
            lambda task: task.cancelled() or task.exception()
        )  # told where it is finished, if at all

    def __del__(self) -> None:
        if not self.task.done():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.task.get_loop().call_soon_threadsafe(self.task.cancel)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _typed(error: Exception, subject: str) -> Exception:
    """The error a flow is to see: it may catch it, and else it goes to the caller."""
    typed = translate(error, subject)
    typed.__cause__ = error
    return typed


def _run(client: Any, request: Request) -> Any:
    for pause in pauses():
        try:
            return _once(client, request)
        except rx.ConnectionError as error:
            if not is_exhausted(error):
                raise
            time.sleep(pause)
    return _once(client, request)


def _once(client: Any, request: Request) -> Any:
    if isinstance(request, Call):
        try:
            return _call(client, request, whole=False)
        except rx.NoScriptError:
            return _call(client, request, whole=True)
    if isinstance(request, Command):
        return client.execute_command(request.name, request.key, *request.arguments)
    if isinstance(request, Wait):
        return keys_in(client.execute_command(*waiting_words(request.streams, block_for(client, request.ms))))
    assert isinstance(request, Batch)
    with client.pipeline(transaction=False) as pipeline:
        for command in request.commands:
            pipeline.execute_command(command.name, command.key, *command.arguments)
        return pipeline.execute()


def _call(client: Any, call: Call, *, whole: bool) -> Any:
    then = call.then
    if then is None:
        return client.execute_command(*words(call, whole=whole))
    if is_cluster(client):
        reply = client.execute_command(*words(call, whole=whole))
        return reply, client.execute_command(*words(_as_script(then), whole=whole))
    with client.pipeline(transaction=False) as pipeline:
        pipeline.execute_command(*words(call, whole=whole))
        pipeline.execute_command(then.name, then.key, *then.arguments)
        return _both(pipeline.execute(raise_on_error=False))


_COMMAND = load_script("eventlog/transport/command")


def _as_script(command: Command) -> Call:
    """A command as a script. A cluster's client may send a command that only reads to a replica, which may be behind; a script goes
    to the primary.
    """
    return Call(_COMMAND, [command.key], [command.name, *command.arguments])


def _both(replies: list[Any]) -> Any:
    reply = settled(replies)
    if isinstance(reply, Exception):
        raise reply
    return reply


async def _arun(client: Any, request: Request) -> Any:
    for pause in pauses():
        try:
            return await _aonce(client, request)
        except rx.ConnectionError as error:
            if not is_exhausted(error):
                raise
            await asyncio.sleep(pause)
    return await _aonce(client, request)


async def _aonce(client: Any, request: Request) -> Any:
    if isinstance(client, RedisCluster):
        await (
            client.initialize()
        )  # first calls at once, before it knows the slots, would close each other's connections
    if isinstance(request, Call):
        try:
            return await _acall(client, request, whole=False)
        except rx.NoScriptError:
            return await _acall(client, request, whole=True)
    if isinstance(request, Command):
        return await client.execute_command(request.name, request.key, *request.arguments)
    if isinstance(request, Wait):
        return keys_in(await client.execute_command(*waiting_words(request.streams, block_for(client, request.ms))))
    assert isinstance(request, Batch)
    async with client.pipeline(transaction=False) as pipeline:
        for command in request.commands:
            pipeline.execute_command(command.name, command.key, *command.arguments)
        return await pipeline.execute()


async def _acall(client: Any, call: Call, *, whole: bool) -> Any:
    then = call.then
    if then is None:
        return await client.execute_command(*words(call, whole=whole))
    if isinstance(client, RedisCluster):
        reply = await client.execute_command(*words(call, whole=whole))
        return reply, await client.execute_command(*words(_as_script(then), whole=whole))
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.execute_command(*words(call, whole=whole))
        pipeline.execute_command(then.name, then.key, *then.arguments)
        return _both(await pipeline.execute(raise_on_error=False))

"""Calls that are in flight together on one event loop share writes to the socket.

Theory of operation:

1. A call that finds nothing under way goes out at once, in its caller's own task: a lone call pays for no queue.
2. Calls that come while others are under way gather until the event loop's next turn, or until a lane is free. A lane is a
   connection and at most one batch on it; a batch is one write, and its replies are handed out one by one as they come.
3. Calls with the same first key (a thread's log) are carried out in the order they were made: a key is in one batch at a time.
   Within a batch all calls of a key run the same script, so that where the server does not know a script, none of them is
   overtaken by a later one that it knows (unless another client loads the script just between the two).
4. An error that the server replies with reaches its own call only. A script that is not known is sent whole, in a further write
   of the same batch. A reply that the client's retry policy covers sends its call through the client alone.
5. A connection that fails is tried again as redis-py does, with the calls that have no reply yet. What remains reaches each of
   them, as an exception of its own.
6. A call cancelled before it is sent is dropped; the reply of one that was sent is read and thrown away. Where a lane's own task
   is cancelled, its calls gather anew.
7. A call of many bytes goes alone on a connection of its own.

Nothing is left on a loop that has no call under way, except connections, in their pool or a lane's own, and an idle timer.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import redis.asyncio
import redis.exceptions as rx

from eventlog.errors import is_exhausted
from eventlog.flow import Call, Script
from eventlog.transport.kept import is_to_be_replaced
from eventlog.transport.patience import pauses
from eventlog.transport.wire import Wire, pack, replies_of, words

__all__ = ["ClientClosed", "SharedCalls", "can_share"]

LANES = 2
"""Batches under way at once: while the server works on one, the replies of another are handed out."""
BATCH_CALLS = 64
"""Calls in one batch."""
BATCH_BYTES = 256 * 1024
"""Bytes in one batch, beyond which no further call is added."""
ALONE_BYTES = 64 * 1024
"""Bytes of a call that goes alone."""


class ClientClosed(Exception):
    """The client was closed before a call was answered; it may be made again on another."""


def can_share(client: redis.asyncio.Redis) -> bool:
    """Whether calls on this client can share writes: it is on a pool, and has no way of its own to carry out commands."""
    return type(client).execute_command is redis.asyncio.Redis.execute_command and not client.single_connection_client


class _Waiting:
    """A call, and what came of it."""

    __slots__ = ("answered", "call", "error", "future", "key", "packed", "reply", "through_client", "unknown", "whole")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.key = call.keys[0]
        self.packed = pack(call, whole=False)
        self.future: asyncio.Future[None] | None = None
        """Done when the call is answered, or its caller cancelled; None where the caller carries the call itself."""
        self.answered = False
        self.unknown = False
        """Whether the server said that it does not know the script."""
        self.whole = False
        """Whether the script was sent whole."""
        self.through_client = False
        """Whether the reply was an error after which the client's policy is to try again."""
        self.reply: Any = None
        self.error: Exception | None = None

    @property
    def big(self) -> bool:
        return len(self.packed) > ALONE_BYTES

    @property
    def open(self) -> bool:
        """Whether a reply is still wanted."""
        return not (self.answered or (self.future is not None and self.future.done()))


class _Lane:
    """A connection of a pool; kept between batches where the pool is ours, as checking it out costs as much as a call."""

    def __init__(self, pool: Any, *, keep: bool) -> None:
        self.wire = Wire()
        self._pool = pool
        self._keep = keep
        self._kept: Any = None

    async def connect(self) -> Any:
        """A connection that is ready. Raises redis-py's errors where there is none."""
        if self._kept is not None:
            if not _is_sound(self._kept):
                await self._pool.ensure_connection(self._kept)
            return self._kept
        for pause in pauses():
            try:
                return await self._pool.get_connection()
            except rx.ConnectionError as error:
                if not is_exhausted(error):
                    raise
                await asyncio.sleep(pause)
        return await self._pool.get_connection()

    async def release(self, connection: Any) -> None:
        """Ends what `connect` began."""
        if self._keep and not is_to_be_replaced(connection):
            self._kept = connection
        else:
            self._kept = None
            await self._pool.release(connection)


class SharedCalls:
    """The calls on one asyncio client that share writes, all on one event loop."""

    def __init__(self, client: redis.asyncio.Redis, *, keep: bool, closed: Callable[[], bool]) -> None:
        """`keep`: whether connections may be kept out of the pool. `closed`: whether the client was closed meanwhile."""
        self._loop = asyncio.get_running_loop()
        self._client: Any = client
        self._pool = client.connection_pool
        self._closed = closed
        self._free = [_Lane(self._pool, keep=keep) for _ in range(LANES)]
        self._waiting: deque[_Waiting] = deque()
        self._held: dict[bytes, int] = {}
        """Keys with calls under way, and how many."""
        self._roused = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, call: Call) -> Any:
        """The reply of a call. Raises redis-py's errors, or `ClientClosed`."""
        one = _Waiting(call)
        if one.big and not self._is_busy(one.key):
            await self._carry(_Lane(self._pool, keep=False), [self._hold(one)])
        elif self._held or self._waiting or not self._free:
            one.future = self._loop.create_future()
            self._waiting.append(one)
            self._rouse()
            await one.future
        else:
            lane = self._free.pop()
            try:
                await self._carry(lane, [self._hold(one)])
            finally:
                self._free.append(lane)
                self._rouse()
        if one.error is not None:
            raise one.error
        return one.reply

    def _is_busy(self, key: bytes) -> bool:
        return key in self._held or any(one.key == key for one in self._waiting)

    def _hold(self, one: _Waiting) -> _Waiting:
        self._held[one.key] = self._held.get(one.key, 0) + 1
        return one

    def _let_go(self, one: _Waiting) -> None:
        self._held[one.key] -= 1
        if not self._held[one.key]:
            del self._held[one.key]
        self._rouse()

    def _rouse(self) -> None:
        """Have waiting calls sent in the loop's next turn, if there is a lane for them."""
        if self._waiting and self._free and not self._roused:
            self._roused = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._roused = False
        while self._free and (batch := self._next_batch()):
            task = self._loop.create_task(self._drain(self._free.pop(), batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _drain(self, lane: _Lane, batch: list[_Waiting]) -> None:
        try:
            while batch:
                await self._carry(lane, batch)
                batch = self._next_batch()
        finally:
            self._free.append(lane)
            self._rouse()

    def _next_batch(self) -> list[_Waiting]:
        """Waiting calls that may go out together, in the order they were made; none whose key is under way."""
        batch: list[_Waiting] = []
        left: list[_Waiting] = []
        scripts: dict[bytes, Script | None] = {}
        size = 0
        while self._waiting and len(batch) < BATCH_CALLS and size < BATCH_BYTES:
            one = self._waiting.popleft()
            if not one.open:
                continue
            fits = one.key not in self._held and scripts.get(one.key, one.call.script) is one.call.script
            if fits and not (one.big and batch):
                scripts[one.key] = one.call.script
                batch.append(one)
                size += BATCH_BYTES if one.big else len(one.packed)
            else:
                scripts[one.key] = None
                left.append(one)
        self._waiting.extendleft(reversed(left))
        return [self._hold(one) for one in batch]

    async def _carry(self, lane: _Lane, batch: list[_Waiting]) -> None:
        """Has every call of a batch answered. Raises nothing, unless cancelled: then open calls wait again."""
        try:
            await self._exchange_all(lane, batch)
            for one in batch:
                if one.through_client and one.open:
                    await self._send_through_client(one)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            for one in batch:
                if one.open:
                    self._end(one, error=_instance_of(error))
        finally:
            for one in reversed(batch):
                if not one.answered:
                    if one.future is not None and one.open:
                        self._waiting.appendleft(one)
                    self._let_go(one)

    async def _exchange_all(self, lane: _Lane, batch: list[_Waiting]) -> None:
        self._refuse_closed()
        connection = await lane.connect()
        try:
            while any(one.open and not one.through_client for one in batch):
                # As redis-py's clients do it, which is how its retry policies count.
                await connection.retry.call_with_retry(
                    partial(self._exchange, lane.wire, connection, batch), lambda _: connection.disconnect()
                )
        finally:
            await lane.release(connection)

    async def _exchange(self, wire: Wire, connection: Any, batch: list[_Waiting]) -> None:
        self._refuse_closed()
        asked = [one for one in batch if one.open and not one.through_client]
        retried = getattr(connection.retry, "_supported_errors", ())

        def settle(place: int, reply: Any) -> None:
            one = asked[place]
            if not isinstance(reply, rx.ResponseError):
                self._end(one, reply=reply)
            elif isinstance(reply, rx.NoScriptError) and not one.whole:
                one.unknown = True
            elif isinstance(reply, retried):
                one.through_client = True
            else:
                self._end(one, error=reply)

        await wire.exchange(connection, list(_commands(asked)), [replies_of(one.call) for one in asked], settle)

    async def _send_through_client(self, one: _Waiting) -> None:
        self._refuse_closed()
        try:
            reply = await self._client.execute_command("EVAL", *words(one.call, whole=True)[1:])
            if (then := one.call.then) is not None:
                reply = reply, await self._client.execute_command(then.name, then.key, *then.arguments)
        except (rx.RedisError, OSError) as error:
            self._end(one, error=error)
        else:
            self._end(one, reply=reply)

    def _end(self, one: _Waiting, *, reply: Any = None, error: Exception | None = None) -> None:
        one.answered, one.reply, one.error = True, reply, error
        if one.future is not None and not one.future.done():
            one.future.set_result(None)
        self._let_go(one)

    def _refuse_closed(self) -> None:
        if self._closed():
            raise ClientClosed


def _is_sound(connection: Any) -> bool:
    """Whether the server has not hung up, as far as is known without asking, which in older redis-py takes a turn of the loop."""
    reader = getattr(connection, "_reader", None)
    return reader is not None and not reader.at_eof()


def _commands(asked: list[_Waiting]) -> Iterator[bytes]:
    """What to send: of the scripts that the server did not know, the first call of each has the whole."""
    sent: set[Script] = set()
    for one in asked:
        one.whole = one.unknown and one.call.script not in sent
        if one.whole:
            sent.add(one.call.script)
        yield pack(one.call, whole=True) if one.whole else one.packed


def _instance_of(error: Exception) -> Exception:
    """An exception like this one, for one more caller: raising one instance in several places would mix their tracebacks."""
    try:
        made = copy.copy(error)
    except Exception:  # noqa: BLE001 - one whose constructor takes other arguments
        return error
    made.__cause__ = error.__cause__
    return made

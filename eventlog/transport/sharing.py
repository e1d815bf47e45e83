"""Calls that are in flight together on one event loop share writes to the socket.

Rules:

1. A call goes out at once, in its caller's task, if no other is under way. So a lone call does not wait in a queue.
2. Other calls gather until the loop's next turn, or until a connection slot is free. A slot is one connection with at
   most one batch on it. A batch is one write, and each caller gets its reply as soon as it arrives.
3. Calls with the same first key (a thread's log) keep their order: a key is in one batch at a time. Within a batch all
   calls of a key run the same script. Otherwise a script that the server knows would overtake one that it does not
   know. (Another client that loads a script between the two can still cause that.)
4. An error reply reaches its own call only. The first call of an unknown script sends it whole, in a further write of
   the same batch. If the client's retry policy covers the error, the client itself repeats that call.
5. redis-py's retries handle a connection that fails; they repeat the calls without a reply. If they fail, each of these
   calls raises an exception of its own.
6. A call that is cancelled before it is sent is dropped. Otherwise its reply is read and discarded. If the task of a
   slot is cancelled, its calls gather again.
7. A call of many bytes goes alone, on another connection.

Between calls, a loop keeps only connections (in their pool or in a slot) and an idle timer.
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

from eventlog.flow import Call, Script
from eventlog.transport.kept import is_to_be_replaced
from eventlog.transport.steps import Steps, finish_async, patiently
from eventlog.transport.wire import Wire, command_words, pack, replies_of, words

__all__ = ["ClientClosed", "SharedCalls", "can_share"]

SLOTS = 2
"""Connection slots: the server works on one batch while callers get the replies of another."""
BATCH_CALLS = 64
"""Most calls in one batch."""
BATCH_BYTES = 256 * 1024
"""Bytes after which a batch takes no further call."""
ALONE_BYTES = 64 * 1024
"""Bytes above which a call goes alone."""


class ClientClosed(Exception):
    """The client was closed before a call had its reply; another may repeat the call."""


def can_share(client: redis.asyncio.Redis) -> bool:
    """Whether calls on a client can share writes.

    They can if it has a pool and redis-py's own `execute_command`.
    """
    return type(client).execute_command is redis.asyncio.Redis.execute_command and not client.single_connection_client


class _Pending:
    """A call and its outcome."""

    __slots__ = ("answered", "call", "error", "future", "key", "packed", "reply", "through_client", "unknown", "whole")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.key = call.keys[0]
        self.packed = pack(call, whole=False)
        self.future: asyncio.Future[None] | None = None
        """Done once the call is answered or its caller cancelled; None if the caller's task carries the call."""
        self.answered = False
        self.unknown = False
        """Whether the server replied that it does not know the script."""
        self.whole = False
        """Whether the script was sent whole."""
        self.through_client = False
        """Whether the client's retry policy covers the error reply."""
        self.reply: Any = None
        self.error: Exception | None = None

    @property
    def big(self) -> bool:
        return len(self.packed) > ALONE_BYTES

    @property
    def open(self) -> bool:
        """Whether a caller still waits for the reply."""
        return not (self.answered or (self.future is not None and self.future.done()))


class _Slot:
    """One connection of a pool.

    It is kept between batches if this project opened the pool: a check-out costs as much as a call.
    """

    def __init__(self, pool: Any, *, keep: bool) -> None:
        self.wire = Wire()
        self._pool = pool
        self._keep = keep
        self._kept: Any = None

    async def connect(self) -> Any:
        """A connection that is ready for a batch."""
        if self._kept is None:
            return await finish_async(patiently(self._check_out, asyncio.sleep))
        if not _is_sound(self._kept):
            await self._pool.ensure_connection(self._kept)
        return self._kept

    def _check_out(self) -> Steps:
        return (yield self._pool.get_connection())

    async def release(self, connection: Any) -> None:
        """Keeps the connection, or gives it back to the pool."""
        if self._keep and not is_to_be_replaced(connection):
            self._kept = connection
        else:
            self._kept = None
            await self._pool.release(connection)


class SharedCalls:
    """The calls on one asyncio client that share writes, all on one event loop."""

    def __init__(self, client: redis.asyncio.Redis, *, keep: bool, closed: Callable[[], bool]) -> None:
        """Share the calls on a client of the running loop.

        `keep` tells whether connections may stay out of the pool, `closed` whether the client has been closed.
        """
        self._loop = asyncio.get_running_loop()
        self._client: Any = client
        self._pool = client.connection_pool
        self._closed = closed
        self._free = [_Slot(self._pool, keep=keep) for _ in range(SLOTS)]
        self._waiting: deque[_Pending] = deque()
        self._under_way: dict[bytes, int] = {}
        """How many calls of each key are under way."""
        self._roused = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, call: Call) -> Any:
        """The reply of a call.

        Raises redis-py's errors, or `ClientClosed`.
        """
        one = _Pending(call)
        if one.big and not self._is_busy(one.key):
            await self._carry(_Slot(self._pool, keep=False), [self._enter(one)])
        elif self._under_way or self._waiting or not self._free:
            one.future = self._loop.create_future()
            self._waiting.append(one)
            self._rouse()
            await one.future
        else:
            slot = self._free.pop()
            try:
                await self._carry(slot, [self._enter(one)])
            finally:
                self._free.append(slot)
                self._rouse()
        if one.error is not None:
            raise one.error
        return one.reply

    def _is_busy(self, key: bytes) -> bool:
        return key in self._under_way or any(one.key == key for one in self._waiting)

    def _enter(self, one: _Pending) -> _Pending:
        self._under_way[one.key] = self._under_way.get(one.key, 0) + 1
        return one

    def _leave(self, one: _Pending) -> None:
        self._under_way[one.key] -= 1
        if not self._under_way[one.key]:
            del self._under_way[one.key]
        self._rouse()

    def _rouse(self) -> None:
        """Has waiting calls sent in the loop's next turn, if a slot is free."""
        if self._waiting and self._free and not self._roused:
            self._roused = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._roused = False
        while self._free and (batch := self._next_batch()):
            task = self._loop.create_task(self._drain(self._free.pop(), batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _drain(self, slot: _Slot, batch: list[_Pending]) -> None:
        try:
            while batch:
                await self._carry(slot, batch)
                batch = self._next_batch()
        finally:
            self._free.append(slot)
            self._rouse()

    def _next_batch(self) -> list[_Pending]:
        """The next waiting calls that may go out together, in their order."""
        batch: list[_Pending] = []
        left: list[_Pending] = []
        scripts: dict[bytes, Script | None] = {}
        size = 0
        while self._waiting and len(batch) < BATCH_CALLS and size < BATCH_BYTES:
            one = self._waiting.popleft()
            if not one.open:
                continue
            fits = one.key not in self._under_way and scripts.get(one.key, one.call.script) is one.call.script
            if fits and not (one.big and batch):
                scripts[one.key] = one.call.script
                batch.append(one)
                size += BATCH_BYTES if one.big else len(one.packed)
            else:
                scripts[one.key] = None
                left.append(one)
        self._waiting.extendleft(reversed(left))
        return [self._enter(one) for one in batch]

    async def _carry(self, slot: _Slot, batch: list[_Pending]) -> None:
        """Answers every call of a batch.

        It raises an exception only if it is cancelled; open calls then wait again.
        """
        try:
            await self._exchange_all(slot, batch)
            for one in batch:
                if one.through_client and one.open:
                    await self._send_through_client(one)
        except Exception as error:  # noqa: BLE001 - every caller gets the error
            for one in batch:
                if one.open:
                    self._end(one, error=_copy_of(error))
        finally:
            for one in reversed(batch):
                if not one.answered:
                    if one.future is not None and one.open:
                        self._waiting.appendleft(one)
                    self._leave(one)

    async def _exchange_all(self, slot: _Slot, batch: list[_Pending]) -> None:
        self._refuse_closed()
        connection = await slot.connect()
        try:
            while asked := [one for one in batch if one.open and not one.through_client]:
                # The retries of the connection, as redis-py's clients use them.
                await connection.retry.call_with_retry(
                    partial(self._exchange, slot.wire, connection, asked), lambda _: connection.disconnect()
                )
        finally:
            await slot.release(connection)

    async def _exchange(self, wire: Wire, connection: Any, batch: list[_Pending]) -> None:
        self._refuse_closed()
        asked = [one for one in batch if one.open and not one.through_client]
        retried = getattr(connection.retry, "_supported_errors", ())

        def settle(number: int, reply: Any) -> None:
            one = asked[number]
            if not isinstance(reply, rx.ResponseError):
                self._end(one, reply=reply)
            elif isinstance(reply, rx.NoScriptError) and not one.whole:
                one.unknown = True
            elif isinstance(reply, retried):
                one.through_client = True
            else:
                self._end(one, error=reply)

        await wire.exchange(connection, list(_commands(asked)), [replies_of(one.call) for one in asked], settle)

    async def _send_through_client(self, one: _Pending) -> None:
        self._refuse_closed()
        try:
            reply = await self._client.execute_command(*words(one.call, whole=True))
            if (then := one.call.then) is not None:
                reply = reply, await self._client.execute_command(*command_words(then))
        except (rx.RedisError, OSError) as error:
            self._end(one, error=error)
        else:
            self._end(one, reply=reply)

    def _end(self, one: _Pending, *, reply: Any = None, error: Exception | None = None) -> None:
        one.answered, one.reply, one.error = True, reply, error
        if one.future is not None and not one.future.done():
            one.future.set_result(None)
        self._leave(one)

    def _refuse_closed(self) -> None:
        if self._closed():
            raise ClientClosed


def _is_sound(connection: Any) -> bool:
    """Whether the server kept the connection open, as far as is known without waiting."""
    reader = getattr(connection, "_reader", None)
    return reader is not None and not reader.at_eof()


def _commands(asked: list[_Pending]) -> Iterator[bytes]:
    """The bytes to send; the first call of each unknown script sends it whole."""
    sent: set[Script] = set()
    for one in asked:
        one.whole = one.unknown and one.call.script not in sent
        if one.whole:
            sent.add(one.call.script)
        yield pack(one.call, whole=True) if one.whole else one.packed


def _copy_of(error: Exception) -> Exception:
    """A copy of an error for one more caller; a shared one would mix tracebacks."""
    try:
        made = copy.copy(error)
    except Exception:  # noqa: BLE001 - its constructor takes other arguments
        return error
    made.__cause__ = error.__cause__
    return made

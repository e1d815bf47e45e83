"""Script calls as bytes, and one exchange of many of them on a connection of redis-py's asyncio clients.

redis-py's own pipeline costs some 40 microseconds of Python per call; packing with hiredis and reading replies one after the
other costs a quarter of that. Only what redis-py's clients call on a connection themselves is used here, so what a connection
knows (reconnecting, health checks, following Sentinel, push messages) goes on working.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis
import redis.exceptions as rx

from eventlog.flow import Call

__all__ = ["Wire", "pack", "replies_of", "settled", "words"]


def words(call: Call, *, whole: bool) -> tuple[Any, ...]:
    """A call as a command: the script by its digest, or `whole`."""
    head = ("EVAL", call.script.source) if whole else ("EVALSHA", call.script.sha)
    return (*head, len(call.keys), *call.keys, *call.arguments)


def pack(call: Call, *, whole: bool) -> bytes:
    """A call as the server reads it, and what goes out behind it."""
    packed: bytes = hiredis.pack_command(words(call, whole=whole))
    if call.then is not None:
        then: tuple[Any, ...] = (call.then.name, call.then.key, *call.then.arguments)
        packed += hiredis.pack_command(then)
    return packed


def replies_of(call: Call) -> int:
    """Number of replies that a call has."""
    return 1 if call.then is None else 2


def settled(replies: list[Any]) -> Any:
    """The reply of a call from those of its commands: an error, or one reply, or the pair of both."""
    for reply in replies:
        if isinstance(reply, Exception):
            return reply
    return replies[0] if len(replies) == 1 else tuple(replies)


class Wire:
    """Exchanges on one connection at a time, in turn; its `socket_timeout` limits the wait for each reply, as in redis-py.

    redis-py's way of limiting it, a timer for every send and every reply, costs more than all the rest of an exchange. Here one
    timer watches over many exchanges: it looks whether a reply has been overdue since it was set, and else sets itself anew.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._timeout = 0.0
        self._since = 0.0
        self._overdue = False

    async def exchange(
        self, connection: Any, commands: list[bytes], counts: list[int], settle: Callable[[int, Any], None]
    ) -> None:
        """Sends `commands` in one go; calls `settle` with the place and the reply of each, as it comes, of `counts` replies each.

        A reply is what the server sent, or redis-py's ResponseError. Raises redis-py's ConnectionError or TimeoutError, after
        which the connection is closed, as it is where this is cancelled.
        """
        if not connection.is_connected:
            await connection.connect()
        timeout = connection.socket_timeout
        if timeout:
            connection.socket_timeout = None
            self._watch(connection, timeout)
        try:
            await connection.send_packed_command(commands)
            for place, count in enumerate(counts):
                replies = []
                for _ in range(count):
                    try:
                        replies.append(await connection.read_response())
                    except rx.ResponseError as error:
                        replies.append(error)
                if timeout:
                    self._since = self._loop.time()
                settle(place, settled(replies))
        except (rx.RedisError, OSError) as error:
            if self._overdue:
                raise rx.TimeoutError(f"The server did not answer within {timeout} seconds") from error
            raise
        finally:
            self._connection = None
            self._overdue = False
            if timeout and connection.socket_timeout is None:
                connection.socket_timeout = timeout

    def _watch(self, connection: Any, timeout: float) -> None:
        self._connection, self._timeout, self._since = connection, timeout, self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(timeout, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._connection is None:
            return
        left = self._since + self._timeout - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._overdue = True
            _cut(self._connection)


def _cut(connection: Any) -> None:
    """Closes the socket of a connection that another task waits on, which finds it closed by the server."""
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()

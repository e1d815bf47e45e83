"""Script calls as bytes, and the exchange of many calls on one asyncio connection.

redis-py's own pipeline costs some 40 microseconds of Python per call. Packing with hiredis, and reading the replies one
by one, costs a quarter of that. This module uses only those methods of a connection that redis-py's clients use. So
reconnecting, health checks, Sentinel and push messages keep working.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import hiredis
import redis.exceptions as rx

from eventlog.flow import Argument, Call, Command

__all__ = ["Wire", "command_words", "pack", "replies_of", "settled", "words"]


def words(call: Call, *, whole: bool) -> tuple[Any, ...]:
    """A call as a command, with the script whole or by its digest."""
    head = ("EVAL", call.script.source) if whole else ("EVALSHA", call.script.sha)
    return (*head, b"%d" % len(call.keys), *call.keys, *_without_numbers(call.arguments))


def command_words(command: Command) -> tuple[Any, ...]:
    """A command with its key and arguments."""
    return (command.name, command.key, *_without_numbers(command.arguments))


def _without_numbers(arguments: Iterable[Argument]) -> Iterator[bytes | str]:
    """Arguments with numbers as bytes.

    hiredis crashes on an int if the handler of a signal raises an exception just then, as it does at Ctrl-C.
    """
    return (b"%d" % one if isinstance(one, int) else one for one in arguments)


def pack(call: Call, *, whole: bool) -> bytes:
    """A call, and the command after it, as the server reads them."""
    packed: bytes = hiredis.pack_command(words(call, whole=whole))
    if call.then is not None:
        packed += hiredis.pack_command(command_words(call.then))
    return packed


def replies_of(call: Call) -> int:
    """Number of replies that a call has."""
    return 1 if call.then is None else 2


def settled(replies: list[Any]) -> Any:
    """The reply of a call, from those of its commands.

    It is the first error, the only reply, or the pair of both.
    """
    for reply in replies:
        if isinstance(reply, Exception):
            return reply
    return replies[0] if len(replies) == 1 else tuple(replies)


class Wire:
    """Exchanges on one connection at a time, with its `socket_timeout` for each reply.

    redis-py limits that wait with a timer for each send and each reply, which costs more than the rest of an exchange.
    Here one timer serves many exchanges: when it fires, it either finds an overdue reply or starts again.
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
        """Sends `commands` in one write, and calls `settle` for each as it is answered.

        Its arguments are the number and the reply of the command. A reply is the server's, or redis-py's ResponseError.
        Command i has `counts[i]` replies. Raises redis-py's ConnectionError or TimeoutError. The connection is closed
        after these, and also if this is cancelled.
        """
        if not connection.is_connected:
            await connection.connect()
        timeout = connection.socket_timeout
        if timeout:
            connection.socket_timeout = None
            self._watch(connection, timeout)
        try:
            await connection.send_packed_command(commands)
            for number, count in enumerate(counts):
                replies = []
                for _ in range(count):
                    try:
                        replies.append(await connection.read_response())
                    except rx.ResponseError as error:
                        replies.append(error)
                if timeout:
                    self._since = self._loop.time()
                settle(number, settled(replies))
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
    """Closes a connection's socket, as if the server had closed it."""
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()

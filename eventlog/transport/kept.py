"""Sync calls use connections that stay out of their pool.

To check a connection of redis-py's pool out and in costs a fifth of a call. So a pool that this project opened, and
that nobody else uses, lends its connections for good. They lie on a stack, with the last one used on top. They go back
only if another caller waits on the pool, or if redis-py wants a connection replaced. To the pool they are in use, so
its `max_connections` holds, and closing it closes them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
import redis.exceptions as rx

from eventlog.flow import Call
from eventlog.transport.wire import pack, settled

__all__ = ["KeptConnections", "can_keep", "is_to_be_replaced"]


def can_keep(client: Any, *, at_least: int = 0) -> bool:
    """Whether the connections of a client may stay out of its pool.

    The client must be one that this project opened. They may not if the pool needs them back, to follow Sentinel or to
    renew credentials, or if it has no more than `at_least` of them.
    """
    pool = client.connection_pool
    return (
        isinstance(pool, (redis.BlockingConnectionPool, redis.asyncio.BlockingConnectionPool))
        and pool.max_connections > at_least
        and pool.connection_kwargs.get("credential_provider") is None
        and getattr(pool, "cache", None) is None
    )


def is_to_be_replaced(connection: Any) -> bool:
    """Whether redis-py has marked a connection to be reopened in the pool."""
    marked = getattr(connection, "should_reconnect", None)
    return marked is not None and bool(marked())


class KeptConnections:
    """Carries out calls on connections of a sync client, from any thread.

    The client must be one that this project opened.
    """

    def __init__(self, client: redis.Redis, closed: Callable[[], bool]) -> None:
        """Keep connections of `client`; `closed` tells whether it has been closed."""
        self._closed = closed
        self._pool: Any = client.connection_pool
        self._begin_process()

    def run(self, call: Call) -> Any:
        """The reply of a call.

        It takes one round trip; two if the server does not know the script. Raises redis-py's errors.
        """
        self._notice_fork()
        connection = self._take()
        in_step = False
        try:
            try:
                reply = _exchange(connection, call, whole=False)
            except rx.NoScriptError:
                reply = _exchange(connection, call, whole=True)
            in_step = True
        except rx.ResponseError:
            in_step = True
            raise
        finally:
            if not in_step:  # after an interruption a reply may still arrive
                connection.disconnect()
            self._give_back(connection)
        return reply

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Gives connections back to the pool, for requests through the client."""
        self._notice_fork()
        with self._lock:
            self._wanted += 1
        try:
            self._return_one()
            yield
        finally:
            with self._lock:
                self._wanted -= 1

    def _take(self) -> Any:
        try:
            connection = self._idle.pop()
        except IndexError:
            pass
        else:
            if _is_sound(connection):
                return connection
            self._pool.release(connection)
        with self.lent():  # another thread may have put one on the stack; from here on it goes to the pool
            return self._pool.get_connection()

    def _give_back(self, connection: Any) -> None:
        if self._closed():
            connection.disconnect()
        if is_to_be_replaced(connection):
            self._pool.release(connection)
            return
        self._idle.append(connection)
        if self._wanted:
            self._return_one()

    def _return_one(self) -> None:
        try:
            connection = self._idle.pop()
        except IndexError:
            return
        self._pool.release(connection)

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():
            self._begin_process()

    def _begin_process(self) -> None:
        # After a fork the connections belong to the parent; dropping them here closes them in this process alone.
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[Any] = []
        self._wanted = 0


def _is_sound(connection: Any) -> bool:
    """Whether the server neither closed the connection nor sent anything unasked."""
    try:
        return not connection.can_read()
    except (rx.ConnectionError, rx.TimeoutError, OSError):
        return False


def _exchange(connection: Any, call: Call, *, whole: bool) -> Any:
    packed = [pack(call, whole=whole)]

    def attempt() -> Any:
        connection.send_packed_command(packed)
        if call.then is None:
            return connection.read_response()
        reply = settled([_read(connection), _read(connection)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    return connection.retry.call_with_retry(attempt, lambda _: connection.disconnect())


def _read(connection: Any) -> Any:
    """A reply, or the error that the server replied with."""
    try:
        return connection.read_response()
    except rx.ResponseError as error:
        return error

"""Sync calls use connections that stay out of their pool.

To check a connection of redis-py's pool out and in costs a fifth of a call. So a pool that this project opened, and
that nobody else uses, lends its connections for good. They lie on a stack, with the last one used on top. They go back
only if another caller waits on the pool, or if redis-py wants a connection replaced. To the pool they are in use, so
its `max_connections` holds, and closing it closes them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
import redis.exceptions as rx

from eventlog.flow import Call, Transact
from eventlog.transport.watched import MOST, Place, Watching, transact
from eventlog.transport.wire import pack, replies_of, settled

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
        if call.watch is None or self._watching.is_refused:
            return self._run(call, self._take())
        try:
            with self._watching.held(call.watch.name, begin=True) as place:
                return self._run(call, self._take()) if place is None else self._run_watching(call, place)
        finally:
            self._serve_others()

    def _run(self, call: Call, connection: Any) -> Any:
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

    def _run_watching(self, call: Call, place: Place) -> Any:
        """The reply of a call, after which its connection rests at its place."""
        if place.is_busy or place.rest:
            place.rest = max(0, place.rest - 1)
            if place.connection is not None and not place.is_busy:
                self._watching.give_up(place)
            return self._run(call, self._take())
        connection, place.connection, place.standing = place.connection, None, None
        if connection is None or not _is_sound(connection):
            if connection is not None:
                self._give_back(connection)
            connection = self._take()
        place.is_busy, began = True, time.monotonic()
        replies = None
        try:
            replies = _exchange_watching(connection, call, self._watching, whole=False)
            if isinstance(replies[0], rx.NoScriptError):
                replies = None
                replies = _exchange_watching(connection, call, self._watching, whole=True)
        finally:
            place.is_busy = False
            if replies is None:
                connection.disconnect()
                self._give_back(connection)
            else:
                self._watching.settle(call, place, connection, replies[-4:], began)
        reply = settled(replies[:-4])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def transact(self, request: Transact) -> Any:
        """The standing after a transaction; None if nothing is known of its outcome, or nothing was written.

        It takes one round trip, or none. Raises redis-py's ResponseError if a command of it failed.
        """
        self._notice_fork()
        try:
            with self._watching.held(request.name, begin=False) as place:
                return None if place is None else self._transact(request, place)
        finally:
            self._serve_others()

    def _transact(self, request: Transact, place: Place) -> Any:
        if place.is_busy or place.standing is None:
            return None
        if self._closed() or is_to_be_replaced(place.connection) or not place.is_sound():
            self._watching.give_up(place)
            return None
        place.is_busy = True
        rests = in_step = False
        try:
            rests, standing = transact(place, request)
            in_step = True
        except rx.ResponseError:
            in_step = True
            raise
        except (rx.ConnectionError, rx.TimeoutError, OSError):
            return None  # a script finds out what the server did
        finally:
            place.is_busy = False
            if not in_step:
                place.connection.disconnect()
            if not rests:
                self._watching.give_up(place)
        return standing

    def _serve_others(self) -> None:
        """Gives a watch up if a call waits for a connection."""
        if self._wanted and self._is_short():
            self._watching.give_one_back()

    def _is_short(self) -> bool:
        """Whether calls may wait, as the pool has no more connections."""
        return bool(self._held + self._wanted > self._pool.max_connections)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Gives connections back to the pool, for requests through the client."""
        self._notice_fork()
        with self._lock:
            self._wanted += 1
        try:
            if not self._idle and self._is_short():
                self._watching.give_one_back()
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
            self._release(connection)
        with self.lent():  # another thread may have put one on the stack; from here on it goes to the pool
            connection = self._pool.get_connection()
        with self._lock:
            self._held += 1
        return connection

    def _give_back(self, connection: Any) -> None:
        if self._closed():
            connection.disconnect()
        if is_to_be_replaced(connection):
            self._release(connection)
            return
        self._idle.append(connection)
        if self._wanted:
            self._return_one()

    def _return_one(self) -> None:
        try:
            connection = self._idle.pop()
        except IndexError:
            return
        self._release(connection)

    def _release(self, connection: Any) -> None:
        with self._lock:
            self._held -= 1
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
        self._held = 0
        """Connections that are not in the pool."""
        self._watching = Watching(min(MOST, self._pool.max_connections // 2), self._give_back)


def _is_sound(connection: Any) -> bool:
    """Whether the server neither closed the connection nor sent anything unasked.

    A connection closed here is sound: a call opens it within its retries.
    """
    try:
        return connection._sock is None or not connection.can_read()
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


def _exchange_watching(connection: Any, call: Call, watching: Watching, *, whole: bool) -> list[Any]:
    """The replies to a call and to what lets its connection rest: errors are among them."""
    packed = [pack(call, whole=whole), watching.packed(call.watch, whole=whole)]  # type: ignore[arg-type]

    def attempt() -> list[Any]:
        connection.send_packed_command(packed)
        return [_read(connection) for _ in range(replies_of(call) + 4)]

    replies: list[Any] = connection.retry.call_with_retry(attempt, lambda _: connection.disconnect())
    return replies


def _read(connection: Any) -> Any:
    """A reply, or the error that the server replied with."""
    try:
        return connection.read_response()
    except rx.ResponseError as error:
        return error

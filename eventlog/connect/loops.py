"""An asyncio client is closed before its event loop ends.

A connection of redis-py's asyncio clients belongs to one loop. It fails on other loops, and cannot be closed after its
loop is. There is one public sign of a loop's end: `asyncio.run`, pytest and unittest close the async generators that
began on the loop, each in a task on it. So each client has a generator that begins with it and closes it at its end.

A bare `loop.close()` gives no such sign. In that case the sockets are closed later, without a message where the closed
loop allows it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import redis
import redis.asyncio.cluster

from eventlog.connect.clients import sentinels_of
from eventlog.connect.given import AsyncClient

__all__ = ["LoopClient", "loops_in_use", "running_loop"]


class LoopClient:
    """An asyncio client on one event loop, which is closed at the end of that loop.

    `close` and `aclose` close it earlier.
    """

    def __init__(self, client: AsyncClient) -> None:
        """Bind `client` to the running loop; only this object may close it."""
        self.client = client
        self.loop = asyncio.get_running_loop()
        self._closed = threading.Event()
        self._watch = _until_the_loop_ends(client, self._closed)
        _run_at_once(self._watch.__anext__())

    @property
    def open(self) -> bool:
        """Whether the client is open."""
        return not self._closed.is_set()

    async def aclose(self) -> None:
        """Close the client's connections; wait for that on the client's own loop only."""
        if self.loop is running_loop():
            await self._watch.aclose()
        else:
            self.close()

    def close(self) -> None:
        """Close the client's connections, from any thread.

        It does not wait for another loop, and never raises an exception.
        """
        here = running_loop()
        if self.loop is here:
            self._hang_up()
        elif here is None and not self.loop.is_running() and not self.loop.is_closed():
            self.loop.run_until_complete(self._watch.aclose())
        else:
            try:
                self.loop.call_soon_threadsafe(self._hang_up)
            except RuntimeError:  # the loop is closed
                self._abandon()

    def _hang_up(self) -> None:
        """Close on the loop itself, which does the rest in its next turn."""
        if self.open:
            self._closed.set()
            for connection in _connections_of(self.client):
                connection._close()
            self._forget()

    def _abandon(self) -> None:
        """Close the connections that a closed loop left open."""
        if self.open:
            self._closed.set()
            for connection in _connections_of(self.client):
                _close_without_loop(connection)
            self._forget()

    def _forget(self) -> None:
        if isinstance(self.client, redis.asyncio.cluster.RedisCluster):
            self.client._initialize = True  # otherwise redis-py warns that it is open
        _run_at_once(self._watch.aclose())


async def _until_the_loop_ends(client: AsyncClient, closed: threading.Event) -> AsyncGenerator[None, None]:
    # No reference to the LoopClient: one that is dropped while open ends this at once, without a garbage cycle.
    try:
        yield
    finally:
        if not closed.is_set():
            closed.set()
            await _disconnect(client)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop running in this thread, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def loops_in_use(client: AsyncClient) -> set[asyncio.AbstractEventLoop]:
    """The event loops of the open connections of `client`."""
    writers = [connection._writer for connection in _connections_of(client)]
    return {writer._loop for writer in writers if writer is not None}


def _run_at_once(step: Any) -> None:
    """Run an awaitable that never waits."""
    with suppress(StopIteration, StopAsyncIteration):
        step.send(None)


async def _disconnect(client: AsyncClient) -> None:
    for one in (client, *sentinels_of(client)):
        with suppress(redis.RedisError, OSError):
            await one.aclose()


def _connections_of(client: Any) -> list[Any]:
    if isinstance(client, redis.asyncio.cluster.RedisCluster):
        manager = client.nodes_manager
        nodes = (*manager.nodes_cache.values(), *manager.startup_nodes.values())
        return [connection for node in nodes for connection in node._connections]
    pools = [one.connection_pool for one in (client, *sentinels_of(client))]
    return [connection for pool in pools for connection in (*pool._available_connections, *pool._in_use_connections)]


def _close_without_loop(connection: Any) -> None:
    writer = connection._writer
    connection._reader = connection._writer = None
    if writer is None:
        return
    transport = writer.transport
    with suppress(RuntimeError):  # it marks the transport as closing, and then finds the loop closed
        transport.abort()
    beneath = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None) or transport
    with suppress(RuntimeError, AttributeError):
        transport._closed = beneath._closing = True  # the marks of abort depend on Python and TLS
        beneath._call_connection_lost(None)  # asyncio's own, which closes the socket

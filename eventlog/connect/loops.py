"""An asyncio client that lives as long as its event loop, and no longer.

A connection of redis-py's asyncio clients belongs to the loop it was opened on: on another loop it fails, and once its loop is
closed it cannot even be closed. So a client of ours is closed *before* its loop ends. There is one public sign of that end:
`asyncio.run` and its kin (pytest, unittest) close the async generators that were begun on the loop, each in a task on it. So
every client is watched over by a generator, begun as the client is made, whose end is to close the client.

Where a loop is closed without that courtesy (`loop.close()` by hand), the sockets are closed afterwards, as silently as the
loop's remains allow.
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
    """An asyncio client of ours on one event loop. It is closed by its loop's end, or sooner by `close` or `aclose`."""

    def __init__(self, client: AsyncClient) -> None:
        """Bind `client`, which nothing else may close, to the running loop."""
        self.client = client
        self.loop = asyncio.get_running_loop()
        self._closed = threading.Event()
        self._watch = _until_the_loop_ends(client, self._closed)
        _run_at_once(self._watch.__anext__())

    @property
    def open(self) -> bool:
        """Whether the client may still be used."""
        return not self._closed.is_set()

    async def aclose(self) -> None:
        """Close the client's connections; waits for that only on the client's own loop."""
        if self.loop is running_loop():
            await self._watch.aclose()
        else:
            self.close()

    def close(self) -> None:
        """Close the client's connections from wherever this is called; never raises, never waits for another loop."""
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
        """Close without waiting; called on the loop itself, which sees to the rest in its next turn."""
        if self.open:
            self._closed.set()
            for connection in _connections_of(self.client):
                connection._close()
            self._forget()

    def _abandon(self) -> None:
        """Close what a closed loop left open."""
        if self.open:
            self._closed.set()
            for connection in _connections_of(self.client):
                _close_without_loop(connection)
            self._forget()

    def _forget(self) -> None:
        if isinstance(self.client, redis.asyncio.cluster.RedisCluster):
            self.client._initialize = True  # or redis-py warns that it was not closed
        _run_at_once(self._watch.aclose())


async def _until_the_loop_ends(client: AsyncClient, closed: threading.Event) -> AsyncGenerator[None, None]:
    # Knows nothing of the LoopClient, so that one dropped without being closed leads here at once, not to a garbage cycle.
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
    """The event loops to which open connections of `client` belong."""
    writers = [connection._writer for connection in _connections_of(client)]
    return {writer._loop for writer in writers if writer is not None}


def _run_at_once(step: Any) -> None:
    """Run an awaitable that is known not to wait."""
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
    with suppress(RuntimeError):  # marks it as closing, then finds the loop closed
        transport.abort()
    beneath = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None) or transport
    with suppress(RuntimeError, AttributeError):
        transport._closed = beneath._closing = True  # what abort marks differs by version of Python and by TLS
        beneath._call_connection_lost(None)  # asyncio's own: closes the socket, which only the loop would have called

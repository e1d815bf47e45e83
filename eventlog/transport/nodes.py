"""Calls that are in flight together on one event loop share writes to each node of a cluster.

Rules:

1. Each node has one connection slot and batches of its own, as `eventlog.transport.sharing` describes. With two slots
   batches were smaller, and the throughput lower. Connections are redis-py's, and go back to its node after each batch.
2. A call goes to the primary that redis-py knows for its first key. While calls on a key are in flight, further calls
   on that key go to the same node, so they keep their order while a slot moves.
3. Where a node redirects, refuses or fails, redis-py's own `execute_command` repeats the calls concerned. It follows
   the slots and asks the nodes for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis.asyncio.cluster
import redis.exceptions as rx

from eventlog.connect.retries import AsyncCluster
from eventlog.flow import Call
from eventlog.transport.kept import is_to_be_replaced
from eventlog.transport.sharing import SharedCalls, is_sound

__all__ = ["ClusterCalls", "can_share_by_node"]

_ELSEWHERE = (
    rx.AskError,  # MovedError is one
    rx.TryAgainError,
    rx.ClusterDownError,
)
"""Error replies after which redis-py's own way repeats a call."""


def can_share_by_node(client: redis.asyncio.cluster.RedisCluster) -> bool:
    """Whether calls on a cluster client can share writes: it must have an `execute_command` that is known here."""
    return type(client).execute_command in (
        redis.asyncio.cluster.RedisCluster.execute_command,
        AsyncCluster.execute_command,
    )


class ClusterCalls:
    """The calls on one asyncio cluster client that share writes, all on one event loop."""

    def __init__(self, client: redis.asyncio.cluster.RedisCluster, *, closed: Callable[[], bool]) -> None:
        """Share the calls on a client of the running loop; `closed` tells whether it has been closed."""
        self._client: Any = client
        self._closed = closed
        self._nodes: dict[str, SharedCalls] = {}
        self._in_flight: dict[bytes, tuple[SharedCalls, int]] = {}
        """The node and the number of the calls of each key."""

    async def run(self, call: Call) -> Any:
        """The reply of a call.

        Raises redis-py's errors, or `ClientClosed`.
        """
        await self._client.initialize()
        key = call.keys[0]
        shared, count = self._in_flight.get(key) or (self._node_of(key), 0)
        self._in_flight[key] = shared, count + 1
        try:
            return await shared.run(call)
        finally:
            shared, count = self._in_flight.pop(key)
            if count > 1:
                self._in_flight[key] = shared, count - 1

    def _node_of(self, key: bytes) -> SharedCalls:
        node = self._client.get_node_from_key(key)
        name = "" if node is None else node.name
        shared = self._nodes.get(name)
        if shared is None:
            pool = _NodeConnections(self._client, name)
            shared = SharedCalls(self._client, pool, closed=self._closed, slots=1, elsewhere=_ELSEWHERE)
            self._nodes[name] = shared
        return shared


class _NodeConnections:
    """The connections of a node, with the methods of a pool that a slot uses."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name
        self._nodes: dict[Any, Any] = {}
        """The node of each connection that is out."""

    async def get_connection(self) -> Any:
        """A connection, which may be closed; an exchange opens it.

        Raises redis-py's MaxConnectionsError if the node has no more, and ConnectionError if the node is gone.
        """
        node = self._client.get_node(node_name=self._name) if self._name else None
        if node is None:
            raise rx.ConnectionError(f"No node {self._name!r} in the cluster")
        connection = node.acquire_connection()
        self._nodes[connection] = node
        try:
            if is_to_be_replaced(connection) or not is_sound(connection):
                await connection.disconnect()
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        """Gives a connection back."""
        self._nodes.pop(connection).release(connection)

"""Callers may give redis-py clients and pools as connections."""

from __future__ import annotations

from typing import TypeAlias

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.client
import redis.cluster
import redis.sentinel

from eventlog.errors import InvalidArgument

__all__ = ["AsyncClient", "GivenAsync", "GivenSync", "SyncClient", "accept_async", "accept_sync", "is_cluster"]

SyncClient: TypeAlias = "redis.Redis | redis.cluster.RedisCluster"
AsyncClient: TypeAlias = "redis.asyncio.Redis | redis.asyncio.cluster.RedisCluster"
GivenSync: TypeAlias = "SyncClient | redis.ConnectionPool"
GivenAsync: TypeAlias = "AsyncClient | redis.asyncio.ConnectionPool"

_SYNC = (redis.Redis, redis.cluster.RedisCluster, redis.ConnectionPool)
_ASYNC = (redis.asyncio.Redis, redis.asyncio.cluster.RedisCluster, redis.asyncio.ConnectionPool)
_PIPELINES = (
    redis.client.Pipeline,
    redis.cluster.ClusterPipeline,
    redis.asyncio.client.Pipeline,
    redis.asyncio.cluster.ClusterPipeline,
)
_SENTINELS = (redis.sentinel.Sentinel, redis.asyncio.sentinel.Sentinel)


def accept_sync(given: object) -> SyncClient:
    """The sync client for `given`: itself, or one on the pool, which stays open.

    Raises TypeError unless it is a sync client or pool, and InvalidArgument if it decodes responses.
    """
    if not isinstance(given, _SYNC) or isinstance(given, _PIPELINES):
        raise TypeError(_refusal(given, "sync_connection", "async_connection", _ASYNC, "redis"))
    _refuse_decoding(given, "sync_connection")
    return redis.Redis(connection_pool=given) if isinstance(given, redis.ConnectionPool) else given


def accept_async(given: object) -> AsyncClient:
    """The asyncio client for `given`: itself, or one on the pool, which stays open.

    Raises TypeError unless it is an asyncio client or pool, and InvalidArgument if it decodes responses.
    """
    if not isinstance(given, _ASYNC) or isinstance(given, _PIPELINES):
        raise TypeError(_refusal(given, "async_connection", "sync_connection", _SYNC, "redis.asyncio"))
    _refuse_decoding(given, "async_connection")
    return redis.asyncio.Redis(connection_pool=given) if isinstance(given, redis.asyncio.ConnectionPool) else given


def is_cluster(client: SyncClient | AsyncClient) -> bool:
    """Whether a client is a cluster client."""
    return isinstance(client, (redis.cluster.RedisCluster, redis.asyncio.cluster.RedisCluster))


def _refusal(given: object, argument: str, other: str, other_kinds: tuple[type, ...], module: str) -> str:
    if isinstance(given, (str, bytes)):
        return f"{argument} is a URL, not a connection; pass it to from_conn_string(url) instead"
    if isinstance(given, _SENTINELS):
        return f"{argument} is a Sentinel, which answers no data commands; pass sentinel.master_for('<service name>')"
    kind = f"{type(given).__module__}.{type(given).__qualname__}"
    if isinstance(given, _PIPELINES):
        return f"{argument} is a pipeline ({kind}); pass the client it was made from"
    if isinstance(given, other_kinds):
        return f"{argument} is a {kind}; pass it as {other}"
    return f"{argument} must be a {module}.Redis, {module}.RedisCluster or {module}.ConnectionPool, not {kind}"


def _refuse_decoding(given: GivenSync | GivenAsync, argument: str) -> None:
    if isinstance(given, (redis.cluster.RedisCluster, redis.asyncio.cluster.RedisCluster)):
        encoder = given.encoder
    elif isinstance(given, (redis.Redis, redis.asyncio.Redis)):
        encoder = given.connection_pool.get_encoder()
    else:
        encoder = given.get_encoder()
    if encoder.decode_responses:
        raise InvalidArgument(
            f"{argument} has decode_responses on, but stored values are bytes and would be damaged. "
            "To fix it: make a client without decode_responses=True for this purpose."
        )

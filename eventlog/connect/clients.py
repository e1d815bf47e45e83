"""redis-py clients are made from an address, or as twins for other event loops.

Only redis-py's sync cluster client makes a round trip as it is made, to learn the slots. The caller closes each client.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.cluster
import redis.retry
import redis.sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException

from eventlog.connect.given import AsyncClient, SyncClient
from eventlog.connect.urls import Address
from eventlog.errors import InvalidArgument

__all__ = ["check_options", "make_async", "make_sync", "sentinels_of", "twin"]

_CONNECTIONS = {"redis": "Connection", "rediss": "SSLConnection", "unix": "UnixDomainSocketConnection"}
"""The class of connections for each `Address.wire`, by its name in `redis` and in `redis.asyncio`."""
_TIED_TO_POOL = frozenset(
    {
        "connection_pool",
        "himport_registry",
        "maint_notifications_pool_handler",
        "maintenance_notification_hash",
        "maintenance_state",
        "orig_host_address",
        "orig_socket_connect_timeout",
        "orig_socket_timeout",
        "oss_cluster_maint_notifications_handler",
    }
)
"""Connection options that a redis-py pool adds for itself; a twin makes its own."""
_BEFORE_MAINTENANCE = {
    "orig_host_address": "host",
    "orig_socket_timeout": "socket_timeout",
    "orig_socket_connect_timeout": "socket_connect_timeout",
}
"""Options that keep the original values while maintenance moves a pool to another server."""


def make_sync(address: Address) -> SyncClient:
    """A sync client for `address`."""
    made: SyncClient = _make(address, redis)
    return made


def make_async(address: Address) -> AsyncClient:
    """An asyncio client for `address`."""
    made: AsyncClient = _make(address, redis.asyncio)
    return made


def check_options(address: Address) -> None:
    """Raises InvalidArgument if redis-py refuses an option of `address` or its value."""
    try:
        client: Any = make_async(address)
        if address.deployment != "cluster":
            client.connection_pool.make_connection()
    except (TypeError, ValueError, redis.RedisError, RedisClusterException) as error:
        raise InvalidArgument(
            f"redis-py refuses an option of the connection URL or of the call: {error}. "
            "To fix it: correct or remove the option."
        ) from error


def twin(client: AsyncClient) -> AsyncClient:
    """A client equal to `client`, with connections of its own."""
    if isinstance(client, redis.asyncio.cluster.RedisCluster):
        return _cluster_twin(client)
    made = type(client).from_pool(_pool_twin(client.connection_pool))
    made.response_callbacks.update(client.response_callbacks)
    return made


def sentinels_of(client: SyncClient | AsyncClient) -> list[Any]:
    """The clients for the Sentinels of `client`; empty without Sentinel."""
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    return [] if manager is None else list(manager.sentinels)


def _make(address: Address, package: Any) -> Any:
    """A client with the classes of `redis` or `redis.asyncio`."""
    tls = address.wire == "rediss"
    options = {**address.options, "retry": _retry(address.options.get("retry"), package.retry.Retry)}
    if address.deployment == "cluster":
        nodes = [package.cluster.ClusterNode(host, port) for host, port in address.nodes]
        return package.RedisCluster(startup_nodes=nodes, ssl=tls, **options)  # a retry of None is redis-py's default
    # redis-py's pools, unlike its clients, have no retries by default.
    options["retry"] = options["retry"] or package.Redis().get_retry()
    if address.deployment == "sentinel":
        # The next Sentinel is the retry.
        asking = {"retry": package.retry.Retry(NoBackoff(), 0), **address.sentinel_options, "ssl": tls}
        manager = package.Sentinel(address.nodes, sentinel_kwargs=asking, ssl=tls)
        return manager.master_for(address.service, **options)
    connection_class = getattr(package, _CONNECTIONS[address.wire])
    return package.Redis.from_pool(package.BlockingConnectionPool(connection_class=connection_class, **options))


def _retry(given: Any, kind: Any) -> Any:
    """The caller's retry policy as redis-py's sync or asyncio class."""
    if given is None or isinstance(given, kind):
        return given
    return kind(given._backoff, given._retries, supported_errors=given._supported_errors)


def _pool_twin(pool: Any) -> Any:
    given = pool.connection_kwargs
    options = {name: value for name, value in given.items() if name not in _TIED_TO_POOL}
    if given.get("orig_host_address") is not None:
        options.update({name: given[kept] for kept, name in _BEFORE_MAINTENANCE.items()})
    options.update(
        _maintenance_setting(pool), connection_class=pool.connection_class, max_connections=pool.max_connections
    )
    if isinstance(pool, redis.asyncio.BlockingConnectionPool):
        options["timeout"] = pool.timeout
    if isinstance(pool, redis.asyncio.sentinel.SentinelConnectionPool):
        options.update(is_master=pool.is_master, check_connection=pool.check_connection)
        return type(pool)(pool.service_name, _sentinel_twin(pool.sentinel_manager), **options)
    return type(pool)(**options)


def _maintenance_setting(pool: Any) -> dict[str, Any]:
    enabled = getattr(pool, "maint_notifications_enabled", None)
    if enabled is None or enabled():
        return {}
    from redis.maint_notifications import MaintNotificationsConfig  # noqa: PLC0415 - not in the oldest redis-py supported

    return {"maint_notifications_config": MaintNotificationsConfig(enabled=False)}


def _sentinel_twin(manager: Any) -> Any:
    """The same Sentinels over other connections, since connections belong to one loop."""
    made = copy.copy(manager)
    made.sentinels = [twin(client) for client in manager.sentinels]
    return made


def _cluster_twin(client: Any) -> AsyncClient:
    known = inspect.signature(redis.asyncio.cluster.RedisCluster.__init__).parameters
    options = {name: value for name, value in client.connection_kwargs.items() if name in known}
    manager = client.nodes_manager
    replicas = client.load_balancing_strategy
    if replicas is None and client.read_from_replicas:
        replicas = redis.cluster.LoadBalancingStrategy.ROUND_ROBIN
    options.update(
        startup_nodes=[
            redis.asyncio.cluster.ClusterNode(node.host, node.port) for node in list(manager.startup_nodes.values())
        ],
        ssl=issubclass(client.connection_kwargs["connection_class"], redis.asyncio.SSLConnection),
        retry=copy.deepcopy(client.retry),
        require_full_coverage=manager.require_full_coverage,
        dynamic_startup_nodes=manager._dynamic_startup_nodes,
        address_remap=manager.address_remap,
        reinitialize_steps=client.reinitialize_steps,
        load_balancing_strategy=replicas,
    )
    made: AsyncClient = type(client)(**options)
    made.response_callbacks.update(client.response_callbacks)
    return made

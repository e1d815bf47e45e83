"""The savers that take part, each opened as its users open it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import redis
import redis.asyncio
from langgraph.checkpoint.memory import InMemorySaver

from saver import RedisStreamSaver
from scripts.benchmark.floor import MOST_CONNECTIONS, AsyncFloor, Floor
from scripts.benchmark.servers import Servers

__all__ = ["FLOOR", "KINDS", "MEMORY", "PLAINREDIS", "THIS", "WHOLE", "Kind", "available"]

THIS, WHOLE, FLOOR, MEMORY, PLAINREDIS = "this", "this-whole", "floor", "memory", "plainredis"


@dataclass(frozen=True)
class Kind:
    """One saver: its name, its package, and how it is opened, sync and async."""

    name: str
    label: str
    package: str
    open: Callable[[Servers], AbstractContextManager[Any]]
    aopen: Callable[[Servers], AbstractAsyncContextManager[Any]]
    shares: bool = True
    """Whether a second saver object sees what the first one stored."""
    on_redis: bool = True
    """Whether it stores on the server of `--url`, or on the private one."""

    @property
    def versioned(self) -> str:
        """The package and its version."""
        try:
            return f"{self.package} {version(self.package)}"
        except PackageNotFoundError:
            return self.package


def available(servers: Servers) -> dict[str, Kind]:
    """Return every saver that can take part here, in the order of the report."""
    absent = set()
    if servers.postgres_url is None:
        absent.add("postgres")
    if servers.modules_url is None:
        absent.add("redis")
    return {kind.name: kind for kind in KINDS if kind.name not in absent}


def _this(servers: Servers) -> RedisStreamSaver:
    return RedisStreamSaver.from_conn_string(servers.url)


def _whole(servers: Servers) -> RedisStreamSaver:
    # Both variants write to threads of the same names, so this one has another prefix.
    return RedisStreamSaver.from_conn_string(servers.url, cache_bytes=0, prefix="whole")


def _floor(servers: Servers) -> AbstractContextManager[Any]:
    return contextlib.closing(Floor(servers.url))


def _afloor(servers: Servers) -> AbstractAsyncContextManager[Any]:
    return contextlib.aclosing(AsyncFloor(servers.url))


def _memory(_servers: Servers) -> contextlib.nullcontext[Any]:
    return contextlib.nullcontext(InMemorySaver())


def _sqlite(servers: Servers) -> AbstractContextManager[Any]:
    from langgraph.checkpoint.sqlite import SqliteSaver

    return SqliteSaver.from_conn_string(str(servers.sqlite_path))


def _asqlite(servers: Servers) -> AbstractAsyncContextManager[Any]:
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    return AsyncSqliteSaver.from_conn_string(str(servers.sqlite_path))


@contextlib.contextmanager
def _postgres(servers: Servers) -> Iterator[Any]:
    from langgraph.checkpoint.postgres import PostgresSaver

    with PostgresSaver.from_conn_string(str(servers.postgres_url)) as saver:
        saver.setup()
        yield saver


@contextlib.asynccontextmanager
async def _apostgres(servers: Servers) -> AsyncIterator[Any]:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    async with AsyncPostgresSaver.from_conn_string(str(servers.postgres_url)) as saver:
        await saver.setup()
        yield saver


@contextlib.contextmanager
def _valkey(servers: Servers) -> Iterator[Any]:
    from langgraph_checkpoint_aws import ValkeySaver  # type: ignore[import-untyped]
    from valkey import Valkey

    with contextlib.closing(Valkey.from_url(servers.url)) as client:
        yield ValkeySaver(client)


@contextlib.asynccontextmanager
async def _avalkey(servers: Servers) -> AsyncIterator[Any]:
    from langgraph_checkpoint_aws import AsyncValkeySaver
    from valkey.asyncio import Valkey

    async with contextlib.aclosing(Valkey.from_url(servers.url)) as client:
        yield AsyncValkeySaver(client)


@contextlib.contextmanager
def _plainredis(servers: Servers) -> Iterator[Any]:
    from langgraph_checkpoint_plainredis import RedisSaver

    # It understands only replies of RESP2.
    with contextlib.closing(redis.Redis.from_url(servers.url, protocol=2)) as client:
        yield RedisSaver(client)


@contextlib.asynccontextmanager
async def _aplainredis(servers: Servers) -> AsyncIterator[Any]:
    from langgraph_checkpoint_plainredis import AsyncRedisSaver

    client: Any = redis.asyncio.Redis.from_url(servers.url, protocol=2, max_connections=MOST_CONNECTIONS)
    async with contextlib.aclosing(client):
        yield AsyncRedisSaver(client)


@contextlib.contextmanager
def _redis(servers: Servers) -> Iterator[Any]:
    from langgraph.checkpoint.redis import RedisSaver

    with RedisSaver.from_conn_string(servers.modules_url) as saver:
        saver.setup()
        yield saver


@contextlib.asynccontextmanager
async def _aredis(servers: Servers) -> AsyncIterator[Any]:
    from langgraph.checkpoint.redis.aio import AsyncRedisSaver

    async with AsyncRedisSaver.from_conn_string(servers.modules_url) as saver:
        await saver.asetup()
        yield saver


_OURS = "langgraph-checkpoint-redis-streams"
KINDS = (
    Kind(THIS, "this saver", _OURS, _this, _this),
    Kind(WHOLE, "this saver, deltas off", _OURS, _whole, _whole),
    Kind(FLOOR, "floor", "redis", _floor, _afloor),
    Kind(MEMORY, "InMemorySaver", "langgraph-checkpoint", _memory, _memory, shares=False, on_redis=False),
    Kind("sqlite", "SqliteSaver", "langgraph-checkpoint-sqlite", _sqlite, _asqlite, on_redis=False),
    Kind("postgres", "PostgresSaver", "langgraph-checkpoint-postgres", _postgres, _apostgres, on_redis=False),
    Kind("valkey", "ValkeySaver", "langgraph-checkpoint-aws", _valkey, _avalkey),
    Kind(PLAINREDIS, "plainredis", "langgraph-checkpoint-plainredis", _plainredis, _aplainredis),
    Kind("redis", "redis (modules)", "langgraph-checkpoint-redis", _redis, _aredis, on_redis=False),
)

"""Who takes part, and how each is opened the way its users open it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import redis
import redis.asyncio
from langgraph.checkpoint.memory import InMemorySaver

from saver import RedisStreamSaver
from scripts.benchmark.floor import AsyncFloor, Floor
from scripts.benchmark.servers import Servers

__all__ = ["FLOOR", "KINDS", "MEMORY", "PLAINREDIS", "THIS", "WHOLE", "Kind", "available"]

THIS, WHOLE, FLOOR, MEMORY, PLAINREDIS = "this", "this-whole", "floor", "memory", "plainredis"


@dataclass(frozen=True)
class Kind:
    """One saver: what it is called, what it needs, and how to open it, sync and async."""

    name: str
    label: str
    package: str
    open: Callable[[Servers], AbstractContextManager[Any]]
    aopen: Callable[[Servers], AbstractAsyncContextManager[Any]]
    shares: bool = True
    """Whether a second saver object sees what the first stored."""
    on_redis: bool = True
    """Whether it stores on the server that `--url` names, or the private one."""

    @property
    def versioned(self) -> str:
        """The package and its version."""
        try:
            return f"{self.package} {version(self.package)}"
        except PackageNotFoundError:
            return self.package


def available(servers: Servers) -> dict[str, Kind]:
    """Every saver that can take part here, in the order of the report."""
    absent = set()
    if "cache_bytes" not in inspect.signature(RedisStreamSaver.__init__).parameters:
        absent.add(WHOLE)
    if servers.postgres_url is None:
        absent.add("postgres")
    if servers.modules_url is None:
        absent.add("redis")
    return {kind.name: kind for kind in KINDS if kind.name not in absent}


@contextlib.contextmanager
def _this(servers: Servers, **options: Any) -> Iterator[Any]:
    with RedisStreamSaver.from_conn_string(servers.url, **options) as saver:
        yield saver


@contextlib.asynccontextmanager
async def _athis(servers: Servers, **options: Any) -> AsyncIterator[Any]:
    async with RedisStreamSaver.from_conn_string(servers.url, **options) as saver:
        yield saver


# A prefix of its own: both savers write to threads of the same names.
_WHOLE: dict[str, Any] = {"cache_bytes": 0, "prefix": "whole"}


def _whole(servers: Servers) -> AbstractContextManager[Any]:
    return _this(servers, **_WHOLE)


def _awhole(servers: Servers) -> AbstractAsyncContextManager[Any]:
    return _athis(servers, **_WHOLE)


def _floor(servers: Servers) -> AbstractContextManager[Any]:
    return contextlib.closing(Floor(servers.url))


@contextlib.asynccontextmanager
async def _afloor(servers: Servers) -> AsyncIterator[Any]:
    floor = AsyncFloor(servers.url)
    try:
        yield floor
    finally:
        await floor.aclose()


def _memory(_servers: Servers) -> AbstractContextManager[Any]:
    return contextlib.nullcontext(InMemorySaver())


@contextlib.asynccontextmanager
async def _amemory(_servers: Servers) -> AsyncIterator[Any]:
    yield InMemorySaver()


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

    client = Valkey.from_url(servers.url)
    try:
        yield AsyncValkeySaver(client)
    finally:
        await client.aclose()


@contextlib.contextmanager
def _plainredis(servers: Servers) -> Iterator[Any]:
    from langgraph_checkpoint_plainredis import RedisSaver

    # It reads the replies of the second version of the protocol.
    with contextlib.closing(redis.Redis.from_url(servers.url, protocol=2)) as client:
        yield RedisSaver(client)


@contextlib.asynccontextmanager
async def _aplainredis(servers: Servers) -> AsyncIterator[Any]:
    from langgraph_checkpoint_plainredis import AsyncRedisSaver

    client = redis.asyncio.Redis.from_url(servers.url, protocol=2, max_connections=4096)
    try:
        yield AsyncRedisSaver(client)
    finally:
        await client.aclose()


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
    Kind(THIS, "this saver", _OURS, _this, _athis),
    Kind(WHOLE, "this saver, deltas off", _OURS, _whole, _awhole),
    Kind(FLOOR, "floor", "redis", _floor, _afloor),
    Kind(MEMORY, "InMemorySaver", "langgraph-checkpoint", _memory, _amemory, shares=False, on_redis=False),
    Kind("sqlite", "SqliteSaver", "langgraph-checkpoint-sqlite", _sqlite, _asqlite, on_redis=False),
    Kind("postgres", "PostgresSaver", "langgraph-checkpoint-postgres", _postgres, _apostgres, on_redis=False),
    Kind("valkey", "ValkeySaver", "langgraph-checkpoint-aws", _valkey, _avalkey),
    Kind(PLAINREDIS, "plainredis", "langgraph-checkpoint-plainredis", _plainredis, _aplainredis),
    Kind("redis", "redis (modules)", "langgraph-checkpoint-redis", _redis, _aredis, on_redis=False),
)

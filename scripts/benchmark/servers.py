"""The servers that are measured on: given by URL, or private ones that end with the run."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.servers import RunningServer, binaries, free_ports, launch, preferred_binary

__all__ = ["BenchError", "Servers", "open_servers", "private_server"]


class BenchError(Exception):
    """The benchmark cannot run as asked."""


@dataclass
class Servers:
    """Where savers keep what they are given: databases of their own, emptied between rounds."""

    url: str
    folder: Path
    postgres_url: str | None
    modules_url: str | None

    def __post_init__(self) -> None:
        self.redis: Any = redis.Redis.from_url(self.url)

    @property
    def sqlite_path(self) -> Path:
        """The file of `SqliteSaver`."""
        return self.folder / "checkpoints.sqlite"

    def clear(self) -> None:
        """Empty every database; savers that have them open are to be closed before."""
        self.redis.flushdb()
        for path in self.folder.glob("checkpoints.sqlite*"):
            path.unlink()
        if self.postgres_url is not None:
            _drop_tables(self.postgres_url)
        if self.modules_url is not None:
            with contextlib.closing(redis.Redis.from_url(self.modules_url)) as client:
                client.flushdb()

    def described(self) -> str:
        """Which server, and which version of it."""
        return describe(self.redis)


def describe(client: Any) -> str:
    """The name and version a server gives itself."""
    info = client.info("server")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


@contextlib.contextmanager
def open_servers(url: str | None, postgres_url: str | None, modules_url: str | None) -> Iterator[Servers]:
    """A place on the servers given, or on a private one; emptied at the end. Raises `BenchError` if one holds data."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        if url is None:
            url = stack.enter_context(private_server()).url
        else:
            _refuse_data(url)
        if modules_url is not None:
            _refuse_data(modules_url)
        if postgres_url is not None:
            postgres_url = stack.enter_context(_schema(postgres_url))
        made = Servers(url, folder, postgres_url, modules_url)
        stack.callback(made.redis.close)
        stack.callback(made.clear)
        yield made


@contextlib.contextmanager
def private_server(*arguments: str) -> Iterator[RunningServer]:
    """A server on loopback that keeps nothing on disk unless told to: Redis 7.0 if it is at hand."""
    server = launch(_binary(), *arguments, port=free_ports(1)[0])
    try:
        yield server
    finally:
        server.stop()


def _binary() -> Path:
    found = binaries()
    if "redis-7.0" in found:
        return found["redis-7.0"]
    try:
        return preferred_binary()
    except LookupError as error:
        raise BenchError("no redis-server on PATH; install one, or name a server with --url") from error


def _refuse_data(url: str) -> None:
    try:
        with contextlib.closing(redis.Redis.from_url(url)) as client:
            size = client.dbsize()
    except (redis.RedisError, ValueError) as error:
        raise BenchError(f"{url}: {error}") from error
    if size:
        raise BenchError(f"{url} holds {size} keys; name an empty database, which is flushed between rounds")


SCHEMA = "checkpointer_bench"


@contextlib.contextmanager
def _schema(url: str) -> Iterator[str]:
    """The same database with the search path set to a schema that exists for the run."""
    import psycopg

    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {SCHEMA}")
    except psycopg.Error as error:
        raise BenchError(f"PostgreSQL: {error}") from error
    try:
        yield f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{SCHEMA}"
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


def _drop_tables(url: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
        connection.execute(f"CREATE SCHEMA {SCHEMA}")

"""The servers that are measured: given by URL, or private ones."""

from __future__ import annotations

import contextlib
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import redis

from tests.servers import RunningServer, binaries, free_ports, launch, preferred_binary

__all__ = ["BenchError", "Servers", "open_servers", "private_server"]


class BenchError(Exception):
    """The benchmark cannot run with these options."""


@dataclass
class Servers:
    """The databases of the savers, emptied between rounds."""

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
        """Empty every database, which no open saver may use."""
        self.redis.flushdb()
        for path in self.folder.glob("checkpoints.sqlite*"):
            path.unlink()
        if self.postgres_url is not None:
            _drop_tables(self.postgres_url)
        if self.modules_url is not None:
            with contextlib.closing(redis.Redis.from_url(self.modules_url)) as client:
                client.flushdb()

    def described(self) -> str:
        """Return the name and version of the Redis or Valkey server."""
        info = self.redis.info("server")
        if "valkey_version" in info:
            return f"Valkey {info['valkey_version']}"
        return f"Redis {info['redis_version']}"

    def environment(self, seconds: float) -> dict[str, Any]:
        """Return the environment of a run that took so many seconds, for its report."""
        return {
            "server": self.described(),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
        }


@contextlib.contextmanager
def open_servers(url: str | None, postgres_url: str | None, modules_url: str | None) -> Iterator[Servers]:
    """Yield the given servers, or a private one, and empty them at the end.

    Raises `BenchError` if a given one contains data.
    """
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
    """Start a server on loopback, Redis 7.0 if it is installed.

    It keeps nothing on disk, unless the arguments say so.
    """
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
        raise BenchError(f"{url} contains {size} keys; name an empty database, which is flushed between rounds")


SCHEMA = "checkpointer_bench"


@contextlib.contextmanager
def _schema(url: str) -> Iterator[str]:
    """Yield a URL of the same database with a schema that exists only for the run."""
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

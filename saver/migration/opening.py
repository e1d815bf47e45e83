"""Opens the saver that threads come from by its URL."""

from __future__ import annotations

import importlib
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

from eventlog.connect.connections import Connections
from eventlog.errors import InvalidArgument, MissingExtra
from eventlog.feed.reading import open_keyspace
from eventlog.keys import PREFIX
from eventlog.limits import Limits
from eventlog.transport.drivers import Runner

if TYPE_CHECKING:  # some commands do not need LangGraph
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.serde.base import SerializerProtocol

__all__ = ["SOURCES", "open_source"]

SOURCES = (
    "sqlite:///path",
    "postgresql://...",
    "valkey://host:port/db",
    "plainredis://host:port/db",
    "redis://host:port/db?prefix=...",
)
"""URLs of SqliteSaver, PostgresSaver, ValkeySaver, `langgraph-checkpoint-plainredis`, and this project's saver."""

STEPS = 1_000_000
"""Steps of SQLite's machine after which a query can be interrupted: some hundredths of a second."""


@contextmanager
def open_source(
    url: str,
    serde: SerializerProtocol | None = None,
    limits: Limits | None = None,
    *,
    accept_plaintext: bool = False,
) -> Iterator[BaseCheckpointSaver[Any]]:
    """Opens a saver on the database or server of a URL, and closes it at the end.

    `SOURCES` lists the forms of URLs. `serde` replaces the saver's own serializer. `limits` and `accept_plaintext` are
    those of this project's saver; others have none. A SQLite file is opened for reading only, and nothing is set up.

    Raises `InvalidArgument` for a URL of another kind or without threads, `MissingExtra` if the saver's package is
    not installed, and the errors of the saver.
    """
    with _opened(url, serde, limits or Limits(), accept_plaintext=accept_plaintext) as saver:
        if serde is not None:
            saver.serde = serde
        yield saver


@contextmanager
def _opened(
    url: str, serde: SerializerProtocol | None, limits: Limits, *, accept_plaintext: bool
) -> Iterator[BaseCheckpointSaver[Any]]:
    scheme = url.partition("://")[0]
    if scheme == "sqlite":
        with _sqlite(url) as saver:
            yield saver
    elif scheme in ("postgresql", "postgres"):
        package = _module("langgraph.checkpoint.postgres", "langgraph-checkpoint-postgres psycopg[binary]")
        with package.PostgresSaver.from_conn_string(url) as saver:
            yield saver
    elif scheme in ("valkey", "valkeys"):
        package = _module("langgraph_checkpoint_aws", "langgraph-checkpoint-aws[valkey]")
        with closing(_module("valkey", "langgraph-checkpoint-aws[valkey]").Valkey.from_url(url)) as client:
            client.ping()
            yield package.ValkeySaver(client)
    elif scheme in ("plainredis", "plainrediss"):
        package = _module("langgraph_checkpoint_plainredis", "langgraph-checkpoint-plainredis")
        bare, prefix = _without_prefix(url.removeprefix("plain"))
        with closing(_module("redis", "redis").Redis.from_url(bare, protocol=2)) as client:
            client.ping()
            yield package.RedisSaver(client, **({"prefix": prefix} if prefix else {}))
    elif scheme.split("+")[0] in ("redis", "rediss", "unix"):
        with _own(url, serde, limits, accept_plaintext=accept_plaintext) as saver:
            yield saver
    else:
        # The text is not quoted, since it may be a password.
        begins = (
            f" and begins with {scheme + '://'!r}"
            if re.fullmatch("[a-z][a-z0-9+]{0,19}", scheme) and scheme != url
            else ""
        )
        raise InvalidArgument(f"The source is not a URL of a known saver{begins}. Pass one of: {', '.join(SOURCES)}.")


def _module(name: str, install: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f'This source needs a package that is not installed. To fix it: pip install "{install}".'
        ) from error


@contextmanager
def _sqlite(url: str) -> Iterator[BaseCheckpointSaver[Any]]:
    package = _module("langgraph.checkpoint.sqlite", "langgraph-checkpoint-sqlite")
    named = url.removeprefix("sqlite://").removeprefix("/")
    path = next((one for one in (Path(named), Path("/" + named)) if one.is_file()), None)
    if path is None:
        raise InvalidArgument(f"There is no file {named!r}. Name the file of a SqliteSaver: sqlite:///path.")
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, check_same_thread=False)
        ) as connection:
            # Python looks at signals there, and nowhere else in a query
            connection.set_progress_handler(lambda: 0, STEPS)
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {"checkpoints", "writes"} <= tables:
                raise InvalidArgument(f"File {str(path)!r} has no checkpoints of a SqliteSaver.")
            columns = {row[1] for row in connection.execute("PRAGMA table_info(writes)")}
            saver = package.SqliteSaver(connection)
            saver.is_setup, saver._has_task_path = True, "task_path" in columns
            yield saver
    except sqlite3.Error as error:
        if str(error) == "interrupted":
            raise KeyboardInterrupt from error
        raise InvalidArgument(
            f"File {str(path)!r} cannot be read as the database of a SqliteSaver: {error}."
        ) from error


@contextmanager
def _own(
    url: str, serde: SerializerProtocol | None, limits: Limits, *, accept_plaintext: bool
) -> Iterator[BaseCheckpointSaver[Any]]:
    from saver.saver import RedisStreamSaver  # noqa: PLC0415

    bare, prefix = _without_prefix(url)
    prefix = prefix or PREFIX
    with closing(Connections.from_url(bare)) as connections:
        keyspace = Runner(connections).run(open_keyspace(connections, prefix, None, limits=limits), "the source")
    if keyspace is None:
        raise InvalidArgument(
            f"RedisStreamSaver wrote nothing under prefix {prefix!r} of the source. For another prefix, add ?prefix=... to its "
            "URL. No URL reads the threads of langgraph-checkpoint-redis (RedisSaver): pass that saver and the thread ids to "
            "migrate(source, saver, threads=[...]) in Python."
        )
    with RedisStreamSaver.from_conn_string(
        bare,
        prefix=prefix,
        partitions=keyspace.partitions,
        serde=serde,
        accept_plaintext=accept_plaintext,
        limits=limits,
    ) as saver:
        yield saver


def _without_prefix(url: str) -> tuple[str, str]:
    """Returns a URL without the option `prefix`, and the value of that option."""
    bare, _, query = url.partition("?")
    options = parse_qsl(query, keep_blank_values=True)
    rest = urlencode([option for option in options if option[0] != "prefix"])
    return bare + ("?" + rest if rest else ""), dict(options).get("prefix", "")

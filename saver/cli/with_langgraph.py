"""The parts of commands that need LangGraph, which a call of them loads.

LangGraph takes half a second to load. Help and the commands that do not need it start without it, as long as no other
module of this room imports at its top what the functions here import.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from eventlog.errors import ThreadNotFound
from eventlog.flow import Flow
from eventlog.keys import PARTITIONS, Keyspace
from projections.transfer.export import Exported
from saver.cli.app import Options

if TYPE_CHECKING:
    from saver.cli.values import Values
    from saver.migration.migrate import Migrated, Progress
    from saver.saver import RedisStreamSaver

__all__ = ["json_lines", "migrated", "open_saver", "values_of"]


def values_of(thread_id: str, *, accept_plaintext: bool) -> Values:
    """The reader of a thread's values."""
    from saver.cli.values import Values

    return Values(thread_id, accept_plaintext=accept_plaintext)


def json_lines(
    keyspace: Keyspace,
    threads: list[str] | None,
    file: str,
    *,
    values: bool,
    accept_plaintext: bool,
    overwrite: bool,
    damaged: bool,
) -> Flow[Exported]:
    """The flow that writes events as JSON lines, with `values` deserialized or not."""
    from saver.cli.values import careful_serializer
    from saver.json_lines import export_lines
    from saver.translation import Translator

    translator = Translator(careful_serializer(), accept_plaintext=accept_plaintext) if values else None
    return export_lines(keyspace, threads, file, translator=translator, overwrite=overwrite, damaged=damaged)


@contextmanager
def open_saver(options: Options, *, must_exist: bool = False, **settings: Any) -> Iterator[RedisStreamSaver]:
    """A saver with as many partitions as the prefix has.

    `settings` are those of `from_conn_string`. Raises `ThreadNotFound` if the prefix `must_exist` and nothing was
    written under it.
    """
    from saver.saver import RedisStreamSaver

    try:
        with options.open_prefix() as (_, keyspace):
            partitions = keyspace.partitions
    except ThreadNotFound:
        if must_exist:
            raise
        partitions = PARTITIONS
    with RedisStreamSaver.from_conn_string(
        options.server(), prefix=options.prefix, partitions=partitions, limits=options.limits, **settings
    ) as saver:
        yield saver


def migrated(
    options: Options,
    source: str,
    threads: list[str] | None,
    progress: Callable[[Progress], None],
    *,
    verify_only: bool,
    accept_plaintext: bool,
    keys: dict[str, Any],
) -> Migrated:
    """The result of copying threads from another saver and comparing both sides.

    `keys` are the settings with which the target signs.
    """
    from saver.cli.values import carrying_serializer
    from saver.migration.migrate import compare, migrate
    from saver.migration.opening import open_source

    serde = carrying_serializer()
    with (
        open_source(source, serde, options.limits, accept_plaintext=accept_plaintext) as saver,
        open_saver(options, serde=serde, accept_plaintext=accept_plaintext, **keys) as target,
    ):
        work = compare if verify_only else migrate
        return work(saver, target, threads=threads, progress=progress)

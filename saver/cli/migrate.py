"""`agentlog migrate`: threads from another saver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventlog.errors import EventLogError
from eventlog.keys import PARTITIONS
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.output import BadInput
from saver.cli.progress import showing_progress
from saver.cli.redaction import redacted
from saver.migration.opening import SOURCES, open_source

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from saver.migration.migrate import Difference, Migrated, Progress
    from saver.saver import RedisStreamSaver

__all__ = ["migrate"]


@command(
    "agentlog migrate --from sqlite:///checkpoints.sqlite --url redis://localhost:6379/0",
    "agentlog migrate --from postgresql://user@host/db --thread 42",
    "agentlog migrate --from valkey://localhost:6379 --verify-only --json",
)
def migrate(
    options: Options,
    *,
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="SOURCE", help=f"The saver to copy from: {', '.join(SOURCES)}.", show_default=False
        ),
    ],
    thread: Annotated[list[str] | None, typer.Option(metavar="T", help="This thread alone. Repeatable.")] = None,
    verify_only: Annotated[bool, typer.Option("--verify-only", help="Compare, and copy nothing.")] = False,
) -> int:
    """Copies threads from another saver, and compares both sides.

    Run again, it completes what was cut short. The source is only read. Exit code 1 if a difference is found.
    """
    from saver.cli.carrying import carrying_serializer  # noqa: PLC0415 - these load LangGraph
    from saver.migration.migrate import compare, migrate  # noqa: PLC0415

    url = options.server()
    try:
        with (
            open_source(source, carrying_serializer()) as saver,
            showing_progress() as show,
            _target(options, url, carrying_serializer()) as target,
        ):
            work: Any = compare if verify_only else migrate
            done: Migrated = work(saver, target, threads=thread, progress=lambda step: show(_told(step), *_steps(step)))
    except (EventLogError, BadInput):
        raise
    except Exception as error:
        words = redacted(str(error) or type(error).__name__, source)
        raise BadInput(f"the source cannot be read: {words}") from error
    _tell(options, done)
    return 0 if done.ok else 1


def _target(options: Options, url: str, serde: SerializerProtocol) -> RedisStreamSaver:
    """A saver with as many partitions as the prefix has, if it was laid out already."""
    from saver.saver import RedisStreamSaver  # noqa: PLC0415 - it loads LangGraph

    with options.open_feed() as feed:
        keyspace = feed.runner.run(feed.opened(), "the prefix")
    partitions = PARTITIONS if keyspace is None else keyspace.partitions
    return RedisStreamSaver.from_conn_string(url, prefix=options.prefix, partitions=partitions, serde=serde)


def _told(step: Progress) -> str:
    doing = "copying" if step.phase == "copy" else "comparing"
    return f"threads, {doing} {step.thread_id}: {step.checkpoints} of {step.of_checkpoints} checkpoints"


def _steps(step: Progress) -> tuple[int, int]:
    return step.threads, step.of


def _tell(options: Options, done: Migrated) -> None:
    if options.json:
        for one in done.differences:
            output.json_line({"difference": one._asdict()})
        names = ("threads", "checkpoints", "writes", "present", "compared", "differing")
        output.json_line({**{name: getattr(done, name) for name in names}, "ok": done.ok})
        return
    for difference in done.differences:
        output.line(_difference(difference))
    copied = f"{done.checkpoints} checkpoints and {done.writes} pending writes copied, {done.present} were there"
    found = f"{done.differing} differences" if done.differing else "no differences"
    output.line(f"{done.threads} threads: {copied}; {done.compared} compared: {found}.")


def _difference(one: Difference) -> str:
    where = f"thread {one.thread_id}"
    if one.namespace:
        where += f", namespace {one.namespace}"
    if one.checkpoint_id:
        where += f", checkpoint {one.checkpoint_id}"
    return f"{where}: {one.what}"

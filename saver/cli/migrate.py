"""`agentlog migrate` copies threads from another saver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from eventlog.errors import EventLogError
from eventlog.printable import word
from saver.cli import output, with_langgraph
from saver.cli.app import Options, command, url_in
from saver.cli.arguments import AcceptPlaintext, ThreadOptions
from saver.cli.display import counted, showing_progress
from saver.cli.key_files import KeyFiles, saver_keys
from saver.cli.output import BadInput
from saver.migration.opening import SOURCES

if TYPE_CHECKING:
    from saver.migration.migrate import Difference, Migrated, Progress

__all__ = ["migrate"]


@command(
    "agentlog migrate --from sqlite:///checkpoints.sqlite --url redis://localhost:6379/0",
    "agentlog migrate --from-file source-url --url-file target-url --thread 42",
    "agentlog migrate --from valkey://localhost:6379 --verify-only --json",
)
def migrate(
    options: Options,
    *,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="SOURCE", help=f"The saver to copy from: {', '.join(SOURCES)}.", show_default=False
        ),
    ] = None,
    source_file: Annotated[
        str | None,
        typer.Option(
            "--from-file",
            metavar="FILE",
            help="A file whose one line is the SOURCE, with its password.",
            show_default=False,
            callback=url_in("--from-file"),
        ),
    ] = None,
    thread: ThreadOptions = None,
    verify_only: Annotated[bool, typer.Option("--verify-only", help="Compare, and copy nothing.")] = False,
    accept_plaintext: AcceptPlaintext = False,
    key_file: KeyFiles = None,
) -> int:
    """Copies threads from another saver, and compares both sides.

    Run again, it completes an interrupted copy. The source is only read. Exit code 1 if there is a difference.

    With a key the copies are signed with it, and compared only if they are signed as they should be. The signatures of
    the source are neither checked nor copied.
    """
    options.server()
    source = source_file or source
    if source is None:
        raise BadInput("copy from where? Pass --from SOURCE or --from-file FILE.")
    keys = saver_keys(key_file)
    try:
        with showing_progress() as show:

            def progress(step: Progress) -> None:
                show(_doing(step), step.threads, step.of)

            done = with_langgraph.migrated(
                options,
                source,
                thread,
                progress,
                verify_only=verify_only,
                accept_plaintext=accept_plaintext,
                keys=keys,
            )
    except (EventLogError, BadInput):
        raise
    except Exception as error:  # of the other saver's package
        words = output.redacted(str(error) or type(error).__name__, source)
        raise BadInput(f"the source cannot be read: {words}") from error
    _report(options, done)
    return 0 if done.ok else 1


def _doing(step: Progress) -> str:
    doing = "copying" if step.phase == "copy" else "comparing"
    return f"threads, {doing} {step.thread_id}: {step.checkpoints} of {step.of_checkpoints} checkpoints"


def _report(options: Options, done: Migrated) -> None:
    if options.json:
        for one in done.differences:
            output.json_line({"difference": one._asdict()})
        names = ("threads", "checkpoints", "writes", "present", "compared", "differing")
        output.json_line({**{name: getattr(done, name) for name in names}, "ok": done.ok})
        return
    for one in done.differences:
        output.line(_difference(one))
    copied = f"{counted(done.checkpoints, 'checkpoint')} and {counted(done.writes, 'pending write')} copied"
    present = f"{done.present} {'was' if done.present == 1 else 'were'} there"
    differing = counted(done.differing, "difference") if done.differing else "no differences"
    output.line(f"{counted(done.threads, 'thread')}: {copied}, {present}; {done.compared} compared: {differing}.")


def _difference(one: Difference) -> str:
    where = f"thread {word(one.thread_id)}"
    if one.namespace:
        where += f", namespace {word(one.namespace)}"
    if one.checkpoint_id:
        where += f", checkpoint {word(one.checkpoint_id)}"
    return f"{where}: {one.what}"

"""`agentlog log` prints the history of a thread, event by event."""

from __future__ import annotations

from typing import Annotated

import typer

from eventlog.errors import CorruptEntry
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.arguments import AcceptPlaintext, Full, Limit, Namespace, NoValues, Since, ThreadName, Until, bounds
from saver.cli.key_files import KeyFiles, signer_of
from saver.cli.marks import Marks
from saver.cli.output import BadInput
from saver.cli.thread_log import opened
from saver.cli.timeline import KINDS, RowWriter, rows_of

__all__ = ["log"]


@command(
    "agentlog log 42",
    "agentlog log 42 --patch --since 2026-01-31T12:00:00Z",
    "agentlog log 42 --kind checkpoint --json | jq -r .checkpoint_id",
)
def log(
    options: Options,
    thread: ThreadName,
    *,
    since: Since = None,
    until: Until = None,
    kind: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help=f"Only this kind: {', '.join(KINDS)}. Repeatable.")
    ] = None,
    namespace: Namespace = None,
    patch: Annotated[
        bool, typer.Option("--patch", "-p", help="Show the changes of each checkpoint against the one before.")
    ] = False,
    full: Full = False,
    no_values: NoValues = False,
    limit: Limit = None,
    accept_plaintext: AcceptPlaintext = False,
    key_file: KeyFiles = None,
) -> int:
    """Prints the history of a thread.

    It prints a line for each checkpoint, each task's writes and each removal, oldest first: time, number, kind, step,
    source, checkpoint, nodes, channels, namespace, stamps. It only reads the log.

    With a key it marks each event that is not signed as it should be. Exit code 1 if there is one in the log.
    """
    if unknown := set(kind or ()) - set(KINDS):
        raise BadInput(f"--kind {min(unknown)!r:.100} is none of {', '.join(KINDS)}.")
    if patch and no_values:
        raise BadInput("--patch shows values; leave --no-values out.")
    after, last = bounds(options, since, until, thread)
    shown = 0
    signer = signer_of(key_file)
    with opened(options, thread, accept_plaintext=accept_plaintext) as thread_log:
        marks = Marks(thread_log, signer)
        writer = RowWriter(options, full=full)
        try:
            for row in rows_of(marks.log, after, last, namespace=namespace, patch=patch, values=not no_values):
                if marks.last is not None and row.recorded.sequence > marks.last:
                    break  # it was appended since the log was verified
                if not kind or row.kind in kind:
                    marks.mark(row)
                    writer.write(row)
                    shown += 1
                    if shown == limit:
                        break
        except CorruptEntry:
            marks.report()
            raise
        if not shown:
            output.note(f"Thread {thread!r} has no such events: see agentlog log without options.")
        return marks.report()

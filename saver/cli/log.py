"""`agentlog log`: the history of a thread, event by event."""

from __future__ import annotations

from typing import Annotated

import typer

from projections.time_travel.moment import FORMS
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.output import BadInput
from saver.cli.thread_log import Full, Namespace, NoValues, ThreadName, bounds, opened
from saver.cli.timeline import KINDS, Shown, rows_of

__all__ = ["Since", "Until", "log"]

Since = Annotated[
    str | None,
    typer.Option(metavar="MOMENT", help=f"From here on: {FORMS}."),
]
Until = Annotated[str | None, typer.Option(metavar="MOMENT", help=f"Up to here: {FORMS}.")]


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
        list[str] | None, typer.Option(metavar="KIND", help=f"Of this kind alone: {', '.join(KINDS)}. Repeatable.")
    ] = None,
    namespace: Namespace = None,
    patch: Annotated[
        bool, typer.Option("--patch", "-p", help="With what each checkpoint changed of the one before.")
    ] = False,
    full: Full = False,
    no_values: NoValues = False,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="End after this many.")] = None,
) -> None:
    """Prints a thread's history.

    Oldest first, a line for each checkpoint, each task's writes, each removal: when, what, which step, which nodes, which
    channels, who. Reads the log alone.
    """
    if unknown := set(kind or ()) - set(KINDS):
        raise BadInput(f"--kind {min(unknown)!r:.100} is none of {', '.join(KINDS)}.")
    if patch and no_values:
        raise BadInput("--patch shows values; leave --no-values out.")
    after, last = bounds(since, until, options, thread)
    left = limit
    with opened(options, thread) as opened_log:
        shown, any_shown = Shown(options, full=full), False
        for row in rows_of(opened_log, after, last, namespace=namespace, patch=patch, values=not no_values):
            if kind and row.kind not in kind:
                continue
            shown.write(row)
            any_shown = True
            if left is not None:
                left -= 1
                if not left:
                    return
        if not any_shown:
            output.note(f"Thread {thread!r} has no such events: see agentlog log without options.")

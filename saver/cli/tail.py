"""`agentlog tail` prints the activity of all agents, past and present."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import Annotated, Any

import typer

from eventlog.errors import InvalidArgument
from eventlog.feed.activity import KINDS, Activity
from eventlog.feed.feed import ActivityFeed
from eventlog.feed.position import Position
from eventlog.feed.reading import Start
from eventlog.feed.tail import Tail
from eventlog.printable import word
from projections.time_travel.moment import parsed_time
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.arguments import Limit
from saver.cli.display import KIND_STYLES, Field, Lines, names_of
from saver.cli.key_files import KEY
from saver.cli.output import BadInput, time_text

__all__ = ["ending_on_sigterm", "tail"]

PATIENCE = 60.0
"""Seconds for which `--follow` waits for a server that cannot be reached."""


@command(
    "agentlog tail --limit 20",
    "agentlog tail --follow --kind checkpoint --kind deleted",
    "agentlog tail --thread 42 --from 2026-01-31T12:00:00Z",
    "agentlog tail --follow --from beginning --json | jq -r .thread_id",
)
def tail(
    options: Options,
    *,
    thread: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Only this thread. Repeatable.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help=f"Only this kind: {', '.join(KINDS)}. Repeatable.")
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help='Only this checkpoint namespace. "" is the graph itself. The name of a subgraph\'s node is the namespace '
            "of all its tasks, so risk matches risk:TASK-ID, too. Repeatable.",
        ),
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Only where this node ran or wrote. Repeatable.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="START",
            help="beginning (the default), now (the default with --follow), a time in ISO 8601 or as 30m (that long ago), "
            "or the position of an activity.",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until Ctrl-C or SIGTERM.")] = False,
    limit: Limit = None,
) -> None:
    """Prints what agents did, and do.

    It prints a line for each checkpoint, each task's writes and each removal, oldest first: time, thread, kind, step,
    nodes, namespace, channels, with - for an empty one. A narrow terminal cuts the channels first, and never the thread.
    With --json a line also has its position in the feed, and --from continues after it.
    """
    begin = _start(start if start is not None else ("now" if follow else "beginning"), options)
    if os.environ.get(KEY):
        output.note("The feed's pointers are not signed. agentlog log THREAD marks the events of a thread.")
    with options.open_feed() as feed, ending_on_sigterm(follow):
        filters = {"kinds": kind, "thread": thread, "namespace": namespace, "node": node}
        activities = _begun(feed, begin, follow=follow, **{name: some or None for name, some in filters.items()})
        show = _show(options)
        for activity in islice(activities, None if limit is None else min(limit, sys.maxsize)):
            show(activity)
            if follow:
                output.flush()


def _start(text: str, options: Options) -> Start:
    """The start of reading as it is typed; raises `BadInput`."""
    if text in ("beginning", "now"):
        return text
    found = parsed_time(text, options.zone)
    if found is not None:
        return found
    try:
        return Position.parse(text)
    except InvalidArgument:
        raise BadInput(
            f"--from {text!r:.100} is no place in the feed. It takes beginning, now, a time such as 2026-01-31T12:00:00Z, "
            "a duration such as 30m (that long ago), or the position of an activity, as --json prints it."
        ) from None


def _begun(feed: ActivityFeed, start: Start, *, follow: bool, **filters: Any) -> Tail:
    """The tail, once the server has answered.

    Raises the server's errors at once, also with `follow`, which is patient later.
    """
    patience = PATIENCE if follow else 0
    begun = feed.tail(start, follow=follow, patience=patience, **filters)
    if feed.runner.run(feed.opened(), "the feed") is not None:
        return begun
    output.note(f"Nothing was written under prefix {feed.prefix!r} yet.")
    since = "beginning" if start == "now" else start  # the first event comes after now
    return feed.tail(since, follow=follow, patience=patience, **filters)


def _show(options: Options) -> Callable[[Activity], None]:
    """The function that writes an activity."""
    if options.json:
        return lambda activity: output.json_line({**activity.as_dict(), "position": str(activity.position)})
    lines = Lines(
        [
            Field("time", 29 if options.local else 24, style="dim"),
            Field("thread", 12, style="bold"),
            Field("kind", 10),
            Field("step", 4, right=True),
            Field("nodes", 8, cut=2),
            Field("namespace", 9, cut=3, style="dim"),
            Field("channels", 8, cut=1, style="dim"),
        ]
    )

    def show(activity: Activity) -> None:
        step = "" if activity.step is None else str(activity.step)
        names = [names_of(activity.nodes, ","), word(activity.namespace), names_of(activity.channels, ",")]
        time = time_text(activity.time, local=options.local)
        cells = [time, word(activity.thread_id), word(activity.kind), step, *names]
        lines.write(cells, kind=KIND_STYLES.get(activity.kind, ""))

    return show


@contextmanager
def ending_on_sigterm(wanted: bool) -> Iterator[None]:  # noqa: FBT001 - whether it does anything
    """Let SIGTERM end the process in order, with exit code 0."""
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)

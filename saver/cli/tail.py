"""`agentlog tail`: the activity of all agents, as it was and as it comes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import Annotated, Any

import typer

from eventlog.feed.activity import KINDS, Activity
from eventlog.feed.feed import ActivityFeed
from eventlog.feed.reading import Start
from eventlog.feed.tail import Tail
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.lines import Field, Lines
from saver.cli.numbers import count_for
from saver.cli.times import start_of

__all__ = ["STYLES", "activity_object", "ending_on_sigterm", "tail"]

STYLES = {
    "checkpoint": "green",
    "writes": "cyan",
    "copied": "blue",
    "imported": "blue",
    "pruned": "yellow",
    "runs_deleted": "magenta",
    "deleted": "red",
    "expired": "bright_black",
}
"""Colours of kinds."""
PATIENCE = 60.0
"""Seconds for which one who follows waits for a server that cannot be reached."""


@command(
    "agentlog tail --limit 20",
    "agentlog tail --follow --kind checkpoint --kind deleted",
    "agentlog tail --thread 42 --from 2026-01-31T12:00:00Z",
    "agentlog tail --follow --from beginning --json | jq -r .thread_id",
)
def tail(
    options: Options,
    *,
    thread: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Of this thread alone. Repeatable.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help=f"Of this kind alone: {', '.join(KINDS)}. Repeatable.")
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Of this checkpoint namespace alone. \"\" is the graph's own; the name of a subgraph's node is that of all its "
            "tasks, so risk matches risk:TASK-ID as well. Repeatable.",
        ),
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Where this node ran or wrote. Repeatable.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="START",
            help="beginning (the default), now (the default with --follow), a time in ISO 8601 or as 30m (that long ago), or "
            "the position of an activity.",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until Ctrl-C or SIGTERM.")] = False,
    limit: Annotated[
        int | None, typer.Option(metavar="N", parser=count_for("--limit", least=1), help="End after this many.")
    ] = None,
) -> None:
    """Prints what agents did, and do.

    Oldest first, a line for each checkpoint, each task's writes, each removal: time, thread, kind, step, nodes, namespace,
    channels, with - for none. A terminal that is too narrow shows less of the channels first, the thread whole.
    With --json a line has the activity's position in the feed as well: with --from it goes on behind it.
    """
    place = start_of(start if start is not None else ("now" if follow else "beginning"), options.local)
    with options.open_feed() as feed, ending_on_sigterm(follow):
        filters = {"kinds": kind, "thread": thread, "namespace": namespace, "node": node}
        activities = _begun(feed, place, follow=follow, **{name: some or None for name, some in filters.items()})
        show = _shown_by(options)
        for activity in islice(activities, limit):
            show(activity)
            if follow:
                output.flush()


def activity_object(activity: Activity) -> dict[str, Any]:
    """An activity for programs."""
    return {**activity.as_dict(), "position": str(activity.position)}


def _begun(feed: ActivityFeed, place: Start, *, follow: bool, **filters: Any) -> Tail:
    """The tail, once the server has answered. Raises its errors at once, also for one who follows, who is patient later."""
    patience = PATIENCE if follow else 0
    begun = feed.tail(place, follow=follow, patience=patience, **filters)
    if feed.runner.run(feed.opened(), "the feed") is not None:
        return begun
    output.note(f"Nothing was written under prefix {feed.prefix!r} yet.")
    since = "beginning" if place == "now" else place  # whatever comes first comes after now
    return feed.tail(since, follow=follow, patience=patience, **filters)


def _shown_by(options: Options) -> Callable[[Activity], None]:
    if options.json:
        return lambda activity: output.json_line(activity_object(activity))
    lines = Lines(
        [
            Field("time", 29 if options.local else 24),
            Field("thread", 12),
            Field("kind", 10),
            Field("step", 4, right=True),
            Field("nodes", 8, cut=2),
            Field("namespace", 9, cut=3),
            Field("channels", 8, cut=1),
        ]
    )

    def show(activity: Activity) -> None:
        step = "" if activity.step is None else str(activity.step)
        names = [",".join(activity.nodes), activity.namespace, ",".join(activity.channels)]
        values = [output.time_text(activity.time, options.local), activity.thread_id, activity.kind, step, *names]
        lines.write(values, ["dim", "bold", STYLES.get(activity.kind, ""), "", "", "dim", "dim"])

    return show


@contextmanager
def ending_on_sigterm(wanted: bool) -> Iterator[None]:  # noqa: FBT001 - whether it is a `with` at all
    """Has SIGTERM end the process in order, with exit code 0: what follows for ever is ended so."""
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

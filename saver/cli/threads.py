"""`agentlog threads`: which threads there are, those last active first."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from eventlog.flow import Flow
from projections.registry.listing import ThreadInfo, list_threads
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.lines import Field, Lines
from saver.cli.output import BadInput
from saver.cli.times import time_of

__all__ = ["threads"]

NAMES = ("last activity", "thread", "events", "checkpoints", "namespaces", "size", "expires")


@command(
    "agentlog threads --limit 20", "agentlog threads --since 2026-01-31", "agentlog threads --json | jq -r .thread_id"
)
def threads(
    options: Options,
    *,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="End after this many.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Active at this time or later: in ISO 8601, or as 7d (that long ago)."),
    ] = None,
) -> None:
    """Lists the threads, those last active first.

    With what each holds, what it takes on the server, and when it ends.
    """
    least = None if since is None else time_of(since, options.local)
    if since is not None and least is None:
        raise BadInput(
            f"--since {since!r:.100} is no time; write one as 2026-01-31T12:00:00Z, or as 7d (that long ago)."
        )
    with options.open_feed() as feed:
        keyspace = feed.runner.run(feed.opened(), "threads")
        if keyspace is None:
            output.note(f"Nothing was written under prefix {feed.prefix!r} yet.")
            return
        flow: Flow[None] = list_threads(keyspace, since=least, limit=limit)
        lines = None if options.json else _lines()
        for info in feed.runner.iterate(flow, "threads"):
            if lines is None:
                output.json_line(_object(info))
            else:
                lines.write(_values(info, options), ["dim", "bold", "", "", "", "", "dim"])


def _lines() -> Lines:
    time, thread, *numbers, size, expires = NAMES
    columns = [Field(name, len(name), right=True) for name in numbers]
    return Lines(
        [Field(time, 24), Field(thread, 12), *columns, Field(size, 9, right=True), Field(expires, 24)], headed=True
    )


def _values(info: ThreadInfo, options: Options) -> list[str]:
    return [
        output.time_text(info.last_activity, options.local),
        info.thread_id,
        str(info.events),
        "unknown" if info.checkpoints is None else str(info.checkpoints),
        str(len(info.namespaces)),
        output.size_text(info.bytes),
        "never" if info.expires is None else output.time_text(info.expires, options.local),
    ]


def _object(info: ThreadInfo) -> dict[str, Any]:
    return {
        "thread_id": info.thread_id,
        "last_activity": output.time_text(info.last_activity, local=False),
        "events": info.events,
        "checkpoints": info.checkpoints,
        "namespaces": list(info.namespaces),
        "bytes": info.bytes,
        "expires": None if info.expires is None else output.time_text(info.expires, local=False),
    }

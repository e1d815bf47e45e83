"""`agentlog threads` lists the threads, the last active first."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from eventlog.flow import Flow
from eventlog.printable import word
from projections.registry.listing import ThreadInfo, list_threads
from projections.time_travel.moment import parsed_time
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.arguments import Limit
from saver.cli.display import Field, Lines, size_text
from saver.cli.output import BadInput, time_text

__all__ = ["threads"]

COLUMNS = [
    Field("last activity", 24, style="dim"),
    Field("thread", 12, style="bold"),
    *(Field(name, len(name), right=True) for name in ("events", "checkpoints", "namespaces")),
    Field("size", 9, right=True),
    Field("expires", 24, style="dim"),
]


@command(
    "agentlog threads --limit 20", "agentlog threads --since 2026-01-31", "agentlog threads --json | jq -r .thread_id"
)
def threads(
    options: Options,
    *,
    limit: Limit = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Active at this time or later: ISO 8601, or 7d for that long ago."),
    ] = None,
) -> None:
    """Lists the threads, the last active first.

    It shows the contents of each, its size on the server, and its expiry.
    """
    first = None if since is None else parsed_time(since, options.zone)
    if since is not None and first is None:
        raise BadInput(
            f"--since {since!r:.100} is no time; write one as 2026-01-31T12:00:00Z, or as 7d (that long ago)."
        )
    with options.open_prefix(may_be_empty=True) as (runner, keyspace):
        flow: Flow[None] = list_threads(keyspace, since=first, limit=limit)
        lines = Lines(COLUMNS, headed=True)
        for info in runner.iterate(flow, "threads"):
            if options.json:
                output.json_line(asdict(info))
            else:
                lines.write(_cells(info, local=options.local))


def _cells(info: ThreadInfo, *, local: bool) -> list[str]:
    return [
        time_text(info.last_activity, local=local),
        word(info.thread_id),
        str(info.events),
        "unknown" if info.checkpoints is None else str(info.checkpoints),
        str(len(info.namespaces)),
        size_text(info.bytes),
        "never" if info.expires is None else time_text(info.expires, local=local),
    ]

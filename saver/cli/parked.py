"""`agentlog parked` lists parked events; `retry` and `skip` share its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from eventlog.feed.groups import Group, Parked
from eventlog.printable import word
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.arguments import GroupName
from saver.cli.display import table_with_more
from saver.cli.output import time_text

__all__ = ["AllParked", "ParkedThreads", "parked", "unpark"]

ParkedThreads = Annotated[
    list[str] | None, typer.Option("--thread", metavar="T", help="The parked event of this thread. Repeatable.")
]
AllParked = Annotated[bool, typer.Option("--all", help="All parked events.")]

COLUMNS = [
    ("since", "whole"),
    ("thread", "left"),
    ("kind", "whole"),
    *((name, "right") for name in ("step", "attempts", "waiting")),
    ("member", "left"),
    ("error", "left"),
]
ASIDE = ("error", "member", "thread")
"""Columns that move below a row that does not fit the terminal, in this order."""


@command(
    "agentlog parked audit", "agentlog parked audit --traceback", "agentlog parked audit --json | jq -r .thread_id"
)
def parked(
    options: Options,
    group: GroupName,
    *,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the traceback of each error; --json always has it.")
    ] = False,
) -> None:
    """Lists the events that a group failed to handle.

    These events failed too often; the oldest failure comes first. Their threads wait for retry or skip.
    """
    with options.open_feed() as feed:
        found = feed.group(group).parked()
    if options.json:
        for one in found:
            output.json_line(_object(one))
    elif found:
        rows = [_row(one, local=options.local) for one in found]
        table_with_more(COLUMNS, rows, [one.traceback.splitlines() if traceback else [] for one in found], aside=ASIDE)
    else:
        output.note(f"Nothing is parked in group {group!r}.")


def unpark(
    options: Options, group: Group, threads: list[str] | None, done: str, act: Callable[[Group, str | None], int]
) -> int:
    """Apply `act` to parked events of threads (None: all); return the exit code."""
    counts = {one: act(group, one) for one in ([None] if threads is None else threads)}
    count = sum(counts.values())
    options.report(f"{count} {done}.", {"group": group.name, done: count})
    missed = [one for one, number in counts.items() if one is not None and not number]
    for one in missed:
        output.complain(f"thread {one!r} has nothing parked in group {group.name!r}")
    return 1 if missed else 0


def _row(one: Parked, *, local: bool) -> list[object]:
    since = time_text(one.since, local=local)
    activity = one.activity
    names = [word(name) for name in (one.thread_id, activity.kind)]
    return [since, *names, activity.step, one.attempts, one.waiting, word(one.member), one.error]


def _object(one: Parked) -> dict[str, Any]:
    names = ("thread_id", "since", "attempts", "waiting", "member", "error", "traceback")
    return {**{name: getattr(one, name) for name in names}, "activity": one.activity.as_dict()}

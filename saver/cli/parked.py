"""`agentlog parked`, `retry` and `skip`: what a group could not handle, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from eventlog.feed.groups import Group, Parked
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.asking import Yes, agreed
from saver.cli.groups import GroupName
from saver.cli.output import BadInput

__all__ = ["parked", "retry", "skip"]

Threads = Annotated[list[str] | None, typer.Option(metavar="T", help="What is parked of this thread. Repeatable.")]
All = Annotated[bool, typer.Option("--all", help="All that is parked.")]

COLUMNS = [
    ("since", "whole"),
    ("thread", "left"),
    ("kind", "whole"),
    *((name, "right") for name in ("step", "attempts", "waiting")),
    ("member", "left"),
    ("error", "left"),
]
ASIDE = ("error", "member", "thread")
"""Columns that stand below their row, if it does not fit into the terminal: as many of these as need be."""


@command(
    "agentlog parked audit", "agentlog parked audit --traceback", "agentlog parked audit --json | jq -r .thread_id"
)
def parked(
    options: Options,
    group: GroupName,
    *,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="With where each was raised; --json has it always.")
    ] = False,
) -> None:
    """Lists what a group failed to handle.

    Events that failed too often, the oldest failure first. Their threads wait for retry or skip.
    """
    with options.open_feed() as feed:
        found = feed.group(group).parked()
    if options.json:
        for one in found:
            output.json_line(_object(one))
    elif found:
        rows = [_row(one, options) for one in found]
        tracebacks = [one.traceback.splitlines() if traceback else [] for one in found]
        output.table_with_more(COLUMNS, rows, tracebacks, aside=ASIDE)
    else:
        output.note(f"Nothing is parked in group {group!r}.")


@command("agentlog retry audit --thread 42", "agentlog retry audit --all")
def retry(options: Options, group: GroupName, *, thread: Threads = None, every: All = False) -> int:
    """Has parked events tried again.

    As often as at first. Exit code 1 if a thread that is named has nothing parked.
    """
    threads = _threads(thread, every=every)
    with options.open_feed() as feed:
        return _unpark(options, feed.group(group), threads, "retried", Group.retry)


@command("agentlog skip audit --thread 42", "agentlog skip audit --all --yes")
def skip(options: Options, group: GroupName, *, thread: Threads = None, every: All = False, yes: Yes = False) -> int:
    """Gives parked events up for good.

    Their threads go on with what comes next. Asks first. Exit code 1 if a thread that is named has nothing parked, or if the
    answer is no.
    """
    threads = _threads(thread, every=every)
    with options.open_feed() as feed:
        known = feed.group(group)
        there = [one for one in known.parked() if threads is None or one.thread_id in threads]
        if there and not agreed(f"Give up {len(there)} parked events of group {group!r}?", yes=yes):
            return 1
        return _unpark(options, known, threads, "skipped", Group.skip)


def _threads(threads: list[str] | None, *, every: bool) -> list[str] | None:
    """Those named, None for all."""
    if every == bool(threads):
        raise BadInput("which threads? Pass either --thread T or --all.")
    return None if every else list(dict.fromkeys(threads or ()))


def _unpark(
    options: Options, group: Group, threads: list[str] | None, what: str, act: Callable[[Group, str | None], int]
) -> int:
    missed = []
    count = 0
    for one in [None] if threads is None else threads:
        done = act(group, one)
        count += done
        if one is not None and not done:
            missed.append(one)
    if options.json:
        output.json_line({"group": group.name, what: count})
    else:
        output.line(f"{count} {what}.")
    for one in missed:
        output.complain(f"thread {one!r} has nothing parked in group {group.name!r}")
    return 1 if missed else 0


def _row(one: Parked, options: Options) -> list[object]:
    since = output.time_text(one.since, options.local)
    activity = one.activity
    return [since, one.thread_id, activity.kind, activity.step, one.attempts, one.waiting, one.member, one.error]


def _object(one: Parked) -> dict[str, Any]:
    return {
        "thread_id": one.thread_id,
        "since": output.time_text(one.since, local=False),
        "attempts": one.attempts,
        "waiting": one.waiting,
        "member": one.member,
        "error": one.error,
        "traceback": one.traceback,
        "activity": one.activity.as_dict(),
    }

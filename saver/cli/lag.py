"""`agentlog lag` shows how far a consumer group is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from eventlog.feed.groups import Group, Lag, PartitionLag
from eventlog.printable import word
from saver.cli import output
from saver.cli.app import Command, Options, command
from saver.cli.arguments import GroupName, seconds
from saver.cli.display import age_text, console, is_terminal, names_of, rendered, table_of
from saver.cli.output import time_text
from saver.cli.tail import ending_on_sigterm

__all__ = ["lag", "lag_object"]

OFTEN = "2"
"""Seconds between two looks by default."""
NAMES = ("partition", "member", "pending", "age", "waiting", "parked", "handled", "throughput")
_NUMBER = re.compile(r"-?\d*\.?\d+")

Show = Callable[[Lag], None]


class WithWatch(Command):
    """A command whose `--watch` may stand without its number."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give `--watch` its number."""
        whole = []
        for each, following in zip(args, [*args[1:], ""], strict=True):
            whole.append(each)
            if each == "--watch" and not _NUMBER.fullmatch(following):
                whole.append(OFTEN)
        return super().parse_args(ctx, whole)


@command(
    "agentlog lag audit",
    "agentlog lag audit --watch",
    "agentlog lag audit --watch 10 --json >> lag.jsonl",
    "agentlog lag audit --max-pending 1000 --max-age 60 --max-waiting 100 --fail-parked || page-someone",
    cls=WithWatch,
)
def lag(
    options: Options,
    group: GroupName,
    *,
    watch: Annotated[
        float | None,
        typer.Option(
            metavar="[SECONDS]",
            min=0.1,
            callback=seconds,
            help=f"Look again and again, every {OFTEN} seconds unless you say otherwise.",
        ),
    ] = None,
    max_pending: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Exit code 1 if more events are pending: no member has reached them yet. Events that the group's filters "
            "leave out count until then. Failed events, and events that wait after them, do not count.",
        ),
    ] = None,
    max_waiting: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Exit code 1 if more events wait: they failed, or come after a failed event of their thread, which is "
            "parked or will be tried again.",
        ),
    ] = None,
    max_age: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            callback=seconds,
            help="Exit code 1 if an event has been pending for longer. Time after a failure does not count.",
        ),
    ] = None,
    fail_parked: Annotated[
        bool, typer.Option("--fail-parked", help="Exit code 1 if a thread is parked: its first event failed too often.")
    ] = False,
) -> int:
    """Shows how far a group is.

    For each partition it shows the member, the pending events, which no member has reached yet, and the age of the
    oldest of them, the events that wait after a failure, and the parked threads. With --watch, an exceeded bound ends
    the command.
    """

    def exceeded(found: Lag) -> list[str]:
        """The bounds that a lag exceeds."""
        reports = []
        if max_pending is not None and found.pending > max_pending:
            reports.append(f"{found.pending} events are pending, more than {max_pending}")
        if max_waiting is not None and found.waiting > max_waiting:
            reports.append(f"{found.waiting} events failed, or wait after one that did, more than {max_waiting}")
        if max_age is not None and (found.age or 0) > max_age:
            reports.append(f"one has been pending for {found.age:.1f} seconds, longer than {max_age:g}")
        if fail_parked and found.parked:
            reports.append(f"threads that are parked: {found.parked}")
        return reports

    with options.open_feed() as feed, ending_on_sigterm(watch is not None), _shown(options, watch) as show:
        for found in _looks(feed.group(group), watch):
            show(found)
            output.flush()
            reports = exceeded(found)
            if reports:
                break
    for one in reports:
        output.complain(f"group {group!r}: {one}")
    return 1 if reports else 0


def lag_object(found: Lag) -> dict[str, Any]:
    """A lag as JSON has it: the totals, then each partition."""
    totals = {name: getattr(found, name) for name in NAMES[2:]}
    partitions = [asdict(one) for one in found.partitions]
    return {"group": found.group, "members": list(found.members), **totals, "partitions": partitions}


def _looks(group: Group, every: float | None) -> Iterator[Lag]:
    yield group.lag()
    while every is not None:
        time.sleep(every)
        yield group.lag()


@contextmanager
def _shown(options: Options, watch: float | None) -> Iterator[Show]:
    """The function that shows a lag."""
    if options.json:
        yield lambda found: output.json_line(lag_object(found))
    elif watch is None:
        yield lambda found: output.write(rendered(_table(found)))
    elif not is_terminal():
        yield lambda found: output.write(f"{_heading(found, options)}\n{rendered(_table(found))}\n")
    else:
        with Live(console=console(), auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
            yield lambda found: live.update(_table(found, _heading(found, options)), refresh=True)


def _table(found: Lag, title: str | None = None) -> Table:
    rows = [[one.partition, word(one.member or "") or "-", *_numbers(one)] for one in found.partitions]
    total = ["total", names_of(found.members) or "-", *_numbers(found)]
    columns = [(name, "left" if name in NAMES[:2] else "right") for name in NAMES]
    made = table_of(columns, [*rows, total], last_is_total=True)
    made.title, made.title_justify, made.title_style = title, "left", ""
    return made


def _numbers(one: Lag | PartitionLag) -> list[object]:
    return [one.pending, age_text(one.age) or "-", one.waiting, one.parked, one.handled, f"{one.throughput:.1f}/s"]


def _heading(found: Lag, options: Options) -> str:
    now = time_text(datetime.now(timezone.utc), local=options.local)
    return output.plain(f"{now}  group {found.group!r}")

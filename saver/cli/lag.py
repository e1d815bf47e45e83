"""`agentlog lag`: how far a consumer group is, once or again and again, with bounds for scripts."""

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
from saver.cli import output
from saver.cli.app import Command, Options, command
from saver.cli.groups import GroupName
from saver.cli.numbers import count_for, seconds_for, typed
from saver.cli.output import BadInput
from saver.cli.tail import ending_on_sigterm

__all__ = ["lag", "lag_object"]

OFTEN = "2"
"""Seconds between two looks, unless said otherwise."""
NAMES = ("partition", "member", "pending", "age", "waiting", "parked", "handled", "throughput")
_NUMBER = re.compile(r"-?\d*\.?\d+")

Show = Callable[[Lag], None]


class WithWatch(Command):
    """A command whose `--watch` may stand without its number."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Gives `--watch` its number. Raises `BadInput` if a word too many stands there instead."""
        whole = []
        instead = None
        for number, word in enumerate(args):
            whole.append(word)
            following = args[number + 1] if number + 1 < len(args) else ""
            if word == "--watch" and not _NUMBER.fullmatch(following):
                whole.append(OFTEN)
                instead = following if following and not following.startswith("-") else instead
        if instead is None:
            return super().parse_args(ctx, whole)
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, whole)
        if rest and not ctx.resilient_parsing:
            raise BadInput(f"--watch takes a number of seconds, and {typed(instead)} is none.")
        return rest


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
            parser=seconds_for("--watch", least=0.1),
            help=f"Look again and again, every {OFTEN} seconds unless told.",
        ),
    ] = None,
    max_pending: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=count_for("--max-pending"),
            help="Exit code 1 if more events are pending: no member has come to them yet. Those that the group's filters leave out "
            "count until then; what failed, and what waits behind it, does not.",
        ),
    ] = None,
    max_waiting: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=count_for("--max-waiting"),
            help="Exit code 1 if more events wait: they failed, or stand behind one of their thread that did, be that parked or to "
            "be tried again.",
        ),
    ] = None,
    max_age: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            parser=seconds_for("--max-age"),
            help="Exit code 1 if one has been pending for longer. How long events wait after a failure does not count.",
        ),
    ] = None,
    fail_parked: Annotated[
        bool, typer.Option("--fail-parked", help="Exit code 1 if a thread is parked: its first event failed too often.")
    ] = False,
) -> int:
    """Shows how far a group is.

    By partition: who works on it, what is pending (no member has come to it yet) and since when, what waits after a failure, what
    is parked.
    With --watch a bound that is exceeded ends it.
    """
    bounds = _Bounds(max_pending, max_waiting, max_age, fail_parked=fail_parked)
    with options.open_feed() as feed, ending_on_sigterm(watch is not None), _shown(options, watch) as show:
        for found in _looks(feed.group(group), watch):
            show(found)
            broken = bounds.broken(found)
            if broken:
                break
    for one in broken:
        output.complain(f"group {group!r}: {one}")
    return 1 if broken else 0


def lag_object(found: Lag) -> dict[str, Any]:
    """A lag for programs: the totals, then each partition."""
    totals = {name: getattr(found, name) for name in NAMES[2:]}
    partitions = [asdict(one) for one in found.partitions]
    return {"group": found.group, "members": list(found.members), **totals, "partitions": partitions}


class _Bounds:
    def __init__(self, pending: int | None, waiting: int | None, age: float | None, *, fail_parked: bool) -> None:
        self._pending = pending
        self._waiting = waiting
        self._age = age
        self._fail_parked = fail_parked

    def broken(self, found: Lag) -> list[str]:
        """What exceeds them."""
        told = []
        if self._pending is not None and found.pending > self._pending:
            told.append(f"{found.pending} events are pending, more than {self._pending}")
        if self._waiting is not None and found.waiting > self._waiting:
            told.append(f"{found.waiting} events failed, or wait behind one that did, more than {self._waiting}")
        if self._age is not None and (found.age or 0) > self._age:
            told.append(f"one has been pending for {found.age:.1f} seconds, longer than {self._age:g}")
        if self._fail_parked and found.parked:
            told.append(f"threads that are parked: {found.parked}")
        return told


def _looks(group: Group, every: float | None) -> Iterator[Lag]:
    yield group.lag()
    while every is not None:
        time.sleep(every)
        yield group.lag()


@contextmanager
def _shown(options: Options, watch: float | None) -> Iterator[Show]:
    """How a lag is shown."""
    if options.json:
        yield lambda found: _flushed(output.json_line, lag_object(found))
    elif watch is None:
        yield lambda found: output.write(output.rendered(_table(found)))
    elif not output.is_terminal():
        yield lambda found: _flushed(output.write, f"{_heading(found, options)}\n{output.rendered(_table(found))}\n")
    else:
        with Live(console=output.console(), auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
            yield lambda found: live.update(_table(found, _heading(found, options)), refresh=True)


def _flushed(write: Callable[[Any], None], value: object) -> None:
    write(value)
    output.flush()


def _table(found: Lag, title: str | None = None) -> Table:
    rows = [[str(one.partition), one.member or "-", *_numbers(one)] for one in found.partitions]
    total = ["total", ", ".join(found.members) or "-", *_numbers(found)]
    columns = [(name, "left" if name in NAMES[:2] else "right") for name in NAMES]
    made = output.table_of(columns, [*rows, total], last_is_total=True)
    made.title, made.title_justify, made.title_style = title, "left", ""
    return made


def _numbers(one: Lag | PartitionLag) -> list[str]:
    age = output.age_text(one.age) or "-"
    return [str(one.pending), age, str(one.waiting), str(one.parked), str(one.handled), f"{one.throughput:.1f}/s"]


def _heading(found: Lag, options: Options) -> str:
    now = output.time_text(datetime.now(timezone.utc), options.local)
    return output.plain(f"{now}  group {found.group!r}")

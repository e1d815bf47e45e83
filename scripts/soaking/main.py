"""The command line of scripts/soak: agents write while members of consumer groups are killed, and the server is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from eventlog.errors import EventLogError
from scripts.soaking.chaos import Chaos
from scripts.soaking.claims import Claim, claims, numbers
from scripts.soaking.evidence import collect
from scripts.soaking.plan import RECORD, SINK, Plan
from scripts.soaking.stage import SoakFailure, Stage, private_server

__all__ = ["main", "soak"]

JOINING = 60.0
"""Seconds within which the first members join."""


@contextlib.contextmanager
def stage_for(plan: Plan, url: str | None) -> Iterator[Stage]:
    """A server, if none is named, and a folder; at the end every process is ended, and both are gone."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        server = None
        if url is None:
            server = private_server(folder / "server")
            stack.callback(server.stop)
            url = server.url
        stage = Stage(plan, url, folder, server)
        stack.callback(stage.close)
        yield stage


def soak(plan: Plan, url: str | None, console: Console) -> tuple[list[Claim], dict[str, Any], Chaos]:
    """Runs it; what it claims, and its figures."""
    began = time.monotonic()
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    progress = Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal)
    with stage_for(plan, url) as stage, progress:
        task = progress.add_task("events written", total=plan.events)
        stage.set_up()
        for seat in stage.seats:
            stage.seat(seat)
        stage.await_members(JOINING)
        stage.write()
        chaos = Chaos(stage)
        for written in chaos.run():
            progress.update(task, completed=written, refresh=True)
        stage.await_members(JOINING)
        chaos.stop_members()
        found = collect(stage)
    return list(claims(plan, chaos, found)), numbers(plan, chaos, found, time.monotonic() - began), chaos


def _command(
    *,
    events: Annotated[int, typer.Option(min=1, help="Events written in all.")] = 200_000,
    threads: Annotated[int, typer.Option(min=1, help="Threads they are spread over.")] = 50,
    writers: Annotated[int, typer.Option(min=1, help="Processes that write, each to threads of its own.")] = 4,
    members: Annotated[int, typer.Option(min=1, help="Members of each of the two groups, each a process.")] = 3,
    seconds_between_kills: Annotated[float, typer.Option(min=0.1, help="About how often a member is disturbed.")] = 3.0,
    lease: Annotated[
        float, typer.Option(min=0.5, help="Seconds after which a dead member's partitions are others'.")
    ] = 3.0,
    seconds: Annotated[float, typer.Option(min=0, help="Writing takes at least this long.")] = 10.0,
    seed: Annotated[int, typer.Option(help="What chance is drawn from.")] = 7,
    url: Annotated[str | None, typer.Option(help="Another server, which is not restarted then.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where claims and figures go, as JSON.")] = None,
) -> None:
    """Agents write while members of two consumer groups are killed, stopped and paused, and the server is killed and restarted.

    Then every event is accounted for: in the logs, in the feed, by a group that notes each handling, and by one whose effects
    are to be had once. Exit code: 0 if every claim held, else 1.
    """
    plan = Plan(
        events=events, threads=threads, writers=writers, members=members, seconds_between_kills=seconds_between_kills,
        lease=lease, seconds=seconds, seed=seed, prefix=f"soak-{uuid.uuid4().hex[:8]}",
    )  # fmt: skip
    console = _console()
    try:
        held, figures, chaos = soak(plan, url, Console(stderr=True))
    except (SoakFailure, EventLogError) as error:
        print(f"scripts/soak: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    _show(console, plan, held, figures)
    if json_file is not None:
        told = {"plan": asdict(plan), "claims": [one._asdict() for one in held], "figures": figures}
        told["disturbances"] = [asdict(one) for one in chaos.disturbances]
        told["moves"] = [asdict(one) | {"waiting": sorted(one.waiting)} for one in chaos.moves]
        json_file.write_text(json.dumps(told, indent=1) + "\n")
    if not all(one.holds for one in held):
        raise typer.Exit(1)


def _show(console: Console, plan: Plan, held: list[Claim], figures: dict[str, Any]) -> None:
    console.print(
        f"{plan.events:,} events on {plan.threads} threads by {plan.writers} writers; {plan.members} members each of the groups "
        f"{RECORD!r} and {SINK!r}; leases of {plan.lease:g} s; seed {plan.seed}.\n"
    )
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for claim in held:
        mark = Text("  ok      ", style="green") if claim.holds else Text("  FAILED  ", style="bold red")
        grid.add_row(mark, Text(claim.text if claim.holds else f"{claim.text} ({claim.detail})"))
    console.print(grid)
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for name, value in figures.items():
        table.add_row(Text(name), f"{value:,.0f}" if isinstance(value, int) or value >= 1000 else f"{value:,.2f}")
    console.print()
    console.print(table)
    failed = sum(not claim.holds for claim in held)
    told = (
        Text(f"Claims that FAILED: {failed}.", style="bold red")
        if failed
        else Text("Every claim held.", style="bold green")
    )
    console.print()
    console.print(told)


def _console() -> Console:
    """Colours on a terminal, unless NO_COLOR is set; 120 columns where there is none to measure."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return Console(width=width, highlight=False)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command. SIGTERM ends it as Ctrl-C does: all that it started first."""
    signal.signal(signal.SIGTERM, _interrupt)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_command)
    app(prog_name="scripts/soak")


if __name__ == "__main__":
    main()

"""The command line of scripts/soak."""

from __future__ import annotations

import contextlib
import json
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
from rich.text import Text

from eventlog.errors import EventLogError
from scripts import terminal
from scripts.soaking.chaos import Chaos
from scripts.soaking.claims import Claim, claims, numbers
from scripts.soaking.evidence import collect
from scripts.soaking.plan import RECORD, SINK, Plan
from scripts.soaking.stage import SoakFailure, Stage, private_server
from scripts.terminal import conclusion, console, progress, table

__all__ = ["main", "soak"]

JOINING = 60.0
"""Seconds within which members join."""


@contextlib.contextmanager
def stage_for(plan: Plan, url: str | None) -> Iterator[Stage]:
    """Yield a stage in a temporary folder, on a server of its own if no URL is given.

    At the end, no process and no file is left.
    """
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


def soak(plan: Plan, url: str | None) -> tuple[list[Claim], dict[str, Any], Chaos]:
    """Run the soak, and return its claims, its figures and the disturbances."""
    began = time.monotonic()
    with stage_for(plan, url) as stage, progress(disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("events written", total=plan.events)
        stage.set_up()
        for seat in stage.seats:
            stage.seat(seat)
        stage.await_members(JOINING)
        stage.write()
        chaos = Chaos(stage)
        for written in chaos.run():
            bar.update(task, completed=written, refresh=True)
        stage.await_members(JOINING)
        chaos.stop_members()
        found = collect(stage)
    return list(claims(plan, chaos, found)), numbers(plan, chaos, found, time.monotonic() - began), chaos


def _command(
    *,
    events: Annotated[int, typer.Option(min=1, help="Number of events.")] = 200_000,
    threads: Annotated[int, typer.Option(min=1, help="Number of threads, which share the events.")] = 50,
    writers: Annotated[int, typer.Option(min=1, help="Processes that write, each to its own threads.")] = 4,
    members: Annotated[int, typer.Option(min=1, help="Members of each of the two groups, each in a process.")] = 3,
    seconds_between_kills: Annotated[
        float, typer.Option(min=0.1, help="Average time between two disturbances of members.")
    ] = 3.0,
    lease: Annotated[
        float, typer.Option(min=0.5, help="Seconds that a member keeps its partitions without a sign of life.")
    ] = 3.0,
    seconds: Annotated[float, typer.Option(min=0, help="Writing takes at least this long.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Seed of the random choices.")] = 7,
    url: Annotated[str | None, typer.Option(help="Use this server, which is then not restarted.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write claims and figures to this file, as JSON.")
    ] = None,
) -> None:
    """Disturb members of consumer groups while agents write, then check every event.

    Members of two groups are killed, stopped and paused, and the server is killed and restarted. Then every event is
    accounted for: in the logs, in the feed, in a group that notes each handling, and in a group that applies each event
    once. Exit code: 0 if every claim held, else 1.
    """
    plan = Plan(
        events=events, threads=threads, writers=writers, members=members, seconds_between_kills=seconds_between_kills,
        lease=lease, seconds=seconds, seed=seed, prefix=f"soak-{uuid.uuid4().hex[:8]}",
    )  # fmt: skip
    try:
        checked, figures, chaos = soak(plan, url)
    except (SoakFailure, EventLogError) as error:
        print(f"scripts/soak: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    _show(plan, checked, figures)
    if json_file is not None:
        report = {
            "plan": asdict(plan),
            "claims": [one._asdict() for one in checked],
            "figures": figures,
            "disturbances": [asdict(one) for one in chaos.disturbances],
            "moves": [asdict(one) | {"waiting": sorted(one.waiting)} for one in chaos.moves],
        }
        json_file.write_text(json.dumps(report, indent=1) + "\n")
    if not all(one.holds for one in checked):
        raise typer.Exit(1)


def _show(plan: Plan, checked: list[Claim], figures: dict[str, Any]) -> None:
    out = console()
    out.print(
        f"{plan.events:,} events on {plan.threads} threads by {plan.writers} writers; {plan.members} members each of the groups "
        f"{RECORD!r} and {SINK!r}; leases of {plan.lease:g} s; seed {plan.seed}.\n"
    )
    texts = [one.text if one.holds else f"{one.text} ({one.detail})" for one in checked]
    out.print(terminal.claims(zip(texts, (one.holds for one in checked), strict=True)))
    shown = table("", "", show_header=False)
    shown.columns[1].justify = "right"
    for name, value in figures.items():
        shown.add_row(Text(name), f"{value:,.0f}" if isinstance(value, int) or value >= 1000 else f"{value:,.2f}")
    out.print()
    out.print(shown)
    out.print()
    out.print(conclusion(sum(not one.holds for one in checked)))


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command, which SIGTERM ends as Ctrl-C does, with all its processes."""
    signal.signal(signal.SIGTERM, _interrupt)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_command)
    app(prog_name="scripts/soak")


if __name__ == "__main__":
    main()

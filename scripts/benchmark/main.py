"""The command line of scripts/bench."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from scripts.benchmark.audit import AuditPlan, measure_audit
from scripts.benchmark.book import Book
from scripts.benchmark.charts import draw
from scripts.benchmark.chat import growing_chat, long_chat
from scripts.benchmark.conversations import conversations_few, conversations_many
from scripts.benchmark.feed import measure_feed
from scripts.benchmark.longest import QUICK, measure_longest
from scripts.benchmark.loop import compiled_loop
from scripts.benchmark.plan import FeedPlan, Plan, Run
from scripts.benchmark.report import Report
from scripts.benchmark.savers import available
from scripts.benchmark.servers import BenchError, Servers, open_servers
from scripts.benchmark.states import fan_out, large_value, small_state, wide_state
from scripts.benchmark.storage import storage
from scripts.terminal import progress
from tests.hostile import Sizes

__all__ = ["WORKLOADS", "main", "measure"]

WORKLOADS: dict[str, Callable[[Run], None]] = {
    "chat": growing_chat,
    "long": long_chat,
    "wide": wide_state,
    "document": large_value,
    "fanout": fan_out,
    "small": small_state,
    "loop": compiled_loop,
    "few": conversations_few,
    "many": conversations_many,
    "storage": storage,
}


def titles(plan: Plan) -> dict[str, str]:
    """Return the title of each workload in the report."""
    few, many = plan.conversations
    return {
        "chat": f"Growing chat, {plan.steps} steps of 1 KiB",
        "long": f"Growing chat, on to {plan.long_steps:,} steps",
        "wide": f"Wide state: 50 channels, 2 change per step, {plan.wide_steps} steps",
        "document": f"Large value: {plan.document_bytes / 2**20:.3g} MiB, one field changes per step, {plan.document_steps} steps",
        "fanout": f"Fan-out: {plan.tasks} tasks on one checkpoint",
        "small": f"Small state, {plan.events:,} events",
        "loop": f"Compiled LangGraph loop, {plan.turns} turns",
        "few": f"{few} concurrent asyncio conversations",
        "many": f"{many} concurrent asyncio conversations",
        "storage": "Storage of the growing chat (append-only file: mean of the steps)",
    }


def _run_all(run: Run, workloads: list[str]) -> Report:
    """Run workloads in their order, and return the report."""
    began = time.monotonic()
    for name in workloads:
        WORKLOADS[name](run)
    return Report(run, workloads, titles(run.plan), time.monotonic() - began)


def _command(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer repetitions: under a minute, once packages are installed.")
    ] = False,
    only: Annotated[str, typer.Option(metavar="WORKLOAD[,...]", help=f"Only these of {', '.join(WORKLOADS)}.")] = "",
    savers: Annotated[
        str, typer.Option(metavar="SAVER[,...]", help="Only these of the savers that can take part.")
    ] = "",
    steps: Annotated[int | None, typer.Option(min=20, help="Steps of the growing chat (200).")] = None,
    long_steps: Annotated[int | None, typer.Option(min=20, help="Steps of the longest chat (1,000).")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of the growing chat (9).")] = None,
    feed: Annotated[bool, typer.Option("--feed", help="Only the activity feed and its groups.")] = False,
    longest: Annotated[
        bool, typer.Option("--longest", help="Only the longest command of each operation on hostile data.")
    ] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Only signing, verifying and rebuilding.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the texts and of the steps to read.")] = 7,
    url: Annotated[
        str | None, typer.Option(help="An empty database of a Redis or Valkey server, which is flushed between rounds.")
    ] = None,
    postgres: Annotated[
        str | None, typer.Option(envvar="POSTGRES_URL", help="postgresql://... for PostgresSaver.")
    ] = None,
    redis_modules: Annotated[str | None, typer.Option(help="An empty server with RedisJSON and RediSearch.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the report, else a temporary directory.")] = None,
) -> None:
    """Measure this saver and others on the same recorded traffic.

    Without --url, it runs on a private redis-server from PATH (7.0 if there is one), else on another installed server. It
    prints targets and figures as Markdown, and writes report.md, report.json and charts.
    """
    plan = Plan(seed=seed)
    plan = plan.quick() if quick else plan
    given: dict[str, Any] = {"steps": steps, "long_steps": long_steps, "rounds": rounds}
    plan = replace(plan, **{name: value for name, value in given.items() if value is not None})
    try:
        chosen = _chosen(only, list(WORKLOADS), "workload")
        with open_servers(url, postgres, redis_modules) as servers:
            if feed:
                feed_plan = FeedPlan(seed=seed)
                measure_feed(feed_plan.quick() if quick else feed_plan, servers, out)
                return
            if audit:
                measure_audit(AuditPlan().quick() if quick else AuditPlan(), servers, out)
                return
            if longest:
                measure_longest(QUICK if quick else Sizes(), servers)
                return
            measure(plan, servers, chosen, savers, out)
    except BenchError as error:
        typer.echo(f"scripts/bench: {error}", err=True)
        raise typer.Exit(1) from error


def _chosen(text: str, known: list[str], what: str) -> list[str]:
    """Return the named ones in the order of the known ones, or all if none is named."""
    named = [name.strip() for name in text.split(",") if name.strip()]
    for name in named:
        if name not in known:
            raise BenchError(f"no {what} {name!r}; there are {', '.join(known)}")
    return [name for name in known if not named or name in named]


def measure(plan: Plan, servers: Servers, workloads: list[str], savers: str, out: Path | None) -> None:
    """Run the workloads with the savers, write the report, and print it."""
    kinds = available(servers)
    kinds = {name: kinds[name] for name in _chosen(savers, list(kinds), "saver")}
    folder = out or Path(tempfile.mkdtemp(prefix="checkpointer-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    # It is drawn between timed calls, because a thread that draws would disturb them.
    with progress() as bar:
        report = _run_all(Run(plan, servers, Book(), kinds, bar), workloads)
    files = [*report.write(folder), *draw(report.run, folder)]
    print(report.markdown())
    print("\n".join(str(file) for file in files))


def main() -> None:
    """Run the command."""
    # Warnings of other savers do not matter here: the report names their failures.
    warnings.simplefilter("ignore")
    os.environ.setdefault("LANGSMITH_TRACING", "false")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_command)
    app(prog_name="scripts/bench")


if __name__ == "__main__":
    main()

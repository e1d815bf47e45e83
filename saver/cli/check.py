"""`agentlog check`: whether what is stored beside the logs is what they say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

from eventlog.errors import ThreadNotFound
from eventlog.feed.feed import ActivityFeed
from eventlog.keys import Keyspace
from projections.maintenance.check import Checked, Difference, check_thread
from projections.maintenance.check_registry import check_registry
from projections.registry.listing import list_threads
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.output import BadInput
from saver.cli.progress import showing_progress

__all__ = ["All", "Threads", "check", "opened", "thread_ids"]

Threads = Annotated[list[str] | None, typer.Argument(metavar="THREAD...", help="These threads.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All threads, and the registry of them.")]


@command("agentlog check 42", "agentlog check --all --json", "agentlog check --all || page-someone")
def check(options: Options, thread: Threads = None, *, every: All = False) -> int:
    """Compares indexes, heads and registry with the logs.

    Only reads, while agents go on. Exit code 1 if something differs; rebuild mends it, unless it is a log that is damaged.
    """
    wrong = count = 0
    with options.open_feed() as feed, showing_progress() as show:
        keyspace = opened(feed, thread, every=every)
        if keyspace is None:
            return 0
        if every:
            for number in range(keyspace.partitions):
                show("registry", number, keyspace.partitions)
                found = feed.runner.run(check_registry(keyspace, number), "the registry")
                wrong += _tell(options, None, found)
        named = thread_ids(feed, keyspace, thread, every=every)
        for name in named:
            show(f"thread {name}", count, len(named))
            try:
                checked = feed.runner.run(check_thread(keyspace.thread(name.encode())), f"thread {name!r}")
            except ThreadNotFound:
                if not every:
                    raise
                continue  # deleted since it was listed
            count += 1
            wrong += _tell(options, checked, checked.differences)
    if not options.json:
        output.line(
            f"{output.counted(count, 'thread')} checked: "
            + (f"{output.counted(wrong, 'difference')}." if wrong else "no differences.")
        )
    return 1 if wrong else 0


def opened(feed: ActivityFeed, threads: list[str] | None, *, every: bool) -> Keyspace | None:
    """The keys of the prefix, None if nothing was written under it yet. Raises `BadInput` unless it is either threads or all."""
    if every == bool(threads):
        raise BadInput("which threads? Name them, or pass --all.")
    keyspace = feed.runner.run(feed.opened(), "the prefix")
    if keyspace is None:
        if threads:
            raise BadInput(f"nothing was written under prefix {feed.prefix!r} yet.")
        output.note(f"Nothing was written under prefix {feed.prefix!r} yet.")
    return keyspace


def thread_ids(feed: ActivityFeed, keyspace: Keyspace, threads: list[str] | None, *, every: bool) -> list[str]:
    """The threads named, or all there are, those last active first."""
    if not every:
        return list(dict.fromkeys(threads or ()))
    found: Iterator[Any] = feed.runner.iterate(list_threads(keyspace, ask_memory=False, lost_too=True), "threads")
    return [info.thread_id for info in found]


def _tell(options: Options, checked: Checked | None, differences: Iterable[Difference]) -> int:
    found = list(differences)
    if options.json:
        if checked is not None or found:
            output.json_line(_object(checked, found))
        return len(found)
    where = "registry" if checked is None else f"thread {checked.thread_id}"
    for one in found:
        output.line(f"{where}: {one.view}: {one.what}" if checked is not None else f"{where}: {one.what}")
    return len(found)


def _object(checked: Checked | None, differences: list[Difference]) -> dict[str, Any]:
    told = [one._asdict() for one in differences]
    if checked is None:
        return {"registry": True, "ok": not told, "differences": told}
    counts = {name: getattr(checked, name) for name in ("events", "checkpoints", "namespaces", "heads")}
    return {"thread_id": checked.thread_id, "ok": checked.ok, **counts, "differences": told}

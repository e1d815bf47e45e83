"""The stage of the demo: the processes that work on a thread, its log, and what is shown of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saver import RedisStreamSaver
from scripts.story.agent import URL_VARIABLE, Ledger, desk_graph, euros
from scripts.story.log import Entry, ThreadLog, entry_table

WORKER = ["-m", "scripts.story.agent"]
PATIENCE = 60.0
"""Seconds a step of the agent may take."""

CLAIMED = ("A-1042", "A-1043", "A-1044", "A-1045")


class DemoFailure(Exception):
    """The demo cannot go on."""


class Stage:
    """One thread on one server: the processes that work on it, and what is shown of it."""

    def __init__(self, console: Console, saver: RedisStreamSaver, url: str, thread: str, folder: Path) -> None:
        self.console = console
        self.url = url
        self.thread = thread
        self.config: Any = {"configurable": {"thread_id": thread}}
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.what_if = Ledger(folder / "what-if.jsonl")
        self.log = ThreadLog(url, thread)
        self.graph = desk_graph(saver, self.ledger)
        self.entries: list[Entry] = []
        self.failures = 0
        self._shown_entries = 0
        self._shown_messages: set[str] = set()

    # -- processes

    @contextlib.contextmanager
    def worker(self, *arguments: str, ledger: Ledger | None = None) -> Iterator[subprocess.Popen[str]]:
        """A process of the agent, waited for at the end. Raises `DemoFailure` with what it said if it failed."""
        words = ["--thread", self.thread, "--ledger", str((ledger or self.ledger).path), *arguments]
        environment = os.environ | {URL_VARIABLE: self.url}
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen([sys.executable, *WORKER, *words], env=environment, stderr=errors, text=True)
            try:
                yield process
                if process.wait(PATIENCE) not in {0, -signal.SIGKILL}:
                    raise DemoFailure(f"The agent's process ended with exit code {process.returncode}.")
            except (DemoFailure, subprocess.TimeoutExpired) as failure:
                errors.seek(0)
                raise DemoFailure(f"{failure}\n{errors.read()}") from failure
            finally:
                process.kill()
                process.wait()

    def run(self, *arguments: str, ledger: Ledger | None = None) -> int:
        """Run the agent's process to its end; its pid."""
        with self.worker(*arguments, ledger=ledger) as process:
            pass
        self.follow()
        return process.pid

    # -- what there is

    def follow(self) -> None:
        """Read what was appended to the log."""
        self.entries += self.log.read(self.entries)

    def state(self, config: Any = None) -> Any:
        """The state of the thread, or of one of its checkpoints."""
        return self.graph.get_state(config or self.config)

    def history(self) -> dict[str, Any]:
        """Every state of the thread, by checkpoint id."""
        found = self.graph.get_state_history(self.config)
        return {snapshot.config["configurable"]["checkpoint_id"]: snapshot for snapshot in found}

    # -- showing

    def title(self, text: str) -> None:
        """Begin a section."""
        self.console.print()
        self.console.rule(Text(text, style="bold"), align="left")

    def say(self, text: str) -> None:
        """A paragraph."""
        self.console.print(Text(text))

    def check(self, claim: str, holds: bool) -> None:  # noqa: FBT001
        """Show whether a claim holds."""
        self.failures += not holds
        mark = Text("  ok      ", style="green") if holds else Text("  FAILED  ", style="bold red")
        self._grid([[mark, Text(claim)]])

    def show_log(self) -> None:
        """The entries that were not shown yet."""
        new = self.entries[self._shown_entries :]
        self._shown_entries = len(self.entries)
        self.console.print()
        self.console.print(entry_table(new, self.entries, self.console.width))

    def show_conversation(self) -> None:
        """The messages that were not shown yet."""
        new = [message for message in self.state().values["messages"] if message.id not in self._shown_messages]
        self._shown_messages.update(message.id for message in new)
        self.console.print()
        self._grid([list(_line(message)) for message in new])

    def show_states(self, snapshots: dict[str, Any]) -> None:
        """What snapshots hold, side by side."""
        rows = [dict(_facts(snapshot)) for snapshot in snapshots.values()]
        table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
        table.add_column("state", no_wrap=True, style="cyan")
        for name in snapshots:
            table.add_column(name, overflow="fold")
        for fact in dict.fromkeys(fact for row in rows for fact in row):
            told = [row.get(fact, "") for row in rows]
            if any(told):
                table.add_row(fact, *map(Text, told))
        self.console.print()
        self.console.print(table)

    def show_ledger(self) -> None:
        """Which process did what, by order."""
        lines = self.ledger.lines()
        actions = list(dict.fromkeys(line["action"] for line in lines))
        table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
        for name in ("ledger", *actions):
            table.add_column(name, overflow="fold")
        for order_id in CLAIMED:
            cells = [[line for line in lines if line["order"] == order_id and line["action"] == one] for one in actions]
            table.add_row(order_id, *(", ".join(map(_entered, cell)) for cell in cells))
        self.console.print()
        self.console.print(table)

    def _grid(self, rows: Sequence[Sequence[Text]]) -> None:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for row in rows:
            grid.add_row(*row)
        self.console.print(grid)


def _line(message: Any) -> Iterator[Text]:
    """Who speaks, and what."""
    if message.type == "human":
        yield Text("customer", style="bold cyan")
    elif message.type == "tool":
        yield Text("tool", style="yellow")
    else:
        yield Text("agent", style="bold magenta")
    if calls := [f"{call['name']}({_arguments(call['args'])})" for call in getattr(message, "tool_calls", ())]:
        yield Text(f"calls {', '.join(calls)}")
    elif message.type == "tool":
        yield Text(textwrap.shorten(str(message.content), 100, placeholder=" ..."))
    else:
        yield Text(str(message.content))


def _arguments(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _facts(snapshot: Any) -> Iterator[tuple[str, str]]:
    """What a snapshot holds, by name."""
    values = snapshot.values
    yield "checkpoint", f"{snapshot.metadata['source']} {snapshot.metadata['step']}"
    yield "messages", str(len(values["messages"]))
    yield "checks", "\n".join(map(_found, values.get("checks", ())))
    yield "risk", values.get("risk", "")
    yield "approved", {True: "yes", False: "no"}.get(values.get("approved"), "")
    pending = [f"{task.name}: {_found(task.result['checks'][0])}" for task in snapshot.tasks if task.result]
    yield "pending writes", "\n".join(pending)
    yield "next", ", ".join(snapshot.next) or "(end)"
    for one in snapshot.interrupts:
        yield "waits for", _arguments(one.value)


def _found(check: Any) -> str:
    return f"{check['order']} {check['grade']}, {euros(check['cents'])}"


def _entered(line: Any) -> str:
    return f"{euros(line['cents'])} by {line['pid']}" if line["cents"] else f"by {line['pid']}"

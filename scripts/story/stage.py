"""The stage of the demo, which starts processes and shows their traces."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from eventlog import ThreadNotFound
from saver import RedisStreamSaver
from saver.history import Replayed
from scripts.story.agent import URL_VARIABLE, Ledger, desk_graph, euros
from scripts.story.log import event_table
from scripts.terminal import claims, grid, table

__all__ = ["CLAIMED", "PATIENCE", "DemoFailure", "Stage"]

WORKER = [str(Path(__file__).parents[1] / "run.py"), "scripts.story.agent"]
PATIENCE = 60.0
"""Seconds that a step of the agent may take."""

CLAIMED = ("A-1042", "A-1043", "A-1044", "A-1045")
SPEAKERS = {"human": ("customer", "bold cyan"), "ai": ("agent", "bold magenta"), "tool": ("tool", "yellow")}


class DemoFailure(Exception):
    """The demo cannot continue."""


class Stage:
    """One thread on one server, with its processes and the output about it."""

    def __init__(self, console: Console, saver: RedisStreamSaver, url: str, thread: str, folder: Path) -> None:
        self.console = console
        self.url = url
        self.thread = thread
        self.config: Any = {"configurable": {"thread_id": thread}}
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.what_if = Ledger(folder / "what-if.jsonl")
        self.saver = saver
        self.graph = desk_graph(saver, self.ledger)
        self.events: list[Replayed] = []
        self.failures = 0
        self._shown_events = 0
        self._shown_messages = 0

    @contextlib.contextmanager
    def worker(self, *arguments: str, ledger: Ledger | None = None) -> Iterator[subprocess.Popen[str]]:
        """Start a process of the agent, and wait for it at the end.

        Raises `DemoFailure` with its standard error if it fails.
        """
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
        """Run a process of the agent to its end, and return its pid."""
        with self.worker(*arguments, ledger=ledger) as process:
            pass
        self.read_log()
        return process.pid

    def read_log(self) -> None:
        """Read all events of the thread."""
        with contextlib.suppress(ThreadNotFound):
            self.events = list(self.saver.replay(self.thread))

    def digests(self) -> list[bytes]:
        """Return the digests of the events that were read.

        Each covers all events before it.
        """
        return [event.recorded.digest for event in self.events]

    def state(self, config: Any = None) -> Any:
        """Return the state of the thread, or of one of its checkpoints."""
        return self.graph.get_state(config or self.config)

    def history(self) -> dict[str, Any]:
        """Return every state of the thread, by checkpoint id."""
        found = self.graph.get_state_history(self.config)
        return {snapshot.config["configurable"]["checkpoint_id"]: snapshot for snapshot in found}

    def title(self, text: str) -> None:
        """Begin a section."""
        self.console.print()
        self.console.rule(Text(text, style="bold"), align="left")

    def say(self, text: str) -> None:
        """Print a paragraph."""
        self.console.print(Text(text))

    def check(self, claim: str, holds: bool) -> None:  # noqa: FBT001
        """Print a claim, and whether it holds."""
        self.failures += not holds
        self.console.print(claims([(claim, holds)]))

    def show(self, what: Any) -> None:
        """Print a table after an empty line."""
        self.console.print()
        self.console.print(what)

    def show_log(self) -> None:
        """Print the events that are new."""
        self.show(event_table(self.events[self._shown_events :], self.events))
        self._shown_events = len(self.events)

    def show_conversation(self) -> None:
        """Print the messages that are new."""
        messages = self.state().values["messages"]
        self.show(grid(map(_spoken, messages[self._shown_messages :])))
        self._shown_messages = len(messages)

    def show_states(self, snapshots: dict[str, Any]) -> None:
        """Print snapshots side by side."""
        columns = [dict(_facts(snapshot)) for snapshot in snapshots.values()]
        made = table("state", *snapshots)
        made.columns[0].style, made.columns[0].no_wrap = "cyan", True
        for fact in dict.fromkeys(fact for column in columns for fact in column):
            cells = [column.get(fact, "") for column in columns]
            if any(cells):
                made.add_row(fact, *map(Text, cells))
        self.show(made)

    def show_ledger(self) -> None:
        """Print the processes that acted, by order and action."""
        lines = self.ledger.lines()
        actions = list(dict.fromkeys(line["action"] for line in lines))
        made = table("ledger", *actions)
        for order_id in CLAIMED:
            cells = [[line for line in lines if line["order"] == order_id and line["action"] == one] for one in actions]
            made.add_row(order_id, *(", ".join(map(_entered, cell)) for cell in cells))
        self.show(made)


def _spoken(message: Any) -> tuple[Text, Text]:
    """Return the speaker of a message, and its text."""
    name, style = SPEAKERS[message.type]
    text = str(message.content)
    if message.type == "tool":
        text = textwrap.shorten(text, 100, placeholder=" ...")
    elif calls := getattr(message, "tool_calls", None):
        text = "calls " + ", ".join(f"{call['name']}({_arguments(call['args'])})" for call in calls)
    return Text(name, style=style), Text(text)


def _arguments(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _facts(snapshot: Any) -> Iterator[tuple[str, str]]:
    """Yield what a snapshot contains, by name."""
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

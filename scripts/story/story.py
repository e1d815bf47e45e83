"""Tells scripts/demo: an agent is killed in the middle of a step, resumed and forked; its log is shown and every claim checked.

This process owns the server, never runs the agent, and knows of it only what the log and the shop's books say. The agent
runs in processes of its own (`agent.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from eventlog import audit
from eventlog.errors import EventLogError
from saver import EmbeddedServer, RedisStreamSaver
from scripts.story.agent import APPROVAL_LIMIT, Ledger, euros, find, refund_due
from scripts.story.log import finished_tasks
from scripts.story.stage import CLAIMED, PATIENCE, DemoFailure, Stage

QUESTION = "Which of my orders can be refunded?"
CLAIM = f"They arrived damaged. Please refund {', '.join(CLAIMED)}."
CARRIER_DOWN = ("A-1043", "A-1045")
# LangGraph's interrupt does not work under ainvoke on Python 3.10, whose tasks take no context.
COLOUR, INVOKE = (["--async"], "ainvoke") if sys.version_info >= (3, 11) else ([], "invoke")
DUE = sum(refund_due(find(order_id)) for order_id in CLAIMED)


def act_one(stage: Stage) -> Any:
    """Two turns; in the second the process is killed when half of its fan-out is done. The state it leaves."""
    stage.title("1  Tools, a fan-out, kill -9")
    down = ["--carrier-down", *CARRIER_DOWN]
    with stage.worker(*down, "--steps", f"say={QUESTION}", f"say={CLAIM}") as process:
        _await_half_of_the_fan_out(stage, process)
        alive = stage.state()
        process.send_signal(signal.SIGKILL)
    stage.follow()
    killed = stage.state()
    stage.say(
        f"Process {process.pid} ran invoke. In its second turn the carrier hung on {' and '.join(CARRIER_DOWN)}; the other "
        "two branches had finished and their writes were in the log when it was killed."
    )
    stage.show_conversation()
    stage.show_log()
    stage.show_states({"before the kill": alive, "after the kill": killed})
    stage.show_ledger()
    stage.console.print()
    stage.check(f"process {process.pid} was killed by SIGKILL", process.returncode == -signal.SIGKILL)
    stage.check("the state reads the same before and after the kill", alive == killed)
    stage.check("two of the four branches had saved their writes", len(finished_tasks(stage.entries, "checks")) == 2)
    stage.check("all four had begun; two had set money aside", _counts(stage, "asked carrier", "set aside") == (4, 2))
    return killed


def _await_half_of_the_fan_out(stage: Stage, process: subprocess.Popen[str]) -> None:
    """Follow the log until two branches are in it, and the books until all four have begun."""
    deadline = time.monotonic() + PATIENCE
    while len(finished_tasks(stage.entries, "checks")) < 2 or _counts(stage, "asked carrier") != (4,):
        if process.poll() is not None or time.monotonic() > deadline:
            raise DemoFailure("The agent did not get into the fan-out.")
        time.sleep(0.02)
        stage.follow()


def act_two(stage: Stage, killed: Any) -> Any:
    """Another process goes on from the log, up to where a person has to answer; the state it stops in."""
    stage.title("2  Another process goes on")
    before, asked = list(stage.entries), stage.ledger.lines()
    pid = stage.run(*COLOUR, "--steps", "continue")
    waiting = stage.state()
    stage.say(f"Process {pid} ran {INVOKE}(None) on the same thread; the carrier answers again.")
    stage.show_log()
    stage.show_states({"when killed": killed, "after resuming": waiting})
    stage.show_ledger()
    stage.console.print()
    again = {line["order"] for line in stage.ledger.lines()[len(asked) :] if line["action"] == "asked carrier"}
    set_aside = sorted(line["order"] for line in stage.ledger.lines() if line["action"] == "set aside")
    stage.check("the branches that had finished did not run again; only the unfinished did", again == set(CARRIER_DOWN))
    stage.check("money was set aside once for every order", set_aside == list(CLAIMED))
    stage.check(
        "the killed process left nothing half written: the log only grew", stage.log.read()[: len(before)] == before
    )
    stage.check(
        f"the four results add up to {euros(DUE)}", sum(one["cents"] for one in waiting.values["checks"]) == DUE
    )
    namespaces = {entry.place[0] for entry in stage.entries if entry.place}
    stage.check(
        "the subgraph's steps are in the same log, in its namespace", any(one.startswith("risk:") for one in namespaces)
    )
    held = waiting.next == ("approve",) and len(waiting.interrupts) == 1 and not _counts(stage, "paid")[0]
    stage.check(f"above {euros(APPROVAL_LIMIT)} nothing is paid before a person answers", held)
    return waiting


def act_three(stage: Stage) -> Any:
    """A person approves; the customer asks once more; the state the thread ends in."""
    stage.title("3  A person approves")
    pid = stage.run("--steps", "answer=yes", "say=How much was paid back to me?")
    stage.say(f"Process {pid} ran invoke(Command(resume='yes')), then another turn.")
    stage.show_conversation()
    stage.show_log()
    final = stage.state()
    paid = [line for line in stage.ledger.lines() if line["action"] == "paid"]
    once = sorted(line["order"] for line in paid) == list(CLAIMED) and sum(line["cents"] for line in paid) == DUE
    stage.console.print()
    stage.check(f"every order was paid once, {euros(DUE)} in all", once)
    stage.check("the agent's last answer names that amount", euros(DUE) in final.values["messages"][-1].content)
    return final


def act_four(stage: Stage, waiting: Any, final: Any) -> None:
    """Back to where the person was asked: what if the review had found fraud?"""
    stage.title("4  Time travel: a fork")
    before, entries = stage.history(), list(stage.entries)
    with audit(actor="reviewer", reason="what if it were fraud?"):
        forked = stage.graph.update_state(waiting.config, {"risk": "fraud suspected"}, as_node="risk")
    pid = stage.run(*COLOUR, "--steps", "continue", "answer=no", ledger=stage.what_if)
    stage.say(
        "update_state changed the risk at the checkpoint that waited for approval, which begins a branch; "
        f"process {pid} went on there and was told no. It keeps books of its own."
    )
    stage.show_log()
    original, fork = stage.state(final.config), stage.state()
    stage.show_states({"original branch": original, "fork": fork})
    stage.console.print()
    after = stage.history()
    stage.check("the fork begins at the checkpoint that waited", _parent(stage.state(forked)) == _id(waiting))
    stage.check(
        "the fork was declined and paid nothing", not fork.values["approved"] and "paid" not in _actions(stage.what_if)
    )
    stage.check(
        f"all {len(before)} states of the original branch read as before",
        {one: after.get(one) for one in before} == before,
    )
    stage.check("the original branch ends as it did, approved and paid", original == final and final.values["approved"])
    stage.check("the fork appended and changed no entry", stage.log.read()[: len(entries)] == entries)


def act_five(stage: Stage) -> None:
    """Nothing but the log is needed."""
    stage.title("5  The log is the truth")
    before = stage.history(), stage.state()
    deleted = stage.log.delete_views(stage.entries)
    stage.say(f"The {deleted} keys derived from this thread's log (heads, index, order) were deleted.")
    stage.check("every state reads the same again, rebuilt from the log", (stage.history(), stage.state()) == before)
    sequence = [entry.recorded.sequence for entry in stage.log.read()]
    stage.check(
        f"its {len(sequence)} entries are numbered without a gap", sequence == list(range(1, len(sequence) + 1))
    )


def _counts(stage: Stage, *actions: str) -> tuple[int, ...]:
    entered = _actions(stage.ledger)
    return tuple(entered.count(action) for action in actions)


def _actions(ledger: Ledger) -> list[str]:
    return [line["action"] for line in ledger.lines()]


def _id(snapshot: Any) -> Any:
    return snapshot.config["configurable"]["checkpoint_id"]


def _parent(snapshot: Any) -> Any:
    return snapshot.parent_config["configurable"]["checkpoint_id"]


def main() -> int:
    """Tell the story; 0 if all that it claims held."""
    options = _options()
    console = _console()
    began = time.monotonic()
    try:
        with contextlib.ExitStack() as stack:
            url = options.url or stack.enter_context(EmbeddedServer(options.keep)).url
            saver = stack.enter_context(RedisStreamSaver.from_conn_string(url))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-")))
            stage = Stage(console, saver, url, f"refund-desk-{uuid.uuid4().hex[:8]}", folder)
            stack.callback(stage.log.close)
            _introduce(stage, options)
            failures = _tell(stage)
            _conclude(stage, options, time.monotonic() - began)
    except (DemoFailure, EventLogError) as error:
        print(f"scripts/demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="A refund desk's agent on the log: it calls tools, fans out, is killed with SIGKILL in the middle of "
        "that, resumed by another process, approved by a person, and forked. Shows every event in the log and checks what "
        "it claims. Without options it runs on a server of its own and leaves nothing behind.",
        epilog="Exit code: 0 if every claim held, else 1. Colours go to terminals only; NO_COLOR=1 turns them off.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--keep", metavar="PATH", help="keep the thread: the server's data goes into this directory")
    where.add_argument(
        "--url",
        help="use this server, and leave the thread there: redis://, rediss://, unix://, "
        "redis+cluster://host:port or redis+sentinel://host:port/service",
    )
    return parser.parse_args()


def _console() -> Console:
    """Colours on a terminal, unless NO_COLOR is set; 120 columns where there is none to measure."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    if os.environ.get("NO_COLOR"):
        return Console(width=width, color_system=None, highlight=False)
    return Console(width=width, highlight=False)


def _introduce(stage: Stage, options: argparse.Namespace) -> None:
    where = "the server you named" if options.url else "an embedded server that this process owns"
    stage.say(
        f"Thread {stage.thread} on {where}. The agent runs in processes of its own, connected by URL: killing one leaves the "
        "server alone, as in production."
    )
    stage.say(
        "In the log, 'on' is the entry of a checkpoint's parent, or of the checkpoint that writes belong to; '>risk' is the "
        "channel that makes the node risk run next."
    )


def _tell(stage: Stage) -> int:
    """Every act in turn; how many claims failed."""
    killed = act_one(stage)
    waiting = act_two(stage, killed)
    final = act_three(stage)
    act_four(stage, waiting, final)
    act_five(stage)
    return stage.failures


def _conclude(stage: Stage, options: argparse.Namespace, seconds: float) -> None:
    size = sum(entry.size for entry in stage.entries)
    stage.console.print()
    stage.say(f"{len(stage.entries)} events, {size:,} bytes, 4 processes of the agent, {seconds:.1f} s.")
    if options.keep:
        stage.say(f"Thread {stage.thread} is kept: RedisStreamSaver.embedded({options.keep!r})")
    elif options.url:
        stage.say(
            f"Thread {stage.thread} is on your server: RedisStreamSaver.from_conn_string(url), or, with REDIS_URL set, "
            f".venv/bin/agentlog log {stage.thread}"
        )
    if stage.failures:
        stage.console.print(Text(f"Claims that FAILED: {stage.failures}.", style="bold red"))
    else:
        stage.console.print(Text("Every claim held.", style="bold green"))


if __name__ == "__main__":
    sys.exit(main())

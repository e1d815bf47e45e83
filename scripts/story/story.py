"""The demo: an agent is killed in the middle of a step, resumed and forked.

This process owns the server and never runs the agent, which runs in processes of its own (`agent.py`). It shows the log
and the shop's books, and checks every claim on them.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from eventlog import audit
from eventlog.errors import EventLogError
from saver import EmbeddedServer, RedisStreamSaver
from scripts.story.agent import APPROVAL_LIMIT, euros, find
from scripts.story.log import delete_views, finished_tasks
from scripts.story.stage import CLAIMED, PATIENCE, DemoFailure, Stage
from scripts.terminal import conclusion, console

QUESTION = "Which of my orders can be refunded?"
CLAIM = f"They arrived damaged. Please refund {', '.join(CLAIMED)}."
CARRIER_DOWN = ("A-1043", "A-1045")
# LangGraph's interrupt does not work under ainvoke on Python 3.10, whose tasks take no context.
ASYNC, INVOKE = (["--async"], "ainvoke") if sys.version_info >= (3, 11) else ([], "invoke")
DUE = sum(find(order_id).refund for order_id in CLAIMED)


def act_one(stage: Stage) -> Any:
    """Take two turns, kill the process within its fan-out, and return the state."""
    stage.title("1  Tools, a fan-out, kill -9")
    down = ["--carrier-down", *CARRIER_DOWN]
    with stage.worker(*down, "--steps", f"say={QUESTION}", f"say={CLAIM}") as process:
        _await_half_of_the_fan_out(stage, process)
        alive = stage.state()
        process.send_signal(signal.SIGKILL)
    stage.read_log()
    killed = stage.state()
    stage.say(
        f"Process {process.pid} ran invoke. In its second turn the carrier hung on {' and '.join(CARRIER_DOWN)}. When the "
        "process was killed, the other two branches had finished, and their writes were in the log."
    )
    stage.show_conversation()
    stage.show_log()
    stage.show_states({"before the kill": alive, "after the kill": killed})
    stage.show_ledger()
    stage.console.print()
    stage.check(f"process {process.pid} was killed by SIGKILL", process.returncode == -signal.SIGKILL)
    stage.check("the state reads the same before and after the kill", alive == killed)
    stage.check("two of the four branches had saved their writes", len(finished_tasks(stage.events, "checks")) == 2)
    counts = len(stage.ledger.orders("asked carrier")), len(stage.ledger.orders("set aside"))
    stage.check("all four had begun; two had set money aside", counts == (4, 2))
    return killed


def _await_half_of_the_fan_out(stage: Stage, process: subprocess.Popen[str]) -> None:
    """Wait until two branches are in the log, and all four in the books."""
    deadline = time.monotonic() + PATIENCE
    while len(finished_tasks(stage.events, "checks")) < 2 or len(stage.ledger.orders("asked carrier")) < 4:
        if process.poll() is not None or time.monotonic() > deadline:
            raise DemoFailure("The agent did not reach the fan-out.")
        time.sleep(0.02)
        stage.read_log()


def act_two(stage: Stage, killed: Any) -> Any:
    """Resume in another process, and return the state in which a person has to answer."""
    stage.title("2  Another process resumes")
    before, asked = stage.digests(), stage.ledger.orders("asked carrier")
    pid = stage.run(*ASYNC, "--steps", "continue")
    waiting = stage.state()
    stage.say(f"Process {pid} ran {INVOKE}(None) on the same thread; the carrier answers again.")
    stage.show_log()
    stage.show_states({"when killed": killed, "after resuming": waiting})
    stage.show_ledger()
    stage.console.print()
    again = set(stage.ledger.orders("asked carrier")[len(asked) :])
    stage.check("only the unfinished branches ran again, not the finished ones", again == set(CARRIER_DOWN))
    stage.check("money was set aside once for every order", sorted(stage.ledger.orders("set aside")) == list(CLAIMED))
    only_grew = stage.digests()[: len(before)] == before
    stage.check("the killed process left nothing half written: the log only grew", only_grew)
    total = sum(check["cents"] for check in waiting.values["checks"])
    stage.check(f"the four results add up to {euros(DUE)}", total == DUE)
    subgraph = any((event.namespace or "").startswith("risk:") for event in stage.events)
    stage.check("the subgraph's steps are in the same log, in its namespace", subgraph)
    stopped = waiting.next == ("approve",) and len(waiting.interrupts) == 1 and not stage.ledger.lines("paid")
    stage.check(f"above {euros(APPROVAL_LIMIT)} nothing is paid before a person answers", stopped)
    return waiting


def act_three(stage: Stage) -> Any:
    """Let a person approve and the customer ask once more, and return the last state."""
    stage.title("3  A person approves")
    pid = stage.run("--steps", "answer=yes", "say=How much was paid back to me?")
    stage.say(f"Process {pid} ran invoke(Command(resume='yes')), then another turn.")
    stage.show_conversation()
    stage.show_log()
    final = stage.state()
    stage.console.print()
    total = sum(line["cents"] for line in stage.ledger.lines("paid"))
    once = sorted(stage.ledger.orders("paid")) == list(CLAIMED) and total == DUE
    stage.check(f"every order was paid once, {euros(DUE)} in all", once)
    stage.check("the agent's last answer names that amount", euros(DUE) in final.values["messages"][-1].content)
    return final


def act_four(stage: Stage, waiting: Any, final: Any) -> None:
    """Fork the checkpoint that waited for a person, as if the review had found fraud."""
    stage.title("4  Time travel: a fork")
    before, log = stage.history(), stage.digests()
    with audit(actor="reviewer", reason="what if it were fraud?"):
        forked = stage.graph.update_state(waiting.config, {"risk": "fraud suspected"}, as_node="risk")
    pid = stage.run(*ASYNC, "--steps", "continue", "answer=no", ledger=stage.what_if)
    stage.say(
        "update_state changed the risk at the checkpoint that waited for approval, which begins a branch. "
        f"Process {pid} continued that branch, with separate books, and got the answer no."
    )
    stage.show_log()
    original, fork = stage.state(final.config), stage.state()
    stage.show_states({"original branch": original, "fork": fork})
    stage.console.print()
    parent = stage.state(forked).parent_config["configurable"]["checkpoint_id"]
    stage.check(
        "the fork begins at the checkpoint that waited", parent == waiting.config["configurable"]["checkpoint_id"]
    )
    declined = not fork.values["approved"] and not stage.what_if.lines("paid")
    stage.check("the fork was declined and paid nothing", declined)
    after = stage.history()
    same = {one: after.get(one) for one in before} == before
    stage.check(f"all {len(before)} states of the original branch read as before", same)
    stage.check("the original branch ends as it did, approved and paid", original == final and final.values["approved"])
    stage.check("the fork appended and changed no entry", stage.digests()[: len(log)] == log)


def act_five(stage: Stage) -> None:
    """Delete all views, and read every state from the log alone."""
    stage.title("5  The log is the truth")
    before = stage.history(), stage.state()
    namespaces = {event.namespace for event in stage.events if event.namespace is not None}
    deleted = delete_views(stage.url, stage.thread, namespaces)
    stage.say(f"The {deleted} keys derived from this thread's log (heads, index, order) were deleted.")
    stage.check("every state reads the same again, rebuilt from the log", (stage.history(), stage.state()) == before)
    stage.read_log()
    numbers = [event.sequence for event in stage.events]
    stage.check(f"its {len(numbers)} events are numbered without a gap", numbers == [*range(1, len(numbers) + 1)])


def main() -> int:
    """Run the demo, and return 0 if every claim held."""
    options = _options()
    began = time.monotonic()
    try:
        with contextlib.ExitStack() as stack:
            url = options.url or stack.enter_context(EmbeddedServer(options.keep)).url
            saver = stack.enter_context(RedisStreamSaver.from_conn_string(url))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-")))
            stage = Stage(console(), saver, url, f"refund-desk-{uuid.uuid4().hex[:8]}", folder)
            _introduce(stage, options)
            _tell(stage)
            _conclude(stage, options, time.monotonic() - began)
    except (DemoFailure, EventLogError) as error:
        print(f"scripts/demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 1 if stage.failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="A refund desk's agent calls tools and fans out. It is killed with SIGKILL in the middle of the fan-out, "
        "resumed by another process, approved by a person, and forked. The demo shows every event in the log and checks its "
        "claims. Without options it runs on a server of its own and leaves nothing on disk.",
        epilog="Exit code: 0 if every claim held, else 1. Only terminals get colors; NO_COLOR=1 turns them off.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--keep", metavar="PATH", help="keep the thread: store the server's data in this directory")
    where.add_argument(
        "--url",
        help="use this server, and leave the thread there: redis://, rediss://, unix://, "
        "redis+cluster://host:port or redis+sentinel://host:port/service",
    )
    return parser.parse_args()


def _introduce(stage: Stage, options: argparse.Namespace) -> None:
    where = "the server you named" if options.url else "an embedded server that this process owns"
    stage.say(
        f"Thread {stage.thread} on {where}. The agent runs in separate processes that connect by URL, as in production. "
        "Killing one does not affect the server."
    )
    stage.say(
        "In the log, 'on' is the event of a checkpoint's parent, or of the checkpoint that writes belong to. '>risk' is the "
        "channel that makes the node risk run next."
    )


def _tell(stage: Stage) -> None:
    killed = act_one(stage)
    waiting = act_two(stage, killed)
    final = act_three(stage)
    act_four(stage, waiting, final)
    act_five(stage)


def _conclude(stage: Stage, options: argparse.Namespace, seconds: float) -> None:
    stage.console.print()
    stage.say(f"{len(stage.events)} events, 4 processes of the agent, {seconds:.1f} s.")
    if options.keep:
        _say_how_to_open(stage, options.keep)
    elif options.url:
        stage.say(
            f"Thread {stage.thread} is on your server: RedisStreamSaver.from_conn_string(url), or, with REDIS_URL set, "
            f".venv/bin/agentlog log {stage.thread}"
        )
    stage.console.print(conclusion(stage.failures))


def _say_how_to_open(stage: Stage, path: str) -> None:
    """Print the lines that start a server on the kept thread, unfolded so that they can be copied."""
    stage.say(f"Thread {stage.thread} is kept. To look at it, start its server in .venv/bin/python:")
    stage.console.print("    from langgraph.checkpoint.redis_streams import EmbeddedServer", soft_wrap=True)
    stage.console.print(f"    server = EmbeddedServer({path!r}); print(server.url)", soft_wrap=True, markup=False)
    stage.say("While that Python runs, use the URL that it prints:")
    stage.console.print(f"    .venv/bin/agentlog log {stage.thread} --url URL", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

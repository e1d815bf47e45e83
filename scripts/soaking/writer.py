"""A process that writes to its own threads, as agents do.

Usage: `-m scripts.soaking.writer URL PLAN NUMBER`. Events of a thread are in turn a checkpoint and a write to it. If
the server is away, the same call is repeated. At the end the process prints a report as JSON.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from eventlog.errors import ServerLoading, ServerUnavailable
from saver import RedisStreamSaver
from scripts.soaking.child import end_with_parent
from scripts.soaking.plan import Plan

__all__ = ["Written"]

PATIENCE = 60.0
"""Seconds for which a call is repeated."""


@dataclass
class Written:
    """The report: events, repeated calls, and the times of the machine's clock."""

    events: int = 0
    retries: int = 0
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0


class Agent:
    """One thread: a small state, step by step."""

    def __init__(self, saver: RedisStreamSaver, thread: str, events: int) -> None:
        self._saver = saver
        self._thread = thread
        self._events = events
        self._made = 0

    @property
    def done(self) -> bool:
        """Whether all events are made."""
        return self._made == self._events

    def next_event(self) -> Callable[[], object]:
        """Return a call that makes the next event, and may be repeated."""
        step, writes = divmod(self._made, 2)
        self._made += 1
        if writes:
            task = f"task-{step}"
            path = "~__pregel_pull, agent"
            return partial(self._saver.put_writes, self._config(step), [("turn", step + 1)], task, path)
        return partial(self._saver.put, *self._put(step))

    def _put(self, step: int) -> tuple[Any, Any, Any, Any]:
        versions = {"turn": f"{step + 1:08}", "status": f"{step // 3 + 1:08}"}
        checkpoint = {
            "v": 4,
            "id": _checkpoint_id(step),
            "ts": "2026-01-01T00:00:00+00:00",
            "channel_values": {"turn": step, "status": f"{self._thread} works on item {step // 3}"},
            "channel_versions": versions,
            "versions_seen": {},
            "updated_channels": None,
        }
        changed = {name: version for name, version in versions.items() if name == "turn" or step % 3 == 0}
        metadata: dict[str, Any] = {"source": "loop" if step else "input", "step": step - 1, "parents": {}}
        return self._config(step - 1 if step else None), checkpoint, metadata, changed

    def _config(self, step: int | None) -> Any:
        named = {} if step is None else {"checkpoint_id": _checkpoint_id(step)}
        return {"configurable": {"thread_id": self._thread, "checkpoint_ns": "", **named}}


def _checkpoint_id(step: int) -> str:
    return f"1f0{step:05x}-0000-6000-8000-000000000000"


def write(url: str, plan: Plan, number: int) -> Written:
    """Write all events of one writer, its threads in random order."""
    dice = random.Random(f"{plan.seed} {number}")
    mine = plan.of_writer(number)
    pause = plan.seconds / max(1, sum(mine.values()))
    with RedisStreamSaver.from_conn_string(url, prefix=plan.prefix) as saver:
        agents = [Agent(saver, thread, events) for thread, events in mine.items() if events]
        written = Written()
        while agents:
            ahead = written.began + written.events * pause - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            agent = dice.choice(agents)
            _repeat(agent.next_event(), written)
            written.events += 1
            if agent.done:
                agents.remove(agent)
    written.ended = time.monotonic()
    return written


def _repeat(call: Callable[[], object], written: Written) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            call()
        except (ServerUnavailable, ServerLoading):
            if time.monotonic() > deadline:
                raise
        else:
            return
        written.retries += 1
        time.sleep(0.1)


if __name__ == "__main__":
    end_with_parent()
    print(json.dumps(asdict(write(sys.argv[1], Plan.load(sys.argv[2]), int(sys.argv[3])))))

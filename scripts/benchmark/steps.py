"""The cost of a step for each kind of state: client, server, and bytes.

A step is one put, and two `put_writes` on the checkpoint before. A round measures every saver once, in random order, each on an
empty database. Figures are medians over the rounds, and ratios are medians of the ratios within a round.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from scripts.benchmark.book import Book, Sample, p99
from scripts.benchmark.clock import now, quiet, tidy
from scripts.benchmark.conversations import PATIENCE, Conversation, Tally
from scripts.benchmark.earlier import earlier
from scripts.benchmark.meter import Meter
from scripts.benchmark.plan import WrongAnswer, warm
from scripts.benchmark.savers import FLOOR, KINDS, MEMORY, PLAINREDIS, SQLITE, THIS, VALKEY, Kind
from scripts.benchmark.servers import Servers
from scripts.benchmark.steps_floor import AsyncStepFloor, StepFloor
from scripts.benchmark.steps_report import OPERATIONS, STORAGE, TAIL, figures, markdown
from scripts.benchmark.steps_states import STATES, TURNS, traffic, turns
from scripts.benchmark.storage import appended_bytes, file_bytes, with_append_only_file
from scripts.benchmark.traffic import Replay, Traffic

__all__ = ["StepsPlan", "measure_steps"]


@dataclass(frozen=True)
class StepsPlan:
    """Sizes and repetitions."""

    seed: int = 7
    rounds: int = 7
    steps: int = 100
    """Steps of a state that does not grow."""
    chat_steps: int = 200
    reads: int = 50
    conversations: int = 64
    conversation_turns: int = 8
    turns: int = 30

    def quick(self) -> StepsPlan:
        """Return the plan with fewer repetitions."""
        return replace(self, rounds=2, steps=30, chat_steps=60, reads=10, conversation_turns=3, turns=8)


def measure_steps(plan: StepsPlan, servers: Servers, out: Path | None, before: Path | None = None) -> None:
    """Run all rounds, print the tables, and write `steps.md` and `steps.json`.

    `before` is a checkout of an earlier commit of this saver, which is measured as well. Raises `BenchError`.
    """
    began, load = time.monotonic(), os.getloadavg()[0]
    kinds = _kinds(before)
    run = _Run(plan, servers, kinds)
    with quiet():
        run.storage()
        for round in range(plan.rounds):
            print(f"round {round + 1} of {plan.rounds} ...", file=sys.stderr)
            run.round(round)
    about = servers.environment(time.monotonic() - began)
    report = markdown(
        run.book,
        list(kinds.values()),
        f"{about['server']} on loopback, Python {about['python']}, {about['machine']}; {about['finished']}, "
        f"{about['seconds']:.0f} s, {plan.rounds} rounds. Load average {load:.1f} to {os.getloadavg()[0]:.1f}.",
    )
    data = {
        "environment": about,
        "plan": asdict(plan),
        "figures": {
            name: {kind: run.book.median(name, kind) for kind in run.book.savers([name])} for name in figures()
        },
        "failures": {f"{saver}: {name}": reason for (name, saver), reason in run.book.failures.items()},
    }
    folder = out or Path(tempfile.mkdtemp(prefix="checkpointer-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "steps.md").write_text(report)
    (folder / "steps.json").write_text(json.dumps(data, indent=1) + "\n")
    print(f"{report}\n{folder / 'steps.md'}\n{folder / 'steps.json'}")


def _kinds(before: Path | None) -> dict[str, Kind]:
    known = {kind.name: kind for kind in KINDS}
    floor = replace(
        known[FLOOR],
        open=lambda servers: contextlib.closing(StepFloor(servers.url)),
        aopen=lambda servers: contextlib.aclosing(AsyncStepFloor(servers.url)),
    )
    kinds = [floor, *(known[name] for name in (VALKEY, PLAINREDIS, SQLITE, MEMORY, THIS))]
    return {kind.name: kind for kind in [*kinds, *([earlier(before)] if before else [])]}


class _Run:
    """The rounds of all savers."""

    def __init__(self, plan: StepsPlan, servers: Servers, kinds: dict[str, Kind]) -> None:
        self.book = Book()
        self._plan = plan
        self._servers = servers
        self._kinds = kinds
        self._traffics = {
            state: traffic(state, plan.seed, plan.chat_steps if state == "chat" else plan.steps) for state in STATES
        }
        self._meter = Meter(servers)
        self._dice = random.Random(plan.seed)

    def round(self, round: int) -> None:
        """Measure everything once."""
        for state in STATES:
            self._each(state, [MEMORY], partial(self._steps, round, state))
        self._each("conversations", [MEMORY], partial(self._conversations, round))
        for name in TURNS:
            self._each(f"turn.{name}", [FLOOR], partial(self._turns, round, name))

    def storage(self) -> None:
        """Measure the bytes of each step once, on a server with an append-only file."""
        with with_append_only_file() as url:
            servers = replace(self._servers, url=url)
            for state in STATES:
                self._each(state, [MEMORY], partial(self._storage, servers, state))

    def _each(self, what: str, without: Sequence[str], measure: Callable[[Kind], None]) -> None:
        """Measure savers in random order, each on an empty database."""
        kinds = [kind for name, kind in self._kinds.items() if name not in without]
        for kind in self._dice.sample(kinds, len(kinds)):
            self._servers.clear()
            tidy()
            try:
                measure(kind)
            except Exception as error:
                self.book.fail(f"{what}.*", kind.name, f"{type(error).__name__}: {error}".splitlines()[0][:120])

    def _steps(self, round: int, state: str, kind: Kind) -> None:
        steps, plan = self._traffics[state], self._plan
        with kind.open(self._servers) as saver:
            warm(saver, steps)
            replay = Replay(saver, steps, "agent")
            calls = [(replay.writes(n), replay.put(n)) for n in range(len(steps))]
            saver.put(*calls[0][1])
            self._enter(f"step.{state}", kind, round, lambda: _store(saver, calls[1:]), len(calls) - 1)
            _expect_last(saver.get_tuple(replay.config()), steps)
            tidy()
            reads = [partial(saver.get_tuple, replay.config())] * plan.reads
            self._enter(f"latest.{state}", kind, round, lambda: [read() for read in reads], plan.reads)

    def _storage(self, servers: Servers, state: str, kind: Kind) -> None:
        steps = self._traffics[state]
        servers.clear()
        with kind.open(servers) as saver:
            warm(saver, steps)
            stored, appended = _stored(servers, kind), appended_bytes(servers)
            replay = Replay(saver, steps, "agent")
            for n in range(len(steps)):
                replay.store(n)
            values = _stored(servers, kind) - stored, appended_bytes(servers) - appended
            for name, value in zip(STORAGE, values, strict=True):
                if kind.on_redis or name == "stored":
                    self.book.add(f"step.{state}.{name}", kind.name, Sample(0, 0, value / (len(steps) - 1)))

    def _conversations(self, round: int, kind: Kind) -> None:
        tally = asyncio.run(asyncio.wait_for(self._talk(kind), PATIENCE))
        took = [ms for _, _, ms in tally.took]
        self.book.add(OPERATIONS, kind.name, Sample(round, 0, len(took) / tally.seconds))
        self.book.add(TAIL, kind.name, Sample(round, 0, p99(took)))

    async def _talk(self, kind: Kind) -> Tally:
        plan = self._plan
        small = self._traffics["small"].first(plan.conversation_turns + 1)
        async with kind.aopen(self._servers) as saver:
            replays = [Replay(saver, small, f"agent-{n:04}") for n in range(plan.conversations)]
            talks = [Conversation(saver, replay, is_floor=False) for replay in replays]
            tally = Tally()
            await asyncio.gather(*(saver.aput(*replay.put(0)) for replay in replays))
            began = now()
            await asyncio.gather(*(one.turns(tally) for one in talks))
            tally.seconds = (now() - began) / 1e9
            for reason in tally.errors:
                raise WrongAnswer(reason)
            for replay in replays:
                _expect_last(await saver.aget_tuple(replay.config()), small)
            return tally

    def _turns(self, round: int, name: str, kind: Kind) -> None:
        count = self._plan.turns
        with kind.open(self._servers) as saver:
            take = turns(name, saver, self._plan.seed)
            take()
            self._enter(f"turn.{name}", kind, round, lambda: [take() for _ in range(count)], count)

    def _enter(self, name: str, kind: Kind, round: int, calls: Callable[[], object], count: int) -> None:
        cost = self._meter.measure(calls, count)
        for what, value in cost._asdict().items():
            if kind.on_redis or what in {"wall", "client"}:
                self.book.add(f"{name}.{what}", kind.name, Sample(round, 0, value))


def _expect_last(found: Any, steps: Traffic) -> None:
    """Raise `WrongAnswer` if a saver did not return the last checkpoint whole."""
    wanted = steps.steps[-1].checkpoint
    if found.checkpoint["id"] != wanted["id"] or found.checkpoint["channel_values"] != wanted["channel_values"]:
        raise WrongAnswer("the latest is not the last that was put")


def _stored(servers: Servers, kind: Kind) -> int:
    """Return the bytes of a saver's keys or file."""
    if not kind.on_redis:
        return file_bytes(servers)
    return sum(servers.redis.memory_usage(key, samples=0) or 0 for key in servers.redis.scan_iter(count=1000))


def _store(saver: Any, calls: Sequence[tuple[Any, Any]]) -> None:
    for writes, put in calls:
        for arguments in writes:
            saver.put_writes(*arguments)
        saver.put(*put)

"""Concurrent asyncio conversations.

Each is a thread that reads its latest state, writes, and puts, turn after turn.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from scripts.benchmark.book import Book, Sample, figure
from scripts.benchmark.clock import now, quiet, tidy
from scripts.benchmark.plan import Run, rotated
from scripts.benchmark.savers import FLOOR, THIS, WHOLE, Kind
from scripts.benchmark.traffic import Replay, Traffic, chat

__all__ = ["conversations_few", "conversations_many"]

for _name in ("few", "many"):
    figure(f"{_name}.throughput", "operations per second", "ops/s")
    figure(f"{_name}.operation", "one operation of any kind")
    figure(f"{_name}.latest", "aget_tuple, latest")
    figure(f"{_name}.put_writes", "aput_writes, 2 writes")
    figure(f"{_name}.put", "aput")
    figure(f"{_name}.errors", "operations that raised", "count")
    figure(f"{_name}.lost", "checkpoints and writes that were missing afterwards", "count")

PATIENCE = 120
"""Seconds after which a round of a saver fails."""


@dataclass
class _Tally:
    """The measurements of one round of one saver."""

    took: list[tuple[str, int, float]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    async def timed(self, operation: str, turn: int, call: Callable[[], Awaitable[Any]]) -> Any:
        """Await an operation and add its time."""
        began = now()
        try:
            result = await call()
        except Exception as error:
            self.errors[f"{type(error).__name__}: {error}".splitlines()[0][:100]] += 1
            return None
        self.took.append((operation, turn, (now() - began) / 1e6))
        return result


def conversations_few(run: Run) -> None:
    """Run as many conversations as a busy process has."""
    _conversations(run, "few", run.plan.conversations[0], run.plan.conversation_turns, share=0.15)


def conversations_many(run: Run) -> None:
    """Run more conversations than a connection pool should serve."""
    _conversations(run, "many", run.plan.conversations[1], max(2, run.plan.conversation_turns // 3), share=0.15)


def _conversations(run: Run, workload: str, count: int, turns: int, share: float) -> None:
    # The first turn opens connections and is not timed.
    traffic = chat(run.plan.seed, turns + 1)
    run.stage(f"{count} conversations, {turns} turns each", run.plan.conversation_rounds, share)
    for round in run.rounds(run.plan.conversation_rounds):
        for kind in rotated(_kinds(run, workload, round), round):
            if run.failed(f"{workload}.*", kind.name):
                continue
            run.servers.clear()
            with quiet(), run.reported(f"{workload}.*", kind.name):
                tally, lost = asyncio.run(asyncio.wait_for(_round(run, kind, workload, count, traffic), PATIENCE))
                _enter(run.book, (workload, kind.name), round, tally, lost)
            tidy()
        run.tick()
    run.done()


def _kinds(run: Run, workload: str, round: int) -> list[Kind]:
    """Return this saver and the floor in every round, the others in the first."""
    peers = round == 0 and (workload == "few" or run.plan.many_peers)
    return [kind for name, kind in run.kinds.items() if name in {THIS, FLOOR} or (peers and name != WHOLE)]


async def _round(run: Run, kind: Kind, workload: str, count: int, traffic: Traffic) -> tuple[_Tally, int]:
    """Run one round, and return its measurements and the number of lost items."""
    async with kind.aopen(run.servers) as saver:
        if kind.name == FLOOR:
            for n, step in enumerate(traffic.steps):
                await saver.prepare(_hash(n), step.checkpoint)
        warming, tally = _Tally(), _Tally()
        replays = [Replay(saver, traffic, f"{workload}-{n:04}") for n in range(count)]
        talks = [_Conversation(saver, replay, is_floor=kind.name == FLOOR) for replay in replays]
        await asyncio.gather(*(one.turn(0, warming) for one in talks))
        began = now()
        await asyncio.gather(*(one.turns(tally) for one in talks))
        tally.seconds = (now() - began) / 1e9
        tally.errors += warming.errors
        return tally, 0 if kind.name == FLOOR else await _lost(saver, replays)


class _Conversation:
    """One thread, whose arguments of calls are made before the clock runs."""

    def __init__(self, saver: Any, replay: Replay, *, is_floor: bool) -> None:
        self._saver = saver
        self._steps = [(replay.writes(n), replay.put(n)) for n in range(len(replay.traffic))]
        # Conversations of the floor share hashes, which are as large as the states that others read.
        self._configs: list[Any] = [
            _hash(max(0, n - 1)) if is_floor else replay.config() for n in range(len(replay.traffic))
        ]

    async def turns(self, tally: _Tally) -> None:
        """Take all turns after the first."""
        for number in range(1, len(self._steps)):
            await self.turn(number, tally)

    async def turn(self, number: int, tally: _Tally) -> None:
        """Read the latest state, put the writes of a task, and put the next checkpoint."""
        writes, put = self._steps[number]
        await tally.timed("latest", number, partial(self._saver.aget_tuple, self._configs[number]))
        for arguments in writes:
            await tally.timed("put_writes", number, partial(self._saver.aput_writes, *arguments))
        await tally.timed("put", number, partial(self._saver.aput, *put))


def _hash(turn: int) -> str:
    return f"floor:prepared:{turn}"


async def _lost(saver: Any, replays: list[Replay]) -> int:
    """Return how many checkpoints and writes are missing."""
    lost = 0
    for replay in replays:
        steps = replay.traffic.steps
        latest = await saver.aget_tuple(replay.config())
        lost += latest is None or latest.checkpoint["id"] != steps[-1].id
        found = {one.checkpoint["id"]: one async for one in saver.alist(replay.config())}
        lost += sum(step.id not in found for step in steps)
        for step in steps:
            for call in step.before:
                there = found[call.checkpoint_id].pending_writes if call.checkpoint_id in found else ()
                lost += max(0, len(call.writes) - len(there or ()))
    return lost


def _enter(book: Book, key: tuple[str, str], round: int, tally: _Tally, lost: int) -> None:
    workload, saver = key
    errors = sum(tally.errors.values())
    book.add(f"{workload}.errors", saver, Sample(round, 0, errors))
    book.add(f"{workload}.lost", saver, Sample(round, 0, lost))
    for reason, number in tally.errors.most_common(1):
        text = f"{number} of {len(tally.took) + errors} operations: {reason}"
        for name in ("throughput", "operation", "latest", "put_writes", "put"):
            book.fail(f"{workload}.{name}", saver, text)
        return
    book.add(f"{workload}.throughput", saver, Sample(round, 0, len(tally.took) / tally.seconds))
    for operation, turn, took in tally.took:
        book.add(f"{workload}.{operation}", saver, Sample(round, turn, took))
        book.add(f"{workload}.operation", saver, Sample(round, turn, took))

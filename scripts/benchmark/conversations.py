"""Concurrent asyncio conversations: each a thread that reads its latest state, writes, and puts, turn after turn."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from scripts.benchmark.book import Book, Sample, figure
from scripts.benchmark.clock import now, quiet, tidy
from scripts.benchmark.plan import Run, rotated
from scripts.benchmark.savers import FLOOR, THIS, WHOLE, Kind
from scripts.benchmark.traffic import Replay, Traffic, chat

__all__ = ["conversations_few", "conversations_many"]

T = TypeVar("T")

for _name in ("few", "many"):
    figure(f"{_name}.throughput", "operations a second", "ops/s")
    figure(f"{_name}.operation", "one operation of any kind")
    figure(f"{_name}.latest", "aget_tuple, latest")
    figure(f"{_name}.put_writes", "aput_writes, 2 writes")
    figure(f"{_name}.put", "aput")
    figure(f"{_name}.errors", "operations that raised", "count")
    figure(f"{_name}.lost", "checkpoints and writes that were not there afterwards", "count")

PATIENCE = 120
"""Seconds after which one saver's round has failed."""


@dataclass
class _Tally:
    """What a round of one saver came to."""

    took: list[tuple[str, int, float]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    async def timed(self, operation: str, turn: int, call: Callable[[], Awaitable[Any]]) -> Any:
        """Await an operation and enter it."""
        began = now()
        try:
            result = await call()
        except Exception as error:
            self.errors[f"{type(error).__name__}: {error}".splitlines()[0][:100]] += 1
            return None
        self.took.append((operation, turn, (now() - began) / 1e6))
        return result


def conversations_few(run: Run) -> None:
    """As many conversations as a busy process has."""
    _conversations(run, "few", run.plan.conversations[0], run.plan.conversation_turns, share=0.15)


def conversations_many(run: Run) -> None:
    """More than any connection pool should be asked to serve."""
    _conversations(run, "many", run.plan.conversations[1], max(2, run.plan.conversation_turns // 3), share=0.15)


def _conversations(run: Run, workload: str, count: int, turns: int, share: float) -> None:
    # The first turn opens connections and is not timed.
    traffic = chat(run.plan.seed, turns + 1)
    run.stage(f"{count} conversations, {turns} turns each", run.plan.conversation_rounds, share)
    for round in run.rounds(run.plan.conversation_rounds):
        for kind in rotated(_kinds(run, workload, round), round):
            if run.out(f"{workload}.*", kind.name):
                continue
            run.servers.clear()
            with quiet(), run.reported(f"{workload}.*", kind.name):
                tally, lost = asyncio.run(_limited(_round(run, kind, workload, count, traffic)))
                _enter(run.book, (workload, kind.name), round, tally, lost)
            tidy()
        run.tick()
    run.done()


def _kinds(run: Run, workload: str, round: int) -> list[Kind]:
    """This saver and the floor in every round, the others in the first."""
    peers = round == 0 and (workload == "few" or run.plan.many_peers)
    return [kind for name, kind in run.kinds.items() if name in {THIS, FLOOR} or (peers and name != WHOLE)]


async def _limited(what: Coroutine[Any, Any, T]) -> T:
    return await asyncio.wait_for(what, PATIENCE)


async def _round(run: Run, kind: Kind, workload: str, count: int, traffic: Traffic) -> tuple[_Tally, int]:
    """What a round came to, and how much of it was missing afterwards."""
    async with kind.aopen(run.servers) as saver:
        if kind.name == FLOOR:
            for n, step in enumerate(traffic.steps):
                await saver.prepare(_hash(n), step.checkpoint)
        warming, tally = _Tally(), _Tally()
        replays = [Replay(saver, traffic, f"{workload}-{n:04}") for n in range(count)]
        held = [_Conversation(saver, replay, is_floor=kind.name == FLOOR) for replay in replays]
        await asyncio.gather(*(one.turn(0, warming) for one in held))
        began = now()
        await asyncio.gather(*(one.turns(tally) for one in held))
        tally.seconds = (now() - began) / 1e9
        tally.errors += warming.errors
        return tally, 0 if kind.name == FLOOR else await _lost(saver, replays)


class _Conversation:
    """One thread, with the arguments of its calls made before the clock runs."""

    def __init__(self, saver: Any, replay: Replay, *, is_floor: bool) -> None:
        self._saver = saver
        self._steps = [(replay.writes(n), replay.put(n)) for n in range(len(replay.traffic))]
        # The floor's conversations share their hashes: what they read is as large as what the others read.
        self._where: list[Any] = [
            _hash(max(0, n - 1)) if is_floor else replay.config() for n in range(len(replay.traffic))
        ]

    async def turns(self, tally: _Tally) -> None:
        """All turns but the first."""
        for number in range(1, len(self._steps)):
            await self.turn(number, tally)

    async def turn(self, number: int, tally: _Tally) -> None:
        """Read the latest state, write what a task came to, put the checkpoint that follows."""
        writes, put = self._steps[number]
        await tally.timed("latest", number, partial(self._saver.aget_tuple, self._where[number]))
        for arguments in writes:
            await tally.timed("put_writes", number, partial(self._saver.aput_writes, *arguments))
        await tally.timed("put", number, partial(self._saver.aput, *put))


def _hash(turn: int) -> str:
    return f"floor:prepared:{turn}"


async def _lost(saver: Any, replays: list[Replay]) -> int:
    """How many checkpoints and writes are missing from the conversations."""
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


def _enter(book: Book, where: tuple[str, str], round: int, tally: _Tally, lost: int) -> None:
    workload, saver = where
    errors = sum(tally.errors.values())
    book.add(f"{workload}.errors", saver, Sample(round, 0, errors))
    book.add(f"{workload}.lost", saver, Sample(round, 0, lost))
    for reason, number in tally.errors.most_common(1):
        text = f"{number} of {len(tally.took) + errors} operations: {reason}"
        for what in ("throughput", "operation", "latest", "put_writes", "put"):
            book.fail(f"{workload}.{what}", saver, text)
        return
    book.add(f"{workload}.throughput", saver, Sample(round, 0, len(tally.took) / tally.seconds))
    for operation, turn, took in tally.took:
        book.add(f"{workload}.{operation}", saver, Sample(round, turn, took))
        book.add(f"{workload}.operation", saver, Sample(round, turn, took))

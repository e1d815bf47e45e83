"""The plan of a run, its sizes and repetitions, and the run that workloads get."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from rich.progress import Progress

from scripts.benchmark.book import Book, Sample
from scripts.benchmark.clock import timed
from scripts.benchmark.savers import FLOOR, MEMORY, THIS, Kind
from scripts.benchmark.servers import Servers
from scripts.benchmark.traffic import Replay, Traffic

__all__ = ["FeedPlan", "Plan", "Run", "Runner", "rotated"]

T = TypeVar("T")

REDRAW = 0.2
"""Seconds between two drawings of the progress bar, which happen between timed calls."""


@dataclass(frozen=True)
class Plan:
    """Sizes and repetitions of the comparison of savers."""

    seed: int = 7
    steps: int = 200
    long_steps: int = 1000
    rounds: int = 9
    peer_rounds: int = 3
    reads: int = 5
    whole_lists: int = 2
    turns: int = 60
    turn_rounds: int = 4
    wide_steps: int = 100
    document_steps: int = 30
    document_bytes: int = 1 << 20
    state_rounds: int = 3
    tasks: int = 100
    events: int = 10_000
    small_samples: int = 400
    conversations: tuple[int, ...] = (64, 512)
    conversation_turns: int = 20
    conversation_rounds: int = 5
    many_peers: bool = True
    deletions: int = 10
    seconds: float = 480
    """The time for everything. After it, no measurement is repeated."""

    @property
    def sizes(self) -> list[int]:
        """The numbers of steps at which storage is measured."""
        return sorted({max(1, self.steps // 4), max(1, self.steps // 2), self.steps})

    @property
    def long_sizes(self) -> list[int]:
        """The numbers of steps at which this saver's storage is measured."""
        return sorted({*self.sizes, max(1, self.long_steps // 2), self.long_steps})

    def quick(self) -> Plan:
        """Return the plan with fewer repetitions and shorter long histories."""
        return replace(
            self,
            rounds=3,
            peer_rounds=1,
            reads=3,
            whole_lists=1,
            long_steps=500,
            events=3000,
            turns=20,
            turn_rounds=2,
            state_rounds=1,
            small_samples=150,
            conversation_turns=8,
            conversation_rounds=2,
            many_peers=False,
            deletions=5,
            seconds=42,
        )


@dataclass(frozen=True)
class FeedPlan:
    """Sizes and repetitions of the benchmark of the feed."""

    pointers: int = 40_000
    batch: int = 100
    rounds: int = 5
    latencies: int = 200
    latency_rounds: int = 2
    pause: float = 0.015
    """Average seconds between two puts on an idle system. Each pause is half to one and a half of it."""
    puts: int = 2000
    block: int = 100
    """Puts of one variant before the turn of the next variant."""
    slow_puts: int = 200
    groups: int = 10
    seed: int = 7

    def quick(self) -> FeedPlan:
        """Return the plan with fewer repetitions."""
        return replace(self, pointers=10_000, rounds=3, latencies=60, puts=400, slow_puts=60)


@dataclass
class Runner:
    """One saver at work on one thread."""

    kind: Kind
    saver: Any
    replay: Replay

    @property
    def name(self) -> str:
        """The name of the saver."""
        return self.kind.name

    @property
    def is_floor(self) -> bool:
        """Whether the saver supports only writes and the latest read."""
        return self.kind.name == FLOOR


@dataclass
class Run:
    """One run of the benchmark, which every workload gets."""

    plan: Plan
    servers: Servers
    book: Book
    kinds: dict[str, Kind]
    progress: Progress
    _task: Any = None
    _drawn: float = 0.0
    _until: float = 0.0
    _failed: set[tuple[str, str]] = field(default_factory=set)

    def stage(self, text: str, total: int, share: float) -> None:
        """Begin a stage of `total` ticks, which may take that share of the whole time."""
        self._task = self.progress.add_task(text, total=total)
        self._until = time.monotonic() + share * self.plan.seconds
        self.progress.refresh()

    def rounds(self, count: int) -> Iterator[int]:
        """Yield the numbers of `count` rounds, or of fewer if time runs out."""
        for round in range(count):
            if round and time.monotonic() > self._until:
                text = self.progress.tasks[-1].description
                self.book.notes.append(f"{text}: time ran out after {round} of {count} rounds")
                return
            yield round

    def tick(self) -> None:
        """Count one tick of the stage."""
        self.progress.advance(self._task)
        if time.monotonic() - self._drawn > REDRAW:
            self.progress.refresh()
            self._drawn = time.monotonic()

    def done(self) -> None:
        """End the stage."""
        self.progress.update(self._task, completed=self.progress.tasks[-1].total)
        self.progress.refresh()

    def peers(self, round: int, *, without: Sequence[str] = ()) -> list[Kind]:
        """Return the savers of a round.

        Savers that targets compare take part in all rounds, the others in the first few.
        """
        return [
            kind
            for kind in self.kinds.values()
            if kind.name not in without and (kind.name in {THIS, FLOOR, MEMORY} or round < self.plan.peer_rounds)
        ]

    @contextlib.contextmanager
    def runners(self, workload: str, kinds: Sequence[Kind], traffic: Traffic, thread: str) -> Iterator[list[Runner]]:
        """Open savers on empty databases, with warm connections and scripts."""
        self.servers.clear()
        with contextlib.ExitStack() as stack:
            opened = []
            for kind in kinds:
                with self.reported(f"{workload}.*", kind.name):
                    saver = stack.enter_context(kind.open(self.servers))
                    warm(saver, traffic)
                    opened.append(Runner(kind, saver, Replay(saver, traffic, thread)))
            yield opened

    @contextlib.contextmanager
    def reported(self, figure: str, saver: str) -> Iterator[None]:
        """Add a failure of a saver to a figure or, with `workload.*`, to a workload."""
        try:
            yield
        except Exception as error:
            self.fail(figure, saver, error)

    def fail(self, figure: str, saver: str, error: Exception) -> None:
        """Add a failure, after which this saver does not try the figure again."""
        self.book.fail(figure, saver, f"{type(error).__name__}: {error}".splitlines()[0][:120])
        self._failed.add((figure, saver))

    def failed(self, figure: str, saver: str) -> bool:
        """Return whether the figure, or its whole workload, failed with this saver."""
        return not self._failed.isdisjoint({(figure, saver), (figure.partition(".")[0] + ".*", saver)})

    def measure(
        self, figure: str, saver: str, round: int, at: int, call: Callable[[], T], *, vital: bool = False
    ) -> T | None:
        """Time a call, add the sample or the failure, and return the result.

        If a vital call fails, the whole workload fails.
        """
        if self.failed(figure, saver):
            return None
        try:
            took, result = timed(call)
        except Exception as error:
            self.fail(f"{figure.partition('.')[0]}.*" if vital else figure, saver, error)
            return None
        self.book.add(figure, saver, Sample(round, at, took))
        return result

    def expect(self, figure: str, saver: str, returned: object, right: object) -> None:
        """Fail a figure, and drop its samples, if a saver returned a wrong result."""
        if not self.failed(figure, saver) and returned != right:
            self.fail(figure, saver, WrongAnswer(f"{returned} instead of {right}"))
            self.book.samples.pop((figure, saver), None)


class WrongAnswer(Exception):
    """A saver returned something other than it stored."""


def warm(saver: Any, traffic: Traffic) -> None:
    """Open connections and load scripts, with a separate thread."""
    replay = Replay(saver, traffic.first(3), "warm")
    for n in range(len(replay.traffic)):
        replay.store(n)
    if hasattr(saver, "prepare"):
        saver.prepare(replay.config(), replay.traffic.steps[-1].checkpoint)
    saver.get_tuple(replay.config())


def rotated(items: Sequence[T], by: int) -> list[T]:
    """Return the same items, beginning with another item for each number."""
    start = by % len(items) if items else 0
    return [*items[start:], *items[:start]]

"""How much of everything is run, and the run itself: what workloads are given to work with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from rich.progress import Progress

from scripts.benchmark.book import Book, Sample
from scripts.benchmark.clock import timed
from scripts.benchmark.savers import FLOOR, MEMORY, THIS, Kind
from scripts.benchmark.servers import Servers
from scripts.benchmark.traffic import Replay, Traffic

__all__ = ["Plan", "Run", "Runner", "rotated"]

T = TypeVar("T")

PATIENCE = 0.2
"""Seconds between two redraws of the progress bar, which is drawn between what is timed."""


@dataclass(frozen=True)
class Plan:
    """Sizes and repetitions."""

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
    """How long all of it may take on a slow machine: from then on, what was measured once is not repeated."""

    @property
    def sizes(self) -> list[int]:
        """At how many steps storage is measured: a quarter, a half and all of `steps`."""
        return sorted({max(1, self.steps // 4), max(1, self.steps // 2), self.steps})

    @property
    def long_sizes(self) -> list[int]:
        """At how many steps this saver's storage is measured."""
        return sorted({*self.sizes, max(1, self.long_steps // 2), self.long_steps})

    def quick(self) -> Plan:
        """The same with fewer repetitions, and shorter long histories."""
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


@dataclass
class Runner:
    """One saver at work on one thread."""

    kind: Kind
    saver: Any
    replay: Replay

    @property
    def name(self) -> str:
        """The saver's."""
        return self.kind.name

    @property
    def is_floor(self) -> bool:
        """Whether it only knows writes and the latest read."""
        return self.kind.name == FLOOR


@dataclass
class Run:
    """What every workload works with."""

    plan: Plan
    servers: Servers
    book: Book
    kinds: dict[str, Kind]
    progress: Progress
    _task: Any = None
    _drawn: float = 0.0
    _until: float = 0.0
    _out: set[tuple[str, str]] = field(default_factory=set)

    def stage(self, text: str, total: int, share: float) -> None:
        """Begin what takes `total` ticks, and may take that share of the time there is."""
        self._task = self.progress.add_task(text, total=total)
        self._until = time.monotonic() + share * self.plan.seconds
        self.progress.refresh()

    def rounds(self, count: int) -> Iterator[int]:
        """The numbers of the rounds: fewer than `count` if time runs out, at least one."""
        for round in range(count):
            if round and time.monotonic() > self._until:
                self.book.notes.append(f"{self._text()}: time ran out after {round} of {count} rounds")
                return
            yield round

    def _text(self) -> str:
        return str(self.progress.tasks[-1].description)

    def tick(self, count: int = 1) -> None:
        """One of them is done."""
        self.progress.advance(self._task, count)
        if time.monotonic() - self._drawn > PATIENCE:
            self.progress.refresh()
            self._drawn = time.monotonic()

    def done(self) -> None:
        """All of them are done."""
        self.progress.update(self._task, completed=self.progress.tasks[-1].total)
        self.progress.refresh()

    def peers(self, round: int, among: Iterable[str] | None = None) -> list[Kind]:
        """Who takes part in a round: those that targets compare in all of them, the others in the first few."""
        always = {THIS, FLOOR, MEMORY}
        names = set(self.kinds) if among is None else set(among)
        return [
            kind
            for kind in self.kinds.values()
            if kind.name in names and (kind.name in always or round < self.plan.peer_rounds)
        ]

    @contextlib.contextmanager
    def runners(self, workload: str, kinds: Sequence[Kind], traffic: Traffic, thread: str) -> Iterator[list[Runner]]:
        """Savers opened on empty databases, each with its connections and scripts warm, and its replay of the traffic."""
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
        """A failure of a saver is entered in the book, under the figure or, with `workload.*`, under all of a workload."""
        try:
            yield
        except Exception as error:
            self.fail(figure, saver, error)

    def fail(self, figure: str, saver: str, error: Exception) -> None:
        """Enter a failure; the figure is not tried again with this saver."""
        self.book.fail(figure, saver, f"{type(error).__name__}: {error}".splitlines()[0][:120])
        self._out.add((figure, saver))

    def out(self, figure: str, saver: str) -> bool:
        """Whether the figure, or all of its workload, failed with this saver."""
        return not self._out.isdisjoint({(figure, saver), (figure.partition(".")[0] + ".*", saver)})

    def measure(
        self, figure: str, saver: str, round: int, at: int, call: Callable[[], T], *, vital: bool = False
    ) -> T | None:
        """Time a call and enter it, or why it failed; what it returned. A vital call that fails ends the workload."""
        if self.out(figure, saver):
            return None
        try:
            took, result = timed(call)
        except Exception as error:
            self.fail(f"{figure.partition('.')[0]}.*" if vital else figure, saver, error)
            return None
        self.book.add(figure, saver, Sample(round, at, took))
        return result

    def expect(self, figure: str, saver: str, said: object, right: object) -> None:
        """A figure counts only if what was returned is right; otherwise it failed."""
        if not self.out(figure, saver) and said != right:
            self.fail(figure, saver, WrongAnswer(f"{said} instead of {right}"))
            self.book.samples.pop((figure, saver), None)


class WrongAnswer(Exception):
    """A saver returned something else than was stored."""


def warm(saver: Any, traffic: Traffic) -> None:
    """Open connections and load scripts, on a thread of its own."""
    replay = Replay(saver, traffic.first(3), "warm")
    for n in range(len(replay.traffic)):
        for arguments in replay.writes(n):
            saver.put_writes(*arguments)
        put = replay.put(n)
        saver.put(*put)
    if hasattr(saver, "prepare"):
        saver.prepare(replay.config(), put[1])
    saver.get_tuple(replay.config())


def rotated(items: Sequence[T], by: int) -> list[T]:
    """The same items, beginning with another one each time."""
    start = by % len(items) if items else 0
    return [*items[start:], *items[:start]]

"""What was measured: samples by figure and saver, the reasons of what failed, and the arithmetic over both.

Ratios compare sample with sample: savers run in turn, so that neighbours met the same machine, however busy it was. The
median over all pairs is what is reported.
"""

from __future__ import annotations

import operator
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

__all__ = ["FIGURES", "Book", "Figure", "Sample", "p99"]

T = TypeVar("T")

Unit = Literal["ms", "bytes", "ops/s", "count"]


class Sample(NamedTuple):
    """One measurement: in which round, at which step (or size), and how much."""

    round: int
    at: int
    value: float


@dataclass(frozen=True)
class Figure:
    """Something that is measured of every saver that can do it."""

    name: str
    workload: str
    label: str
    unit: Unit = "ms"


FIGURES: dict[str, Figure] = {}
"""Every figure there is, by name."""


def figure(name: str, label: str, unit: Unit = "ms") -> str:
    """Declare a figure, named `workload.what`; its name."""
    FIGURES[name] = Figure(name, name.partition(".")[0], label, unit)
    return name


@dataclass
class Book:
    """All samples and failures of one run."""

    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=lambda: defaultdict(list))
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, figure: str, saver: str, sample: Sample) -> None:
        """Enter one measurement."""
        self.samples[figure, saver].append(sample)

    def fail(self, figure: str, saver: str, reason: str) -> None:
        """Enter why a figure of a saver is missing; the first reason counts."""
        self.failures.setdefault((figure, saver), reason)

    def reason(self, figure: str, saver: str) -> str | None:
        """Why a figure of a saver, or all of its workload, failed; None if it did not."""
        everything = figure.partition(".")[0] + ".*"
        return self.failures.get((figure, saver)) or self.failures.get((everything, saver))

    def derive(self, figure: str, source: str, where: Callable[[Sample], bool]) -> None:
        """Make a figure of some of the samples of another."""
        for (name, saver), samples in list(self.samples.items()):
            if name == source:
                self.samples[figure, saver] = [sample for sample in samples if where(sample)]
        for (name, saver), reason in list(self.failures.items()):
            if name == source:
                self.failures[figure, saver] = reason

    def values(self, figure: str, saver: str) -> list[float]:
        """The measured values."""
        return [sample.value for sample in self.samples.get((figure, saver), ())]

    def median(self, figure: str, saver: str) -> float | None:
        """The median of what was measured, None if nothing was."""
        values = self.values(figure, saver)
        return statistics.median(values) if values else None

    def by_step(self, figure: str, saver: str) -> dict[int, float]:
        """The median over the rounds at each step."""
        return self._grouped(figure, saver, operator.attrgetter("at"), statistics.median)

    def by_round(
        self, figure: str, saver: str, of: Callable[[list[float]], float] = statistics.median
    ) -> dict[int, float]:
        """The median, or what else is asked for, of each round."""
        return self._grouped(figure, saver, _round_of, of)

    def _grouped(
        self, figure: str, saver: str, key: Callable[[Sample], int], of: Callable[[list[float]], T]
    ) -> dict[int, T]:
        groups: dict[int, list[float]] = defaultdict(list)
        for sample in self.samples.get((figure, saver), ()):
            groups[key(sample)].append(sample.value)
        return {number: of(values) for number, values in sorted(groups.items())}

    def compared(
        self,
        one: tuple[str, str],
        other: tuple[str, str],
        how: Callable[[float, float], float] = operator.truediv,
    ) -> float | None:
        """The median ratio of two (figure, saver), sample by sample: None if they have no round in common.

        Within a round, samples that were taken next to each other are compared with each other.
        """
        ones, others = self._grouped(*one, _round_of, list), self._grouped(*other, _round_of, list)
        found = [
            how(left, right)
            for number in ones
            for left, right in zip(ones[number], others.get(number, ()), strict=False)
        ]
        return statistics.median(found) if found else None

    def compared_tails(self, one: tuple[str, str], other: tuple[str, str]) -> float | None:
        """The median over the rounds of the ratio of two 99th percentiles."""
        ones, others = self.by_round(*one, p99), self.by_round(*other, p99)
        found = [ones[number] / others[number] for number in ones if number in others]
        return statistics.median(found) if found else None

    def savers(self, figures: Iterable[str]) -> list[str]:
        """Whoever has a sample or a failure under any of the figures."""
        wanted = set(figures)
        wanted |= {name.partition(".")[0] + ".*" for name in wanted}
        entries = [*self.samples, *self.failures]
        return list(dict.fromkeys(saver for name, saver in entries if name in wanted))


def _round_of(sample: Sample) -> int:
    return sample.round


def p99(values: Sequence[float]) -> float:
    """The value that 99 in 100 do not exceed; the greatest where there are fewer than 100."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]

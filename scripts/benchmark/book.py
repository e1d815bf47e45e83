"""The measurements: samples by figure and saver, failures, and statistics.

Ratios compare sample with sample. Savers run in turn, so two neighbouring samples met the same machine, however busy it was.
The report has the median over all pairs.
"""

from __future__ import annotations

import operator
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

__all__ = ["FIGURES", "Book", "Figure", "Sample", "figure", "p99", "size_text"]

T = TypeVar("T")

Unit = Literal["ms", "bytes", "ops/s", "count"]


class Sample(NamedTuple):
    """One measurement: the round, the step (or size), and the value."""

    round: int
    at: int
    value: float


@dataclass(frozen=True)
class Figure:
    """A quantity that is measured for every saver."""

    name: str
    workload: str
    label: str
    unit: Unit = "ms"


FIGURES: dict[str, Figure] = {}
"""Every figure, by name."""


def figure(name: str, label: str, unit: Unit = "ms") -> str:
    """Declare a figure with a name like `workload.quantity`, and return the name."""
    FIGURES[name] = Figure(name, name.partition(".")[0], label, unit)
    return name


@dataclass
class Book:
    """All samples and failures of one run."""

    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=lambda: defaultdict(list))
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, figure: str, saver: str, sample: Sample) -> None:
        """Add one measurement."""
        self.samples[figure, saver].append(sample)

    def fail(self, figure: str, saver: str, reason: str) -> None:
        """Add the reason why a figure of a saver is missing, unless it has one."""
        self.failures.setdefault((figure, saver), reason)

    def reason(self, figure: str, saver: str) -> str | None:
        """Return why a figure of a saver, or its whole workload, failed, else None."""
        everything = figure.partition(".")[0] + ".*"
        return self.failures.get((figure, saver)) or self.failures.get((everything, saver))

    def derive(self, figure: str, source: str, keep: Callable[[Sample], bool]) -> None:
        """Make a figure of some samples of another figure."""
        for (name, saver), samples in list(self.samples.items()):
            if name == source:
                self.samples[figure, saver] = [sample for sample in samples if keep(sample)]
        for (name, saver), reason in list(self.failures.items()):
            if name == source:
                self.failures[figure, saver] = reason

    def values(self, figure: str, saver: str) -> list[float]:
        """Return the measured values."""
        return [sample.value for sample in self.samples.get((figure, saver), ())]

    def median(self, figure: str, saver: str) -> float | None:
        """Return the median of the measured values, None if there are none."""
        values = self.values(figure, saver)
        return statistics.median(values) if values else None

    def by_step(self, figure: str, saver: str) -> dict[int, float]:
        """Return the median over the rounds, by step."""
        return self._grouped(figure, saver, operator.attrgetter("at"), statistics.median)

    def by_round(
        self, figure: str, saver: str, of: Callable[[list[float]], float] = statistics.median
    ) -> dict[int, float]:
        """Return the median, or another statistic, by round."""
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
        """Return the median ratio of two (figure, saver), None if they share no round.

        Within a round, it compares samples that were taken next to each other.
        """
        ones, others = self._grouped(*one, _round_of, list), self._grouped(*other, _round_of, list)
        found = [
            how(left, right)
            for number in ones
            for left, right in zip(ones[number], others.get(number, ()), strict=False)
        ]
        return statistics.median(found) if found else None

    def compared_tails(self, one: tuple[str, str], other: tuple[str, str]) -> float | None:
        """Return the median over the rounds of the ratio of two 99th percentiles."""
        ones, others = self.by_round(*one, p99), self.by_round(*other, p99)
        found = [ones[number] / others[number] for number in ones if number in others]
        return statistics.median(found) if found else None

    def savers(self, figures: Iterable[str]) -> list[str]:
        """Return the savers with a sample or a failure under any of the figures."""
        wanted = set(figures)
        wanted |= {name.partition(".")[0] + ".*" for name in wanted}
        entries = [*self.samples, *self.failures]
        return list(dict.fromkeys(saver for name, saver in entries if name in wanted))


def _round_of(sample: Sample) -> int:
    return sample.round


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile: the greatest value if there are fewer than 100."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def size_text(size: float) -> str:
    """Return a number of bytes as KiB or MiB."""
    return f"{size / 2**20:.2f} MiB" if size >= 2**20 else f"{size / 1024:.1f} KiB"

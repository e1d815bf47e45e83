"""The report: targets and figures as Markdown, and everything as JSON."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.benchmark.book import FIGURES, Book, Figure, p99, size_text
from scripts.benchmark.plan import Run
from scripts.benchmark.savers import THIS, Kind
from scripts.benchmark.storage import STORED
from scripts.benchmark.targets import Outcome, outcomes
from scripts.benchmark.text import Prose, zstd_ratio

__all__ = ["Report"]

FAILED = "failed: "
WINDOW = 20
"""A time of the long chat is the median of so many steps."""


class Report:
    """The report of a run."""

    def __init__(self, run: Run, workloads: Sequence[str], titles: dict[str, str], seconds: float) -> None:
        self.run = run
        self.book: Book = run.book
        self.workloads = workloads
        self.titles = titles
        self.environment = _environment(run, seconds)
        self.outcomes = outcomes(run.book, run.plan)

    def markdown(self) -> str:
        """Return the targets, then a table for each workload."""
        parts = [self._introduction(), "## Targets", _outcome_table(self.outcomes)]
        for workload in self.workloads:
            table = self._along() if workload == "long" else self._table(workload)
            parts += [f"## {self.titles[workload]}", table]
        if "storage" in self.workloads:
            parts += ["### Stored, by steps", self._sizes()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def data(self) -> dict[str, Any]:
        """Return everything by workload, figure and saver, with medians by round and step."""
        return {
            "environment": self.environment,
            "plan": asdict(self.run.plan),
            "targets": [{**asdict(outcome), "verdict": outcome.verdict} for outcome in self.outcomes],
            "workloads": {workload: self._figures(workload) for workload in self.workloads},
            "notes": self.book.notes,
        }

    def write(self, folder: Path) -> list[Path]:
        """Write `report.md` and `report.json`, and return their paths."""
        markdown, data = folder / "report.md", folder / "report.json"
        markdown.write_text(self.markdown())
        data.write_text(json.dumps(self.data(), indent=1) + "\n")
        return [markdown, data]

    def _introduction(self) -> str:
        about = self.environment
        text = about["text"]
        lines = f"""
# Benchmark

- Server: {about["server"]}, {about["connection"]}. Python {about["python"]}, {about["machine"]}.
- {about["finished"]}, {about["seconds"]:.0f} s, seed {self.run.plan.seed}.
- Messages: {text["bytes"]:,} bytes of invented prose. zstd makes one message {text["zstd_one"]:.2f} times smaller, and
  {text["messages"]} messages together {text["zstd_all"]:.2f} times.
- Versions: {", ".join(about["versions"])}.
- Times are milliseconds, median / p99. Savers take every step in turn. Ratios are medians of the ratios of samples that were
  taken next to each other.
- Floor: a write serializes changed values whole and sends one bare XADD. A read is one HGETALL of a prepared hash, deserialized.
"""
        return "\n".join([lines.strip(), *(f"- {note[:1].upper()}{note[1:]}." for note in self.book.notes)])

    def _table(self, workload: str) -> str:
        # The stored bytes have a separate table, by steps.
        figures = [one for one in FIGURES.values() if one.workload == workload and one.name != STORED]
        kinds = self._kinds(figures)
        header = ["", *(kind.label for kind in kinds)]
        rows = [[figure.label, *(self._cell(figure, kind) for kind in kinds)] for figure in figures]
        rows = [row for row in rows if set(row[1:]) != {"-"}]
        for column in range(1, len(header)):
            _drop_repeats(rows, column)
        return _aligned(header, rows)

    def _kinds(self, figures: Sequence[Figure]) -> list[Kind]:
        """Return the savers with a sample or a failure under any of the figures."""
        present = set(self.book.savers(figure.name for figure in figures))
        return [kind for kind in self.run.kinds.values() if kind.name in present]

    def _along(self) -> str:
        """Return the times of the long chat early, where others stop, and at its end."""
        figures = [one for one in FIGURES.values() if one.workload == "long"]
        kinds = self._kinds(figures)
        plan = self.run.plan
        ends = sorted({plan.long_steps // 10, min(2 * plan.steps, plan.long_steps), plan.long_steps})
        rows = [
            [
                f"{figure.label}, steps {end - WINDOW + 1:,}-{end:,}",
                *(self._within(figure, kind, end) for kind in kinds),
            ]
            for figure in figures
            for end in (max(end, WINDOW) for end in ends)
        ]
        return _aligned(["", *(kind.label for kind in kinds)], rows)

    def _within(self, figure: Figure, kind: Kind, end: int) -> str:
        """Return the median over the steps up to that one, or the reason of a failure."""
        if (reason := self.book.reason(figure.name, kind.name)) is not None:
            return FAILED + reason.replace("|", "/")
        by_step = self.book.by_step(figure.name, kind.name)
        values = [value for step, value in by_step.items() if end - WINDOW < step <= end]
        return _short(statistics.median(values)) if values else "-"

    def _cell(self, figure: Figure, kind: Kind) -> str:
        reason = self.book.reason(figure.name, kind.name)
        if reason is not None:
            return FAILED + reason.replace("|", "/")
        values = self.book.values(figure.name, kind.name)
        if not values:
            return "-"
        if figure.unit == "ms":
            return f"{_short(statistics.median(values))} / {_short(p99(values))}"
        if figure.unit == "count":
            return f"{sum(values):.0f}"
        return size_text(statistics.mean(values)) if figure.unit == "bytes" else f"{statistics.median(values):,.0f}"

    def _sizes(self) -> str:
        kinds = [kind for kind in self.run.kinds.values() if self.book.values(STORED, kind.name)]
        sizes = [self.book.by_step(STORED, kind.name) for kind in kinds]
        rows = [
            [f"{step:,} steps", *(size_text(by_step[step]) if step in by_step else "-" for by_step in sizes)]
            for step in sorted({step for by_step in sizes for step in by_step})
        ]
        return _aligned(["", *(kind.label for kind in kinds)], rows)

    def _figures(self, workload: str) -> dict[str, Any]:
        return {
            figure.name.partition(".")[2]: {
                "label": figure.label,
                "unit": figure.unit,
                "savers": {
                    name: self._saver(figure.name, name) for name in self.run.kinds if self._known(figure.name, name)
                },
            }
            for figure in FIGURES.values()
            if figure.workload == workload
        }

    def _known(self, figure: str, saver: str) -> bool:
        return bool(self.book.values(figure, saver)) or self.book.reason(figure, saver) is not None

    def _saver(self, figure: str, saver: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if (reason := self.book.reason(figure, saver)) is not None:
            found["failed"] = reason
        if values := self.book.values(figure, saver):
            found |= {
                "median": statistics.median(values),
                "mean": statistics.mean(values),
                "p99": p99(values),
                "samples": len(values),
                "by_round": list(self.book.by_round(figure, saver).values()),
                "by_step": list(self.book.by_step(figure, saver).items()),
            }
        return found


def _environment(run: Run, seconds: float) -> dict[str, Any]:
    prose = Prose(run.plan.seed)
    texts = [prose.text(1024) for _ in range(200)]
    return {
        **run.servers.environment(seconds),
        "connection": {"unix": "unix socket", "rediss": "TLS"}.get(run.servers.url.partition("://")[0], "TCP"),
        "command": ["scripts/bench", *sys.argv[1:]],
        "versions": list(dict.fromkeys(kind.versioned for kind in run.kinds.values())),
        "text": {
            "bytes": 1024,
            "messages": len(texts),
            "zstd_one": statistics.median(map(zstd_ratio, texts)),
            "zstd_all": zstd_ratio("\n".join(texts)),
        },
        "ours": run.kinds[THIS].versioned if THIS in run.kinds else None,
    }


def _outcome_table(found: Sequence[Outcome]) -> str:
    rows = [[one.name, one.target, one.shown, one.verdict, one.detail] for one in found]
    return _aligned(["", "target", "measured", "", "from"], rows)


def _drop_repeats(rows: list[list[str]], column: int) -> None:
    """Drop a reason that the row above has, too."""
    above = ""
    for row in rows:
        repeated, above = row[column] == above, row[column]
        if repeated and above.startswith(FAILED):
            row[column] = FAILED.rstrip(": ")


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that is aligned in plain text, too."""
    if not rows:
        return ""
    widths = [max(3, *(len(row[n]) for row in (header, *rows))) for n in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"

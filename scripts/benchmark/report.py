"""The report: targets and figures as Markdown, everything as JSON."""

from __future__ import annotations

import json
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from scripts.benchmark.book import FIGURES, Book, Figure, p99
from scripts.benchmark.plan import Run
from scripts.benchmark.savers import THIS, Kind
from scripts.benchmark.storage import STORED
from scripts.benchmark.targets import Outcome, outcomes
from scripts.benchmark.text import Prose, zstd_ratio

__all__ = ["Report"]

FAILED = "failed: "
WINDOW = 20
"""Steps that a time of the long chat is the median of."""


class Report:
    """What a run came to."""

    def __init__(self, run: Run, workloads: Sequence[str], titles: dict[str, str], seconds: float) -> None:
        self.run = run
        self.book: Book = run.book
        self.workloads = workloads
        self.titles = titles
        self.environment = _environment(run, seconds)
        self.outcomes = outcomes(run.book, run.plan)

    def markdown(self) -> str:
        """Targets, then a table for each workload."""
        parts = [self._introduction(), "## Targets", _outcome_table(self.outcomes)]
        for workload in self.workloads:
            table = self._along() if workload == "long" else self._table(workload)
            parts += [f"## {self.titles[workload]}", table]
        if "storage" in self.workloads:
            parts += ["### Stored, by steps", self._sizes()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def data(self) -> dict[str, Any]:
        """Everything: figures by workload, figure and saver, with medians by round and by step."""
        return {
            "environment": self.environment,
            "plan": asdict(self.run.plan),
            "targets": [{**asdict(outcome), "verdict": outcome.verdict} for outcome in self.outcomes],
            "workloads": {workload: self._figures(workload) for workload in self.workloads},
            "notes": self.book.notes,
        }

    def write(self, folder: Path) -> list[Path]:
        """`report.md` and `report.json`."""
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
- Messages: {text["bytes"]:,} bytes of made-up prose. zstd makes one {text["zstd_one"]:.2f} times smaller, {text["messages"]}
  together {text["zstd_all"]:.2f} times.
- Versions: {", ".join(about["versions"])}.
- Times are milliseconds, median / p99. Savers take every step in turn; ratios are medians of the ratios of samples taken next
  to each other.
- Floor: changed values serialised whole and one bare XADD; reads are one HGETALL of a prepared hash, deserialised.
"""
        return "\n".join([lines.strip(), *(f"- {note[:1].upper()}{note[1:]}." for note in self.book.notes)])

    def _table(self, workload: str) -> str:
        # What is stored has a table of its own, by steps.
        figures = [one for one in FIGURES.values() if one.workload == workload and one.name != STORED]
        there = set(self.book.savers(figure.name for figure in figures))
        kinds = [kind for kind in self.run.kinds.values() if kind.name in there]
        header = ["", *(kind.label for kind in kinds)]
        rows = [[figure.label, *(self._cell(figure, kind) for kind in kinds)] for figure in figures]
        rows = [row for row in rows if set(row[1:]) != {"-"}]
        for column in range(1, len(header)):
            _say_once(rows, column)
        return _aligned(header, rows)

    def _along(self) -> str:
        """Times of the long chat at its beginning, where others stop, and at its end."""
        figures = [one for one in FIGURES.values() if one.workload == "long"]
        there = set(self.book.savers(figure.name for figure in figures))
        kinds = [kind for kind in self.run.kinds.values() if kind.name in there]
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
        """The median over the steps before that one; a reason where there is none."""
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
        return _size(statistics.mean(values)) if figure.unit == "bytes" else f"{statistics.median(values):,.0f}"

    def _sizes(self) -> str:
        name = STORED
        kinds = [kind for kind in self.run.kinds.values() if self.book.values(name, kind.name)]
        by_step = {kind.name: self.book.by_step(name, kind.name) for kind in kinds}
        steps = sorted({step for sizes in by_step.values() for step in sizes})
        rows = [
            [
                f"{step:,} steps",
                *(_size(by_step[kind.name][step]) if step in by_step[kind.name] else "-" for kind in kinds),
            ]
            for step in steps
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
        "server": run.servers.described(),
        "connection": {"unix": "unix socket", "rediss": "TLS"}.get(run.servers.url.partition("://")[0], "TCP"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
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
    rows = [[one.name, one.target, one.said, one.verdict, one.detail] for one in found]
    return _aligned(["", "target", "measured", "", "from"], rows)


def _say_once(rows: list[list[str]], column: int) -> None:
    """A reason that was given in the row above is not repeated."""
    said = ""
    for row in rows:
        repeated = row[column] == said
        said = row[column]
        if repeated and said.startswith(FAILED):
            row[column] = FAILED.rstrip(": ")


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that reads as one in plain text too."""
    if not rows:
        return ""
    widths = [max(3, *(len(row[n]) for row in (header, *rows))) for n in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _size(size: float) -> str:
    return f"{size / 2**20:.2f} MiB" if size >= 2**20 else f"{size / 1024:.1f} KiB"

"""A benchmark of a part of this saver: variants in turn, tables, and a file.

Variants take turns within a round, so that neighbouring samples met the same machine. Ratios are medians of the ratios of
samples that were taken next to each other.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from scripts.benchmark.book import Book, p99
from scripts.benchmark.servers import Servers
from scripts.terminal import console, table

__all__ = ["Bench", "Row", "Rows", "measure_rows"]


class Row(NamedTuple):
    """A figure of one variant, and the variant that it may be compared with."""

    figure: str
    variant: str
    against: str | None = None


class Rows(NamedTuple):
    """A table of the report."""

    title: str
    unit: str
    rows: Sequence[Row]


Part = tuple[str, Callable[[Any, Servers, Book], None]]
"""The name of a part, and the function that runs it."""


class Bench(NamedTuple):
    """Parts that run one after the other on an empty database, and their tables."""

    name: str
    parts: Sequence[Part]
    tables: Sequence[Rows]


def measure_rows(bench: Bench, plan: Any, servers: Servers, out: Path | None) -> None:
    """Run the parts, print tables, and write `<name>.json`."""
    began = time.monotonic()
    book = Book()
    for name, part in bench.parts:
        print(f"{name} ...", file=sys.stderr)
        servers.clear()
        part(plan, servers, book)
    folder = out or Path(tempfile.mkdtemp(prefix="checkpointer-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    environment = servers.environment(time.monotonic() - began)
    data = {
        "environment": environment,
        "plan": asdict(plan),
        "figures": [
            figure for table in bench.tables for row in table.rows if (figure := _figure(book, row, table.unit))
        ],
    }
    path = folder / f"{bench.name}.json"
    path.write_text(json.dumps(data, indent=1) + "\n")
    _show(environment, book, bench.tables)
    print(path)


def _figure(book: Book, row: Row, unit: str) -> dict[str, Any]:
    values = book.values(row.figure, row.variant)
    if not values:
        return {}
    ratio = None if row.against is None else book.compared((row.figure, row.variant), (row.figure, row.against))
    return {
        "figure": row.figure,
        "variant": row.variant,
        "unit": unit,
        "median": statistics.median(values),
        "mean": statistics.mean(values),
        "p99": p99(values),
        "samples": len(values),
        "against": row.against,
        "ratio": ratio,
    }


def _show(about: dict[str, Any], book: Book, tables: Sequence[Rows]) -> None:
    out = console()
    out.print(
        f"{about['server']}, Python {about['python']}, {about['machine']}; {about['finished']}, {about['seconds']:.0f} s."
    )
    for title, unit, rows in tables:
        made = table(title, "median", "p99" if unit == "ms" else "least", "mean", "ratio", "to", "samples")
        for column in (*made.columns[1:5], made.columns[6]):
            column.justify = "right"
        for row in rows:
            if figure := _figure(book, row, unit):
                tail = figure["p99"] if unit == "ms" else min(book.values(row.figure, row.variant))
                ratio = "" if figure["ratio"] is None else f"{figure['ratio']:.2f}"
                cells = [_short(value) for value in (figure["median"], tail, figure["mean"])]
                made.add_row(f"{row.figure}: {row.variant}", *cells, ratio, row.against or "", str(figure["samples"]))
        out.print()
        out.print(made)
    out.print()


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"

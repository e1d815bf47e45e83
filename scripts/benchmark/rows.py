"""A benchmark of a part of this saver: variants that take turns, a table, and a file of figures.

Variants take turns within a round, so that neighbours met the same machine; ratios are medians of the ratios of samples taken next
to each other.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from scripts.benchmark.book import Book, p99
from scripts.benchmark.servers import Servers

__all__ = ["Bench", "Row", "Rows", "measure_rows"]


class Row(NamedTuple):
    """A figure of one variant, and the variant that it is compared with, if any."""

    figure: str
    variant: str
    against: str | None = None


class Rows(NamedTuple):
    """A table of the report."""

    title: str
    unit: str
    rows: Sequence[Row]


Part = tuple[str, Callable[[Any, Servers, Book], None]]
"""What a part is called while it runs, and what runs it."""


class Bench(NamedTuple):
    """Parts that run one after the other on an empty database, and what is told of them."""

    name: str
    parts: Sequence[Part]
    tables: Sequence[Rows]


def measure_rows(
    bench: Bench, plan: Any, servers: Servers, out: Path | None, console: Console | None = None
) -> dict[str, Any]:
    """Runs the parts; prints tables, and writes `<name>.json` beside what else is in the folder. What is in the file."""
    began = time.monotonic()
    book = Book()
    told = Console(stderr=True)
    for text, part in bench.parts:
        told.print(f"{text} ...", highlight=False)
        servers.clear()
        part(plan, servers, book)
    folder = out or Path(tempfile.mkdtemp(prefix="checkpointer-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "environment": {
            "server": servers.described(),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 1),
        },
        "plan": asdict(plan),
        "figures": [
            figure for table in bench.tables for row in table.rows if (figure := _figure(book, row, table.unit))
        ],
    }
    path = folder / f"{bench.name}.json"
    path.write_text(json.dumps(data, indent=1) + "\n")
    _show(console or Console(width=None if told.is_terminal else 120), data, book, bench.tables)
    print(path)
    return data


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


def _show(console: Console, data: dict[str, Any], book: Book, tables: Sequence[Rows]) -> None:
    about = data["environment"]
    console.print(
        f"{about['server']}, Python {about['python']}, {about['machine']}; {about['finished']}, {about['seconds']:.0f} s."
    )
    for title, unit, rows in tables:
        table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
        table.add_column(title)
        for name in ("median", "p99" if unit == "ms" else "least", "mean", "ratio", "to", "samples"):
            table.add_column(name, justify="left" if name == "to" else "right")
        for row in rows:
            if figure := _figure(book, row, unit):
                tail = figure["p99"] if unit == "ms" else min(book.values(row.figure, row.variant))
                ratio = "" if figure["ratio"] is None else f"{figure['ratio']:.2f}"
                cells = [_short(value) for value in (figure["median"], tail, figure["mean"])]
                table.add_row(f"{row.figure}: {row.variant}", *cells, ratio, row.against or "", str(figure["samples"]))
        console.print()
        console.print(table)
    console.print()


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}"

"""Terminal output that the scripts share: console, tables, progress, claims."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

__all__ = ["claims", "conclusion", "console", "grid", "progress", "table"]


def console() -> Console:
    """Return a console with colors on a terminal, unless NO_COLOR is set.

    Where no width can be measured, it has 120 columns.
    """
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    if os.environ.get("NO_COLOR"):
        return Console(width=width, color_system=None, highlight=False)
    return Console(width=width, highlight=False)


def table(*columns: str, **options: Any) -> Table:
    """Return a table without lines, with columns of these names that fold."""
    made = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold", **options)
    for name in columns:
        made.add_column(name, overflow="fold")
    return made


def grid(rows: Iterable[Sequence[Text]]) -> Table:
    """Return rows of two cells; the first cells never wrap."""
    made = Table.grid(padding=(0, 1))
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def claims(checked: Iterable[tuple[str, bool]]) -> Table:
    """Return one row per claim, which says whether it holds."""
    ok, failed = Text("  ok      ", style="green"), Text("  FAILED  ", style="bold red")
    return grid((ok if holds else failed, Text(claim)) for claim, holds in checked)


def conclusion(failures: int) -> Text:
    """Return the last line of a script that checks claims."""
    if failures:
        return Text(f"Claims that FAILED: {failures}.", style="bold red")
    return Text("Every claim held.", style="bold green")


def progress(**options: Any) -> Progress:
    """Return a progress bar on standard error that only `refresh` draws."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), auto_refresh=False, **options)

"""How far something is, in a line on stderr that is rewritten where that is a terminal, and nowhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from saver.cli import output

__all__ = ["showing_progress"]

Show = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


@contextmanager
def showing_progress() -> Iterator[Show]:
    """What shows progress while the block runs."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _what, _done, _of: None
        return
    console = Console(file=sys.stderr, markup=False, highlight=False, no_color=bool(os.environ.get("NO_COLOR")))
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[what]}", markup=False))
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("", total=None, what="")
        yield lambda what, done, of: bar.update(task, completed=done, total=of, what=output.plain(what))

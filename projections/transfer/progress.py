"""The progress of work on files."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Progress", "ProgressCallback", "reporting"]


class Progress(NamedTuple):
    """The progress of a thread."""

    thread: str
    done: int
    """Entries that are done."""
    of: int
    """Entries of the thread."""


ProgressCallback = Callable[[str, int, int], object]
"""Receives a thread, its entries that are done, and the number of its entries."""


def reporting(callback: ProgressCallback | None) -> Callable[[Progress], object]:
    """A function that passes progress on to a callback, if there is one."""
    return lambda progress: callback and callback(*progress)

"""Timing: one clock, and a garbage collector that runs between what is timed, for every saver alike."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

__all__ = ["now", "quiet", "tidy", "timed"]

T = TypeVar("T")

now = time.perf_counter_ns


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """How many milliseconds a call took, and what it returned."""
    began = now()
    result = call()
    return (now() - began) / 1e6, result


def tidy() -> None:
    """Collect garbage, between what is timed."""
    gc.collect()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection but by `tidy`; what exists already is left out of it."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()

"""Timing: one clock, and garbage collection only between timed calls."""

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
    """Return the milliseconds that a call took, and its result."""
    began = now()
    result = call()
    return (now() - began) / 1e6, result


def tidy() -> None:
    """Collect garbage, between timed calls."""
    gc.collect()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Collect garbage only by `tidy`, and never objects that exist already."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()

"""Puts of several variants of this saver, in turn."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from saver import RedisStreamSaver
from scripts.benchmark.book import Book, Sample
from scripts.benchmark.clock import quiet, tidy, timed
from scripts.benchmark.plan import rotated
from scripts.benchmark.servers import Servers
from scripts.benchmark.traffic import Replay, Traffic

__all__ = ["Case", "measure_puts", "opened"]


@dataclass
class Case:
    """A variant of the saver with a separate prefix, and its next put."""

    variant: str
    saver: Any
    replay: Replay
    next: int = 0

    def arguments(self) -> tuple[Any, Any, Any, Any]:
        """Return the arguments of the next put."""
        self.next += 1
        return self.replay.put(self.next - 1)


def opened(
    servers: Servers, stack: contextlib.ExitStack, traffic: Traffic, variant: str, prefix: str, **options: Any
) -> Case:
    """Open a variant of the saver until the stack ends."""
    saver = stack.enter_context(RedisStreamSaver.from_conn_string(servers.url, prefix=prefix, **options))
    return Case(variant, saver, Replay(saver, traffic, "agent"))


def measure_puts(book: Book, figure: str, cases: Sequence[Case], puts: int, *, block: int, interval: float = 0) -> None:
    """Time `puts` puts of each case in blocks, with `interval` seconds between them."""
    block = min(block, puts)
    for round in range(puts // block):
        for case in rotated(cases, round):
            tidy()
            calls = [case.arguments() for _ in range(block)]
            with quiet():
                for arguments in calls:
                    took, _ = timed(partial(case.saver.put, *arguments))
                    book.add(figure, case.variant, Sample(round, 0, took))
                    if interval:
                        time.sleep(interval)

"""Puts of variants of one saver, in turn."""

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
    """A prefix of its own, and what is put there next."""

    variant: str
    saver: Any
    replay: Replay
    next: int = 0

    def arguments(self) -> tuple[Any, Any, Any, Any]:
        """Of the next put."""
        self.next += 1
        return self.replay.put(self.next - 1)


def opened(
    servers: Servers, stack: contextlib.ExitStack, traffic: Traffic, variant: str, prefix: str, **options: Any
) -> Case:
    """A variant of the saver, open until the stack ends."""
    saver = stack.enter_context(RedisStreamSaver.from_conn_string(servers.url, prefix=prefix, **options))
    return Case(variant, saver, Replay(saver, traffic, "agent"))


def measure_puts(book: Book, figure: str, cases: Sequence[Case], puts: int, *, block: int, interval: float = 0) -> None:
    """Times `puts` of each, as many as `block` before it is the next one's turn, `interval` seconds apart."""
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

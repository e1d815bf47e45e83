"""What groups and trimming add to a put: nothing registered, groups nobody reads for, live members, a retention."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench_book import Book, Sample
from bench_clock import quiet, tidy, timed
from bench_feed_child import follow
from bench_feed_plan import FeedPlan
from bench_plan import rotated
from bench_servers import Place
from bench_traffic import Replay, Traffic, counter

from eventlog import ActivityFeed
from saver import RedisStreamSaver

__all__ = ["PUTS", "cost_of_put"]

NONE, REGISTERED, LIVE = "no group", "10 groups, nobody reads", "10 groups, a live member each"
RETENTION, BOTH = "feed_retention, no group", "feed_retention, 10 groups nobody reads"
ALONE, BESIDE, SLOW = "one after the other", "the same beside members", "beside members, a put each 10 ms"
PUTS = [
    (ALONE, NONE, None),
    *((ALONE, variant, NONE) for variant in (REGISTERED, RETENTION, BOTH)),
    *((figure, variant, against) for figure in (BESIDE, SLOW) for variant, against in ((NONE, None), (LIVE, NONE))),
]
"""Figure, variant, and what it is compared with."""
KEEP = 1000
"""Events that the retention keeps."""
INTERVAL = 0.01


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


def cost_of_put(plan: FeedPlan, where: Place, book: Book) -> None:
    """Blocks of puts of each variant in turn; those with live members by themselves, since they take the machine's time too."""
    logging.getLogger("eventlog.feed").setLevel(logging.ERROR)  # that groups hold the feed back is what is measured
    traffic = counter(plan.puts + plan.slow_puts + plan.block)
    with contextlib.ExitStack() as stack:
        cases = [_case(plan, where, stack, traffic, variant) for variant in (NONE, REGISTERED, RETENTION, BOTH)]
        _measure(plan, book, ALONE, cases, plan.puts)
    with contextlib.ExitStack() as stack:
        cases = [_case(plan, where, stack, traffic, variant, more="again") for variant in (NONE, LIVE)]
        for number in range(plan.groups):
            stack.enter_context(follow(where, f"put-{LIVE}-again", f"group-{number}", "sync"))
        time.sleep(0.5)
        _measure(plan, book, BESIDE, cases, plan.puts)
        _measure(plan, book, SLOW, cases, plan.slow_puts, interval=INTERVAL)


def _case(
    plan: FeedPlan, where: Place, stack: contextlib.ExitStack, traffic: Traffic, variant: str, *, more: str = ""
) -> Case:
    prefix = f"put-{variant}-{more}"
    kept: dict[str, Any] = {"feed_retention": KEEP} if variant in {RETENTION, BOTH} else {}
    saver = stack.enter_context(RedisStreamSaver.from_conn_string(where.url, prefix=prefix, **kept))
    case = Case(variant, saver, Replay(saver, traffic, "agent"))
    for _ in range(plan.block // 4):
        saver.put(*case.arguments())
    if variant in {REGISTERED, BOTH}:
        with ActivityFeed.from_conn_string(where.url, prefix=prefix) as feed:
            for number in range(plan.groups):
                feed.group(f"group-{number}").register()
    return case


def _measure(plan: FeedPlan, book: Book, figure: str, cases: list[Case], puts: int, *, interval: float = 0) -> None:
    block = min(plan.block, puts)
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

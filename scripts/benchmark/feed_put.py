"""The cost of groups and of trimming for a put."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

from eventlog import ActivityFeed
from scripts.benchmark.book import Book
from scripts.benchmark.feed_child import follow
from scripts.benchmark.plan import FeedPlan
from scripts.benchmark.puts import Case, measure_puts, opened
from scripts.benchmark.servers import Servers
from scripts.benchmark.traffic import Traffic, counter

__all__ = ["PUTS", "cost_of_put"]

NONE, REGISTERED, LIVE = "no group", "10 groups, nobody reads", "10 groups, a live member each"
RETENTION, BOTH = "feed_retention, no group", "feed_retention, 10 groups nobody reads"
ALONE, TOGETHER, SLOW = "one after the other", "the same next to members", "next to members, a put every 10 ms"
PUTS = [
    (ALONE, NONE, None),
    *((ALONE, variant, NONE) for variant in (REGISTERED, RETENTION, BOTH)),
    *((figure, variant, against) for figure in (TOGETHER, SLOW) for variant, against in ((NONE, None), (LIVE, NONE))),
]
"""Figure, variant, and the variant that it is compared with."""
KEEP = 1000
"""The number of events that the retention keeps."""
INTERVAL = 0.01


def cost_of_put(plan: FeedPlan, servers: Servers, book: Book) -> None:
    """Measure blocks of puts of each variant in turn.

    Variants with live members run separately, because members use the machine as well.
    """
    # The benchmark lets groups hold trimming back on purpose.
    logging.getLogger("eventlog.feed").setLevel(logging.ERROR)
    traffic = counter(plan.puts + plan.slow_puts + plan.block)
    with contextlib.ExitStack() as stack:
        cases = [_case(plan, servers, stack, traffic, variant) for variant in (NONE, REGISTERED, RETENTION, BOTH)]
        measure_puts(book, ALONE, cases, plan.puts, block=plan.block)
    with contextlib.ExitStack() as stack:
        cases = [_case(plan, servers, stack, traffic, variant, more="again") for variant in (NONE, LIVE)]
        for number in range(plan.groups):
            stack.enter_context(follow(servers, f"put-{LIVE}-again", f"group-{number}", "sync"))
        time.sleep(0.5)
        measure_puts(book, TOGETHER, cases, plan.puts, block=plan.block)
        measure_puts(book, SLOW, cases, plan.slow_puts, block=plan.block, interval=INTERVAL)


def _case(
    plan: FeedPlan, servers: Servers, stack: contextlib.ExitStack, traffic: Traffic, variant: str, *, more: str = ""
) -> Case:
    prefix = f"put-{variant}-{more}"
    kept: dict[str, Any] = {"feed_retention": KEEP} if variant in {RETENTION, BOTH} else {}
    case = opened(servers, stack, traffic, variant, prefix, **kept)
    for _ in range(plan.block // 4):
        case.saver.put(*case.arguments())
    if variant in {REGISTERED, BOTH}:
        with ActivityFeed.from_conn_string(servers.url, prefix=prefix) as feed:
            for number in range(plan.groups):
                feed.group(f"group-{number}").register()
    return case

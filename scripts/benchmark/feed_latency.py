"""The time from a put to the handler in another process, on an idle system."""

from __future__ import annotations

import random
import time

from saver import RedisStreamSaver
from scripts.benchmark.book import Book, Sample
from scripts.benchmark.clock import now, quiet
from scripts.benchmark.feed_child import Follower, follow
from scripts.benchmark.plan import FeedPlan
from scripts.benchmark.servers import Servers
from scripts.benchmark.traffic import Replay, counter

__all__ = ["LATENCIES", "latency"]

FROM_CALL, FROM_RETURN = "from the call of put", "from its return"
VARIANTS = {"sync": "sync member", "async": "async member", "bare": "bare XREADGROUP, BLOCK"}
LATENCIES = [
    (figure, variant, VARIANTS["bare"] if figure == FROM_CALL and kind != "bare" else None)
    for figure in (FROM_CALL, FROM_RETURN)
    for kind, variant in VARIANTS.items()
]
"""Figure, variant, and the variant that it is compared with.

The handler may have the event before `put` returns.
"""
THREADS = 16


def latency(plan: FeedPlan, servers: Servers, book: Book) -> None:
    """Measure one follower at a time, in turn."""
    each = plan.latencies // plan.latency_rounds
    dice = random.Random(plan.seed)
    traffic = counter(-(-plan.latencies * len(VARIANTS) // THREADS) + 2)
    with RedisStreamSaver.from_conn_string(servers.url, prefix="latency") as saver:
        replays = [Replay(saver, traffic, f"agent-{number}") for number in range(THREADS)]
        puts = [(replay, n) for n in range(len(traffic)) for replay in replays]
        for replay, n in puts[:THREADS]:
            saver.put(*replay.put(n))
        at = THREADS
        for round in range(plan.latency_rounds):
            for kind, variant in VARIANTS.items():
                with follow(servers, "latency", f"{kind}-{round}", kind) as follower:
                    _block(plan, book, puts[at : at + each], follower, round=round, variant=variant, dice=dice)
                at += each


def _block(
    plan: FeedPlan,
    book: Book,
    puts: list[tuple[Replay, int]],
    follower: Follower,
    *,
    round: int,
    variant: str,
    dice: random.Random,
) -> None:
    called: dict[tuple[str, int], tuple[int, int]] = {}
    time.sleep(0.5)
    with quiet():
        for replay, n in puts:
            arguments = replay.put(n)
            time.sleep(plan.pause * dice.uniform(0.5, 1.5))
            began = now()
            replay.saver.put(*arguments)
            called[replay.thread, n + 1] = began, now()
    arrived = follower.arrivals(len(called))
    for key, (began, returned) in called.items():
        book.add(FROM_CALL, variant, Sample(round, 0, (arrived[key] - began) / 1e6))
        book.add(FROM_RETURN, variant, Sample(round, 0, (arrived[key] - returned) / 1e6))

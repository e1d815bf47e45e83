"""The cost of the feed: reads in a group, delay of a handler, puts with groups.

`scripts/bench --feed` runs this alone.
"""

from __future__ import annotations

from pathlib import Path

from scripts.benchmark.feed_latency import LATENCIES, latency
from scripts.benchmark.feed_put import PUTS, cost_of_put
from scripts.benchmark.feed_reading import READINGS, reading
from scripts.benchmark.plan import FeedPlan
from scripts.benchmark.rows import Bench, Row, Rows, measure_rows
from scripts.benchmark.servers import Servers

__all__ = ["measure_feed"]

TABLES = (
    Rows("Reading, events per second", "events/s", [Row(*row) for row in READINGS]),
    Rows("From a put to the handler, idle, ms", "ms", [Row(*row) for row in LATENCIES]),
    Rows("A put, ms", "ms", [Row(*row) for row in PUTS]),
)
BENCH = Bench("feed", (("reading", reading), ("latency", latency), ("puts", cost_of_put)), TABLES)


def measure_feed(plan: FeedPlan, servers: Servers, out: Path | None) -> None:
    """Run the benchmark, print tables, and write `feed.json`."""
    measure_rows(BENCH, plan, servers, out)

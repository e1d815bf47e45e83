"""What the feed costs: reading it in a group, how late a handler hears of a put, and what groups and trimming add to a put.

scripts/bench --feed runs this by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from scripts.benchmark.feed_latency import LATENCIES, latency
from scripts.benchmark.feed_plan import FeedPlan
from scripts.benchmark.feed_put import PUTS, cost_of_put
from scripts.benchmark.feed_reading import READINGS, reading
from scripts.benchmark.rows import Bench, Row, Rows, measure_rows
from scripts.benchmark.servers import Servers

__all__ = ["measure_feed"]

TABLES = (
    Rows("Reading, events a second", "events/s", [Row(*row) for row in READINGS]),
    Rows("From a put to the handler, idle, ms", "ms", [Row(*row) for row in LATENCIES]),
    Rows("A put, ms", "ms", [Row(*row) for row in PUTS]),
)
BENCH = Bench("feed", (("reading", reading), ("latency", latency), ("puts", cost_of_put)), TABLES)


def measure_feed(plan: FeedPlan, servers: Servers, out: Path | None, console: Console | None = None) -> dict[str, Any]:
    """Runs it; prints tables, and writes `feed.json`. What is in the file."""
    return measure_rows(BENCH, plan, servers, out, console)

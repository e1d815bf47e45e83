"""How much of the feed's benchmark is run."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["FeedPlan"]


@dataclass(frozen=True)
class FeedPlan:
    """Sizes and repetitions."""

    pointers: int = 40_000
    batch: int = 100
    rounds: int = 5
    latencies: int = 200
    latency_rounds: int = 2
    pause: float = 0.015
    """Seconds between two puts where the system is to be idle: half of it to one and a half."""
    puts: int = 2000
    block: int = 100
    """Puts of one variant before it is the next one's turn."""
    slow_puts: int = 200
    groups: int = 10
    seed: int = 7

    def quick(self) -> FeedPlan:
        """The same with fewer repetitions."""
        return replace(self, pointers=10_000, rounds=3, latencies=60, puts=400, slow_puts=60)

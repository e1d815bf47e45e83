"""The longest request of each operation on a hostile data set: how long one call may hold the server."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scripts.benchmark.servers import BenchError, Servers
from tests.hostile import Hostile, Sizes, Work

__all__ = ["QUICK", "measure_longest"]

QUICK = Sizes(threads=20, namespaces=200, large=2_500, runs=5_000, history=100, channels=20)
LIMIT = 50
"""Milliseconds that no request should take."""


class Longest(NamedTuple):
    """The longest request of an operation."""

    operation: str
    requests: int
    seconds: float
    """The time that the whole operation took."""
    ms: float
    """CPU time of the server's main thread in the longest request."""
    work: Work | None


def measure_longest(sizes: Sizes, servers: Servers) -> list[Longest]:
    """Run every operation, and print the longest request of each.

    It is measured in CPU time of the server's main thread, which other programs on the machine disturb little. Lazily freed memory
    is freed by another thread. Raises `BenchError` if the server is not a process of this Linux machine.
    """
    with tempfile.TemporaryDirectory(prefix="longest-") as folder:
        hostile = Hostile(servers.url, Path(folder), sizes)
        try:
            hostile.build()
            print(f"{servers.described()}, {sizes}\n")
            print(
                "| operation | requests | in all, s | longest request, ms | script or command |\n|---|---|---|---|---|"
            )
            found = []
            for one in _measured(hostile):
                found.append(one)
                name = one.work.name.rpartition("/")[2] if one.work else ""
                print(f"| {one.operation} | {one.requests:,} | {one.seconds:.2f} | {one.ms:.1f} | {name} |", flush=True)
        finally:
            hostile.close()
    over = [one.operation for one in found if one.ms > LIMIT]
    print(f"\nOver {LIMIT} ms: {', '.join(over) or 'none'}.")
    return found


def _measured(hostile: Hostile) -> Iterator[Longest]:
    pid = hostile.client.info("server")["process_id"]
    times = Path(f"/proc/{pid}/task/{pid}/schedstat")
    if not times.exists():
        raise BenchError("--longest needs a server of this machine, on Linux; leave --url out")

    def cpu_ms() -> float:
        return int(times.read_text().split()[0]) / 1e6

    works = hostile.watch(cpu_ms)
    for name, operation in hostile.operations():
        works.clear()
        began = time.monotonic()
        operation()
        seconds = time.monotonic() - began
        slowest = max(works, key=lambda work: work.amount, default=None)
        yield Longest(name, len(works), seconds, slowest.amount if slowest else 0.0, slowest)

"""The cost of calls: wall time, CPU time of client and server, and bytes on the wire."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scripts.benchmark.clock import now
from scripts.benchmark.servers import BenchError, Servers

__all__ = ["Cost", "Meter", "main_thread_ms"]


class Cost(NamedTuple):
    """The cost of one call, in microseconds and bytes."""

    wall: float
    client: float
    """CPU time of all threads of this process."""
    server: float
    """CPU time of the server's main thread."""
    received: float
    """Bytes that the server received."""
    sent: float
    """Bytes that the server sent."""


def main_thread_ms(servers: Servers) -> Callable[[], float]:
    """Return a function that returns the CPU time of the server's main thread in ms.

    Raises `BenchError` if the server is not a process of this Linux machine.
    """
    pid = servers.redis.info("server")["process_id"]
    times = Path(f"/proc/{pid}/task/{pid}/schedstat")
    if not times.exists():
        raise BenchError("the server's CPU time needs a server of this machine, on Linux; leave --url out")
    return lambda: int(times.read_text().split()[0]) / 1e6


class Meter:
    """Measures blocks of calls. No other client may use the server meanwhile."""

    def __init__(self, servers: Servers) -> None:
        self._redis = servers.redis
        self._server_ms = main_thread_ms(servers)

    def measure(self, calls: Callable[[], object], count: int) -> Cost:
        """Run a block of `count` calls, and return the mean cost of one."""
        before = self._bytes()
        server, client, began = self._server_ms(), time.process_time_ns(), now()
        calls()
        wall, client = now() - began, time.process_time_ns() - client
        server = self._server_ms() - server
        after = self._bytes()
        own = [later - earlier for later, earlier in zip(self._bytes(), after, strict=True)]
        received, sent = (later - earlier - mine for later, earlier, mine in zip(after, before, own, strict=True))
        return Cost(wall / 1e3 / count, client / 1e3 / count, server * 1e3 / count, received / count, sent / count)

    def _bytes(self) -> tuple[int, int]:
        info = self._redis.info("stats")
        return int(info["total_net_input_bytes"]), int(info["total_net_output_bytes"])

"""Waiting for a connection of a pool that has none left and does not wait itself."""

from __future__ import annotations

import time
from collections.abc import Iterator

__all__ = ["PATIENCE", "pauses"]

PATIENCE = 20.0
"""Seconds a call waits for a connection of a pool that does not wait itself."""


def pauses() -> Iterator[float]:
    """Growing pauses, in seconds, until patience with an exhausted pool ends."""
    deadline, pause = time.monotonic() + PATIENCE, 0.001
    while time.monotonic() < deadline:
        yield pause
        pause = min(pause * 2, 0.05)

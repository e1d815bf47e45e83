"""Steps serve the sync and the async driver with one source.

A method of a redis-py client returns a reply; that of an asyncio client returns an awaitable. Steps are a generator
that yields what such a method returned and receives the reply. So one generator works on both kinds of clients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import redis.exceptions as rx

from eventlog.errors import is_exhausted

__all__ = ["PATIENCE", "Steps", "finish", "finish_async", "patiently"]

Steps = Generator[Any, Any, Any]

PATIENCE = 20.0
"""Seconds that a call waits for a connection of an exhausted pool which does not wait itself."""


def finish(steps: Steps) -> Any:
    """The result of steps on a sync client."""
    reply = None
    try:
        while True:
            reply = steps.send(reply)
    except StopIteration as stop:
        return stop.value


async def finish_async(steps: Steps) -> Any:
    """The result of steps on an asyncio client."""
    try:
        awaitable = next(steps)
        while True:
            try:
                reply = await awaitable
            except BaseException as error:  # noqa: BLE001 - the steps catch it, or raise it here
                awaitable = steps.throw(error)
            else:
                awaitable = steps.send(reply)
    except StopIteration as stop:
        return stop.value


def patiently(attempt: Callable[[], Steps], sleep: Callable[[float], Any]) -> Steps:
    """Repeats `attempt` while the pool is exhausted, for `PATIENCE` at most.

    Then it raises the error of the pool. `sleep` is `time.sleep` or `asyncio.sleep`.
    """
    deadline, pause = 0.0, 0.001
    while True:
        try:
            return (yield from attempt())
        except rx.ConnectionError as error:
            deadline = deadline or time.monotonic() + PATIENCE
            if not is_exhausted(error) or time.monotonic() >= deadline:
                raise
        yield sleep(pause)
        pause = min(pause * 2, 0.05)

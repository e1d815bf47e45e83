"""Waits for new entries of streams with a blocking `XREAD`.

On one server a single command waits for all streams. On a cluster the keys of a command must share a slot, so each
stream has a wait of its own, in a thread or a task. A wait outlives the request that began it and serves the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from concurrent import futures
from threading import Lock
from typing import Any

import redis.exceptions as rx
from redis.asyncio.cluster import RedisCluster

from eventlog.flow import Wait
from eventlog.forks import renew_after_fork
from eventlog.transport.steps import Steps, finish, finish_async

__all__ = ["StreamWaits", "block_for", "keys_in", "xread"]

LONGEST = 1000
"""Most ms of one `XREAD`: a caller that is asked to stop notices within that time."""
_PAUSE = 0.05
"""Seconds to wait after a failure, before the following read reports it."""
_ERRORS = (rx.RedisError, rx.RedisClusterException, OSError)


def block_for(client: Any, ms: int) -> int:
    """Ms to block on a client: at least one, and less than its `socket_timeout`.

    A longer wait would look like a dead server, and 0 means without end to `XREAD`.
    """
    pool = getattr(client, "connection_pool", None)
    options = pool.connection_kwargs if pool is not None else client.get_connection_kwargs()
    timeout = options.get("socket_timeout")
    return max(1, min(ms, LONGEST, int(timeout * 800) if timeout else LONGEST))


def xread(streams: Iterable[tuple[bytes, bytes]], ms: int) -> list[Any]:
    """The command that waits for an entry after the given id of each stream."""
    keys, ids = zip(*streams, strict=True)
    return ["XREAD", "COUNT", "1", "BLOCK", str(ms), "STREAMS", *keys, *ids]


def keys_in(reply: Any) -> list[bytes]:
    """Keys of the streams in a reply to `XREAD`, in any form that redis-py gives it."""
    if isinstance(reply, dict):
        return list(reply)
    return [item[0] for item in reply or ()]


class StreamWaits:
    """Waits on one cluster client, in threads or in tasks of an asyncio client's loop."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._is_async = isinstance(client, RedisCluster)
        self._sleep: Any = asyncio.sleep if self._is_async else time.sleep
        self._begin_process()
        renew_after_fork(self)

    def _begin_process(self) -> None:
        self._lock = Lock()
        self._threads = futures.ThreadPoolExecutor(64, "stream-wait")
        self._begun: dict[bytes, Any] = {}
        """The wait of each stream: a task, or the future of a thread."""

    def wait(self, request: Wait) -> Steps:
        """Keys of the streams that have or may have new entries."""
        deadline = time.monotonic() + block_for(self._client, request.ms) / 1000
        while (left := deadline - time.monotonic()) > 0:
            with self._lock:
                for key, after in request.streams:
                    if key not in self._begun:
                        self._begun[key] = self._begin(self._wait_for(key, after, max(1, int(left * 1000))))
                waits = {self._begun[key]: key for key, _ in request.streams}
            done, _ = yield self._first_of(waits, left)
            with self._lock:
                for wait in done:
                    if self._begun.get(waits[wait]) is wait:
                        del self._begun[waits[wait]]
            if news := [waits[wait] for wait in done if wait.result()]:
                return news
        return []

    def _begin(self, steps: Steps) -> Any:
        return asyncio.ensure_future(finish_async(steps)) if self._is_async else self._threads.submit(finish, steps)

    def _first_of(self, waits: Iterable[Any], seconds: float) -> Any:
        if self._is_async:
            return asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return futures.wait(waits, seconds, futures.FIRST_COMPLETED)

    def _wait_for(self, key: bytes, after: bytes, ms: int) -> Steps:
        try:
            node = self._client.get_node_from_key(key)
            return bool((yield self._client.execute_command(*xread([(key, after)], ms), target_nodes=node)))
        except _ERRORS:  # a failing node or a moving slot: the following read reports it, or succeeds
            pass
        yield self._sleep(_PAUSE)
        return True

"""Waiting for news of streams: `XREAD` with `BLOCK`, which reads nothing here but tells that there is something to read.

On one server all streams are waited for in one command. On a cluster a command's keys are in one slot, so each stream is waited for
on its own, in threads or tasks that outlive the call that began them: one that is still waiting serves the next call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from concurrent import futures
from threading import Lock
from typing import Any

import redis.exceptions as rx

from eventlog.flow import Wait
from eventlog.forks import renew_after_fork

__all__ = ["AsyncWaits", "SyncWaits"]

LONGEST = 1000
"""Ms that a server is asked to wait at once: whoever waits is to notice within that time that it shall stop."""
_MISSED = 0.05
"""Seconds to wait after a failure, before what failed is looked at by a call that says what is wrong."""
_ERRORS = (rx.RedisError, rx.RedisClusterException, OSError)


def block_for(client: Any, ms: int) -> int:
    """Ms to block on a client: less than its `socket_timeout`, since it would take the server for dead. At least one:
    0 is for ever.
    """
    pool = getattr(client, "connection_pool", None)
    options = pool.connection_kwargs if pool is not None else client.get_connection_kwargs()
    timeout = options.get("socket_timeout")
    return max(1, min(ms, LONGEST, int(timeout * 800) if timeout else LONGEST))


def words(streams: Iterable[tuple[bytes, bytes]], ms: int) -> list[Any]:
    """The command."""
    keys, ids = zip(*streams, strict=True)
    return ["XREAD", "COUNT", 1, "BLOCK", ms, "STREAMS", *keys, *ids]


def keys_in(reply: Any) -> list[bytes]:
    """The streams that a reply has entries of, however redis-py has transformed it."""
    if isinstance(reply, dict):
        return list(reply)
    return [item[0] for item in reply or ()]


class SyncWaits:
    """Waits on a sync cluster client."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._begin_process()
        renew_after_fork(self)

    def _begin_process(self) -> None:
        self._lock = Lock()
        self._threads = futures.ThreadPoolExecutor(64, "stream-wait")
        self._begun: dict[bytes, futures.Future[bool]] = {}

    def wait(self, request: Wait) -> list[bytes]:
        """Keys of streams that have news, or may have."""
        deadline = time.monotonic() + block_for(self.client, request.ms) / 1000
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return []
            with self._lock:
                for key, after in request.streams:
                    if key not in self._begun:
                        self._begun[key] = self._threads.submit(self._wait_for, key, after, max(1, int(left * 1000)))
                asked = {self._begun[key]: key for key, _ in request.streams}
            done, _ = futures.wait(asked, left, futures.FIRST_COMPLETED)
            with self._lock:
                for future in done:
                    if self._begun.get(asked[future]) is future:
                        del self._begun[asked[future]]
            if news := [asked[future] for future in done if future.result()]:
                return news

    def _wait_for(self, key: bytes, after: bytes, ms: int) -> bool:
        try:
            node = self.client.get_node_from_key(key)
            return bool(self.client.execute_command(*words([(key, after)], ms), target_nodes=node))
        except _ERRORS:  # a node that fails, a slot that moves: the read that follows says which, or gets through
            time.sleep(_MISSED)
            return True


class AsyncWaits:
    """Waits on an asyncio cluster client, on its event loop."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._begun: dict[bytes, asyncio.Task[bool]] = {}

    async def wait(self, request: Wait) -> list[bytes]:
        """Keys of streams that have news, or may have."""
        deadline = time.monotonic() + block_for(self.client, request.ms) / 1000
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return []
            for key, after in request.streams:
                if key not in self._begun:
                    self._begun[key] = asyncio.ensure_future(self._wait_for(key, after, max(1, int(left * 1000))))
            asked = {self._begun[key]: key for key, _ in request.streams}
            done, _ = await asyncio.wait(asked, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if self._begun.get(asked[task]) is task:
                    del self._begun[asked[task]]
            if news := [asked[task] for task in done if task.result()]:
                return news

    async def _wait_for(self, key: bytes, after: bytes, ms: int) -> bool:
        try:
            node = self.client.get_node_from_key(key)
            return bool(await self.client.execute_command(*words([(key, after)], ms), target_nodes=node))
        except _ERRORS:
            await asyncio.sleep(_MISSED)
            return True

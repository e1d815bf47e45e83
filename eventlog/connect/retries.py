"""redis-py's retries, within which a call waits for a silent server three times at most.

redis-py connects within a call that it repeats, and that repeats too. So ten retries become a hundred. Rules:

1. Only the outermost of nested repetitions on a connection repeats. Each connection has a copy of its own.
2. The third timeout ends a call. Other failures, such as a refused connection, are repeated as the policy says.
3. The pauses between attempts are those of the policy.
4. A cluster's client repeats a command itself, and asks the nodes for the slots between two attempts. The third timeout
   ends that as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import redis.asyncio.cluster
import redis.asyncio.retry
import redis.cluster
import redis.exceptions as rx
import redis.retry

__all__ = ["TIMEOUTS", "AsyncCluster", "AsyncPatience", "SyncCluster", "SyncPatience", "earlier_timeouts", "policy_of"]

TIMEOUTS = 3
"""Most timeouts of one call."""
_TIMEOUTS = (rx.TimeoutError, TimeoutError, asyncio.TimeoutError)
_POLICIES = (redis.retry.Retry, redis.asyncio.retry.Retry)


def policy_of(given: Any, kind: Any) -> Any:
    """The retry policy `given` as one of `kind`; a class of the caller's own stays."""
    if given is None or (isinstance(given, kind) and type(given) not in _POLICIES):
        return given
    return kind(given._backoff, given._retries, supported_errors=given._supported_errors)


class _Count:
    """The timeouts of a call; after the last one, its policy has no retries left."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self._retries = policy.get_retries()
        self._timeouts = 0

    def __enter__(self) -> None:
        self._policy.within = True

    def __exit__(self, *_: object) -> None:
        self._policy.within = False
        self._policy.update_retries(self._retries)

    def add(self, error: Exception) -> None:
        self._timeouts += isinstance(error, _TIMEOUTS)
        if self._timeouts == TIMEOUTS:
            self._policy.update_retries(0)


class SyncPatience(redis.retry.Retry):
    """A retry policy for redis-py's sync connections."""

    within = False
    """Whether a call is being carried out."""

    def call_with_retry(self, do: Callable[[], Any], fail: Callable[..., Any], *more: Any, **named: Any) -> Any:
        """The result of `do`; `fail` is called after each failure."""
        if self.within:
            once = redis.retry.Retry(self._backoff, 0, self._supported_errors)
            return once.call_with_retry(do, fail, *more, **named)
        count = _Count(self)

        def attempt() -> Any:
            try:
                return do()
            except Exception as error:
                count.add(error)
                raise

        with count:
            return super().call_with_retry(attempt, fail, *more, **named)


class AsyncPatience(redis.asyncio.retry.Retry):
    """A retry policy for redis-py's asyncio connections."""

    within = False
    """Whether a call is being carried out."""

    async def call_with_retry(
        self, do: Callable[[], Awaitable[Any]], fail: Callable[..., Any], *more: Any, **named: Any
    ) -> Any:
        """The result of `do`; `fail` is called after each failure."""
        if self.within:
            once = redis.asyncio.retry.Retry(self._backoff, 0, self._supported_errors)
            return await once.call_with_retry(do, fail, *more, **named)
        count = _Count(self)

        async def attempt() -> Any:
            try:
                return await do()
            except Exception as error:
                count.add(error)
                raise

        with count:
            return await super().call_with_retry(attempt, fail, *more, **named)


class _LastTimeout(rx.TimeoutError):
    """The timeout that ends a command; redis-py repeats a command after errors of its own types only."""


_spent: ContextVar[int] = ContextVar("spent", default=0)
"""The timeouts of the command that the thread or task carries out."""


_earlier: ContextVar[int] = ContextVar("earlier", default=0)
"""The timeouts before the client of a cluster got the command."""


@contextlib.contextmanager
def earlier_timeouts(count: int) -> Iterator[None]:
    """Counts timeouts of a call that a cluster's client repeats within this block."""
    token = _earlier.set(count)
    try:
        yield
    finally:
        _earlier.reset(token)


@contextlib.contextmanager
def _command() -> Iterator[None]:
    token = _spent.set(_earlier.get())
    try:
        yield
    finally:
        _spent.reset(token)


@contextlib.contextmanager
def _attempt() -> Iterator[None]:
    try:
        yield
    except rx.TimeoutError as error:
        _spent.set(_spent.get() + 1)
        if _spent.get() >= TIMEOUTS:
            raise _LastTimeout(*error.args) from error
        raise


class SyncCluster(redis.cluster.RedisCluster):
    """redis-py's sync client of a cluster, with a bound to the timeouts of a command."""

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """The reply of a command."""
        with _command():
            return super().execute_command(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _execute_command(self, target_node: Any, *args: Any, **kwargs: Any) -> Any:
        with _attempt():
            return super()._execute_command(target_node, *args, **kwargs)  # type: ignore[no-untyped-call]


class AsyncCluster(redis.asyncio.cluster.RedisCluster):
    """redis-py's asyncio client of a cluster, with a bound to the timeouts of a command."""

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """The reply of a command."""
        with _command():
            return await super().execute_command(*args, **kwargs)

    async def _execute_command(self, target_node: Any, *args: Any, **kwargs: Any) -> Any:
        with _attempt():
            return await super()._execute_command(target_node, *args, **kwargs)

"""Members of a consumer group: iterators over events, or runners of a handler.

Sync and async methods are on one class. A thread or a task renews the leases beside the iteration, so that a handler may
take its time.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from types import FrameType, TracebackType
from typing import Any
from weakref import WeakSet

from typing_extensions import Self

from eventlog.errors import EffectRefused, EventLogError, InvalidArgument, ServerOutOfMemory
from eventlog.feed.activity import Activity, Filters
from eventlog.feed.delivery import Delivery
from eventlog.feed.leases import Leases
from eventlog.feed.options import name_of
from eventlog.feed.reading import PASSING, steadfast
from eventlog.feed.source import UNUSED, FeedSource
from eventlog.flow import Argument, Flow, Pause
from eventlog.keys import Keyspace
from eventlog.printable import printable

__all__ = ["Member"]

log = logging.getLogger("eventlog.feed")


class Member(AbstractContextManager, AbstractAsyncContextManager):  # type: ignore[type-arg]
    """One member of a consumer group, made by `Group.member`.

    `with` joins the group, in a round trip per partition, and leaves it. Iterating hands out events one by one, without
    end, until `stop`. Asking for the next event acknowledges the last one. If the loop's body raises, the event is tried
    again later, and parked after `max_attempts`. If the loop is left by `break`, the event in hand is handed out again,
    unless `acknowledge` was called. One thread or task at a time may use a member.

    Iterating raises `PositionLost` if the server lost entries that this member had read, and goes on afterwards with the
    entries that the server has. It raises `GroupNotFound` if the group was dropped, and the server's errors once they have
    lasted for `patience`.
    """

    def __init__(
        self,
        source: FeedSource,
        group: str,
        name: str,
        register: Callable[[], Flow[tuple[Keyspace, Filters] | None]],
        *,
        batch: int,
        lease: float,
        max_attempts: int,
        backoff: float | Callable[[int], float],
        acknowledge_within: float,
        stop_on_sigterm: bool,
        patience: float,
    ) -> None:
        self.group = group
        self.name = name_of("member", name)
        self._source = source
        self._register = register
        self._lease = lease
        self._options: dict[str, Any] = {
            "batch": batch,
            "max_attempts": max_attempts,
            "backoff": backoff if callable(backoff) else _doubling(backoff),
            "acknowledge_within": acknowledge_within,
        }
        self._patience = patience
        self._on_sigterm = stop_on_sigterm
        self._runner = source.runner
        self._subject = f"group {group!r}"
        self._delivery: Delivery | None = None
        self._stopped = False
        self._broken: BaseException | None = None
        self._pid = os.getpid()
        self._own: EventLogError | None = None
        """The last error of the iteration itself, which is no failure of a handler."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Event | None = None

    # Joining and leaving.

    def __enter__(self) -> Self:
        """Joins the group, and registers it if necessary."""
        self._refuse_twice()
        self._watch_sigterm()
        try:
            self._runner.run(self._join(), self._subject)
        except BaseException:
            self._end()
            raise
        self._thread = threading.Thread(target=self._keep_leases, name=f"leases of {self.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Leaves the group; an event whose body raised is tried again or parked."""
        self._end()
        if self._thread is not None:
            self._thread.join()
        try:
            self._runner.run(self._leave(error), self._subject)
        except EventLogError as failure:
            self._could_not_leave(failure, error)
        finally:
            self._delivery = None

    async def __aenter__(self) -> Self:
        """Joins the group, and registers it if necessary."""
        self._refuse_twice()
        self._watch_sigterm()
        try:
            await self._runner.arun(self._join(), self._subject)
        except BaseException:
            self._end()
            raise
        self._ending = asyncio.Event()
        self._task = asyncio.create_task(self._akeep_leases(self._ending))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Leaves the group; an event whose body raised is tried again or parked."""
        self._end()
        if self._task is not None and self._ending is not None:
            self._ending.set()
            await asyncio.wait([self._task])
        try:
            await self._runner.arun(self._leave(error), self._subject)
        except EventLogError as failure:
            self._could_not_leave(failure, error)
        finally:
            self._delivery = None

    # Iterating.

    def __iter__(self) -> Iterator[Activity]:
        return self

    def __next__(self) -> Activity:
        """Acknowledges the event in hand, and hands out the next. Ends after `stop`."""
        if self._delivery is not None and not self._stopped and self._broken is None:
            activity = self._delivery.assignment.finish_and_ready()
            if activity is not None:
                return activity
        found = self._runner.run(self._next(), self._subject)
        if found is None:
            raise StopIteration
        return found

    def __aiter__(self) -> AsyncIterator[Activity]:
        return self

    async def __anext__(self) -> Activity:
        """Async form of `__next__`."""
        if self._delivery is not None and not self._stopped and self._broken is None:
            activity = self._delivery.assignment.finish_and_ready()
            if activity is not None:
                return activity
        found = await self._runner.arun(self._next(), self._subject)
        if found is None:
            raise StopAsyncIteration
        return found

    def run(self, handler: Callable[[Activity], object]) -> None:
        """Calls `handler` with each event until `stop`.

        An event whose handler raises is tried again or parked. Raises `TypeError` for a coroutine function, which
        `arun` takes.
        """
        if inspect.iscoroutinefunction(handler):
            raise TypeError("handler is a coroutine function; await member.arun(handler), in `async` code.")
        with self:
            while True:
                try:
                    activity = next(self, None)
                except EffectRefused:  # recorded as a failure
                    continue
                if activity is None:
                    return
                try:
                    _refuse_awaitable(handler(activity))
                except Exception as error:  # noqa: BLE001 - recorded as a failure, whatever it is
                    self._runner.run(self._fail(error), self._subject)

    async def arun(self, handler: Callable[[Activity], Awaitable[object] | object]) -> None:
        """Async form of `run`; the handler may be a coroutine function."""
        async with self:
            while True:
                try:
                    activity = await anext(self, None)
                except EffectRefused:  # recorded as a failure
                    continue
                if activity is None:
                    return
                try:
                    outcome = handler(activity)
                    if inspect.isawaitable(outcome):
                        await outcome
                except Exception as error:  # noqa: BLE001 - recorded as a failure, whatever it is
                    await self._runner.arun(self._fail(error), self._subject)

    def stop(self) -> None:
        """Ends the iteration after the event in hand, or within a second if there is none.

        It may be called from any thread, and from a signal's handler.
        """
        self._stopped = True

    def acknowledge(self) -> None:
        """Acknowledges the event in hand now, before the next one is asked for."""
        self._runner.run(self._steadily(self._acknowledged), self._subject)

    async def aacknowledge(self) -> None:
        """Async form of `acknowledge`."""
        await self._runner.arun(self._steadily(self._acknowledged), self._subject)

    def effect(self, command: str, name: str, *arguments: Argument | float) -> None:
        """Has a Redis command run once, with the acknowledgement of the event in hand.

        Both run in one script, or neither does. `name` stands for a key of the group in the event's partition
        (`Group.effect_keys` lists them); `arguments` follow it.

        Commands: HSET, HSETNX, HDEL, HINCRBY, HINCRBYFLOAT, SET, INCRBY, DECRBY, INCRBYFLOAT, APPEND, ZADD, ZINCRBY,
        ZREM, SADD, SREM, RPUSH, LPUSH, LTRIM, XADD, PEXPIRE, DEL. No round trip; asking for the next event then takes
        one. It raises `EffectRefused` if the server refuses a command, which counts as a failure of the handler.
        """
        self._joined().assignment.add_effect(command, name, arguments)

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partitions that this member leases now."""
        return () if self._delivery is None else tuple(sorted(self._delivery.leases.tokens))

    # Flows.

    def _joined(self) -> Delivery:
        if self._broken is not None:
            raise self._broken
        if self._delivery is None:
            raise InvalidArgument(f"{self._subject}: member {self.name!r} has not joined; use it inside `with`.")
        return self._delivery

    def _refuse_twice(self) -> None:
        if self._delivery is not None:
            raise InvalidArgument(
                f"{self._subject}: member {self.name!r} is in use; make another with group.member(...)."
            )
        self._stopped, self._broken, self._own = False, None, None
        self._pid = os.getpid()
        self._ended.clear()

    def _steadily(self, make: Callable[[], Flow[Any]]) -> Flow[Any]:
        return steadfast(make, self._patience, lambda: self._stopped)

    def _join(self) -> Flow[None]:
        found = None
        while found is None:
            found = yield from self._steadily(self._register)
            if found is None and self._stopped:
                return
            if found is None:
                yield Pause(UNUSED)
        keyspace, filters = found
        leases = Leases(keyspace, self.group, self.name, self._lease)
        yield from self._steadily(leases.upkeep)
        self._delivery = Delivery(keyspace, self.group, filters, leases, loader=self._source, **self._options)

    def _next(self) -> Flow[Activity | None]:
        """Hands out the next event; None after `stop`."""
        if self._stopped and self._delivery is None:
            return None
        try:
            while True:
                found: Activity | None = yield from self._steadily(self._finish_and_next)
                if found is not None or self._stopped:
                    return found
        except EffectRefused as error:
            self._own = error
            yield from self._fail(error)
            raise
        except EventLogError as error:
            self._own = error
            if self._stopped and isinstance(error, PASSING):
                return None
            raise

    def _finish_and_next(self) -> Flow[Activity | None]:
        delivery = self._joined()
        yield from delivery.finish()
        if self._stopped:
            return None
        return (yield from delivery.next())

    def _acknowledged(self) -> Flow[None]:
        delivery = self._joined()
        yield from delivery.finish()
        yield from delivery.settle()

    def _fail(self, error: Exception) -> Flow[None]:
        delivery = self._joined()
        yield from self._steadily(lambda: delivery.fail(error))

    def _leave(self, error: BaseException | None) -> Flow[None]:
        delivery = self._delivery
        if delivery is None or self._pid != os.getpid():  # in a forked child: the leases belong to the parent
            return
        if isinstance(error, Exception) and error is not self._own:
            yield from delivery.fail(error)
        yield from delivery.leave()

    def _could_not_leave(self, failure: EventLogError, error: BaseException | None) -> None:
        if self._broken is not None or error is not None:
            log.warning(
                "%s: member %r could not leave; its leases end by themselves: %s",
                self._subject,
                self.name,
                printable(str(failure)),
            )
            return
        raise failure

    def _end(self) -> None:
        self._ended.set()
        _STOPPED_BY_SIGTERM.discard(self)

    # The leases' upkeep, beside the iteration.

    def _keep_leases(self) -> None:
        delivery = self._delivery
        if delivery is None:  # stopped before anything was written under the prefix
            return
        while not self._ended.wait(delivery.leases.interval):
            try:
                self._runner.run(delivery.leases.upkeep(), self._subject)
            except Exception as error:  # noqa: BLE001 - raised by the iteration
                if self._noted(error):
                    return

    async def _akeep_leases(self, ending: asyncio.Event) -> None:
        delivery = self._delivery
        if delivery is None:
            return
        while True:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ending.wait(), delivery.leases.interval)
            if ending.is_set():
                return
            try:
                await self._runner.arun(delivery.leases.upkeep(), self._subject)
            except Exception as error:  # noqa: BLE001 - raised by the iteration
                if self._noted(error):
                    return

    def _noted(self, error: Exception) -> bool:
        """Notes an error of the upkeep; False for an error that may pass."""
        if isinstance(error, (*PASSING, ServerOutOfMemory)):
            log.warning("%s: member %r could not renew its leases: %s", self._subject, self.name, printable(str(error)))
            return False
        self._broken = error
        return True

    def _watch_sigterm(self) -> None:
        if not self._on_sigterm or threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _stop_all)
        if signal.getsignal(signal.SIGTERM) is _stop_all:
            _STOPPED_BY_SIGTERM.add(self)


_STOPPED_BY_SIGTERM: WeakSet[Member] = WeakSet()
# A child that a handler forks is no member.
if hasattr(os, "register_at_fork"):  # pragma: no branch - only Windows, where nothing forks, has no such function
    os.register_at_fork(after_in_child=_STOPPED_BY_SIGTERM.clear)


def _stop_all(_: int, __: FrameType | None) -> None:
    """Handles SIGTERM: each member ends after the event in hand.

    Without members the signal has its usual effect.
    """
    members = list(_STOPPED_BY_SIGTERM)
    for member in members:
        member.stop()
    if not members:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)


def _refuse_awaitable(outcome: object) -> None:
    """Raises `TypeError` for an awaitable, since nothing would await it."""
    if inspect.isawaitable(outcome):
        if inspect.iscoroutine(outcome):
            outcome.close()
        raise TypeError("the handler returned an awaitable, which run() cannot await; use arun().")


def _doubling(first: float) -> Callable[[int], float]:
    return lambda attempts: first * 2.0 ** min(attempts - 1, 30)

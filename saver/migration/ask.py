"""Asking savers, of whatever kind, in either colour.

As with flows, work is a generator that yields requests and receives replies; here a request is a call on a saver, or on what lies
below it. A saver that has but one colour is asked in that: a sync one by async work in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, Union

from langgraph.checkpoint.base import BaseCheckpointSaver

from eventlog.flow import Flow

__all__ = ["Ask", "Execute", "Listing", "Query", "RunFlow", "Work", "aperform", "perform"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """Call a saver's method; `method` is the sync one's name."""

    saver: BaseCheckpointSaver[Any]
    method: str
    arguments: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Listing:
    """What a saver lists, or the configs alone of what it lists."""

    saver: BaseCheckpointSaver[Any]
    config: Any
    before: Any = None
    limit: int | None = None
    names_only: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """Rows, as tuples, from the database of a saver on SQLite or PostgreSQL."""

    saver: Any
    sql: str
    values: Sequence[str]


@dataclass(frozen=True, slots=True)
class Execute:
    """A command on a client of Redis or Valkey, sync or async."""

    client: Any
    words: Sequence[Any]


@dataclass(frozen=True, slots=True)
class RunFlow:
    """Run a flow on the connections of a `RedisStreamSaver`."""

    saver: Any
    flow: Flow[Any]


Request = Union[Ask, Listing, Query, Execute, RunFlow]
Work = Generator[Request, Any, T]

SUBJECT = "a migration"


def perform(work: Work[T]) -> T:
    """Result of work on savers with sync methods. Raises `TypeError` for one that has none, or none that work here."""
    try:
        request = next(work)
        while True:
            try:
                reply = _answer(request)
            except Exception as error:  # noqa: BLE001 - the work's to catch
                request = work.throw(error)
            else:
                request = work.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def aperform(work: Work[T]) -> T:
    """Async twin of `perform`; sync savers are called in a thread."""
    try:
        request = next(work)
        while True:
            try:
                reply = await _aanswer(request)
            except Exception as error:  # noqa: BLE001 - the work's to catch
                request = work.throw(error)
            else:
                request = work.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def _answer(request: Request) -> Any:
    if isinstance(request, RunFlow):
        return request.saver._runner.run(request.flow, SUBJECT)
    if isinstance(request, Execute):
        reply = request.client.execute_command(*request.words)
        if asyncio.iscoroutine(reply):
            reply.close()
            raise _only_async(request.client)
        return reply
    _refuse_async(request.saver)
    if isinstance(request, Query):
        return _rows(request)
    try:
        if isinstance(request, Ask):
            return getattr(request.saver, request.method)(*request.arguments)
        return _listed(request, request.saver.list(request.config, before=request.before, limit=request.limit))
    except NotImplementedError as error:
        raise _only_async(request.saver) from error


def _only_async(saver: object) -> TypeError:
    return TypeError(f"{type(saver).__name__} has async methods only: use amigrate, on its event loop.")


def _refuse_async(saver: Any) -> None:
    """Some async savers have sync methods that wait for their loop, for ever where it does not run."""
    loop = getattr(saver, "loop", None)
    if isinstance(loop, asyncio.AbstractEventLoop):
        raise _only_async(saver)


def _listed(request: Listing, found: Any) -> list[Any]:
    return [one.config if request.names_only else one for one in found]


def _rows(request: Query) -> list[tuple[Any, ...]]:
    saver = request.saver
    opened = saver.cursor(transaction=False) if hasattr(saver, "cursor") else saver._cursor()
    with opened as cursor:
        cursor.execute(request.sql, request.values)
        return _tuples(cursor.fetchall())


def _tuples(rows: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) if isinstance(row, dict) else tuple(row) for row in rows]


async def _aanswer(request: Request) -> Any:
    if isinstance(request, RunFlow):
        return await request.saver._runner.arun(request.flow, SUBJECT)
    if isinstance(request, Execute):
        return await _aexecute(request)
    if isinstance(request, Query):
        return await _arows(request)
    found: list[Any] = []
    try:
        if isinstance(request, Ask):
            return await getattr(request.saver, "a" + request.method)(*request.arguments)
        async for one in request.saver.alist(request.config, before=request.before, limit=request.limit):
            found.append(one.config if request.names_only else one)  # noqa: PERF401 - as in `_listed`
    except NotImplementedError:
        return await asyncio.to_thread(_answer, request)
    return found


async def _aexecute(request: Execute) -> Any:
    call: Callable[..., Any] = request.client.execute_command
    if asyncio.iscoroutinefunction(call):
        return await call(*request.words)
    return await asyncio.to_thread(call, *request.words)


async def _arows(request: Query) -> list[tuple[Any, ...]]:
    saver = request.saver
    if not asyncio.iscoroutinefunction(saver.aget_tuple) or not hasattr(saver, "loop"):
        return await asyncio.to_thread(_rows, request)
    if hasattr(saver, "_cursor"):
        async with saver._cursor() as cursor:
            await cursor.execute(request.sql, request.values)
            return _tuples(await cursor.fetchall())
    await saver.setup()
    async with saver.lock, saver.conn.execute(request.sql, request.values) as cursor:
        return _tuples(list(await cursor.fetchall()))

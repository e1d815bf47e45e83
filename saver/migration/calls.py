"""Calls on the saver that threads come from, which may be sync or async.

A migration calls its source where it may block: in the caller's thread, or from `amigrate` in a thread beside the event loop. Async
methods then run on that event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

__all__ = ["SaverCalls"]

T = TypeVar("T")


class SaverCalls:
    """Calls a saver and the client or database below it.

    Async methods are used first if there is an event loop for them. A call raises `TypeError` if it has no sync method and there is
    no such loop.
    """

    def __init__(self, saver: BaseCheckpointSaver[Any], loop: asyncio.AbstractEventLoop | None = None) -> None:
        """`loop` is the event loop that called `amigrate`, None for `migrate`."""
        self.saver: Any = saver
        self._loop = loop

    def get_tuple(self, config: Any) -> CheckpointTuple | None:
        """Returns the checkpoint that a config names, or the latest of its namespace."""
        found: CheckpointTuple | None = self._either(
            lambda: self.saver.aget_tuple(config), lambda: self.saver.get_tuple(config)
        )
        return found

    def listed(
        self, config: Any, *, keep: Callable[[CheckpointTuple], T], before: Any = None, limit: int | None = None
    ) -> list[T]:
        """Returns the part that `keep` takes of each checkpoint in the saver's list."""

        async def alisted() -> list[T]:
            return [keep(found) async for found in self.saver.alist(config, before=before, limit=limit)]

        return self._either(
            alisted, lambda: [keep(found) for found in self.saver.list(config, before=before, limit=limit)]
        )

    def rows(self, sql: str, values: Sequence[str]) -> list[tuple[Any, ...]]:
        """Returns rows from the database of a saver on SQLite or PostgreSQL."""
        if self._is_async_only():
            return self._wait(self._arows(sql, values))
        opened = self.saver.cursor(transaction=False) if hasattr(self.saver, "cursor") else self.saver._cursor()
        with opened as cursor:
            cursor.execute(sql, values)
            return _tuples(cursor.fetchall())

    async def _arows(self, sql: str, values: Sequence[str]) -> list[tuple[Any, ...]]:
        if hasattr(self.saver, "_cursor"):
            async with self.saver._cursor() as cursor:
                await cursor.execute(sql, values)
                return _tuples(await cursor.fetchall())
        await self.saver.setup()
        async with self.saver.lock, self.saver.conn.execute(sql, values) as cursor:
            return _tuples(list(await cursor.fetchall()))

    def command(self, *words: Any) -> Any:
        """Returns the reply to a command on the saver's Redis or Valkey client."""
        reply = self.saver.client.execute_command(*words)
        return self._wait(reply) if asyncio.iscoroutine(reply) else reply

    def _either(self, with_loop: Callable[[], Coroutine[Any, Any, T]], blocking: Callable[[], T]) -> T:
        if self._loop is not None:
            try:
                return self._wait(with_loop())
            except NotImplementedError:
                return blocking()
        if self._is_async_only():
            raise self._needs_loop()
        try:
            return blocking()
        except NotImplementedError as error:
            raise self._needs_loop() from error

    def _is_async_only(self) -> bool:
        """Whether the saver keeps an event loop.

        Its sync methods would then wait for that loop, even if it has stopped.
        """
        return isinstance(getattr(self.saver, "loop", None), asyncio.AbstractEventLoop)

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            coroutine.close()
            raise self._needs_loop()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _needs_loop(self) -> TypeError:
        return TypeError(f"{type(self.saver).__name__} has async methods only: use amigrate, on its event loop.")


def _tuples(rows: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) if isinstance(row, dict) else tuple(row) for row in rows]

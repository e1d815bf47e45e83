"""The result of `RedisStreamSaver.setup`, which may be awaited or ignored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

__all__ = ["SetUp"]


class SetUp(Awaitable[None]):
    """An awaitable that does the check, if it was not done yet.

    It makes no coroutine before it is awaited, so ignoring it gives no warning. Awaiting it again checks again.
    """

    def __init__(self, check: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """`check` is None if the check was done already."""
        self._check = check

    def __await__(self) -> Generator[Any, None, None]:
        if self._check is not None:
            yield from self._check().__await__()

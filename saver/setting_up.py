"""The result of `RedisStreamSaver.setup`, which callers may await or ignore."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

__all__ = ["SetUp"]


class SetUp(Awaitable[None]):
    """Awaits the check that is left, if there is one.

    It holds no coroutine until it is awaited, so ignoring it gives no warning. Awaiting it again checks again.
    """

    def __init__(self, check: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """`check` is None where the check was done."""
        self._check = check

    def __await__(self) -> Generator[Any, None, None]:
        if self._check is not None:
            yield from self._check().__await__()

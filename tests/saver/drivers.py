"""Call a method with either driver, so that one test covers both.

`put` is called as `put` or as `aput`, `invoke` as `invoke` or as `ainvoke`. Iterators come back as lists.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

Call = Callable[..., Awaitable[Any]]


def call_now(target: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    """Call the sync `method` of `target` in this thread."""
    result = getattr(target, method)(*args, **kwargs)
    return list(result) if isinstance(result, Iterator) else result


async def call_sync(target: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    """Call the sync `method` of `target` from a thread, as an async application would."""
    return await asyncio.to_thread(call_now, target, method, *args, **kwargs)


async def call_async(target: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    """Call the async twin of `method`."""
    result = getattr(target, f"a{method}")(*args, **kwargs)
    if isinstance(result, AsyncIterator):
        return [item async for item in result]
    return await result

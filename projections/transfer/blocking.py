"""Runs the work of a flow that blocks on files.

A flow serves the sync and the async driver alike, and work on files blocks. So the flow emits its work. The driver does it in place
(`carry_out`), or in a thread beside the event loop (`acarry_out`), and the flow continues with the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from eventlog.flow import Emit, Flow
from eventlog.transport.drivers import Runner

__all__ = ["Progress", "ProgressCallback", "acarry_out", "carry_out", "next_of", "on_file"]

T = TypeVar("T")


class Progress(NamedTuple):
    """The progress of a thread."""

    thread: str
    done: int
    """Entries that are done."""
    of: int
    """Entries of the thread."""


ProgressCallback = Callable[[str, int, int], object]
"""Receives a thread, its entries that are done, and the number of its entries."""


class FileWork(Generic[T]):
    """A function to call where blocking is allowed."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self.result: T

    def __call__(self) -> None:
        """Calls the function and keeps the result."""
        self.result = self._work()


def on_file(work: Callable[[], T]) -> Flow[T]:
    """The result of a function that works on a file. No round trip."""
    file_work = FileWork(work)
    yield Emit(file_work)
    return file_work.result


def next_of(items: Iterator[T]) -> Flow[T | None]:
    """The next item that is read from a file, None at its end. No round trip."""
    return (yield from on_file(lambda: next(items, None)))


def carry_out(runner: Runner, flow: Flow[None], subject: str, progress: ProgressCallback | None) -> Iterator[Any]:
    """Runs a flow with its work on files, and yields the other items that it emits."""
    try:
        for item in runner.iterate(flow, subject):
            if isinstance(item, FileWork):
                item()
            elif not isinstance(item, Progress):
                yield item
            elif progress is not None:
                progress(*item)
    finally:
        flow.close()


async def acarry_out(
    runner: Runner, flow: Flow[None], subject: str, progress: ProgressCallback | None
) -> AsyncIterator[Any]:
    """Does the same as `carry_out` on the running loop.

    Work on files runs in threads, and `progress` is called on the loop.
    """
    try:
        async for item in runner.aiterate(flow, subject):
            if isinstance(item, FileWork):
                await asyncio.to_thread(item)
            elif not isinstance(item, Progress):
                yield item
            elif progress is not None:
                progress(*item)
    finally:
        flow.close()

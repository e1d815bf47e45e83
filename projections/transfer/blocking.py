"""Work on files that a flow has done for it, between its requests.

A flow has no colour, and files block. So it emits what is to be done: whoever runs it does that in place, or in a thread beside
the event loop (`do_work`, `ado_work` below), and the flow goes on with what came of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from eventlog.flow import Emit, Flow
from eventlog.transport.drivers import Runner

__all__ = ["Progress", "ProgressCallback", "acarry_out", "carry_out", "on_file"]

T = TypeVar("T")


class Progress(NamedTuple):
    """How far a thread is."""

    thread: str
    done: int
    """Entries."""
    of: int


ProgressCallback = Callable[[str, int, int], object]
"""Called with a thread, the entries done, and of how many."""


class FileWork(Generic[T]):
    """Something to be done."""

    def __init__(self, act: Callable[[], T]) -> None:
        self._act = act
        self.result: T

    def __call__(self) -> None:
        """Does it."""
        self.result = self._act()


def on_file(act: Callable[[], T]) -> Flow[T]:
    """What comes of `act`, done where it blocks nobody. No round trip."""
    work = FileWork(act)
    yield Emit(work)
    return work.result


def carry_out(runner: Runner, flow: Flow[None], subject: str, progress: ProgressCallback | None) -> Iterator[Any]:
    """Runs a flow, its work on files in this thread; what else it emits."""
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
    """The same on the running loop, its work on files in threads; `progress` is called on the loop."""
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

"""The saver under test, opened for one test and closed after it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from saver import RedisStreamSaver
from tests.saver.drivers import Call, call_async, call_sync


class Server(Protocol):
    """What these tests need of a server fixture."""

    @property
    def url(self) -> str: ...


@pytest.fixture
async def saver(server: Server, prefix: str) -> AsyncIterator[RedisStreamSaver]:
    """A saver on each server in turn."""
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as opened:
        yield opened


@pytest.fixture
async def one_saver(any_server: Server, prefix: str) -> AsyncIterator[RedisStreamSaver]:
    """A saver on the one quick server."""
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as opened:
        yield opened


@pytest.fixture(params=[call_sync, call_async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    """Calls the sync methods of a graph or saver, then the async ones."""
    chosen: Call = request.param
    return chosen


@pytest.fixture(autouse=True)
def _context_of_tasks(request: pytest.FixtureRequest) -> None:
    """Leaves out what LangGraph itself cannot do before Python 3.11: its context inside tasks of asyncio, which interrupts need."""
    if sys.version_info < (3, 11) and request.node.get_closest_marker("context"):
        if request.getfixturevalue("call") is call_async:
            pytest.skip("LangGraph needs Python 3.11 for interrupts and configs under ainvoke")

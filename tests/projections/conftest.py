"""A saver with one partition on the one quick server, and looks behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from saver import RedisStreamSaver
from tests.projections.steps import Steps
from tests.saver.audit import Audit
from tests.servers import Server

Open = Callable[..., RedisStreamSaver]


@pytest.fixture
def on(any_server: Server, prefix: str) -> Iterator[Open]:
    """Opens savers with one partition, which are closed after the test."""
    opened: list[RedisStreamSaver] = []

    def open_saver(**options: Any) -> RedisStreamSaver:
        opened.append(RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1, **options))
        return opened[-1]

    yield open_saver
    for one in opened:
        one.close()


@pytest.fixture
def saver(on: Open) -> RedisStreamSaver:
    """A saver whose threads live until they are deleted."""
    return on()


@pytest.fixture
def steps(saver: RedisStreamSaver) -> Steps:
    """Runs that saver's flows request by request."""
    return Steps(saver)


@pytest.fixture
def audit(any_server: Server, prefix: str) -> Iterator[Audit]:
    """A look at what the savers stored."""
    with Audit(any_server.url, prefix, 1) as opened:
        yield opened

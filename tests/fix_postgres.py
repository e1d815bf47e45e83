"""Fixtures: a real PostgreSQL per worker, and a database for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.postgres import ABSENT, RunningPostgres, find_binaries, has_driver


def pytest_report_header() -> str:
    """Say where PostgreSQL comes from."""
    binaries = find_binaries()
    return f"postgresql: {binaries}" if binaries is not None and has_driver() else ABSENT


@pytest.fixture(scope="session")
def _postgres() -> Iterator[RunningPostgres]:
    binaries = find_binaries()
    if binaries is None or not has_driver():
        pytest.skip(ABSENT)
    running = RunningPostgres(binaries)
    yield running
    running.stop()


@pytest.fixture
def postgres_url(_postgres: RunningPostgres) -> Iterator[str]:
    """Return the URL of an empty database for one test."""
    import psycopg

    name = f"t{uuid.uuid4().hex[:8]}"
    with psycopg.connect(_postgres.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield _postgres.url(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

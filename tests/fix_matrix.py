"""Which of servers times drivers are run: on the quick server and the cluster both drivers of a test, on the others one, in turn.

The scripts, which is where servers differ, are the same for both. `--all-drivers` runs them all.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from zlib import crc32

import pytest

from tests.servers import preferred_binary, server_name

_DRIVERS = ("sync", "async")
_FIXTURES = ("call", "driver")
"""What the parameter is called."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option."""
    parser.addoption("--all-drivers", action="store_true", help="run both drivers of every test on every server")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the other driver."""
    if config.getoption("all_drivers"):
        return
    whole = {server_name(preferred_binary()), "cluster"}
    both = {name for name, drivers in _drivers(items).items() if len(drivers) == len(_DRIVERS)}
    left_out = [item for item in items if _is_left_out(item, whole, both)]
    config.hook.pytest_deselected(items=left_out)
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]


def _drivers(items: Iterable[pytest.Item]) -> dict[str, set[str]]:
    """The drivers that each test comes in, on each server."""
    found: dict[str, set[str]] = {}
    for item in items:
        driver, name = _name_of(item)
        if driver is not None:
            found.setdefault(name, set()).add(driver)
    return found


def _name_of(item: pytest.Item) -> tuple[str | None, str]:
    """A test's driver, None if it has none, and what it is called without."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return None, item.nodeid
    driver, rest = None, []
    for name, value in sorted(callspec.params.items()):
        plain = isinstance(value, (str, int, float, type(None)))
        text = repr(value) if plain else getattr(value, "__name__", type(value).__name__)  # the same in every worker
        if name in _FIXTURES:
            driver = "async" if "async" in text.lower() else "sync"
        else:
            rest.append(f"{name}={text}")
    return driver, f"{item.location[0]}::{getattr(item, 'originalname', item.name)}[{', '.join(rest)}]"


def _is_left_out(item: pytest.Item, whole: Container[str | None], both: Container[str]) -> bool:
    driver, name = _name_of(item)
    if driver is None or name not in both:
        return False
    params = item.callspec.params  # type: ignore[attr-defined]
    server = params.get("server", params.get("single_server"))
    return isinstance(server, str) and server not in whole and _DRIVERS[crc32(name.encode()) % 2] != driver

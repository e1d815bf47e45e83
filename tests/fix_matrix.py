"""Select which tests run with both drivers, sync and async.

On the quick server and the cluster, a test runs with both. On other servers it runs with one of them, in turn, because servers
differ only in the scripts, which both drivers share. `--all-drivers` selects everything.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from zlib import crc32

import pytest

from tests.servers import preferred_binary, server_name

_DRIVERS = ("sync", "async")
_PARAMETERS = ("call", "driver")
"""Names of the parameters that choose a driver."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--all-drivers", action="store_true", help="run every test with both drivers on every server")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests whose twin with the other driver runs."""
    if config.getoption("all_drivers"):
        return
    whole = {server_name(preferred_binary()), "cluster"}
    both = {name for name, drivers in _drivers(items).items() if len(drivers) == len(_DRIVERS)}
    left_out = [item for item in items if _is_left_out(item, whole, both)]
    config.hook.pytest_deselected(items=left_out)
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]


def _drivers(items: Iterable[pytest.Item]) -> dict[str, set[str]]:
    """Return the drivers of each test on each server."""
    found: dict[str, set[str]] = {}
    for item in items:
        driver, name = _name_of(item)
        if driver is not None:
            found.setdefault(name, set()).add(driver)
    return found


def _name_of(item: pytest.Item) -> tuple[str | None, str]:
    """Return the driver of a test, None if it has none, and the test's name without it."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return None, item.nodeid
    driver, rest = None, []
    for name, value in sorted(callspec.params.items()):
        plain = isinstance(value, (str, int, float, type(None)))
        # The text is the same in every worker, without addresses.
        text = repr(value) if plain else getattr(value, "__name__", type(value).__name__)
        if name in _PARAMETERS:
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

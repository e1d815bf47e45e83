"""Which of servers times colours are run: on the quick server and the cluster both colours of a test, on the others one, in turn.

The scripts, which is where servers differ, are the same for both. `--all-colours` runs them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

import pytest

from tests.fix_servers import NAMES
from tests.servers import preferred_binary, server_name

_COLOURS = ("sync", "async")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option."""
    parser.addoption("--all-colours", action="store_true", help="run both colours of every test on every server")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the other colour."""
    if config.getoption("all_colours"):
        return
    whole = {server_name(preferred_binary()), "cluster"}
    left_out = [item for item in items if _is_left_out(item, whole)]
    config.hook.pytest_deselected(items=left_out)
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]


def _is_left_out(item: pytest.Item, whole: Iterable[str | None]) -> bool:
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return False
    ids = str(callspec.id).split("-")
    server = callspec.params.get("server", callspec.params.get("single_server"))
    colour = next((one for one in _COLOURS if one in ids), None)
    if colour is None or not isinstance(server, str) or server in whole:
        return False
    rest = "-".join(one for one in ids if one not in _COLOURS and one not in server.split("-"))
    turn = crc32(f"{item.location[0]}::{getattr(item, 'originalname', item.name)}[{rest}]".encode()) + NAMES.index(
        server
    )
    return _COLOURS[turn % 2] != colour

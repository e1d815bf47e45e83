"""The saver's face: what its docstrings promise."""

from __future__ import annotations

from types import ModuleType

import pytest

from projections import copying, exporting, importing, replay, thread, verify
from saver import RedisStreamSaver


def stated(module: ModuleType, entries: str = "PAGE", size: str = "PAGE_BYTES") -> str:
    """How a docstring gives the size of a module's pages."""
    return f"{getattr(module, entries)} events or {getattr(module, size) // 2**20} MiB"


@pytest.mark.parametrize(
    ("method", "page"),
    [
        ("verify", stated(verify)),
        ("replay", stated(replay)),
        ("copy_thread", stated(copying)),
        ("export_threads", stated(exporting)),
        ("import_threads", stated(importing)),
        ("get_tuple_as_of", stated(thread, "SCAN", "SCAN_BYTES")),
        ("prune", stated(thread, "SCAN", "SCAN_BYTES")),
        ("check", stated(thread, "SCAN", "SCAN_BYTES")),
        ("rebuild", stated(thread, "SCAN", "SCAN_BYTES")),
    ],
)
def test_docstrings_state_the_size_of_a_page(method: str, page: str) -> None:
    """The events and bytes per round trip in a docstring are those that the code reads."""
    assert page in " ".join(str(getattr(RedisStreamSaver, method).__doc__).split())

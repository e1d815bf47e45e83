"""This saver as of another checkout, beside the one of this checkout."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from scripts.benchmark.savers import Kind
from scripts.benchmark.servers import BenchError, Servers

__all__ = ["BEFORE", "earlier"]

BEFORE = "before"
_PACKAGES = ("eventlog", "projections", "saver")


def earlier(checkout: Path) -> Kind:
    """Return the saver of another checkout, which writes under a prefix of its own.

    Raises `BenchError` if there is none.
    """
    saver = _imported(checkout.resolve())

    def opened(servers: Servers) -> Any:
        return saver.from_conn_string(servers.url, prefix=BEFORE)

    return Kind(BEFORE, "before", "langgraph-checkpoint-redis-streams", opened, opened)


def _imported(checkout: Path) -> Any:
    """Import the packages of a checkout, and put those of this one back."""
    if not (checkout / "saver" / "saver.py").exists():
        raise BenchError(f"{checkout} is no checkout of this saver")
    kept = _taken()
    sys.path.insert(0, str(checkout))
    try:
        return import_module("saver").RedisStreamSaver
    finally:
        sys.path.remove(str(checkout))
        _taken()
        sys.modules.update(kept)


def _taken() -> dict[str, Any]:
    """Take the packages out of the imported modules."""
    names = [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]
    return {name: sys.modules.pop(name) for name in names}

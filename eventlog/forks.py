"""Objects are reset in the child of a fork.

A lock that another thread of the parent had would stay locked in the child.
"""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakSet

__all__ = ["renew_after_fork"]

_RENEWED: WeakSet[Any] = WeakSet()


def renew_after_fork(thing: Any) -> None:
    """Calls `thing._begin_process()` in each forked child, as long as `thing` lives."""
    _RENEWED.add(thing)


def _renew() -> None:
    for thing in list(_RENEWED):
        thing._begin_process()


if hasattr(os, "register_at_fork"):  # pragma: no branch - only Windows, where nothing forks, has no such function
    os.register_at_fork(after_in_child=_renew)

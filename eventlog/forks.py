"""What has to begin anew in the child of a fork: a lock that another thread of the parent held would stay held for ever there."""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakSet

__all__ = ["renew_after_fork"]

_RENEWED: WeakSet[Any] = WeakSet()


def renew_after_fork(thing: Any) -> None:
    """Has `thing._begin_process()` called in every child that is forked while it lives."""
    _RENEWED.add(thing)


def _renew() -> None:
    for thing in list(_RENEWED):
        thing._begin_process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)

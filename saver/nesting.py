"""Bounds how deep the objects of one value lie within each other.

ormsgpack follows 1,024 levels of lists and maps. An extension within them is decoded by a call of its own, which follows as many
levels again. Each level takes some 600 bytes of the C stack, whose overflow would end the process without an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ormsgpack

__all__ = ["Nesting"]

DEEPEST = 2_000
"""Levels of lists and maps in the objects around a place, beyond the outer ones."""
OUTER = 2
"""Objects that are not looked at: with the value itself, they have 3,072 levels at most."""


class Nesting:
    """The objects that contain the current one, by their levels of lists and maps."""

    def __init__(self) -> None:
        self._objects = 0
        self._levels = 0

    @contextmanager
    def within(self, packed: bytes) -> Iterator[None]:
        """Enters an object, given its contents. Raises ValueError if it lies too deep."""
        levels = 0 if self._objects < OUTER else _levels(packed)
        if self._levels + levels > DEEPEST:
            raise ValueError(f"it has objects within objects, deeper than {DEEPEST:,} levels of lists and maps")
        self._objects += 1
        self._levels += levels
        try:
            yield
        finally:
            self._objects -= 1
            self._levels -= levels


def _levels(packed: bytes) -> int:
    """Returns the levels of lists and maps in some msgpack, without those in its extensions, and one more."""
    found = 0
    items: list[Any] = [ormsgpack.unpackb(packed, ext_hook=_nothing, option=ormsgpack.OPT_NON_STR_KEYS)]
    while items:
        found += 1
        items = [inner for one in items for inner in _inner(one)]
    return found


def _nothing(_code: int, _data: bytes) -> None:
    """Stands for an extension."""


def _inner(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, (list, tuple)):
        yield from value

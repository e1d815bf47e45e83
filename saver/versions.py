"""Versions of channels: short, rising, and never the same on two forks.

A version is a count, right-aligned with spaces, and a random part: `"       123.Zk3_aQ"`. Versions compare as text. LangGraph's own
savers, and its server, read the count of a version and write the next with 32 digits. Spaces sort before digits, so their versions
are greater than those of this module. A thread that has their form keeps it, so that both may continue a thread in turn.
"""

from __future__ import annotations

from math import floor, inf, nextafter
from secrets import randbits, token_urlsafe
from typing import TypeVar

__all__ = ["next_version"]

V = TypeVar("V", int, float, str)

_OWN = "{:10}.{}"
_LANGGRAPH = "{:032}.{}"


def next_version(current: V | None) -> V | str | float:
    """Returns a version greater than `current`, of a type that compares with it.

    None or text gives a text of 17 characters, or of 39 if LangGraph's own savers wrote `current`. A number gives a float whose
    fraction is the random part, since LangGraph compares a thread's versions with each other.
    """
    if current is None:
        return _written(_OWN, 1)
    if isinstance(current, str):
        count = _count(current)
        if count is not None:
            for form in (_OWN, _LANGGRAPH):
                following = _written(form, count + 1)
                if following > current:
                    return following
        base, _, counted = current.rpartition("~")
        if base and (count := _count(counted)) is not None:
            following = f"{base}~{_written(_OWN, count + 1)}"
            if following > current:
                return following
        return f"{current}~{_written(_OWN, 1)}"
    return max(floor(current) + 1 + randbits(20) / 2**20, nextafter(current, inf))


def _written(form: str, count: int) -> str:
    return form.format(count, token_urlsafe(4))


def _count(version: str) -> int | None:
    """Returns the count of a version in this form or that of LangGraph's savers."""
    head = version.partition(".")[0].lstrip(" ")
    return int(head) if head.isascii() and head.isdigit() and len(head) < 40 and int(head) < 10**19 else None

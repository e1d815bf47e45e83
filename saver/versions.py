"""Versions of channels: compact, monotone, and never the same on two forks.

A version is a count and a random part: `c123.Zk3_aQ`. The letter says how many digits the count has, so that versions compare as
text. Letters sort after digits: a thread that was imported with the long forms of other savers goes on monotonously.
"""

from __future__ import annotations

from math import floor
from secrets import randbits, token_urlsafe
from typing import TypeVar

__all__ = ["next_version"]

V = TypeVar("V", int, float, str)

_DIGITS = "abcdefghijklmnopqrst"


def next_version(current: V | None) -> V | str | float:
    """A version greater than `current`, of a type that compares with it.

    From None or text: text of 9 characters up to a count of 9, one more for each digit. From a number: a float, whose fraction is
    the random part, since LangGraph compares a thread's versions with each other.
    """
    if current is None:
        return _compact(1)
    if isinstance(current, str):
        count = _count(current)
        if count is not None:
            following = _compact(count + 1)
            if following > current:
                return following
        base, _, counted = current.rpartition("~")
        if base and counted[:1] in _DIGITS and (count := _count(counted)) is not None:
            return f"{base}~{_compact(count + 1)}"
        return f"{current}~{_compact(1)}"
    return floor(current) + 1 + randbits(20) / 2**20


def _compact(count: int) -> str:
    digits = str(count)
    return f"{_DIGITS[len(digits) - 1]}{digits}.{token_urlsafe(4)}"


def _count(version: str) -> int | None:
    """The count of a version in our form or in the zero-padded form of LangGraph's own savers."""
    head = version.partition(".")[0]
    if head[:1] in _DIGITS:
        head = head[1:]
    return int(head) if head.isascii() and head.isdigit() and len(head) < 40 and int(head) < 10**19 else None

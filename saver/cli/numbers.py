"""Numbers as they are typed, with what is wrong with one told in plain words."""

from __future__ import annotations

from collections.abc import Callable

from saver.cli.output import BadInput
from saver.cli.redaction import redacted

__all__ = ["count_for", "seconds_for", "typed"]

MOST = 2**53 - 1
"""A larger count counts as this one."""
LONGEST = 10**9
"""Seconds from which on a number is taken for a slip of the finger."""


def count_for(option: str, *, least: int = 0) -> Callable[[str], int]:
    """What reads the whole number of an option. It raises `BadInput`."""

    def count(text: str) -> int:
        try:
            found = int(text)
        except ValueError:
            found = least - 1
        if found < least:
            raise BadInput(f"{option} takes a whole number, {least} or more, not {typed(text)}.")
        return min(found, MOST)

    return count


def seconds_for(option: str, *, least: float = 0.0) -> Callable[[str], float]:
    """What reads the seconds of an option. It raises `BadInput`."""

    def seconds(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            raise BadInput(f"{option} takes a number of seconds, and {typed(text)} is none.") from None
        if not least <= found < LONGEST:
            raise BadInput(f"{option} takes a number of seconds, {least:g} or more, not {typed(text)}.")
        return found

    return seconds


def typed(text: str) -> str:
    """What was typed; a password is taken out of the whole of it, before it is shortened."""
    return f"{redacted(text)!r:.100}"

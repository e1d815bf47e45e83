"""Checks the options of the feed's readers."""

from __future__ import annotations

from eventlog.errors import InvalidArgument
from eventlog.keys import text
from eventlog.limits import Limits

__all__ = ["attempts_of", "batch_of", "name_of", "seconds_of"]

MOST_IN_A_BATCH = 10_000


def batch_of(given: object) -> int:
    """The given size of a batch. Raises `TypeError` or `InvalidArgument`."""
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"batch must be an int, not {type(given).__name__}.")
    if not 1 <= given <= MOST_IN_A_BATCH:
        raise InvalidArgument(f"batch must be between 1 and {MOST_IN_A_BATCH:,}, not {given}.")
    return given


def attempts_of(given: object) -> int:
    """The given number of attempts. Raises `InvalidArgument`."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise InvalidArgument(f"max_attempts must be 1 or more, not {given!r}.")
    return given


def seconds_of(option: str, given: object, *, least: float = 0) -> float:
    """The given number of seconds. Raises `TypeError` or `InvalidArgument`."""
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise TypeError(f"{option} must be a number of seconds, not {type(given).__name__}.")
    if not least <= given < 10**9:
        raise InvalidArgument(f"{option} must be {least} or more seconds, not {given}.")
    return float(given)


def name_of(what: str, given: object, limits: Limits) -> str:
    """The given name of a group or a member. Raises `TypeError`, `InvalidArgument` or `OverLimit`."""
    if not isinstance(given, str):
        raise TypeError(f"A {what}'s name must be a string, not {type(given).__name__}.")
    if not given:
        raise InvalidArgument(f"A {what} needs a name.")
    text(what, given)
    limits.check_ids([(what, given)])
    return given

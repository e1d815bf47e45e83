"""Effects: Redis commands that run in the script which acknowledges an event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eventlog.errors import InvalidArgument
from eventlog.flow import Argument
from eventlog.keys import text

__all__ = ["Effect", "effect_of"]

COMMANDS = frozenset(
    (
        *("HSET", "HSETNX", "HDEL", "HINCRBY", "HINCRBYFLOAT", "SET", "INCRBY", "DECRBY", "INCRBYFLOAT", "APPEND"),
        *("ZADD", "ZINCRBY", "ZREM", "SADD", "SREM", "RPUSH", "LPUSH", "LTRIM", "XADD", "PEXPIRE", "DEL"),
    )
)
MOST_ARGUMENTS = 1000


class Effect(NamedTuple):
    """A command, the key that it works on, and its other arguments."""

    command: str
    key: bytes
    arguments: list[Argument]


def effect_of(command: object, key: bytes, arguments: Sequence[object]) -> Effect:
    """Checks an effect. Raises `InvalidArgument`, or `TypeError` for arguments."""
    if not isinstance(command, str) or command.upper() not in COMMANDS:
        raise InvalidArgument(f"{command!r} is no effect; effects are {', '.join(sorted(COMMANDS))}.")
    if len(arguments) > MOST_ARGUMENTS:
        raise InvalidArgument(
            f"An effect takes {MOST_ARGUMENTS} arguments at most, not {len(arguments)}; use several effects."
        )
    words: list[Argument] = []
    for one in arguments:
        if isinstance(one, bool) or not isinstance(one, (bytes, str, int, float)):
            raise TypeError(f"An effect's arguments are bytes, texts and numbers, not {type(one).__name__}.")
        if isinstance(one, str):
            text("effect argument", one)
        words.append(repr(one) if isinstance(one, float) else one)
    return Effect(command.upper(), key, words)

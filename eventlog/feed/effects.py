"""Effects: Redis commands that run in the script which acknowledges an event."""

from __future__ import annotations

from collections.abc import Sequence

from eventlog.errors import InvalidArgument
from eventlog.flow import Argument
from eventlog.keys import text

__all__ = ["Effects", "effect_command"]

COMMANDS = frozenset(
    (
        *("HSET", "HSETNX", "HDEL", "HINCRBY", "HINCRBYFLOAT", "SET", "INCRBY", "DECRBY", "INCRBYFLOAT", "APPEND"),
        *("ZADD", "ZINCRBY", "ZREM", "SADD", "SREM", "RPUSH", "LPUSH", "LTRIM", "XADD", "PEXPIRE", "DEL"),
    )
)
MOST_ARGUMENTS = 1000


class Effects:
    """The effects of the event in hand."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self._effects: list[list[Argument]] = []

    def add(self, command: str, key: bytes, arguments: Sequence[Argument | float]) -> None:
        """Adds one. Raises `InvalidArgument`, or `TypeError` for arguments of other types."""
        if len(arguments) > MOST_ARGUMENTS:
            raise InvalidArgument(
                f"An effect takes {MOST_ARGUMENTS} arguments at most, not {len(arguments)}; use several effects."
            )
        for one in arguments:
            if isinstance(one, bool) or not isinstance(one, (bytes, str, int, float)):
                raise TypeError(f"An effect's arguments are bytes, texts and numbers, not {type(one).__name__}.")
            if isinstance(one, str):
                text("effect argument", one)
        if key not in self.keys:
            self.keys.append(key)
        words = [repr(one) if isinstance(one, float) else one for one in arguments]
        self._effects.append([command, self.keys.index(key) + 1, *words])

    def clear(self) -> None:
        """Drops all effects."""
        self.keys, self._effects = [], []

    def command(self, number: int) -> str:
        """The command of the effect with that number, counted from 1."""
        return str(self._effects[number - 1][0])

    def arguments(self) -> list[Argument]:
        """The effects in the form that settle.lua takes."""
        words: list[Argument] = [len(self._effects)]
        for effect in self._effects:
            words += [len(effect), *effect]
        return words


def effect_command(given: object) -> str:
    """The command in upper case. Raises `InvalidArgument` for one that is not allowed."""
    if not isinstance(given, str) or given.upper() not in COMMANDS:
        raise InvalidArgument(f"{given!r} is no effect; effects are {', '.join(sorted(COMMANDS))}.")
    return given.upper()

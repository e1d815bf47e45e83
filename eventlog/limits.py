"""Bounds on what a process takes from a server, from a file, and from its callers.

Anyone who can write to Redis, or who hands over a file, chooses the bytes that this process reads. Compressed bytes can become
ten thousand times as many. So their size is compared with these bounds before memory is allocated for it.

The budget of data that belong together is `SPARE` bytes, and `expansion` bytes for each stored byte. This project compresses no
value above `codec.FREELY` so far that a reader with the default limits refuses it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NoReturn

from eventlog.codec import TooLarge
from eventlog.errors import InvalidArgument, OverLimit

__all__ = ["SPARE", "Budget", "Limits", "brief", "in_channel"]

SPARE = 16 * 1024 * 1024
"""Bytes that data may take in any case, however short they are stored."""
MOST_PIECES = 3
"""Times the bytes of a value that its keyframe and deltas take; a writer makes a keyframe before they are more."""
SHOWN = 80
"""Characters of a long id that an error shows."""
DIGITS = 30
"""Most digits of a limit; Python refuses to read thousands of them."""
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a saver, a feed or a command. Sizes are in bytes."""

    value_bytes: int = 512 * 1024 * 1024
    """Most bytes of one value: as many as a server takes by default."""
    state_bytes: int = 2 * 1024 * 1024 * 1024
    """Most bytes of the values of one checkpoint."""
    entry_bytes: int = 1024 * 1024 * 1024
    """Most bytes of one event in an export."""
    head_bytes: int = 64 * 1024 * 1024
    """Most bytes of a head that is stored; larger states are read from the log."""
    expansion: int = 250
    """Times that compressed data may grow, beyond 16 MiB."""
    id_bytes: int = 64 * 1024
    """Most bytes of an id or a name, in UTF-8."""
    put_parts: int = 20_000
    """Most channels of a checkpoint, and most writes of one call. The server takes about 15 microseconds for each."""

    def __post_init__(self) -> None:
        """Refuses limits that are not whole numbers above 0."""
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{one.name} must be an int, not {type(value).__name__}.")
            if value < 1:
                raise InvalidArgument(f"{one.name} must be 1 or more, not {value}.")

    @classmethod
    def parse(cls, text: str) -> Limits:
        """The limits in a text such as "value_bytes=1G,expansion=1000"; the others keep their defaults.

        Units are K, M and G. Raises `InvalidArgument`.
        """
        known = [one.name for one in fields(cls)]
        found: dict[str, int] = {}
        for part in filter(None, (one.strip() for one in text.split(","))):
            name, _, value = (one.strip() for one in part.partition("="))
            number, unit = value.rstrip("kKmMgG"), value[len(value.rstrip("kKmMgG")) :].lower()
            is_number = number.isascii() and number.isdigit() and len(number) <= DIGITS
            if name not in known or not is_number or unit not in _UNITS:
                raise InvalidArgument(
                    f"limits: {part!r:.100} is no limit. Write {', '.join(known)} as NAME=NUMBER, with K, M or G after sizes."
                )
            found[name] = int(number) * _UNITS[unit]
        return cls(**found)

    def check_ids(self, ids: Iterable[tuple[str, str | bytes | None]], where: str = "") -> None:
        """Checks ids, each after the name of its field; None for no id.

        Raises `OverLimit`, which begins with the place, and has the beginning of the id only.
        """
        for field, value in ids:
            if value is None or len(value) * 4 <= self.id_bytes:
                continue
            encoded = value if isinstance(value, bytes) else value.encode(errors="surrogatepass")
            if len(encoded) > self.id_bytes:
                raise OverLimit(
                    f"{where}{field} {brief(encoded)} has {len(encoded):,} bytes, above the limit of {self.id_bytes:,} for an id. "
                    f"Use a shorter one, or raise the limit: limits=Limits(id_bytes={len(encoded)}), or agentlog --limits "
                    f"id_bytes={len(encoded)}."
                )

    def check_versions(self, *counts: int) -> None:
        """Checks the numbers of channels and nodes of a checkpoint that is read. Raises `TooLarge`."""
        most = max(counts)
        if most > self.put_parts:
            raise TooLarge(
                f"has versions of {most:,} channels or nodes, above the limit of {self.put_parts:,}. If you trust the data, raise "
                f"the limit: limits=Limits(put_parts={most}), or agentlog --limits put_parts={most}"
            )

    def check_parts(self, what: str, count: int, where: str) -> None:
        """Checks the number of channels or writes of a put. Raises `OverLimit`."""
        if count > self.put_parts:
            raise OverLimit(
                f"{where}a put has {count:,} {what}, above the limit of {self.put_parts:,}, and would hold up the server. Nothing "
                f"was written. Put fewer at once, or raise the limit: limits=Limits(put_parts={count})."
            )


def in_channel(channel: str, error: TooLarge) -> TooLarge:
    """The error with the name of the channel before it."""
    return TooLarge(f"channel {brief(channel)} {error}")


def brief(text: bytes | str) -> str:
    """The beginning of a text in quotes, for errors."""
    if isinstance(text, bytes):
        text = text[: SHOWN * 4].decode(errors="replace")
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}..."


class Budget:
    """The bytes that the values of one checkpoint may still take."""

    def __init__(self, limits: Limits, values: int = 0) -> None:
        """`values`: bytes of its other values."""
        self._limits = limits
        self._stored = self._expanded = 0
        self._values = values

    def expand(self, stored: int, expanded: int) -> None:
        """Takes the pieces of a value: their bytes as they are stored, and without compression.

        Raises `TooLarge`, as `value`.
        """
        limits = self._limits
        self._stored += stored
        self._expanded += expanded
        most = MOST_PIECES * limits.value_bytes + SPARE
        if expanded > most:
            refuse("pieces of a value", expanded, most, "value_bytes", -(-expanded // MOST_PIECES))
        most = SPARE + limits.expansion * self._stored
        if self._expanded > most:
            of = f"values in {self._stored:,} bytes"
            refuse(of, self._expanded, most, "expansion", -(-self._expanded // max(1, self._stored)))

    def value(self, size: int) -> None:
        """Takes a value that is about to be made of its pieces."""
        limits = self._limits
        self._values += size
        if size > limits.value_bytes:
            refuse("a value", size, limits.value_bytes, "value_bytes", size)
        if self._values > limits.state_bytes:
            refuse("values", self._values, limits.state_bytes, "state_bytes", self._values)


def refuse(what: str, size: int, limit: int, setting: str, needed: int) -> NoReturn:
    """Raises `TooLarge` for data of `size` bytes, with the setting and the least value that admits them."""
    raise TooLarge(
        f"holds {what} that would take {size:,} bytes, above the limit of {limit:,}. If you trust the data, raise the limit: "
        f"limits=Limits({setting}={needed}), or agentlog --limits {setting}={needed}"
    )

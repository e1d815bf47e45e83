"""Positions: the last entry of each partition's feed that a reader has read.

A reader stores a position as text (`str(position)`, `Position.parse`), beside the data it made from the feed. An offset has
the entry's id and a fingerprint of its content. So a position ahead of a server that failed over is noticed, even if another
event has the same entry id since.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from eventlog.errors import InvalidArgument

__all__ = ["ORIGIN", "Offset", "Position"]

_PART = re.compile(r"([0-9]{1,5}):([0-9]{1,20}-[0-9]{1,20})(?:\.([0-9a-f]{8}))?")


class Offset(NamedTuple):
    """An entry of a partition's feed: its id and fingerprint, "" if not known."""

    id: str
    fingerprint: str = ""


ORIGIN = Offset("0-0")
"""The offset before the first entry."""


class Position(Mapping[int, Offset]):
    """The last entry read of each partition.

    Nothing was read of partitions that are missing: `Position({})` is before the first entry. `position | other` has the
    later entry of each partition.
    """

    __slots__ = ("_offsets",)

    def __init__(self, offsets: Mapping[int, Offset]) -> None:
        self._offsets = dict(offsets)

    @classmethod
    def parse(cls, text: str) -> Position:
        """Parses the text of a position.

        Raises `InvalidArgument`, or `TypeError` for anything but text.
        """
        if not isinstance(text, str):
            raise TypeError(f"A position must be the text of str(position), not {type(text).__name__}.")
        offsets: dict[int, Offset] = {}
        for part in filter(None, text.split(",")):
            found = _PART.fullmatch(part)
            if found is None or int(found[1]) in offsets or max(id_order(found[2])) >= 2**64:
                raise InvalidArgument(
                    f"{text!r:.200} is no position of the feed: {part!r:.80} names no entry. Pass the text of str(position)."
                )
            offsets[int(found[1])] = Offset(found[2], found[3] or "")
        return cls(offsets)

    def __str__(self) -> str:
        return ",".join(
            f"{partition}:{offset.id}{'.' if offset.fingerprint else ''}{offset.fingerprint}"
            for partition, offset in sorted(self._offsets.items())
        )

    def __repr__(self) -> str:
        return f"Position.parse({str(self)!r})"

    def __getitem__(self, partition: int) -> Offset:
        return self._offsets[partition]

    def __iter__(self) -> Iterator[int]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)

    def __hash__(self) -> int:
        return hash(frozenset(self._offsets.items()))

    def __or__(self, other: Mapping[int, Offset]) -> Position:
        """The later entry of each partition."""
        later = {
            partition: offset
            for partition, offset in other.items()
            if partition not in self._offsets or id_order(self._offsets[partition].id) < id_order(offset.id)
        }
        return Position({**self._offsets, **later})


def id_order(entry_id: str) -> tuple[int, int]:
    """The sort key of an entry id."""
    ms, _, number = entry_id.partition("-")
    return int(ms or 0), int(number or 0)

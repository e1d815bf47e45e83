"""Where a reader of the feed is: for each partition, the last entry it has read.

A position is plain text outside (`str(position)`, `Position.parse`), to be stored wherever a reader keeps what it made of the
feed. Each entry is named by its id and a check of its content, so that a position which ran ahead of a server that failed over is
told from one that is right, even if other events have taken the same place since.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from eventlog.errors import InvalidArgument

__all__ = ["ORIGIN", "Offset", "Position"]

_PART = re.compile(r"([0-9]{1,5}):([0-9]{1,20}-[0-9]{1,20})(?:\.([0-9a-f]{8}))?")


class Offset(NamedTuple):
    """An entry of a partition's feed: its id, and the check of its content ("" where that is not known)."""

    id: str
    check: str = ""


ORIGIN = Offset("0-0")
"""Before the very first entry."""


class Position(Mapping[int, Offset]):
    """The last entry read of each partition; of partitions that are missing nothing was read.

    So `Position({})` is before the very first.

    `position | other` has the later entry of each partition.
    """

    __slots__ = ("_marks",)

    def __init__(self, offsets: Mapping[int, Offset]) -> None:
        self._marks = dict(offsets)

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that `str` made text of. Raises `InvalidArgument`."""
        if not isinstance(text, str):
            raise TypeError(f"A position is text, as str(position) has it, not {type(text).__name__}.")
        offsets: dict[int, Offset] = {}
        for part in filter(None, text.split(",")):
            found = _PART.fullmatch(part)
            if found is None or int(found[1]) in offsets or max(id_order(found[2])) >= 2**64:
                raise InvalidArgument(
                    f"{text!r:.200} is no position of the feed: {part!r:.80} names no entry. Pass what str(position) gave."
                )
            offsets[int(found[1])] = Offset(found[2], found[3] or "")
        return cls(offsets)

    def __str__(self) -> str:
        return ",".join(
            f"{partition}:{offset.id}{'.' if offset.check else ''}{offset.check}"
            for partition, offset in sorted(self._marks.items())
        )

    def __repr__(self) -> str:
        return f"Position.parse({str(self)!r})"

    def __getitem__(self, partition: int) -> Offset:
        return self._marks[partition]

    def __iter__(self) -> Iterator[int]:
        return iter(self._marks)

    def __len__(self) -> int:
        return len(self._marks)

    def __hash__(self) -> int:
        return hash(frozenset(self._marks.items()))

    def __or__(self, other: Mapping[int, Offset]) -> Position:
        """The later entry of each partition."""
        later = {
            partition: offset
            for partition, offset in other.items()
            if partition not in self._marks or id_order(self._marks[partition].id) < id_order(offset.id)
        }
        return Position({**self._marks, **later})


def id_order(entry_id: str) -> tuple[int, int]:
    """What entry ids sort by."""
    ms, _, number = entry_id.partition("-")
    return int(ms or 0), int(number or 0)

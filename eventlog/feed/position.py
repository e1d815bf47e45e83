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

__all__ = ["ORIGIN", "Mark", "Position"]

_PART = re.compile(r"([0-9]{1,5}):([0-9]{1,20}-[0-9]{1,20})(?:\.([0-9a-f]{8}))?")


class Mark(NamedTuple):
    """An entry of a partition's feed: its id, and the check of its content ("" where that is not known)."""

    id: str
    check: str = ""


ORIGIN = Mark("0-0")
"""Before the very first entry."""


class Position(Mapping[int, Mark]):
    """The last entry read of each partition; of partitions that are missing nothing was read.

    So `Position({})` is before the very first.

    `position | other` has the later entry of each partition.
    """

    __slots__ = ("_marks",)

    def __init__(self, marks: Mapping[int, Mark]) -> None:
        self._marks = dict(marks)

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that `str` made text of. Raises `InvalidArgument`."""
        if not isinstance(text, str):
            raise TypeError(f"A position is text, as str(position) has it, not {type(text).__name__}.")
        marks: dict[int, Mark] = {}
        for part in filter(None, text.split(",")):
            found = _PART.fullmatch(part)
            if found is None or int(found[1]) in marks or max(id_order(found[2])) >= 2**64:
                raise InvalidArgument(
                    f"{text!r:.200} is no position of the feed: {part!r:.80} names no entry. Pass what str(position) gave."
                )
            marks[int(found[1])] = Mark(found[2], found[3] or "")
        return cls(marks)

    def __str__(self) -> str:
        return ",".join(
            f"{partition}:{mark.id}{'.' if mark.check else ''}{mark.check}"
            for partition, mark in sorted(self._marks.items())
        )

    def __repr__(self) -> str:
        return f"Position.parse({str(self)!r})"

    def __getitem__(self, partition: int) -> Mark:
        return self._marks[partition]

    def __iter__(self) -> Iterator[int]:
        return iter(self._marks)

    def __len__(self) -> int:
        return len(self._marks)

    def __hash__(self) -> int:
        return hash(frozenset(self._marks.items()))

    def __or__(self, other: Mapping[int, Mark]) -> Position:
        """The later entry of each partition."""
        later = {
            partition: mark
            for partition, mark in other.items()
            if partition not in self._marks or id_order(self._marks[partition].id) < id_order(mark.id)
        }
        return Position({**self._marks, **later})


def id_order(entry_id: str) -> tuple[int, int]:
    """What entry ids sort by."""
    ms, _, number = entry_id.partition("-")
    return int(ms or 0), int(number or 0)

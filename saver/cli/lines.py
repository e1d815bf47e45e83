"""Lines in columns for a stream of which nobody knows what comes next.

A column is as wide as the widest value it has had so far. Where they do not fit into the terminal, the widest are shortened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from saver.cli import output

__all__ = ["Field", "Lines"]

MOST = 40
"""Up to how many columns the shorter values of a field are filled up, at least."""
LEAST = 6
"""Columns that a field keeps, however narrow the terminal is."""


@dataclass(frozen=True)
class Field:
    """A column."""

    width: int = 1
    """How wide it is from the beginning."""
    right: bool = False
    """Whether values stand to the right, as numbers do."""
    whole: bool = False
    """Whether values are never shortened."""


class Lines:
    """Writes values as lines, in columns."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = fields
        self._seen = [one.width for one in fields]
        self._terminal = output.is_terminal()
        self._console = output.console() if output.has_colours() else None

    def write(self, values: Sequence[str], styles: Sequence[str]) -> None:
        """A line; `styles` are rich's, one per value, "" for none. Raises `ClosedPipe`."""
        cells = self._cells([output.plain(value) for value in values])
        if self._console is None:
            output.write(" ".join(cells).rstrip() + "\n")
            return
        parts = zip(cells, styles[: len(cells)], strict=True)
        with self._console.capture() as captured:
            self._console.print(Text(" ").join(Text(*part) for part in parts), soft_wrap=True)
        output.write(captured.get())

    def _cells(self, values: list[str]) -> list[str]:
        """The values, each filled up or shortened to its column; the last that says something is not filled up."""
        room = output.width()
        most = max(MOST, room // 3) if self._terminal else MOST
        self._seen = [max(seen, min(cell_len(value), most)) for seen, value in zip(self._seen, values, strict=True)]
        widths = _fitted(self._seen, self._fields, room)
        while len(values) > 1 and not values[-1]:
            values.pop()
        cells = [
            self._cell(value, width, field)
            for value, width, field in zip(values, widths[: len(values)], self._fields[: len(values)], strict=True)
        ]
        cells[-1] = cells[-1].rstrip()
        return cells

    def _cell(self, value: str, width: int, field: Field) -> str:
        length = cell_len(value)
        if length <= width:
            blanks = " " * (width - length)
            return blanks + value if field.right else value + blanks
        if not self._terminal or field.whole:
            return value
        return set_cell_size(value, width - 1) + "\N{HORIZONTAL ELLIPSIS}"


def _fitted(seen: Sequence[int], fields: Sequence[Field], room: int) -> list[int]:
    """Widths that fit with a blank between them, by taking from the widest."""
    widths = list(seen)
    while sum(widths) + len(widths) - 1 > room:
        place = max((place for place, one in enumerate(fields) if not one.whole), key=widths.__getitem__)
        if widths[place] <= LEAST:
            break
        widths[place] -= 1
    return widths

"""Lines in columns for a stream of which nobody knows what comes next.

A column is as wide as the widest value it has had so far. Where the columns do not fit into the terminal, those that may be cut
are: one after the other down to a few characters each, then left out altogether.
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
LEAST = 5
"""Columns that a field keeps if it is not left out, unless it says otherwise."""
NOTHING = "-"
"""For an empty value, so that each line has as many words as any other."""


@dataclass(frozen=True)
class Field:
    """A column."""

    name: str
    """What stands above it."""
    width: int = 1
    """How wide it is from the beginning."""
    right: bool = False
    """Whether values stand to the right, as numbers do."""
    cut: int = 0
    """Where it is in the order in which fields are cut; 0 for never."""
    least: int = LEAST
    """To what it is cut; where that does not fit it is left out."""


class Lines:
    """Writes values as lines, in columns; on a terminal, or if `headed`, under a heading."""

    def __init__(self, fields: Sequence[Field], *, headed: bool = False) -> None:
        self._fields = fields
        self._seen = [one.width for one in fields]
        self._terminal = output.is_terminal()
        self._console = output.console() if output.has_colours() else None
        self._headed = not (self._terminal or headed)

    def write(self, values: Sequence[str], styles: Sequence[str]) -> None:
        """A line; `styles` are rich's, one per value, "" for none. Raises `ClosedPipe`."""
        shown = [output.plain(value) or NOTHING for value in values]
        room = output.width()
        most = max(MOST, room // 3) if self._terminal else MOST
        self._seen = [max(seen, min(cell_len(value), most)) for seen, value in zip(self._seen, shown, strict=True)]
        widths = _fitted(self._seen, self._fields, room)
        if not self._headed:
            self._headed = True
            self._put([one.name for one in self._fields], ["bold"] * len(shown), widths)
        self._put(shown, styles, widths)

    def _put(self, values: Sequence[str], styles: Sequence[str], widths: Sequence[int]) -> None:
        parts = [
            (self._cell(value, width, field), style)
            for value, width, field, style in zip(values, widths, self._fields, styles, strict=True)
            if width
        ]
        parts[-1] = (parts[-1][0].rstrip(), parts[-1][1])
        if self._console is None:
            output.write(" ".join(cell for cell, _ in parts) + "\n")
            return
        with self._console.capture() as captured:
            self._console.print(Text(" ").join(Text(*part) for part in parts), soft_wrap=True)
        output.write(captured.get())

    def _cell(self, value: str, width: int, field: Field) -> str:
        length = cell_len(value)
        if length <= width:
            blanks = " " * (width - length)
            return blanks + value if field.right else value + blanks
        if not self._terminal or not field.cut:
            return value
        return set_cell_size(value, width - 1) + "\N{HORIZONTAL ELLIPSIS}"


def _fitted(seen: Sequence[int], fields: Sequence[Field], room: int) -> list[int]:
    """Widths that fit with a blank between them, 0 for a field that is left out."""
    widths = list(seen)
    order = sorted((place for place, one in enumerate(fields) if one.cut), key=lambda place: fields[place].cut)
    while True:
        kept = [place for place, one in enumerate(widths) if one]
        over = sum(widths) + len(kept) - 1 - room
        fitted = list(widths)
        for place in order:
            less = max(0, min(over, fitted[place] - fields[place].least))
            fitted[place] -= less
            over -= less
        if over <= 0 or not order:
            return fitted
        widths[order.pop(0)] = 0

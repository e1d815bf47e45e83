"""What people are shown: sizes, values, changes, tables, columns, progress.

On a terminal, text is colored and cut to the width; `NO_COLOR` keeps colors out. Elsewhere nothing is cut.
Text from a server may have been written by anyone. Characters that steer a terminal become escapes, and rich's
markup is not interpreted. An id that would look like two words, or like a field of its own, is shown as its `repr`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, JustifyMethod, RenderableType
from rich.filesize import pick_unit_and_suffix
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from eventlog.printable import word
from saver.cli.output import SIGNS, Unknown, Unreadable, line, plain, plain_data, write
from saver.differences import Change

__all__ = [
    "KIND_STYLES",
    "Column",
    "Field",
    "Lines",
    "age_text",
    "brief",
    "console",
    "counted",
    "in_a_field",
    "is_terminal",
    "names_of",
    "rendered",
    "showing_progress",
    "size_text",
    "table_of",
    "table_with_more",
    "value_lines",
    "write_changes",
]

ENDLESS = 10_000
"""Columns of an output that is no terminal: nothing is cut."""
MOST = 160
"""Characters of a value in a line, unless it is shown in full."""
MOST_ITEMS = 200
"""Items of a list that are shown, unless it is shown in full."""
MOST_FILLED = 40
"""Columns up to which a field grows with its values; a wide terminal allows more."""
LEAST = 5
"""Columns to which a field is cut, unless it says otherwise."""
NOTHING = "-"
"""Stands for an empty value, so that all lines have the same number of words."""
KIND_STYLES = {
    "checkpoint": "green",
    "writes": "cyan",
    "copied": "blue",
    "imported": "blue",
    "pruned": "yellow",
    "runs_deleted": "magenta",
    "deleted": "red",
    "expired": "bright_black",
}
"""Colors of the kinds of events."""
SIGN_STYLES = {"+": "green", "-": "red", "~": "yellow"}

Column = tuple[str, str]
"""A table's column: heading, and "left" (may be folded), "right" or "whole"."""
ShowProgress = Callable[[str, int, int], None]
"""Takes what is being done, how much of it is done, and of how much."""


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def is_colored() -> bool:
    """Whether stdout gets colors."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Columns of stdout."""
    return shutil.get_terminal_size().columns if is_terminal() else ENDLESS


def console(columns: int | None = None) -> Console:
    """A console for stdout as it is now, or with that many columns."""
    return Console(
        force_terminal=is_terminal(),
        color_system="auto" if is_colored() else None,
        width=columns or width(),
        highlight=False,
        markup=False,
        emoji=False,
    )


def rendered(what: RenderableType, columns: int | None = None) -> str:
    """Something as rich renders it for stdout, without blanks at the ends of lines."""
    target = console(columns)
    with target.capture() as captured:
        target.print(what)
    return "".join(one.rstrip() + "\n" for one in captured.get().splitlines())


@contextmanager
def showing_progress() -> Iterator[ShowProgress]:
    """Show progress on stderr while the block runs, if it is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _what, _done, _of: None
        return
    target = Console(file=sys.stderr, markup=False, highlight=False, no_color=bool(os.environ.get("NO_COLOR")))
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[what]}", markup=False))
    with Progress(*columns, console=target, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("", total=None, what="")
        yield lambda what, done, of: bar.update(task, completed=done, total=of, what=plain(what))


def age_text(seconds: float | None) -> str:
    """A number of seconds in its two largest units; empty for None."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def size_text(size: int | None) -> str:
    """A number of bytes, or of characters, such as 67.2 KiB."""
    if size is None:
        return "unknown"
    unit, suffix = pick_unit_and_suffix(size, ["B", "KiB", "MiB", "GiB"], 1024)
    return f"{size} B" if unit == 1 else f"{size / unit:.1f} {suffix}"


def counted(number: int, thing: str) -> str:
    """A number of things, such as 1 thread or 2 threads."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def brief(value: Any, most: int | None = MOST) -> str:
    """A value in one line, cut to so many characters; a cut value ends with its size."""
    text = _in_a_line(value)
    if most is None or len(text) <= most:
        return text
    return f"{text[: most - 16].rstrip()}... ({size_text(len(text))})"


def in_a_field(value: Any, most: int) -> str:
    """A value as `brief` has it, for a line with several fields: quoted if it might look like more of them."""
    text = brief(value, most)
    is_json = not isinstance(value, str) and len(text) <= most and text[:1] in {"{", "["}
    return text if is_json or not any(one in text for one in ';="') else json.dumps(text, ensure_ascii=False)


def names_of(names: Iterable[str], between: str = ", ") -> str:
    """Names in one cell, those that might look like several as their `repr`."""
    return between.join(word(name, between.strip()) for name in names)


def _in_a_line(value: Any) -> str:
    if _is_message(value):
        return _message(value)
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return f"<{size_text(len(value))}>"
    if isinstance(value, Unknown):
        return f"{value.name} {_in_a_line(value.value)}"
    if isinstance(value, Unreadable):
        return f"<{value.format}, {size_text(value.size)}{value.hint and f': {value.hint}'}>"
    if isinstance(value, (list, tuple)) and value and all(map(_is_message, value)):
        return "[" + " | ".join(map(_message, value)) + "]"
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(plain_data(value), ensure_ascii=False)


def _is_message(value: Any) -> bool:
    return isinstance(getattr(value, "type", None), str) and hasattr(value, "content")


def _message(message: Any) -> str:
    """A message of LangChain: role, name, content, calls of tools."""
    parts = [message.content if isinstance(message.content, str) else _json(message.content)]
    calls = getattr(message, "tool_calls", None) or ()
    parts += [f"-> {one.get('name')}({_json(one.get('args'))})" for one in calls]
    name = f" ({message.name})" if getattr(message, "name", None) else ""
    return f"{message.type}{name}: " + " ".join(part for part in parts if part)


def value_lines(name: str, value: Any, *, full: bool) -> Iterator[str]:
    """A channel and its value, with a line for each item of a list."""
    most = None if full else MOST
    if isinstance(value, list) and value and (full or len(value) <= MOST_ITEMS or any(map(_is_message, value))):
        first = 0 if full else max(0, len(value) - MOST_ITEMS)
        yield f"{word(name)} ({len(value)})"
        if first:
            yield f"  ... {first} more before; --full shows them"
        for number, item in enumerate(value[first:], first):
            yield f"  [{number}] {brief(item, most)}"
    else:
        yield f"{word(name)}: {brief(value, most)}"


def write_changes(changes: Iterable[Change], *, full: bool, indent: str = "    ") -> None:
    """Write changes, a line each, which begins with a sign."""
    for change in changes:
        text = plain(_change(change, full=full))
        if is_colored():
            write(rendered(Text(indent + text, SIGN_STYLES[text[0]])))
        else:
            write(indent + text + "\n")


def _change(change: Change, *, full: bool) -> str:
    most = None if full else MOST
    sign, where = SIGNS[change.what], _path(change.path)
    if change.what == "changed":
        half = None if most is None else most // 2
        return f"{sign} {where}: {brief(change.before, half)} -> {brief(change.after, half)}"
    return f"{sign} {where}: {brief(change.before if sign == '-' else change.after, most)}"


def _path(path: tuple[Any, ...]) -> str:
    """A path such as `messages[3]` or `state.count`."""
    text = word(str(path[0]))
    for part in path[1:]:
        is_index = isinstance(part, int) and not isinstance(part, bool)
        text += f"[{part}]" if is_index else f".{word(str(part), '.[')}"
    return text


def table_of(columns: Sequence[Column], rows: Iterable[Sequence[object]], *, last_is_total: bool = False) -> Table:
    """A table without frames, for rich to render; None is an empty cell."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name, side in columns:
        justify: JustifyMethod = "right" if side == "right" else "left"
        made.add_column(name, justify=justify, overflow="fold", no_wrap=side != "left")
    for row in rows:
        made.add_row(*(Text("" if value is None else plain(str(value))) for value in row))
    if last_is_total:
        made.rows[-1].style = "bold"
    return made


def table_with_more(
    columns: Sequence[Column],
    rows: Sequence[Sequence[object]],
    more: Sequence[Sequence[str]],
    *,
    aside: Sequence[str],
) -> None:
    """Write a table in which nothing is folded, with more lines below each row.

    Where a row does not fit, columns move out of the table to the lines below: those of `aside`, one after the other.
    """
    for most in range(len(aside) + 1):
        inside = [number for number, (name, _) in enumerate(columns) if name not in aside[:most]]
        made = table_of([columns[number] for number in inside], [[row[number] for number in inside] for row in rows])
        if console(2 * ENDLESS).measure(made).maximum <= width():
            break
    outside = [number for number in range(len(columns)) if number not in inside]
    heading, *lines = rendered(made, ENDLESS).splitlines()
    write(heading + "\n")
    for text, row, rest in zip(lines, rows, more, strict=True):
        write(text + "\n")
        for below in (*(f"{columns[number][0]}: {row[number]}" for number in outside), *rest):
            line(f"    {below}".rstrip())


@dataclass(frozen=True)
class Field:
    """A column of lines."""

    name: str
    """The heading."""
    width: int = 1
    """The least width."""
    right: bool = False
    """Whether values stand to the right, as numbers do."""
    cut: int = 0
    """Position in the order in which fields are cut; 0 for never."""
    least: int = LEAST
    """Width to which it is cut; where that does not fit, the field is left out."""
    style: str = ""
    """The style of values, as rich names it."""


class Lines:
    """Writes values in columns, line by line, where it is unknown what comes next.

    A column is as wide as the widest value so far. Where the columns do not fit into the terminal, fields that may be
    cut are: one after the other down to a few characters each, then left out altogether.
    A heading comes first on a terminal, or if `headed`.
    """

    def __init__(self, fields: Sequence[Field], *, headed: bool = False) -> None:
        self._fields = fields
        self._widths = [one.width for one in fields]
        self._terminal = is_terminal()
        self._console = console() if is_colored() else None
        self._needs_heading = self._terminal or headed

    def write(self, values: Sequence[str], **styles: str) -> None:
        """Write a line; `styles` are the styles of some of its values, by the names of their fields."""
        cells = [plain(value) or NOTHING for value in values]
        room = width()
        most = max(MOST_FILLED, room // 3) if self._terminal else MOST_FILLED
        self._widths = [max(old, min(cell_len(cell), most)) for old, cell in zip(self._widths, cells, strict=True)]
        widths = _fitted(self._widths, self._fields, room)
        if self._needs_heading:
            self._needs_heading = False
            self._put([one.name for one in self._fields], ["bold"] * len(cells), widths)
        self._put(cells, [styles.get(one.name, one.style) for one in self._fields], widths)

    def _put(self, cells: Sequence[str], styles: Sequence[str], widths: Sequence[int]) -> None:
        parts = [
            (self._filled(cell, size, field), style)
            for cell, size, field, style in zip(cells, widths, self._fields, styles, strict=True)
            if size
        ]
        parts[-1] = (parts[-1][0].rstrip(), parts[-1][1])
        if self._console is None:
            write(" ".join(cell for cell, _ in parts) + "\n")
            return
        with self._console.capture() as captured:
            self._console.print(Text(" ").join(Text(*part) for part in parts), soft_wrap=True)
        write(captured.get())

    def _filled(self, cell: str, size: int, field: Field) -> str:
        """A cell with blanks up to its column's width, or cut to it."""
        blanks = " " * (size - cell_len(cell))
        if cell_len(cell) > size and self._terminal and field.cut:
            return set_cell_size(cell, size - 1) + "\N{HORIZONTAL ELLIPSIS}"
        return blanks + cell if field.right else cell + blanks


def _fitted(widths: Sequence[int], fields: Sequence[Field], room: int) -> list[int]:
    """Widths that fit with a blank between them, 0 for a field that is left out."""
    left = list(widths)
    order = sorted((number for number, one in enumerate(fields) if one.cut), key=lambda number: fields[number].cut)
    while True:
        over = sum(left) + sum(map(bool, left)) - 1 - room
        fitted = list(left)
        for number in order:
            less = max(0, min(over, fitted[number] - fields[number].least))
            fitted[number] -= less
            over -= less
        if over <= 0 or not order:
            return fitted
        left[order.pop(0)] = 0

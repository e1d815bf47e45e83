"""What `agentlog` writes: tables and lines for people, JSON lines for programs, notes and errors on the other channel.

For people, text is shortened and coloured where stdout is a terminal, and only there; `NO_COLOR` keeps colours out. Whatever comes
from a server may have been written by anyone: characters that steer a terminal are shown as escapes, and markup is not interpreted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from rich.console import Console, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from eventlog.errors import CallerError
from saver.cli.redaction import redacted

__all__ = [
    "BadInput",
    "ClosedPipe",
    "Column",
    "age_text",
    "complain",
    "console",
    "drop_output",
    "fail",
    "flush",
    "is_terminal",
    "json_line",
    "line",
    "note",
    "plain",
    "table",
    "table_of",
    "table_with_more",
    "time_text",
    "write",
]

ENDLESS = 10_000
"""Columns of what is no terminal: nothing is shortened."""

Column = tuple[str, str]
"""Of a table: its heading, and "left", "right" or "whole"; all but "left" are never folded."""
Cell = object
"""A `Text`, or what `str` makes of anything else; None is left empty."""


class BadInput(Exception):
    """What was asked for cannot be asked for."""


class ClosedPipe(Exception):
    """Whoever read the output has gone."""


def is_terminal() -> bool:
    """Whether stdout is one."""
    return sys.stdout is not None and sys.stdout.isatty()


def has_colours() -> bool:
    """Whether what goes to stdout is coloured."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size().columns if is_terminal() else ENDLESS


def console(columns: int | None = None) -> Console:
    """A console for stdout as it is now, or as if it had that many columns."""
    return Console(
        force_terminal=is_terminal(),
        color_system="auto" if has_colours() else None,
        width=columns or width(),
        highlight=False,
        markup=False,
        emoji=False,
    )


def plain(text: str) -> str:
    r"""Text without characters that steer a terminal, or that cannot be seen: they become escapes such as `\x1b`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def time_text(when: datetime, local: bool) -> str:  # noqa: FBT001 - as the option
    """A time in ISO 8601 to the millisecond: in UTC with a Z, or in the local zone."""
    if local:
        return when.astimezone().isoformat(timespec="milliseconds")
    return when.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def age_text(seconds: float | None) -> str:
    """A number of seconds as people say it, in its two largest units."""
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


def write(text: str) -> None:
    """Puts text on stdout. Raises `ClosedPipe`."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise ClosedPipe from None


def flush() -> None:
    """Sends what was written. Raises `ClosedPipe`."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise ClosedPipe from None


def drop_output() -> None:
    """Has what is left for a closed stdout go nowhere, so that the interpreter does not stumble over it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def line(text: str) -> None:
    """A line for people. Raises `ClosedPipe`."""
    write(plain(text) + "\n")


def json_line(value: Any) -> None:
    """A line for programs: one JSON value, all of it ASCII. Raises `ClosedPipe`."""
    write(json.dumps(value, separators=(", ", ": ")) + "\n")


def table_of(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, last_is_total: bool = False) -> Table:
    """A table without frames, to be shown by rich."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name, side in columns:
        justify: JustifyMethod = "right" if side == "right" else "left"
        made.add_column(name, justify=justify, overflow="fold", no_wrap=side != "left")
    listed = list(rows)
    for number, row in enumerate(listed, 1):
        style = "bold" if last_is_total and number == len(listed) else None
        made.add_row(*map(_cell, row), style=style)
    return made


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, last_is_total: bool = False) -> None:
    """A table for people; long cells are folded. Raises `ClosedPipe`."""
    write(rendered(table_of(columns, rows, last_is_total=last_is_total)))


def table_with_more(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], more: Sequence[Sequence[str]], *, aside: Sequence[str]
) -> None:
    """A table for people, in which nothing is folded; below each row, indented, stands more of it.

    Where a row would not fit, columns are taken out of the table and stand below as well, those of `aside` one after the other.
    Raises `ClosedPipe`.
    """
    for most in range(len(aside) + 1):
        taken = aside[:most]
        inside = [place for place, (name, _) in enumerate(columns) if name not in taken]
        made = table_of([columns[place] for place in inside], [[row[place] for place in inside] for row in rows])
        if console(2 * ENDLESS).measure(made).maximum <= width():
            break
    outside = [place for place, (name, _) in enumerate(columns) if name in taken]
    heading, *lines = rendered(made, ENDLESS).splitlines()
    write(heading + "\n")
    for text, row, rest in zip(lines, rows, more, strict=True):
        write(text + "\n")
        for added in (*(f"{columns[place][0]}: {row[place]}" for place in outside), *rest):
            line(f"    {added}".rstrip())


def rendered(what: RenderableType, columns: int | None = None) -> str:
    """What rich makes of something, as text for stdout, without blanks at the ends of lines; for that many columns."""
    shown = console(columns)
    with shown.capture() as captured:
        shown.print(what)
    return "".join(one.rstrip() + "\n" for one in captured.get().splitlines())


def _cell(value: Cell) -> Text:
    if isinstance(value, Text):
        return value
    return Text("" if value is None else plain(str(value)))


def note(text: str) -> None:
    """Something people may want to know, in a line on stderr."""
    _tell(plain(text))


def counted(number: int, thing: str) -> str:
    """A number of things in words."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def size_text(size: int | None) -> str:
    """A number of bytes, or of characters, as people say it."""
    if size is None:
        return "unknown"
    if size < 1024:
        return f"{size} B"
    for power, unit in enumerate(("KiB", "MiB"), 1):
        if size < 1024 ** (power + 1):
            return f"{size / 1024**power:.1f} {unit}"
    return f"{size / 1024**3:.1f} GiB"


def complain(text: str, url: str | None = None) -> None:
    """Something that is wrong, in a line on stderr, without passwords: of URLs that it quotes, and that of `url`."""
    _tell("agentlog: " + plain(" ".join(redacted(text, url).split())))


def fail(error: BaseException, url: str | None = None) -> int:
    """Tells of an error in a line on stderr; the exit code that goes with it."""
    complain(str(error) or type(error).__name__, url)
    return 2 if isinstance(error, (BadInput, CallerError)) else 3


def _tell(text: str) -> None:
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - where it goes

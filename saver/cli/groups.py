"""`agentlog groups` lists the consumer groups."""

from __future__ import annotations

from dataclasses import asdict

from eventlog.errors import InvalidArgument
from eventlog.feed.groups import GroupInfo
from eventlog.feed.position import Position
from eventlog.printable import word
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.display import names_of, rendered, table_of
from saver.cli.output import time_text

__all__ = ["groups"]

COLUMNS = [("group", "left"), ("created", "whole"), ("start", "left"), ("filters", "left"), ("members", "left")]


@command("agentlog groups", "agentlog groups --json | jq -r .name")
def groups(options: Options) -> None:
    """Lists the consumer groups.

    It shows the creation, start and filters of each, and the members that are alive.
    """
    with options.open_feed() as feed:
        found = feed.groups()
    if options.json:
        for one in found:
            output.json_line(asdict(one))
    elif found:
        output.write(rendered(table_of(COLUMNS, [_row(one, local=options.local) for one in found])))
    else:
        output.note(f"No group is registered under prefix {options.prefix!r}.")


def _row(group: GroupInfo, *, local: bool) -> list[str]:
    filters = "; ".join(
        f"{word(name, ':;')}: {', '.join(word(value, ',;') for value in values)}"
        for name, values in group.filters.items()
    )
    return [
        word(group.name),
        time_text(group.created, local=local),
        _start(group),
        filters or "-",
        names_of(group.members) or "-",
    ]


def _start(group: GroupInfo) -> str:
    """The start of a group for people, who cannot read a position."""
    try:
        Position.parse(group.start)
    except InvalidArgument:
        return word(group.start)
    return "at a position"

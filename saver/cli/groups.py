"""`agentlog groups` and `drop`: which consumer groups there are, and taking one out."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from eventlog.errors import InvalidArgument
from eventlog.feed.groups import GroupInfo
from eventlog.feed.position import Position
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.asking import Yes, agreed

__all__ = ["GroupName", "drop", "groups"]

GroupName = Annotated[
    str, typer.Argument(metavar="GROUP", help="The group's name, as agentlog groups lists it.", show_default=False)
]

COLUMNS = [("group", "left"), ("created", "whole"), ("start", "left"), ("filters", "left"), ("members", "left")]


@command("agentlog groups", "agentlog groups --json | jq -r .name")
def groups(options: Options) -> None:
    """Lists the consumer groups.

    With where each started, what it is for, and which of its members are alive.
    """
    with options.open_feed() as feed:
        found = feed.groups()
    if options.json:
        for one in found:
            output.json_line(_object(one))
    elif found:
        rows = [
            [
                one.name,
                output.time_text(one.created, options.local),
                _start(one),
                _filters(one) or "-",
                ", ".join(one.members) or "-",
            ]
            for one in found
        ]
        output.table(COLUMNS, rows)
    else:
        output.note(f"No group is registered under prefix {options.prefix!r}.")


@command("agentlog drop audit", "agentlog drop audit --yes")
def drop(options: Options, group: GroupName, *, yes: Yes = False) -> int:
    """Drops a group for good.

    Its position, what waits and what is parked go; the feed is no longer kept for it. Keys that effects of its members wrote
    stay. Asks first.
    """
    with options.open_feed() as feed:
        if not yes:
            found = feed.group(group).lag()
            state = f"{found.pending} events pending, {found.waiting} waiting, {found.parked} threads parked"
            question = f"Drop group {group!r}, with {state}? Keys written by its effects stay."
            if not agreed(question, yes=yes):
                return 1
        feed.drop_group(group)
    if options.json:
        output.json_line({"dropped": group})
    else:
        output.line(f"Group {group!r} was dropped.")
    return 0


def _object(group: GroupInfo) -> dict[str, Any]:
    return {
        "name": group.name,
        "created": output.time_text(group.created, local=False),
        "start": group.start,
        "filters": group.filters,
        "members": list(group.members),
    }


def _start(group: GroupInfo) -> str:
    """Where it started, for people, who cannot read a position."""
    try:
        Position.parse(group.start)
    except InvalidArgument:
        return group.start
    return "at a position"


def _filters(group: GroupInfo) -> str:
    return "; ".join(f"{name}: {', '.join(values)}" for name, values in group.filters.items())

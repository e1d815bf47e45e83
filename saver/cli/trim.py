"""`agentlog trim` removes the oldest pointers of the feed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from eventlog.feed.trimming import HeldBack
from eventlog.printable import word
from projections.time_travel.moment import duration_of
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.display import age_text, rendered, table_of
from saver.cli.output import BadInput

__all__ = ["trim"]

MOST = 2**53 - 1
"""A larger count counts as this one."""


@command("agentlog trim --age 7d", "agentlog trim --count 100000 --json", "agentlog trim --age 12h --fail-held-back")
def trim(
    options: Options,
    *,
    age: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Remove older pointers: 7d, 12h, 30m, 45s, 1h30m.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Keep the newest N. N is shared evenly among the partitions: each of the 16 keeps N/16, rounded up, "
            "however many the others have.",
        ),
    ] = None,
    fail_held_back: Annotated[
        bool, typer.Option("--fail-held-back", help="Exit code 1 if a group holds pointers back.")
    ] = False,
) -> int:
    """Removes the oldest pointers of the feed.

    Only pointers that no group needs are removed. Logs of threads are not touched. With both bounds, a pointer beyond
    either is removed.
    """
    if age is None and count is None:
        raise BadInput("how much is to be kept? Pass --age, --count, or both.")
    bounds: dict[str, Any] = {
        "age": None if age is None else duration_of(age),
        "count": None if count is None else min(count, MOST),
    }
    with options.open_feed() as feed:
        done = feed.trim(bounds)
    if options.json:
        output.json_line(asdict(done))
    else:
        output.line(f"{done.entries} entries were taken out of the feed.")
        if done.held_back:
            columns = [("held back by group", "left"), ("entries", "right"), ("oldest", "right")]
            output.write(rendered(table_of(columns, _by_group(done.held_back))))
    return 1 if fail_held_back and done.held_back else 0


def _by_group(held_back: Iterable[HeldBack]) -> list[list[object]]:
    """Group, entries and age of the oldest, over all partitions."""
    entries: dict[str, int] = {}
    ages: dict[str, float] = {}
    for one in held_back:
        entries[one.group] = entries.get(one.group, 0) + one.entries
        ages[one.group] = max(ages.get(one.group, 0), one.age)
    return [[word(group), count, age_text(ages[group])] for group, count in sorted(entries.items())]

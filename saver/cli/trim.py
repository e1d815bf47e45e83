"""`agentlog trim`: taking the oldest entries out of the feed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from eventlog.feed.trimming import HeldBack
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.numbers import count_for
from saver.cli.output import BadInput
from saver.cli.times import duration_of

__all__ = ["trim"]


@command("agentlog trim --age 7d", "agentlog trim --count 100000 --json", "agentlog trim --age 12h --fail-held-back")
def trim(
    options: Options,
    *,
    age: Annotated[
        str | None, typer.Option(metavar="DURATION", help="What is older goes: 7d, 12h, 30m, 45s, 1h30m.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=count_for("--count"),
            help="What is beyond the newest N goes. N is shared out evenly over the partitions: each of the 16 keeps "
            "N/16, rounded up, however many the others have.",
        ),
    ] = None,
    fail_held_back: Annotated[
        bool, typer.Option("--fail-held-back", help="Exit code 1 if a group keeps entries from going.")
    ] = False,
) -> int:
    """Takes the oldest out of the feed.

    As far as no group needs them any more. Logs of threads are left alone. With both bounds, what is beyond either goes.
    """
    if age is None and count is None:
        raise BadInput("how much is to be kept? Pass --age, --count, or both.")
    bounds: dict[str, Any] = {"age": None if age is None else duration_of(age), "count": count}
    with options.open_feed() as feed:
        done = feed.trim(bounds)
    if options.json:
        output.json_line(asdict(done))
    else:
        output.line(f"{done.entries} entries were taken out of the feed.")
        if done.held_back:
            columns = [("held back by group", "left"), ("entries", "right"), ("oldest", "right")]
            output.table(columns, _by_group(done.held_back))
    return 1 if fail_held_back and done.held_back else 0


def _by_group(held_back: Iterable[HeldBack]) -> list[list[object]]:
    entries: dict[str, int] = {}
    ages: dict[str, float] = {}
    for one in held_back:
        entries[one.group] = entries.get(one.group, 0) + one.entries
        ages[one.group] = max(ages.get(one.group, 0), one.age)
    return [[group, count, output.age_text(ages[group])] for group, count in sorted(entries.items())]

"""Arguments and options that several commands take, and how they are read."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from projections.time_travel.moment import FORMS, Moment, moment_of
from saver.cli.app import Options
from saver.cli.output import BadInput, plain

__all__ = [
    "STATE",
    "AcceptPlaintext",
    "AllThreads",
    "Full",
    "GroupName",
    "Limit",
    "Namespace",
    "NoValues",
    "Since",
    "ThreadName",
    "ThreadNames",
    "ThreadOptions",
    "Until",
    "Yes",
    "agreed",
    "bounds",
    "chosen",
    "seconds",
    "typed_moment",
]

LONGEST = 1e9
"""Seconds below which the number of an option is."""
STATE = f"A checkpoint id or its beginning, or {FORMS}."

ThreadName = Annotated[str, typer.Argument(metavar="THREAD", help="The thread's id.", show_default=False)]
ThreadNames = Annotated[
    list[str] | None, typer.Argument(metavar="THREAD...", help="The threads' ids.", show_default=False)
]
AllThreads = Annotated[bool, typer.Option("--all", help="All threads.")]
ThreadOptions = Annotated[list[str] | None, typer.Option(metavar="T", help="Only this thread. Repeatable.")]
GroupName = Annotated[
    str, typer.Argument(metavar="GROUP", help="The group's name, as agentlog groups lists it.", show_default=False)
]
Namespace = Annotated[
    str | None, typer.Option(metavar="TEXT", help='Of this checkpoint namespace; "" is the graph itself.')
]
Since = Annotated[str | None, typer.Option(metavar="MOMENT", help=f"From this moment on: {FORMS}.")]
Until = Annotated[str | None, typer.Option(metavar="MOMENT", help=f"Up to this moment: {FORMS}.")]
Limit = Annotated[int | None, typer.Option(metavar="N", min=1, help="End after this many.")]
Full = Annotated[bool, typer.Option("--full", help="Show long values whole.")]
NoValues = Annotated[bool, typer.Option("--no-values", help="Deserialize nothing but metadata.")]
AcceptPlaintext = Annotated[
    bool,
    typer.Option(
        "--accept-plaintext",
        help="With LANGGRAPH_AES_KEY: read values that are not encrypted, such as older ones, too.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def chosen(threads: list[str] | None, *, every: bool, how: str = "Name them, or pass --all.") -> list[str] | None:
    """The threads that a command is for, each once; None for all of them.

    Raises `BadInput`, with `how` to choose, unless either threads are named or `every` is set.
    """
    if every == bool(threads):
        raise BadInput(f"which threads? {how}")
    return None if every else list(dict.fromkeys(threads or ()))


def typed_moment(options: Options, text: str | None, option: str, thread: str) -> Moment | None:
    """A moment as it is typed, None for None; raises `InvalidArgument`."""
    return None if text is None else moment_of(text, option, thread=thread, zone=options.zone)


def bounds(options: Options, since: str | None, until: str | None, thread: str) -> tuple[Moment | None, Moment | None]:
    """The moments after which and at which reading begins and ends."""
    first = typed_moment(options, since, "--since", thread)
    return None if first is None else first.before(), typed_moment(options, until, "--until", thread)


def agreed(question: str, *, yes: bool) -> bool:
    """Whether the user agrees; raises `BadInput` without a terminal to ask at."""
    if yes:
        return True
    if sys.stdin is None or not sys.stdin.isatty():
        raise BadInput("there is no terminal to ask at; pass --yes to go on without a question.")
    return typer.confirm(plain(question), err=True)


def seconds(value: float | None) -> float | None:
    """The seconds of an option; raises `BadParameter` for nan and absurdly many."""
    if value is None or value < LONGEST:
        return value
    raise typer.BadParameter(f"{value} is no number of seconds below {LONGEST:.0f}")

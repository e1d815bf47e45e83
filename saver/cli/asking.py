"""Asking before something is given up for good."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from saver.cli import output
from saver.cli.output import BadInput

__all__ = ["Yes", "agreed"]

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def agreed(question: str, *, yes: bool) -> bool:
    """Whether whoever is at the terminal agrees, or did by --yes. Raises `BadInput` where there is no terminal to ask at."""
    if yes:
        return True
    if sys.stdin is None or not sys.stdin.isatty():
        raise BadInput("there is no terminal to ask at; pass --yes to do it all the same.")
    return typer.confirm(output.plain(question), err=True)

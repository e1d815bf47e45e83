"""Running `agentlog`: every way to end, with its exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

import typer.main

from saver.cli import output
from saver.cli.app import app
from saver.cli.check import check
from saver.cli.delete import delete
from saver.cli.diff import diff
from saver.cli.export import archive, export, import_
from saver.cli.groups import drop, groups
from saver.cli.lag import lag
from saver.cli.log import log
from saver.cli.migrate import migrate
from saver.cli.output import BadInput, ClosedPipe
from saver.cli.parked import parked, retry, skip
from saver.cli.rebuild import rebuild
from saver.cli.replay import replay
from saver.cli.show import show
from saver.cli.tail import tail
from saver.cli.threads import threads
from saver.cli.trim import trim
from saver.cli.verify import verify

__all__ = ["COMMANDS", "run"]

COMMANDS = (
    archive,
    check,
    delete,
    diff,
    drop,
    export,
    groups,
    import_,
    lag,
    log,
    migrate,
    parked,
    rebuild,
    replay,
    retry,
    show,
    skip,
    tail,
    threads,
    trim,
    verify,
)
"""All there are; loading them has declared them."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # neither is always a file
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _command(given)
        output.flush()
    except ClosedPipe:
        output.drop_output()
        return 141
    except OSError as error:  # a full disk
        output.drop_output()
        output.complain(f"cannot write: {error}")
        return 3
    except KeyboardInterrupt:
        return 130
    return code


def _command(arguments: list[str]) -> int:
    try:
        if any("\udc80" <= one <= "\udcff" for text in arguments for one in text):
            raise BadInput("an argument is not valid UTF-8.")
        code = typer.main.get_command(app).main(arguments, prog_name="agentlog", standalone_mode=False)
    except BadInput as error:
        return output.fail(error)
    except typer.Abort:
        return 130
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # typer's own end, of help that nobody reads
            raise ClosedPipe from None
        return ended.code if isinstance(ended.code, int) else 0
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _usage(error)
    return code if isinstance(code, int) else 0


def _usage(error: Exception) -> int:
    """What typer, or the click in it or below it, says of arguments that it does not take."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "agentlog"
    message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    end = "" if message.endswith(("?", "!")) else "."
    output.complain(f"{message.rstrip('.')}{end} Try: {path} --help")
    return 2

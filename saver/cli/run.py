"""Runs `agentlog`: every way to end, with its exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

import typer.main

from saver.cli import (  # noqa: F401 - loading a module declares its commands
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
    output,
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
from saver.cli.app import app
from saver.cli.output import BadInput

__all__ = ["app", "run"]


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # neither is always a file
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _command(given)
        output.flush()
    except BrokenPipeError:
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
        if isinstance(ended.__context__, BrokenPipeError):  # typer makes an end of its own of it
            raise ended.__context__ from None
        return ended.code if isinstance(ended.code, int) else 0
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - reported as a defect
        return _usage(error) if hasattr(error, "format_message") else _defect()
    return code if isinstance(code, int) else 0


def _defect() -> int:
    """Report an error that no command expects. Data may have caused it, so its text is not trusted, and is no verdict."""
    for one in traceback.format_exc().splitlines():
        output.note(output.redacted(one))
    output.complain("this is a defect of agentlog, and no answer. Please report it.")
    return 3


def _usage(error: Exception) -> int:
    """Report an error of usage, as typer or its click words it."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "agentlog"
    message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    end = "" if message.endswith(("?", "!")) else "."
    output.complain(f"{message.rstrip('.')}{end} Try: {path} --help")
    return 2

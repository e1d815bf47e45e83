"""`agentlog export` writes threads to a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from projections.transfer.export import export_file
from projections.transfer.progress import reporting
from saver.cli import output, with_langgraph
from saver.cli.app import Options, command
from saver.cli.arguments import AcceptPlaintext, chosen
from saver.cli.display import counted, showing_progress
from saver.cli.key_files import KeyFiles, signed, signer_of
from saver.cli.output import BadInput

__all__ = ["export", "usable"]


@command(
    "agentlog export 42 43 threads.agentlog",
    "agentlog export --all backup.agentlog",
    "agentlog export 42 thread.jsonl --jsonl --values",
)
def export(
    options: Options,
    names: Annotated[list[str], typer.Argument(metavar="[THREAD]... FILE", show_default=False)],
    *,
    every: Annotated[bool, typer.Option("--all", help="All threads.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="JSON lines to read; they cannot be imported.")] = False,
    values: Annotated[bool, typer.Option("--values", help="With --jsonl: values deserialized, not as bytes.")] = False,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Damaged logs too, as evidence; they cannot be imported.")
    ] = False,
    accept_plaintext: AcceptPlaintext = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    key_file: KeyFiles = None,
) -> int:
    """Writes threads to a file.

    It writes their logs, checked and complete. It only reads from the server. Run again after an interruption, it
    continues after the threads that are already written. Encrypted values stay encrypted. Only you can read the file.
    With --all, exit code 1 if damaged logs were left out.

    With a key it refuses a thread that is not signed as it should be, and with --all leaves it out: exit code 1. With
    --damaged signatures are not checked.
    """
    *threads, file = names
    wanted = chosen(threads, every=every, how="Pass their ids before the file, or --all.")
    if values and not jsonl:
        raise BadInput("--values goes with --jsonl.")
    signer = signer_of(key_file)
    with options.open_prefix() as (runner, found), usable(file), showing_progress() as progress:
        keyspace = signed(found, signer)
        if jsonl:
            flow = with_langgraph.json_lines(
                keyspace,
                wanted,
                file,
                values=values,
                accept_plaintext=accept_plaintext,
                overwrite=force,
                damaged=damaged,
            )
        else:
            flow = export_file(keyspace, wanted, file, overwrite=force, damaged=damaged)
        done = runner.run(flow, f"export to {file!r}", reporting(progress))
    left_out = [one._asdict() for one in done.left_out]
    text = f"{counted(done.threads, 'thread')} with {counted(done.entries, 'event')} in {file}."
    options.report(text, {"file": file, **done._asdict(), "left_out": left_out})
    if not options.json:
        for one in done.left_out:
            output.complain(f"left out: {one.why}", options.url)
    return 1 if done.left_out else 0


@contextmanager
def usable(file: str) -> Iterator[None]:
    """Report a file that cannot be used as bad input."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise BadInput(f"file {str(Path(file))!r}: {error.strerror or error}.") from error

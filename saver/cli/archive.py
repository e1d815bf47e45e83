"""`agentlog archive` exports a thread, then prunes it."""

from __future__ import annotations

from typing import Annotated

import typer

from eventlog.printable import word
from saver.cli.app import Options, command
from saver.cli.display import counted, showing_progress
from saver.cli.export import usable
from saver.cli.key_files import KeyFiles, saver_keys
from saver.cli.output import BadInput
from saver.cli.with_langgraph import open_saver

__all__ = ["archive"]


@command(
    "agentlog archive 42 42.agentlog --keep-last 10",
    "agentlog archive 42 42.agentlog --delete",
)
def archive(
    options: Options,
    thread: Annotated[str, typer.Argument(metavar="THREAD", show_default=False)],
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False)],
    *,
    keep_last: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Checkpoints of each namespace that stay; 1 unless you say otherwise."),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the thread rather than prune it.")] = False,
    key_file: KeyFiles = None,
) -> None:
    """Exports a thread, then prunes it.

    The file is read back and compared with the log before anything is removed. Nothing is removed that the file lacks:
    events that are written meanwhile are exported, too.
    """
    if delete and keep_last is not None:
        raise BadInput("pass either --keep-last or --delete.")
    keys = saver_keys(key_file)
    with open_saver(options, must_exist=True, **keys) as saver, usable(file), showing_progress() as progress:
        done = saver.archive_thread(thread, file, keep_last=keep_last, delete=delete, progress=progress)
    removed = f"{counted(done.removed, 'checkpoint')} removed from thread {word(thread)}"
    text = f"{counted(done.entries, 'event')} in {file}; {removed}."
    options.report(text, {"thread": thread, "file": file, **done._asdict()})

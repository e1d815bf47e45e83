"""`agentlog import` restores the threads of an export."""

from __future__ import annotations

from typing import Annotated

import typer

from saver.cli.app import Options, command
from saver.cli.arguments import ThreadOptions
from saver.cli.display import counted, showing_progress
from saver.cli.export import usable
from saver.cli.key_files import KeyFiles, saver_keys
from saver.cli.with_langgraph import open_saver

__all__ = ["import_"]


@command(
    "agentlog import backup.agentlog",
    "agentlog import backup.agentlog --thread 42 --prefix restored",
    name="import",
)
def import_(
    options: Options,
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False)],
    *,
    thread: ThreadOptions = None,
    ttl: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="Time to live of the threads; without it they never expire.")
    ] = None,
    key_file: KeyFiles = None,
) -> None:
    """Restores the threads of an export.

    They get the same ids, numbers and digests. The file is checked first, and a damaged file changes nothing. A thread
    that is already there in the same form is passed over. If one is there in another form, nothing is imported.

    Signatures are imported as they are. With a key they are verified first: if a thread is not signed as it should be,
    nothing is imported, exit code 1. A public half suffices.
    """
    keys = saver_keys(key_file)
    with open_saver(options, ttl=ttl, **keys) as saver, usable(file), showing_progress() as progress:
        done = saver.import_threads(file, thread, progress=progress)
    present = f"; there already: {done.present}" if done.present else ""
    text = f"{counted(done.threads, 'thread')} with {counted(done.entries, 'event')} put in place{present}."
    options.report(text, {"file": file, **done._asdict()})

"""`agentlog delete`: takes threads out for good."""

from __future__ import annotations

from typing import Annotated

import typer

from eventlog.errors import CorruptEntry, LogLost, ThreadNotFound
from eventlog.flow import Flow
from eventlog.keys import ThreadKeys, text
from projections.checkpoints.deletion import delete_thread
from projections.integrity.log_end import log_end
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.asking import Yes, agreed
from saver.cli.output import counted

__all__ = ["delete"]


@command("agentlog delete 42", "agentlog delete 42 43 --yes")
def delete(
    options: Options,
    thread: Annotated[list[str], typer.Argument(metavar="THREAD...", help="The threads.", show_default=False)],
    *,
    yes: Yes = False,
) -> int:
    """Deletes threads for good.

    Damaged ones too, so that an import can restore them; export them first. The feed keeps a tombstone of each, with its last
    number and digest. Asks first.
    """
    names = list(dict.fromkeys(thread))
    with options.open_prefix() as (runner, keyspace):
        found = [keyspace.thread(text("THREAD", name)) for name in names]
        for keys in found:
            runner.run(_check_there(keys), f"thread {keys.thread.decode()!r}")
        if not agreed(f"Delete {counted(len(found), 'thread')}, logs and all: {', '.join(names)}?", yes=yes):
            return 1
        for keys in found:
            runner.run(delete_thread(keys), f"thread {keys.thread.decode()!r}")
            if options.json:
                output.json_line({"deleted": keys.thread.decode()})
            else:
                output.line(f"Thread {keys.thread.decode()!r} was deleted.")
    return 0


def _check_there(keys: ThreadKeys) -> Flow[None]:
    try:
        end = yield from log_end(keys)
    except (CorruptEntry, LogLost):
        return
    if end is None:
        raise ThreadNotFound(f"Thread {keys.thread.decode()!r} has no log. Check the id, and the prefix.")

"""Read the writes of a checkpoint that has more of them than one script reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from eventlog.errors import ThreadBusy
from eventlog.flow import Flow, load_script
from eventlog.keys import ThreadKeys
from projections.log.index import call

__all__ = ["with_all_writes"]

READ_WRITES = load_script("projections/checkpoints/read_writes")
ATTEMPTS = 20
"""Attempts to read all writes before the checkpoint is removed or saved again."""

Entries = list[list[bytes]]
"""Writes by entry, as `checkpoint_view.lua` replies them."""


def with_all_writes(
    keys: ThreadKeys, read: Callable[[], Flow[list[Any]]], writes_in: Callable[[list[Any]], Iterable[Entries]]
) -> Flow[list[Any]]:
    """The reply of a script that reads checkpoints, with all of their writes; `writes_in` finds these in a reply.

    Takes no more round trips than the script unless a checkpoint has more than 500 entries of writes, or 4 MiB: then one more for
    as many. The writes are those that the log had when the script ran. If a checkpoint was removed or saved again in between, the
    script runs again. Raises `ThreadBusy` if that goes on, and else as `projections.log.index.call`.
    """
    for _ in range(ATTEMPTS):
        reply = yield from read()
        for entries in writes_in(reply):
            if not (yield from _complete(keys, entries)):
                break
        else:
            return reply
    raise ThreadBusy(
        f"Checkpoints of thread {keys.thread.decode()!r} were removed or saved again each time before all of their writes could "
        "be read. Call again when the thread is less busy."
    )


def _complete(keys: ThreadKeys, entries: Entries) -> Flow[bool]:
    """Puts the other writes in the place of the mark that there are more; False if their checkpoint is no longer the same."""
    while entries and not entries[-1][0]:
        _, *rest = entries.pop()
        reply = yield from call(keys, READ_WRITES, rest)
        if reply[0] == b"moved":
            return False
        entries += reply[1]
    return True

"""`agentlog delete` deletes threads for good."""

from __future__ import annotations

from eventlog.errors import CorruptEntry, LogLost, ThreadNotFound
from eventlog.flow import Flow
from eventlog.keys import ThreadKeys, text
from projections.checkpoints.deletion import delete_thread
from projections.integrity.log_end import log_end
from saver.cli.app import Options, command
from saver.cli.arguments import ThreadNames, Yes, agreed
from saver.cli.display import counted, names_of

__all__ = ["delete"]


@command("agentlog delete 42", "agentlog delete 42 43 --yes")
def delete(options: Options, thread: ThreadNames, *, yes: Yes = False) -> int:
    """Deletes threads for good.

    It also deletes damaged threads, so that an import can restore them; export them first. The feed keeps a tombstone
    of each, with its last number and digest. It asks first.
    """
    names = list(dict.fromkeys(thread or ()))
    with options.open_prefix() as (runner, keyspace):
        found = {name: keyspace.thread(text("THREAD", name)) for name in names}
        for name, keys in found.items():
            runner.run(_check_exists(keys), f"thread {name!r}")
        if not agreed(f"Delete {counted(len(found), 'thread')}, logs and all: {names_of(names)}?", yes=yes):
            return 1
        for name, keys in found.items():
            runner.run(delete_thread(keys), f"thread {name!r}")
            options.report(f"Thread {name!r} was deleted.", {"deleted": name})
    return 0


def _check_exists(keys: ThreadKeys) -> Flow[None]:
    try:
        end = yield from log_end(keys)
    except (CorruptEntry, LogLost):
        return
    if end is None:
        raise ThreadNotFound(f"Thread {keys.thread.decode()!r} has no log. Check the id, and the prefix.")

"""`agentlog rebuild` builds the views again from the logs."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from eventlog.errors import CorruptEntry, LogLost
from eventlog.flow import Flow
from eventlog.keys import ThreadKeys
from projections.maintenance.rebuild import Rebuilt, rebuild_known, rebuild_thread
from projections.registry.rebuild import rebuild_registry
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.arguments import AllThreads, ThreadNames, chosen
from saver.cli.check import of_each_thread
from saver.cli.display import counted, showing_progress

__all__ = ["rebuild"]


@command("agentlog rebuild 42", "agentlog rebuild --all", "agentlog rebuild --all --json")
def rebuild(options: Options, thread: ThreadNames = None, *, every: AllThreads = False) -> int:
    """Builds indexes, heads and the registry again from the logs.

    Agents may go on meanwhile: they find the old views or the new ones. Logs are not touched. With --all it rebuilds
    the registry, too, and a log that cannot be read is reported and passed over, as is a feed with a foreign entry: exit
    code 1.

    It reads no digests and no signatures: agentlog verify finds altered events.
    """
    names = chosen(thread, every=every)
    count = failed = 0
    with options.open_prefix(may_be_empty=every) as (runner, keyspace), showing_progress() as show:
        for number in range(keyspace.partitions if every else 0):
            show("registry", number, keyspace.partitions)
            try:
                runner.run(rebuild_registry(keyspace, keyspace.partition(number)), "the registry")
            except (CorruptEntry, LogLost) as error:
                failed += 1
                output.complain(str(error), options.url)
        work = _rebuilt if every else partial(rebuild_known, keyspace)
        for one in of_each_thread(runner, keyspace, names, work, show):
            if isinstance(one, Rebuilt):
                count += 1
                if options.json:
                    output.json_line(asdict(one))
            else:
                failed += 1
                output.complain(str(one), options.url)
    if not options.json:
        output.line(f"{counted(count, 'thread')} rebuilt.")
    return 1 if failed else 0


def _rebuilt(keys: ThreadKeys) -> Flow[Rebuilt | CorruptEntry | LogLost]:
    """Rebuild a thread, or return the damage of its log."""
    try:
        return (yield from rebuild_thread(keys))
    except (CorruptEntry, LogLost) as error:
        return error

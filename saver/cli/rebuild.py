"""`agentlog rebuild`: making what is stored beside the logs anew."""

from __future__ import annotations

from dataclasses import asdict

from eventlog.errors import CorruptEntry, LogLost, ThreadNotFound
from projections.maintenance.rebuild import rebuild_known, rebuild_thread
from projections.registry.rebuild import rebuild_registry
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.check import All, Threads, opened, thread_ids
from saver.cli.progress import showing_progress

__all__ = ["rebuild"]


@command("agentlog rebuild 42", "agentlog rebuild --all", "agentlog rebuild --all --json")
def rebuild(options: Options, thread: Threads = None, *, every: All = False) -> int:
    """Makes indexes, heads and registry anew from the logs.

    While agents go on: they find what was there before, or what is there then. Logs are left alone. With --all a thread whose
    log is damaged is told, and passed over: exit code 1.
    """
    count = failed = 0
    with options.open_feed() as feed, showing_progress() as show:
        keyspace = opened(feed, thread, every=every)
        if keyspace is None:
            return 0
        for number in range(keyspace.partitions if every else 0):
            show("registry", number, keyspace.partitions)
            feed.runner.run(rebuild_registry(keyspace, keyspace.partition(number)), "the registry")
        named = thread_ids(feed, keyspace, thread, every=every)
        for name in named:
            show(f"thread {name}", count, len(named))
            keys = keyspace.thread(name.encode())
            flow = rebuild_thread(keys) if every else rebuild_known(keyspace, keys)
            try:
                rebuilt = feed.runner.run(flow, f"thread {name!r}")
            except ThreadNotFound:
                if not every:
                    raise
                continue  # deleted since it was listed
            except (CorruptEntry, LogLost) as error:
                if not every:
                    raise
                output.complain(str(error), options.url)
                failed += 1
                continue
            count += 1
            if options.json:
                output.json_line(asdict(rebuilt))
    if not options.json:
        output.line(f"{output.counted(count, 'thread')} rebuilt.")
    return 1 if failed else 0

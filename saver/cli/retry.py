"""`agentlog retry` has parked events tried again."""

from __future__ import annotations

from eventlog.feed.groups import Group
from saver.cli.app import Options, command
from saver.cli.arguments import GroupName, chosen
from saver.cli.parked import AllParked, ParkedThreads, unpark

__all__ = ["retry"]


@command("agentlog retry audit --thread 42", "agentlog retry audit --all")
def retry(options: Options, group: GroupName, *, thread: ParkedThreads = None, every: AllParked = False) -> int:
    """Has parked events tried again.

    They are tried as often as at first. Exit code 1 if a named thread has nothing parked.
    """
    threads = chosen(thread, every=every, how="Pass either --thread T or --all.")
    with options.open_feed() as feed:
        return unpark(options, feed.group(group), threads, "retried", Group.retry)

"""`agentlog skip` gives up parked events."""

from __future__ import annotations

from eventlog.feed.groups import Group
from saver.cli.app import Options, command
from saver.cli.arguments import GroupName, Yes, agreed, chosen
from saver.cli.display import counted
from saver.cli.parked import AllParked, ParkedThreads, unpark

__all__ = ["skip"]


@command("agentlog skip audit --thread 42", "agentlog skip audit --all --yes")
def skip(
    options: Options, group: GroupName, *, thread: ParkedThreads = None, every: AllParked = False, yes: Yes = False
) -> int:
    """Gives up parked events for good.

    Their threads go on with the next event. It asks first. Exit code 1 if a named thread has nothing parked, or if
    the answer is no.
    """
    threads = chosen(thread, every=every, how="Pass either --thread T or --all.")
    with options.open_feed() as feed:
        known = feed.group(group)
        found = [one for one in known.parked() if threads is None or one.thread_id in threads]
        if found and not agreed(f"Give up {counted(len(found), 'parked event')} of group {group!r}?", yes=yes):
            return 1
        return unpark(options, known, threads, "skipped", Group.skip)

"""Removes the runs of threads that ended from the registry, in steps.

A thread may have more runs than one script can remove in good time. The script that ends the thread then marks it in the view
of runs. Readers ignore the runs of a marked thread. The rest of the call removes them. If it is cut short, a later deletion
does, or the first write to a thread of that name.
"""

from __future__ import annotations

from eventlog.flow import Call, Command, Flow, load_script
from eventlog.keys import PartitionKeys

__all__ = ["MARK", "ended_threads", "forget_runs"]

FORGET_RUNS = load_script("projections/log/forget_runs")
MARK = b"d"
"""The first letter of a member of `runs` that marks a thread; its id follows."""
AT_ONCE = 100


def forget_runs(keys: PartitionKeys, thread: bytes) -> Flow[None]:
    """Removes the runs of a thread that is marked. One round trip per 1,000 runs."""
    while (yield Call(FORGET_RUNS, [keys.runs], [thread])):
        pass


def ended_threads(keys: PartitionKeys) -> Command:
    """The command that reads some of the marks of a partition."""
    return Command("ZRANGEBYLEX", keys.runs, [b"[" + MARK, b"(" + MARK + b"\xff", b"LIMIT", 0, AT_ONCE])

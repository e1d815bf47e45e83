"""Members of views of threads and runs that this package does not write.

One such member must not hide the other threads. So readers leave it out, and a warning is logged once. `agentlog check --all`
names it, and `agentlog rebuild --all` removes it from a view.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache

from eventlog.printable import printable

__all__ = ["is_thread", "leave_out", "text_ids", "thread_ids", "time_in"]

log = logging.getLogger("projections.registry")

LATEST = 253_402_300_799_999
"""Ms since 1970 at the end of the year 9999."""


@lru_cache(1000)
def leave_out(view: bytes, found: bytes, outcome: str = "it is left out") -> None:
    """Logs once that a view has something that is no id, and so is left out."""
    log.warning(
        "%s has %r, which this package does not write: %s. agentlog check --all names it; agentlog rebuild --all, or ZREM, "
        "removes it",
        printable(view.decode(errors="replace")),
        found[:100],
        outcome,
    )


def text_ids(view: bytes, ids: Iterable[bytes]) -> Iterator[bytes]:
    """The ids that are text; others are left out."""
    for one in ids:
        try:
            one.decode()
        except UnicodeDecodeError:
            leave_out(view, one)
        else:
            yield one


def is_thread(member: bytes) -> bool:
    """Whether a member of a view of threads names a thread."""
    try:
        return member.decode()[:1] == "t"
    except UnicodeDecodeError:
        return False


def thread_ids(view: bytes, members: Iterable[bytes]) -> Iterator[bytes]:
    """The threads in some members of a view of threads; other members are left out."""
    for member in members:
        if member[:1] == b"t":
            yield from text_ids(view, [member[1:]])
        elif member:
            leave_out(view, member)


def time_in(view: bytes, member: bytes, score: bytes) -> int:
    """The ms of a member's score.

    A score that is no time counts as the nearest time, so that the thread is still listed.
    """
    ms = float(score)
    if not 0 <= ms <= LATEST:
        leave_out(view, member, f"its score {score.decode()} is no time")
    return int(min(max(ms, 0), LATEST))

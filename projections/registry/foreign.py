"""Members of views of threads and runs that this package does not write, and threads with too long ids.

One such member must not hide the other threads. So readers leave it out, and a warning is logged once. `agentlog check --all`
names it, and `agentlog rebuild --all` removes it from a view.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache

from eventlog.events import LATEST
from eventlog.limits import Limits, brief
from eventlog.printable import printable

__all__ = [
    "MOST_SHOWN",
    "is_long",
    "is_text",
    "is_thread",
    "leave_out",
    "leave_out_long",
    "text_ids",
    "thread_ids",
    "time_in",
]

log = logging.getLogger("projections.registry")

MOST_SHOWN = 400
"""Bytes of a member that are kept, and shown in part."""


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


@lru_cache(1000)
def leave_out_long(view: bytes, beginning: bytes, size: int, most: int) -> None:
    """Logs once that a view or a feed has a thread with a too long id."""
    log.warning(
        "%s has thread %s of %s bytes, above the limit of %s for an id: it is left out. agentlog check --all names it. If you "
        "trust it, raise id_bytes; else delete it with a raised id_bytes, or remove it from the view with ZREM",
        printable(view.decode(errors="replace")),
        brief(beginning),
        f"{size:,}",
        f"{most:,}",
    )


def text_ids(view: bytes, ids: Iterable[bytes], limits: Limits | None = None) -> Iterator[bytes]:
    """The ids that are text, and within the limits, if these are given; others are left out."""
    for one in ids:
        if limits is not None and is_long(one, limits):
            leave_out_long(view, one[:MOST_SHOWN], len(one), limits.id_bytes)
            continue
        if is_text(one):
            yield one
        else:
            leave_out(view, one[:MOST_SHOWN])


def is_text(data: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_long(thread: bytes, limits: Limits) -> bool:
    """Whether a thread's id is above the limit."""
    return len(thread) > limits.id_bytes


def is_thread(member: bytes) -> bool:
    """Whether a member of a view of threads names a thread."""
    return member[:1] == b"t" and is_text(member)


def thread_ids(view: bytes, members: Iterable[bytes], limits: Limits | None = None) -> Iterator[bytes]:
    """The threads in some members of a view of threads; other members are left out, as by `text_ids`."""
    for member in members:
        if member[:1] == b"t":
            yield from text_ids(view, [member[1:]], limits)
        elif member:
            leave_out(view, member[:MOST_SHOWN])


def time_in(view: bytes, member: bytes, score: bytes) -> int:
    """The ms of a member's score.

    A score that is no time counts as the nearest time, so that the thread is still listed.
    """
    ms = float(score)
    if not 0 <= ms <= LATEST:
        leave_out(view, member[:MOST_SHOWN], f"its score {score.decode()} is no time")
    return int(min(max(ms, 0), LATEST))

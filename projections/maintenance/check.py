"""Compares the views of a thread with its log.

Only reads, while agents may write. A difference counts only if it was read together with the end of the log that was folded.
Otherwise the fold goes on, and the difference is looked at again.
"""

from __future__ import annotations

from dataclasses import dataclass

from eventlog.errors import CorruptEntry, ThreadBusy, ThreadNotFound
from eventlog.flow import Batch, Command, Flow
from eventlog.keys import ThreadKeys, split_sort_key
from projections.log.fold import Index
from projections.log.index import scan
from projections.maintenance.check_head import check_heads
from projections.maintenance.check_index import check_index
from projections.maintenance.check_registry import check_registered
from projections.maintenance.compare import Difference

__all__ = ["Checked", "Difference", "check_thread"]

ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of checking a thread."""

    thread_id: str
    events: int
    checkpoints: int
    namespaces: int
    heads: int
    """Number of heads that were compared. If index or order are wrong, none is: the log is read through them."""
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no difference."""
        return not self.differences


def check_thread(keys: ThreadKeys) -> Flow[Checked]:
    """Compares index, order, heads and registry of a thread with its log.

    A missing view is a difference, except for heads, which forks drop. A damaged log is a difference, too.
    Round trips: one per 1000 events or 4 MiB of the log, one per 1000 names in its views, two per namespace, and a few more.
    Memory: the index, and one state at a time.

    Raises:
        ThreadNotFound: there is no trace of the thread.
        ThreadBusy: the log moved on during each attempt to confirm a difference.

    """
    thread = keys.thread.decode()
    before: Checked | None = None
    for _ in range(ATTEMPTS):
        try:
            index = yield from scan(keys)
            broken = None if index.entries else (yield from _check_without_log(keys))
        except CorruptEntry as error:
            broken = _broken(keys, str(error))
        if broken is not None:
            if broken == before:
                return broken
            before = broken  # a thread that was deleted and recreated just then looks the same: look again
            continue
        differences = yield from check_index(keys, index)
        if differences is None:
            continue
        namespaces = _namespaces(index)
        heads = 0
        if not differences:
            heads, differences = yield from check_heads(keys, namespaces)
        differences += yield from check_registered(keys, registered=bool(index.checkpoints or index.hidden))
        return Checked(thread, index.entries, len(index.checkpoints), len(namespaces), heads, tuple(differences))
    raise ThreadBusy(
        f"Thread {thread!r} was written to each time before its views could be compared. Call again when it is less busy."
    )


def _check_without_log(keys: ThreadKeys) -> Flow[Checked]:
    """Distinguishes a lost log from a thread that does not exist. One round trip."""
    commands = [Command("EXISTS", key) for key in (keys.index, keys.order, keys.head(b""))]
    commands += [Command("ZSCORE", key, [b"t" + keys.thread]) for key in (keys.shared.threads, keys.shared.expiries)]
    *views, active, expiry = yield Batch(commands)
    if expiry is None and (any(views) or active is not None):
        return _broken(
            keys, "is gone, though the thread was not deleted: restore it from a backup, or delete the thread"
        )
    raise ThreadNotFound(
        f"Thread {keys.thread.decode()!r} has no log: it does not exist, or has expired. Check the id, and the prefix."
    )


def _broken(keys: ThreadKeys, problem: str) -> Checked:
    return Checked(keys.thread.decode(), 0, 0, 0, 0, (Difference("log", problem),))


def _namespaces(index: Index) -> list[str]:
    return sorted({split_sort_key(sort_key)[0] for sort_key in index.checkpoints})

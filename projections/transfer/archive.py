"""Exports a thread, and prunes or deletes what the file has.

The file is read again and compared with the log before anything is removed.
Only events that the archive has are removed: the removal is carried out by compare-and-set on the digest that the file ends with.
If the log has moved on, it is exported again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from eventlog.errors import ExportUnreadable, ThreadBusy
from eventlog.events import Recorded
from eventlog.flow import Flow
from eventlog.keys import Keyspace, ThreadKeys
from projections.checkpoints.deletion import delete_thread
from projections.checkpoints.plan import Replayed, plan, sort_key_of
from projections.checkpoints.pruning import Choice, Describe, carry_out_removal, first_step, read_history
from projections.integrity.log_end import log_end
from projections.log.index import scan
from projections.transfer.export import export_file
from projections.transfer.files import Name
from projections.transfer.format import ThreadHead
from projections.transfer.import_ import check_file, first_difference

__all__ = ["Archived", "Pruning", "archive_thread"]

ATTEMPTS = 5
NO_LIMIT = 2**62


class Archived(NamedTuple):
    """The result of an archive."""

    entries: int
    """Entries in the file."""
    removed: int
    """Checkpoints that were removed from the thread."""


class Pruning(NamedTuple):
    """The choice of checkpoints that are removed after they were archived."""

    choose: Choice
    replayed: Replayed
    describe: Describe


def archive_thread(keyspace: Keyspace, keys: ThreadKeys, path: Name, pruning: Pruning | None) -> Flow[Archived]:
    """Exports a thread, compares the file with the log, and prunes the thread.

    Without `pruning`, the thread is deleted.
    Emits the items of `export_file`. The file is on the disk before anything is removed. If the log has
    moved on since the export, the thread is exported again.

    Raises:
        ThreadBusy: the log moved on during each attempt, or before all chosen checkpoints were removed. The file is right.
        ExportUnreadable: the file differs from what was written, or from the log. The thread was left unchanged.
        FileTaken, and as `projections.transfer.export.export_thread`.

    """
    thread = keys.thread.decode()
    for attempt in range(ATTEMPTS):
        yield from export_file(keyspace, [thread], path, overwrite=attempt > 0, resume=False)
        head, same = yield from _compare(keyspace, keys, path)
        removed = (yield from _remove(keys, head, pruning)) if same else None
        if removed is not None:
            return Archived(head.entries, removed)
        if not (yield from _only_grew(keys, head)):
            raise ThreadBusy(
                f"Thread {thread!r} was pruned, deleted or altered meanwhile, perhaps by this very call, whose reply was lost. "
                f"File {str(path)!r} has the thread as it was before, and was left alone."
            )
    raise ThreadBusy(
        f"Thread {thread!r} was written to each time before it could be pruned. Nothing was removed. File {str(path)!r} has the "
        "thread as it was at the last export. Call again when it is less busy."
    )


def _only_grew(keys: ThreadKeys, head: ThreadHead) -> Flow[bool]:
    """Whether a log still has every entry of the archive.

    Only then may another export replace the file.
    """
    events: list[Recorded] = []
    yield from scan(keys, events)
    archived = [recorded for recorded in events if recorded.sequence <= head.sequence]
    return len(archived) == head.entries and archived[-1].digest == head.digest.encode()


def _remove(keys: ThreadKeys, head: ThreadHead, pruning: Pruning | None) -> Flow[int | None]:
    """Removes the chosen checkpoints from a log, and returns their number.

    Returns None if the log does not end as the archive does.
    """
    history = yield from read_history(keys)
    if history.index.digest != head.digest.encode():
        return None
    removed = 0
    while True:
        listed = history.checkpoints()
        drop = [*listed] if pruning is None else [sort_key_of(event) for event in pruning.choose([*listed.values()])]
        if not drop:
            return removed
        if len(drop) == len(listed):
            if (yield from delete_thread(keys, only=history.index.digest)):
                return removed + len(drop)
            _check_nothing_removed(keys, removed)
            return None
        assert pruning is not None
        step = set(first_step(history, drop))
        after = yield from carry_out_removal(keys, history, plan(history, step, pruning.replayed), pruning.describe)
        if after is None:
            _check_nothing_removed(keys, removed)
            return None
        history, removed = after, removed + len(step)


def _check_nothing_removed(keys: ThreadKeys, removed: int) -> None:
    """Raises `ThreadBusy` if checkpoints were removed already."""
    if removed:
        raise ThreadBusy(
            f"Thread {keys.thread.decode()!r} was written to while it was pruned. The file has all of it; {removed} checkpoints "
            "were removed. Archive it again, to another file, for the rest."
        )


def _compare(keyspace: Keyspace, keys: ThreadKeys, path: Name) -> Flow[tuple[ThreadHead, bool]]:
    """The head of a file of one thread, and whether the log has all its entries.

    If not, the log has moved on. Round trips: one per page. Raises `ExportUnreadable`.
    """
    thread = keys.thread.decode()
    own = replace(
        keyspace.limits, expansion=NO_LIMIT
    )  # the file has what this process wrote, however well that compresses
    threads = yield from check_file(path, None, own)
    if thread not in threads:
        raise ExportUnreadable(
            f"File {str(path)!r} lacks thread {thread!r}, which was left unchanged. Archive it again."
        )
    head = threads[thread].head
    difference = yield from first_difference(keyspace, path, [thread], own)
    if difference is None:
        return head, True
    end = yield from log_end(keys)
    if end is not None and end.digest == head.digest.encode():
        raise ExportUnreadable(
            f"File {str(path)!r} has other entries than the log of thread {thread!r} after "
            f"{difference[1].decode() or 'its beginning'}. The thread was left unchanged. Archive it again."
        )
    return head, False

"""Archiving a thread: exported, the file read back and held against the log, and only then pruned or deleted.

What goes is only what the archive has: the removal is carried out if the log ends as the archive does, and not otherwise. A log
that has moved on is exported anew.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from eventlog.errors import ExportUnreadable, ThreadBusy
from eventlog.events import Recorded
from eventlog.flow import Emit, Flow
from eventlog.keys import Keyspace, ThreadKeys
from projections.checkpoints.pruning import (
    Choice,
    Describe,
    Replayed,
    carry_out_removal,
    delete_thread,
    place_of,
    plan,
    read_history,
)
from projections.integrity.log_end import log_end
from projections.log.index import scan
from projections.transfer.blocking import on_file
from projections.transfer.export import Exported, consumed, export_file
from projections.transfer.files import Name
from projections.transfer.format import ThreadHead
from projections.transfer.import_ import Read, follows, read_threads

__all__ = ["Archived", "Pruning", "archive_thread"]

ATTEMPTS = 5
AT_ONCE = 1000


class Archived(NamedTuple):
    """What an archive has, and what was taken out of the thread."""

    entries: int
    removed: int
    """Checkpoints."""


class Pruning(NamedTuple):
    """What is taken out of a thread once it is archived."""

    choose: Choice
    replayed: Replayed
    describe: Describe


def archive_thread(keyspace: Keyspace, keys: ThreadKeys, path: Name, pruning: Pruning | None) -> Flow[None]:
    """Exports a thread to a file, reads that back, holds it against the log, and prunes the thread, or deletes it without
    `pruning`.

    Emits the work on the file, `Progress`, and `Archived` at the end. The file is on the disk before anything is taken out. Where
    the log has moved on since the export, the export is made again.

    Raises:
        ThreadBusy: it moved on each time, or was written to before all that is to go had gone; what is in the file is right.
        ExportUnreadable: what was read back is not what was written, or not what the log has; the thread was left as it is.
        FileTaken, and as `projections.transfer.export.export_thread`.

    """
    thread = keys.thread.decode()
    for attempt in range(ATTEMPTS):
        exporting = export_file(keyspace, [thread], path, overwrite=attempt > 0, resume=False)
        yield from consumed(exporting, _but_the_result)
        head, same = yield from verify_file(keys, path)
        taken = (yield from _remove(keys, head, pruning)) if same else None
        if taken is not None:
            yield Emit(Archived(head.entries, taken))
            return
        if not (yield from _only_grew(keys, head)):
            raise ThreadBusy(
                f"Thread {thread!r} was pruned, deleted or altered meanwhile, perhaps by this very call, whose answer was lost. "
                f"File {str(path)!r} has it as it was before, and was left alone."
            )
    raise ThreadBusy(
        f"Thread {thread!r} was written to each time before it could be pruned. Nothing was removed; file {str(path)!r} has it as "
        "it was when it was last exported. Call again when it is less busy."
    )


def _but_the_result(item: Any) -> Flow[None]:
    if not isinstance(item, Exported):
        yield Emit(item)


def _only_grew(keys: ThreadKeys, head: ThreadHead) -> Flow[bool]:
    """Whether a log still has every entry that the archive has: only then may another export take the file's place."""
    events: list[Recorded] = []
    yield from scan(keys, events)
    archived = [recorded for recorded in events if recorded.sequence <= head.sequence]
    return len(archived) == head.entries and archived[-1].digest == head.digest.encode()


def _remove(keys: ThreadKeys, head: ThreadHead, pruning: Pruning | None) -> Flow[int | None]:
    """Takes out what is to go of a log that ends as the archive does; how many checkpoints. None if it has moved on."""
    history = yield from read_history(keys)
    if history.index.digest != head.digest.encode():
        return None
    taken = 0
    while True:
        listed = history.checkpoints()
        drop = [*listed] if pruning is None else [place_of(event) for event in pruning.choose([*listed.values()])]
        if not drop:
            return taken
        if len(drop) == len(listed):
            done = yield from delete_thread(keys, only=history.index.digest)
            if not done:
                _refuse_halfway(keys, taken)
                return None
            return taken + len(drop)
        assert pruning is not None
        step = set(drop[:AT_ONCE])
        after = yield from carry_out_removal(keys, history, plan(history, step, pruning.replayed), pruning.describe)
        if after is None:
            _refuse_halfway(keys, taken)
            return None
        history, taken = after, taken + len(step)


def _refuse_halfway(keys: ThreadKeys, taken: int) -> None:
    """Raises `ThreadBusy` if something was taken out."""
    if taken:
        raise ThreadBusy(
            f"Thread {keys.thread.decode()!r} was written to while it was pruned. It is archived whole, and {taken} checkpoints "
            "were removed; archive it again, to another file, for the rest."
        )


def verify_file(keys: ThreadKeys, path: Name) -> Flow[tuple[ThreadHead, bool]]:
    """What a file of one thread has, and whether every entry of it is the log's; if not, the log has moved on.

    One round trip per page. Raises `ExportUnreadable`.
    """
    items = read_threads(path)
    head: ThreadHead | None = None
    try:
        while (item := (yield from on_file(lambda: next(items, None)))) is not None:
            if isinstance(item, ThreadHead):
                head = item
                after = b""
                if head.thread != keys.thread.decode():
                    break
            elif isinstance(item, Read):
                if not (yield from follows(keys, after, item)):
                    end = yield from log_end(keys)
                    assert head is not None
                    if end is not None and end.digest == head.digest.encode():
                        raise ExportUnreadable(
                            f"File {str(path)!r} has other entries than the log of thread {head.thread!r} behind "
                            f"{after.decode() or 'its beginning'}. The thread was left as it is; archive it again."
                        )
                    return head, False
                after = item.entries[-1].entry_id
    finally:
        items.close()  # type: ignore[attr-defined] # a generator
    if head is None or head.thread != keys.thread.decode():
        raise ExportUnreadable(f"File {str(path)!r} lacks thread {keys.thread.decode()!r}; it was left as it is.")
    return head, True

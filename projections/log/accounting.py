"""Accounts for an event that a process saw, and that the log now lacks.

A call sends the last event that its process saw of the thread (`eventlog.memory`). The script answers `lacks` if the log
has no such event. Three things account for that: the thread was deleted, it expired, or the event was removed by a prune
and the like. Anything else means that the server lost events that it had acknowledged: it failed over to a replica that
was behind, or restarted without them.

A call that writes is refused then, and nothing is written, until the thread is read again. So no state is put together
from what the server lost and what it still has. A read of the latest state reports the loss if no call did so before; the
next one takes the log as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from eventlog.errors import LogRolledBack, ThreadDeleted
from eventlog.events import HistoryPruned, RunsDeleted, decode_entry
from eventlog.flow import Flow
from eventlog.keys import ThreadKeys
from eventlog.memory import Seen
from projections.log.pages import scan_log

__all__ = ["account", "account_for_read"]


class _Cause(Enum):
    """Why a log lacks an event that it had."""

    DELETED = "the thread was deleted"
    EXPIRED = "the thread expired"
    REMOVED = "the event was removed from the history"
    LOST = "the server lost it"


def _cause_of(keys: ThreadKeys, seen: Seen, reply: Sequence[bytes]) -> Flow[_Cause]:
    """The cause, from the items of a reply after `lacks`.

    No round trip, or one per 1,000 events that the log has after the one that was seen.
    """
    sequence, _, deleted_at, expired_at = reply
    if deleted_at and float(deleted_at) >= seen.at:
        return _Cause.DELETED
    if expired_at and float(expired_at) >= seen.at:
        return _Cause.EXPIRED
    if int(sequence) > seen.sequence and (yield from _was_removed(keys, seen)):
        return _Cause.REMOVED
    return _Cause.LOST


def _was_removed(keys: ThreadKeys, seen: Seen) -> Flow[bool]:
    """Whether a later event of the log says that it removed the one that was seen."""
    after, more = seen.entry_id, 1
    while more:
        entries, more, _ = yield from scan_log(keys, after)
        for after, flat in entries:
            event = decode_entry(keys.thread.decode(), after, flat).event
            if isinstance(event, (HistoryPruned, RunsDeleted)):
                for first, last, digest in event.removed.gone:
                    if first <= seen.sequence <= last:
                        return seen.sequence < last or digest.encode() == seen.digest
    return False


def account(keys: ThreadKeys, seen: Seen, reply: Sequence[bytes], *, begins: bool) -> Flow[None]:
    """Lets a call that writes be repeated, if there is a reason for what the log lacks.

    `reply` are the items after `lacks`; `begins` tells whether the call begins a new thread where the old one was deleted.
    Raises `LogRolledBack` or `ThreadDeleted`.
    """
    cause = yield from _cause_of(keys, seen, reply)
    if cause is _Cause.LOST:
        raise _rolled_back(keys, seen, reply)
    if cause is _Cause.DELETED and not begins:
        raise _deleted(keys)
    keys.memory.forget(keys.thread, expired=cause is _Cause.EXPIRED)


def account_for_read(keys: ThreadKeys, seen: Seen, reply: Sequence[bytes]) -> Flow[None]:
    """The same for a read of the latest state. Raises `LogRolledBack`, unless a call did so before."""
    if not seen.is_lost and (yield from _cause_of(keys, seen, reply)) is _Cause.LOST:
        raise _rolled_back(keys, seen, reply)
    keys.memory.forget(keys.thread)


def _rolled_back(keys: ThreadKeys, seen: Seen, reply: Sequence[bytes]) -> LogRolledBack:
    """The error for a log that lost an event; notes that it was reported."""
    keys.memory.note_lost(keys.thread, seen)
    sequence = int(reply[0])
    has = f"ends with event {sequence}" if sequence else "is gone"
    if sequence >= seen.sequence:
        has = f"has another event {seen.sequence}, and ends with event {sequence}"
    return LogRolledBack(
        f"The server lost events of thread {keys.thread.decode()!r}: event {seen.sequence} was acknowledged to this process, and "
        f"the log now {has}. Nothing was written. The server failed over to a replica that was behind, or restarted without its "
        "last events. Read the thread again (get_tuple or get_state) and go on from what it has, or delete the thread."
    )


def _deleted(keys: ThreadKeys) -> ThreadDeleted:
    """The error for a write of a run whose thread was deleted."""
    return ThreadDeleted(
        f"Thread {keys.thread.decode()!r} was deleted while a run went on. Nothing was written, so that the thread stays deleted. "
        "To begin a new thread of this name, read it first (get_tuple, get_state or a new run)."
    )

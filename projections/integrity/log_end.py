"""Reads where a log ends, by its last entry, its index and its stream."""

from __future__ import annotations

from typing import NamedTuple

from eventlog.errors import CorruptEntry
from eventlog.flow import Call, Flow, load_script
from eventlog.keys import ThreadKeys
from projections.log.index import log_lost

__all__ = ["LogEnd", "LogState", "log_end", "log_state"]

LOG_END = load_script("projections/integrity/log_end")
LOG_STATE = load_script("projections/integrity/log_state")


class LogEnd(NamedTuple):
    """Where a log ends."""

    sequence: int
    """The last entry's number; 0 if it is not a number."""
    digest: bytes
    entry_id: bytes
    entries: int
    indexed: bytes
    """The number of the last entry in the index, b"" if there is no index."""


class LogState(NamedTuple):
    """Where a log, its index and its stream say that the log ends."""

    index_sequence: int
    index_digest: bytes
    log_last: bytes
    stream_last: bytes
    length: int
    expires: bool
    """Whether the log has a time to live. The time left is not kept, since states of different times are compared."""


def log_end(keys: ThreadKeys, *, damaged: bool = False) -> Flow[LogEnd | None]:
    """Where a thread's log ends, None if it has none. One round trip; only reads.

    Raises:
        LogLost: the thread is known and its log is gone.
        CorruptEntry: the log ends before the last entry that the index knows, unless it may be `damaged`.

    """
    thread = keys.thread.decode()
    status, *reply = yield Call(LOG_END, keys.all, [keys.thread])
    if status == b"none":
        return None
    if status == b"lost":
        raise log_lost(keys)
    sequence, *rest = reply
    end = LogEnd(_number(sequence), *rest)
    known = end.indexed
    if end.sequence and not damaged and known.isdigit() and (len(known) > 19 or int(known) > end.sequence):
        raise CorruptEntry(
            f"The log of thread {thread!r} ends with entry {end.entry_id.decode()}, number {end.sequence}, and its index knows of "
            f"number {known.decode():.20}: entries were taken out, or put in, by hand. Verify the thread, restore its log "
            "from a backup, or delete the thread."
        )
    return end


def log_state(keys: ThreadKeys) -> Flow[LogState]:
    """Where the log, the index and the stream end, read together. One round trip."""
    sequence, digest, log_last, stream_last, length, ms_left = yield Call(LOG_STATE, [keys.log, keys.index], [])
    return LogState(_number(sequence), digest, log_last, stream_last, length, expires=ms_left >= 0)


def _number(digits: bytes) -> int:
    """The sequence number in some bytes, 0 if they hold none."""
    return int(digits) if digits.isdigit() and len(digits) < 20 else 0

"""Copying a thread: its log entry by entry, the same ids, numbers and digests, closed by an event that says where it came from.

The copy is laid ready under keys that drop themselves and put in place whole. A source that was pruned, or deleted, while it was
read is noticed by its log, and read again.
"""

from __future__ import annotations

from secrets import token_hex

from eventlog.attribution import stamp
from eventlog.codec import content_digest
from eventlog.errors import ThreadBusy, ThreadExists, ThreadNotFound
from eventlog.events import ThreadCopied, decode_entry, encode_event
from eventlog.flow import Call, Flow, load_script
from eventlog.keys import Keyspace, ThreadKeys
from projections.fold import Index, settle
from projections.registry import runs_of
from projections.thread import (
    check_log,
    rebuild_index,
    stage_entries,
    stage_hash,
    stage_members,
    thread_script,
)

__all__ = ["copy_thread"]

READ_ENTRIES = load_script("projections/read_entries")
STORE_COPY = thread_script("store_copy")
PAGE = 50
PAGE_BYTES = 4 * 1024 * 1024
ATTEMPTS = 20


def copy_thread(keyspace: Keyspace, source: ThreadKeys, target: ThreadKeys, *, ttl: int) -> Flow[None]:
    """Copies the complete history of a thread to one that does not exist: all of it or nothing.

    What is appended to the source meanwhile is not copied.
    Memory: a page of 50 entries or 4 MiB, and the index.
    Round trips: two per page, and a few more.

    Raises:
        ThreadNotFound: the source has no log.
        ThreadExists: the target has one; it is left as it is. (If it is this very copy, with nothing since, all is well.)
        ThreadBusy: the source was pruned again and again while it was read.
        CorruptEntry: the source's log is damaged; nothing was copied.

    """
    for _ in range(ATTEMPTS):
        if not (yield from check_log(source)):
            raise _not_found(source)
        token = token_hex(8).encode()
        staged = [target.shared.stage(token, part) for part in (b"log", b"index", b"order")]
        index = yield from _read(source, staged[0])
        if index is None:
            continue
        digest = index.digest.decode()
        event = ThreadCopied(source.thread.decode(), index.sequence, digest, stamp())
        fields = target.signed(encode_event(event))
        yield from stage_hash(staged[1], index.hash())
        yield from stage_members(staged[2], list(index.members()))
        runs = yield from runs_of(keyspace, source)
        arguments = [b"%d" % ttl, event.kind, content_digest(fields).encode(), b"%d" % len(fields), *fields, *runs]
        (status,) = yield Call(STORE_COPY, [*target.all, *staged], [target.thread, *arguments])
        if status == b"stale":
            yield from rebuild_index(target)
            status = b"exists"
        if status == b"moved":
            continue
        if status == b"exists":
            raise ThreadExists(
                f"Thread {target.thread.decode()!r} exists, so thread {source.thread.decode()!r} was not copied over it. "
                "Delete it first, or copy to another id."
            )
        return
    raise ThreadBusy(
        f"Thread {source.thread.decode()!r} was pruned again and again while it was being copied. Call again later."
    )


def _read(source: ThreadKeys, staged: bytes) -> Flow[Index | None]:
    """Lays the source's log ready; its index, or None if the log was pruned, deleted or begun anew meanwhile."""
    thread = source.thread.decode()
    index = Index()
    after, end = b"", b""
    while True:
        entries, last = yield Call(READ_ENTRIES, [source.log], [after, PAGE, PAGE_BYTES])
        end = end or last
        for entry_id, flat in entries:
            recorded = decode_entry(thread, entry_id, flat)
            if recorded.sequence <= index.sequence:
                return None
            index.add(recorded)
        if not entries:
            return None
        yield from stage_entries(staged, entries)
        after = entries[-1][0]
        if entry_order(after) >= entry_order(end):
            break
    if index.missing() is not None and last != end:
        return None
    if not index.checkpoints:
        raise _not_found(source)
    settle(thread, index)
    return index


def _not_found(source: ThreadKeys) -> ThreadNotFound:
    return ThreadNotFound(f"Thread {source.thread.decode()!r} has no checkpoints to copy. Check the id.")


def entry_order(entry_id: bytes) -> tuple[int, int]:
    """What entry ids sort by."""
    ms, _, number = entry_id.partition(b"-")
    return int(ms or 0), int(number or 0)

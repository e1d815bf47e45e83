"""Calls scripts on a thread, and rebuilds the thread's index if it is stale.

The reply of each such script begins with a status. `stale` means that the index does not belong to the log: it was deleted, or the
log was changed by hand. The index is rebuilt from the log, and the script is called again. A damaged log raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from eventlog.errors import (
    AccessDenied,
    CorruptEntry,
    EventLogError,
    LogLost,
    ServerError,
    ServerFailedCommand,
    ServerReadOnly,
    ServerUnavailable,
    ThreadBusy,
    ValueTooLarge,
    is_of_contents,
)
from eventlog.events import CheckpointSaved, HistoryPruned, Recorded, RunsDeleted, decode_entry
from eventlog.flow import Argument, Call, Command, Flow, Script, load_script
from eventlog.keys import ThreadKeys
from eventlog.printable import printable
from projections.log.ended import forget_runs
from projections.log.fold import Index, settle
from projections.log.pages import SCAN, SCAN_BYTES, SCAN_LOG, Entry, has_entry, pages_of
from projections.log.signatures import Names, signed_page
from projections.log.staging import StagedIndex, staged_keys
from projections.values.versions import Versions, overlaid

__all__ = ["call", "check_log", "log_lost", "mend", "rebuild_index", "scan", "too_deep"]

CHECK_LOG = load_script("projections/log/check_log")
STORE_INDEX = load_script("projections/log/store_index")
SMALLEST_LIMIT = 2**20
"""Bytes: the smallest `proto-max-bulk-len` that a server accepts."""
CALLS = 8
"""Attempts of a call while its index becomes stale again."""
ATTEMPTS = 200
"""Attempts to put a staged index in place while the log moves on."""
FRESH = 20
"""Attempts to fold a log from its start because entries were removed from it meanwhile."""


def call(
    keys: ThreadKeys,
    script: Script,
    arguments: Sequence[Argument],
    more_keys: Sequence[bytes] = (),
    *,
    shared: bool = False,
    then: Command | None = None,
) -> Flow[list[Any]]:
    """The reply of a script on a thread, its status first.

    One round trip, unless the index has to be rebuilt. The script's keys are the thread's and `more_keys`; its arguments are the
    thread id and `arguments`. A `shared` script is short, and may share a write to the socket with others (`sharing.py`). The
    command `then` is sent right after the script, and its reply becomes the last item.

    Raises:
        LogLost: the thread is known and its log is gone.
        CorruptEntry: the log holds entries that this package did not write, or lacks some that it did.

    """
    mended = False
    for _ in range(CALLS):
        try:
            reply: Any = yield Call(script, [*keys.all, *more_keys], [keys.thread, *arguments], shared, then)
        except ServerUnavailable as error:
            yield from _explain(keys, arguments, error)
            raise
        except ServerFailedCommand as error:
            if mended or not is_of_contents(error):
                raise
            yield from mend(keys, error)
            mended = True
            continue
        if then is not None:
            reply = [*reply[0], reply[1]]
        status = reply[0]
        if status == b"stale":
            yield from _rebuild_stale(keys)
        elif status == b"gone" and not mended:  # perhaps only the index says so
            yield from mend(keys, _entry_gone(keys, reply))
            mended = True
        elif status == b"ended":
            yield from forget_runs(keys.shared, keys.thread)
        elif status in _ERRORS:
            raise _ERRORS[status](keys, reply)
        else:
            return cast("list[Any]", reply)
    raise ThreadBusy(
        f"The index of thread {keys.thread.decode()!r} was changed again and again while it was being rebuilt. Call again later."
    )


def mend(keys: ThreadKeys, error: EventLogError) -> Flow[None]:
    """Rebuilds index and order from the log, after an error that they may have caused.

    Raises `CorruptEntry` if the log is damaged, or if nothing can be written.
    """
    try:
        yield from rebuild_index(keys)
    except (AccessDenied, ServerReadOnly):
        if isinstance(error, CorruptEntry):
            raise error from None
        raise CorruptEntry(
            f"The index or the order of thread {keys.thread.decode()!r} is damaged, and cannot be rebuilt here ({error}) Rebuild "
            "the thread as a user who may write, or read it by get_tuple_as_of and replay, which need no index."
        ) from error


def _rebuild_stale(keys: ThreadKeys) -> Flow[None]:
    try:
        yield from rebuild_index(keys)
    except AccessDenied as error:
        raise AccessDenied(
            f"The index of thread {keys.thread.decode()!r} is missing or does not belong to its log. It has to be rebuilt, for "
            f"which this user lacks the rights ({error}). Rebuild the thread as a user who may write, or read it by "
            "get_tuple_as_of and replay, which need no index."
        ) from error


def log_lost(keys: ThreadKeys, _: object = None) -> LogLost:
    """The error for a thread that is known and whose log is gone."""
    return LogLost(
        f"The log of thread {keys.thread.decode()!r} is gone, though the thread was not deleted: it was evicted, or deleted by "
        "hand. Restore it from a backup or an export, or call delete_thread to start over. With an eviction policy "
        "(maxmemory-policy) other than noeviction the server may evict logs."
    )


def _entry_gone(keys: ThreadKeys, reply: list[Any]) -> CorruptEntry:
    named = printable(reply[1].decode(errors="replace"))[:99]
    return CorruptEntry(
        f"The log of thread {keys.thread.decode()!r} lacks entry {named}, or an entry that it needs, which was not removed by this "
        "package. Restore the log from a backup, or delete the thread."
    )


def too_deep(keys: ThreadKeys, reply: list[Any]) -> CorruptEntry:
    """The error for the reply `deep` of `checkpoint_view.lua`."""
    return CorruptEntry(
        f"Entry {reply[1].decode(errors='replace')} of thread {keys.thread.decode()!r} has versions or a value that change those "
        "of more entries than this package builds on. Restore the log from a backup, or delete the thread."
    )


_ERRORS: dict[bytes, Callable[[ThreadKeys, list[Any]], EventLogError]] = {
    b"lost": log_lost,
    b"gone": _entry_gone,
    b"deep": too_deep,
}
"""The error for each status that is no result."""


def _explain(keys: ThreadKeys, arguments: Sequence[Argument], error: ServerUnavailable) -> Flow[None]:
    """Raises `ValueTooLarge` if the server hung up because a value is too large.

    The server does not say so, so it is asked for its limit.
    """
    largest = max((len(argument) for argument in arguments if isinstance(argument, bytes)), default=0)
    if largest < SMALLEST_LIMIT:
        return
    reply: object = None
    for _ in range(5):  # the pool may still have connections that the server hung up on
        try:
            reply = yield Command("CONFIG GET", b"proto-max-bulk-len")
            break
        except ServerError:
            continue
    limits = [int(number) for number in re.findall(r"\d+", str(reply))]
    if limits and largest > min(limits):
        raise ValueTooLarge(
            f"Thread {keys.thread.decode()!r}: a value of {largest:,} bytes is over the server's proto-max-bulk-len of "
            f"{min(limits):,}. Nothing was written. Raise the limit, or keep large data in an object store and its address in the "
            "state."
        ) from error


def check_log(keys: ThreadKeys) -> Flow[bool]:
    """Whether a thread has a log; its index then belongs to that log.

    One round trip. Raises as `call`.
    """
    reply = yield from call(keys, CHECK_LOG, [])
    return bool(reply[0] == b"ok")


def scan(keys: ThreadKeys, keep: list[Recorded] | None = None, index: Index | None = None) -> Flow[Index]:
    """The index of a thread, folded from its log.

    The log is read in pages of 1,000 entries or 4 MiB, values left out. A given `index` is continued from where it ends. The list
    `keep` receives the events, without values and with whole versions, and their signatures are checked if the thread has a signer.
    Memory: two pages, and the index: some 1.2 KiB a checkpoint with its writes, more if it changed many channels.
    Raises `CorruptEntry` for a damaged log, and `SignatureInvalid`.
    """
    thread = keys.thread.decode()
    index = Index() if index is None else index
    versions: dict[bytes, Versions] = {}
    after = index.last if index.entries else b""
    more = 1
    names, pages = Names(keys), pages_of(keys, SCAN_LOG, after, SCAN, SCAN_BYTES)
    while more:
        if keep is not None and keys.signer is not None:
            entries, more, _ = yield from signed_page(names, after, SCAN, SCAN_BYTES, values=False)
        else:
            entries, more, _ = yield from pages.next()
        for recorded in _in_turn(thread, entries, index.sequence):
            after = recorded.entry_id
            index.add(recorded)
            if keep is not None:
                keep.append(_with_whole_versions(thread, recorded, versions))
    settle(thread, index)
    return index


def _with_whole_versions(thread: str, recorded: Recorded, versions: dict[bytes, Versions]) -> Recorded:
    """An event with whole versions, given the versions of the entries before it."""
    event = recorded.event
    if not isinstance(event, CheckpointSaved):
        return recorded
    own = Versions(event.versions, event.seen)
    if event.base is not None:
        before = versions.get(event.base[0])
        if before is None:
            raise CorruptEntry(
                f"The log of thread {thread!r} lacks entry {event.base[0].decode(errors='replace')}, which entry "
                f"{recorded.entry_id.decode()} builds on. Restore the log from a backup, or delete the thread."
            )
        own = overlaid(before, own)
        recorded = recorded._replace(event=replace(event, versions=own.channels, seen=own.seen))
    versions[recorded.entry_id] = own
    return recorded


def rebuild_index(keys: ThreadKeys) -> Flow[StagedIndex | None]:
    """Rebuilds a thread's index and order from its log.

    They are staged, and put in place once they have reached the end of the log, whatever is appended meanwhile. Returns the fold,
    None if there is no log.
    Round trips: two per 1,000 events or 4 MiB. Memory: two pages, and the staged part of a third.
    Raises `CorruptEntry`, `ThreadBusy`.
    """
    for _ in range(FRESH):
        index = StagedIndex(keys=staged_keys(keys, b"index", b"order"))
        try:
            if (yield from _put_in_place(keys, index)):
                return index
        except EventLogError as error:
            yield from index.discard()
            damaged = isinstance(error, CorruptEntry)
            if not damaged or not index.entries or (yield from has_entry(keys, index.last, index.digest)):
                raise
            continue  # the thread was deleted and has a new log
        yield from index.discard()
        if not index.entries:
            return None
    raise ThreadBusy(
        f"The log of thread {keys.thread.decode()!r} was pruned, replaced or written to each time before its index could be put in "
        "place. The index is unchanged. Call again when the thread is less busy."
    )


def _put_in_place(keys: ThreadKeys, index: StagedIndex) -> Flow[bool]:
    """Folds the log into a staged index until that is in place; False to start over."""
    for _ in range(ATTEMPTS):
        if not (yield from _fold_on(keys, index)):
            return False
        settle(keys.thread.decode(), index)
        stored = yield Call(STORE_INDEX, [*keys.all, *index.keys], [keys.thread, index.last, index.entries])
        if stored == -1:
            raise CorruptEntry(
                f"The log of thread {keys.thread.decode()!r} ends with entry {index.last.decode()}; later entries were removed by "
                "hand. Restore the log from a backup, or delete the thread."
            )
        if stored:
            return True
    return False


def _fold_on(keys: ThreadKeys, index: StagedIndex) -> Flow[bool]:
    """Folds the events after those folded; False if there are none, or to start over."""
    before = index.entries
    pages = pages_of(keys, SCAN_LOG, index.last if before else b"", SCAN, SCAN_BYTES)
    while pages.more:
        entries, *_ = yield from pages.next()
        for recorded in _in_turn(keys.thread.decode(), entries, index.sequence):
            if before and isinstance(recorded.event, (HistoryPruned, RunsDeleted)):
                return False  # entries that were folded are gone
            index.add(recorded)
        if entries and not (yield from index.flush()):
            return False
    return index.entries > before and (yield from index.settled())


def _in_turn(thread: str, entries: Sequence[Entry], before: int) -> Iterator[Recorded]:
    """The events in some entries, which must follow the event with number `before`."""
    for entry_id, flat in entries:
        recorded = decode_entry(thread, entry_id, flat)
        if recorded.sequence <= before:
            raise CorruptEntry(
                f"Entry {entry_id.decode()} of thread {thread!r} has sequence number {recorded.sequence}, which came before. "
                "If another program added the entry, remove it with XDEL; else restore the log from a backup."
            )
        before = recorded.sequence
        yield recorded

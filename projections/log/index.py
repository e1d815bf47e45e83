"""Calling a script on a thread, and mending what it finds amiss.

Every script answers with a status first. `stale` means that the index is not that of the log (it was deleted, or the log was
changed by hand): it is rebuilt from the log, which raises if the log itself is damaged, and the script is called again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from eventlog.errors import (
    AccessDenied,
    CorruptEntry,
    EventLogError,
    LogLost,
    ServerError,
    ServerUnavailable,
    ThreadBusy,
    ValueTooLarge,
)
from eventlog.events import CheckpointSaved, HistoryPruned, Recorded, RunsDeleted, decode_entry
from eventlog.flow import Argument, Call, Command, Flow, Script, load_script
from eventlog.keys import ThreadKeys
from projections.log.fold import Index, settle
from projections.log.pages import SCAN, SCAN_BYTES, SCAN_LOG, Entry, has_entry, pages_of
from projections.log.signatures import Names, signed_page
from projections.log.staging import StagedIndex, staged_keys
from projections.values.versions import Versions, overlaid

__all__ = ["call", "rebuild_index", "scan"]

SMALLEST_LIMIT = 2**20
"""Bytes: the least a server's `proto-max-bulk-len` can be."""
ATTEMPTS = 200
"""How often a fold is tried to be put in place while the log moves on."""
FRESH = 20
"""How often a fold is begun anew because entries were taken out of the log."""


def call(
    keys: ThreadKeys,
    script: Script,
    arguments: Sequence[Argument],
    more_keys: Sequence[bytes] = (),
    *,
    shared: bool = False,
    then: Command | None = None,
) -> Flow[list[Any]]:
    """Reply of a script on a thread, its status first. One round trip, unless the index has to be rebuilt.

    `shared`: the script is short, and may share a write to the socket with others (`sharing.py`). `then`: what goes out right
    behind it, and whose reply is the last item.

    Raises:
        LogLost: the thread is known and its log is gone.
        CorruptEntry: the log holds what this project did not write, or lacks what it did.

    """
    thread = keys.thread.decode()
    for _ in range(8):
        try:
            reply: Any = yield Call(script, [*keys.all, *more_keys], [keys.thread, *arguments], shared, then)
        except ServerUnavailable as error:
            yield from _explain(thread, arguments, error)
            raise
        if then is not None:
            reply = [*reply[0], reply[1]]
        if reply[0] == b"stale":
            try:
                yield from rebuild_index(keys)
            except AccessDenied as error:
                raise AccessDenied(
                    f"The index of thread {thread!r} is missing, or is not its log's, and has to be made anew, for which this user "
                    f"lacks the rights ({error}). Rebuild the thread as one who may write, or read it by get_tuple_as_of and "
                    "replay, which need no index."
                ) from error
        elif reply[0] == b"lost":
            raise LogLost(
                f"The log of thread {thread!r} is gone, though the thread was not deleted: evicted, or deleted by hand. "
                "Restore it from a backup, or call delete_thread to begin anew. With an eviction policy (maxmemory-policy) "
                "other than noeviction the server may evict logs."
            )
        elif reply[0] == b"gone":
            raise CorruptEntry(
                f"The log of thread {thread!r} lacks entry {reply[1].decode(errors='replace')}, or what it needs, which was not "
                "removed by this package. Restore the log from a backup, or delete the thread."
            )
        else:
            return cast("list[Any]", reply)
    raise ThreadBusy(
        f"The index of thread {thread!r} was changed again and again while it was being rebuilt. Call again later."
    )


def _explain(thread: str, arguments: Sequence[Argument], error: ServerUnavailable) -> Flow[None]:
    """Raises `ValueTooLarge` where the server hung up because a value is over its limit, which it tells only if asked."""
    largest = max((len(argument) for argument in arguments if isinstance(argument, bytes)), default=0)
    if largest < SMALLEST_LIMIT:
        return
    reply: object = None
    for _ in range(5):  # connections that the server hung up on may be in the pool still
        try:
            reply = yield Command("CONFIG GET", b"proto-max-bulk-len")
            break
        except ServerError:
            continue
    limits = [int(number) for number in re.findall(r"\d+", str(reply))]
    if limits and largest > min(limits):
        raise ValueTooLarge(
            f"Thread {thread!r}: a value of {largest:,} bytes is over the server's proto-max-bulk-len of {min(limits):,}. Nothing "
            "was written. Raise the limit, or keep large data in an object store and its address in the state."
        ) from error


CHECK_LOG = load_script("projections/log/check_log")
STORE_INDEX = load_script("projections/log/store_index")


def check_log(keys: ThreadKeys) -> Flow[bool]:
    """Whether a thread has a log; if so, its index is that log's. One round trip. Raises as `call`."""
    reply = yield from call(keys, CHECK_LOG, [])
    return bool(reply[0] == b"ok")


def scan(keys: ThreadKeys, keep: list[Recorded] | None = None, index: Index | None = None) -> Flow[Index]:
    """Index of a thread, folded from its log in pages of 1000 entries, values left out. Raises `CorruptEntry`.

    The events, without values, are added to `keep`; their versions are whole, and where the thread has a signer their signatures
    were checked (else `SignatureInvalid`). Given an `index`, it goes on where that ends.
    Memory: two pages, and the index: some 1.2 KiB a checkpoint with its writes, more if it changed many channels.
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
        for recorded in _in_turn(keys, entries, index.sequence):
            after = recorded.entry_id
            index.add(recorded)
            if keep is not None:
                keep.append(_whole(thread, recorded, versions))
    settle(thread, index)
    return index


def _whole(thread: str, recorded: Recorded, versions: dict[bytes, Versions]) -> Recorded:
    """An event with its versions whole, given those of the entries before it."""
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
        event = replace(event, versions=own.channels, seen=own.seen)
    versions[recorded.entry_id] = own
    return recorded if event is recorded.event else recorded._replace(event=event)


def rebuild_index(keys: ThreadKeys) -> Flow[StagedIndex | None]:
    """Makes index and order of a thread anew from its log, aside, and puts them in place when they have come to the log's end,
    whatever is appended meanwhile; what they were folded to, None if there is no log.

    Round trips: two per 1000 events or 4 MiB. Memory: two pages, and what is laid ready of a third.
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
            continue  # another log is there: the thread was deleted, and begun anew
        yield from index.discard()
        if not index.entries:
            return None
    raise ThreadBusy(
        f"The log of thread {keys.thread.decode()!r} was pruned, replaced or written to each time before its index could be put in "
        "place, which is as it was. Call again when it is less busy."
    )


def _put_in_place(keys: ThreadKeys, index: StagedIndex) -> Flow[bool]:
    """Folds the log into what is laid ready, and that on, until it is in place; False if all has to begin anew."""
    for _ in range(ATTEMPTS):
        if not (yield from _fold_on(keys, index)):
            return False
        settle(keys.thread.decode(), index)
        stored = yield Call(STORE_INDEX, [*keys.all, *index.keys], [keys.thread, index.last, index.entries])
        if stored == -1:
            raise CorruptEntry(
                f"The log of thread {keys.thread.decode()!r} ends with entry {index.last.decode()}; what came after was taken out "
                "by hand. Restore the log from a backup, or delete the thread."
            )
        if stored:
            return True
    return False


def _fold_on(keys: ThreadKeys, index: StagedIndex) -> Flow[bool]:
    """Folds what is behind the last event that was folded; False if there was nothing, or all has to begin anew."""
    begun, before = index.entries > 0, index.entries
    pages = pages_of(keys, SCAN_LOG, index.last if index.entries else b"", SCAN, SCAN_BYTES)
    while pages.more:
        entries, *_ = yield from pages.next()
        for recorded in _in_turn(keys, entries, index.sequence):
            if begun and isinstance(recorded.event, (HistoryPruned, RunsDeleted)):
                return False  # entries that were folded are gone
            index.add(recorded)
        if entries and not (yield from index.flush()):
            return False
    return index.entries > before and (yield from index.settled())


def _in_turn(keys: ThreadKeys, entries: Sequence[Entry], before: int) -> Iterator[Recorded]:
    """The events in some entries, which follow that of a number."""
    thread = keys.thread.decode()
    for entry_id, flat in entries:
        recorded = decode_entry(thread, entry_id, flat)
        if recorded.sequence <= before:
            raise CorruptEntry(
                f"Entry {entry_id.decode()} of thread {thread!r} has sequence number {recorded.sequence}, which came before. "
                "If something other than this package added it, remove it with XDEL; else restore the log from a backup."
            )
        before = recorded.sequence
        yield recorded

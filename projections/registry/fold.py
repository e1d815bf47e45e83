"""Folds the feed of a partition into its registry of threads and runs.

`pointers.lua` folds by the same rules on the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from eventlog.codec import paired
from eventlog.errors import CorruptEntry, ThreadBusy
from eventlog.feed.trimming import past_lost, record_damaged
from eventlog.flow import Call, Command, Flow
from eventlog.framing import is_number, split_counted
from eventlog.keys import PartitionKeys
from projections.log.pages import READ_ENTRIES, entry_order
from projections.log.scan_keys import names_in
from projections.registry.foreign import leave_out, thread_ids, time_in

__all__ = ["RegistryFold", "catch_up", "fold_feed", "foreign_pointer"]

PAGE = 1000
PAGE_BYTES = 2**22
"""Bytes of pointers after which a page ends early."""
ATTEMPTS = 20


@dataclass(slots=True)
class RegistryFold:
    """The threads and runs that the feed of one partition reports."""

    threads: dict[bytes, int] = field(default_factory=dict)
    """Thread -> ms since 1970 of its last activity."""
    runs: dict[bytes, set[bytes]] = field(default_factory=dict)
    """Thread -> runs that wrote checkpoints to it."""
    last: bytes = b""
    """Entry id of the last pointer that was folded."""
    trimmed: bytes = b""
    """Entry id up to which the feed was trimmed when the fold began."""
    foreign: list[CorruptEntry] | None = None
    """The errors of entries that are no pointers, which are then left out; None if they are raised."""

    def add(self, entry_id: bytes, pointer: dict[bytes, bytes]) -> None:
        """Folds a pointer.

        Raises `KeyError` or `ValueError` for an entry that is no pointer.
        """
        self.last = entry_id
        thread, kind, run = pointer[b"thread"], pointer[b"kind"], pointer[b"run"]
        if kind in (b"deleted", b"expired"):
            self.threads.pop(thread, None)
            self.runs.pop(thread, None)
        elif kind != b"writes" or thread in self.threads:
            self.threads[thread] = int(entry_id.partition(b"-")[0])
            self.runs.setdefault(thread, set()).update(_runs_in(kind, run))


def _runs_in(kind: bytes, run: bytes) -> Sequence[bytes]:
    if kind in (b"copied", b"imported"):
        return split_counted(run)
    return [run] if run and kind != b"writes" else []


def fold_feed(keys: PartitionKeys, *, lenient: bool = False) -> Flow[RegistryFold]:
    """Folds the whole feed of a partition, including its trimmed part.

    If it is `lenient`, entries that are no pointers are left out, and `RegistryFold.foreign` has their errors.
    Round trips: one per 1000 pointers, and three more. Memory: the partition's threads and their runs.

    Raises:
        CorruptEntry: the feed has an entry that is no pointer.
        LogLost: the feed was trimmed, and the record of the trimmed part is gone.
        ThreadBusy: the feed was trimmed during each attempt.

    """
    for _ in range(ATTEMPTS):
        fold = yield from _fold_trimmed(keys)
        fold.foreign = [] if lenient else None
        yield from catch_up(keys, fold)
        trimmed = yield Command("HGET", keys.trimmed, [b"id"])
        if (trimmed or b"") == fold.trimmed:
            return fold
    raise ThreadBusy(f"The feed {keys.feed.decode()!r} was trimmed each time it was read. Call again later.")


def catch_up(keys: PartitionKeys, fold: RegistryFold, until: bytes | None = None) -> Flow[None]:
    """Folds the pointers that follow, up to an entry id.

    One round trip per 1000 pointers or 4 MiB. Raises `CorruptEntry`, unless the fold keeps such errors.
    """
    more = 1
    while more:
        entries, more, _ = yield Call(READ_ENTRIES, [keys.feed], [fold.last or b"0-0", PAGE, PAGE_BYTES])
        for entry_id, flat in entries:
            if until is not None and entry_order(entry_id) > entry_order(until):
                return
            fold.last = entry_id
            try:
                fold.add(entry_id, paired(flat))
            except (KeyError, ValueError) as error:
                if fold.foreign is None:
                    raise foreign_pointer(keys, entry_id) from error
                fold.foreign.append(foreign_pointer(keys, entry_id))


def _fold_trimmed(keys: PartitionKeys) -> Flow[RegistryFold]:
    """The fold of the trimmed part, from the record that trimming keeps of it."""
    trimmed = yield Command("HGET", keys.trimmed, [b"id"])
    threads = yield from names_in(keys.past_threads, "ZSCAN")
    runs = yield from names_in(keys.past_runs, "ZSCAN")
    if trimmed is not None and entry_order(trimmed) == (0, 0):
        raise record_damaged(keys)
    if trimmed is not None and (b"" not in threads or b"" not in runs):
        raise past_lost(keys)
    fold = RegistryFold(last=trimmed or b"", trimmed=trimmed or b"")
    for name, ms in threads.items():
        for thread in thread_ids(keys.past_threads, [name]):
            fold.threads[thread] = time_in(keys.past_threads, name, ms)
    for name in runs:
        if name[:1] == b"t":
            size, _, rest = name[1:].partition(b":")
            if is_number(size) and int(size) <= len(rest):
                fold.runs.setdefault(rest[: int(size)], set()).add(rest[int(size) :])
            else:
                leave_out(keys.past_runs, name)
    return fold


def foreign_pointer(keys: PartitionKeys, entry_id: bytes) -> CorruptEntry:
    """The error for an entry of a feed that this package does not write."""
    return CorruptEntry(
        f"Entry {entry_id.decode()} of {keys.feed.decode()!r} was not written by this package. If something else added it, "
        f"remove it with XDEL {keys.feed.decode()} {entry_id.decode()}."
    )

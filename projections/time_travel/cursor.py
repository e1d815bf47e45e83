"""Read a thread's log forward, event by event.

Theory of operation:

1. A cursor stands at an event. It reads pages of the events after an entry, and is moved on by `passed`, one event at a time.
2. A page ends before the first entry that cannot be decoded. If that entry is the first of the page, the read raises, so that
   everything before the damage can be used.
3. A whole page also checks that each digest follows from its predecessor's. Pages without values cannot be checked so.
4. The end is fixed by `measure`: events appended later are not part of a replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eventlog.chain import links
from eventlog.codec import Malformed
from eventlog.errors import CorruptEntry, EventGone, LogLost, ThreadNotFound
from eventlog.events import Recorded, decode_entry, entry_ms
from eventlog.flow import Call, Flow, load_script
from eventlog.keys import ThreadKeys
from projections.log.pages import SCAN_BYTES, read_entries, scan_log
from projections.log.signatures import Names, signed_page

__all__ = ["Cursor", "Measured"]

MEASURE = load_script("projections/time_travel/measure_log")

Entries = Sequence[tuple[bytes, list[bytes]]]


class Measured(NamedTuple):
    """A log's extent, as `measure_log.lua` replies it; empty where unknown."""

    entries: int
    last: bytes
    """The last entry."""
    sequence: bytes
    """The sequence number of the last entry."""
    indexed: bytes
    """The last sequence number that the index knows."""


class Cursor:
    """A reader of a thread's log, and the event where it stands."""

    def __init__(self, keys: ThreadKeys) -> None:
        self.keys = keys
        self.thread = keys.thread.decode()
        self.sequence = 0
        """The number of the event where it stands, 0 before the first."""
        self.reached = 0
        """The last number that had been given by then. The events from `sequence` up to it are gone from the log."""
        self.last = b""
        """The entry of the event where it stands."""
        self._digest = b""
        self._end = 0
        self._names = Names(keys)

    @property
    def has_ended(self) -> bool:
        """Whether it stands at the end that was measured."""
        return self.sequence > 0 and entry_ms(self.last) >= self._end

    def is_beyond(self, recorded: Recorded) -> bool:
        """Whether an event came after the end that was measured."""
        return entry_ms(recorded.entry_id) > self._end

    def measure(self) -> Flow[Measured]:
        """Find the log's end. Takes one round trip.

        Raises `ThreadNotFound`, `LogLost`, or `CorruptEntry` if the id of the last entry is malformed.
        """
        measured = Measured(*(yield Call(MEASURE, [self.keys.log, self.keys.index], [])))
        if not measured.entries and measured.indexed:
            raise LogLost(
                f"The log of thread {self.thread!r} is gone, though the thread was not deleted: evicted, or deleted by hand. "
                "Restore it from a backup, or call delete_thread to start over."
            )
        if not measured.entries:
            raise ThreadNotFound(f"Thread {self.thread!r} has no log. Check the id, and the prefix.")
        try:
            self._end = entry_ms(measured.last)
        except Malformed as error:
            raise CorruptEntry(f"The log of thread {self.thread!r} {error}. Restore it from a backup.") from error
        return measured

    def page(self, after: bytes, most: int) -> Flow[tuple[list[Recorded], int]]:
        """The events after an entry, without values, and whether there may be more.

        Raises `CorruptEntry`.
        """
        if self.keys.signer is not None:
            entries, more, _ = yield from signed_page(self._names, after, most, SCAN_BYTES, values=False)
        else:
            entries, more, _ = yield from scan_log(self.keys, after, most)
        events = self._decoded(entries)
        return events, more or int(len(events) < len(entries))

    def whole_page(self, most: int, most_bytes: int) -> Flow[list[Recorded]]:
        """The events after the one where it stands, whole. Raises `CorruptEntry`."""
        if self.keys.signer is not None:
            entries, *_ = yield from signed_page(self._names, self.last, most, most_bytes)
        else:
            entries, *_ = yield from read_entries(self.keys, self.last, most, most_bytes)
        return self._linked(entries, self._decoded(entries))

    def passed(self, recorded: Recorded) -> None:
        """Move on to an event. Raises `CorruptEntry` if its number is not greater."""
        self.refuse_disorder(recorded, self.sequence)
        self.sequence, self.last, self.reached = recorded.sequence, recorded.entry_id, recorded.sequence
        self._digest = recorded.digest

    def refuse_disorder(self, recorded: Recorded, before: int) -> None:
        """Raises `CorruptEntry` if an event's number is not greater than that of the event before it."""
        if recorded.sequence <= before:
            raise CorruptEntry(
                f"Entry {recorded.entry_id.decode()} of thread {self.thread!r} has sequence number {recorded.sequence}, which came "
                "before. If another program added the entry, remove it with XDEL; else restore the log from a backup."
            )

    def gone(self) -> EventGone:
        """The error for a log that was deleted meanwhile."""
        return EventGone(f"Thread {self.thread!r} was deleted, or expired, while its history was being read.")

    def _decoded(self, entries: Entries) -> list[Recorded]:
        """The events in some entries, up to the first that is malformed.

        Raises `CorruptEntry` if that is the first of all.
        """
        events: list[Recorded] = []
        for entry_id, flat in entries:
            try:
                events.append(decode_entry(self.thread, entry_id, flat))
            except CorruptEntry:
                if not events:
                    raise
                break  # it is the first of the next page
        return events

    def _linked(self, entries: Entries, events: list[Recorded]) -> list[Recorded]:
        """The events up to the first whose digest is wrong.

        Raises `CorruptEntry` if that is the first of all.
        """
        sequence, digest = self.sequence, self._digest
        for number, (recorded, (entry_id, flat)) in enumerate(zip(events, entries, strict=False)):
            if recorded.sequence == sequence + 1 and not links(digest, entry_id, flat):
                if number:
                    return events[:number]
                raise CorruptEntry(
                    f"Entry {entry_id.decode()} of thread {self.thread!r} does not match its digest, or does not follow its "
                    "predecessor: one of them was altered. Restore the log from a backup. The log can be read from event "
                    f"{recorded.sequence + 1} on."
                )
            sequence, digest = recorded.sequence, recorded.digest
        return events

"""Checks the signatures of a thread's entries as they are read.

A copy keeps the signatures of its source, so an entry is checked under the thread id that it was signed for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eventlog.codec import EMPTY, Malformed, counted_part, delta_start, is_delta
from eventlog.errors import CorruptEntry, SignatureInvalid
from eventlog.events import ThreadCopied, decode_entry, entry_ms
from eventlog.flow import Flow
from eventlog.keys import ThreadKeys
from projections.log.pages import Entry, LogPage, read_entries, scan_log

__all__ = ["Names", "name_at", "signed_page", "sources_of"]


@dataclass(slots=True)
class Names:
    """What a thread was called when each of its entries was signed: its own, or, of a copy, that of the thread it comes from."""

    keys: ThreadKeys
    copied: list[tuple[int, bytes]] | None = None
    """Where each copy was closed, by what entry ids sort by, and the name of its source; None: not looked up yet."""

    def of(self, entry_id: bytes) -> bytes:
        """The name that an entry should be signed for, as far as that was looked up."""
        return name_at(self.copied or (), self.keys.thread, entry_id)

    def check(self, entry_id: bytes, flat: Sequence[bytes]) -> Flow[None]:
        """Checks an entry's signature. No round trip, but the first time in a copy: then two per thousand entries. Raises
        `SignatureInvalid`.
        """
        signer, thread = self.keys.signer, self.keys.thread.decode()
        assert signer is not None
        try:
            signer.check(self.of(entry_id), entry_id, flat[4:])
        except SignatureInvalid as error:
            if self.copied is None:
                self.copied = yield from sources_of(self.keys)
                if self.copied:
                    yield from self.check(entry_id, flat)
                    return
            raise SignatureInvalid(f"Thread {thread!r}: {error}") from error


def name_at(copied: Sequence[tuple[int, bytes]], own: bytes, entry_id: bytes) -> bytes:
    """The thread that an entry was signed for, given where copies were closed: what stands before that is of the source."""
    try:
        ms = entry_ms(entry_id)
    except Malformed:
        return own
    return next((source for closed, source in copied if ms < closed), own)


def sources_of(keys: ThreadKeys) -> Flow[list[tuple[int, bytes]]]:
    """Where each copy that a thread comes from was closed, by what entry ids sort by, and the source's name, as signed entries of
    its log say. A round trip per thousand entries.
    """
    signer = keys.signer
    assert signer is not None
    closing: list[tuple[bytes, list[bytes]]] = []
    after, more = b"", 1
    while more:
        entries, more, _ = yield from scan_log(keys, after)
        for after, flat in entries:
            if len(flat) > 5 and flat[5] == ThreadCopied.kind:
                closing.append((after, flat))
    found: list[tuple[int, bytes]] = []
    name = keys.thread
    for entry_id, flat in reversed(closing):
        if signer.examine(name, entry_id, flat[4:]).wrong:
            continue  # what comes before it is then refused
        try:
            event = decode_entry(keys.thread.decode(), entry_id, flat).event
        except CorruptEntry:
            continue  # likewise
        if isinstance(event, ThreadCopied):
            name = (event.source if event.signed_for is None else event.signed_for).encode()
            found.append((entry_ms(entry_id), name))
    return found[::-1]


def signed_page(names: Names, after: bytes, most: int, most_bytes: int, *, values: bool = True) -> Flow[LogPage]:
    """Entries behind one, their signatures checked, and whether there may be more. Without `values`, these are left out then, as
    `scan_log.lua` leaves them out. One round trip. Raises `SignatureInvalid` where the first is not signed as it should be; one
    further on ends the page.
    """
    entries, more, last = yield from read_entries(names.keys, after, most, most_bytes)
    found: list[Entry] = []
    for entry_id, flat in entries:
        try:
            yield from names.check(entry_id, flat)
        except SignatureInvalid:
            if not found:
                raise
            return LogPage(found, 1, last)
        found.append((entry_id, flat if values else _shortened(flat)))
    return LogPage(found, more, last)


def _shortened(flat: list[bytes]) -> list[bytes]:
    made = list(flat)
    for at in range(0, len(made), 2):
        name, value = made[at][:1], made[at + 1]
        if name == b"=":
            made[at + 1] = _stub(value)
        elif name == b"!":
            made[at + 1] = b""
    return made


def _stub(piece: bytes) -> bytes:
    try:
        end = delta_start(piece) + 16 if is_delta(piece) else counted_part(piece, 1)[1] + 8
    except Malformed:
        end = 1
    return piece[: 1 if piece == EMPTY else end]

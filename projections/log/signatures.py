"""Checks the signatures of a thread's entries as they are read.

A copy keeps the signatures of its source. So an entry is checked under the id of the thread that it was signed for.
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
    """The thread that each entry was signed for: its own, or the source of a copy."""

    keys: ThreadKeys
    copied: list[tuple[int, bytes]] | None = None
    """What `sources_of` found, None as long as it was not needed."""

    def check(self, entry_id: bytes, flat: Sequence[bytes]) -> Flow[None]:
        """Checks an entry's signature. Raises `SignatureInvalid`.

        No round trip, except for the first entry that another thread was copied with: then one per 1,000 entries of the log.
        """
        signer, thread = self.keys.signer, self.keys.thread
        assert signer is not None
        try:
            signer.check(name_at(self.copied or (), thread, entry_id), entry_id, flat[4:])
        except SignatureInvalid as error:
            if self.copied is None:
                self.copied = yield from sources_of(self.keys)
                if self.copied:
                    yield from self.check(entry_id, flat)
                    return
            raise SignatureInvalid(f"Thread {thread.decode()!r}: {error}") from error


def name_at(copied: Sequence[tuple[int, bytes]], own: bytes, entry_id: bytes) -> bytes:
    """The thread that an entry was signed for, given what `sources_of` found.

    `own` is the thread whose log has the entry.
    """
    try:
        ms = entry_ms(entry_id)
    except Malformed:
        return own
    return next((source for closed, source in copied if ms < closed), own)


def sources_of(keys: ThreadKeys) -> Flow[list[tuple[int, bytes]]]:
    """The copies that a thread comes from, by the signed entries of its log.

    Of each copy the ms in the id of the entry that closed it, and the source thread's id: earlier entries are the source's.
    A round trip per 1,000 entries.
    """
    signer = keys.signer
    assert signer is not None
    closing: list[Entry] = []
    after, more = b"", 1
    while more:
        entries, more, _ = yield from scan_log(keys, after)
        closing += [(after, flat) for after, flat in entries if len(flat) > 5 and flat[5] == ThreadCopied.kind]
        after = entries[-1][0] if entries else after
    found: list[tuple[int, bytes]] = []
    name = keys.thread
    for entry_id, flat in reversed(closing):
        if signer.examine(name, entry_id, flat[4:]).wrong:
            continue  # the entries before it are refused
        try:
            event = decode_entry(keys.thread.decode(), entry_id, flat).event
        except CorruptEntry:
            continue  # likewise
        if isinstance(event, ThreadCopied):
            name = (event.source if event.signed_for is None else event.signed_for).encode()
            found.append((entry_ms(entry_id), name))
    return found[::-1]


def signed_page(names: Names, after: bytes, most: int, most_bytes: int, *, values: bool = True) -> Flow[LogPage]:
    """One page of a thread's log, its signatures checked.

    Without `values`, values are left out afterwards, as `scan_log.lua` does. One round trip.
    An entry with a wrong signature ends the page. Raises `SignatureInvalid` if that is the first entry.
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
        name = made[at][:1]
        if name == b"=":
            made[at + 1] = _stub(made[at + 1])
        elif name == b"!":
            made[at + 1] = b""
    return made


def _stub(piece: bytes) -> bytes:
    if piece == EMPTY:
        return piece
    try:
        return piece[: delta_start(piece) + 16 if is_delta(piece) else counted_part(piece, 1)[1] + 8]
    except Malformed:
        return piece[:1]

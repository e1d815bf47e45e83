"""Checks the signatures of a thread's entries as they are read.

A copy keeps the signatures of its source. So an entry is checked under the id of the thread that it was signed for. The entries
that were signed for the thread itself must be of one life (`eventlog.signing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from eventlog.codec import EMPTY, Malformed, counted_part, delta_start, is_delta
from eventlog.errors import CorruptEntry, SignatureInvalid
from eventlog.events import ThreadCopied, decode_entry, entry_ms
from eventlog.flow import Call, Flow
from eventlog.keys import ThreadKeys
from eventlog.signing import Known, Seal, Signer, life_of, seal_of
from projections.log.pages import READ_ENTRIES, Entry, LogPage, scan_log

__all__ = [
    "OLDER",
    "CopiedSeals",
    "Names",
    "Source",
    "ends_copy",
    "learn",
    "signed_page",
    "source_at",
    "sources_in",
    "sources_of",
]

OTHER_LIFE = "was signed in another life of the thread: before it was deleted and written again, or after"
NOT_COPIED = "was signed for the source of this copy, and is not among the entries that were copied"
OLDER = (
    "began under an older version, without the mark of a life: entries of an earlier life of that thread are not found"
)
_REMEDY = "It was not deserialized. Verify the thread, and restore its log from an export or a backup."


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A thread that a log was copied from."""

    closed: int
    """The ms in the id of the entry that ended the copy: earlier entries are the source's."""
    name: bytes
    life: bytes = b""
    seals: Mapping[bytes, frozenset[int]] | None = None
    """The counts of each writer in the copied seals; None if an older version made the copy."""
    own_life: bytes = b""
    """The life of the copy."""

    @classmethod
    def of(cls, event: ThreadCopied, entry_id: bytes, own_life: bytes) -> Source:
        """The source that the end of a copy names. Raises `ValueError`."""
        name = event.source if event.signed_for is None else event.signed_for
        seals = None
        if event.seals is not None:
            seals = {bytes.fromhex(one): frozenset(accumulate(counts)) for one, counts in event.seals.items()}
        return cls(entry_ms(entry_id), name.encode(), bytes.fromhex(event.life), seals, own_life)

    def has(self, seal: Seal) -> bool:
        """Whether an entry with this seal was copied, as far as the copy says."""
        return self.seals is None or seal.count in self.seals.get(seal.writer, ())


@dataclass(slots=True)
class CopiedSeals:
    """The seals of entries that are copied, for the event that ends the copy."""

    counts: dict[bytes, list[int]] = field(default_factory=dict)
    life: bytes = b""
    """The mark in the last seal."""

    def add(self, flat: Sequence[bytes]) -> None:
        """Adds an entry's seal, if it has one. Raises `codec.Malformed`."""
        seal, _ = seal_of(flat)
        self.life = b"" if seal is None else seal.life
        if seal is not None:
            self.counts.setdefault(seal.writer, []).append(seal.count)

    def differences(self) -> dict[str, list[int]]:
        """By writer in hex, the first count and the difference of each further one."""
        found = {}
        for writer, counts in self.counts.items():
            counts.sort()
            found[writer.hex()] = [after - before for before, after in zip([0, *counts], counts, strict=False)]
        return found


@dataclass(slots=True)
class Names:
    """Checks the entries of one thread: who signed them, for which thread, and in which life."""

    keys: ThreadKeys
    copied: list[Source] | None = None
    """What `sources_of` found, None as long as it was not needed."""
    ends: Sequence[bytes] | None = None
    """The seals of the first and the last entry of the log, as a reply had them, None as long as none had."""
    life: bytes | None = None
    """The life of the entries so far that were signed for this thread."""

    @property
    def known(self) -> Known | None:
        """The life as the signer notes it, None if no entry has shown it."""
        return None if self.life is None else Known(self.life)

    def check(self, entry_id: bytes, flat: Sequence[bytes]) -> Flow[None]:
        """Checks an entry's signature. Raises `SignatureInvalid`.

        No round trip, except for the first entry that another thread was copied with: then one per 1,000 entries of the log.
        """
        signer, thread = self.keys.signer, self.keys.thread
        assert signer is not None
        source = source_at(self.copied or (), entry_id)
        try:
            seal = signer.check(thread if source is None else source.name, entry_id, flat[4:])
            problem = self._problem(seal, source)
            if problem:
                raise SignatureInvalid(f"Entry {entry_id.decode(errors='replace')} {problem}. {_REMEDY}")
        except SignatureInvalid as error:
            if self.copied is None:
                self.copied = yield from sources_of(self.keys)
                if self.copied:
                    self.life = self.copied[-1].own_life
                    yield from self.check(entry_id, flat)
                    return
            raise SignatureInvalid(f"Thread {thread.decode()!r}: {error}") from error

    def _problem(self, seal: Seal, source: Source | None) -> str:
        """The reason to refuse an entry that is signed all right, "" if there is none."""
        if source is not None and not source.has(seal):
            return NOT_COPIED
        if self.life is None:
            self.life = seal.life
        ends = (self.ends or ())[1 if self.copied else 0 :]  # the first entry of a copy is the source's
        lives = {self.life, *filter(None, map(life_of, ends))}
        own = seal.life if source is None else self.life  # of a copied entry that of the record which lists it
        return OTHER_LIFE if lives != {own} else ""


def source_at(copied: Iterable[Source], entry_id: bytes) -> Source | None:
    """The source that an entry was copied from, given what `sources_of` found; None for an entry of the thread itself."""
    try:
        ms = entry_ms(entry_id)
    except Malformed:
        return None
    return next((source for source in copied if ms < source.closed), None)


def sources_of(keys: ThreadKeys) -> Flow[list[Source]]:
    """The copies that a thread comes from, by the signed entries of its log, the earliest first.

    A round trip per 1,000 entries.
    """
    assert keys.signer is not None
    closing: list[Entry] = []
    after, more = b"", 1
    while more:
        entries, more, _ = yield from scan_log(keys, after)
        closing += [entry for entry in entries if ends_copy(entry[1])]
        after = entries[-1][0] if entries else after
    return sources_in(keys.thread, keys.signer, closing)


def ends_copy(flat: Sequence[bytes]) -> bool:
    """Whether an entry says that it ends a copy."""
    return len(flat) > 5 and flat[5] == ThreadCopied.kind


def sources_in(thread: bytes, signer: Signer, closing: Sequence[Entry]) -> list[Source]:
    """The copies that a thread comes from, by the entries of its log that end copies, the earliest first."""
    found: list[Source] = []
    name = thread
    for entry_id, flat in reversed(closing):
        examined = signer.examine(name, entry_id, flat[4:])
        if examined.wrong or examined.seal is None:
            continue  # the entries before it are refused
        if found and not found[-1].has(examined.seal):
            continue  # likewise
        try:
            event = decode_entry(thread.decode(), entry_id, flat).event
            if isinstance(event, ThreadCopied):
                found.append(Source.of(event, entry_id, examined.seal.life))
                name = found[-1].name
        except (CorruptEntry, ValueError):
            continue  # likewise
    return found[::-1]


def learn(keys: ThreadKeys, last: Sequence[Any]) -> None:
    """Lets the signer know a log, by its last entry as the reply `unseen` has it: an id and fields, or nothing.

    Raises `SignatureInvalid`.
    """
    signer = keys.signer
    assert signer is not None
    keys.forget()
    if last:
        entry_id, flat = last
        try:
            seal = signer.check(keys.thread, entry_id, flat[4:])
        except SignatureInvalid as error:
            raise SignatureInvalid(f"Nothing was written to thread {keys.thread.decode()!r}: {error}") from error
        keys.note(entry_id, flat[3], Known(seal.life))


def signed_page(names: Names, after: bytes, most: int, most_bytes: int, *, values: bool = True) -> Flow[LogPage]:
    """One page of a thread's log, its signatures checked.

    Without `values`, values are left out afterwards, as `scan_log.lua` does. One round trip.
    An entry with a wrong signature ends the page. Raises `SignatureInvalid` if that is the first entry.
    """
    ends = [] if names.ends is not None else [b"ends"]
    entries, more, last, *rest = yield Call(READ_ENTRIES, [names.keys.log], [after, most, most_bytes, *ends])
    if ends:
        (names.ends,) = rest
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

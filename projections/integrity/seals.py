"""Checks the signatures of a log, and what its writers had seen.

A seal names the last entry that its writer had seen when it signed, and that entry's digest (see `eventlog.signing`). That entry
must still be in the log with the same digest, or it must have been removed by order. Otherwise the log was rolled back.

All entries that were signed for one thread must be of one life, and copied entries must be among those that the copy lists.

A log may begin after an earlier log of the same thread has ended. Under seals of version 1, a writer that had seen the earlier log
names one of that log's entries in its first event in the new log. That is not a finding. Seals with a mark never do so.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from eventlog.events import HistoryPruned, RunsDeleted, ThreadCopied
from eventlog.flow import Flow
from eventlog.keys import ThreadKeys
from eventlog.signing import Seal, Signer
from projections.integrity.chain import Chain, Link
from projections.integrity.findings import Finding, Findings, text_of
from projections.log.pages import digest_at, entry_order
from projections.log.signatures import NOT_COPIED, OTHER_LIFE, Source, source_at

__all__ = ["Seals"]

RECENT = 1000
"""Number of entries whose digests are kept in memory, to compare them with the entries that writers had seen."""
USED = 256
"""Numbers of each writer that are kept in memory: calls that are in flight together may arrive in another order."""
_BOUND = frozenset((b"k", event.kind) for event in (HistoryPruned, RunsDeleted, ThreadCopied))
"""First fields of events that have seen the entry before them."""
AHEAD = 1000
"""Ms by which an earlier log is assumed to have been ahead of the clock at most."""


class _Sight(NamedTuple):
    """An entry whose seal names another entry, which its writer had seen."""

    entry_id: bytes
    sequence: int
    seal: Seal
    is_first: bool
    """Whether the log has no earlier entry of the same writer."""


@dataclass(slots=True)
class _Writer:
    """The numbers that a writer has used: the last ones, and the greatest."""

    highest: int = 0
    used: deque[int] = field(default_factory=lambda: deque(maxlen=USED))

    def uses(self, number: int) -> bool:
        """Notes a number; False if it was used before, or is too old to be new."""
        if number <= self.highest and (number in self.used or (len(self.used) == USED and number < min(self.used))):
            return False
        self.highest = max(self.highest, number)
        self.used.append(number)
        return True


class Seals:
    """Checks the seals of a log, entry by entry.

    Memory: some numbers per writer, the last digests, and the seals that name an entry which is not there.
    """

    def __init__(
        self, thread: bytes, signer: Signer, copied: Sequence[Source], chain: Chain, findings: Findings
    ) -> None:
        self._thread = thread
        self._signer = signer
        self._copied = copied
        self._chain = chain
        self._findings = findings
        self.right = 0
        """Number of signatures that are right."""
        self.unmarked = 0
        """Of these, the number of seals without the mark of a life."""
        self._life: tuple[bytes, bytes] | None = None
        """The mark of the first entry that was signed for the thread itself, and that entry."""
        self._beginners: dict[Source | None, bytes] = {}
        """By source: the writer that began the life."""
        self._to_bind: list[tuple[Link, Seal]] = []
        """Removals and ends of copies whose predecessor is not in the log."""
        self._firsts: dict[bytes, bytes] = {}
        """By the thread that entries were signed for: the first of them."""
        self._writers: dict[bytes, _Writer] = {}
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()
        """Digests of the last entries."""
        self._to_look_up: list[_Sight] = []
        self._missing: list[_Sight] = []
        """Seals that name an entry which is not in the log."""
        self._different: list[_Sight] = []
        """Seals that name an entry which has another digest, or which came later."""

    def check(self, entry: Link, fields: list[bytes]) -> None:
        """Checks the seal of the next entry."""
        self._examine(entry, fields)
        self._recent[entry.entry_id] = entry.digest
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    def _examine(self, entry: Link, fields: list[bytes]) -> None:
        entry_id, sequence = entry.entry_id, entry.sequence
        source = source_at(self._copied, entry_id)
        name = self._thread if source is None else source.name
        self._firsts.setdefault(name, entry_id)
        found = self._signer.examine(name, entry_id, fields)
        seal = found.seal
        if seal is None or found.wrong:
            self._findings.append(Finding(found.wrong, text_of(entry_id), sequence, found.message))
            return
        self.right += 1
        self.unmarked += not seal.life
        self._check_life(entry, seal, source)
        if seal.life and tuple(fields[:2]) in _BOUND:
            self._bind(entry, seal)
        sight = _Sight(entry_id, sequence, seal, is_first=seal.writer not in self._writers)
        if not self._writers.setdefault(seal.writer, _Writer()).uses(seal.count):
            problem = (
                "repeats a number of its writer: it was signed once, and is in the log twice or far from its place"
            )
            self._findings.find("repeated", entry_id, sequence, problem)
        if seal.seen in self._recent:
            self._compare(sight, self._recent[seal.seen])
        elif seal.seen:
            self._to_look_up.append(sight)

    def _check_life(self, entry: Link, seal: Seal, source: Source | None) -> None:
        """Compares the life of an entry with that of the others, or a copied entry with the seals that the copy lists."""
        entry_id, sequence = entry.entry_id, entry.sequence
        if source is None:
            self._life = self._life or (seal.life, entry_id)
        life, first = self._life or (b"", b"")
        if source is not None and not source.has(seal):
            self._findings.find("inserted", entry_id, sequence, NOT_COPIED)
        elif source is None and seal.life != life:
            problem = f"{OTHER_LIFE}, as it has another mark than entry {text_of(first)}"
            self._findings.find("other life", entry_id, sequence, problem)
        elif seal.life and not seal.seen and self._beginners.setdefault(source, seal.writer) != seal.writer:
            problem = "begins the thread, and so does an entry of another writer"
            self._findings.find("inserted", entry_id, sequence, problem)

    def _bind(self, entry: Link, seal: Seal) -> None:
        """Compares the entry that a removal, or the end of a copy, had seen with the one before it."""
        if entry.sequence != self._chain.sequence:
            return  # it is out of order, which the chain reports
        number, digest = self._chain.previous
        if number == entry.sequence - 1:
            self._compare_predecessor(entry, seal, digest)
        else:
            self._to_bind.append((entry, seal))

    def _compare_predecessor(self, entry: Link, seal: Seal, digest: bytes) -> None:
        if seal.digest != digest:
            self._findings.find("inserted", entry.entry_id, entry.sequence, "was signed to come after another entry")

    def look_up(self, keys: ThreadKeys) -> Flow[None]:
        """Compares entries that writers had seen long before. A round trip each."""
        for sight in self._to_look_up:
            self._compare(sight, (yield from digest_at(keys, sight.seal.seen)))
        self._to_look_up.clear()

    def look_up_in(self, digests: Mapping[bytes, bytes]) -> None:
        """Compares entries that writers had seen long before with the digests of a whole log, by entry id."""
        for sight in self._to_look_up:
            self._compare(sight, digests.get(sight.seal.seen))
        self._to_look_up.clear()

    def _compare(self, sight: _Sight, digest: bytes | None) -> None:
        seal = sight.seal
        if digest is None:
            self._missing.append(sight)
        elif digest != seal.digest or entry_order(seal.seen) >= entry_order(sight.entry_id):
            self._different.append(sight)

    @property
    def suspects(self) -> set[bytes]:
        """Threads whose writers had seen an entry that is now missing or different."""
        return {self._name_of(sight.entry_id) for sight, _ in self._problems()}

    def finish(self, ended: Collection[bytes]) -> None:
        """Reports the entries that writers had seen and that are missing or different.

        `ended` are the threads whose earlier logs have ended, or may have.
        """
        for entry, seal in self._to_bind:
            _, digest = self._chain.gone.get(entry.sequence - 1, (0, seal.digest))  # a gap is a finding of the chain
            self._compare_predecessor(entry, seal, digest)
        for sight, problem in self._problems():
            if sight.seal.life or not self._is_of_an_earlier_log(sight, ended):
                self._findings.find("rolled back", sight.entry_id, sight.sequence, problem)

    def _problems(self) -> Iterator[tuple[_Sight, str]]:
        for sight in self._missing:
            seen = sight.seal.seen
            if not self._was_removed(seen):
                yield sight, f"has a writer that had seen entry {text_of(seen)}, which is missing and was not removed"
        for sight in self._different:
            yield sight, f"has a writer that had seen another entry {text_of(sight.seal.seen)} than the one in the log"

    def _was_removed(self, seen: bytes) -> bool:
        """Whether an entry lay where entries were removed by order."""
        at = entry_order(seen)
        gaps = self._chain.gaps
        return any(gap.closed and entry_order(gap.before) < at < entry_order(gap.after.entry_id) for gap in gaps)

    def _is_of_an_earlier_log(self, sight: _Sight, ended: Collection[bytes]) -> bool:
        """Whether the seen entry may have been in an earlier log of the thread.

        Then it came before this log. If the thread was written to faster than once a ms, the earlier log was ahead of the clock.
        Then it may have come shortly after this log began, and the writer names it in its first event here.
        """
        name = self._name_of(sight.entry_id)
        if name not in ended:
            return False
        seen = entry_order(sight.seal.seen)
        first = self._firsts.get(name, self._chain.first)
        if sight.is_first and seen[0] <= entry_order(first)[0] + AHEAD:
            return True
        return seen < entry_order(first) and all(gap.after.entry_id != first for gap in self._chain.gaps)

    def _name_of(self, entry_id: bytes) -> bytes:
        source = source_at(self._copied, entry_id)
        return self._thread if source is None else source.name

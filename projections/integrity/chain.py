"""Follows the chain that holds a log together, and reports where it breaks.

Theory of operation.

1. Entries are numbered without a gap, in the order of their ids. The digest of an entry covers the digest of its predecessor, its
   own id, its number and all its content. If a digest does not match, the entry was altered, or its predecessor was.
2. A removal accounts for a gap: it names the missing numbers, and the digest of the last entry that it removed. The entry after the
   gap is chained to that digest. The removal comes later in the log, so the gap stays open until the removal is read.
3. An entry that a removal names is not in the log.
4. A copy is closed by an event that names the number and the digest of the last entry that was copied.

Everything here is pure. Verifying a thread collects the breaks (`Chain`). Exports, imports and copies stop at the first one
(`WholeChain`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from eventlog.chain import link
from eventlog.codec import content_digest
from eventlog.errors import CorruptEntry
from eventlog.events import (
    CheckpointSaved,
    Event,
    HistoryPruned,
    Recorded,
    RunsDeleted,
    ThreadCopied,
    decode_entry,
    entry_ms,
)
from projections.integrity.findings import Kind

__all__ = ["Chain", "Gap", "Link", "Report", "WholeChain"]

REMEDY = "Restore the log from a backup, or delete the thread."
WRONG_COPY = "closes a copy of another log than the one before it"

Report = Callable[[Kind, bytes, int, str], None]
"""Receives a break: its kind, an entry, that entry's number, and the problem, which continues the sentence "Entry ..."."""


class Link(NamedTuple):
    """The parts of an entry that chain it to its predecessor."""

    entry_id: bytes
    sequence: int
    digest: bytes
    content: str
    """The digest of the entry's fields, its number and digest left out."""

    @classmethod
    def of(cls, entry_id: bytes, flat: list[bytes]) -> Link:
        """The link of an entry. Raises `ValueError` if this package did not write it."""
        if flat[:4:2] != [b"n", b"d"]:
            raise ValueError("does not begin with a number and a digest")
        sequence = int(flat[1])
        if flat[1] != b"%d" % sequence or sequence < 1:
            raise ValueError("has a number that this package does not give")
        entry_ms(entry_id)
        return cls(entry_id, sequence, flat[3], content_digest(flat[4:]))

    def follows(self, previous: bytes) -> bool:
        """Whether the entry is chained to an entry with this digest."""
        return self.digest == link(previous, self.entry_id, self.sequence, self.content)


@dataclass(slots=True)
class Gap:
    """Numbers that are not in the log, and the entries on both sides."""

    first: int
    last: int
    before: bytes
    after: Link
    copied: tuple[int, bytes] | None = None
    """The number and digest that the entry after the gap names, if that entry closes a copy."""
    closed: bool = False
    """Whether removals account for all of it."""


class Chain:
    """Follows a log entry by entry and reports each break.

    Memory: the gaps, and the ranges that were removed.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self.first = b""
        """Entry id of the first entry."""
        self.last = b"0-0"
        """Entry id of the entry with the greatest number so far."""
        self.sequence = 0
        self.digest = b""
        self.entries = 0
        self.removed = 0
        """Number of entries that removals account for."""
        self.gaps: list[Gap] = []
        self.gone: dict[int, tuple[int, bytes]] = {}
        """By the last number of each removed range: its first number, and the digest of its last entry."""
        self.previous = (0, b"")
        """Number and digest of the entry before the last."""

    def follow(self, entry: Link) -> bool:
        """Takes the next entry, and returns whether it is chained to its predecessor."""
        entry_id, sequence, digest, _ = entry
        self.entries += 1
        self.first = self.first or entry_id
        if sequence <= self.sequence:
            self._out_of_order(entry_id, sequence)
            return False
        chained = False
        if sequence > self.sequence + 1:
            self.gaps.append(Gap(self.sequence + 1, sequence - 1, self.last, entry))
        elif entry.follows(self.digest):
            chained = True
        else:
            self.report("altered", entry_id, sequence, "does not match its digest, or does not follow its predecessor")
        self.previous = self.sequence, self.digest
        self.sequence, self.digest, self.last = sequence, digest, entry_id
        return chained

    def account(self, event: Event) -> list[tuple[int, int]]:
        """Compares what the last entry's event says of other entries.

        Returns the ranges of numbers that it removed and that are in the log.
        """
        compare = _ACCOUNTS.get(type(event))
        return compare(self, event) if compare else []

    def finish(self) -> None:
        """Reports the gaps that no removal accounts for."""
        for gap in self.gaps:
            if not gap.closed:
                single = gap.first == gap.last
                numbers = f"number {gap.first} is" if single else f"numbers {gap.first} to {gap.last} are"
                problem = f"comes after a gap: {numbers} missing and not removed by this package"
                self.report("missing", gap.after.entry_id, gap.last + 1, problem)

    def _out_of_order(self, entry_id: bytes, sequence: int) -> None:
        for gap in self.gaps:
            if gap.first <= sequence <= gap.last and not gap.closed:
                problem = f"has number {sequence}, which belongs before entry {gap.after.entry_id.decode()}"
                self.report("reordered", entry_id, sequence, problem)
                if gap.first == gap.last:
                    self.gaps.remove(gap)
                return
        self.report("inserted", entry_id, sequence, f"has number {sequence}, which another entry has, or had")

    def _copy(self, event: ThreadCopied) -> list[tuple[int, int]]:
        copied = event.sequence, event.digest.encode()
        if self.sequence > self.previous[0] + 1:
            self.gaps[-1].copied = copied  # compared when the removal is read
        elif copied != self.previous:
            self.report("altered", self.last, self.sequence, WRONG_COPY)
        return []

    def _removal(self, event: HistoryPruned | RunsDeleted) -> list[tuple[int, int]]:
        """Closes the gaps that are now accounted for."""
        firsts = [gap.first for gap in self.gaps]
        present = []
        for first, last, digest in event.removed.gone:
            at = bisect_right(firsts, first) - 1
            if at < 0 or last > self.gaps[at].last:
                present.append((first, last))
            self.gone[last] = first, digest.encode()
        for gap in self.gaps:
            if not gap.closed and self._is_accounted_for(gap):
                self._close(gap)
        return present

    def _is_accounted_for(self, gap: Gap) -> bool:
        at = gap.last
        while at >= gap.first:
            first, _ = self.gone.get(at, (at + 1, b""))
            if first > at:
                return False
            at = first - 1
        return True

    def _close(self, gap: Gap) -> None:
        gap.closed = True
        self.removed += gap.last - gap.first + 1
        _, digest = self.gone[gap.last]
        if gap.copied not in (None, (gap.last, digest)):
            self.report("altered", gap.after.entry_id, gap.last + 1, WRONG_COPY)
        if not gap.after.follows(digest):
            problem = "does not match its digest, or does not follow the entries that were removed before it"
            self.report("altered", gap.after.entry_id, gap.last + 1, problem)


_ACCOUNTS: dict[type[Event], Callable[[Chain, Any], list[tuple[int, int]]]] = {
    HistoryPruned: Chain._removal,
    RunsDeleted: Chain._removal,
    ThreadCopied: Chain._copy,
}


class WholeChain(Chain):
    """A chain that raises `CorruptEntry` at the first break."""

    def __init__(self, thread: str) -> None:
        super().__init__(self._refuse)
        self.thread = thread
        self.checkpoints = 0
        """Number of checkpoints that were put, whether or not they are still listed."""
        self.contradicted_at = 0
        """Number of the first removal of entries that were read (the log was pruned meanwhile, or they were put back); else 0."""

    def add(self, entry_id: bytes, flat: list[bytes]) -> Recorded:
        """The event in the next entry.

        Raises `CorruptEntry` if the entry does not follow those before it.
        """
        recorded = decode_entry(self.thread, entry_id, flat)
        try:
            entry = Link.of(entry_id, flat)
        except ValueError as error:
            self._refuse("inserted", entry_id, recorded.sequence, str(error))
        if entry_ms(entry_id) <= entry_ms(self.last):
            self._refuse("reordered", entry_id, entry.sequence, f"comes after entry {self.last.decode()}")
        self.follow(entry)
        if self.account(recorded.event) and not self.contradicted_at:
            self.contradicted_at = self.sequence
        self.checkpoints += isinstance(recorded.event, CheckpointSaved)
        return recorded

    def finish(self) -> None:
        """Refuses gaps that no removal accounts for, and removed entries that are there."""
        super().finish()
        if at := self.contradicted_at:
            problem = f"follows event {at}, which removed entries, and some of these are in the log"
            self._refuse("inserted", self.last, self.sequence, problem)

    def _refuse(self, _kind: Kind, entry_id: bytes, _sequence: int, problem: str) -> NoReturn:
        named = f"Entry {entry_id.decode(errors='replace')} of thread {self.thread!r}"
        raise CorruptEntry(f"{named} {problem}. {REMEDY}")

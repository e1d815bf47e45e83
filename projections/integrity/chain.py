"""Whether entries are a whole log: numbered without a gap but for those that a removal accounts for, and chained by their digests.

Pure, entry by entry. Of a gap the digest before it is named by the removal, which stands further on: it is compared at the end.
"""

from __future__ import annotations

from typing import NamedTuple

from eventlog.chain import link, links
from eventlog.codec import content_digest
from eventlog.errors import CorruptEntry
from eventlog.events import CheckpointSaved, HistoryPruned, Recorded, RunsDeleted, decode_entry, entry_ms
from projections.log.fold import Index, settle

__all__ = ["Chain"]


class _Behind(NamedTuple):
    """An entry that follows a gap."""

    entry_id: bytes
    sequence: int
    digest: bytes
    content: str


class Chain:
    """Checks a log as it is read.

    Memory: the gaps, and what accounts for them.
    """

    def __init__(self, thread: str) -> None:
        self.thread = thread
        self.sequence = 0
        self.digest = b""
        self.last = b"0-0"
        """Entry id of the last entry."""
        self.entries = 0
        self.checkpoints = 0
        """How many were put, whether or not they are still listed."""
        self._gaps: list[tuple[int, int]] = []
        self._gone: dict[int, tuple[int, str]] = {}
        """By the last number of a range that is gone: its first, and the digest of its last."""
        self._behind: list[_Behind] = []

    def add(self, entry_id: bytes, flat: list[bytes]) -> Recorded:
        """The event in the next entry. Raises `CorruptEntry` if it is not what follows those before it."""
        recorded = decode_entry(self.thread, entry_id, flat)
        sequence, digest = recorded.sequence, recorded.digest
        where = f"Entry {entry_id.decode()} of thread {self.thread!r}"
        if flat[:4:2] != [b"n", b"d"]:
            raise CorruptEntry(f"{where} does not begin with its number and digest. {REMEDY}")
        if sequence <= self.sequence or entry_ms(entry_id) <= entry_ms(self.last):
            raise CorruptEntry(
                f"{where} has sequence number {sequence}, which does not follow {self.sequence}. {REMEDY}"
            )
        if sequence > self.sequence + 1:
            self._gaps.append((self.sequence + 1, sequence - 1))
            self._behind.append(_Behind(entry_id, sequence, digest, content_digest(flat[4:])))
        elif not links(self.digest, entry_id, flat):
            raise _broken(self.thread, entry_id)
        event = recorded.event
        if isinstance(event, (HistoryPruned, RunsDeleted)):
            self._gone.update({last: (first, digest) for first, last, digest in event.removed.gone})
        self.checkpoints += isinstance(event, CheckpointSaved)
        self.sequence, self.digest, self.last = sequence, digest, entry_id
        self.entries += 1
        return recorded

    def finish(self) -> None:
        """Checks the whole, once all entries were added. Raises `CorruptEntry`."""
        gone = [(first, last) for last, (first, _) in self._gone.items()]
        settle(self.thread, Index(gaps=self._gaps, gone=gone))
        for entry_id, sequence, digest, content in self._behind:
            _, before = self._gone.get(sequence - 1, (0, ""))
            if link(before.encode(), entry_id, sequence, content) != digest:
                raise _broken(self.thread, entry_id)


def _broken(thread: str, entry_id: bytes) -> CorruptEntry:
    return CorruptEntry(
        f"Entry {entry_id.decode()} of thread {thread!r} is not chained to the one before it: one of them was changed. {REMEDY}"
    )


REMEDY = "Restore the log from a backup, or delete the thread."

"""Compares a log with its index, its stream, its feed, and digests that were kept.

Theory of operation.

1. The index and each kept digest know the digest of one entry by its number. The feed knows the id of the last entry that it
   announced. The entry with that number must be the same. If the log ends before it, the log was cut.
2. The stream knows the greatest id that it has given. If the log ends before it, the log was cut.
3. The feed knows whether the thread was deleted. It also knows whether the log was cut and went on: then it has announced a number
   twice.
4. The feed's pointers are not signed, so a pointer itself can be wrong. It is if the log has its entry with another number, or if
   it gives a number to an entry that the log lacks, and the log goes on after that entry. Only a log without other
   findings is believed more than a pointer.
"""

from __future__ import annotations

from collections.abc import Mapping

from projections.integrity.chain import Chain
from projections.integrity.feed_evidence import Announced
from projections.integrity.findings import Finding, Findings, Kind, text_of
from projections.integrity.log_end import LogState
from projections.log.pages import entry_order

__all__ = ["Evidence"]


class Evidence:
    """Compares a chain: each entry by `compare`, then its end by `finish`."""

    def __init__(
        self,
        chain: Chain,
        findings: Findings,
        state: LogState,
        feed: Announced | None,
        kept: Mapping[int, str],
        *,
        feed_key: str = "",
    ) -> None:
        self._chain = chain
        self._findings = findings
        self._state = state
        self._feed = feed
        self._kept = {sequence: digest.encode() for sequence, digest in kept.items()}
        self._went_back_from = None if feed is None else feed.behind
        """Number and id of an entry that the feed announced before a lower number, unless that entry is in the log."""
        self._feed_key = feed_key
        self._announced_by: dict[tuple[int, str], str] = {}
        """Number and id of entries that the feed announced, each with the id of its pointer."""
        if feed is not None and not feed.ended:
            self._announced_by[feed.sequence, feed.entry_id] = feed.pointer
        if feed is not None and feed.behind is not None:
            self._announced_by.setdefault(feed.behind, feed.pointer_behind)
        self._other_id = b""
        """Id of the entry with the number that the feed announced last, if it announced another entry."""
        self._tombstone_differs = False
        """Whether the log has the number of the feed's tombstone with another digest."""
        self._doubted = set[str]()
        """Ids of pointers that do not agree with the log."""
        self._disagreeing: list[tuple[str, bytes, int, str]] = []
        """Pointers that give another number to an entry: id, entry, its number, and the pointer's claim."""

    def compare(self) -> None:
        """Compares the last entry of the chain."""
        chain, state, feed = self._chain, self._state, self._feed
        sequence = chain.sequence
        if self._kept.pop(sequence, chain.digest) != chain.digest:
            self._differs("changed", f"has another digest at number {sequence} than the one that was kept")
        if sequence == state.index_sequence and chain.digest != state.index_digest:
            self._differs("altered", "has another digest than the index knows of that number")
        if feed is not None and not feed.ended and sequence == feed.sequence and chain.last != feed.entry_id.encode():
            self._other_id = chain.last
        if feed is not None and feed.ended == "deleted" and sequence == feed.sequence:
            self._tombstone_differs = feed.digest.encode() not in (b"", chain.digest)
        own_id = chain.last.decode()
        if self._went_back_from == (sequence, own_id):
            self._went_back_from = None
        for number, entry_id in list(self._announced_by):
            if entry_id == own_id:
                pointer = self._announced_by.pop((number, entry_id))
                if number != sequence:
                    claim = f"it announces this entry with number {number}"
                    self._disagreeing.append((pointer, chain.last, sequence, claim))

    def finish(self, last_read: bytes) -> None:
        """Compares the end of the log.

        `last_read` is the id of the stream's last entry, even if it is foreign.
        """
        self._compare_index_and_stream(last_read)
        if self._feed is not None:
            self._compare_feed(self._feed)
        self._compare_kept()

    def _compare_index_and_stream(self, last_read: bytes) -> None:
        state = self._state
        if state.index_sequence > self._chain.sequence:
            self._cut(f"the index knows of number {state.index_sequence}")
        elif state.stream_last and entry_order(state.stream_last) > entry_order(last_read):
            self._cut(
                f"the stream has had entry {text_of(state.stream_last)} after it. If another program had added that entry and "
                "removed it, the next event clears this finding"
            )

    def _compare_feed(self, feed: Announced) -> None:
        chain = self._chain
        is_chain_whole = all(one.kind == "truncated" for one in self._findings)
        if is_chain_whole:
            for wrong in self._disagreeing:
                self._wrong_pointer(*wrong)
        is_inside = bool(chain.entries) and entry_order(feed.entry_id.encode()) <= entry_order(chain.last)
        if self._other_id and is_chain_whole and is_inside and feed.pointer not in self._doubted:
            claim = f"it announces entry {feed.entry_id} with that number"
            self._wrong_pointer(feed.pointer, self._other_id, feed.sequence, claim)
        elif self._other_id and feed.pointer not in self._doubted:
            problem = f"has number {feed.sequence}, with which the feed announced entry {feed.entry_id}"
            self._findings.find("altered", self._other_id, feed.sequence, problem)
        if feed.ended == "deleted" and self._tombstone_differs and is_chain_whole:
            claim = f"it says that the log was deleted with number {feed.sequence} and digest {feed.digest}"
            self._wrong_pointer(feed.pointer, chain.last, chain.sequence, claim)
        elif feed.ended == "deleted":
            problem = (
                f"is in a deleted log: the feed has its tombstone, with number {feed.sequence} and digest {feed.digest}"
            )
            self._findings.find("inserted", chain.first, chain.sequence, problem)
        elif not feed.ended and feed.sequence > chain.sequence and feed.pointer not in self._doubted:
            if is_chain_whole and is_inside:
                claim = f"it announces entry {feed.entry_id} with number {feed.sequence}"
                self._wrong_pointer(feed.pointer, chain.last, chain.sequence, claim)
            elif not self._findings.truncated:
                self._cut(f"the feed announced number {feed.sequence}, entry {feed.entry_id}")
        if self._went_back_from is not None and feed.pointer_behind not in self._doubted:
            number, entry_id = self._went_back_from[0], self._went_back_from[1].encode()
            if chain.first and entry_order(chain.first) <= entry_order(entry_id):
                problem = f"was announced with number {number} and is gone; the log went on from an earlier entry"
                self._findings.find("rolled back", entry_id, number, problem)

    def _compare_kept(self) -> None:
        chain = self._chain
        for sequence, digest in sorted(self._kept.items()):
            if sequence > chain.sequence:
                self._cut(f"a digest was kept of number {sequence}")
            elif sequence not in chain.gone:
                problem = f"comes after number {sequence}, whose digest was kept; it was removed and can no longer be compared"
                self._findings.find("removed", chain.last, sequence, problem)
            elif chain.gone[sequence][1] != digest:
                problem = (
                    f"comes after number {sequence}, which was removed with another digest than the one that was kept"
                )
                self._findings.find("changed", chain.last, sequence, problem)

    def _differs(self, kind: Kind, problem: str) -> None:
        self._findings.find(kind, self._chain.last, self._chain.sequence, problem)

    def _wrong_pointer(self, pointer: str, entry_id: bytes, sequence: int, claim: str) -> None:
        """Reports a pointer of the feed that says something else of an entry than the log."""
        self._doubted.add(pointer)
        self._findings.find(
            "pointer",
            entry_id,
            sequence,
            f"has number {sequence}, and the feed's pointer {pointer} does not agree with the log: {claim}. The "
            "pointer was forged or damaged, or the log was rewritten. If the log is right, by its signatures or a digest that "
            f"you kept, remove the pointer with XDEL {self._feed_key} {pointer}, and verify again",
        )

    def _cut(self, known: str) -> None:
        chain = self._chain
        if chain.entries:
            self._findings.find("truncated", chain.last, chain.sequence, f"is the last, but {known}")
        else:
            self._findings.append(Finding("truncated", text_of(chain.last), 0, f"The log is gone, but {known}"))

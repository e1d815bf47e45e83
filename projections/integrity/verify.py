"""Was a log altered? Every entry held against its number, its predecessor's digest, and its signature.

Theory of operation.

1. Entries are numbered without a gap, in the order of their ids, and each one's digest covers its predecessor's digest, its own id
   and number, and all its content. So an entry whose digest is not what comes out is altered, or its predecessor is not the one it
   followed on.
2. A gap is in order if a removal further on names it: with the digest that the entries before the gap's end had. What follows a gap
   is chained to that digest, and is checked when the removal has been read. What a removal names is not there.
3. The end: the index, the stream's own last id, the feed, or a digest that was exported know of more than is there: the log was
   cut. The feed also tells that it was cut and went on: a number was announced twice.
4. With keys: every entry is signed, for this thread or for the one that it was copied from, by a writer that uses each of its
   numbers once; and what the writer had seen of the log when it signed is still there, or was removed by order.

A log that agents write to is verified up to where it ended at the beginning. If something is found and the log has changed
meanwhile (pruned, deleted, begun anew), it is verified once more.

What it does not prove: that nothing was cut off the end together with all that knew of it (keep digests elsewhere:
`Verified.digest`); that what an agent wrote was true; without keys, that not everything was written anew, digests and all, by
someone who can write to the server; with HMAC, that it was not someone else who has the secret.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from eventlog.errors import EventLogError, LogLost, ThreadNotFound
from eventlog.events import CheckpointSaved, Recorded, ValuesSaved, WritesSaved, decode_entry
from eventlog.flow import Call, Flow, load_script
from eventlog.keys import ThreadKeys
from eventlog.signing import Seal, Signer
from projections.integrity.chain import ALTERED, INSERTED, Chain, Link
from projections.integrity.feed_evidence import Announced, announced
from projections.integrity.log_end import LogState, log_end, log_state
from projections.log.pages import READ_ENTRIES, digest_at, entry_order, pages_of
from projections.log.signatures import name_at, sources_of

__all__ = ["Finding", "Verified", "verify_thread"]

EXPIRIES_OF = load_script("projections/integrity/expiries_of")
PAGE, PAGE_BYTES = 500, 1024 * 1024
RECENT = 1000
"""Entries whose digests are remembered, for what writers had seen."""
USED = 256
"""Numbers of each writer that are remembered: calls that are under way together may arrive in another order."""
ATTEMPTS = 5
AHEAD = 1000
"""Ms by which a log that ended is taken to have been ahead of the clock at most."""
_KEEPING = frozenset((b"k", event.kind) for event in (ValuesSaved, CheckpointSaved, WritesSaved))
"""How events begin that remove nothing and copy nothing: what such a one says is not looked into where the chain holds."""

TRUNCATED, REPEATED, ROLLED_BACK, CHANGED, REMOVED = "truncated", "repeated", "rolled back", "changed", "removed"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as this project left it."""

    kind: str
    """altered, missing, reordered, inserted, truncated, rolled back; with keys: unsigned, forged, repeated; against an exported
    digest: changed, or removed where the entry is gone by order and can no longer be compared.
    """
    entry_id: str
    """The entry concerned, or, of what is missing, the one behind it."""
    sequence: int
    told: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What verifying a thread found."""

    thread_id: str
    entries: int
    sequence: int
    """Number of the last entry."""
    entry_id: str
    digest: str
    """The chain's digest there: kept elsewhere, it proves later that the history up to there is unchanged."""
    removed: int
    """Entries that are gone by order: pruned, or deleted with their runs."""
    signed: int
    """Signatures that were checked, and are right."""
    findings: tuple[Finding, ...]
    unchecked: int = 0
    """Signatures that were not looked at, for want of a key."""

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "thread_id": self.thread_id,
            "sound": self.sound,
            "entries": self.entries,
            "sequence": self.sequence,
            "entry_id": self.entry_id,
            "digest": self.digest,
            "removed": self.removed,
            "signed": self.signed,
            "unchecked": self.unchecked,
            "findings": [
                {"kind": one.kind, "entry_id": one.entry_id, "sequence": one.sequence, "told": one.told}
                for one in self.findings
            ],
        }


class _Unseen(NamedTuple):
    """An entry, and what its writer had seen of the log, which is yet to be compared with it."""

    entry_id: bytes
    sequence: int
    seal: Seal
    is_first: bool
    """Whether the log has no earlier one of its writer."""


@dataclass(slots=True)
class _Writer:
    """The numbers that a writer has used: the last ones, and the greatest."""

    highest: int = 0
    used: deque[int] = field(default_factory=lambda: deque(maxlen=USED))

    def uses(self, number: int) -> bool:
        """Notes a number; False if it was used before, or so long ago that it would have to have been."""
        if number <= self.highest and (number in self.used or (len(self.used) == USED and number < min(self.used))):
            return False
        self.highest = max(self.highest, number)
        self.used.append(number)
        return True


class Verification:
    """Verifies one log, entry by entry. Pure.

    Memory: what was found, the gaps there are and what accounts for them, and some numbers for each writer.
    """

    def __init__(self, thread: str, signer: Signer | None = None, copied: Sequence[tuple[int, bytes]] = ()) -> None:
        self.thread = thread
        self._name = thread.encode()
        self._copied = copied
        self._signer = signer
        self.chain = Chain(self.find)
        self._firsts: dict[bytes, bytes] = {}
        """The first entry that was signed for a thread, by its name."""
        self.read = b"0-0"
        """The last entry there is, whatever it is."""
        self.signed = 0
        self.unchecked = 0
        self.findings: list[Finding] = []
        self._writers: dict[bytes, _Writer] = {}
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()
        """Digests of the last entries."""
        self._not_there: list[_Unseen] = []
        """Where a writer had seen what is not there."""
        self._another: list[_Unseen] = []
        """Where a writer had seen another entry than the one that is there."""
        self.unseen: list[_Unseen] = []
        """What writers had seen, that is to be looked up."""

    def add(self, entry_id: bytes, flat: list[bytes]) -> None:
        """Verifies the next entry of the stream."""
        self.read = entry_id
        try:
            entry = Link.of(entry_id, flat)
        except ValueError as error:
            self.find(INSERTED, entry_id, 0, f"was not written by this package: it {error}")
            return
        sequence, fields = entry.sequence, flat[4:]
        chained = self.chain.follow(entry)
        keeps = chained and tuple(fields[:2]) in _KEEPING and b"k" not in fields[2::2]
        recorded = None if keeps else self._decoded(entry_id, flat, sequence)
        if self._signer is not None:
            self._check_seal(self._signer, entry_id, fields, sequence)
            self._recent[entry_id] = entry.digest
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)
        elif b"g" in fields[::2]:
            self.unchecked += 1
        if recorded is not None and self.chain.last == entry_id:
            for first, last in self.chain.account(recorded.event):
                problem = f"removed numbers {first} to {last}, and some of these are in the log"
                self.find(INSERTED, entry_id, sequence, problem)

    def _decoded(self, entry_id: bytes, flat: list[bytes], sequence: int) -> Recorded | None:
        try:
            return decode_entry(self.thread, entry_id, flat)
        except EventLogError as error:
            self.find(ALTERED, entry_id, sequence, f"cannot be read: {error}")
            return None

    def _check_seal(self, signer: Signer, entry_id: bytes, fields: list[bytes], sequence: int) -> None:
        name = self._name_of(entry_id)
        self._firsts.setdefault(name, entry_id)
        found = signer.examine(name, entry_id, fields)
        seal = found.seal
        if seal is None or found.wrong:
            self.findings.append(Finding(found.wrong, _shown(entry_id), sequence, found.message))
            return
        self.signed += 1
        one = _Unseen(entry_id, sequence, seal, is_first=seal.writer not in self._writers)
        if not self._writers.setdefault(seal.writer, _Writer()).uses(seal.count):
            told = "repeats a number of its writer: it was signed once, and stands here twice, or far from its place"
            self.find(REPEATED, entry_id, sequence, told)
        if seal.seen in self._recent:
            self.seen_by_a_writer(one, self._recent[seal.seen])
        elif seal.seen:
            self.unseen.append(one)

    def find(self, kind: str, entry_id: bytes, sequence: int, told: str) -> None:
        """Notes that something is not as it should be."""
        shown = _shown(entry_id)
        self.findings.append(Finding(kind, shown, sequence, f"Entry {shown} {told}"))

    def seen_by_a_writer(self, one: _Unseen, digest: bytes | None) -> None:
        """Compares what a writer had seen with the digest that the log has there, None if the entry is not there."""
        if digest is None:
            self._not_there.append(one)
        elif digest != one.seal.digest or entry_order(one.seal.seen) >= entry_order(one.entry_id):
            self._another.append(one)

    @property
    def not_there(self) -> set[bytes]:
        """Threads that entries were signed for whose writers had seen what is not there and was not removed."""
        missing = (one for one in self._not_there if not self._was_removed(one.seal.seen))
        return {self._name_of(one.entry_id) for one in (*missing, *self._another)}

    def finish(self, state: LogState, ended: Collection[bytes]) -> None:
        """What shows when all entries were read: gaps that nothing accounts for, what writers had seen that is not there and was
        not removed, and an end that something knows to be later. `ended`: threads of which an earlier log has ended, or may have.
        """
        for one in self._not_there:
            seen = one.seal.seen
            if not self._is_of_an_earlier_log(one, ended) and not self._was_removed(seen):
                told = f"was written by one who had seen entry {_shown(seen)}, which is not there and was not removed"
                self.find(ROLLED_BACK, one.entry_id, one.sequence, told)
        for one in self._another:
            if not self._is_of_an_earlier_log(one, ended):
                told = (
                    f"was written by one who had seen another entry {_shown(one.seal.seen)} than the one that is there"
                )
                self.find(ROLLED_BACK, one.entry_id, one.sequence, told)
        self.chain.finish()
        if state.index_sequence > self.chain.sequence and not self.chain.entries:
            told = f"The log is gone; its index knows of {state.index_sequence} events"
            self.findings.append(Finding(TRUNCATED, _shown(self.chain.last), 0, told))
        elif state.index_sequence > self.chain.sequence:
            self.find(
                TRUNCATED,
                self.chain.last,
                self.chain.sequence,
                f"is the last; the index knows of number {state.index_sequence}",
            )
        elif state.stream_last and entry_order(state.stream_last) > entry_order(self.read):
            told = (
                f"is the last; the stream has had entry {_shown(state.stream_last)} behind it. If that was one of something else, "
                "which was taken out, the next event clears this"
            )
            self.find(TRUNCATED, self.chain.last, self.chain.sequence, told)

    def _was_removed(self, seen: bytes) -> bool:
        """Whether an entry lay where some were removed by order."""
        order = entry_order(seen)
        return any(
            gap.closed and entry_order(gap.before) < order < entry_order(gap.after.entry_id) for gap in self.chain.gaps
        )

    def _is_of_an_earlier_log(self, one: _Unseen, ended: Collection[bytes]) -> bool:
        """Whether what a writer had seen may have been in an earlier log of the thread: it came before this log, or, since one that
        is written to faster than once a ms is ahead of the clock, soon after its beginning, and the writer brought it along to its
        first event here.
        """
        name = self._name_of(one.entry_id)
        if name not in ended:
            return False
        soon = entry_order(self._firsts.get(name, self.chain.first))[0] + AHEAD
        return (one.is_first and entry_order(one.seal.seen)[0] <= soon) or self._was_before(one.seal.seen, name)

    def _was_before(self, seen: bytes, name: bytes) -> bool:
        """Whether an entry came before all that was signed for a thread, and nothing was removed there."""
        first = self._firsts.get(name, self.chain.first)
        return entry_order(seen) < entry_order(first) and all(gap.after.entry_id != first for gap in self.chain.gaps)

    def _name_of(self, entry_id: bytes) -> bytes:
        return name_at(self._copied, self._name, entry_id)

    def passed(self, known: Announced) -> None:
        """Compares an entry with what the feed announced, when it is its turn."""
        if self.chain.last.decode() != known.entry_id:
            told = f"has number {known.sequence}; with that the feed announced entry {known.entry_id}"
            self.find(ALTERED, self.chain.last, self.chain.sequence, told)

    def announced(self, known: Announced, *, has_behind: bool) -> None:
        """What the feed knows of the end. `has_behind`: whether the entry is there from which it went back."""
        if known.ended == "deleted":
            told = (
                f"is in a log that was deleted: the feed has its tombstone, with number {known.sequence} and digest "
                f"{known.digest}"
            )
            self.find(INSERTED, self.chain.first, self.chain.sequence, told)
        elif not known.ended and known.sequence > self.chain.sequence and not self._is_cut:
            told = f"is the last; the feed announced number {known.sequence}, entry {known.entry_id}"
            self.find(TRUNCATED, self.chain.last, self.chain.sequence, told)
        if known.behind is not None and not has_behind:
            number, entry_id = known.behind
            if self.chain.first and entry_order(self.chain.first) <= entry_order(entry_id.encode()):
                told = f"was announced with number {number} and is gone; the log went on from before it"
                self.find(ROLLED_BACK, entry_id.encode(), number, told)

    @property
    def _is_cut(self) -> bool:
        """Whether it was found that the end is not there."""
        return any(one.kind == TRUNCATED for one in self.findings)

    def expected(self, wanted: Mapping[int, str]) -> None:
        """What is left of digests that were kept, when all was read."""
        for sequence, digest in sorted(wanted.items()):
            if sequence > self.chain.sequence:
                told = f"is the last; a digest was kept of number {sequence}"
                self.find(TRUNCATED, self.chain.last, self.chain.sequence, told)
            elif sequence not in self.chain.gone:
                told = f"is beyond number {sequence}, of which a digest was kept and which is gone: it can no longer be compared"
                self.find(REMOVED, self.chain.last, sequence, told)
            elif self.chain.gone[sequence][1] != digest.encode():
                told = f"is beyond number {sequence}, which was removed with another digest than the one that was kept"
                self.find(CHANGED, self.chain.last, sequence, told)

    def verified(self) -> Verified:
        """The result."""
        return Verified(
            self.thread,
            self.chain.entries,
            self.chain.sequence,
            _shown(self.chain.last),
            self.chain.digest.decode(errors="replace"),
            self.chain.removed,
            self.signed,
            tuple(self.findings),
            self.unchecked,
        )


def _shown(entry_id: bytes) -> str:
    return entry_id.decode(errors="replace")


def verify_thread(
    keys: ThreadKeys,
    *,
    expected: Mapping[int, str] | None = None,
    known: Announced | None = None,
) -> Flow[Verified]:
    """Verifies a thread's log. With the thread's signer, signatures too.

    `expected`: digests by sequence number that were kept elsewhere. `known`: what the feed says of the thread, read before; else it
    is read. A round trip per 500 entries or 1 MiB, one per 2,000 pointers of its feed, and a few more; with a signer one
    for each entry whose writer had seen nothing of the last thousand. Only reads. Memory: see `Verification`; two pages of entries.

    Raises `ThreadNotFound`.
    """
    thread = keys.thread.decode()
    for attempt in range(ATTEMPTS):
        if attempt or known is None:
            known = (yield from announced(keys.keyspace, [thread])).get(thread)
        before = yield from log_state(keys)
        found = yield from _verified(keys, before, known, dict(expected or {}))
        if found.sound or (yield from log_state(keys)) == before:
            break
    return found


def _verified(keys: ThreadKeys, state: LogState, known: Announced | None, wanted: dict[int, str]) -> Flow[Verified]:
    copied = (yield from sources_of(keys)) if keys.signer is not None else []
    verification = Verification(keys.thread.decode(), keys.signer, copied)
    if not state.log_last:
        yield from _check_gone(keys, known)
    behind = None if known is None or known.behind is None else known.behind
    has_behind = False
    after = b""
    pages = pages_of(keys, READ_ENTRIES, after, PAGE, PAGE_BYTES)
    while state.log_last:
        entries, *_ = yield from pages.next()
        for after, flat in entries:
            before = verification.chain.sequence
            verification.add(after, flat)
            sequence = verification.chain.sequence
            if sequence == before:
                continue
            if (digest := wanted.pop(sequence, None)) is not None and digest.encode() != verification.chain.digest:
                told = f"has another digest at number {sequence} than the one that was kept"
                verification.find(CHANGED, after, sequence, told)
            if sequence == state.index_sequence and state.index_digest != verification.chain.digest:
                told = "has another digest than the index knows of that number"
                verification.find(ALTERED, after, sequence, told)
            if known is not None and sequence == known.sequence and not known.ended:
                verification.passed(known)
            has_behind = has_behind or (sequence, after.decode()) == behind
        yield from _look_up(keys, verification)
        if not pages.more or entry_order(after) >= entry_order(state.log_last):
            break
    verification.finish(state, (yield from _ended(keys, verification.not_there, state, known)))
    if known is not None:
        verification.announced(known, has_behind=has_behind)
    verification.expected(wanted)
    return verification.verified()


def _ended(keys: ThreadKeys, names: set[bytes], state: LogState, known: Announced | None) -> Flow[set[bytes]]:
    """Of some threads, those of which the feed says that an earlier log has ended, or may have; or whose logs expire."""
    others = {name: name.decode() for name in names - {keys.thread}}
    told = (yield from announced(keys.keyspace, list(others.values()))) if others else {}
    found = {name for name, text in others.items() if _has_ended(told.get(text))}
    if state.expires or _has_ended(known):
        found.add(keys.thread)
    return found


def _has_ended(known: Announced | None) -> bool:
    """Whether the feed says that an earlier log of a thread has ended, or may have: it does not know the thread, or went back."""
    return known is None or known.ended_before or known.behind is not None


def _check_gone(keys: ThreadKeys, known: Announced | None) -> Flow[None]:
    """Raises `ThreadNotFound` unless a log that should be there is gone."""
    thread = keys.thread.decode()
    if known is not None and known.ended:
        told = f"was deleted, with number {known.sequence} and digest {known.digest}" if known.digest else "has expired"
        raise ThreadNotFound(f"Thread {thread!r} {told}: it has no log to verify.")
    try:
        yield from log_end(keys, damaged=True)
    except LogLost:
        return
    (told,) = yield Call(EXPIRIES_OF, [keys.shared.expiries, keys.log], [keys.thread])
    if known is None or not known.lasting or told == b"ended":
        raise ThreadNotFound(f"Thread {thread!r} has no log to verify. Check the id and the prefix.")


def _look_up(keys: ThreadKeys, verification: Verification) -> Flow[None]:
    """Compares what writers had seen, where that is not among the last entries."""
    for one in verification.unseen:
        verification.seen_by_a_writer(one, (yield from digest_at(keys, one.seal.seen)))
    verification.unseen.clear()

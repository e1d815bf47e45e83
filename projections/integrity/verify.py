"""Verifies a thread's log, so that a change by other programs is found.

Theory of operation.

1. `chain.py` follows the chain. Entries are numbered without a gap, each digest covers the predecessor's digest, and removals
   account for gaps.
2. `evidence.py` compares the log with what is known of it elsewhere: index, stream, feed, and digests that were exported.
3. With keys, `seals.py` checks the signatures. Every entry is signed, for this thread or for the thread that it was copied from, by
   a writer that uses each of its numbers once, and in one life of the thread. Each entry that a writer had seen is still there, or
   was removed by order.

A log that agents write to is verified up to its end when verifying began. If there are findings and the log or its feed has changed
meanwhile (pruned, deleted, started over), it is verified once more.

Verifying does not prove these:

- Nothing was cut off the end together with everything that knew of it. Keep digests elsewhere (`Verified.digest`) to find that.
- An agent wrote the truth.
- Without keys: nobody with access to the server rewrote the log, digests included.
- With HMAC: nobody else who has the secret signed the events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventlog.errors import EventLogError, LogLost, ThreadNotFound
from eventlog.events import CheckpointSaved, Recorded, ValuesSaved, WritesSaved, decode_entry
from eventlog.flow import Call, Flow, load_script
from eventlog.keys import ThreadKeys
from eventlog.signing import Signer
from projections.integrity.chain import Chain, Link
from projections.integrity.evidence import Evidence
from projections.integrity.feed_evidence import Announced, announced
from projections.integrity.findings import Findings, Verified, text_of
from projections.integrity.log_end import LogState, log_end, log_state
from projections.integrity.seals import Seals
from projections.log.pages import READ_ENTRIES, entry_order, pages_of
from projections.log.signatures import Source, sources_of

__all__ = ["Verification", "verify_thread"]

EXPIRIES_OF = load_script("projections/integrity/expiries_of")
PAGE, PAGE_BYTES = 500, 1024 * 1024
ATTEMPTS = 5
_ORDINARY = frozenset((b"k", event.kind) for event in (ValuesSaved, CheckpointSaved, WritesSaved))
"""First fields of events that remove nothing and copy nothing. They are not decoded if the chain holds."""


class Verification:
    """Verifies one log, entry by entry. Pure.

    Memory: the findings, and what `Chain` and `Seals` keep.
    """

    def __init__(self, thread: str, signer: Signer | None = None, copied: Sequence[Source] = ()) -> None:
        self.thread = thread
        self.findings = Findings()
        self.chain = Chain(self.findings.find)
        self.seals = None if signer is None else Seals(thread.encode(), signer, copied, self.chain, self.findings)
        self.last_read = b"0-0"
        """Entry id of the last entry, even if it is foreign."""
        self.unchecked = 0

    def add(self, entry_id: bytes, flat: list[bytes]) -> None:
        """Verifies the next entry of the stream."""
        self.last_read = entry_id
        try:
            entry = Link.of(entry_id, flat)
        except ValueError as error:
            self.findings.find("inserted", entry_id, 0, f"was not written by this package: it {error}")
            return
        fields = flat[4:]
        chained = self.chain.follow(entry)
        ordinary = chained and tuple(fields[:2]) in _ORDINARY and b"k" not in fields[2::2]
        recorded = None if ordinary else self._decoded(entry, flat)
        if self.seals is not None:
            self.seals.check(entry, fields)
        elif b"g" in fields[::2]:
            self.unchecked += 1
        if recorded is not None and self.chain.last == entry_id:
            for first, last in self.chain.account(recorded.event):
                problem = f"removed numbers {first} to {last}, and some of these are in the log"
                self.findings.find("inserted", entry_id, entry.sequence, problem)

    def finish_alone(self, digests: Mapping[bytes, bytes]) -> None:
        """Ends the verification of a whole log that has no server, such as one in a file, given its digests by entry id.

        An earlier log of a thread may have ended, since nothing says otherwise.
        """
        if self.seals is not None:
            self.seals.look_up_in(digests)
            self.seals.finish(self.seals.suspects)
        self.chain.finish()

    def _decoded(self, entry: Link, flat: list[bytes]) -> Recorded | None:
        try:
            return decode_entry(self.thread, entry.entry_id, flat)
        except EventLogError as error:
            self.findings.find("altered", entry.entry_id, entry.sequence, f"cannot be read: {error}")
            return None

    def verified(self) -> Verified:
        """The result."""
        chain = self.chain
        return Verified(
            self.thread,
            chain.entries,
            chain.sequence,
            text_of(chain.last),
            text_of(chain.digest),
            chain.removed,
            0 if self.seals is None else self.seals.right,
            tuple(self.findings),
            self.unchecked,
            0 if self.seals is None else self.seals.unmarked,
        )


def verify_thread(
    keys: ThreadKeys, *, expected: Mapping[int, str] | None = None, known: Announced | None = None
) -> Flow[Verified]:
    """Verifies a thread's log, and its signatures if the thread has a signer.

    Only reads.
    Round trips: one per 500 entries or 1 MiB, one per 2,000 pointers of the thread's feed, and a few more. With a signer, one more
    for each entry whose writer had seen nothing of the last thousand entries.
    Memory: see `Verification`; two pages of entries.

    Args:
        keys: the thread's keys.
        expected: digests by sequence number that were kept elsewhere.
        known: what the feed says of the thread, if it was read before.

    Raises:
        ThreadNotFound: the thread has no log, and the feed knows of none that should be there.

    """
    if known is None:
        known = yield from _announced(keys)
    for _ in range(ATTEMPTS):
        before = yield from log_state(keys)
        found = yield from _verified(keys, before, known, expected or {})
        if found.sound:
            break
        known, earlier = (yield from _announced(keys)), known
        if known == earlier and (yield from log_state(keys)) == before:
            break
    return found


def _announced(keys: ThreadKeys) -> Flow[Announced | None]:
    thread = keys.thread.decode()
    return (yield from announced(keys.keyspace, [thread])).get(thread)


def _verified(keys: ThreadKeys, state: LogState, feed: Announced | None, kept: Mapping[int, str]) -> Flow[Verified]:
    copied = (yield from sources_of(keys)) if keys.signer is not None else []
    verification = Verification(keys.thread.decode(), keys.signer, copied)
    chain, seals = verification.chain, verification.seals
    evidence = Evidence(chain, verification.findings, state, feed, kept, feed_key=keys.shared.feed.decode())
    if not state.log_last:
        yield from _check_gone(keys, feed)
    pages = pages_of(keys, READ_ENTRIES, b"", PAGE, PAGE_BYTES)
    while state.log_last and pages.more and entry_order(verification.last_read) < entry_order(state.log_last):
        entries, *_ = yield from pages.next()
        for entry_id, flat in entries:
            before = chain.sequence
            verification.add(entry_id, flat)
            if chain.sequence > before:
                evidence.compare()
        if seals is not None:
            yield from seals.look_up(keys)
    if seals is not None:
        seals.finish((yield from _ended(keys, seals.suspects, state, feed)))
    chain.finish()
    evidence.finish(verification.last_read)
    return verification.verified()


def _ended(keys: ThreadKeys, threads: set[bytes], state: LogState, feed: Announced | None) -> Flow[set[bytes]]:
    """Of some threads, those whose earlier log has ended, or may have.

    The feed knows, and logs that expire may have ended without a trace in it.
    """
    others = {name: name.decode() for name in threads - {keys.thread}}
    reported = (yield from announced(keys.keyspace, list(others.values()))) if others else {}
    found = {name for name, thread in others.items() if _has_ended(reported.get(thread))}
    return found | {keys.thread} if state.expires or _has_ended(feed) else found


def _has_ended(feed: Announced | None) -> bool:
    """Whether an earlier log may have ended, by the feed."""
    return feed is None or feed.ended_before or feed.behind is not None


def _check_gone(keys: ThreadKeys, feed: Announced | None) -> Flow[None]:
    """Raises `ThreadNotFound` for a thread without a log, unless it should have one."""
    thread = keys.thread.decode()
    if feed is not None and feed.ended:
        ended = f"was deleted, with number {feed.sequence} and digest {feed.digest}" if feed.digest else "has expired"
        raise ThreadNotFound(f"Thread {thread!r} {ended}: it has no log to verify.")
    try:
        yield from log_end(keys, damaged=True)
    except LogLost:
        return
    (expiry,) = yield Call(EXPIRIES_OF, [keys.shared.expiries, keys.log], [keys.thread])
    if feed is None or not feed.lasting or expiry == b"ended":
        raise ThreadNotFound(f"Thread {thread!r} has no log to verify. Check the id and the prefix.")

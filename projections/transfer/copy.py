"""Copies a thread entry by entry, with the same ids, numbers and digests.

The copy ends with an event that names its source. It is staged under keys that expire, and put in place whole. If the source is
pruned or deleted while it is read, its log shows that, and it is read again. A copy up to an event has the beginning of the log and
the index of that beginning. So it is the thread as it was then, and goes on from the checkpoint that was the latest.
"""

from __future__ import annotations

from dataclasses import replace

from eventlog.attribution import stamp
from eventlog.codec import Malformed, content_digest
from eventlog.errors import (
    CorruptEntry,
    HistoryGone,
    InvalidArgument,
    SignatureInvalid,
    ThreadBusy,
    ThreadExists,
    ThreadNotFound,
)
from eventlog.events import ThreadCopied, encode_event, ids_in
from eventlog.flow import Argument, Call, Flow, load_script
from eventlog.keys import Keyspace, ThreadKeys
from eventlog.limits import Limits
from eventlog.signing import Known
from projections.integrity.chain import WholeChain
from projections.integrity.verify import verify_thread
from projections.log.ended import forget_runs
from projections.log.fold import Fold
from projections.log.index import check_log, rebuild_index, scan
from projections.log.pages import Entry, entry_order, has_entry, read_entries
from projections.log.signatures import CopiedSeals, source_at, sources_of
from projections.log.staging import StagedIndex, stage_entries, staged_keys
from projections.registry.rebuild import runs_of
from projections.time_travel.moment import Moment
from projections.transfer.runs import announce_rest, first_runs

__all__ = ["copy_thread"]

STORE_COPY = load_script("projections/transfer/store_copy")
PAGE = 50
PAGE_BYTES = 4 * 1024 * 1024
ATTEMPTS = 20
_NOT_COPIED = (
    "Nothing was copied. Verify the thread, save what is left with export_threads(..., damaged=True), and restore its log from an "
    "export or a backup."
)


def copy_thread(
    keyspace: Keyspace, source: ThreadKeys, target: ThreadKeys, *, ttl: int, until: Moment | None = None
) -> Flow[None]:
    """Copies a thread, whole or up to an event, to a thread that does not exist.

    It copies all of it or nothing. Events that are appended to the source meanwhile are not copied. With a signer, the source is
    verified, and the event that ends the copy lists the copied seals.
    Memory: a page of 50 entries or 4 MiB. Round trips: three per page, and a few more; with a
    signer those of `verify_thread`, too.

    Raises:
        ThreadNotFound: the source has no log.
        ThreadExists: the target has a log, and is left unchanged. This very copy, without later events, is no error.
        ThreadBusy: the source was pruned during each attempt.
        CorruptEntry: the source's log is damaged; nothing was copied.
        SignatureInvalid: it has entries that are not signed as they should; nothing was copied.
        HistoryGone: some of the history up to the event was pruned.
        InvalidArgument: the source has no such event, or no checkpoint up to it.

    """
    for _ in range(ATTEMPTS):
        if not (yield from check_log(source)):
            raise _not_found(source)
        staged = staged_keys(target, b"log", b"index", b"order")
        copied = CopiedSeals()
        index = yield from _stage(source, staged, until, None if source.signer is None else copied)
        if index is None:
            continue
        event = ThreadCopied(source.thread.decode(), index.sequence, index.digest.decode(), stamp())
        if source.signer is not None:
            yield from _check_signed(source, index.last)
            signed_for = yield from _signed_for(source, index.last)
            if not (yield from has_entry(source, index.last, index.digest)):
                continue  # it was removed before the signatures were checked
            event = replace(event, signed_for=signed_for, life=copied.life.hex(), seals=copied.differences())
        known = None if target.signer is None else Known.begun(index.last, index.digest)
        fields = target.signed(encode_event(event), known)
        runs = yield from runs_of(keyspace, source)
        arguments: list[Argument] = [
            target.thread,
            ttl,
            event.kind,
            content_digest(fields),
            len(fields),
            *fields,
            *first_runs(target.thread, runs),
        ]
        status, *stored = yield Call(STORE_COPY, [*target.all, *staged], arguments)
        if status == b"ended":
            yield from forget_runs(target.shared, target.thread)
            continue
        if status == b"stale":
            yield from rebuild_index(target)
        if status in (b"exists", b"stale"):
            raise ThreadExists(
                f"Thread {target.thread.decode()!r} exists, so thread {source.thread.decode()!r} was not copied over it. "
                "Delete it first, or copy to another id."
            )
        if status == b"ok":
            entry_id, digest = stored
            target.note(entry_id, digest, known)
        if status != b"moved":
            yield from announce_rest(target, event.kind, (index.last, index.digest), runs)
            return
    raise ThreadBusy(
        f"Thread {source.thread.decode()!r} was pruned again and again while it was being copied. Call again later."
    )


def _stage(
    source: ThreadKeys, staged: list[bytes], until: Moment | None, seals: CopiedSeals | None
) -> Flow[StagedIndex | None]:
    """Stages the source's log and index, and notes the seals if that is wanted.

    Returns None if the log was pruned, deleted or replaced meanwhile, or if the staged keys have expired.
    """
    index, chain = StagedIndex(keys=staged[1:]), WholeChain(source.thread.decode())
    after, end = b"", b""
    beyond = False
    while not beyond:
        entries, _, last = yield from read_entries(source, after, PAGE, PAGE_BYTES)
        end = end or last
        try:
            wanted = _folded(entries, chain, index, until, source.limits)
        except CorruptEntry:
            if not index.entries or (yield from has_entry(source, index.last, index.digest)):
                raise
            return None
        beyond = len(wanted) < len(entries)
        if not entries or 0 < chain.contradicted_at <= index.sequence:
            return None
        if seals is not None:
            _note_seals(source, wanted, seals)
        if wanted:
            yield from stage_entries(staged[0], wanted)
            if not (yield from index.flush()):
                return None
        after = entries[-1][0]
        if entry_order(after) >= entry_order(end):
            break
    if not (yield from index.settled()) or (until is None and index.missing() is not None and last != end):
        return None
    if until is not None:
        yield from _check_beginning(source, index, until, beyond=beyond)
        return index
    if not index.checkpoints:
        raise _not_found(source)
    chain.finish()
    return index


def _folded(
    entries: list[Entry], chain: WholeChain, index: StagedIndex, until: Moment | None, limits: Limits
) -> list[Entry]:
    """Checks entries, folds those up to a moment, and returns these.

    Raises `CorruptEntry` or `OverLimit`.
    """
    for number, entry in enumerate(entries):
        recorded = chain.add(*entry)
        if until is not None and not until.covers(recorded):
            return entries[:number]
        limits.check_ids(ids_in(recorded.event), f"Thread {chain.thread!r}: ")
        index.add(recorded)
    return entries


def _note_seals(source: ThreadKeys, entries: list[Entry], seals: CopiedSeals) -> None:
    for entry_id, flat in entries:
        try:
            seals.add(flat[4:])
        except Malformed as error:
            raise SignatureInvalid(
                f"Thread {source.thread.decode()!r}: Entry {entry_id.decode()} {error}. {_NOT_COPIED}"
            ) from error


def _check_signed(source: ThreadKeys, last: bytes) -> Flow[None]:
    """Verifies a source up to its last copied entry, since the copy will be signed. Raises `SignatureInvalid`."""
    found = yield from verify_thread(source)
    end = entry_order(last)
    for finding in found.of_log:
        if finding.kind != "truncated" and entry_order(finding.entry_id.encode()) <= end:
            raise SignatureInvalid(f"Thread {source.thread.decode()!r}: {finding.message}. {_NOT_COPIED}")


def _signed_for(source: ThreadKeys, entry_id: bytes) -> Flow[str | None]:
    """The thread that an entry was signed for, None if its log is that thread's."""
    found = source_at((yield from sources_of(source)), entry_id)
    return None if found is None else found.name.decode()


def _is_met(until: Moment, index: Fold) -> bool:
    """Whether a log that ends here ends with the named event, if one is named."""
    if until.sequence is not None:
        return index.sequence == until.sequence
    return until.entry_id in (None, index.last)


def _check_beginning(source: ThreadKeys, index: StagedIndex, until: Moment, *, beyond: bool) -> Flow[None]:
    """Checks that the beginning of a log is whole, as it was at that moment.

    `beyond`: whether the log has events after the moment.
    """
    thread = source.thread.decode()
    if index.missing() is not None or (not _is_met(until, index) and beyond):
        yield from scan(source)  # raises if entries are missing that no removal accounts for
        if until.entry_id is None or index.missing() is not None:
            raise HistoryGone(
                f"Thread {thread!r} was pruned since {until.words}: its history up to there is no longer whole, and was not "
                "copied. Copy up to a later event, or import an export from before it was pruned."
            )
    if not _is_met(until, index):
        raise InvalidArgument(
            f"Thread {thread!r} has no {until.words}: it is not in its log, or was pruned. Name an event that its log "
            "has, or a time."
        )
    if not index.checkpoints:
        raise InvalidArgument(f"Thread {thread!r} has no checkpoint up to {until.words}. Name a later event.")


def _not_found(source: ThreadKeys) -> ThreadNotFound:
    return ThreadNotFound(
        f"Thread {source.thread.decode()!r} has no checkpoints to copy. Check the id, and the prefix."
    )

"""Exports threads to a file; `projections.transfer.format` describes its form.

Logs are read as they stand, without their views, and checked by their chain of digests. Nothing is written to the server, so a user
who may only read can export.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from eventlog.errors import CorruptEntry, LogLost, NewerSchema, OverLimit, SignatureInvalid, ThreadBusy, ThreadNotFound
from eventlog.flow import Emit, Flow, blocking
from eventlog.keys import Keyspace, ThreadKeys
from eventlog.limits import SHOWN
from projections.integrity.chain import WholeChain
from projections.integrity.log_end import LogEnd, log_end
from projections.integrity.verify import verify_thread
from projections.log.pages import digest_at, entry_order, read_entries
from projections.registry.read import known_runs, known_threads
from projections.transfer.files import ExportFile, Name, PartFile, WrittenThread
from projections.transfer.format import Entry, Header, ThreadHead
from projections.transfer.progress import Progress

__all__ = ["Exported", "LeftOut", "export_file", "export_thread", "export_to"]

PAGE = 200
PAGE_BYTES = 4 * 1024 * 1024
ATTEMPTS = 20
_NOT_EXPORTED = (
    "It was not exported. If it was never signed, export it without a key. Otherwise verify it, and restore its log from an "
    "export or a backup. An export with damaged=True (--damaged) keeps the evidence."
)


class LeftOut(NamedTuple):
    """A thread that an export of all threads leaves out."""

    thread: str
    why: str


class Exported(NamedTuple):
    """The contents of an export."""

    threads: int
    entries: int
    left_out: tuple[LeftOut, ...] = ()
    """In an export of all threads: those whose logs are damaged or gone, and those whose ids are above the limit."""


def export_thread(keys: ThreadKeys, file: PartFile, *, damaged: bool = False) -> Flow[int]:
    """Writes a thread's log to a file as it stands now, and returns the number of its entries.

    Emits the work on the file, and `Progress`. The thread ends after all of the log was checked. Events that are appended meanwhile
    are left out. If the log is pruned or replaced meanwhile, the thread is undone, and starts over. With `damaged`, the log is not
    checked.
    Memory: 200 entries or 4 MiB. Round trips: one per such page, and two more; with a signer those of `verify_thread`, too.

    Raises:
        ThreadNotFound: the thread has no log, or no checkpoints.
        ThreadBusy: the log was pruned during each attempt.
        CorruptEntry, LogLost: the log is damaged, or gone.
        SignatureInvalid: the thread has a signer, and is not signed as it should be.

    """
    thread = keys.thread.decode()
    for _ in range(ATTEMPTS):
        end = yield from log_end(keys, damaged=damaged)
        if end is None:
            raise _not_found(keys)
        if keys.signer is not None and not damaged and not (yield from _is_signed(keys, end)):
            continue
        runs = yield from known_runs(keys)
        digest = end.digest.decode(errors="replace")
        head = ThreadHead(thread, end.sequence, digest, end.entries, tuple(run.decode() for run in runs))
        chain = None if damaged else WholeChain(thread)
        yield from blocking(file.begin, head)
        try:
            written = yield from _write_entries(keys, file, end, chain)
            whole = chain is None or _is_whole(chain, end)
        except CorruptEntry:
            if (yield from _still_has(keys, end)):
                raise
            whole = False
        if whole:
            if chain is not None and not chain.checkpoints:
                raise _not_found(keys)
            yield from blocking(file.end)
            return written
        yield from blocking(file.undo)
    raise ThreadBusy(f"Thread {thread!r} was pruned again and again while it was being exported. Call again later.")


def _is_signed(keys: ThreadKeys, end: LogEnd) -> Flow[bool]:
    """Whether a log still has this end; then it was verified. Raises `SignatureInvalid`."""
    found = yield from verify_thread(keys, expected={end.sequence: end.digest.decode(errors="replace")})
    if found.of_log and (yield from _still_has(keys, end)):
        raise SignatureInvalid(f"Thread {keys.thread.decode()!r}: {found.of_log[0].message}. {_NOT_EXPORTED}")
    return not found.of_log


def _not_found(keys: ThreadKeys) -> ThreadNotFound:
    thread = keys.thread.decode()
    return ThreadNotFound(f"Thread {thread!r} has no checkpoints to export. Check the id, and the prefix.")


def _write_entries(keys: ThreadKeys, file: PartFile, end: LogEnd, chain: WholeChain | None) -> Flow[int]:
    """Writes the entries up to an end, adds them to a chain, and returns their number."""
    thread, after, written = keys.thread.decode(), b"", 0
    yield Emit(Progress(thread, 0, end.entries))
    while after != end.entry_id and (page := (yield from _page(keys, after, end))):
        if chain is not None:
            for entry in page:
                chain.add(*entry)
            if chain.entries > end.entries:
                break
        yield from file.entries(page)
        after, written = page[-1].entry_id, written + len(page)
        yield Emit(Progress(thread, written, end.entries))
    return written


def _is_whole(chain: WholeChain, end: LogEnd) -> bool:
    """Whether a chain has all entries up to an end; if not, some of them were removed meanwhile."""
    if (chain.last, chain.entries, chain.digest) != (end.entry_id, end.entries, end.digest):
        return False
    chain.finish()
    return True


def _page(keys: ThreadKeys, after: bytes, end: LogEnd) -> Flow[list[Entry]]:
    """A page of the entries after an entry, up to an end."""
    entries, *_ = yield from read_entries(keys, after, PAGE, PAGE_BYTES)
    return [Entry(*entry) for entry in entries if entry_order(entry[0]) <= entry_order(end.entry_id)]


def _still_has(keys: ThreadKeys, end: LogEnd) -> Flow[bool]:
    """Whether a log still has its former last entry, and all entries before that."""
    digest = yield from digest_at(keys, end.entry_id)
    if (digest or b"") != end.digest:  # an entry of another program has no digest
        return False
    now = yield from log_end(keys)
    return now is not None and now.entries >= end.entries


def _threads_to_export(
    keyspace: Keyspace, threads: Sequence[str] | None, left_out: list[LeftOut], *, damaged: bool
) -> Flow[list[ThreadKeys]]:
    """The keys of some threads, each once, or of all threads, by id. The list `left_out` receives those with too long ids.

    Raises `ThreadNotFound` for a thread without a log.
    """
    if threads is None:
        found = []
        for thread in sorted((yield from known_threads(keyspace, too_long=True))):
            try:
                found.append(keyspace.thread(thread))
            except OverLimit as error:
                left_out.append(LeftOut(f"{thread.decode()[:SHOWN]}...", str(error)))
        for keys in {keys.shared: keys for keys in found}.values():
            yield from known_runs(keys)  # raises for a damaged feed, which would make each log look damaged
        return found
    found = [keyspace.thread(thread.encode()) for thread in dict.fromkeys(threads)]
    for keys in found:
        if (yield from log_end(keys, damaged=damaged)) is None:
            raise _not_found(keys)
    return found


def export_file(
    keyspace: Keyspace,
    threads: Sequence[str] | None,
    path: Name,
    *,
    overwrite: bool,
    damaged: bool = False,
    resume: bool = True,
) -> Flow[Exported]:
    """Writes threads, or all threads, to a file that can be imported, as `export_to` describes."""
    header = Header(int(time.time() * 1000), keyspace.prefix, package_version())
    file = ExportFile(path, header, overwrite=overwrite, resume=resume and not damaged)
    return (yield from export_to(file, keyspace, threads, damaged=damaged))


def export_to(file: PartFile, keyspace: Keyspace, threads: Sequence[str] | None, *, damaged: bool) -> Flow[Exported]:
    """Writes threads, or all threads, to a file.

    Emits the work on the file, and `Progress`.
    The file has another name until it is whole and on the disk. The part of an earlier export of the same prefix may be continued
    after those of its threads whose logs are still the same. An export of all threads leaves out threads that are deleted before
    their turn. It leaves out threads whose logs are damaged or gone, or whose ids are too long, and `Exported` names these. With
    `damaged`, logs are written unchecked.

    Raises `FileTaken`, and as `export_thread`.
    """
    try:
        yield from blocking(file.check)
        left_out: list[LeftOut] = []
        found = yield from _threads_to_export(keyspace, threads, left_out, damaged=damaged)
        written = yield from blocking(file.open_written)
        kept = yield from _unchanged(found, written)
        if keyspace.signer is not None and not damaged:
            kept = yield from _signed(keyspace, kept)
        yield from blocking(file.resume, kept)
        done = {one.head.thread: one.head.entries for one in kept}
        for thread, entries in done.items():
            yield Emit(Progress(thread, entries, entries))
        for keys in found:
            thread = keys.thread.decode()
            if thread in done:
                continue
            try:
                done[thread] = yield from export_thread(keys, file, damaged=damaged)
            except (ThreadNotFound, CorruptEntry, LogLost, SignatureInvalid) as error:
                if threads is not None or isinstance(error, NewerSchema):
                    raise
                yield from blocking(file.undo)
                if not isinstance(error, ThreadNotFound):
                    left_out.append(LeftOut(thread, str(error)))
        yield from blocking(file.finish)
    finally:
        file.close()
    return Exported(len(done), sum(done.values()), tuple(left_out))


def _unchanged(threads: Iterable[ThreadKeys], written: Sequence[WrittenThread]) -> Flow[Sequence[WrittenThread]]:
    """The written threads before the first that has to be written again.

    That is a thread that is not wanted, or one that is not as it is on the server. Its entries are a chain, so they are those of
    the server if both end with the same digest. Two round trips each.
    """
    wanted = {keys.thread.decode(): keys for keys in threads}
    for number, (head, last, _) in enumerate(written):
        keys = wanted.get(head.thread)
        if keys is None or not (yield from _has_log(keys, head, last)):
            return written[:number]
    return written


def _has_log(keys: ThreadKeys, head: ThreadHead, last: bytes) -> Flow[bool]:
    """Whether a thread's log ends as a file says, and has the same number of entries and the same runs."""
    try:
        end = yield from log_end(keys)
    except (CorruptEntry, LogLost):
        return False
    if end is None or (end.entry_id, end.entries, end.digest) != (last, head.entries, head.digest.encode()):
        return False
    runs = yield from known_runs(keys)
    return tuple(run.decode() for run in runs) == head.runs


def _signed(keyspace: Keyspace, written: Sequence[WrittenThread]) -> Flow[Sequence[WrittenThread]]:
    """The written threads before the first that has to be written again, since it is not signed as it should be."""
    for number, (head, *_) in enumerate(written):
        found = yield from verify_thread(keyspace.thread(head.thread.encode()), expected={head.sequence: head.digest})
        if found.of_log:
            return written[:number]
    return written


def package_version() -> str:
    """The version of this package, "" if it is not installed."""
    try:
        return version("langgraph-checkpoint-redis-streams")
    except PackageNotFoundError:
        return ""

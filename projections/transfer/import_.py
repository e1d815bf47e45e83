"""Imports threads from an export: the same ids, numbers and digests.

A file is read twice. The first time it is read whole, without a server: its checksums, and the chain of each thread's entries.
The second time it is read thread by thread: a thread is staged under keys that expire, checked once more, and put in place whole by
one script. So a damaged file changes nothing, and an import that was cut short can be repeated: it skips threads that are there.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from typing import NamedTuple, Union

from eventlog.errors import (
    ExportUnreadable,
    LogLost,
    NewerSchema,
    ServerError,
    SignatureInvalid,
    ThreadBusy,
    ThreadExists,
    ThreadNotFound,
)
from eventlog.events import Recorded, ids_in
from eventlog.flow import Argument, Call, Command, Emit, Flow, blocking, load_script
from eventlog.keys import Keyspace, ThreadKeys
from eventlog.limits import Limits
from eventlog.signing import Signer
from projections.integrity.chain import WholeChain
from projections.integrity.log_end import log_end
from projections.integrity.verify import Verification
from projections.log.ended import forget_runs
from projections.log.index import rebuild_index
from projections.log.pages import has_entry, read_entries
from projections.log.signatures import ends_copy, sources_in
from projections.log.staging import StagedIndex, stage_entries, staged_keys
from projections.transfer.export import PAGE_BYTES
from projections.transfer.files import Name, read_file
from projections.transfer.format import Entry, ThreadEnd, ThreadHead
from projections.transfer.progress import Progress
from projections.transfer.runs import announce_rest, first_runs

__all__ = ["Imported", "check_file", "first_difference", "import_file"]

IMPORT = load_script("projections/transfer/import_log")
PAGE = 50
ATTEMPTS = 8
_NOT_IMPORTED = (
    "Nothing was imported. Import the other threads by name, or take an older export. Without a key the file can be imported, and "
    "readers with a key refuse this thread."
)


class Imported(NamedTuple):
    """The result of an import."""

    threads: int
    """Threads that were put in place."""
    entries: int
    present: int
    """Threads that were skipped, since they were there already."""


class Read(NamedTuple):
    """Entries that follow each other, and the events in them."""

    entries: list[Entry]
    events: list[Recorded]


class Whole(NamedTuple):
    """A thread that was read, and whose log is whole."""

    head: ThreadHead
    last: bytes
    """Entry id of the last entry of its log."""


def read_threads(path: Name, limits: Limits) -> Generator[Union[ThreadHead, Read, Whole]]:
    """Reads the threads of an export.

    Each is a head, pages of 50 entries or 4 MiB, and a `Whole`, which comes only if all entries are right.
    Raises `ExportUnreadable`, also for a log that is damaged and for a file that has a thread twice, and `OverLimit`.
    """
    head: ThreadHead | None = None
    seen: set[str] = set()
    chain = WholeChain("")
    page, size = Read([], []), 0
    for item in read_file(path, limits):
        if isinstance(item, ThreadHead):
            if item.thread in seen:
                raise ExportUnreadable(
                    f"File {str(path)!r} has thread {item.thread!r} twice, as no export does. Export again."
                )
            seen.add(item.thread)
            head, chain = item, WholeChain(item.thread)
            yield item
        elif isinstance(item, Entry):
            try:
                recorded = chain.add(*item)
                limits.check_ids(ids_in(recorded.event), f"File {str(path)!r}, thread {chain.thread!r}: ")
                page.events.append(recorded)
            except ServerError as error:
                raise _damaged(path, error) from error
            page.entries.append(item)
            size += sum(map(len, item.fields))
            if len(page.entries) == PAGE or size > PAGE_BYTES:
                yield page
                page, size = Read([], []), 0
        elif isinstance(item, ThreadEnd):
            assert head is not None
            if page.entries:
                yield page
                page, size = Read([], []), 0
            _check_whole(path, head, chain)
            yield Whole(head, chain.last)


def _check_whole(path: Name, head: ThreadHead, chain: WholeChain) -> None:
    try:
        chain.finish()
    except ServerError as error:
        raise _damaged(path, error) from error
    if (chain.sequence, chain.digest) != (head.sequence, head.digest.encode()):
        raise ExportUnreadable(
            f"File {str(path)!r}: the log of thread {head.thread!r} does not end as the file says. Export the thread again."
        )
    if not chain.checkpoints:
        raise ExportUnreadable(
            f"File {str(path)!r}: thread {head.thread!r} has no checkpoints. Export the thread again."
        )


def _damaged(path: Name, error: ServerError) -> ExportUnreadable:
    problem = str(error).rpartition(". ")[0]  # without the remedy for a log on a server
    if isinstance(error, NewerSchema):
        return ExportUnreadable(f"File {str(path)!r}: {problem}. Upgrade this package.", "newer")
    return ExportUnreadable(
        f"File {str(path)!r}: {problem}. The file is whole, so the log was damaged, or made up, before it was exported. Import the "
        "other threads by name, or take an older export."
    )


def import_file(keyspace: Keyspace, path: Name, wanted: dict[str, Whole], *, ttl: int) -> Flow[Imported]:
    """Puts threads of an export in place.

    Emits the work on the file, and `Progress`.

    Args:
        keyspace: the keys of the prefix.
        path: the file.
        wanted: the threads, as `check_file` returns them. A thread that is there as in the file, or has gone on since, is skipped.
        ttl: ms that the threads live, 0 for no limit.

    Memory: a page, and the name and digest of each thread. Round trips: two per page, one per thread, and a few more.

    Raises:
        ThreadExists: a thread has another log than in the file, and is left unchanged. No thread was put in place, unless that log
            was written meanwhile.
        ThreadBusy: a thread was not put in place within ten minutes, so its staged keys expired.
        ExportUnreadable: the file was changed since it was checked; the thread concerned was not put in place.

    """
    present = yield from _present(keyspace, path, wanted)
    count = entries = 0
    with closing(read_threads(path, keyspace.limits)) as items:
        while (item := (yield from blocking(next, items, None))) is not None:
            if isinstance(item, ThreadHead):
                is_wanted = item.thread in wanted and item.thread not in present
                keys, done, of = keyspace.thread(item.thread.encode()), 0, item.entries
                staged = staged_keys(keys, b"log", b"index", b"order")
                index = StagedIndex(keys=staged[1:])
            elif not is_wanted:
                continue
            elif isinstance(item, Read):
                yield from stage_entries(staged[0], item.entries)
                for recorded in item.events:
                    index.add(recorded)
                if not ((yield from index.flush()) and (yield from index.settled())):
                    raise _too_slow(keys)
                done += len(item.entries)
                yield Emit(Progress(keys.thread.decode(), done, of))
            elif item != wanted[item.head.thread]:
                raise ExportUnreadable(
                    f"File {str(path)!r}: thread {item.head.thread!r} was changed after the file was checked. It was not put in "
                    "place. Import from a file that nobody else can write to."
                )
            elif (yield from _put_in_place(path, keys, (staged[0], index), item.head, ttl)):
                count, entries = count + 1, entries + done
            else:
                present.add(item.head.thread)
    return Imported(count, entries, len(present))


def first_difference(
    keyspace: Keyspace, path: Name, threads: Collection[str], limits: Limits | None = None
) -> Flow[tuple[str, bytes] | None]:
    """Compares the logs of threads with a file, entry by entry.

    Returns the first thread whose log lacks an entry, or has another one, with the entry id before it. One round trip per page.
    """
    with closing(read_threads(path, limits or keyspace.limits)) as items:
        while (item := (yield from blocking(next, items, None))) is not None:
            if isinstance(item, ThreadHead):
                thread, after = item.thread, b""
            elif isinstance(item, Read) and thread in threads:
                keys = keyspace.thread(thread.encode())
                found, *_ = yield from read_entries(keys, after, len(item.entries), 2 * PAGE_BYTES)
                if [Entry(*entry) for entry in found] != item.entries:
                    return thread, after
                after = item.entries[-1].entry_id
    return None


def check_file(
    path: Name, threads: Sequence[str] | None, limits: Limits, signer: Signer | None = None
) -> Flow[dict[str, Whole]]:
    """Checks a whole export, and returns its threads, or some, in their order.

    With a signer, it reads the file once more and verifies the signatures of these threads. Then the memory grows with the number
    of events of the longest thread.
    Emits the work on the file. No round trips. Raises `ExportUnreadable`, `OverLimit`, `SignatureInvalid`, and `ThreadNotFound` for
    a thread that the file lacks.
    """
    found: dict[str, Whole] = {}
    copies: dict[str, list[Entry]] = {}
    with closing(read_threads(path, limits)) as items:
        while (item := (yield from blocking(next, items, None))) is not None:
            if isinstance(item, ThreadHead):
                ends = copies[item.thread] = []
            elif isinstance(item, Read):
                ends += [entry for entry in item.entries if ends_copy(entry.fields)]
            elif threads is None or item.head.thread in threads:
                found[item.head.thread] = item
    if missing := [thread for thread in threads or () if thread not in found]:
        raise ThreadNotFound(f"File {str(path)!r} has no thread {missing[0]!r}. Check the id.")
    if signer is not None:
        yield from _check_signed(path, {thread: copies[thread] for thread in found}, limits, signer)
    return found


def _check_signed(path: Name, copies: dict[str, list[Entry]], limits: Limits, signer: Signer) -> Flow[None]:
    """Verifies the signatures of threads in a file, given their entries that end copies. Raises `SignatureInvalid`."""
    verification: Verification | None = None
    digests: dict[bytes, bytes] = {}
    with closing(read_threads(path, limits)) as items:
        while (item := (yield from blocking(next, items, None))) is not None:
            if isinstance(item, ThreadHead):
                thread, verification = item.thread, None
                if thread in copies:
                    verification = Verification(thread, signer, sources_in(thread.encode(), signer, copies[thread]))
                    digests = {}
            elif verification is None:
                continue
            elif isinstance(item, Read):
                for entry_id, fields in item.entries:
                    verification.add(entry_id, fields)
                    digests[entry_id] = fields[3]
            else:
                verification.finish_alone(digests)
            if verification is not None and (found := verification.findings):
                raise SignatureInvalid(f"File {str(path)!r}, thread {thread!r}: {found[0].message}. {_NOT_IMPORTED}")


def _present(keyspace: Keyspace, path: Name, wanted: dict[str, Whole]) -> Flow[set[str]]:
    """The threads that are there already. Notes those of their runs that an import which was cut short left out.

    Raises `ThreadExists` for a thread with another log.
    """
    present = set()
    for thread, whole in wanted.items():
        if (yield from _is_there(path, keyspace.thread(thread.encode()), whole)):
            present.add(thread)
    if present and (found := (yield from first_difference(keyspace, path, present))):
        raise _exists(path, found[0])
    for thread in sorted(present):
        head = wanted[thread].head
        last, runs = (wanted[thread].last, head.digest.encode()), [run.encode() for run in head.runs]
        yield from announce_rest(keyspace.thread(thread.encode()), b"imported", last, runs)
    return present


def _is_there(path: Name, keys: ThreadKeys, whole: Whole) -> Flow[bool]:
    """Whether a thread has the log in the file, or a continuation of it.

    False for a lost log, which an import restores. Raises `ThreadExists` if the thread has another log.
    """
    try:
        end = yield from log_end(keys)
    except LogLost:
        return False
    if end is not None and not (yield from has_entry(keys, whole.last, whole.head.digest.encode())):
        raise _exists(path, keys.thread.decode())
    return end is not None


def _put_in_place(
    path: Name, keys: ThreadKeys, staged: tuple[bytes, StagedIndex], head: ThreadHead, ttl: int
) -> Flow[bool]:
    """Puts a staged log in place; False if the thread has this log already."""
    log, index = staged
    runs = [run.encode() for run in head.runs]
    arguments: list[Argument] = [keys.thread, ttl, index.digest, index.last, *first_runs(keys.thread, runs)]
    for _ in range(ATTEMPTS):
        (status,) = yield Call(IMPORT, [*keys.all, log, *index.keys], arguments)
        if status == b"stale":
            yield from rebuild_index(keys)
        elif status == b"ended":
            yield from forget_runs(keys.shared, keys.thread)
        elif status == b"exists":  # put in place and continued by others since this import looked
            whole = Whole(head, index.last)
            thread = head.thread
            is_there = yield from _is_there(path, keys, whole)
            if not is_there or (yield from first_difference(keys.keyspace, path, [thread])):
                raise _exists(path, thread)
            yield from announce_rest(keys, b"imported", (index.last, index.digest), runs)
            return False
        elif status == b"moved":
            raise _too_slow(keys)
        else:
            keys.forget()
            if status == b"same":
                yield Command("UNLINK", log, list(index.keys))
            yield from announce_rest(keys, b"imported", (index.last, index.digest), runs)
            return bool(status == b"ok")
    raise ThreadBusy(f"The index of thread {head.thread!r} was changed again and again. Import again.")


def _too_slow(keys: ThreadKeys) -> ThreadBusy:
    return ThreadBusy(f"Thread {keys.thread.decode()!r} was not put in place within ten minutes. Import again.")


def _exists(path: Name, thread: str) -> ThreadExists:
    return ThreadExists(
        f"Thread {thread!r} exists with another log than in file {str(path)!r}: behind it, damaged, pruned since, or another "
        "thread. Nothing was imported over it. To restore it from the file, export the present log (with damaged=True, --damaged), "
        "delete the thread (agentlog delete, delete_thread), and import again. Or import the other threads by name."
    )

"""Importing threads: what an export has is put back exactly, with the same ids, numbers and digests.

A file is read twice. First whole, without a server: its checksums, and of every thread that its entries are this project's and
chained to each other. Then thread by thread: what it has is laid ready under keys that drop themselves, checked once more, and put
in place whole by one script. So a file that is not whole changes nothing, and an import that was cut short is made again: threads
that are there already are passed over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Union

from eventlog.errors import (
    ExportUnreadable,
    LogLost,
    NewerSchema,
    ServerError,
    ThreadBusy,
    ThreadExists,
    ThreadNotFound,
)
from eventlog.events import Recorded
from eventlog.flow import Argument, Call, Emit, Flow, load_script
from eventlog.keys import Keyspace, ThreadKeys
from projections.integrity.chain import WholeChain
from projections.integrity.log_end import log_end
from projections.log.index import rebuild_index
from projections.log.pages import has_entry, read_entries
from projections.log.staging import StagedIndex, stage_entries, staged_keys
from projections.transfer.blocking import Progress, on_file
from projections.transfer.export import PAGE_BYTES
from projections.transfer.files import Name, read_file
from projections.transfer.format import Entry, ThreadEnd, ThreadHead

__all__ = ["Imported", "Read", "check_file", "follows", "import_file", "read_threads"]

IMPORT = load_script("projections/transfer/import_log")
PAGE = 50
ATTEMPTS = 8


class Imported(NamedTuple):
    """What an import put in place."""

    threads: int
    entries: int
    present: int
    """Threads passed over, since they were there already."""


class Read(NamedTuple):
    """Some entries that follow each other, and what happened in them."""

    entries: list[Entry]
    events: list[Recorded]


class Whole(NamedTuple):
    """A thread that has been read, and whose log is whole."""

    head: ThreadHead
    last: bytes
    """The last entry of its log."""


def read_threads(path: Name) -> Iterator[Union[ThreadHead, Read, Whole]]:
    """The threads of an export, checked: of each its head, pages of 50 entries or 4 MiB, and a last item once all of it is known to
    be a whole log. Raises `ExportUnreadable`, for a log that is damaged too.
    """
    head: ThreadHead | None = None
    chain = WholeChain("")
    page = Read([], [])
    size = 0
    for item in read_file(path):
        if isinstance(item, ThreadHead):
            head, chain = item, WholeChain(item.thread)
            yield item
        elif isinstance(item, Entry):
            try:
                page.events.append(chain.add(*item))
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
    told = str(error).rpartition(". ")[0]  # the remedy is another here
    if isinstance(error, NewerSchema):
        return ExportUnreadable(f"File {str(path)!r}: {told}. Upgrade this package.", "newer")
    return ExportUnreadable(
        f"File {str(path)!r}: {told}. The file is whole, so the log was damaged, or made up, before it was exported; import the "
        "other threads by name, or take an older export."
    )


def import_file(keyspace: Keyspace, path: Name, wanted: dict[str, Whole], *, ttl: int) -> Flow[None]:
    """Puts threads of an export in place; emits the work on the file, `Progress`, and `Imported` at the end.

    `wanted`: which, as `check_file` gives them. One that is there as in the file, or has gone on from there, is passed over.
    `ttl`: ms that they live, 0 for ever.
    Memory: a page, and the name and digest of each thread. Round trips: two per page, one per thread, and a few more.

    Raises:
        ThreadExists: a thread has another log than in the file, and is left as it is. Nothing was put in place, unless that log
            came to be meanwhile.
        ThreadBusy: what was laid ready dropped itself, for want of being put in place within ten minutes.
        ExportUnreadable: the file was changed since it was checked; the thread concerned was not put in place.

    """
    present = set()
    for thread, whole in wanted.items():
        if (yield from _is_there(path, keyspace.thread(thread.encode()), whole)):
            present.add(thread)
    if present:
        yield from _compare(keyspace, path, present)
    count = entries = 0
    items = read_threads(path)
    try:
        while (item := (yield from on_file(lambda: next(items, None)))) is not None:
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
            elif (yield from _put_in_place(path, keys, (staged[0], index), item.head, ttl)):
                count, entries = count + 1, entries + done
            else:
                present.add(item.head.thread)
    finally:
        items.close()  # type: ignore[attr-defined] # a generator
    yield Emit(Imported(count, entries, len(present)))


def _compare(keyspace: Keyspace, path: Name, threads: Collection[str]) -> Flow[None]:
    """Holds the logs of threads against those in a file. A round trip per page. Raises `ThreadExists` where one lacks an entry, or
    has it otherwise.
    """
    items = read_threads(path)
    try:
        while (item := (yield from on_file(lambda: next(items, None)))) is not None:
            if isinstance(item, ThreadHead):
                keys, after = keyspace.thread(item.thread.encode()), b""
            elif isinstance(item, Read) and keys.thread.decode() in threads:
                if not (yield from follows(keys, after, item)):
                    raise _exists(path, keys.thread.decode())
                after = item.entries[-1].entry_id
    finally:
        items.close()  # type: ignore[attr-defined] # a generator


def follows(keys: ThreadKeys, after: bytes, page: Read) -> Flow[bool]:
    """Whether a log has just these entries behind one. One round trip."""
    found, *_ = yield from read_entries(keys, after, len(page.entries), 2 * PAGE_BYTES)
    return [Entry(*one) for one in found] == page.entries


def check_file(path: Name, threads: Sequence[str] | None) -> Flow[dict[str, Whole]]:
    """Some threads of an export, or all, in the order of the file, once the whole file is known to be right. No round trips; emits
    the work on the file.

    Raises `ExportUnreadable`, and `ThreadNotFound` if the file lacks a thread that is named.
    """
    found: dict[str, Whole] = {}
    items = read_threads(path)
    try:
        while (item := (yield from on_file(lambda: next(items, None)))) is not None:
            if isinstance(item, Whole) and (threads is None or item.head.thread in threads):
                found[item.head.thread] = item
    finally:
        items.close()  # type: ignore[attr-defined] # a generator
    if missing := [thread for thread in threads or () if thread not in found]:
        raise ThreadNotFound(f"File {str(path)!r} has no thread {missing[0]!r}. Check the id.")
    return found


def _is_there(path: Name, keys: ThreadKeys, whole: Whole) -> Flow[bool]:
    """Whether a thread has the log that is in the file, or one that goes on from there; not where its log was lost, which an import
    restores. Raises `ThreadExists` if it has another.
    """
    try:
        end = yield from log_end(keys)
    except LogLost:
        return False
    if end is None:
        return False
    if not (yield from has_entry(keys, whole.last, whole.head.digest.encode())):
        raise _exists(path, keys.thread.decode())
    return True


def _put_in_place(
    path: Name, keys: ThreadKeys, staged: tuple[bytes, StagedIndex], head: ThreadHead, ttl: int
) -> Flow[bool]:
    """Whether the log that was laid ready is the thread's now; False if that was there before."""
    log, index = staged
    arguments: list[Argument] = [keys.thread, ttl, index.digest, index.last, *(run.encode() for run in head.runs)]
    for _ in range(ATTEMPTS):
        (status,) = yield Call(IMPORT, [*keys.all, log, *index.keys], arguments)
        if status == b"stale":
            yield from rebuild_index(keys)
        elif status == b"exists":
            raise _exists(path, head.thread)
        elif status == b"moved":
            raise _too_slow(keys)
        else:
            keys.note(index.last, index.digest)
            return bool(status == b"ok")
    raise ThreadBusy(f"The index of thread {head.thread!r} was changed again and again. Import again.")


def _too_slow(keys: ThreadKeys) -> ThreadBusy:
    return ThreadBusy(f"Thread {keys.thread.decode()!r} was not put in place within ten minutes. Import again.")


def _exists(path: Name, thread: str) -> ThreadExists:
    return ThreadExists(
        f"Thread {thread!r} exists with another log than in file {str(path)!r}: damaged, pruned since, or another thread. Nothing "
        "was imported over it. To restore it from the file, keep what is there (an export with damaged=True, --damaged), delete "
        "the thread (agentlog delete, delete_thread), and import again; or import the other threads by name."
    )

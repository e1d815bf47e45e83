"""Exports threads to a file; `projections.transfer.format` describes its form.

Logs are read as they stand, without their views, and checked by their chain of digests. Nothing is written to the server, so a user
who may only read can export.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from typing import Any, NamedTuple, TypeVar, Union

from eventlog.errors import CorruptEntry, LogLost, NewerSchema, ThreadBusy, ThreadNotFound
from eventlog.flow import Emit, Flow
from eventlog.keys import Keyspace, ThreadKeys
from projections.integrity.chain import WholeChain
from projections.integrity.log_end import LogEnd, log_end
from projections.log.pages import digest_at, entry_order, read_entries
from projections.registry.read import known_runs, known_threads
from projections.transfer.blocking import Progress, on_file
from projections.transfer.files import ExportFile, WrittenThread
from projections.transfer.format import Entry, Header, ThreadEnd, ThreadHead

__all__ = [
    "Again",
    "Exported",
    "LeftOut",
    "Page",
    "consumed",
    "export_file",
    "export_thread",
    "threads_to_export",
]

PAGE = 200
PAGE_BYTES = 4 * 1024 * 1024
ATTEMPTS = 20

T = TypeVar("T")
Path = Union[str, "PathLike[str]"]


class Page(NamedTuple):
    """Entries of a log that follow each other."""

    entries: list[Entry]


class Again(NamedTuple):
    """The items of a thread so far do not count.

    Its log was pruned or replaced. The items come again, from the head on.
    """

    thread: str


class LeftOut(NamedTuple):
    """A thread that an export of all threads leaves out."""

    thread: str
    why: str


class Exported(NamedTuple):
    """The contents of an export."""

    threads: int
    entries: int
    left_out: tuple[LeftOut, ...] = ()
    """In an export of all threads: those whose logs are damaged or gone."""


def export_thread(keys: ThreadKeys, *, damaged: bool = False) -> Flow[None]:
    """Emits a thread's log as it stands now.

    A `ThreadHead` is followed by a `Page` for every 200 entries or 4 MiB, and by a `ThreadEnd` after all of the log was checked.
    Events that are appended meanwhile are left out. If the log is pruned or replaced meanwhile, `Again` is emitted, and the thread
    starts over. With `damaged`, the log is not checked.
    Memory: a page. Round trips: one per page, and two more.

    Raises:
        ThreadNotFound: the thread has no log, or no checkpoints.
        ThreadBusy: the log was pruned during each attempt.
        CorruptEntry, LogLost: the log is damaged, or gone.

    """
    thread = keys.thread.decode()
    for _ in range(ATTEMPTS):
        end = yield from log_end(keys, damaged=damaged)
        if end is None:
            raise _not_found(keys)
        runs = yield from known_runs(keys)
        digest = end.digest.decode(errors="replace")
        yield Emit(ThreadHead(thread, end.sequence, digest, end.entries, tuple(run.decode() for run in runs)))
        if damaged:
            yield Emit(ThreadEnd(thread, (yield from _unchecked(keys, end))))
            return
        try:
            chain = yield from _checked(keys, end)
        except CorruptEntry:
            if (yield from _still_has(keys, end)):
                raise
            chain = None
        if chain is not None:
            if not chain.checkpoints:
                raise _not_found(keys)
            yield Emit(ThreadEnd(thread, end.entries))
            return
        yield Emit(Again(thread))
    raise ThreadBusy(f"Thread {thread!r} was pruned again and again while it was being exported. Call again later.")


def _not_found(keys: ThreadKeys) -> ThreadNotFound:
    thread = keys.thread.decode()
    return ThreadNotFound(f"Thread {thread!r} has no checkpoints to export. Check the id, and the prefix.")


def _checked(keys: ThreadKeys, end: LogEnd) -> Flow[WholeChain | None]:
    """Emits the entries up to an end and returns their chain.

    Returns None if some of them were removed meanwhile.
    """
    chain = WholeChain(keys.thread.decode())
    while chain.last != end.entry_id:
        page = yield from _page(keys, chain.last if chain.entries else b"", end)
        if not page:
            return None
        for entry in page:
            chain.add(*entry)
        if chain.entries > end.entries:
            return None
        yield Emit(Page(page))
    if (chain.entries, chain.digest) != (end.entries, end.digest):
        return None
    chain.finish()
    return chain


def _unchecked(keys: ThreadKeys, end: LogEnd) -> Flow[int]:
    """Emits the entries up to an end without checking them, and returns their number."""
    after, count = b"", 0
    while after != end.entry_id and (page := (yield from _page(keys, after, end))):
        yield Emit(Page(page))
        after, count = page[-1].entry_id, count + len(page)
    return count


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


def consumed(flow: Generator[Any, Any, T], take: Callable[[Any], Flow[None]]) -> Flow[T]:
    """The result of a flow whose emitted items `take` consumes."""
    try:
        request = next(flow)
        while True:
            if isinstance(request, Emit):
                yield from take(request.item)
                request = flow.send(None)
                continue
            try:
                reply = yield request
            except Exception as error:  # noqa: BLE001 - the flow handles it
                request = flow.throw(error)
            else:
                request = flow.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def threads_to_export(keyspace: Keyspace, threads: Sequence[str] | None, *, damaged: bool) -> Flow[list[ThreadKeys]]:
    """The keys of some threads, each once, or of all threads, by id.

    Raises `ThreadNotFound` for a thread without a log.
    """
    if threads is None:
        found = [keyspace.thread(thread) for thread in sorted((yield from known_threads(keyspace)))]
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
    path: Path,
    *,
    overwrite: bool,
    damaged: bool = False,
    resume: bool = True,
) -> Flow[None]:
    """Writes threads, or all threads, to a file.

    Emits the work on the file, `Progress`, and `Exported` at the end.
    The file is written as `path` with ".part" after it, and renamed when it is whole and on the disk. With `resume`, the part of an
    earlier export of the same prefix is continued after those of its threads whose logs have not moved on. An export of all threads
    leaves out threads that are deleted before their turn, and threads whose logs are damaged or gone, which `Exported` names. With
    `damaged`, logs are written unchecked.

    Raises `FileTaken`, and as `export_thread`.
    """
    header = Header(int(time.time() * 1000), keyspace.prefix, package_version())
    file = ExportFile(path, header, overwrite=overwrite, unchecked=damaged)
    try:
        yield from on_file(file.check)
        found = yield from threads_to_export(keyspace, threads, damaged=damaged)
        written = yield from on_file(file.open_written)
        kept = (yield from _unchanged(found, written, damaged=damaged)) if resume else []
        yield from on_file(lambda: file.resume(kept))
        done = {one.head.thread: one.head.entries for one in kept}
        left_out = []
        for thread, entries in done.items():
            yield Emit(Progress(thread, entries, entries))
        for keys in found:
            thread = keys.thread.decode()
            if thread in done:
                continue
            try:
                done[thread] = yield from _write_thread(file, keys, damaged=damaged)
            except (ThreadNotFound, CorruptEntry, LogLost) as error:
                if threads is not None or isinstance(error, NewerSchema):
                    raise
                yield from on_file(file.undo)
                if not isinstance(error, ThreadNotFound):
                    left_out.append(LeftOut(thread, str(error)))
        yield from on_file(file.finish)
    finally:
        file.close()
    yield Emit(Exported(len(done), sum(done.values()), tuple(left_out)))


def _unchanged(
    threads: Iterable[ThreadKeys], written: Sequence[WrittenThread], *, damaged: bool
) -> Flow[Sequence[WrittenThread]]:
    """The written threads before the first that has to be written again.

    That is a thread that is not wanted, or whose log has moved on. One round trip each.
    """
    wanted = {keys.thread.decode(): keys for keys in threads}
    for number, (head, _) in enumerate(written):
        try:
            end = (yield from log_end(wanted[head.thread], damaged=damaged)) if head.thread in wanted else None
        except (CorruptEntry, LogLost):
            end = None
        if end is None or end.digest != head.digest.encode():
            return written[:number]
    return written


def _write_thread(file: ExportFile, keys: ThreadKeys, *, damaged: bool) -> Flow[int]:
    """Writes a thread, and returns the number of its entries."""
    written = of = 0

    def take(item: Any) -> Flow[None]:
        nonlocal written, of
        if isinstance(item, ThreadHead):
            written, of = 0, item.entries
            yield from on_file(lambda: file.begin(item))
        elif isinstance(item, Page):
            yield from on_file(lambda: file.entries(item.entries))
            written += len(item.entries)
        elif isinstance(item, Again):
            yield from on_file(file.undo)
        else:
            yield from on_file(file.end)
        yield Emit(Progress(keys.thread.decode(), written, of))

    yield from consumed(export_thread(keys, damaged=damaged), take)
    return written


def package_version() -> str:
    """The version of this package, "" if it is not installed."""
    try:
        return version("langgraph-checkpoint-redis-streams")
    except PackageNotFoundError:
        return ""

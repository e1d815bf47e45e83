"""Exporting threads: their logs as they stand, checked on the way, into a file of the form that `projections.transfer.format`
tells.

Reads only: an index that is not that of its log is neither needed nor mended, so whoever may read can export. What a file is to
have is written beside it first, and put in its place whole; an export that was cut short goes on behind the threads it has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from typing import Any, NamedTuple, TypeVar, Union

from eventlog.codec import paired
from eventlog.errors import CorruptEntry, LogLost, NewerSchema, ThreadBusy, ThreadNotFound
from eventlog.feed.reading import flattened
from eventlog.flow import Command, Emit, Flow
from eventlog.keys import Keyspace, ThreadKeys
from projections.integrity.chain import WholeChain
from projections.integrity.log_end import LogEnd, log_end
from projections.log.pages import entry_order, read_entries
from projections.registry.read import known_runs, known_threads
from projections.transfer.blocking import Progress, on_file
from projections.transfer.files import ExportFile, Left
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

Path = Union[str, "PathLike[str]"]


class Page(NamedTuple):
    """Some entries that follow each other."""

    entries: list[Entry]


class Again(NamedTuple):
    """What was emitted of a thread does not count: its log was pruned, or replaced, meanwhile; it comes again from its head on."""

    thread: str


class LeftOut(NamedTuple):
    """A thread that an export of all has not."""

    thread: str
    why: str


class Exported(NamedTuple):
    """What an export wrote."""

    threads: int
    entries: int
    left_out: tuple[LeftOut, ...] = ()
    """Of an export of all: threads whose logs are damaged, or gone."""


def export_thread(keys: ThreadKeys, *, damaged: bool = False) -> Flow[None]:
    """Emits a thread's log as it stands now: a `ThreadHead`, a `Page` for every 200 entries or 4 MiB, and a `ThreadEnd` once all
    of it was checked. What is appended meanwhile is not in it. Where it was pruned or replaced meanwhile, `Again`, and all anew.
    One that may be `damaged` is not checked, and comes as it is.

    Memory: a page. Round trips: one per page, and two; for whoever may only read.

    Raises:
        ThreadNotFound: the thread has no log, or one without checkpoints.
        ThreadBusy: it was pruned again and again while it was read.
        CorruptEntry, LogLost: the log is damaged, or gone.

    """
    thread = keys.thread.decode()
    for _ in range(ATTEMPTS):
        end = yield from log_end(keys, damaged=damaged)
        if end is None:
            raise ThreadNotFound(f"Thread {thread!r} has no checkpoints to export. Check the id, and the prefix.")
        runs = yield from known_runs(keys)
        named = tuple(run.decode() for run in runs)
        yield Emit(ThreadHead(thread, end.sequence, end.digest.decode(errors="replace"), end.entries, named))
        if damaged:
            yield Emit(ThreadEnd(thread, (yield from _unchecked(keys, end))))
            return
        try:
            chain = yield from _pages(keys, end)
        except CorruptEntry:
            if (yield from _still_ends(keys, end)):
                raise
            chain = None
        if chain is not None:
            if not chain.checkpoints:
                raise ThreadNotFound(f"Thread {thread!r} has no checkpoints to export. Check the id, and the prefix.")
            yield Emit(ThreadEnd(thread, end.entries))
            return
        yield Emit(Again(thread))
    raise ThreadBusy(f"Thread {thread!r} was pruned again and again while it was being exported. Call again later.")


def _pages(keys: ThreadKeys, end: LogEnd) -> Flow[WholeChain | None]:
    """Emits the entries up to an end; None if some of those that were there are not any more."""
    chain = WholeChain(keys.thread.decode())
    while chain.last != end.entry_id:
        after = b"" if not chain.entries else chain.last
        entries, *_ = yield from read_entries(keys, after, PAGE, PAGE_BYTES)
        page = [Entry(*entry) for entry in entries if entry_order(entry[0]) <= entry_order(end.entry_id)]
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
    """Emits the entries up to an end, whatever they are; how many."""
    after, count = b"", 0
    while after != end.entry_id:
        entries, *_ = yield from read_entries(keys, after, PAGE, PAGE_BYTES)
        page = [Entry(*entry) for entry in entries if entry_order(entry[0]) <= entry_order(end.entry_id)]
        if not page:
            break
        yield Emit(Page(page))
        after, count = page[-1].entry_id, count + len(page)
    return count


def _still_ends(keys: ThreadKeys, end: LogEnd) -> Flow[bool]:
    """Whether a log has the entry still that it ended with, and as many up to there."""
    found = yield Command("XRANGE", keys.log, [end.entry_id, end.entry_id])
    if not found or paired(flattened(found)[0][1]).get(b"d", b"") != end.digest:
        return False
    now = yield from log_end(keys)
    return now is not None and now.entries >= end.entries


T = TypeVar("T")


def consumed(flow: Generator[Any, Any, T], take: Callable[[Any], Flow[None]]) -> Flow[T]:
    """Result of a flow, of which every item that it emits is handed to another."""
    try:
        request = next(flow)
        while True:
            if isinstance(request, Emit):
                yield from take(request.item)
                request = flow.send(None)
                continue
            try:
                reply = yield request
            except Exception as error:  # noqa: BLE001 - the flow's own
                request = flow.throw(error)
            else:
                request = flow.send(reply)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def threads_to_export(keyspace: Keyspace, threads: Sequence[str] | None, *, damaged: bool) -> Flow[list[ThreadKeys]]:
    """The keys of some threads, each once, or of all there are, by id. Raises `ThreadNotFound` for one that has no log."""
    if threads is None:
        found = [keyspace.thread(thread) for thread in sorted((yield from known_threads(keyspace)))]
        for keys in {keys.shared: keys for keys in found}.values():
            yield from known_runs(keys)  # a feed that is damaged is no fault of a thread's log
        return found
    found = [keyspace.thread(thread.encode()) for thread in dict.fromkeys(threads)]
    for keys in found:
        if (yield from log_end(keys, damaged=damaged)) is None:
            raise ThreadNotFound(
                f"Thread {keys.thread.decode()!r} has no checkpoints to export. Check the id, and the prefix."
            )
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
    """Writes threads, or all there are, to a file; emits the work on it, `Progress`, and `Exported` at the end.

    The file is written as `path` with ".part" behind it and renamed once it is whole and on the disk. A part that an earlier
    export of the same prefix left there is continued, with `resume`, behind those of its threads whose logs have not moved on
    since. Where all are exported, a thread that is deleted before it is its turn is left out, and so is one whose log is damaged or
    gone, which `Exported` names; logs that may be `damaged` are written as they are.

    Raises `FileTaken`, and as `export_thread`.
    """
    header = Header(int(time.time() * 1000), keyspace.prefix, package_version())
    file = ExportFile(path, header, overwrite=overwrite, unchecked=damaged)
    try:
        yield from on_file(file.check)
        found = yield from threads_to_export(keyspace, threads, damaged=damaged)
        left = yield from on_file(file.left)
        kept = (yield from _unchanged(found, left, damaged=damaged)) if resume else []
        yield from on_file(lambda: file.go_on(kept))
        done = {one.head.thread: one.head.entries for one in kept}
        for thread, entries in done.items():
            yield Emit(Progress(thread, entries, entries))
        count, entries, left_out = len(done), sum(done.values()), []
        for keys in found:
            if keys.thread.decode() in done:
                continue
            try:
                entries += yield from _export_into(file, keys, damaged=damaged)
                count += 1
            except (ThreadNotFound, CorruptEntry, LogLost) as error:
                if threads is not None or isinstance(error, NewerSchema):
                    raise
                yield from on_file(file.undo)
                if not isinstance(error, ThreadNotFound):
                    left_out.append(LeftOut(keys.thread.decode(), str(error)))
        yield from on_file(file.finish)
    finally:
        file.close()
    yield Emit(Exported(count, entries, tuple(left_out)))


def _unchanged(threads: Sequence[ThreadKeys], left: Sequence[Left], *, damaged: bool) -> Flow[list[Left]]:
    """Of the threads that a part has, those before the first that is not wanted, or whose log has moved on. A round trip each."""
    wanted = {keys.thread.decode(): keys for keys in threads}
    for number, (head, _) in enumerate(left):
        try:
            end = None if head.thread not in wanted else (yield from log_end(wanted[head.thread], damaged=damaged))
        except (CorruptEntry, LogLost):
            end = None
        if end is None or end.digest != head.digest.encode():
            return list(left[:number])
    return list(left)


def _export_into(file: ExportFile, keys: ThreadKeys, *, damaged: bool) -> Flow[int]:
    written = of = 0
    thread = keys.thread.decode()

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
        yield Emit(Progress(thread, written, of))

    yield from consumed(export_thread(keys, damaged=damaged), take)
    return written


def package_version() -> str:
    """Version of this package, "" where it is not installed."""
    try:
        return version("langgraph-checkpoint-redis-streams")
    except PackageNotFoundError:
        return ""

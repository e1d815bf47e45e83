"""Checks the registry of a partition against its feed and the logs."""

from __future__ import annotations

from eventlog.flow import Call, Flow
from eventlog.keys import Keyspace
from projections.log.scan_keys import names_in, shown
from projections.maintenance.check import CHECK_VIEWS, Difference, Views
from projections.registry.fold import RegistryFold, catch_up, fold_feed
from projections.registry.sizes import sizes_of

__all__ = ["check_registry"]

ATTEMPTS = 100
NAMES = 1000


def check_registry(keyspace: Keyspace, number: int) -> Flow[list[Difference]]:
    """What the registry of a partition has otherwise than its feed, and than the logs there are.

    Round trips: one per 1000 pointers of the feed, one per 1000 threads and runs, and a few more. Memory: threads and runs.
    """
    keys = keyspace.partition(number)
    told = yield from fold_feed(keys)
    where = f"partition {number}"
    if not told.last and not told.threads:
        return []
    threads = yield from names_in(keys.threads, "ZSCAN")
    runs = yield from names_in(keys.runs, "ZSCAN")
    missing = [view for view, held in (("threads", threads), ("runs", runs)) if b"" not in held]
    if missing:
        remedy = "the next list of all threads makes it anew"
        return [Difference("registry", f"{where}: {view}: missing; {remedy}") for view in missing]
    for _ in range(ATTEMPTS):
        yield from catch_up(keys, told)
        should = _members(told)
        doubts = [
            name for name in {*should[0], *threads} if name and not _agree(should[0].get(name), threads.get(name))
        ]
        doubted = [name for name in {*should[1], *runs} if name and (name in should[1]) != (name in runs)]
        settled = True
        for first in range(0, len(doubts), NAMES):
            some = doubts[first : first + NAMES]
            views = Views(*(yield Call(CHECK_VIEWS, [keys.feed, keys.trimmed, keys.threads], [0, *some])))
            settled = settled and views.last in (told.last, b"")
            threads = _again(threads, some, views)
        for first in range(0, len(doubted), NAMES):
            some = doubted[first : first + NAMES]
            views = Views(*(yield Call(CHECK_VIEWS, [keys.feed, keys.trimmed, keys.runs], [0, *some])))
            settled = settled and views.last in (told.last, b"")
            runs = _again(runs, some, views)
        if settled:
            break
    wrong = [name for name in doubts if not _agree(should[0].get(name), threads.get(name))]
    strays = [name for name in doubted if (name in should[1]) != (name in runs)]
    ended = yield from _ended(keyspace, [name[1:] for name in wrong if name not in threads])
    texts = [_thread_text(name, should[0], threads) for name in sorted(wrong) if name[1:] not in ended]
    texts += [_run_text(name, should[1]) for name in sorted(strays) if not _is_of(name, ended, threads)]
    return [Difference("registry", f"{where}: {text}") for text in texts]


def _again(held: dict[bytes, bytes], names: list[bytes], views: Views) -> dict[bytes, bytes]:
    for name, score in zip(names, views.scores, strict=True):
        held.pop(name, None)
        if score is not None:
            held[name] = str(score).encode() if isinstance(score, float) else score
    return held


def _members(told: RegistryFold) -> tuple[dict[bytes, int], set[bytes]]:
    runs = {b"t%d:%b%b" % (len(thread), thread, run) for thread, some in told.runs.items() for run in some}
    runs |= {b"r%d:%b%b" % (len(run), run, thread) for thread, some in told.runs.items() for run in some}
    return {b"t" + thread: ms for thread, ms in told.threads.items()}, runs


def _agree(ms: int | None, score: bytes | None) -> bool:
    return (ms is None) == (score is None) and (ms is None or score is None or float(score) == ms)


def _ended(keyspace: Keyspace, threads: list[bytes]) -> Flow[set[bytes]]:
    """Of some threads that a registry lacks, those whose log is gone: they expired, which the feed need not tell."""
    ended = set()
    for first in range(0, len(threads), NAMES):
        some = threads[first : first + NAMES]
        sizes = yield from sizes_of([keyspace.thread(thread) for thread in some])
        ended |= {thread for thread, size in zip(some, sizes, strict=True) if size.ms_left == -2}
    return ended


def _is_of(member: bytes, ended: set[bytes], threads: dict[bytes, bytes]) -> bool:
    """Whether a member of `runs` is of a thread that ended."""
    size, _, rest = member[1:].partition(b":")
    thread = rest[: int(size)] if member[:1] == b"t" else rest[int(size) :]
    return thread in ended or b"t" + thread not in threads


def _thread_text(name: bytes, should: dict[bytes, int], held: dict[bytes, bytes]) -> str:
    thread = shown(name[1:])
    if name not in held:
        return f"threads: thread {thread!r} is missing"
    if name not in should:
        return f"threads: thread {thread!r} is there, the feed does not have it"
    return f"threads: thread {thread!r} was last active at {held[name].decode()}, by the feed at {should[name]}"


def _run_text(name: bytes, should: set[bytes]) -> str:
    return f"runs: {shown(name)!r} " + ("is missing" if name in should else "is there, the feed does not have it")

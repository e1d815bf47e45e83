"""Compares the registry of a partition with its feed and its threads' logs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Union

from eventlog.flow import Batch, Command, Flow
from eventlog.framing import counted, is_number
from eventlog.keys import Keyspace, PartitionKeys, ThreadKeys
from eventlog.limits import Limits, brief
from projections.log.ended import MARK
from projections.log.scan_keys import names_in, shown
from projections.maintenance.compare import PAGE, Difference, difference, read_views
from projections.registry.fold import RegistryFold, catch_up, fold_feed
from projections.registry.foreign import MOST_SHOWN, is_long, is_thread
from projections.registry.read import all_members_with, members_with, runs_prefix
from projections.registry.sizes import sizes_of

__all__ = ["check_registered", "check_registry"]

ScoreOf = Callable[[RegistryFold, bytes], Union[float, None]]
"""The score that a member of a view has by the feed, None for none."""
MISSING = "missing; the next list of all threads rebuilds it"


def check_registry(keyspace: Keyspace, number: int) -> Flow[list[Difference]]:
    """The differences of a partition's registry from its feed.

    Threads whose logs are gone are left out: they expired, which the feed need not report. An entry of the feed that is no
    pointer is a difference, with the command that removes it.
    Round trips: one per 1000 pointers of the feed, one per 1000 threads and runs, and a few more. Memory: threads and runs.
    """
    keys = keyspace.partition(number)
    fold = yield from fold_feed(keys, lenient=True)
    if not fold.last and not fold.threads:
        return []
    threads = yield from names_in(keys.threads, "ZSCAN")
    runs = yield from names_in(keys.runs, "ZSCAN")
    problems = [f"{view}: {MISSING}" for view, members in (("threads", threads), ("runs", runs)) if b"" not in members]
    every = {*fold.threads, *(member[1:] for member in threads if is_thread(member))}
    too_long = {thread for thread in every if is_long(thread, keyspace.limits)}
    problems += [_too_long(thread, keyspace.limits) for thread in sorted(too_long)]
    if b"" in threads and b"" in runs:
        suspects = _suspects(fold, threads, (b"t" + thread for thread in fold.threads), _thread_score)
        wrong = yield from _confirm(keys, fold, keys.threads, suspects, _thread_score)
        gone = [member[1:] for member, score in wrong.items() if score is None and member[1:] not in too_long]
        ended = yield from _without_log(keyspace, gone)
        for member, score in sorted(wrong.items()):
            if not is_thread(member):
                problems.append(f"threads: {shown(member[:MOST_SHOWN])!r} is no thread")
            elif member[1:] not in ended | too_long:
                problems.append(_thread_problem(member, score, _thread_score(fold, member)))
        suspects = _suspects(fold, runs, _run_members(fold), _run_score)
        wrong = yield from _confirm(keys, fold, keys.runs, suspects, _run_score)
        for member, score in sorted(wrong.items()):
            thread, _ = _split_run(member) or (None, None)
            if member[:1] == MARK or MARK + (thread or b"") in runs:
                continue  # runs of a thread that ended, which a later call removes
            if thread is None or (b"t" + thread in threads and thread not in ended):
                problems.append(difference(f"runs: {shown(member)!r}", score, _run_score(fold, member), "the feed"))
    problems += [f"feed: {error}" for error in fold.foreign or ()]
    return [Difference("registry", f"partition {number}: {problem}") for problem in problems]


def _too_long(thread: bytes, limits: Limits) -> str:
    return (
        f"threads: thread {brief(thread)} has {len(thread):,} bytes, above the limit of {limits.id_bytes:,} for an id; lists leave "
        f"it out. Raise the limit to read or delete it: --limits id_bytes={len(thread)}"
    )


def _suspects(
    fold: RegistryFold, found: Mapping[bytes, bytes], expected: Iterable[bytes], score_of: ScoreOf
) -> list[bytes]:
    """The members of a view that differed from the feed when the view was scanned."""
    scores = {member: float(score) for member, score in found.items() if member}
    return [member for member in {*expected, *scores} if scores.get(member) != score_of(fold, member)]


def _confirm(
    keys: PartitionKeys, fold: RegistryFold, view: bytes, suspects: Sequence[bytes], score_of: ScoreOf
) -> Flow[dict[bytes, float | None]]:
    """Reads suspects again, and returns those that differ, each with its score.

    The fold goes on up to the pointer that was the feed's last when a page of suspects was read.
    """
    wrong: dict[bytes, float | None] = {}
    for first in range(0, len(suspects), PAGE):
        page = suspects[first : first + PAGE]
        views = yield from read_views((keys.feed, keys.trimmed, view), [], page)
        if views.last:
            yield from catch_up(keys, fold, views.last)
        scores = zip(page, views.scores, strict=True)
        wrong.update((member, score) for member, score in scores if score != score_of(fold, member))
    return wrong


def _thread_score(fold: RegistryFold, member: bytes) -> float | None:
    """The score that a member of `threads` has by the feed."""
    return fold.threads.get(member[1:]) if member[:1] == b"t" else None


def _run_score(fold: RegistryFold, member: bytes) -> float | None:
    """The score that a member of `runs` has by the feed."""
    thread, run = _split_run(member) or (None, None)
    return 0 if thread is not None and run in fold.runs.get(thread, ()) else None


def _run_members(fold: RegistryFold) -> Iterator[bytes]:
    """The members of `runs` by the feed."""
    for thread, runs in fold.runs.items():
        for run in runs:
            yield b"t" + counted(thread) + run
            yield b"r" + counted(run) + thread


def _split_run(member: bytes) -> tuple[bytes, bytes] | None:
    """The thread and the run in a member of `runs`.

    Returns None for a member that this package does not write.
    """
    kind, (size, _, rest) = member[:1], member[1:].partition(b":")
    if kind not in (b"t", b"r") or not is_number(size):
        return None
    first, second = rest[: int(size)], rest[int(size) :]
    return (first, second) if kind == b"t" else (second, first)


def _without_log(keyspace: Keyspace, threads: Sequence[bytes]) -> Flow[set[bytes]]:
    """The threads among these that have no log."""
    found = set()
    for first in range(0, len(threads), PAGE):
        page = threads[first : first + PAGE]
        sizes = yield from sizes_of([keyspace.thread(thread) for thread in page])
        found |= {thread for thread, size in zip(page, sizes, strict=True) if size.ms_left == -2}
    return found


def _thread_problem(member: bytes, found: float | None, expected: float | None) -> str:
    before, after = (None if ms is None else f"last active at {ms:.17g}" for ms in (found, expected))
    return difference(f"threads: thread {shown(member[1:])!r}", before, after, "the feed")


def check_registered(keys: ThreadKeys, *, registered: bool) -> Flow[list[Difference]]:
    """The differences of a partition's registry from the log of one of its threads.

    `registered`: whether the log has checkpoints, so that the registry names the thread. What differs is looked at twice, since a
    writer may be at work. Round trips: one to four.
    """
    found = yield from _check_registered(keys, registered=registered)
    return found and (yield from _check_registered(keys, registered=registered))


def _check_registered(keys: ThreadKeys, *, registered: bool) -> Flow[list[Difference]]:
    shared, member, prefix = keys.shared, b"t" + keys.thread, runs_prefix(keys)
    commands = [Command("ZSCORE", view, [b""]) for view in (shared.threads, shared.runs, shared.expiries)]
    commands += [Command("ZSCORE", view, [member]) for view in (shared.threads, shared.expiries)]
    commands += [Command("PTTL", keys.log), Command("ZSCORE", shared.runs, [MARK + keys.thread])]
    commands.append(members_with(shared.runs, prefix))
    threads, runs, expiries, activity, end, ms_left, mark, run_members = yield Batch(commands)
    if ms_left == -2:  # it expired just then
        return []
    views = {"threads": threads, "runs": runs, "expiries": expiries}
    problems = [f"{view}: {MISSING}" for view, is_whole in views.items() if is_whole is None]
    if threads is not None and registered and activity is None:
        problems.append("threads: the thread is missing")
    if expiries is not None and registered and (ms_left >= 0) != (end is not None):
        problems.append(
            "expiries: the thread's end is " + ("missing" if end is None else "noted, but its log has none")
        )
    if runs is not None and mark is None:
        run_members = yield from all_members_with(shared.runs, prefix, run_members)
        of_thread = [run_member[len(prefix) :] for run_member in run_members]
        for first in range(0, len(of_thread), PAGE):
            page = of_thread[first : first + PAGE]
            scores = yield Batch([Command("ZSCORE", shared.runs, [b"r" + counted(run) + keys.thread]) for run in page])
            for run, score in zip(page, scores, strict=True):
                if score is None:
                    problems.append(f"runs: run {shown(run)!r} does not name the thread, which names it")
    return [Difference("registry", problem) for problem in problems]

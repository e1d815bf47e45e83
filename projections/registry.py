"""What a partition's threads share: which threads there are, and which runs wrote to them.

Both are views of the feed, kept by the scripts that append. A view that was deleted is left missing by them (an empty name in
it says that it is whole) and is rebuilt here, by folding the feed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from secrets import token_hex

from eventlog.events import ThreadCopied
from eventlog.flow import Batch, Call, Command, Flow, load_script
from eventlog.keys import Keyspace, PartitionKeys, ThreadKeys, counted, split_counted
from projections.thread import STAGED_FOR

__all__ = ["threads_of", "threads_of_runs"]

SCAN_FEED = load_script("projections/scan_feed")
EXPIRIES_OF = load_script("projections/expiries_of")
STORE_REGISTRY = load_script("projections/store_registry")
PAGE = 1000


def threads_of(keyspace: Keyspace) -> Flow[list[bytes]]:
    """Ids of all threads that have a checkpoint, those last active first within a partition.

    One pipelined round trip, and one more per missing view and 1000 events of its feed.
    """
    shared = [keyspace.partition(number) for number in range(keyspace.partitions)]
    yield from _complete(keyspace, shared)
    replies = yield Batch([Command("ZREVRANGE", keys.threads, [0, -1]) for keys in shared])
    return [member[1:] for members in replies for member in members if member]


def threads_of_runs(keyspace: Keyspace, runs: Sequence[str]) -> Flow[dict[bytes, set[str]]]:
    """Threads that some runs wrote checkpoints to, with the runs concerned. Round trips as `threads_of`."""
    shared = [keyspace.partition(number) for number in range(keyspace.partitions)]
    yield from _complete(keyspace, shared)
    asked = [(keys, run, b"r" + counted(run.encode())) for keys in shared for run in runs]
    found: dict[bytes, set[str]] = {}
    for first in range(0, len(asked), PAGE):
        some = asked[first : first + PAGE]
        replies = yield Batch(
            [Command("ZRANGEBYLEX", keys.runs, [b"[" + prefix, b"(" + prefix + b"\xff"]) for keys, _, prefix in some]
        )
        for (_, run, prefix), members in zip(some, replies, strict=True):
            for member in members:
                found.setdefault(member[len(prefix) :], set()).add(run)
    return found


def runs_of(keyspace: Keyspace, thread: ThreadKeys) -> Flow[list[bytes]]:
    """Runs that wrote checkpoints to a thread. Two round trips, and those of `threads_of` where the view is missing."""
    yield from _complete(keyspace, [thread.shared])
    prefix = b"t" + counted(thread.thread)
    (members,) = yield Batch([Command("ZRANGEBYLEX", thread.shared.runs, [b"[" + prefix, b"(" + prefix + b"\xff"])])
    return [member[len(prefix) :] for member in members]


def _complete(keyspace: Keyspace, partitions: Sequence[PartitionKeys]) -> Flow[None]:
    """Rebuilds the views of partitions that have a feed and lack one of them."""
    checks = [
        command
        for keys in partitions
        for command in (
            Command("ZSCORE", keys.threads, [b""]),
            Command("ZSCORE", keys.runs, [b""]),
            Command("ZSCORE", keys.expiries, [b""]),
            Command("EXISTS", keys.feed),
        )
    ]
    replies = yield Batch(checks)
    for keys, *views, feed in zip(partitions, *(replies[offset::4] for offset in range(4)), strict=True):
        if feed and None in views:
            yield from rebuild_registry(keyspace, keys)


def rebuild_registry(keyspace: Keyspace, keys: PartitionKeys) -> Flow[None]:
    """Folds the feed of a partition into its views and puts them in place, catching up with what is appended meanwhile."""
    threads: dict[bytes, int] = {}
    runs: dict[bytes, set[bytes]] = {}
    after = b""
    while True:
        pointers = yield Call(SCAN_FEED, [keys.feed], [after, PAGE])
        for pointer_id, thread, kind, run in pointers:
            after = pointer_id
            if kind == b"deleted":
                threads.pop(thread, None)
                runs.pop(thread, None)
            elif kind != b"writes" or thread in threads:
                threads[thread] = int(pointer_id.partition(b"-")[0])
                runs.setdefault(thread, set()).update(
                    split_counted(run) if kind == ThreadCopied.kind else [run] if run else []
                )
        if len(pointers) == PAGE:
            continue
        expiries = yield from _living(keyspace, threads)
        token = token_hex(8).encode()
        staged = [keys.stage(token, part) for part in (b"threads", b"runs", b"expiries")]
        yield from _stage(staged[0], {b"": b"0"} | {b"t" + thread: b"%d" % threads[thread] for thread in expiries})
        names = (name for thread in expiries for name in run_members(thread, runs.get(thread, set())))
        yield from _stage(staged[1], {b"": b"0"} | dict.fromkeys(names, b"0"))
        ending = {thread: expiry for thread, expiry in expiries.items() if expiry != b"never"}
        yield from _stage(staged[2], {b"": b"inf"} | ending)
        if (yield Call(STORE_REGISTRY, [keys.feed, keys.threads, keys.runs, keys.expiries, *staged], [after])):
            return


def _living(keyspace: Keyspace, threads: Iterable[bytes]) -> Flow[dict[bytes, bytes]]:
    """The threads that have a log still (an expiry leaves no trace in the feed), and when it expires."""
    known = list(threads)
    found: dict[bytes, bytes] = {}
    for first in range(0, len(known), PAGE):
        some = known[first : first + PAGE]
        expiries = yield Call(EXPIRIES_OF, [keyspace.thread(thread).log for thread in some], [])
        found |= {thread: expiry for thread, expiry in zip(some, expiries, strict=True) if expiry != b"gone"}
    return found


def run_members(thread: bytes, runs: set[bytes]) -> list[bytes]:
    """The members that name runs of a thread in the runs key: by run, and by thread."""
    by_run = [b"r" + counted(run) + thread for run in runs]
    return by_run + [b"t" + counted(thread) + run for run in runs]


def _stage(key: bytes, scores: dict[bytes, bytes]) -> Flow[None]:
    parts = [part for member, score in scores.items() for part in (score, member)]
    for first in range(0, len(parts), PAGE):
        yield Batch([Command("ZADD", key, parts[first : first + PAGE]), Command("EXPIRE", key, [STAGED_FOR])])

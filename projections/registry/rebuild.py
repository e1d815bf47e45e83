"""What a partition's threads share: which threads there are, and which runs wrote to them.

Both are views of the feed, kept by the scripts that append. A view that was deleted is left missing by them (an empty name in
it says that it is whole) and is rebuilt here, by folding the feed onto what is kept of the part of it that was trimmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex

from eventlog.feed.trimming import past_lost
from eventlog.flow import Batch, Call, Command, Flow, load_script
from eventlog.framing import counted
from eventlog.keys import Keyspace, PartitionKeys, ThreadKeys
from projections.log.staging import STAGED_FOR
from projections.registry.read import names_of, no_pointer

__all__ = ["threads_of", "threads_of_runs"]

EXPIRIES_OF = load_script("projections/integrity/expiries_of")
REBUILD_REGISTRY = load_script("projections/registry/rebuild_registry")
NOTE_EXPIRIES = load_script("projections/registry/note_expiries")
PAGE = 1000


def threads_of(keyspace: Keyspace) -> Flow[list[bytes]]:
    """Ids of all threads that have a checkpoint, those last active first within a partition.

    One pipelined round trip, and one more per missing view and 1000 events of its feed.
    """
    shared = [keyspace.partition(number) for number in range(keyspace.partitions)]
    yield from _complete(keyspace, shared)
    replies = yield Batch([Command("ZREVRANGE", keys.threads, [0, -1]) for keys in shared])
    return [name for keys, members in zip(shared, replies, strict=True) for name in names_of(keys, members)]


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
    """Rebuilds the views of partitions that have a feed, or had one, and lack one of them."""
    checks = [
        command
        for keys in partitions
        for command in (
            Command("ZSCORE", keys.threads, [b""]),
            Command("ZSCORE", keys.runs, [b""]),
            Command("ZSCORE", keys.expiries, [b""]),
            Command("EXISTS", keys.feed, [keys.trimmed]),
        )
    ]
    replies = yield Batch(checks)
    for keys, *views, feed in zip(partitions, *(replies[offset::4] for offset in range(4)), strict=True):
        if feed and None in views:
            yield from rebuild_registry(keyspace, keys)


def rebuild_registry(keyspace: Keyspace, keys: PartitionKeys) -> Flow[None]:
    """Folds the feed of a partition into its views and puts them in place, catching up with what is appended meanwhile.

    One round trip per 1000 events of the feed, and per 1000 threads one or two more; all again where the feed was meanwhile trimmed
    beyond what was folded. Raises `LogLost` if the feed was trimmed, and what was kept of it is gone, and
    `CorruptEntry` where it has what this project did not write.
    """
    token = token_hex(8).encode()
    staged = [keys.stage(token, part) for part in (b"threads", b"runs", b"expiries")]
    past = [keys.trimmed, keys.past_threads, keys.past_runs]
    all_keys = [keys.feed, keys.threads, keys.runs, keys.expiries, *staged, *past]
    after, stored = b"", 0
    caught_up = 0
    while not stored:
        after, ended, stored = yield Call(REBUILD_REGISTRY, all_keys, [after, PAGE, STAGED_FOR, caught_up])
        if after == b"lost":
            raise past_lost(keys)
        if after == b"foreign":
            raise no_pointer(keys, ended)
        if not after:
            caught_up = 0
        if ended and not caught_up:
            yield from _take_out_ended(keyspace, keys, staged)
            caught_up = 1


def _take_out_ended(keyspace: Keyspace, keys: PartitionKeys, staged: Sequence[bytes]) -> Flow[None]:
    """Takes threads that expired out of staged views, and notes when the others do."""
    (members,) = yield Batch([Command("ZRANGE", staged[0], [0, -1])])
    known = [member[1:] for member in members if member]
    for first in range(0, len(known), PAGE):
        some = known[first : first + PAGE]
        logs = [keyspace.thread(thread).log for thread in some]
        expiries = dict(zip(some, (yield Call(EXPIRIES_OF, [keys.expiries, *logs], some)), strict=True))
        ended = [thread for thread, expiry in expiries.items() if expiry == b"ended"]
        yield Call(NOTE_EXPIRIES, staged, [b"%d" % len(ended), *ended, *_scores(expiries)])


def _scores(expiries: dict[bytes, bytes]) -> list[bytes]:
    return [part for thread, expiry in expiries.items() if expiry.isdigit() for part in (expiry, b"t" + thread)]

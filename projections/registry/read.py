"""Reads which threads there are and which runs wrote to them, without writing.

A view that is missing is folded here from the feed and not stored. `projections.registry.rebuild` stores it. Members that are no
ids are left out (`projections.registry.foreign`).
"""

from __future__ import annotations

from eventlog.flow import Batch, Command, Flow
from eventlog.framing import counted
from eventlog.keys import Keyspace, ThreadKeys
from projections.log.ended import MARK
from projections.log.scan_keys import names_in
from projections.registry.fold import fold_feed
from projections.registry.foreign import text_ids, thread_ids

__all__ = ["all_members_with", "known_runs", "known_threads", "members_with", "runs_prefix"]

PAGE = 1000
"""Most members in one reply."""


def known_threads(keyspace: Keyspace, *, too_long: bool = False) -> Flow[list[bytes]]:
    """Ids of all threads that have a checkpoint. Some of them may have expired.

    Ids above the limit are left out with a warning, or are among them with `too_long`.
    Within a partition, the last active comes first. One pipelined round trip, one per 1000 threads of a partition that has more,
    and one per 1000 pointers of each feed whose view is missing.
    """
    partitions = [keyspace.partition(number) for number in range(keyspace.partitions)]
    limits = None if too_long else keyspace.limits
    commands = []
    for keys in partitions:
        commands += [Command("ZSCORE", keys.threads, [b""]), Command("ZREVRANGE", keys.threads, [0, PAGE - 1])]
    replies = yield Batch(commands)
    found: list[bytes] = []
    for keys, whole, members in zip(partitions, replies[::2], replies[1::2], strict=True):
        if whole is None:
            found += text_ids(keys.feed, (yield from fold_feed(keys)).threads, limits)
        elif len(members) < PAGE:
            found += thread_ids(keys.threads, members, limits)
        else:  # a scan misses no thread that becomes active meanwhile, as pages by rank would
            scores = yield from names_in(keys.threads, "ZSCAN")
            by_score = sorted(((float(score), name) for name, score in scores.items()), reverse=True)
            found += thread_ids(keys.threads, (name for _, name in by_score), limits)
    return found


def known_runs(thread: ThreadKeys) -> Flow[list[bytes]]:
    """Sorted ids of the runs that wrote checkpoints to a thread.

    One round trip per 1000 runs, and one per 1000 pointers of the feed if the view is missing.
    """
    runs, prefix = thread.shared.runs, runs_prefix(thread)
    whole, ended, members = yield Batch(
        [Command("ZSCORE", runs, [b""]), Command("ZSCORE", runs, [MARK + thread.thread]), members_with(runs, prefix)]
    )
    if whole is None:
        return sorted(text_ids(thread.shared.feed, (yield from fold_feed(thread.shared)).runs.get(thread.thread, ())))
    if ended is not None:
        return []  # they are of an earlier thread of that name
    found = yield from all_members_with(runs, prefix, members)
    return list(text_ids(runs, (member[len(prefix) :] for member in found)))


def runs_prefix(thread: ThreadKeys) -> bytes:
    """The prefix of the members of `runs` that name a thread's runs."""
    return b"t" + counted(thread.thread)


def members_with(key: bytes, prefix: bytes) -> Command:
    """The command that reads the first 1000 members of a view with this prefix."""
    return _members_from(key, b"[" + prefix, prefix)


def all_members_with(key: bytes, prefix: bytes, first: list[bytes]) -> Flow[list[bytes]]:
    """The members of a view with this prefix, after the reply of `members_with`. One round trip per 1000 more."""
    found, page = [*first], first
    while len(page) == PAGE:
        page = yield _members_from(key, b"(" + page[-1], prefix)
        found += page
    return found


def _members_from(key: bytes, bound: bytes, prefix: bytes) -> Command:
    return Command("ZRANGEBYLEX", key, [bound, b"(" + prefix + b"\xff", b"LIMIT", 0, PAGE])

"""Reads which threads there are and which runs wrote to them, without writing.

A view that is missing is folded here from the feed and not stored. `projections.registry.rebuild` stores it. Members that are no
ids are left out (`projections.registry.foreign`).
"""

from __future__ import annotations

from eventlog.flow import Batch, Command, Flow
from eventlog.framing import counted
from eventlog.keys import Keyspace, ThreadKeys
from projections.registry.fold import fold_feed
from projections.registry.foreign import text_ids, thread_ids

__all__ = ["known_runs", "known_threads", "members_with", "runs_prefix"]


def known_threads(keyspace: Keyspace) -> Flow[list[bytes]]:
    """Ids of all threads that have a checkpoint. Some of them may have expired.

    Within a partition, the last active comes first. One pipelined round trip, and one per 1000 pointers of each feed whose view is
    missing.
    """
    partitions = [keyspace.partition(number) for number in range(keyspace.partitions)]
    commands = []
    for keys in partitions:
        commands += [Command("ZSCORE", keys.threads, [b""]), Command("ZREVRANGE", keys.threads, [0, -1])]
    replies = yield Batch(commands)
    found: list[bytes] = []
    for keys, whole, members in zip(partitions, replies[::2], replies[1::2], strict=True):
        if whole is None:
            found += text_ids(keys.feed, (yield from fold_feed(keys)).threads)
        else:
            found += thread_ids(keys.threads, members)
    return found


def known_runs(thread: ThreadKeys) -> Flow[list[bytes]]:
    """Sorted ids of the runs that wrote checkpoints to a thread.

    One round trip, and one per 1000 pointers of the feed if the view is missing.
    """
    runs, prefix = thread.shared.runs, runs_prefix(thread)
    whole, members = yield Batch([Command("ZSCORE", runs, [b""]), members_with(runs, prefix)])
    if whole is None:
        return sorted(text_ids(thread.shared.feed, (yield from fold_feed(thread.shared)).runs.get(thread.thread, ())))
    return list(text_ids(runs, (member[len(prefix) :] for member in members)))


def runs_prefix(thread: ThreadKeys) -> bytes:
    """The prefix of the members of `runs` that name a thread's runs."""
    return b"t" + counted(thread.thread)


def members_with(key: bytes, prefix: bytes) -> Command:
    """The command that reads the members of a view with this prefix."""
    return Command("ZRANGEBYLEX", key, [b"[" + prefix, b"(" + prefix + b"\xff"])

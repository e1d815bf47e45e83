"""Rebuilds a partition's registry from its feed: threads, runs and expiries.

The scripts that append keep these views. An empty member in a view says that the view is whole. If a view was deleted, the
scripts leave it missing, and it is rebuilt here. The fold begins with the record of the trimmed part of the feed.
"""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex

from eventlog.errors import ServerFailedCommand, is_of_contents
from eventlog.feed.trimming import past_lost, record_damaged
from eventlog.flow import Batch, Call, Command, Flow, load_script
from eventlog.framing import counted
from eventlog.keys import Keyspace, PartitionKeys, ThreadKeys
from projections.log.ended import MARK, ended_threads, forget_runs
from projections.log.namespaces import stretches
from projections.log.scan_keys import names_in
from projections.log.staging import STAGED_FOR
from projections.registry.fold import foreign_pointer
from projections.registry.foreign import is_long, text_ids
from projections.registry.read import all_members_with, known_runs, known_threads, members_with

__all__ = ["rebuild_registry", "runs_of", "threads_of", "threads_of_runs"]

REBUILD_REGISTRY = load_script("projections/registry/rebuild_registry")
REMOVE_MEMBERS = load_script("projections/registry/remove_members")
NOTE_EXPIRIES = load_script("projections/registry/note_expiries")
PAGE = 1000


def threads_of(keyspace: Keyspace, *, too_long: bool = False) -> Flow[list[bytes]]:
    """Ids of all threads that have a checkpoint, as `known_threads`.

    Two pipelined round trips, and those of `rebuild_registry` for each partition that lacks a view.
    """
    yield from _complete(keyspace, _partitions(keyspace))
    return (yield from known_threads(keyspace, too_long=too_long))


def threads_of_runs(keyspace: Keyspace, runs: Sequence[str]) -> Flow[dict[bytes, set[str]]]:
    """Threads that some runs wrote checkpoints to, each with these runs.

    Removes runs that deletions which were cut short have left. Round trips as `threads_of`, and one more.
    """
    partitions = _partitions(keyspace)
    yield from _complete(keyspace, partitions)
    yield from _forget_ended(partitions)
    wanted = [(keys, run, b"r" + counted(run.encode())) for keys in partitions for run in runs]
    found: dict[bytes, set[str]] = {}
    for first in range(0, len(wanted), PAGE):
        page = wanted[first : first + PAGE]
        replies = yield Batch([members_with(keys.runs, prefix) for keys, _, prefix in page])
        for (keys, run, prefix), members in zip(page, replies, strict=True):
            named = yield from all_members_with(keys.runs, prefix, members)
            for thread in text_ids(keys.runs, (member[len(prefix) :] for member in named), keyspace.limits):
                found.setdefault(thread, set()).add(run)
    return found


def runs_of(keyspace: Keyspace, thread: ThreadKeys) -> Flow[list[bytes]]:
    """Runs that wrote checkpoints to a thread. Round trips as `threads_of`."""
    yield from _complete(keyspace, [thread.shared])
    return (yield from known_runs(thread))


def _partitions(keyspace: Keyspace) -> list[PartitionKeys]:
    return [keyspace.partition(number) for number in range(keyspace.partitions)]


def _complete(keyspace: Keyspace, partitions: Sequence[PartitionKeys]) -> Flow[None]:
    """Rebuilds the registry of each partition that has a feed and lacks a view.

    A feed that was trimmed to nothing counts, too.
    """
    commands = []
    for keys in partitions:
        commands += [Command("ZSCORE", view, [b""]) for view in (keys.threads, keys.runs, keys.expiries)]
        commands.append(Command("EXISTS", keys.feed, [keys.trimmed]))
    replies = yield Batch(commands)
    for at, keys in enumerate(partitions):
        *views, feed = replies[4 * at : 4 * at + 4]
        if feed and None in views:
            yield from rebuild_registry(keyspace, keys)


def _forget_ended(partitions: Sequence[PartitionKeys]) -> Flow[None]:
    """Removes the runs of threads that ended."""
    replies = yield Batch([ended_threads(keys) for keys in partitions])
    for keys, first in zip(partitions, replies, strict=True):
        marks = first
        while marks:
            for mark in marks:
                yield from forget_runs(keys, mark[len(MARK) :])
            marks = yield ended_threads(keys)


def rebuild_registry(keyspace: Keyspace, keys: PartitionKeys) -> Flow[None]:
    """Folds the feed of a partition into its views and puts them in place.

    Pointers that are appended meanwhile are folded, too. The fold starts over if the feed was trimmed beyond its last pointer.
    Round trips: one per 1000 pointers of the feed, one per 500 threads, and two. More for a trimmed feed: one per 1000 threads and
    runs of the trimmed part. More if the server uses libc's allocator: one per 1000 members of the views that are replaced.

    Raises:
        CorruptEntry: the feed has an entry that is no pointer.
        LogLost: the feed was trimmed, and the record of the trimmed part is gone.

    """
    stage_id = token_hex(8).encode()
    staged = [keys.stage(stage_id, part) for part in (b"threads", b"runs")]
    old = [keys.stage(stage_id, part) for part in (b"old threads", b"old runs")]
    past = [keys.trimmed, keys.past_threads, keys.past_runs]
    all_keys = [keys.feed, keys.threads, keys.runs, keys.expiries, *staged, *past, *old]
    after, stored, store, copied = b"", 0, 0, PAGE
    while not stored:
        try:
            after, ended, stored = yield Call(REBUILD_REGISTRY, all_keys, [after, PAGE, STAGED_FOR, store, copied])
        except ServerFailedCommand as error:
            if is_of_contents(error):
                raise record_damaged(keys, error) from error
            raise
        if after == b"lost":
            raise past_lost(keys)
        if after == b"foreign":
            raise foreign_pointer(keys, ended)
        if not after:
            store = 0
            copied *= 2  # so that the copy ends however often the feed is trimmed meanwhile
        if ended and not store:
            yield from _note_expiries(keyspace, keys, staged)
            store = 1
    for key in old:
        while (yield Call(REMOVE_MEMBERS, [key], [PAGE])):
            pass


def _note_expiries(keyspace: Keyspace, keys: PartitionKeys, staged: Sequence[bytes]) -> Flow[None]:
    """Removes expired threads from staged views, and notes when others expire."""
    members = yield from names_in(staged[0], "ZSCAN")
    threads = [member[1:] for member in members if member and not is_long(member[1:], keyspace.limits)]
    while threads:
        logs = [keyspace.thread(thread).log for thread in threads[:PAGE]]
        _, end = next(stretches([(log,) for log in logs]))
        done = yield Call(NOTE_EXPIRIES, [*staged, keys.expiries, *logs[:end]], threads[:end])
        threads = threads[done:]

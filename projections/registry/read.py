"""Which threads there are and which runs wrote to them, for whoever may not write.

A view that is missing is folded here from the feed, and not put in place; `projections.registry.rebuild` does that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eventlog.codec import paired
from eventlog.errors import CorruptEntry, ThreadBusy
from eventlog.feed.reading import flattened
from eventlog.feed.trimming import past_lost
from eventlog.flow import Batch, Command, Flow
from eventlog.framing import counted, split_counted
from eventlog.keys import Keyspace, PartitionKeys, ThreadKeys
from projections.log.scan_keys import names_in

__all__ = ["Told", "catch_up", "known_runs", "known_threads", "told_by"]

PAGE = 1000
ATTEMPTS = 20


def known_threads(keyspace: Keyspace) -> Flow[list[bytes]]:
    """Ids of all threads that have a checkpoint; of those that expired, some may be among them still.

    Two pipelined round trips, and per partition whose view is missing one per 1000 events of its feed.
    """
    shared = [keyspace.partition(number) for number in range(keyspace.partitions)]
    whole = yield Batch([Command("ZSCORE", keys.threads, [b""]) for keys in shared])
    replies = yield Batch([Command("ZREVRANGE", keys.threads, [0, -1]) for keys in shared])
    found: list[bytes] = []
    for keys, is_whole, members in zip(shared, whole, replies, strict=True):
        if is_whole is None:
            found += (yield from told_by(keys)).threads
        else:
            found += names_of(keys, members)
    return found


def known_runs(thread: ThreadKeys) -> Flow[list[bytes]]:
    """Runs that wrote checkpoints to a thread, sorted. One round trip, and those of `known_threads` where the view is missing."""
    prefix = b"t" + counted(thread.thread)
    whole, members = yield Batch(
        [
            Command("ZSCORE", thread.shared.runs, [b""]),
            Command("ZRANGEBYLEX", thread.shared.runs, [b"[" + prefix, b"(" + prefix + b"\xff"]),
        ]
    )
    if whole is None:
        return sorted((yield from told_by(thread.shared)).runs.get(thread.thread, ()))
    return [member[len(prefix) :] for member in members]


def names_of(keys: PartitionKeys, members: Sequence[bytes]) -> list[bytes]:
    """The threads in some members of a partition's view. Raises `CorruptEntry` for a name that no thread has."""
    names = [member[1:] for member in members if member]
    for name in names:
        try:
            name.decode()
        except UnicodeDecodeError as error:
            raise bent(keys, f"the name {name!r:.100}") from error
    return names


def no_pointer(keys: PartitionKeys, entry_id: bytes) -> CorruptEntry:
    """The error for an entry of a partition's feed that this project does not write."""
    return CorruptEntry(
        f"Entry {entry_id.decode()} of {keys.feed.decode()!r} is none that this package writes. If something else added it, "
        "remove it with XDEL."
    )


def bent(keys: PartitionKeys, what: str) -> CorruptEntry:
    """The error for what this project does not write into a view of threads."""
    return CorruptEntry(
        f"The view {keys.threads.decode()!r} has {what}, which this package does not write. It is but a view: agentlog rebuild "
        "--all makes it anew."
    )


class Told:
    """What the feed of a partition says of its threads: the fold that its registry is a view of, as in pointers.lua."""

    def __init__(self) -> None:
        self.threads: dict[bytes, int] = {}
        """Thread -> ms of its last activity."""
        self.runs: dict[bytes, set[bytes]] = {}
        """Thread -> runs that wrote checkpoints to it."""
        self.last = b""
        """The last pointer that was folded."""

    def add(self, entry_id: bytes, pointer: dict[bytes, bytes]) -> None:
        """Folds a pointer in. Raises `KeyError` or `ValueError` for what is none."""
        self.last = entry_id
        thread, kind, run = (pointer[name] for name in (b"thread", b"kind", b"run"))
        if kind in (b"deleted", b"expired"):
            self.threads.pop(thread, None)
            self.runs.pop(thread, None)
        elif kind != b"writes" or thread in self.threads:
            self.threads[thread] = int(entry_id.partition(b"-")[0])
            self.runs.setdefault(thread, set()).update(_runs_told(kind, run))


def _runs_told(kind: bytes, run: bytes) -> Iterator[bytes]:
    if kind in (b"copied", b"imported"):
        yield from split_counted(run)
    elif kind != b"writes" and run:
        yield run


def told_by(keys: PartitionKeys) -> Flow[Told]:
    """What the whole feed of a partition says, that of it which was trimmed included.

    A round trip per 1000 pointers, and three. Memory: the partition's threads and their runs. Raises `CorruptEntry`.
    """
    for _ in range(ATTEMPTS):
        told, at = yield from _past(keys)
        yield from catch_up(keys, told)
        (trimmed,) = yield Batch([Command("HGET", keys.trimmed, [b"id"])])
        if trimmed == at:
            return told
    raise ThreadBusy(f"The feed {keys.feed.decode()!r} was trimmed each time while it was read. Call again later.")


def catch_up(keys: PartitionKeys, told: Told) -> Flow[None]:
    """Folds what came since. A round trip per 1000 pointers. Raises `CorruptEntry`."""
    while True:
        entries = yield Command("XRANGE", keys.feed, [b"(" + (told.last or b"0-0"), b"+", b"COUNT", PAGE])
        for entry_id, flat in flattened(entries) if entries else []:
            try:
                told.add(entry_id, paired(flat))
            except (KeyError, ValueError) as error:
                raise no_pointer(keys, entry_id) from error
        if len(entries or ()) < PAGE:
            return


def _past(keys: PartitionKeys) -> Flow[tuple[Told, bytes | None]]:
    """What is kept of the trimmed part, and the id up to which the feed was trimmed. Raises `CorruptEntry`."""
    told = Told()
    (at,) = yield Batch([Command("HGET", keys.trimmed, [b"id"])])
    threads = yield from names_in(keys.past_threads, "ZSCAN")
    runs = yield from names_in(keys.past_runs, "ZSCAN")
    if at is not None and (b"" not in threads or b"" not in runs):
        raise past_lost(keys)
    told.last = at or b""
    told.threads = {name[1:]: int(float(ms)) for name, ms in threads.items() if name}
    for name in runs:
        if name[:1] == b"t":
            size, _, rest = name[1:].partition(b":")
            told.runs.setdefault(rest[: int(size)], set()).add(rest[int(size) :])
    return told, at

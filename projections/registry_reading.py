"""Which threads there are and which runs wrote to them, for whoever may not write.

A view that is missing is folded here from the feed, and not put in place; `projections.registry` does that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from eventlog.errors import CorruptEntry
from eventlog.feed.reading import flattened
from eventlog.feed.trimming import past_lost
from eventlog.flow import Batch, Command, Flow
from eventlog.keys import Keyspace, PartitionKeys, ThreadKeys, counted, split_counted

__all__ = ["known_runs", "known_threads"]

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
            found += (yield from _folded(keys)).threads
        else:
            found += (member[1:] for member in members if member)
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
        return sorted((yield from _folded(thread.shared)).runs.get(thread.thread, ()))
    return [member[len(prefix) :] for member in members]


@dataclass
class _Registry:
    threads: dict[bytes, None] = field(default_factory=dict)
    runs: dict[bytes, set[bytes]] = field(default_factory=dict)

    def fold(self, pointer: dict[bytes, bytes]) -> None:
        """As `fold_pointer` of pointers.lua does."""
        thread, kind, run = (pointer[name] for name in (b"thread", b"kind", b"run"))
        if kind in (b"deleted", b"expired"):
            self.threads.pop(thread, None)
            self.runs.pop(thread, None)
        elif kind != b"writes" or thread in self.threads:
            self.threads[thread] = None
            self.runs.setdefault(thread, set()).update(_runs_told(kind, run))


def _runs_told(kind: bytes, run: bytes) -> Iterator[bytes]:
    """As `runs_told` of pointers.lua does."""
    if kind in (b"copied", b"imported"):
        yield from split_counted(run)
    elif kind != b"writes" and run:
        yield run


def _folded(keys: PartitionKeys) -> Flow[_Registry]:
    """What the feed of a partition says, with what is kept of its trimmed part."""
    for _ in range(ATTEMPTS):
        registry = _Registry()
        at = yield from _past(keys, registry)
        after = at or b"0-0"
        while True:
            entries = yield Command("XRANGE", keys.feed, [b"(" + after, b"+", b"COUNT", PAGE])
            for after, flat in flattened(entries) if entries else []:
                try:
                    registry.fold(dict(zip(flat[::2], flat[1::2], strict=True)))
                except (KeyError, ValueError) as error:
                    raise CorruptEntry(
                        f"Entry {after.decode()} of {keys.feed.decode()!r} is none that this package writes ({error!r}). "
                        "If something else added it, remove it with XDEL."
                    ) from error
            if len(entries or ()) < PAGE:
                break
        (trimmed,) = yield Batch([Command("HGET", keys.trimmed, [b"id"])])
        if trimmed == at:
            return registry
    raise CorruptEntry(f"The feed {keys.feed.decode()!r} was trimmed each time while it was read. Call again later.")


def _past(keys: PartitionKeys, registry: _Registry) -> Flow[bytes | None]:
    """Begins with what is kept of the trimmed part; the id up to which the feed was trimmed."""
    at, threads, runs = yield Batch(
        [
            Command("HGET", keys.trimmed, [b"id"]),
            Command("ZRANGE", keys.past_threads, [0, -1]),
            Command("ZRANGE", keys.past_runs, [0, -1]),
        ]
    )
    if at is not None and (b"" not in threads or b"" not in runs):
        raise past_lost(keys)
    registry.threads = {member[1:]: None for member in threads if member}
    for member in runs:
        if member[:1] == b"t":
            size, _, rest = member[1:].partition(b":")
            thread, run = rest[: int(size)], rest[int(size) :]
            registry.runs.setdefault(thread, set()).add(run)
    return at  # type: ignore[no-any-return]

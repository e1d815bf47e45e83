"""Read one checkpoint: the latest from its head, any other through the index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from eventlog.codec import Malformed, TooLarge
from eventlog.errors import CorruptEntry, EventLogError, LogLost, OverLimit
from eventlog.flow import Argument, Command, Flow, load_script
from eventlog.framing import ordered
from eventlog.keys import ThreadKeys, checkpoint_sort_key
from projections.checkpoints.waiting import with_all_writes
from projections.integrity.signed_reads import check_views, until_steady
from projections.log.index import call, mend
from projections.values.cache import KnownVersions, ValueCache
from projections.values.pieces import Pieces
from projections.values.stored import Incomplete, StoredCheckpoint, View, from_head, from_view, head_of_view
from projections.values.versions import Versions

__all__ = [
    "READ",
    "STORE_HEAD",
    "Found",
    "damaged",
    "decode_view",
    "malformed",
    "read_checkpoint",
    "read_latest",
    "remember",
    "writes_in_view",
]

READ = load_script("projections/checkpoints/read_checkpoint")
STORE_HEAD = load_script("projections/checkpoints/store_head")


class Found(NamedTuple):
    """A checkpoint that `read_checkpoint.lua` found in the log."""

    view: View
    pieces: Pieces
    last: bytes
    """The last entry of the log."""
    digest: bytes
    """The digest of the log."""

    @classmethod
    def in_reply(cls, keys: ThreadKeys, reply: list[Any]) -> Found | None:
        """The checkpoint in a reply; None for a reply without one."""
        if reply[0] != b"view":
            return None
        _, view, flat, versions, last, digest = reply
        return cls(View(*view), Pieces(flat, versions, keys.limits), last, digest)


def read_latest(keys: ThreadKeys, namespace: str, *, ttl: int = 0) -> Flow[StoredCheckpoint | None]:
    """The checkpoint with the greatest id in a namespace, None if there is none.

    Takes one round trip where there is a head, two on a cluster. Without a head, the checkpoint is read from the log, and the
    head is rebuilt in one more round trip, unless it would be above `Limits.head_bytes`. A damaged or incomplete head costs one
    more.
    A read extends the life of an expiring thread by `ttl` ms (0: not at all). Raises as `projections.log.index.call`.
    """
    encoded = namespace.encode()
    ns_sort_key = ordered(encoded)
    heads = [keys.head(encoded), keys.head(b"")]
    if keys.signer is not None:
        return (yield from until_steady(keys, lambda: _read_signed(keys, [ttl, ns_sort_key, b"", 1], heads)))
    then = Command("HGETALL", heads[0])
    *reply, head = yield from _read(keys, [ttl, ns_sort_key, b"", 0], heads, shared=True, then=then)
    if reply[0] == b"head":
        try:
            return from_head(head, keys.limits)
        except TooLarge as error:
            raise damaged(keys, error, b"of the head") from error
        except (Incomplete, Malformed):  # a put that came in between may have dropped the head
            reply = yield from _read(keys, [0, ns_sort_key, b"", 1], heads)
    found = Found.in_reply(keys, reply)
    if found is None:
        return None
    stored = decode_view(keys, found.view, found.pieces)
    head_fields = head_of_view(found.view, found.pieces, keys.limits)
    if head_fields is None:
        return stored
    try:
        yield from call(keys, STORE_HEAD, [found.digest, *head_fields], heads)
    except (CorruptEntry, LogLost):
        raise
    except EventLogError:
        pass  # best effort: a replica or a full server refuses the head, and the answer is complete without it
    return stored


def read_checkpoint(
    keys: ThreadKeys, namespace: str, checkpoint_id: str, *, ttl: int = 0
) -> Flow[StoredCheckpoint | None]:
    """The checkpoint with this id, None if there is none.

    Takes one round trip. `ttl` and errors are those of `read_latest`.
    """
    encoded = namespace.encode()
    arguments: list[Argument] = [ttl, ordered(encoded), checkpoint_sort_key(encoded, checkpoint_id.encode()), 0]
    heads = [keys.head(encoded), keys.head(b"")]
    if keys.signer is not None:
        return (yield from until_steady(keys, lambda: _read_signed(keys, arguments, heads)))
    is_mended = False
    while True:
        found = Found.in_reply(keys, (yield from _read(keys, arguments, heads, shared=True)))
        if found is None:
            return None
        stored = decode_view(keys, found.view, found.pieces)
        if (stored.namespace, stored.checkpoint_id) == (namespace, checkpoint_id):
            return stored
        error = damaged(keys, Malformed(f"is not that of checkpoint {checkpoint_id!r}"), stored.entry_id)
        if is_mended:
            raise error
        yield from mend(keys, error)
        is_mended = True


def _read(
    keys: ThreadKeys,
    arguments: Sequence[Argument],
    heads: Sequence[bytes],
    *,
    shared: bool = False,
    then: Command | None = None,
) -> Flow[list[Any]]:
    """The reply of `read_checkpoint.lua`; the order is rebuilt if it names something that is no checkpoint."""

    def read() -> Flow[list[Any]]:
        reply = yield from call(keys, READ, arguments, heads, shared=shared, then=then)
        if reply[0] == b"view" and (error := malformed(keys, [reply[1][-1]])) is not None:
            yield from mend(keys, error)
            reply = yield from call(keys, READ, arguments, heads, shared=shared, then=then)
        return reply

    return (yield from with_all_writes(keys, read, writes_in_view))


def writes_in_view(reply: list[Any]) -> list[list[list[bytes]]]:
    """The writes of the checkpoint in a reply of `read_checkpoint.lua`, if there is one."""
    return [reply[1][4]] if reply[0] == b"view" else []


def malformed(keys: ThreadKeys, sort_keys: Iterable[bytes]) -> CorruptEntry | None:
    """The error for the first of some sort keys that is none."""
    try:
        for sort_key in sort_keys:
            keys.split_sort_key(sort_key)
    except CorruptEntry as error:
        return error
    return None


def _read_signed(
    keys: ThreadKeys, arguments: Sequence[Argument], heads: Sequence[bytes]
) -> Flow[StoredCheckpoint | None]:
    """A checkpoint from the log, after checking every entry that it comes from."""
    found = Found.in_reply(keys, (yield from _read(keys, arguments, heads)))
    if found is None:
        return None
    known = yield from check_views(keys, [found.view], found.pieces)
    keys.note(found.last, found.digest, known)
    return decode_view(keys, found.view, found.pieces)


def remember(cache: ValueCache, keys: ThreadKeys, stored: StoredCheckpoint) -> None:
    """Add a checkpoint to the cache, so that the next put stores deltas against it."""
    cache.read(keys.thread, stored.namespace, stored.values)
    versions = Versions(stored.versions, stored.seen)
    known = KnownVersions(versions, stored.entry_id, stored.checksum, stored.depth)
    cache.know_versions(keys.thread, stored.namespace, known)


def decode_view(keys: ThreadKeys, view: View, pieces: Pieces) -> StoredCheckpoint:
    """The checkpoint of a view. Raises `CorruptEntry`, naming thread and entry."""
    try:
        return from_view(view, pieces)
    except (Malformed, ValueError) as error:
        raise damaged(keys, error, view.entry_id) from error


def damaged(keys: ThreadKeys, error: Exception, entry_id: bytes) -> CorruptEntry | OverLimit:
    """The error for an entry that this project cannot have written, or that is above a limit."""
    if isinstance(error, TooLarge):
        return OverLimit(f"Thread {keys.thread.decode()!r}, entry {entry_id.decode(errors='replace')}: {error}.")
    return CorruptEntry(
        f"Entry {entry_id.decode(errors='replace')} of thread {keys.thread.decode()!r}: {error}. "
        "Restore the log from a backup, or delete the thread."
    )

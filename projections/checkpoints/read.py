"""Read one checkpoint: the latest from its head, any other through the index."""

from __future__ import annotations

from typing import Any, NamedTuple

from eventlog.codec import Malformed
from eventlog.errors import CorruptEntry, EventLogError, LogLost, SignatureInvalid
from eventlog.flow import Argument, Command, Flow, load_script
from eventlog.framing import ordered
from eventlog.keys import ThreadKeys, checkpoint_sort_key
from projections.integrity.signed_reads import check_views
from projections.log.index import call
from projections.values.cache import KnownVersions, ValueCache
from projections.values.pieces import Pieces
from projections.values.stored import Incomplete, StoredCheckpoint, View, from_head, from_view, head_fields
from projections.values.versions import Versions

__all__ = ["READ", "STORE_HEAD", "Found", "damaged", "decode_view", "read_checkpoint", "read_latest", "remember"]

READ = load_script("projections/checkpoints/read_checkpoint")
STORE_HEAD = load_script("projections/checkpoints/store_head")
ATTEMPTS = 20
"""Attempts to check what was read before the log moves on."""


class Found(NamedTuple):
    """A checkpoint that `read_checkpoint.lua` found in the log."""

    view: View
    pieces: Pieces
    last: bytes
    """The last entry of the log."""
    digest: bytes
    """The digest of the log."""

    @classmethod
    def in_reply(cls, reply: list[Any]) -> Found | None:
        """The checkpoint in a reply; None for a reply without one."""
        if reply[0] != b"view":
            return None
        _, view, flat, versions, last, digest = reply
        return cls(View(*view), Pieces(flat, versions), last, digest)


def read_latest(keys: ThreadKeys, namespace: str, *, ttl: int = 0) -> Flow[StoredCheckpoint | None]:
    """The checkpoint with the greatest id in a namespace, None if there is none.

    Takes one round trip where there is a head, two on a cluster. Without a head, the checkpoint is read from the log, and the
    head is rebuilt in one more round trip. A damaged or incomplete head costs one more.
    A read extends the life of an expiring thread by `ttl` ms (0: not at all). Raises as `projections.log.index.call`.
    """
    encoded = namespace.encode()
    ns_sort_key = ordered(encoded)
    heads = [keys.head(encoded), keys.head(b"")]
    if keys.signer is not None:
        return (yield from _read_signed(keys, [ttl, ns_sort_key, b"", 1], heads))
    then = Command("HGETALL", heads[0])
    *reply, head = yield from call(keys, READ, [ttl, ns_sort_key, b"", 0], heads, shared=True, then=then)
    if reply[0] == b"head":
        try:
            return from_head(head)
        except (Incomplete, Malformed):  # a put that came in between may have dropped the head
            reply = yield from call(keys, READ, [0, ns_sort_key, b"", 1], heads)
    found = Found.in_reply(reply)
    if found is None:
        return None
    stored = decode_view(keys, found.view, found.pieces)
    try:
        yield from call(keys, STORE_HEAD, [found.digest, *head_fields(found.view, found.pieces)], heads)
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
        return (yield from _read_signed(keys, arguments, heads))
    found = Found.in_reply((yield from call(keys, READ, arguments, heads, shared=True)))
    if found is None:
        return None
    stored = decode_view(keys, found.view, found.pieces)
    if (stored.namespace, stored.checkpoint_id) != (namespace, checkpoint_id):
        raise damaged(keys, Malformed(f"is not that of checkpoint {checkpoint_id!r}"), stored.entry_id)
    return stored


def _read_signed(keys: ThreadKeys, arguments: list[Argument], heads: list[bytes]) -> Flow[StoredCheckpoint | None]:
    """A checkpoint from the log, after checking every entry that it comes from.

    It is read again if the log has moved on, since entries may have been removed before they were checked.
    """
    refused_at, attempts = b"", 0
    while True:
        attempts += 1
        found = Found.in_reply((yield from call(keys, READ, arguments, heads)))
        if found is None:
            return None
        try:
            known = yield from check_views(keys, [found.view], found.pieces)
        except (CorruptEntry, SignatureInvalid):
            if found.digest == refused_at or attempts == ATTEMPTS:
                raise
            refused_at = found.digest
        else:
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


def damaged(keys: ThreadKeys, error: Exception, entry_id: bytes) -> CorruptEntry:
    """The error for an entry that this project cannot have written."""
    return CorruptEntry(
        f"Entry {entry_id.decode(errors='replace')} of thread {keys.thread.decode()!r}: {error}. "
        "Restore the log from a backup, or delete the thread."
    )

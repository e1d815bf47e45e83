"""Reading one checkpoint: the latest from its head, any other through the index."""

from __future__ import annotations

from eventlog.codec import Malformed
from eventlog.errors import CorruptEntry, EventLogError, LogLost
from eventlog.flow import Argument, Command, Flow, load_script
from eventlog.framing import ordered
from eventlog.keys import ThreadKeys, checkpoint_sort_key, split_sort_key
from projections.integrity.signed_reads import check_views
from projections.log.index import call
from projections.values.cache import KnownVersions, ValueCache
from projections.values.pieces import Pieces
from projections.values.stored import Incomplete, StoredCheckpoint, View, from_head, from_view, head_fields
from projections.values.versions import Versions

__all__ = ["read_checkpoint", "read_latest", "remember"]

READ = load_script("projections/checkpoints/read_checkpoint")
STORE_HEAD = load_script("projections/checkpoints/store_head")


def read_latest(keys: ThreadKeys, namespace: str, *, ttl: int = 0) -> Flow[StoredCheckpoint | None]:
    """The checkpoint with the greatest id in a namespace, None if there is none.

    One round trip where there is a head, on a cluster two; else it is put together from the log, and stored in one more. A head
    that lacks something or is damaged is but a view: it is made anew, with one more.
    `ttl` in ms: by how much reading prolongs the thread's life, 0 for none. Raises as `projections.log.index.call`.
    """
    encoded = namespace.encode()
    heads = [keys.head(encoded), keys.head(b"")]
    if keys.signer is not None:
        return (yield from _read_signed(keys, [ttl, ordered(encoded), b"", 1], heads))
    then = Command("HGETALL", heads[0])
    reply = yield from call(keys, READ, [ttl, ordered(encoded), b"", 0], heads, shared=True, then=then)
    if reply[0] == b"none":
        return None
    *reply, head = reply
    if reply[0] == b"head":
        try:
            return from_head(head)
        except (Incomplete, Malformed):  # a head is but a view; and it may have been dropped just then
            reply = yield from call(keys, READ, [0, ordered(encoded), b"", 1], heads)
            if reply[0] == b"none":
                return None
    _, digest, view, flat, versions, *_ = reply
    pieces = Pieces(flat, versions)
    found = decode_view(keys, view, pieces)
    try:
        yield from call(keys, STORE_HEAD, [digest, *head_fields(view, pieces)], heads)
    except (CorruptEntry, LogLost):
        raise
    except EventLogError:
        pass  # the answer is there: a replica, or a full server, need not take the head, which is but a view
    return found


def read_checkpoint(
    keys: ThreadKeys, namespace: str, checkpoint_id: str, *, ttl: int = 0
) -> Flow[StoredCheckpoint | None]:
    """The checkpoint with this id, None if there is none. One round trip. `ttl` and errors as in `read_latest`."""
    encoded = namespace.encode()
    place = checkpoint_sort_key(encoded, checkpoint_id.encode())
    heads = [keys.head(encoded), keys.head(b"")]
    if keys.signer is not None:
        return (yield from _read_signed(keys, [ttl, ordered(encoded), place, 0], heads))
    reply = yield from call(keys, READ, [ttl, ordered(encoded), place, 0], heads, shared=True)
    if reply[0] == b"none":
        return None
    found = decode_view(keys, reply[2], Pieces(reply[3], reply[4]))
    if (found.namespace, found.checkpoint_id) != (namespace, checkpoint_id):
        raise damaged(keys, Malformed(f"is not that of checkpoint {checkpoint_id!r}"), reply[2][5])
    return found


def _read_signed(keys: ThreadKeys, arguments: list[Argument], heads: list[bytes]) -> Flow[StoredCheckpoint | None]:
    """A checkpoint from the log, each entry that it comes from checked."""
    reply = yield from call(keys, READ, arguments, heads)
    if reply[0] == b"none":
        return None
    _, _, view, flat, versions, last, digest = reply
    pieces = Pieces(flat, versions)
    yield from check_views(keys, [view], pieces)
    keys.note(last, digest)
    return decode_view(keys, view, pieces)


def remember(cache: ValueCache, keys: ThreadKeys, stored: StoredCheckpoint) -> None:
    """Notes a checkpoint that was read, for what is put next."""
    cache.read(keys.thread, stored.namespace, stored.values)
    versions = Versions(stored.versions, stored.seen)
    known = KnownVersions(versions, stored.entry_id, stored.check, stored.depth)
    cache.know_versions(keys.thread, stored.namespace, known)


def decode_view(keys: ThreadKeys, view: View, pieces: Pieces) -> StoredCheckpoint:
    """The checkpoint a script found. Raises `CorruptEntry`, naming thread and entry."""
    try:
        return from_view(view, pieces)
    except (Malformed, ValueError) as error:
        raise damaged(keys, error, view[5]) from error


def damaged(keys: ThreadKeys, error: Exception, place: bytes = b"") -> CorruptEntry:
    """The error for bytes that this project did not write."""
    where = f"Entry {split_sort_key(place)[2].decode()} of" if place else "The head of"
    return CorruptEntry(
        f"{where} thread {keys.thread.decode()!r}: {error}. Restore the log from a backup (a head may simply be deleted), "
        "or delete the thread."
    )

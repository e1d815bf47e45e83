"""Delete a thread, even with a damaged log, or on a server that is out of memory."""

from __future__ import annotations

from eventlog.attribution import stamp
from eventlog.codec import encode
from eventlog.errors import EventLogError, ServerOutOfMemory
from eventlog.events import CheckpointSaved, ValuesSaved, WritesSaved, decode_entry
from eventlog.flow import Call, Flow, load_script
from eventlog.keys import ThreadKeys
from projections.log.index import rebuild_index
from projections.log.pages import scan_log

__all__ = ["delete_thread"]

DELETE_THREAD = load_script("projections/checkpoints/delete_thread")


def delete_thread(keys: ThreadKeys, *, only: bytes | None = None) -> Flow[bool]:
    """Delete every key of a thread and leave a tombstone in the feed.

    Returns False, and deletes nothing, if there is no such thread, or if the digest of its log is not `only`.
    Takes one round trip for a thread with checkpoints in the root namespace only, two for any other. A server that is out of
    memory refuses the tombstone: then all but the log's last entry is deleted, and the tombstone is tried again. If the server
    is still full, a later call completes the deletion.
    """
    namespaces = [b""]
    mode = b""
    made_room = False
    attribution = stamp()
    audit = b"" if attribution is None else encode(attribution)
    while True:
        heads = [keys.head(namespace) for namespace in namespaces]
        arguments = [keys.thread, only or b"", mode, audit, *namespaces]
        try:
            status, *rest = yield Call(DELETE_THREAD, [*keys.all, *heads], arguments)
        except ServerOutOfMemory:
            if made_room:
                raise
            made_room = True
            mode = b"make room"
            continue
        if status == b"namespaces":
            (namespaces,) = rest
        elif status == b"stale" and only is not None and not made_room:
            yield from rebuild_index(keys)
        elif status == b"stale":
            namespaces = yield from _namespaces_in_log(keys)
            mode = b"anyway"
        elif status == b"room":
            mode = b"anyway"
        else:
            if status != b"moved":
                keys.forget()
            return bool(status == b"ok")


def _namespaces_in_log(keys: ThreadKeys) -> Flow[list[bytes]]:
    """The namespaces that the readable entries of a log name."""
    found = {b""}
    after, more = b"", 1
    while more:
        entries, more, _ = yield from scan_log(keys, after)
        for after, flat in entries:
            try:
                event = decode_entry(keys.thread.decode(), after, flat).event
            except EventLogError:
                continue  # an unreadable entry is about to be deleted
            if isinstance(event, (CheckpointSaved, ValuesSaved, WritesSaved)):
                found.add(event.namespace.encode())
    return sorted(found)

"""Delete a thread, even with a damaged log or order, or on a server that is out of memory."""

from __future__ import annotations

from collections.abc import Sequence

from eventlog.attribution import stamp
from eventlog.codec import encode
from eventlog.errors import CorruptEntry, EventLogError, ServerFailedCommand, ServerOutOfMemory, is_of_contents
from eventlog.events import CheckpointSaved, ValuesSaved, WritesSaved, decode_entry
from eventlog.flow import Argument, Call, Command, Flow, load_script
from eventlog.keys import ThreadKeys
from projections.log.ended import forget_runs
from projections.log.index import rebuild_index
from projections.log.namespaces import namespaces_in, newest_of, stretches
from projections.log.pages import scan_log

__all__ = ["delete_thread"]

DELETE_THREAD = load_script("projections/checkpoints/delete_thread")


def delete_thread(keys: ThreadKeys, *, only: bytes | None = None) -> Flow[bool]:
    """Delete every key of a thread and leave a tombstone in the feed.

    Returns False, and deletes nothing, if there is no such thread, or if the digest of its log is not `only`.
    Takes one round trip for a thread with checkpoints in the root namespace only, two for any other, and some more per 1,000
    namespaces or runs beyond the first 1,000. A server that is out of memory refuses the tombstone: then all but the log's last
    entry is deleted, and the tombstone is tried again. If the server is still full, a later call completes the deletion.
    """
    namespaces = [b""]
    mode = b""
    is_cleared = is_mended = made_room = False
    attribution = stamp()
    audit = b"" if attribution is None else encode(attribution)
    while True:
        heads = [keys.head(namespace) for namespace in namespaces]
        arguments: list[Argument] = [keys.thread, only or b"", mode, audit, int(is_cleared), *namespaces]
        try:
            status, *rest = yield Call(DELETE_THREAD, [*keys.all, *heads], arguments)
        except ServerOutOfMemory:
            if made_room:
                raise
            made_room = True
            mode = b"make room"
            continue
        except ServerFailedCommand as error:
            if is_mended or not is_of_contents(error):
                raise
            is_mended = True
            status, rest = b"stale", []  # the order has members that are none
        if status == b"namespaces":
            (namespaces,) = rest
        elif status == b"many":
            yield from _clear_heads(keys, (yield from _namespaces_in_order(keys)))
            namespaces, is_cleared = [b""], True
        elif status == b"stale" and only is not None and not made_room:
            yield from rebuild_index(keys)
        elif status == b"stale":
            in_log = yield from _namespaces_in_log(keys)
            yield from _clear_heads(keys, [*{*namespaces, *in_log}])
            namespaces, is_cleared, mode = [b""], True, b"anyway"
        elif status == b"room":
            mode = b"make room" if rest[0] else b"anyway"
        elif status == b"moved":
            return False
        else:
            yield from _forget(keys, runs_left=bool(rest[0]))
            return bool(status == b"ok")


def _forget(keys: ThreadKeys, *, runs_left: bool) -> Flow[None]:
    """Forget a thread that is gone, and remove the runs of it that are left."""
    keys.forget()
    if runs_left:
        yield from forget_runs(keys.shared, keys.thread)


def _clear_heads(keys: ThreadKeys, namespaces: Sequence[bytes]) -> Flow[None]:
    """Delete the heads of namespaces before their thread is deleted.

    Heads are views, so the thread stays whole if it is not deleted after all. A head that a writer stores meanwhile expires within
    an hour, and belongs to no later thread of that name. The head of the root namespace does not expire, so the script deletes it.
    """
    heads = [keys.head(namespace) for namespace in namespaces]
    for first, end in stretches([(head,) for head in heads]):
        yield Command("UNLINK", heads[first], heads[first + 1 : end])


def _namespaces_in_order(keys: ThreadKeys) -> Flow[list[bytes]]:
    """The namespaces that the order names, or the log if the order has members that are none."""
    try:
        members = yield from newest_of(keys)
        return namespaces_in(keys, members or ())
    except (CorruptEntry, ServerFailedCommand) as error:
        if isinstance(error, ServerFailedCommand) and not is_of_contents(error):
            raise
        return (yield from _namespaces_in_log(keys))


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

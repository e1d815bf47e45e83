"""Making the views of a thread anew while agents go on.

Index and order are folded aside and put in the place of theirs when the fold has come to the log's end, heads by compare-and-set:
whoever reads meanwhile finds what was there before, or what is there then.
"""

from __future__ import annotations

from dataclasses import dataclass

from eventlog.codec import Malformed
from eventlog.errors import ThreadBusy, ThreadNotFound
from eventlog.flow import Call, Flow, load_script
from eventlog.framing import ordered
from eventlog.keys import Keyspace, ThreadKeys, split_sort_key
from projections.checkpoints.listing import NEWEST
from projections.checkpoints.read import READ, STORE_HEAD, damaged
from projections.log.index import call, check_log, rebuild_index
from projections.registry.rebuild import rebuild_registry
from projections.values.pieces import Pieces
from projections.values.stored import head_fields

__all__ = ["Rebuilt", "rebuild_known", "rebuild_thread"]

NOTE_EXPIRY = load_script("projections/maintenance/note_expiry")
ATTEMPTS = 200
"""How often something is tried to be put in place while the log moves on."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was made anew."""

    thread_id: str
    events: int
    checkpoints: int
    heads: int


def rebuild_thread(keys: ThreadKeys) -> Flow[Rebuilt]:
    """Makes index, order and the newest head of every namespace anew from the log.

    Round trips: two per 1000 events or 4 MiB of the log, two per namespace, and a few more for what is written meanwhile.
    Memory: two pages, what is laid ready of a third, the names of the namespaces, and a state at a time.

    Raises:
        ThreadNotFound: there is no such thread.
        LogLost, CorruptEntry: the log is gone or damaged; nothing was changed.
        ThreadBusy: the log moved on each time before something could be put in place.

    """
    index = yield from rebuild_index(keys)
    if index is None:
        yield from check_log(keys)
        raise ThreadNotFound(
            f"Thread {keys.thread.decode()!r} has no log: it does not exist, or has expired. Check the id, and the prefix."
        )
    heads = 0
    for _ in range(ATTEMPTS):
        (newest,) = yield Call(NEWEST, [keys.order, keys.log], [])
        if newest != 0:
            break
        yield from rebuild_index(keys)  # the order went away again
    else:
        raise _busy(keys)
    for member in newest:
        heads += yield from _rebuild_head(keys, split_sort_key(member[1:])[0].encode())
    return Rebuilt(keys.thread.decode(), index.entries, index.checkpoints, heads)


def rebuild_known(keyspace: Keyspace, keys: ThreadKeys) -> Flow[Rebuilt]:
    """`rebuild_thread`, with the registry of the thread's partition, which takes a round trip per 1000 pointers of its feed."""
    rebuilt = yield from rebuild_thread(keys)
    yield from rebuild_registry(keyspace, keys.shared)
    yield Call(NOTE_EXPIRY, [keys.log, keys.shared.threads, keys.shared.expiries], [keys.thread])
    return rebuilt


def _busy(keys: ThreadKeys) -> ThreadBusy:
    return ThreadBusy(
        f"Thread {keys.thread.decode()!r} was written to each time before its views could be put in place. They are as they were; "
        "call again when it is less busy."
    )


def _rebuild_head(keys: ThreadKeys, namespace: bytes) -> Flow[int]:
    """Puts the head of a namespace's newest checkpoint in place; 0 if there is none any more."""
    heads = [keys.head(namespace), keys.head(b"")]
    for _ in range(ATTEMPTS):
        reply = yield from call(keys, READ, [0, ordered(namespace), b"", 1], heads)
        if reply[0] == b"none":
            return 0
        _, digest, view, flat, versions, *_ = reply
        try:
            fields = head_fields(view, Pieces(flat, versions))
        except (Malformed, ValueError) as error:
            raise damaged(keys, error, view[5]) from error
        stored = yield from call(keys, STORE_HEAD, [digest, *fields], heads)
        if stored[0] == b"ok":
            return 1
    raise _busy(keys)

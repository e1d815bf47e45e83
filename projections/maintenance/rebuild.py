"""Rebuilds the views of a thread while agents go on.

Index and order are folded into staged keys. These are put in place when the fold has reached the log's end. Each page names the
entry that it continues from, so a stage that expired meanwhile is noticed and folded from the start. A head is put in place by
compare-and-set on the log's digest. Readers find either the old view or the new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from eventlog.codec import Malformed
from eventlog.errors import ThreadBusy, ThreadNotFound
from eventlog.flow import Call, Command, Flow, load_script
from eventlog.framing import ordered
from eventlog.keys import Keyspace, ThreadKeys
from projections.checkpoints.read import READ, STORE_HEAD, Found, damaged, writes_in_view
from projections.checkpoints.waiting import with_all_writes
from projections.log.index import call, check_log, rebuild_index
from projections.log.namespaces import namespaces_in, newest_of
from projections.registry.rebuild import rebuild_registry
from projections.values.stored import head_of_view

__all__ = ["Rebuilt", "rebuild_known", "rebuild_thread"]

NOTE_EXPIRY = load_script("projections/maintenance/note_expiry")
ATTEMPTS = 200
"""Attempts to put a view in place while the log moves on."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The size of a thread whose views were rebuilt."""

    thread_id: str
    events: int
    checkpoints: int
    heads: int


def rebuild_thread(keys: ThreadKeys) -> Flow[Rebuilt]:
    """Rebuilds index, order and the newest head of every namespace from the log.

    Round trips: two per 1000 events or 4 MiB of the log, two per namespace, and a few more for events that are appended meanwhile.
    Memory: two pages and a staged third, the names of the namespaces, and one state at a time.

    Raises:
        ThreadNotFound: there is no such thread.
        LogLost, CorruptEntry: the log is gone or damaged; nothing was changed.
        ThreadBusy: the log moved on during each attempt to put a view in place.

    """
    index = yield from rebuild_index(keys)
    if index is None:
        yield from check_log(keys)
        raise ThreadNotFound(
            f"Thread {keys.thread.decode()!r} has no log: it does not exist, or has expired. Check the id, and the prefix."
        )
    heads = 0
    for _ in range(ATTEMPTS):
        newest = yield from newest_of(keys)
        if newest is not None:
            break
        yield from rebuild_index(keys)  # the order was deleted again
    else:
        raise _busy(keys)
    for namespace in namespaces_in(keys, newest):
        heads += yield from _rebuild_head(keys, namespace)
    return Rebuilt(keys.thread.decode(), index.entries, index.checkpoints, heads)


def rebuild_known(keyspace: Keyspace, keys: ThreadKeys) -> Flow[Rebuilt]:
    """Rebuilds a thread's views, and the registry of its partition.

    Round trips and errors as `rebuild_thread`, and one round trip per 1000 pointers of the feed.
    """
    rebuilt = yield from rebuild_thread(keys)
    yield from rebuild_registry(keyspace, keys.shared)
    yield Call(NOTE_EXPIRY, [keys.log, keys.shared.threads, keys.shared.expiries], [keys.thread])
    return rebuilt


def _busy(keys: ThreadKeys) -> ThreadBusy:
    return ThreadBusy(
        f"Thread {keys.thread.decode()!r} was written to each time before its views could be put in place. They are unchanged. "
        "Call again when the thread is less busy."
    )


def _rebuild_head(keys: ThreadKeys, namespace: bytes) -> Flow[int]:
    """Stores the head of a namespace's newest checkpoint.

    Returns 1, or 0 if the namespace has no checkpoint any more, or if the head would be above a limit.
    """
    heads = [keys.head(namespace), keys.head(b"")]
    for _ in range(ATTEMPTS):
        read = partial(call, keys, READ, [0, ordered(namespace), b"", 1], heads)
        found = Found.in_reply(keys, (yield from with_all_writes(keys, read, writes_in_view)))
        if found is None:
            return 0
        try:
            fields = head_of_view(found.view, found.pieces, keys.limits)
        except (Malformed, ValueError) as error:
            raise damaged(keys, error, found.view.entry_id) from error
        if fields is None:
            yield Command("UNLINK", heads[0])
            return 0
        stored = yield from call(keys, STORE_HEAD, [found.digest, *fields], heads)
        if stored[0] == b"ok":
            return 1
    raise _busy(keys)

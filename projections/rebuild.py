"""Making the views of a thread anew while agents go on.

Index and order are folded aside and put in the place of theirs when the fold has come to the log's end, heads by compare-and-set:
whoever reads meanwhile finds what was there before, or what is there then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from secrets import token_hex

from eventlog.errors import CorruptEntry, ThreadBusy, ThreadNotFound
from eventlog.events import CheckpointSaved, Recorded, ThreadCopied, ValuesSaved, WritesSaved, decode_entry
from eventlog.flow import Call, Flow, load_script
from eventlog.keys import Keyspace, ThreadKeys, checkpoint_place, counted, ordered, split_place, value_name
from projections.checkpoint import head_fields
from projections.fold import Index
from projections.pieces import Pieces
from projections.read import READ, STORE_HEAD
from projections.registry import rebuild_registry
from projections.thread import (
    SCAN,
    SCAN_BYTES,
    SCAN_LOG,
    STAGE,
    STAGED_FOR,
    call,
    check_log,
    scan,
    stage_hash,
    stage_members,
    thread_script,
)

__all__ = ["Rebuilt", "rebuild_known", "rebuild_thread"]

NOTE_EXPIRY = load_script("projections/note_expiry")
STORE_INDEX = thread_script("store_index")
ATTEMPTS = 200
"""How often something is tried to be put in place while the log moves on."""
FRESH = 20
"""How often a fold is begun anew because entries were taken out of the log."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was made anew."""

    thread_id: str
    events: int
    checkpoints: int
    heads: int


@dataclass(slots=True)
class _Changes:
    """What some events change in the views."""

    fields: dict[bytes, bytes] = field(default_factory=dict)
    added: dict[bytes, None] = field(default_factory=dict)
    gone: dict[bytes, None] = field(default_factory=dict)
    moved: bool = False
    """Whether there were any events."""


def rebuild_thread(keys: ThreadKeys) -> Flow[Rebuilt]:
    """Makes index, order and the newest head of every namespace anew from the log.

    Round trips: two per 1000 events or 4 MiB of the log, two per namespace, and a few more for what is written meanwhile.
    Memory: the index, and a state at a time.

    Raises:
        ThreadNotFound: there is no such thread.
        LogLost, CorruptEntry: the log is gone or damaged; nothing was changed.
        ThreadBusy: the log moved on each time before something could be put in place.

    """
    index = yield from _rebuild_index(keys)
    if index is None:
        yield from check_log(keys)
        raise ThreadNotFound(
            f"Thread {keys.thread.decode()!r} has no log: it does not exist, or has expired. Check the id."
        )
    heads = 0
    for namespace in sorted({split_place(place)[0] for place in index.checkpoints}):
        heads += yield from _rebuild_head(keys, namespace.encode())
    return Rebuilt(keys.thread.decode(), index.entries, len(index.checkpoints), heads)


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


def _rebuild_index(keys: ThreadKeys) -> Flow[Index | None]:
    for _ in range(FRESH):
        index = yield from scan(keys)
        if not index.entries:
            return None
        token = token_hex(8).encode()
        staged = [keys.shared.stage(token, part) for part in (b"index", b"order")]
        yield from stage_hash(staged[0], index.hash())
        yield from stage_members(staged[1], list(index.members()))
        for _ in range(ATTEMPTS):
            changes = yield from _fold_on(keys, index)
            if changes is None:
                break
            yield from _stage(staged, index, changes)
            stored = yield Call(STORE_INDEX, [*keys.all, *staged], [keys.thread, index.last, index.entries, "keep"])
            if stored == -1:
                raise CorruptEntry(
                    f"The log of thread {keys.thread.decode()!r} ends with entry {index.last.decode()}; what came after was taken "
                    "out by hand. Restore the log from a backup, or delete the thread."
                )
            if stored:
                return index
    raise _busy(keys)


def _fold_on(keys: ThreadKeys, index: Index) -> Flow[_Changes | None]:
    """Folds what was appended since; what that changes. None if entries were taken out, so that the fold has to begin anew."""
    changes = _Changes()
    before = index.last
    more = 1
    while more:
        entries, more = yield Call(SCAN_LOG, [keys.log], [index.last, SCAN, SCAN_BYTES])
        for entry_id, flat in entries:
            recorded = decode_entry(keys.thread.decode(), entry_id, flat)
            event = recorded.event
            if recorded.sequence != index.sequence + 1 or not isinstance(
                event, (CheckpointSaved, ValuesSaved, WritesSaved, ThreadCopied)
            ):
                return None
            _note(changes, index, recorded)
    changes.moved = index.last != before
    return changes


def _note(changes: _Changes, index: Index, recorded: Recorded) -> None:
    """Folds an event in, with what it changes."""
    event = recorded.event
    if isinstance(event, ThreadCopied):
        index.add(recorded)
        return
    assert isinstance(event, (CheckpointSaved, ValuesSaved, WritesSaved))
    place = checkpoint_place(event.namespace.encode(), event.checkpoint_id.encode())
    if isinstance(event, CheckpointSaved):
        for letter, places in ((b"c", index.checkpoints), (b"h", index.hidden)):
            if place in places:
                changes.gone[letter + place + places[place]] = None
                changes.added.pop(letter + place + places[place], None)
    index.add(recorded)
    if isinstance(event, CheckpointSaved):
        changes.added[b"c" + place + recorded.entry_id] = None
    if isinstance(event, WritesSaved):
        changes.added[b"w" + place + ordered(event.task_id.encode()) + recorded.entry_id] = None
        return
    for channel, token in event.values:
        name = b"v" + counted(event.namespace.encode()) + value_name(channel.encode(), token.encode())
        changes.fields[name] = index.values[name]


def _stage(staged: Sequence[bytes], index: Index, changes: _Changes) -> Flow[None]:
    if not changes.moved:
        return
    hidden = b"%d" % len(index.hidden)
    state = {b"n": b"%d" % index.sequence, b"d": index.digest, b"l": index.last, b"c": b"%d" % index.entries}
    yield from stage_hash(staged[0], {**changes.fields, **state, **({} if hidden == b"0" else {b"h": hidden})})
    if hidden == b"0":
        yield Call(STAGE, [staged[0]], [STAGED_FOR, b"HDEL", b"h"])
    if changes.gone:
        yield Call(STAGE, [staged[1]], [STAGED_FOR, b"ZREM", *changes.gone])
    yield from stage_members(staged[1], list(changes.added))


def _rebuild_head(keys: ThreadKeys, namespace: bytes) -> Flow[int]:
    """Puts the head of a namespace's newest checkpoint in place; 0 if there is none any more."""
    heads = [keys.head(namespace), keys.head(b"")]
    for _ in range(ATTEMPTS):
        reply = yield from call(keys, READ, [0, ordered(namespace), b"", 1], heads)
        if reply[0] == b"none":
            return 0
        _, digest, view, flat, versions, *_ = reply
        stored = yield from call(keys, STORE_HEAD, [digest, *head_fields(view, Pieces(flat, versions))], heads)
        if stored[0] == b"ok":
            return 1
    raise _busy(keys)

"""Remove checkpoints from a thread, without anything that the others need.

`plan.py` decides which entries go. The script carries a plan out if the log has not moved on since; else the removal is planned
again. Many checkpoints are removed in several steps, each of which leaves a complete thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Union

from eventlog.codec import content_digest
from eventlog.errors import InvalidArgument, SignatureInvalid, ThreadBusy, ThreadNotFound
from eventlog.events import CheckpointSaved, HistoryPruned, Recorded, Removed, RunsDeleted, encode_event
from eventlog.flow import Argument, Flow, load_script
from eventlog.keys import ThreadKeys
from eventlog.signing import Known
from projections.checkpoints.deletion import delete_thread
from projections.checkpoints.plan import History, Plan, Replayed, plan, sort_key_of
from projections.integrity.findings import Verified
from projections.integrity.verify import verify_thread
from projections.log.fold import Index
from projections.log.index import call, check_log, scan

__all__ = ["Choice", "Describe", "carry_out_removal", "first_step", "read_history", "remove_checkpoints"]

REMOVE = load_script("projections/checkpoints/remove_checkpoints")

AT_ONCE = 1000
"""Most checkpoints removed in one step."""
PARTS = 3_000
"""Most values, entries of writes and checkpoints removed in one step, unless a single checkpoint has more."""
ATTEMPTS = 50

Choice = Callable[[Sequence[CheckpointSaved]], Iterable[CheckpointSaved]]
"""Chooses the checkpoints to remove among the listed ones of a thread, in the order they were saved."""
Describe = Callable[[Removed], Union[HistoryPruned, RunsDeleted]]
"""Makes the event of a removal."""


def remove_checkpoints(keys: ThreadKeys, choose: Choice, replayed: Replayed, describe: Describe) -> Flow[int]:
    """Remove the checkpoints that `choose` names, and return how many there were.

    If none is left, the thread is deleted.
    Takes one round trip per 1000 entries or 4 MiB of the log, and one per 1000 checkpoints.

    Raises:
        ThreadBusy: other writers changed the thread each time before the plan could be carried out.
        CorruptEntry, LogLost: see `projections.log.index.call`.

    """
    taken = failures = 0
    history: History | None = None
    while True:
        if history is None:
            history = yield from read_history(keys)
        listed = history.checkpoints()
        drop = [sort_key_of(event) for event in choose(list(listed.values()))]
        if not drop:
            yield from check_log(keys)
            return taken
        if len(drop) == len(listed):
            if (yield from delete_thread(keys, only=history.index.digest)):
                return taken + len(drop)
            history = None
        else:
            step = set(first_step(history, drop))
            history = yield from carry_out_removal(keys, history, plan(history, step, replayed), describe)
            taken += len(step) if history else 0
            if history and len(step) == len(drop):
                return taken
        if history is None:
            failures += 1
        if failures == ATTEMPTS:
            raise ThreadBusy(
                f"Thread {keys.thread.decode()!r} was written to each time before {len(drop)} of its checkpoints could be "
                "removed. Nothing is broken; call again when it is less busy."
            )


def first_step(history: History, drop: Sequence[bytes]) -> Sequence[bytes]:
    """The first checkpoints to remove, as many as one script may: at least one."""
    listed, parts = history.checkpoints(), 0
    for number, sort_key in enumerate(drop[:AT_ONCE]):
        parts += 1 + len(listed[sort_key].values) + len(history.index.writes.get(sort_key, ()))
        if parts > PARTS and number:
            return drop[:number]
    return drop[:AT_ONCE]


def carry_out_removal(keys: ThreadKeys, history: History, plan: Plan, describe: Describe) -> Flow[History | None]:
    """Carry a plan out, and return the history after it.

    Returns None if the log has moved on; then nothing was removed.
    """
    before = history.index
    if keys.signer is None and history.events and history.events[-1].signed:
        raise InvalidArgument(
            f"Thread {keys.thread.decode()!r} is signed: a removal without a key would spoil it. "
            "Pass the key that signs it, as signing_key or --key-file."
        )
    event = describe(plan.removed)
    known = _known(history)
    fields = keys.signed(encode_event(event), known)
    after = _folded([*plan.rest, Recorded(b"", before.sequence + 1, b"", event)])
    arguments: list[Argument] = [before.digest, event.kind, content_digest(fields), len(fields), *fields]
    for some in (plan.entries, *_differences(before, after)):
        arguments += (len(some), *some)
    namespaces = {namespace for namespace, _ in (*plan.removed.dropped, *plan.removed.hidden)}
    heads = [keys.head(namespace.encode()) for namespace in sorted(namespaces)]
    status, *rest = yield from call(keys, REMOVE, arguments, heads)
    if status != b"ok":
        return None
    entry_id, digest = rest
    keys.note(entry_id, digest, known)
    events = [*plan.rest, Recorded(entry_id, before.sequence + 1, digest, event, history.events[-1].signed, known.life)]
    return History(_folded(events), events)


def _known(history: History) -> Known:
    """The knowledge to sign a removal with, which has seen the last entry.

    The event of a removal is the last one afterwards, so the life of the last event is that of the log.
    """
    return Known(history.events[-1].life, history.index.last, history.index.digest)


def _differences(before: Index, after: Index) -> tuple[list[bytes], ...]:
    """The differences between two indexes, as `remove_checkpoints.lua` takes them.

    Index fields to delete, fields and values to set, order members to remove, scores and members to add.
    """
    had, has = before.places(), after.places()
    old_members, new_members = set(before.members()), set(after.members())
    return (
        [name for name in had if name not in has],
        [part for name, value in has.items() if had.get(name) != value for part in (name, value)],
        list(old_members - new_members),
        [part for member in new_members - old_members for part in (b"0", member)],
    )


def _folded(events: Iterable[Recorded]) -> Index:
    index = Index()
    for recorded in events:
        index.add(recorded)
    return index


def read_history(keys: ThreadKeys) -> Flow[History]:
    """A thread's history, for a removal.

    With a signer the log is verified first, since the removal will be signed.
    Takes one round trip per 1000 entries or 4 MiB of the log, and with a signer those of `verify_thread`.
    Raises `CorruptEntry`, or `SignatureInvalid` if the log was altered.
    """
    if keys.signer is not None:
        try:
            found: Verified | None = yield from verify_thread(keys)
        except ThreadNotFound:
            found = None  # there is nothing to remove
        if found is not None and found.of_log:
            raise SignatureInvalid(
                f"Thread {keys.thread.decode()!r}: {found.of_log[0].message}. Nothing was removed. Verify the thread, save what "
                "is left with export_threads(..., damaged=True), and restore its log from an export or a backup."
            )
        # a removal takes away what could show whether the log or the pointer is right
        if found is not None and not found.sound:
            raise SignatureInvalid(
                f"Thread {keys.thread.decode()!r}: {found.findings[0].message}. Nothing was removed."
            )
    history = History(Index())
    history.index = yield from scan(keys, history.events)
    return history

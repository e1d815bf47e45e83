"""Compares the heads of a thread with the states in its log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eventlog.codec import Malformed, paired
from eventlog.errors import CorruptEntry, ThreadBusy
from eventlog.flow import Argument, Call, Command, Flow
from eventlog.framing import ordered
from eventlog.keys import ThreadKeys
from projections.checkpoints.read import READ, Found, decode_view, writes_in_view
from projections.checkpoints.waiting import with_all_writes
from projections.log.scan_keys import shown
from projections.maintenance.compare import Difference
from projections.values.stored import Incomplete, StoredCheckpoint, from_head

__all__ = ["check_heads"]

ATTEMPTS = 100
COMPARED = {
    "namespace": "namespace",
    "parent_id": "parent",
    "body": "envelope",
    "versions": "versions",
    "seen": "versions seen",
    "writes": "pending writes",
}
"""Parts of a checkpoint that are compared, with their names in differences."""


def check_heads(keys: ThreadKeys, namespaces: Sequence[str]) -> Flow[tuple[int, list[Difference]]]:
    """The number of heads in some namespaces, and their differences from the log.

    Two round trips per namespace.
    """
    count, differences = 0, []
    for namespace in namespaces:
        fields, problems = yield from _check_head(keys, namespace.encode())
        count += bool(fields)
        where = f" of namespace {namespace!r}" if namespace else ""
        differences += [Difference("head", problem + where) for problem in problems]
    return count, differences


def _check_head(keys: ThreadKeys, namespace: bytes) -> Flow[tuple[Mapping[bytes, bytes], list[str]]]:
    """The fields of a head, and its differences from the log.

    The head is read after the log. A difference counts if the log has not moved on when both are read again.
    """
    key = keys.head(namespace)
    arguments: list[Argument] = [keys.thread, 0, ordered(namespace), b"", 1]
    reading = Call(READ, [*keys.all, key, keys.head(b"")], arguments, then=Command("HGETALL", key))

    def read() -> Flow[list[Any]]:
        return (yield reading)  # type: ignore[no-any-return]

    before: tuple[bytes, Mapping[bytes, bytes], list[str]] | None = None
    for _ in range(ATTEMPTS):
        try:
            reply, head = yield from with_all_writes(keys, read, lambda replies: writes_in_view(replies[0]))
        except CorruptEntry as error:
            return {}, [f"cannot be compared: {error}"]
        if reply[0] == b"gone":
            return {}, [f"cannot be compared: the log lacks entry {reply[1].decode(errors='replace')}"]
        found = Found.in_reply(keys, reply)
        if found is None:
            return {}, []
        if before is not None and before[0] == found.digest:
            return before[1:]
        fields = dict(head) if isinstance(head, Mapping) else paired(head)
        problems = _differences(keys, fields, decode_view(keys, found.view, found.pieces)) if fields else []
        if not problems:
            return fields, []
        before = found.digest, fields, problems
    raise ThreadBusy(
        f"Thread {keys.thread.decode()!r} was written to each time before its head could be compared. Call again later."
    )


def _differences(keys: ThreadKeys, fields: Mapping[bytes, bytes], log: StoredCheckpoint) -> list[str]:
    try:
        head = from_head(fields, keys.limits)
    except Incomplete:  # it lacks the value of a version, which readers take from the log
        if fields.get(b"id") == log.checkpoint_id.encode():
            return []
        return [f"is that of checkpoint {shown(fields.get(b'id', b''))!r}, the newest is {log.checkpoint_id!r}"]
    except Malformed as error:
        return [f"cannot be read: {error}"]
    if (head.checkpoint_id, head.entry_id) != (log.checkpoint_id, log.entry_id):
        newest = f"the newest is {log.checkpoint_id!r} in entry {shown(log.entry_id)}"
        return [f"is that of checkpoint {head.checkpoint_id!r} in entry {shown(head.entry_id)}, {newest}"]
    parts = [name for part, name in COMPARED.items() if getattr(head, part) != getattr(log, part)]
    channels = sorted({*head.values, *log.values})
    parts += [f"value of channel {name!r}" for name in channels if _content(head, name) != _content(log, name)]
    return [f"{part}: differs from the log" for part in parts]


def _content(state: StoredCheckpoint, channel: str) -> Any:
    value = state.values.get(channel)
    return value and value[:2]

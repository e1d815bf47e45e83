"""Compares the index and the order of a thread with a fold of its log."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from eventlog.codec import Malformed, counted_part
from eventlog.errors import CorruptEntry
from eventlog.flow import Flow
from eventlog.framing import unordered
from eventlog.keys import ThreadKeys, checkpoint_sort_key, split_sort_key, split_value_name
from projections.log.fold import Index
from projections.log.index import scan
from projections.log.scan_keys import names_in, shown
from projections.maintenance.compare import PAGE, Difference, Views, difference, read_views

__all__ = ["check_index"]

ATTEMPTS = 100
MOST = 1000
"""Most differences that are reported one by one."""
STATE = {
    b"n": "sequence number",
    b"d": "digest",
    b"l": "last entry",
    b"c": "number of entries",
    b"h": "number of hidden checkpoints",
}
"""Fields of an index that say where the log ends."""


class _Suspects(NamedTuple):
    """Names in the views that may differ from the fold, with the views' contents."""

    fields: dict[bytes, bytes | None]
    members: dict[bytes, float | None]


def check_index(keys: ThreadKeys, index: Index) -> Flow[list[Difference] | None]:
    """The differences of index and order from a fold of the log.

    Returns None if the log has to be folded from its start.
    The fold goes on when the log moves on. Round trips: one per 1000 names.
    """
    suspects = _Suspects(dict.fromkeys(index.hash()), dict.fromkeys(index.members()))
    expected_score: Callable[[bytes], float | None] = lambda _: 0  # noqa: E731 - all of these are in the fold
    scanned = False
    for _ in range(ATTEMPTS):
        suspects, views = yield from _look_at(keys, index, suspects, expected_score)
        expected_score = partial(_expected_score, index)
        if views is not None:
            if scanned or (views.fields, views.members) == _sizes(index):
                return _differences(index, suspects, views)
            fields = yield from names_in(keys.index, "HSCAN")
            members = yield from names_in(keys.order, "ZSCAN")
            suspects.fields.update((name, None) for name in fields if _expected_field(index, name) is None)
            suspects.members.update((name, None) for name in members if _expected_score(index, name) is None)
            scanned = True
        suspects.fields.update(dict.fromkeys(STATE))
        before = index.sequence
        try:
            yield from scan(keys, index=index)
        except CorruptEntry:  # the thread was recreated, or the log is damaged, which the next fold reports
            return None
        if views is None and index.sequence == before:  # entries were removed
            return None
    return None


def _look_at(
    keys: ThreadKeys, index: Index, suspects: _Suspects, expected_score: Callable[[bytes], float | None]
) -> Flow[tuple[_Suspects, Views | None]]:
    """Reads suspects, and returns those that differ, with the last reply.

    None stands for the reply if the log had moved on.
    """
    fields, members = list(suspects.fields), list(suspects.members)
    left, moved_on = _Suspects({}, {}), False
    for at in range(0, max(len(fields), len(members), 1), PAGE):
        names, scored = fields[at : at + PAGE], members[at : at + PAGE]
        views = yield from read_views((keys.log, keys.index, keys.order), names, scored)
        moved_on |= (views.last, views.length) != (index.last, index.entries)
        for name, value in zip(names, views.values, strict=True):
            if value != _expected_field(index, name):
                left.fields[name] = value
        for member, score in zip(scored, views.scores, strict=True):
            if score != expected_score(member):
                left.members[member] = score
    return left, None if moved_on else views


def _sizes(index: Index) -> tuple[int, int]:
    """The number of fields of the index, and of members of the order, by the fold."""
    writes = sum(map(len, index.writes.values()))
    return 4 + bool(index.hidden) + len(index.values), 1 + len(index.checkpoints) + len(index.hidden) + writes


def _expected_field(index: Index, name: bytes) -> bytes | None:
    """The value of a field of the index by the fold."""
    if name == b"h":
        return b"%d" % len(index.hidden) if index.hidden else None
    return index.values.get(name) if name[:1] == b"v" else index.state().get(name)


def _expected_score(index: Index, member: bytes) -> float | None:
    """The score of a member of the order by the fold."""
    try:
        return 0 if not member or _has_member(index, member) else None
    except ValueError:
        return None


def _has_member(index: Index, member: bytes) -> bool:
    namespace, checkpoint_id, rest = split_sort_key(member[1:])
    sort_key = checkpoint_sort_key(namespace.encode(), checkpoint_id.encode())
    if member[:1] == b"w":
        return unordered(rest) in index.writes.get(sort_key, ())
    entries = {b"c": index.checkpoints, b"h": index.hidden}.get(member[:1], {})
    return entries.get(sort_key) == rest


def _differences(index: Index, suspects: _Suspects, views: Views) -> list[Difference]:
    found = []
    for view, size in (("index", views.fields), ("order", views.members)):
        if not size:
            found.append(Difference(view, "missing; the next call on the thread rebuilds it"))
    if views.fields:
        for name, value in suspects.fields.items():
            found.append(Difference("index", _compared(_field_text(name), value, _expected_field(index, name))))
    if views.members:
        for member, score in suspects.members.items():
            found.append(Difference("order", _compared(_member_text(member), score, _expected_score(index, member))))
    return found[:MOST]


def _compared(subject: str, found: bytes | float | None, expected: bytes | float | None) -> str:
    return difference(subject, _text(found), _text(expected), "the log")


def _text(value: bytes | float | None) -> str | None:
    return shown(value) if isinstance(value, bytes) else None if value is None else f"score {value:g}"


def _field_text(name: bytes) -> str:
    """The meaning of a field of an index."""
    if name in STATE:
        return STATE[name]
    try:
        namespace, at = counted_part(name, 1)
        channel, version = split_value_name(name[at:])
    except (Malformed, ValueError):
        return f"field {name!r}"
    text = f"location of channel {channel.decode(errors='replace')!r}, version {version.decode(errors='replace')[1:]!r}"
    return text + _within(namespace.decode(errors="replace"))


def _member_text(member: bytes) -> str:
    """The meaning of a member of an order."""
    if not member:
        return "empty member, which says that the view is whole,"
    try:
        namespace, checkpoint_id, rest = split_sort_key(member[1:])
        if member[:1] == b"w":
            task, entry_id = unordered(rest)
            text = f"writes of task {task.decode()!r} to checkpoint {checkpoint_id!r} in entry {entry_id.decode()}"
        else:
            kind = {b"c": "checkpoint", b"h": "hidden checkpoint"}[member[:1]]
            text = f"{kind} {checkpoint_id!r} in entry {rest.decode()}"
    except (ValueError, KeyError):
        return f"member {member!r}"
    return text + _within(namespace)


def _within(namespace: str) -> str:
    return f" of namespace {namespace!r}" if namespace else ""

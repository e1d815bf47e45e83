"""Whether the views of a thread are what its log says.

Everything here only reads, and agents may write meanwhile: what looks wrong counts only once it was read together with the end of
the log that was folded; else the fold goes on and it is looked at again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from eventlog.codec import Malformed, counted_part, paired
from eventlog.errors import CorruptEntry, ThreadBusy, ThreadNotFound
from eventlog.flow import Batch, Call, Command, Flow, load_script
from eventlog.framing import counted, ordered, unordered
from eventlog.keys import PartitionKeys, ThreadKeys, checkpoint_sort_key, split_sort_key, split_value_name
from projections.checkpoints.read import READ, decode_view
from projections.log.fold import Index
from projections.log.index import scan
from projections.log.scan_keys import names_in, shown
from projections.values.pieces import Pieces
from projections.values.stored import Incomplete, StoredCheckpoint, from_head

__all__ = ["Checked", "Difference", "check_thread"]

CHECK_VIEWS = load_script("projections/maintenance/check_views")
PAGE = 1000
ATTEMPTS = 100
"""How often what looks wrong is looked at again while the log moves on."""
RIGHT = (b"0", 0.0)
"""The score of all members of an order, as either version of the protocol has it."""
MOST = 1000
"""Differences of a view that are told one by one."""
_STATE = {
    b"n": "sequence number",
    b"d": "digest",
    b"l": "last entry",
    b"c": "number of entries",
    b"h": "number of hidden checkpoints",
}


class Difference(NamedTuple):
    """Something in a view that the log does not say."""

    view: str
    """"log", "index", "order", "head" or "registry"."""
    what: str
    """What differs, with what is there and what should be."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check of a thread found."""

    thread_id: str
    events: int
    checkpoints: int
    namespaces: int
    heads: int
    """Heads that were compared: those there are, unless index or order are wrong, through which the log is read."""
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no difference."""
        return not self.differences


class Views(NamedTuple):
    """What `check_views.lua` replies."""

    last: bytes
    length: int
    fields: int
    members: int
    values: Sequence[bytes | None]
    scores: Sequence[bytes | float | None]


class _Doubts:
    """Names that are to be looked at, with what they had when they were looked at last."""

    def __init__(self, fields: Iterable[bytes], members: Iterable[bytes]) -> None:
        self.fields: dict[bytes, bytes | None] = dict.fromkeys(fields)
        self.members: dict[bytes, bytes | None] = dict.fromkeys(members)

    def pages(self) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Some at a time; once at least."""
        fields, members = list(self.fields), list(self.members)
        for first in range(0, len(fields) or 1, PAGE):
            yield fields[first : first + PAGE], []
        for first in range(0, len(members), PAGE):
            yield [], members[first : first + PAGE]


def check_thread(keys: ThreadKeys) -> Flow[Checked]:
    """Compares index, order, heads and registry of a thread with a fold of its log, and the heads with the state in the log.

    A view that is missing is told as well, but for heads, which forks drop. A log that is damaged is a difference, too.
    Round trips: one per 1000 events or 4 MiB of the log, one per 1000 names in its views, two per namespace, and a few more.
    Memory: the index, and a state at a time.

    Raises:
        ThreadNotFound: there is no trace of the thread.
        ThreadBusy: the log moved on each time before a difference could be made sure of.

    """
    thread = keys.thread.decode()
    told: Checked | None = None
    for _ in range(ATTEMPTS):
        try:
            index = yield from scan(keys)
            without = None if index.entries else (yield from _without_log(keys))
        except CorruptEntry as error:
            without = Checked(thread, 0, 0, 0, 0, (Difference("log", str(error)),))
        if without is not None:
            if without == told:
                return without
            told = without  # looked at twice: a thread that was deleted and begun anew just then looks so too
            continue
        found = yield from _views(keys, index)
        if found is None:
            continue
        heads, wrong = (0, []) if found else (yield from _heads(keys, index))
        found += wrong
        found += yield from _registry(keys, bool(index.checkpoints or index.hidden))
        namespaces = len(_namespaces(index))
        return Checked(thread, index.entries, len(index.checkpoints), namespaces, heads, tuple(found))
    raise ThreadBusy(
        f"Thread {thread!r} was written to each time before its views could be compared. Call again when it is less busy."
    )


def _without_log(keys: ThreadKeys) -> Flow[Checked]:
    thread = keys.thread.decode()
    commands = [Command("EXISTS", key) for key in (keys.index, keys.order, keys.head(b""))]
    commands += [Command("ZSCORE", key, [b"t" + keys.thread]) for key in (keys.shared.threads, keys.shared.expiries)]
    *views, known, end = yield Batch(commands)
    if end is None and (any(views) or known is not None):
        told = "is gone, though the thread was not deleted: restore it from a backup, or delete the thread"
        return Checked(thread, 0, 0, 0, 0, (Difference("log", told),))
    raise ThreadNotFound(
        f"Thread {thread!r} has no log: it does not exist, or has expired. Check the id, and the prefix."
    )


def read_views(
    stream: bytes, hash_: bytes, members: bytes, fields: Sequence[bytes], names: Sequence[bytes]
) -> Flow[Views]:
    """Fields of a hash and members of a sorted set, with the end of the stream they are views of. One round trip."""
    return Views(*(yield Call(CHECK_VIEWS, [stream, hash_, members], [len(fields), *fields, *names])))


def _views(keys: ThreadKeys, index: Index) -> Flow[list[Difference] | None]:
    """What index and order have otherwise; None if the log has to be folded again."""
    doubts = _Doubts(list(index.hash()), list(index.members()))
    walked = False
    for attempt in range(ATTEMPTS):
        doubts, views = yield from _doubtful(keys, index, doubts, sure=not attempt)
        if views is not None and (walked or (views.fields, views.members) == _sizes(index)):
            return _told(index, doubts, views)
        if views is not None:  # something is too much, or missing
            walked = True
            fields = yield from names_in(keys.index, "HSCAN")
            members = yield from names_in(keys.order, "ZSCAN")
            doubts.fields.update((name, None) for name in fields if expected_field(index, name) is None)
            doubts.members.update((name, None) for name in members if not has_member(index, name))
        doubts.fields.update(dict.fromkeys(_STATE))
        before = index.sequence
        try:
            yield from scan(keys, index=index)
        except CorruptEntry:  # deleted and begun anew, or damaged, which the next fold tells
            return None
        if views is None and index.sequence == before:  # entries were taken out
            return None
    return None


def _sizes(index: Index) -> tuple[int, int]:
    writes = sum(map(len, index.writes.values()))
    return 4 + bool(index.hidden) + len(index.values), 1 + len(index.checkpoints) + len(index.hidden) + writes


def expected_field(index: Index, name: bytes) -> bytes | None:
    """What a fold says of a field of the index."""
    if name[:1] == b"v":
        return index.values.get(name)
    if name == b"h":
        return b"%d" % len(index.hidden) if index.hidden else None
    state = {b"n": b"%d" % index.sequence, b"d": index.digest, b"l": index.last, b"c": b"%d" % index.entries}
    return state.get(name)


def has_member(index: Index, member: bytes) -> bool:
    """Whether a fold has a member of the order."""
    if not member:
        return True
    try:
        namespace, checkpoint_id, rest = split_sort_key(member[1:])
        place = checkpoint_sort_key(namespace.encode(), checkpoint_id.encode())
        if member[:1] == b"w":
            return unordered(rest) in index.writes.get(place, ())
    except ValueError:
        return False
    places = {b"c": index.checkpoints, b"h": index.hidden}.get(member[:1], {})
    return places.get(place) == rest


def _doubtful(keys: ThreadKeys, index: Index, doubts: _Doubts, *, sure: bool) -> Flow[tuple[_Doubts, Views | None]]:
    """What of some names is otherwise than in a fold (`sure`: all members are its own); what was read last, None if the log was not
    where the fold ends.
    """
    left, settled, views = _Doubts([], []), True, None
    for fields, names in doubts.pages():
        views = yield from read_views(keys.log, keys.index, keys.order, fields, names)
        settled = settled and (views.last, views.length) == (index.last, index.entries)
        for name, value in zip(fields, views.values, strict=True):
            if value != expected_field(index, name):
                left.fields[name] = value
        for name, score in zip(names, views.scores, strict=True):
            there = score is not None
            if there != (sure or has_member(index, name)) or (there and score not in RIGHT):
                left.members[name] = None if score is None else b"score %d" % int(float(score))
    return left, views if settled else None


def _told(index: Index, doubts: _Doubts, views: Views) -> list[Difference]:
    """The differences in words."""
    told = []
    for view, size in (("index", views.fields), ("order", views.members)):
        if not size:
            told.append(Difference(view, "missing; the next call on the thread makes it anew"))
    if views.fields:
        told += [
            Difference("index", _said(field_text(name), value, expected_field(index, name)))
            for name, value in doubts.fields.items()
        ]
    if views.members:
        told += [
            Difference("order", _said(member_text(name), score, b"score 0" if has_member(index, name) else None))
            for name, score in doubts.members.items()
        ]
    return told[:MOST]


def _said(what: str, found: bytes | None, wanted: bytes | None) -> str:
    if found is None:
        return f"{what}: is missing"
    if wanted is None:
        return f"{what}: is there, the log does not have it"
    return f"{what}: is {shown(found)}, by the log {shown(wanted)}"


def field_text(name: bytes) -> str:
    """What a field of an index says, in words."""
    if name in _STATE:
        return _STATE[name]
    try:
        namespace, at = counted_part(name, 1)
        channel, token = split_value_name(name[at:])
    except (Malformed, ValueError):
        return f"field {name!r}"
    version = token.decode(errors="replace")[1:]
    return f"place of channel {channel.decode(errors='replace')!r}, version {version!r}" + _within(namespace)


def member_text(member: bytes) -> str:
    """What a member of an order says, in words."""
    if not member:
        return "mark that it is whole"
    try:
        namespace, checkpoint_id, rest = split_sort_key(member[1:])
        if member[:1] == b"w":
            task, entry_id = unordered(rest)
            told = f"writes of task {task.decode()!r} to checkpoint {checkpoint_id!r} in entry {entry_id.decode()}"
            return told + _within(namespace.encode())
        kind = {b"c": "checkpoint", b"h": "hidden checkpoint"}[member[:1]]
        return f"{kind} {checkpoint_id!r} in entry {rest.decode()}" + _within(namespace.encode())
    except (ValueError, KeyError):
        return f"member {member!r}"


def _within(namespace: bytes) -> str:
    return f" of namespace {namespace.decode(errors='replace')!r}" if namespace else ""


def _namespaces(index: Index) -> list[str]:
    return sorted({split_sort_key(place)[0] for place in index.checkpoints})


def _heads(keys: ThreadKeys, index: Index) -> Flow[tuple[int, list[Difference]]]:
    """How many heads there are, and in what they differ from the log."""
    count, found = 0, []
    for namespace in _namespaces(index):
        there, differences = yield from _head(keys, namespace)
        count += there
        found += [Difference("head", text + _within(namespace.encode())) for text in differences]
    return count, found


def _head(keys: ThreadKeys, namespace: str) -> Flow[tuple[int, list[str]]]:
    """Whether a namespace has a head, and in what that differs from the log.

    It is read behind the log, and counts if the log is where it was when it is read again.
    """
    encoded = namespace.encode()
    key = keys.head(encoded)
    reading = Call(
        READ, [*keys.all, key, keys.head(b"")], [keys.thread, 0, ordered(encoded), b"", 1], then=Command("HGETALL", key)
    )
    before: tuple[bytes, int, list[str]] | None = None
    for _ in range(ATTEMPTS):
        reply, head = yield reading
        if reply[0] == b"gone":
            return 0, [f"cannot be compared: the log lacks entry {reply[1].decode(errors='replace')}"]
        if reply[0] != b"view":
            return 0, []
        if before is not None and before[0] == reply[1]:
            return before[1:]
        fields = dict(head) if isinstance(head, Mapping) else paired(head)
        found = _against_log(fields, decode_view(keys, reply[2], Pieces(reply[3], reply[4]))) if fields else []
        if not found:
            return int(bool(fields)), []
        before = reply[1], 1, found
    raise ThreadBusy(
        f"Thread {keys.thread.decode()!r} was written to each time its head was compared. Call again later."
    )


def _against_log(fields: Mapping[bytes, bytes], log: StoredCheckpoint) -> list[str]:
    try:
        head = from_head(fields)
    except Incomplete:  # a version that was named without its value, which readers take from the log
        if fields.get(b"id") == log.checkpoint_id.encode():
            return []
        return [f"is that of checkpoint {shown(fields.get(b'id', b''))!r}, the newest is {log.checkpoint_id!r}"]
    except Malformed as error:
        return [f"cannot be read: {error}"]
    if (head.checkpoint_id, head.entry_id) != (log.checkpoint_id, log.entry_id):
        newest = f"the newest is {log.checkpoint_id!r} in entry {shown(log.entry_id)}"
        return [f"is that of checkpoint {head.checkpoint_id!r} in entry {shown(head.entry_id)}, {newest}"]
    parts = ("namespace", "parent_id", "body", "versions", "seen", "writes")
    names = {"parent_id": "parent", "body": "envelope", "seen": "versions seen", "writes": "pending writes"}
    found = [
        f"{names.get(part, part)}: otherwise than in the log"
        for part in parts
        if getattr(head, part) != getattr(log, part)
    ]
    for channel in sorted({*head.values, *log.values}):
        mine, other = head.values.get(channel), log.values.get(channel)
        if (mine and mine[:2]) != (other and other[:2]):
            found.append(f"value of channel {channel!r}: otherwise than in the log")
    return found


def _registry(keys: ThreadKeys, registered: bool) -> Flow[list[Difference]]:  # noqa: FBT001 - what the log says
    """What the partition's views have otherwise of a thread that has a log. Looked at twice, since a writer may be at it."""
    found = yield from _registry_once(keys, registered=registered)
    return found and (yield from _registry_once(keys, registered=registered))


def _registry_once(keys: ThreadKeys, *, registered: bool) -> Flow[list[Difference]]:
    shared, name = keys.shared, b"t" + keys.thread
    told = b"t" + counted(keys.thread)
    whole = [Command("ZSCORE", key, [b""]) for key in (shared.threads, shared.runs, shared.expiries)]
    rest = [Command("ZSCORE", key, [name]) for key in (shared.threads, shared.expiries)]
    asked = [
        *whole,
        *rest,
        Command("PTTL", keys.log),
        Command("ZRANGEBYLEX", shared.runs, [b"[" + told, b"(" + told + b"\xff"]),
    ]
    threads, runs, expiries, known, end, left, mine = yield Batch(asked)
    if left == -2:  # expired just then
        return []
    found = [
        Difference("registry", f"{view}: missing; the next list of all threads makes it anew")
        for view, mark in (("threads", threads), ("runs", runs), ("expiries", expiries))
        if mark is None
    ]
    if threads is not None and registered and known is None:
        found.append(Difference("registry", "threads: the thread is missing"))
    if expiries is not None and registered and (left >= 0) != (end is not None):
        told_end = "is missing" if end is None else "is noted, its log has none"
        found.append(Difference("registry", f"expiries: the thread's end {told_end}"))
    if runs is not None and mine:
        found += yield from _runs(shared, keys.thread, [member[len(told) :] for member in mine])
    return found


def _runs(shared: PartitionKeys, thread: bytes, runs: Sequence[bytes]) -> Flow[list[Difference]]:
    scores: list[Any] = []
    for first in range(0, len(runs), PAGE):
        some = [Command("ZSCORE", shared.runs, [b"r" + counted(run) + thread]) for run in runs[first : first + PAGE]]
        scores += yield Batch(some)
    missing: Iterable[bytes] = (run for run, score in zip(runs, scores, strict=True) if score is None)
    return [
        Difference("registry", f"runs: run {shown(run)!r} does not name the thread, which names it") for run in missing
    ]

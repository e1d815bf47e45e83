"""Appends an event by the commands of one transaction, given how its thread stands.

A script reads how a thread stands (`standing.lua`), and the driver watches the thread's keys from then on. If nobody touches them,
the next event needs no script: the commands follow from the standing and the event, and so does the next standing. This module
makes them. It is pure.

The commands do what `save_checkpoint.lua` and `save_writes.lua` do in their most frequent case: a checkpoint whose parent is the
head and whose id is the greatest, and the first writes of a task for the head or for a later checkpoint. In any other case there is
no transaction. The log comes first: if a later command failed, the next call would find that index and log differ, and rebuild the
index.

Only log, index, order and head are watched. The feed and the view `threads` change with every thread of the partition, so a short
script writes them (`announce.lua`). Entry ids come from the server's clock as the driver knows it, which lags by half a round trip.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha1
from typing import Any, NamedTuple

from eventlog.codec import NO_CHECK, base_of, counted_part, delta_start, is_delta, paired
from eventlog.flow import Argument, Call, Transact, Transaction, Watch, load_script
from eventlog.framing import counted, ordered, unordered
from eventlog.keys import ThreadKeys, value_name
from eventlog.memory import Seen
from projections.values.cache import Prepared
from projections.values.pieces import SMALLEST
from projections.values.stored import HEAD_WRITES

__all__ = ["Chain", "Checkpoint", "Draft", "Head", "Pointer", "Standing", "append_checkpoint", "append_writes", "watch"]

STANDING = load_script("projections/checkpoints/standing")
ANNOUNCE = re.sub(rb"^--.*\n+", b"", load_script("projections/checkpoints/announce").source, flags=re.MULTILINE)
RECENT = 32
"""Events that a call may not have seen yet, since other calls of its thread append them at the same time."""
EARLY, EARLY_BYTES = 64, 4096
"""Entries of writes that wait for their checkpoint, and bytes of each, which are kept in memory."""
IDLE = 3600 * 1000
"""Life in ms of an unused head of a namespace other than the root, as in `log.lua`."""


class Chain(NamedTuple):
    """The pieces that a head has of a channel."""

    deltas: int
    size: int | None
    """Their bytes, as the head counts them; None if they are not known."""
    end: bytes
    """Entry of the last piece, checksum and version key, as in the head's field `#`; empty for a short value."""


class Head(NamedTuple):
    """A namespace's head; `projections/values/stored.py` describes its fields."""

    id: bytes
    entry_id: bytes
    writes: int
    changes: int
    checksum: bytes
    value_bytes: int
    write_bytes: int
    chains: Mapping[bytes, Chain]
    tasks: frozenset[bytes]
    """The tasks with writes, `ordered`."""


EMPTY: Mapping[bytes, Any] = {}


class Standing(NamedTuple):
    """A thread at the end of its log, with the head of one namespace."""

    sequence: int
    digest: bytes
    entry_id: bytes
    removed: int
    head_key: bytes
    head: Head
    run: bytes
    """A run that is known to have written to the thread, '' if none is."""
    versions: Mapping[str, str] | None
    """The versions that the head's checkpoint names, if they are known."""
    recent: tuple[bytes, ...]
    """The digests of some last events of the log, its own last."""
    early: Mapping[bytes, Mapping[bytes, bytes]] = EMPTY
    """Of each later checkpoint the tasks with writes that wait for it, and the writes as one field of a head."""
    at: int = 0
    """The ms at which a transaction made the log end so. The server's clock is not behind it."""

    @property
    def end(self) -> list[bytes]:
        """The end of the log, as the scripts report it."""
        return [b"%d" % self.sequence, self.entry_id, self.digest, b"%d" % self.removed, b"%d" % self.at]


class Pointer(NamedTuple):
    """The fields of a pointer that its event does not have."""

    source: bytes
    step: bytes
    run: bytes
    channels: bytes
    nodes: bytes


class Draft(NamedTuple):
    """An event that is about to be appended."""

    head_key: bytes
    namespace: bytes
    checkpoint_id: bytes
    sort_key: bytes
    fields: Sequence[bytes]
    content: bytes
    """The digest of the fields."""
    pointer: Pointer
    seen: Seen | None
    """The end of the log that the caller saw last."""


class Checkpoint(NamedTuple):
    """What is known of a checkpoint beside its draft."""

    parent: bytes
    versions: Mapping[str, str]
    values: Mapping[tuple[str, str], Prepared]
    known: Sequence[Argument]
    """How the versions without a value are known, as `save_checkpoint.lua` takes it."""

    def is_whole(self, standing: Standing) -> bool:
        """Whether the log has the versions that the checkpoint names and does not bring."""
        removed, unknown, *_ = self.known
        if not unknown and removed in (b"", standing.removed):
            return True
        found = standing.versions or {}
        return all(found.get(name) == key for name, key in self.versions.items() if (name, key) not in self.values)


def watch(
    keys: ThreadKeys,
    head_key: bytes,
    ns_sort_key: bytes,
    seen: Seen | None,
    checkpoint: tuple[bytes, bytes, Mapping[str, str]] | None = None,
) -> Watch:
    """Watches a thread after a script appended an event to what was `seen`.

    `checkpoint` is the event's run, id and versions, None for writes.
    """

    def standing(reply: Any) -> Standing | None:
        try:
            found = _standing_in(reply, head_key) if reply else None
        except ValueError:  # in views that were damaged; a script finds out
            return None
        if found is None or checkpoint is None or checkpoint[1] != found.head.id:
            return found
        run, _, versions = checkpoint
        return found._replace(run=run, versions=versions)

    last = (b"", b"") if seen is None else (seen.entry_id, seen.digest)
    read = Call(STANDING, [*keys.all, head_key], [keys.thread, ns_sort_key, *last])
    return Watch(keys.log, [keys.log, keys.index, keys.order, head_key], read, standing)


def _standing_in(reply: Sequence[Any], head_key: bytes) -> Standing:
    """The standing in a reply of `standing.lua`. Raises `ValueError`."""
    sequence, digest, entry_id, count, found, writes, values, before = reply
    checkpoint_id, at, w, b, checksum, vb, wb = found
    fields, chains = paired(values), {}
    for name, size in fields.items():
        if name[:1] == b"=":
            deltas, _, end = fields.get(b"#" + name[1:], b"0").partition(b":")
            number = _small(deltas)
            chains[name[1:]] = Chain(number, None if number else size, end)
    tasks = frozenset(ordered(unordered(member)[0]) for member in writes)
    head = Head(checkpoint_id, at, _small(w), _small(b or b"0"), checksum, int(vb), int(wb), chains, tasks)
    removed, recent = int(sequence) - int(count), tuple(filter(None, (before, digest)))
    return Standing(int(sequence), digest, entry_id, removed, head_key, head, b"", None, recent)


def _small(number: bytes) -> int:
    """A number of fields of a head. Raises `ValueError` for more than a head has that `standing.lua` reads."""
    if not number.isdigit() or int(number) > 1000:
        raise ValueError("no head has so many fields")
    return int(number)


def append_checkpoint(keys: ThreadKeys, draft: Draft, checkpoint: Checkpoint) -> Transact:
    """The transaction that appends a checkpoint."""

    def plan(standing: Standing, now: int) -> Transaction | None:
        return checkpoint_commands(keys, standing, now, draft, checkpoint)

    return Transact(keys.log, plan)


def append_writes(keys: ThreadKeys, draft: Draft, task: bytes) -> Transact:
    """The transaction that appends the writes of a task, which is `ordered`."""

    def plan(standing: Standing, now: int) -> Transaction | None:
        return writes_commands(keys, standing, now, draft, task)

    return Transact(keys.log, plan)


def checkpoint_commands(
    keys: ThreadKeys, standing: Standing, now: int, draft: Draft, checkpoint: Checkpoint
) -> Transaction | None:
    """The commands that append a checkpoint; None if they do not follow from the standing."""
    before, own = standing.head, paired(draft.fields)
    continues = (
        draft.seen is not None
        and draft.seen.digest in standing.recent
        and draft.head_key == standing.head_key
        and before.id == checkpoint.parent
        and ordered(before.id) < ordered(draft.checkpoint_id)
        and own.get(b"b") in (None, counted(before.entry_id) + before.checksum)
        and draft.pointer.run in (b"", standing.run)
        and checkpoint.is_whole(standing)
    )
    if not continues:
        return None
    after = _appended(standing, now, draft)
    entry_id, prefix = after.entry_id, b"v" + counted(draft.namespace)
    index: list[bytes] = []
    fields, gone = _versions(before, own)
    chains, size = dict(before.chains), before.value_bytes
    for (channel, version), prepared in checkpoint.values.items():
        name, key = channel.encode(), version.encode()
        index += (prefix + value_name(name, key), entry_id + (prepared.checksum or NO_CHECK))
        moved = _moved(chains.get(name), name, key, prepared, entry_id, fields, gone)
        if moved is None:
            return None
        chains[name], more = moved
        size += more
    early: Mapping[bytes, bytes] = standing.early.get(draft.checkpoint_id, EMPTY)
    count, write_bytes = len(early), sum(map(len, early.values()))
    if size + write_bytes > keys.limits.head_bytes:
        return None
    gone += (b"!%d" % number for number in range(count + 1, before.writes + 1))
    fields += (b"id", draft.checkpoint_id, b"at", entry_id, b"p", checkpoint.parent, b"e", own[b"e"])
    fields += (b"w", b"%d" % count, b"vb", b"%d" % size, b"wb", b"%d" % write_bytes)
    for number, packed in enumerate(early.values(), 1):
        fields += (b"!%d" % number, packed)
    changes = before.changes + 1 if b"b" in own else 0
    checksum, tasks = own.get(b"y", b""), frozenset(early)
    head = Head(draft.checkpoint_id, entry_id, count, changes, checksum, size, write_bytes, chains, tasks)
    after = after._replace(head=head, versions=checkpoint.versions, early=_later(standing, draft))
    commands = _commands(keys, after, draft, index, b"c" + draft.sort_key + entry_id)
    commands.insert(-1, (b"HSET", draft.head_key, *fields))
    if gone:
        commands.insert(-1, (b"HDEL", draft.head_key, *gone))
    return _transaction(keys, after, now, commands)


def writes_commands(keys: ThreadKeys, standing: Standing, now: int, draft: Draft, task: bytes) -> Transaction | None:
    """The commands that append the writes of a task; None if they do not follow from the standing."""
    before = standing.head
    if not (draft.seen and draft.seen.digest in standing.recent and draft.head_key == standing.head_key):
        return None
    if before.id != draft.checkpoint_id:
        return _early_commands(keys, standing, now, draft, task)
    packed = _packed_writes(draft.fields)
    count, size = before.writes + 1, before.write_bytes + len(packed)
    if task in before.tasks or count > HEAD_WRITES or before.value_bytes + size > keys.limits.head_bytes:
        return None
    after = _appended(standing, now, draft)
    head = before._replace(writes=count, write_bytes=size, tasks=before.tasks | {task})
    fields = (b"w", b"%d" % count, b"wb", b"%d" % size, b"!%d" % count, packed)
    commands = _commands(keys, after, draft, [], b"w" + draft.sort_key + task + after.entry_id)
    commands.insert(-1, (b"HSET", draft.head_key, *fields))
    return _transaction(keys, after._replace(head=head), now, commands)


def _early_commands(keys: ThreadKeys, standing: Standing, now: int, draft: Draft, task: bytes) -> Transaction | None:
    """The commands that append writes before their checkpoint; they leave the head alone."""
    tasks, packed = standing.early.get(draft.checkpoint_id, EMPTY), _packed_writes(draft.fields)
    is_later = ordered(standing.head.id) < ordered(draft.checkpoint_id)
    if not is_later or task in tasks or len(packed) > EARLY_BYTES or sum(map(len, standing.early.values())) >= EARLY:
        return None
    after = _appended(standing, now, draft)
    early = {**standing.early, draft.checkpoint_id: {**tasks, task: packed}}
    commands = _commands(keys, after, draft, [], b"w" + draft.sort_key + task + after.entry_id)
    return _transaction(keys, after._replace(early=early), now, commands)


def _later(standing: Standing, draft: Draft) -> Mapping[bytes, Mapping[bytes, bytes]]:
    """The writes that still wait for a checkpoint once the draft's is there."""
    if not standing.early:
        return EMPTY
    own = ordered(draft.checkpoint_id)
    return {name: tasks for name, tasks in standing.early.items() if ordered(name) > own}


def _appended(standing: Standing, now: int, draft: Draft) -> Standing:
    """The end of the log after an event, as `append` in `log.lua` makes it."""
    entry_id = b"%d-0" % max(now, int(standing.entry_id.partition(b"-")[0]) + 1)
    sequence = standing.sequence + 1
    chained = b"%b\n%b\n%d\n%b" % (standing.digest, entry_id, sequence, draft.content)
    digest = sha1(chained, usedforsecurity=False).hexdigest().encode()
    recent = *standing.recent[1 - RECENT :], digest  # others of the thread's calls may be in flight
    return standing._replace(sequence=sequence, digest=digest, entry_id=entry_id, recent=recent, at=now)


def _commands(
    keys: ThreadKeys, after: Standing, draft: Draft, index: Iterable[bytes], member: bytes
) -> list[tuple[bytes, ...]]:
    """The commands of every event, without those on the head. The last one announces it."""
    kind = b"checkpoint" if member[:1] == b"c" else b"writes"
    number, count = b"%d" % after.sequence, b"%d" % (after.sequence - after.removed)
    source, step, run, channels, nodes = draft.pointer
    pointer = (
        *(b"thread", keys.thread, b"id", after.entry_id, b"seq", number, b"kind", kind, b"ns", draft.namespace),
        *(b"checkpoint", draft.checkpoint_id, b"source", source, b"step", step, b"run", run),
        *(b"channels", channels, b"nodes", nodes),
    )
    shared = keys.shared
    return [
        (b"XADD", keys.log, after.entry_id, b"n", number, b"d", after.digest, *draft.fields),
        (b"HSET", keys.index, b"n", number, b"d", after.digest, b"l", after.entry_id, b"c", count, *index),
        (b"ZADD", keys.order, b"0", member),
        (b"EVAL", ANNOUNCE, b"2", shared.feed, shared.threads, *pointer),
    ]


def _transaction(keys: ThreadKeys, after: Standing, now: int, commands: list[tuple[bytes, ...]]) -> Transaction:
    """The transaction, and what shows that its standing holds: nobody came in between, and no key was evicted."""
    if after.head_key != keys.head(b""):
        commands.append((b"PEXPIREAT", after.head_key, b"%d" % (now + IDLE)))
    proof = (
        ((b"HMGET", keys.index, b"d"), [after.digest]),
        ((b"HMGET", after.head_key, b"at", b"vb"), [after.head.entry_id, b"%d" % after.head.value_bytes]),
        ((b"EXISTS", keys.log, keys.order), 2),
    )
    return Transaction(commands, after, proof)


def _packed_writes(fields: Sequence[bytes]) -> bytes:
    """The writes of an event as one field of a head (`packed_writes` in `pending_writes.lua`)."""
    own = paired(fields)
    parts = [own[b"t"], own[b"a"]]
    for name, content in own.items():
        if name[:1] == b"!":
            parts += (name, content)
    return b"".join(map(counted, parts))


def _versions(head: Head, own: Mapping[bytes, bytes]) -> tuple[list[bytes], list[bytes]]:
    """The fields of a head that a checkpoint's versions set, and those that they replace (`set_versions` in `head_upkeep.lua`)."""
    fields: list[bytes] = []
    gone: list[bytes] = []
    if b"y" in own:
        fields += (b"y", own[b"y"])
    elif head.checksum:
        gone.append(b"y")
    versions, seen, count = own[b"s"], own.get(b"q", b""), head.changes
    if b"b" in own:
        return [*fields, b"b", b"%d" % (count + 1), b"s%d" % (count + 1), versions, b"q%d" % (count + 1), seen], gone
    for number in range(1, count + 1):
        gone += (b"s%d" % number, b"q%d" % number)
    if count:
        gone.append(b"b")
    return [*fields, b"s", versions, b"q", seen], gone


def _moved(  # noqa: PLR0917
    chain: Chain | None,
    name: bytes,
    version: bytes,
    prepared: Prepared,
    entry_id: bytes,
    fields: list[bytes],
    gone: list[bytes],
) -> tuple[Chain, int] | None:
    """A channel's chain with a piece, and how many bytes more the head then has (`set_value` in `head_upkeep.lua`).

    None if a delta does not continue the chain, or if the size of what a whole value replaces is not known.
    """
    piece = prepared.plain or prepared.piece
    end = b"%b:%b%b" % (entry_id, prepared.checksum, version)
    if is_delta(piece):
        base, start = base_of(piece), delta_start(piece)
        if chain is None or chain.end != b"%b:%b%b" % (base[0], piece[start : start + 8], base[1]):
            return None
        count, size = chain.deltas + 1, len(piece)
        fields += (b"+%d:%b" % (count, name), piece, b"#" + name, b"%d:%b" % (count, end))
        return Chain(count, None if chain.size is None else chain.size + size, end), size
    if chain is None:
        chain = Chain(0, 0, b"")
    if chain.size is None:
        return None
    gone += (b"+%d:%b" % (number, name) for number in range(1, chain.deltas + 1))
    if prepared.checksum and len(piece) - counted_part(piece, 1)[1] - 8 >= SMALLEST:
        fields += (b"=" + name, piece, b"#" + name, b"0:" + end)
        return Chain(0, len(piece), end), len(piece) - chain.size
    content = counted(version) + piece
    fields += (b"=" + name, content)
    if chain.end:
        gone.append(b"#" + name)
    return Chain(0, len(content), b""), len(content) - chain.size

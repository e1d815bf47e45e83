"""Append checkpoints and writes.

Each takes one script call, which also folds the event into index and head. Where nobody else wrote to the thread since, it takes
the commands of a transaction instead (`projections.checkpoints.transaction`).

How `save_checkpoint.lua` appends a checkpoint:

1. Does the index belong to the log? The log's length must be the index's count, and both views must be whole. Otherwise the reply
   is `stale`. The index is then rebuilt by compare-and-set, and the call is repeated.
2. Are the bases there? A delta names the entry of its base, and the index must say that this entry still holds that version.
   Otherwise the reply is `base`, and the call is repeated with keyframes.
3. Was it saved before? If the checkpoint's entry has the same idempotency key, nothing is appended.
4. The script writes the feed and the registry, then log, index and order.
5. If the parent is the head and the id is the greatest, the changed channels are set in the head, and the parent's pending writes
   are dropped. The first checkpoint of a namespace makes a head. An older id without values leaves the head alone. Any other case
   (a fork, an overwrite, values that come late) deletes the head, and the next read rebuilds it. So does a put with which the head
   would have more bytes than `Limits.head_bytes`, and one after more early writes than a script reads. The head counts its bytes.

An ordinary write that is in the log already changes nothing, and neither does a special write with the same value. Writes that come
before their checkpoint wait in the log. A log that has nothing else expires after a day, or with the saver's ttl.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, Union

from xxhash import xxh3_128_digest

from eventlog.codec import Keyframe, content_digest, framed
from eventlog.errors import ThreadBusy, ValueTooLarge, VersionMissing
from eventlog.events import CheckpointSaved, ValuesSaved, WritesSaved, encode_event, value_fields
from eventlog.feed.activity import NAMED
from eventlog.flow import Argument, Flow, load_script
from eventlog.framing import counted, ordered
from eventlog.keys import ThreadKeys, checkpoint_sort_key, split_value_name, value_name
from eventlog.memory import Seen
from eventlog.signing import Known
from projections.checkpoints.transaction import (
    Checkpoint,
    Draft,
    Pointer,
    append_checkpoint,
    append_writes,
    watch,
)
from projections.log.accounting import account
from projections.log.index import call
from projections.log.signatures import learn
from projections.values.cache import KnownVersions, Prepared, ValueCache
from projections.values.versions import Versions, changed, first_channels

__all__ = ["About", "Values", "save_checkpoint", "save_writes"]

SAVE_CHECKPOINT = load_script("projections/checkpoints/save_checkpoint")
SAVE_WRITES = load_script("projections/checkpoints/save_writes")

FIELDS = 1000
"""Values or writes in one stream entry; more are spread over several, appended together."""
ATTEMPTS = 8
"""Attempts of a put while the signer does not know the log, since the thread begins again and again."""
LARGEST_VALUE = 512 * 1024 * 1024
"""Bytes in one value: the server's default `proto-max-bulk-len`."""
LARGEST_EVENT = 1000 * 1024 * 1024
"""Bytes in one append: below the server's `client-query-buffer-limit` and the limit of a stream entry."""

Values = Mapping[tuple[str, str], Union[Keyframe, None]]
"""Values by channel and version key, None for a version without one."""


class About(NamedTuple):
    """Pointer fields that are not in the event; '' where unknown."""

    source: str = ""
    step: str = ""
    run: str = ""
    nodes: Sequence[str] = ()
    """The nodes that ran to make a checkpoint, or the one whose task wrote."""


def save_checkpoint(
    keys: ThreadKeys,
    event: CheckpointSaved,
    values: Values,
    *,
    cache: ValueCache,
    ttl: int,
    about: About,
    others: Callable[[], Values] = dict,
) -> Flow[bool]:
    """Append a checkpoint with the values that changed.

    Takes one round trip, two if a delta was made against a value that the log does not have: then all values are sent whole.
    With a signer it takes one more if the signer does not know the thread's log.
    Saving the same content under the same id again appends nothing. `ttl` is in ms, 0 for none. `others` returns the values that
    did not change: they are saved as well if the thread expired since the run began.
    Returns whether the partition's feed began with it. The prefix is then new to the server, perhaps since it lost its data.

    Raises:
        LogRolledBack: the log lacks an event that was acknowledged to this process. Nothing was written.
        ThreadDeleted: the thread was deleted while the run went on. Nothing was written.
        VersionMissing: no event brought a version that the checkpoint names. Nothing was written.
        ValueTooLarge, SignatureInvalid, ThreadBusy: nothing was written.
        LogLost, CorruptEntry: see `projections.log.index.call`.

    """
    namespace, checkpoint_id = event.namespace.encode(), event.checkpoint_id.encode()
    ns_sort_key, parent = ordered(namespace), (event.parent_id or "").encode()
    sort_key = ns_sort_key + ordered(checkpoint_id)
    pointer = _pointer(about, [channel for channel, _ in values])
    heads = [keys.head(namespace), keys.head(b"")]
    known: list[Argument] = [
        ttl,
        namespace,
        checkpoint_id,
        parent,
        ns_sort_key,
        sort_key,
        *pointer,
        keys.limits.head_bytes,
    ]
    mark, watches = (pointer.run, checkpoint_id, event.versions), not ttl and keys.signer is None
    whole, trusts, is_complete = False, True, False
    for _ in range(ATTEMPTS):
        lengths = _checked(
            keys, {channel: len(value.data) for (channel, _), value in values.items() if value is not None}
        )
        seen = keys.seen()
        prepared = {
            name: cache.prepare(keys.thread, event.namespace, name[0], name[1].encode(), value, whole=whole)
            for name, value in values.items()
        }
        base = None if whole else cache.versions(keys.thread, event.namespace)
        events, depth = _events(event, values, prepared, base)
        knowledge = keys.known()
        packed = _packed(keys, events, knowledge)
        last = cache.known_versions(keys.thread, event.namespace) if trusts else None
        named = _unbrought(event, values, seen, last)
        if watches and len(events) == 1 and not whole:
            draft = Draft(heads[0], namespace, checkpoint_id, sort_key, *_content(packed), pointer, seen)
            if appended := (yield append_checkpoint(keys, draft, Checkpoint(parent, event.versions, prepared, named))):
                reply = [b"ok", appended.entry_id, appended.end, 0]
                break
        plain = _plain(prepared, headless=sum(lengths.values()) > keys.limits.head_bytes)
        arguments = [*known, *_last_seen(seen), *packed[:2], *named, *packed[2:], *plain]
        reply = yield from call(
            keys,
            SAVE_CHECKPOINT,
            arguments,
            heads,
            shared=True,
            watch=watch(keys, heads[0], ns_sort_key, seen, mark) if watches else None,
        )
        if reply[0] == b"unseen":
            learn(keys, reply[1:])
        elif reply[0] == b"lacks" and seen is not None:
            yield from account(keys, seen, reply[1:], begins=event.parent_id is None)
            whole = True
        elif reply[0] == b"check":
            trusts = False
        elif reply[0] == b"missing" and seen is not None and seen.expired and not is_complete:
            values = {**others(), **values}
            is_complete = True
        elif reply[0] == b"missing":
            raise _version_missing(keys, event, reply[1])
        elif reply[0] == b"base" and not whole:
            whole = True
        else:
            break
    else:
        raise _begun_again(keys)
    if reply[0] == b"same":  # an earlier call saved it, perhaps in another form
        return False
    _, *entry_ids, end, feed_began = reply
    noted = _noted(keys, knowledge, end)
    versions = Versions(event.versions, event.seen)
    known_now = KnownVersions(versions, entry_ids[-1], event.check, depth, noted.life, int(end[3]))
    cache.know_versions(keys.thread, event.namespace, known_now)
    _note_values(keys, event.namespace, cache, prepared, list(zip(entry_ids, events, strict=True)))
    return bool(feed_began)


def _note_values(
    keys: ThreadKeys,
    namespace: str,
    cache: ValueCache,
    prepared: Mapping[tuple[str, str], Prepared],
    entries: Sequence[tuple[bytes, list[bytes]]],
) -> None:
    """Notes in the cache which entries have the values."""
    sizes = [sum(map(len, fields)) for _, fields in entries]
    for position, ((channel, _), piece) in enumerate(prepared.items()):
        part = position // FIELDS
        cache.stored(keys.thread, namespace, channel, piece, entries[part][0], sizes[part])


def _pointer(about: About, channels: Sequence[str]) -> Pointer:
    source, step, run, nodes = about
    return Pointer(source.encode(), step.encode(), run.encode(), _named(channels), _named(nodes))


def _content(packed: Sequence[Any]) -> tuple[Sequence[bytes], bytes]:
    """The fields and the content digest of an only event, from its `_packed` arguments."""
    return packed[5:], packed[3].encode()


def _noted(keys: ThreadKeys, knowledge: Known | None, end: Sequence[bytes]) -> Seen:
    """What the memory has of a thread after an append."""
    seen = Seen.in_reply(end)
    keys.note(seen.entry_id, seen.digest, knowledge)
    keys.memory.note(keys.thread, seen)
    return keys.seen() or seen


def _last_seen(seen: Seen | None) -> list[Argument]:
    return [b"", b""] if seen is None else [seen.entry_id, seen.digest]


def _unbrought(event: CheckpointSaved, values: Values, seen: Seen | None, last: KnownVersions | None) -> list[Argument]:
    """The versions that a checkpoint names and does not bring, as `save_checkpoint.lua` takes them.

    If the last checkpoint that this process knows named all of them, only what makes that knowledge void is sent.
    """
    rest = event.versions.items() - values.keys()
    if not rest:
        return [b"", 0]
    if seen is not None and last is not None and last.life == seen.life and rest <= last.versions.channels.items():
        return [last.removed, 0]
    beginning = b"v" + counted(event.namespace.encode())
    return [b"", len(rest), *(beginning + value_name(channel.encode(), key.encode()) for channel, key in sorted(rest))]


def _version_missing(keys: ThreadKeys, event: CheckpointSaved, fields: Sequence[bytes]) -> VersionMissing:
    start = 1 + len(counted(event.namespace.encode()))
    some = first_channels([split_value_name(field[start:])[0].decode() for field in fields])
    return VersionMissing(
        f"Thread {keys.thread.decode()!r}: checkpoint {event.checkpoint_id!r} names versions of {some} that the log does not have "
        "and the call does not bring. Nothing was written: the thread would read back as a state that never was. If the thread "
        "expired, was deleted or lost events while a run went on, start the run again; else pass these channels in new_versions."
    )


def _checked(keys: ThreadKeys, sizes: Mapping[str, int]) -> Mapping[str, int]:
    """The sizes of values. Raises `ValueTooLarge` for a value that no reader with the same limits would take."""
    limit = keys.limits.value_bytes
    for channel, size in sizes.items():
        if size > limit:
            raise ValueTooLarge(
                f"Thread {keys.thread.decode()!r}: channel {channel!r} has a value of {size:,} bytes, above the limit of "
                f"{limit:,}. Nothing was written. Keep large data in an object store and its address in the state, or raise the "
                f"limit of writers and readers: limits=Limits(value_bytes={size})."
            )
    return sizes


def _plain(prepared: Mapping[tuple[str, str], Prepared], *, headless: bool) -> Iterator[bytes]:
    """The channels whose pieces are compressed, each with the piece for the head; `headless`: each value, without."""
    for (channel, _), one in prepared.items():
        if headless:
            yield from (channel.encode(), b"")
        elif one.plain:
            yield from (channel.encode(), one.plain)


def _events(
    event: CheckpointSaved,
    values: Values,
    prepared: Mapping[tuple[str, str], Prepared],
    base: KnownVersions | None,
) -> tuple[list[list[bytes]], int]:
    """The fields of a checkpoint's events, and the depth of its versions.

    The depth is the number of changes between the versions and whole ones.
    Values beyond a thousand are in events of their own, before the checkpoint's.
    """
    saved, depth = event, 0
    changes = None if base is None else changed(base.versions, Versions(event.versions, event.seen))
    if base is not None and changes is not None:
        depth = base.depth + 1
        saved = replace(event, versions=changes.channels, seen=changes.seen, base=(base.entry_id, base.checksum))
    fields = encode_event(saved)
    idempotency_key = event.idempotency_key or _idempotency_key(event, fields, values, prepared)
    if not event.idempotency_key:
        fields += (b"r", idempotency_key)
    pieces = {name: one.piece for name, one in prepared.items()}
    if len(pieces) <= FIELDS:
        fields += value_fields(pieces)
        return [fields], depth
    rest = iter(pieces.items())
    parts = [
        encode_event(ValuesSaved(event.namespace, event.checkpoint_id, dict(islice(rest, FIELDS))))
        for _ in range((len(pieces) - 1) // FIELDS)
    ]
    digests = tuple(map(content_digest, parts))
    last = replace(saved, values=dict(rest), parts=digests, idempotency_key=idempotency_key)
    return [*parts, encode_event(last)], depth


def _idempotency_key(
    event: CheckpointSaved,
    fields: Sequence[bytes],
    values: Values,
    prepared: Mapping[tuple[str, str], Prepared],
) -> bytes:
    """A digest of a call, whatever the form in which values and versions are stored."""
    _, _, _, _, _, envelope, _, versions, *_ = fields
    parts = [envelope, event.check or versions, (event.parent_id or "").encode()]
    for ((channel, version_key), value), one in zip(values.items(), prepared.values(), strict=True):
        parts += (channel.encode(), version_key.encode(), b"" if value is None else value.type.encode(), one.checksum)
    return xxh3_128_digest(framed(parts))


def save_writes(keys: ThreadKeys, event: WritesSaved, *, ttl: int, about: About) -> Flow[bool]:
    """Append writes of a task; writes that change nothing append nothing.

    Takes one round trip, or two as `save_checkpoint`. Returns and raises as that, but no `VersionMissing`.
    """
    namespace, checkpoint_id = event.namespace.encode(), event.checkpoint_id.encode()
    writes = event.writes
    _checked(keys, {write.channel: len(write.data) for write in writes})
    spread = [event]
    if len(writes) > FIELDS:
        spread = [replace(event, writes=writes[first : first + FIELDS]) for first in range(0, len(writes), FIELDS)]
    ns_sort_key, sort_key = ordered(namespace), checkpoint_sort_key(namespace, checkpoint_id)
    task, pointer = ordered(event.task_id.encode()), _pointer(about, [write.channel for write in writes])
    heads = [keys.head(namespace), keys.head(b"")]
    known: list[Argument] = [
        ttl,
        namespace,
        checkpoint_id,
        ns_sort_key,
        sort_key,
        task,
        *pointer[1:],
        keys.limits.head_bytes,
    ]
    watches = not ttl and keys.signer is None
    for _ in range(ATTEMPTS):
        knowledge, seen = keys.known(), keys.seen()
        packed = _packed(keys, [encode_event(part) for part in spread], knowledge)
        if watches and len(spread) == 1:
            draft = Draft(heads[0], namespace, checkpoint_id, sort_key, *_content(packed), pointer, seen)
            if appended := (yield append_writes(keys, draft, task)):
                _noted(keys, knowledge, appended.end)
                return False
        arguments = [*known, *_last_seen(seen), *packed]
        following = watch(keys, heads[0], ns_sort_key, seen) if watches else None
        status, *saved = yield from call(keys, SAVE_WRITES, arguments, heads, shared=True, watch=following)
        if status == b"unseen":
            learn(keys, saved)
        elif status == b"lacks" and seen is not None:
            yield from account(keys, seen, saved, begins=False)
        else:
            if status == b"ok":
                _noted(keys, knowledge, saved[0])
            return status == b"ok" and bool(saved[1])
    raise _begun_again(keys)


def _begun_again(keys: ThreadKeys) -> ThreadBusy:
    return ThreadBusy(
        f"Thread {keys.thread.decode()!r} was deleted and written again before each attempt to add a signed event. Call again."
    )


def _named(names: Sequence[str]) -> bytes:
    """The first names, each once and after its length, as a pointer has them."""
    if not names:
        return b""
    if len(names) > NAMED:
        names = list(islice(dict.fromkeys(names), NAMED))
    return _all_counted(*names)


@lru_cache(1024)
def _all_counted(*names: str) -> bytes:
    return b"".join(counted(name.encode(errors="replace")) for name in dict.fromkeys(names))


def _packed(keys: ThreadKeys, events: Sequence[list[bytes]], known: Known | None) -> list[Argument]:
    """The arguments of some events, signed if the writer has knowledge of the log to sign with.

    They are the digest that the signer had seen, the beginning of its seals, the number of events, then each event as
    `event_arguments.lua` reads it. Raises `ValueTooLarge`.
    """
    packed: list[Argument] = [b"", b"", len(events)]
    if known is not None:
        packed[:2] = known.digest, known.beginning
    total = 0
    for event in events:
        fields = keys.signed(event, known)
        size = sum(map(len, fields))
        total += size
        if size > LARGEST_VALUE or total > LARGEST_EVENT:
            _check_sizes(keys, max(map(len, fields)), total)
        packed += (content_digest(fields), len(fields), *fields)
    return packed


def _check_sizes(keys: ThreadKeys, largest: int, total: int) -> None:
    if largest > LARGEST_VALUE or total > LARGEST_EVENT:
        raise ValueTooLarge(
            f"Thread {keys.thread.decode()!r}: a value of {largest:,} bytes in a put of {total:,} bytes is over what the server "
            f"takes ({LARGEST_VALUE:,} and {LARGEST_EVENT:,}). Nothing was written. Keep large data in an object store and its "
            "address in the state."
        )

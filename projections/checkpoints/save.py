"""Append checkpoints and writes.

Each takes one script call, which also folds the event into index and head.

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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import NamedTuple, Union

from xxhash import xxh3_128_digest

from eventlog.codec import Keyframe, content_digest, framed
from eventlog.errors import ThreadBusy, ValueTooLarge
from eventlog.events import CheckpointSaved, ValuesSaved, WritesSaved, encode_event, value_fields
from eventlog.feed.activity import NAMED
from eventlog.flow import Argument, Flow, load_script
from eventlog.framing import counted, ordered
from eventlog.keys import ThreadKeys, checkpoint_sort_key
from eventlog.signing import Known
from projections.log.index import call
from projections.log.signatures import learn
from projections.values.cache import KnownVersions, Prepared, ValueCache
from projections.values.versions import Versions, changed

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
    keys: ThreadKeys, event: CheckpointSaved, values: Values, *, cache: ValueCache, ttl: int, about: About
) -> Flow[None]:
    """Append a checkpoint with the values that changed.

    Takes one round trip, two if a delta was made against a value that the log does not have: then all values are sent whole.
    With a signer it takes one more if the signer does not know the thread's log.
    Saving the same content under the same id again appends nothing. `ttl` is in ms, 0 for none.

    Raises:
        ValueTooLarge, SignatureInvalid, ThreadBusy: nothing was written.
        LogLost, CorruptEntry: see `projections.log.index.call`.

    """
    namespace, checkpoint_id = event.namespace.encode(), event.checkpoint_id.encode()
    sort_key = ordered(namespace)
    source, step, run, nodes = about
    known: list[Argument] = [
        ttl,
        namespace,
        checkpoint_id,
        (event.parent_id or "").encode(),
        sort_key,
        sort_key + ordered(checkpoint_id),
        source.encode(),
        step.encode(),
        run.encode(),
        _named([channel for channel, _ in values]),
        _named(nodes),
        keys.limits.head_bytes,
    ]
    heads = [keys.head(namespace), keys.head(b"")]
    lengths = {channel: len(value.data) for (channel, _), value in values.items() if value is not None}
    _check_values(keys, lengths)
    whole = False
    for _ in range(ATTEMPTS):
        prepared = {
            name: cache.prepare(keys.thread, event.namespace, name[0], name[1].encode(), value, whole=whole)
            for name, value in values.items()
        }
        base = None if whole else cache.versions(keys.thread, event.namespace)
        events, depth = _events(event, values, prepared, base)
        plain = _plain(prepared, headless=sum(lengths.values()) > keys.limits.head_bytes)
        knowledge = keys.known()
        packed = _packed(keys, events, knowledge)
        reply = yield from call(keys, SAVE_CHECKPOINT, [*known, *packed, *plain], heads, shared=True)
        if reply[0] == b"unseen":
            learn(keys, reply[1:])
        elif reply[0] == b"base" and not whole:
            whole = True
        else:
            break
    else:
        raise _begun_again(keys)
    if reply[0] == b"same":  # an earlier call saved it, perhaps in another form
        return
    _, *entry_ids, digest = reply
    keys.note(entry_ids[-1], digest, knowledge)
    versions = Versions(event.versions, event.seen)
    cache.know_versions(keys.thread, event.namespace, KnownVersions(versions, entry_ids[-1], event.check, depth))
    sizes = [sum(map(len, fields)) for fields in events]
    for position, ((channel, _), piece) in enumerate(prepared.items()):
        part = position // FIELDS
        cache.stored(keys.thread, event.namespace, channel, piece, entry_ids[part], sizes[part])


def _check_values(keys: ThreadKeys, sizes: Mapping[str, int]) -> None:
    """Raises `ValueTooLarge` for a value that no reader with the same limits would take."""
    limit = keys.limits.value_bytes
    for channel, size in sizes.items():
        if size > limit:
            raise ValueTooLarge(
                f"Thread {keys.thread.decode()!r}: channel {channel!r} has a value of {size:,} bytes, above the limit of "
                f"{limit:,}. Nothing was written. Keep large data in an object store and its address in the state, or raise the "
                f"limit of writers and readers: limits=Limits(value_bytes={size})."
            )


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


def save_writes(keys: ThreadKeys, event: WritesSaved, *, ttl: int, about: About) -> Flow[None]:
    """Append writes of a task; writes that change nothing append nothing.

    Takes one round trip, or two as `save_checkpoint`. Raises as that.
    """
    namespace, checkpoint_id = event.namespace.encode(), event.checkpoint_id.encode()
    writes = event.writes
    _check_values(keys, {write.channel: len(write.data) for write in writes})
    spread = [replace(event, writes=writes[first : first + FIELDS]) for first in range(0, len(writes), FIELDS)]
    _, step, run, nodes = about
    arguments: list[Argument] = [
        ttl,
        namespace,
        checkpoint_id,
        ordered(namespace),
        checkpoint_sort_key(namespace, checkpoint_id),
        ordered(event.task_id.encode()),
        step.encode(),
        run.encode(),
        _named([write.channel for write in writes]),
        _named(nodes),
        keys.limits.head_bytes,
    ]
    heads = [keys.head(namespace), keys.head(b"")]
    for _ in range(ATTEMPTS):
        knowledge = keys.known()
        packed = _packed(keys, [encode_event(part) for part in spread], knowledge)
        status, *saved = yield from call(keys, SAVE_WRITES, [*arguments, *packed], heads, shared=True)
        if status == b"ok":
            entry_id, digest = saved
            keys.note(entry_id, digest, knowledge)
        if status != b"unseen":
            return
        learn(keys, saved)
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

    They are the digest that the writer had seen, the beginning of its seals, the number of events, then each event as
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

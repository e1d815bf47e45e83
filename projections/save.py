"""Appending checkpoints and writes: one script call each, which folds the event into index and head as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from eventlog.codec import content_digest
from eventlog.errors import ValueTooLarge
from eventlog.events import CheckpointSaved, ValuesSaved, WritesSaved, encode_event
from eventlog.flow import Argument, Flow
from eventlog.keys import ThreadKeys, checkpoint_place, ordered
from projections.thread import call, thread_script

__all__ = ["save_checkpoint", "save_writes"]

FIELDS = 1000
"""Values or writes in one stream entry; more are spread over several, appended together."""
LARGEST_VALUE = 512 * 1024 * 1024
"""Bytes in one value: the server's default `proto-max-bulk-len`."""
LARGEST_EVENT = 1000 * 1024 * 1024
"""Bytes in one append: below the server's `client-query-buffer-limit` and what a stream entry may hold."""


def save_checkpoint(
    keys: ThreadKeys, event: CheckpointSaved, *, ttl: int, source: str, step: str, run: str
) -> Flow[None]:
    """Appends a checkpoint. One round trip. `ttl` in ms, 0 for none; `source`, `step` and `run` go into the feed.

    Saving the same content under the same id again appends nothing.

    Raises:
        ValueTooLarge: nothing was written.
        LogLost, CorruptEntry: see `projections.thread.call`.

    """
    parts: list[list[bytes]] = []
    if len(event.values) > FIELDS:
        event, parts = _spread(event)
    namespace, checkpoint_id = event.namespace.encode(), event.checkpoint_id.encode()
    arguments: list[Argument] = [
        ttl,
        namespace,
        checkpoint_id,
        (event.parent_id or "").encode(),
        ordered(namespace),
        checkpoint_place(namespace, checkpoint_id),
        source.encode(),
        step.encode(),
        run.encode(),
        *_packed(keys, [*parts, encode_event(event)]),
    ]
    yield from call(keys, SAVE_CHECKPOINT, arguments, [keys.head(namespace), keys.head(b"")])


def save_writes(keys: ThreadKeys, event: WritesSaved, *, ttl: int) -> Flow[None]:
    """Appends writes of a task. One round trip. Writes that change nothing append nothing. Raises as `save_checkpoint`."""
    namespace, checkpoint_id = event.namespace.encode(), event.checkpoint_id.encode()
    spread = [
        replace(event, writes=event.writes[first : first + FIELDS]) for first in range(0, len(event.writes), FIELDS)
    ]
    arguments: list[Argument] = [
        ttl,
        namespace,
        checkpoint_id,
        ordered(namespace),
        checkpoint_place(namespace, checkpoint_id),
        ordered(event.task_id.encode()),
        *_packed(keys, [encode_event(part) for part in spread]),
    ]
    yield from call(keys, SAVE_WRITES, arguments, [keys.head(namespace), keys.head(b"")])


SAVE_CHECKPOINT = thread_script("save_checkpoint", "pending")
SAVE_WRITES = thread_script("save_writes", "pending")


def _spread(event: CheckpointSaved) -> tuple[CheckpointSaved, list[list[bytes]]]:
    """The event with a part of its values, and the fields of the events that hold the others."""
    values = iter(event.values.items())
    parts = []
    digests = []
    for _ in range((len(event.values) - 1) // FIELDS):
        fields = encode_event(ValuesSaved(event.namespace, event.checkpoint_id, dict(islice(values, FIELDS))))
        parts.append(fields)
        digests.append(content_digest(fields))
    return replace(event, values=dict(values), parts=tuple(digests)), parts


def _packed(keys: ThreadKeys, events: Sequence[list[bytes]]) -> list[Argument]:
    """Events as the scripts take them: their number, then digest, number of fields and fields of each."""
    packed: list[Argument] = [len(events)]
    total = 0
    for fields in events:
        size = sum(map(len, fields))
        total += size
        largest = max(map(len, fields))
        if largest > LARGEST_VALUE or total > LARGEST_EVENT:
            raise ValueTooLarge(
                f"Thread {keys.thread.decode()!r}: a value of {largest:,} bytes in a put of {total:,} bytes is over what the "
                f"server takes ({LARGEST_VALUE:,} and {LARGEST_EVENT:,}). Nothing was written. Keep large data in an object "
                "store and its address in the state."
            )
        packed += (content_digest(fields), len(fields), *fields)
    return packed

"""Put states together: the values and pending writes of checkpoints.

They come from entries that were read, as far as these are cached, else from the log. With a signer they come from the log, and
the signatures of their entries are checked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

from eventlog.codec import (
    EMPTY,
    Malformed,
    TooLarge,
    base_of,
    decompressed,
    delta_start,
    encode_write,
    is_delta,
    size_of,
)
from eventlog.events import CheckpointSaved, Recorded, ValuesSaved, WritesSaved
from eventlog.flow import Flow
from eventlog.keys import ThreadKeys, checkpoint_sort_key
from eventlog.limits import Budget, in_channel
from projections.checkpoints.read import damaged, decode_view
from projections.integrity.signed_reads import check_views, until_steady
from projections.time_travel.outline import Outline, ValueName
from projections.time_travel.parts import read_parts
from projections.values.delta import apply_deltas
from projections.values.pieces import StoredValue, assemble
from projections.values.stored import StoredCheckpoint, View, Writes, pending_writes

__all__ = ["States"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

CACHED_BYTES = 16 * 1024 * 1024
"""Bytes of values, and of writes, that are cached, beyond the state given last."""
CACHED = 4096
"""Values, and entries of writes, that are cached: a small one takes less memory than its place in the cache."""


class _Cache(Generic[K, T]):
    """The items used last, bounded in bytes and in number."""

    def __init__(self) -> None:
        self._items: OrderedDict[K, tuple[T, int]] = OrderedDict()
        self._bytes = 0

    def __contains__(self, name: K) -> bool:
        return name in self._items

    def __getitem__(self, name: K) -> T:
        self._items.move_to_end(name)
        return self._items[name][0]

    def put(self, name: K, item: T, size: int) -> None:
        """Add an item, in the place of one of the same name."""
        _, before = self._items.pop(name, (None, 0))
        self._items[name] = item, size
        self._bytes += size - before
        while self._bytes > CACHED_BYTES or len(self._items) > CACHED:
            _, (_, size) = self._items.popitem(last=False)
            self._bytes -= size


class States:
    """The states of one thread.

    Memory: 8,192 values and writes, 32 MiB at most, beyond the state given last.
    """

    def __init__(self, keys: ThreadKeys) -> None:
        self.keys = keys
        self._values: _Cache[ValueName, StoredValue | None] = _Cache()
        self._writes: _Cache[bytes, Writes] = _Cache()
        self._given: dict[ValueName, StoredValue | None] = {}
        """Values of the state given last."""

    def assembled(self, outline: Outline) -> Flow[StoredCheckpoint | None]:
        """A checkpoint with its values and writes; None if the log lacks some of it.

        Takes no round trip if all of it is cached, else one; with a signer one, and those of `check_views`.
        Raises `CorruptEntry` or `SignatureInvalid`.
        """
        if self.keys.signer is not None:
            return (yield from until_steady(self.keys, lambda: self._checked(outline)))
        names = outline.names()
        values = {name: self._value(name) for name in names.values() if self._has(name)}
        writes = {entry_id: self._writes[entry_id] for entry_id in outline.writes if entry_id in self._writes}
        unread = [name for name in names.values() if name not in values]
        unread_writes = [entry_id for entry_id in outline.writes if entry_id not in writes]
        if unread or unread_writes:
            fetched = yield from self._fetch(unread, unread_writes, values)
            if fetched is None:
                return None
            values.update(fetched[0])
            writes.update(fetched[1])
        self._given = values
        try:
            pending = pending_writes(writes.values())
        except (Malformed, ValueError) as error:
            raise damaged(self.keys, error, outline.entry_id) from error
        event = outline.event
        head = event.namespace, event.checkpoint_id, event.parent_id, event.body, event.versions
        found = {channel: value for channel, name in names.items() if (value := values[name]) is not None}
        return StoredCheckpoint(*head, found, pending, event.seen, outline.entry_id, event.check, outline.depth)

    def _checked(self, outline: Outline) -> Flow[StoredCheckpoint | None]:
        """A checkpoint read from the log, after checking the signatures of its entries."""
        event, names = outline.event, outline.names()
        parts = yield from read_parts(self.keys, names.values(), [outline.entry_id], outline.writes)
        if parts is None:
            return None
        (found,) = parts.checkpoints
        numbers = dict(zip(names, parts.values, strict=True))
        sort_key = checkpoint_sort_key(event.namespace.encode(), event.checkpoint_id.encode()) + outline.entry_id
        values = [numbers.get(channel, 0) for channel in event.versions]
        view = View(found.envelope, found.versions, found.parent, values, parts.writes, sort_key)
        yield from check_views(self.keys, [view], parts.pieces)
        return decode_view(self.keys, view, parts.pieces)

    def _fetch(
        self,
        names: Collection[ValueName],
        entry_ids: Collection[bytes],
        known: Mapping[ValueName, StoredValue | None] = MappingProxyType({}),
    ) -> Flow[tuple[dict[ValueName, StoredValue | None], dict[bytes, Writes]] | None]:
        """Values by name, and writes by entry; None if the log lacks any of them.

        `known` are the other values of the state, which count in its budget. Takes one round trip.
        """
        parts = yield from read_parts(self.keys, names, (), entry_ids)
        if parts is None:
            return None
        values: dict[ValueName, StoredValue | None] = {}
        budget = Budget(self.keys.limits, sum(len(value.data) for value in known.values() if value is not None))
        for name, number in zip(names, parts.values, strict=True):
            entry_id, channel, version_key = name
            try:
                values[name] = parts.pieces.value(number, version_key.encode(), budget)
            except TooLarge as error:
                raise damaged(self.keys, in_channel(channel, error), entry_id) from error
            except (Malformed, ValueError) as error:
                raise damaged(self.keys, error, entry_id) from error
            self._keep(name, values[name])
        for writes in parts.writes:
            self._keep_writes(writes)
        return values, dict(zip(entry_ids, parts.writes, strict=True))

    def value(self, name: ValueName) -> Flow[StoredValue | None]:
        """A value; None if none was stored.

        Takes no round trip if it is cached, else one. Raises `CorruptEntry` if the log lacks some of it.
        """
        if self._has(name):
            return self._value(name)
        fetched = yield from self._fetch([name], ())
        if fetched is None:
            raise damaged(self.keys, Malformed("needs entries that the log lacks"), name[0])
        return fetched[0][name]

    def offer(self, recorded: Recorded) -> None:
        """Cache the values and writes of an event that was read whole.

        Raises `CorruptEntry`.
        """
        event, entry_id = recorded.event, recorded.entry_id
        if isinstance(event, WritesSaved):
            writes = [entry_id, event.task_id.encode(), event.task_path.encode()]
            for idx, channel, type_, data in event.writes:
                writes += (b"!%d" % idx, encode_write(channel, type_, data))
            self._keep_writes(writes)
        elif isinstance(event, (CheckpointSaved, ValuesSaved)):
            for (channel, version_key), piece in event.values.items():
                try:
                    if size_of(piece) <= CACHED_BYTES:
                        self._add((entry_id, channel, version_key), decompressed(piece))
                except (Malformed, ValueError) as error:
                    raise damaged(self.keys, error, entry_id) from error

    def _add(self, name: ValueName, piece: bytes) -> None:
        """Cache the value of a piece, unless it is a delta against one that is not cached."""
        entry_id, _, version_key = name
        if piece == EMPTY:
            self._keep(name, None)
        elif is_delta(piece):
            self._add_delta(name, piece)
        else:
            self._keep(name, assemble([piece], version_key.encode(), entry_id))

    def _add_delta(self, name: ValueName, piece: bytes) -> None:
        entry_id, channel, version_key = name
        base_id, base_key = base_of(piece)
        base_name = base_id, channel, base_key.decode()
        base = self._value(base_name) if self._has(base_name) else None
        if base is None:
            return
        start = delta_start(piece)
        data = apply_deltas(base.data, [(piece, start)])
        weight = base.weight + len(piece) - start
        self._keep(
            name,
            base._replace(
                data=data, version_key=version_key.encode(), entry_id=entry_id, deltas=base.deltas + 1, weight=weight
            ),
        )

    def _has(self, name: ValueName) -> bool:
        return name in self._given or name in self._values

    def _value(self, name: ValueName) -> StoredValue | None:
        return self._given[name] if name in self._given else self._values[name]

    def _keep(self, name: ValueName, value: StoredValue | None) -> None:
        self._values.put(name, value, 0 if value is None else len(value.data))

    def _keep_writes(self, writes: Writes) -> None:
        self._writes.put(writes[0], writes, sum(map(len, writes)))

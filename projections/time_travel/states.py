"""States put together: the values and pending writes of a checkpoint, from entries that were read or, where these are not kept any
more, from the log. With a signer all is read from the log, the signatures of its entries checked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from eventlog.codec import EMPTY, Malformed, base_of, decompressed, delta_start, encode_write, is_delta
from eventlog.errors import CorruptEntry
from eventlog.events import CheckpointSaved, Recorded, ValuesSaved, WritesSaved
from eventlog.flow import Argument, Call, Flow, load_script
from eventlog.keys import ThreadKeys, checkpoint_sort_key
from projections.checkpoints.read import damaged, decode_view
from projections.integrity.signed_reads import check_views
from projections.values.delta import apply_deltas
from projections.values.pieces import Pieces, StoredValue, assemble
from projections.values.stored import StoredCheckpoint, View, pending_writes

__all__ = ["READ_PARTS", "Held", "States", "damaged_entry"]

T = TypeVar("T")

READ_PARTS = load_script("projections/time_travel/read_parts")

KEPT_BYTES = 16 * 1024 * 1024
"""Bytes of values, and of writes, that are kept for what comes next; the state last given is kept beside them."""
KEPT = 4096
"""Values, and entries of writes, that are kept: small ones take less than what holds them."""

Place = tuple[bytes, str, str]
"""Of a value: its entry, its channel, its version."""


class _Kept(Generic[T]):
    """The last things used, bounded in bytes and in number."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[Any, tuple[T, int]] = OrderedDict()
        self._bytes = 0

    def get(self, name: Any) -> tuple[T] | None:
        """What is kept under a name, in a tuple."""
        found = self._held.get(name)
        if found is None:
            return None
        self._held.move_to_end(name)
        return (found[0],)

    def put(self, name: Any, thing: T, size: int) -> None:
        """Keeps something."""
        before = self._held.pop(name, None)
        self._bytes += size - (before[1] if before else 0)
        self._held[name] = thing, size
        while self._bytes > self._limit or len(self._held) > KEPT:
            self._bytes -= self._held.popitem(last=False)[1][1]


@dataclass(slots=True)
class Held:
    """A checkpoint without its values."""

    event: CheckpointSaved
    """Its versions are whole, its values left out."""
    entry_id: bytes
    depth: int
    places: dict[str, bytes | None]
    """Entry of each channel's value, None where none was stored."""
    writes: list[bytes]
    """Entries of its pending writes, in their order."""


class States:
    """Puts the states of one thread together.

    Memory: 8,192 values and writes, of 32 MiB at most, beyond the state last given.
    """

    def __init__(self, keys: ThreadKeys) -> None:
        self.keys = keys
        self._values: _Kept[StoredValue | None] = _Kept(KEPT_BYTES)
        self._written: _Kept[list[bytes]] = _Kept(KEPT_BYTES)
        self._given: dict[Place, StoredValue | None] = {}
        """Values of the state last given."""

    def assembled(self, held: Held) -> Flow[StoredCheckpoint | None]:
        """A checkpoint with its values and pending writes; None if the log lacks some of it. No round trip if what it needs was
        seen lately, else one; with a signer those of `check_views`, and one. Raises `CorruptEntry` or `SignatureInvalid`.
        """
        if self.keys.signer is not None:
            return (yield from self._checked(held))
        event = held.event
        wanted: list[Place] = []
        values: dict[str, StoredValue | None] = {}
        for channel, token in event.versions.items():
            entry_id = held.places[channel]
            if entry_id is None:
                continue
            found = self._value((entry_id, channel, token))
            values[channel] = found[0] if found else None
            if not found:
                wanted.append((entry_id, channel, token))
        written = {entry_id: self._written.get(entry_id) for entry_id in held.writes}
        missing = [entry_id for entry_id, found in written.items() if not found]
        if wanted or missing:
            fetched = yield from self._fetch(wanted, missing)
            if fetched is None:
                return None
            values.update({channel: value for (_, channel, _), value in fetched[0].items()})
            written.update({entry_id: (parts,) for entry_id, parts in fetched[1].items()})
        self._given = {
            (place, channel, event.versions[channel]): values[channel]
            for channel, place in held.places.items()
            if place is not None
        }
        try:
            writes = pending_writes([found[0] for found in written.values() if found])
        except (Malformed, ValueError) as error:
            raise damaged_entry(self.keys, error, held.entry_id) from error
        return StoredCheckpoint(
            event.namespace,
            event.checkpoint_id,
            event.parent_id,
            event.body,
            event.versions,
            {channel: value for channel, value in values.items() if value is not None},
            writes,
            event.seen,
            held.entry_id,
            event.check,
            held.depth,
        )

    def _checked(self, held: Held) -> Flow[StoredCheckpoint | None]:
        """A checkpoint of which all is read once more, and every entry that it comes from is signed."""
        event = held.event
        named = [(place, channel) for channel, place in held.places.items() if place is not None]
        arguments: list[Argument] = [self.keys.thread, len(named)]
        for entry_id, channel in named:
            arguments += (entry_id, event.versions[channel].encode(), channel.encode())
        reply = yield Call(READ_PARTS, self.keys.all, [*arguments, 1, held.entry_id, *held.writes])
        numbers, [found], writes, flat, vectors = reply
        if not found or not all(numbers) or not all(writes):
            return None
        placed = iter(numbers)
        whole = [0 if held.places[channel] is None else next(placed) for channel in event.versions]
        place = checkpoint_sort_key(event.namespace.encode(), event.checkpoint_id.encode()) + held.entry_id
        envelope, versions, parent, _ = found
        view, pieces = View(envelope, versions, parent, whole, writes, place), Pieces(flat, vectors)
        yield from check_views(self.keys, [view], pieces)
        return decode_view(self.keys, view, pieces)

    def _fetch(
        self, wanted: Sequence[Place], missing: Sequence[bytes]
    ) -> Flow[tuple[dict[Place, StoredValue | None], dict[bytes, list[bytes]]] | None]:
        """Values and entries of writes; None if the log lacks one. One round trip."""
        arguments: list[Argument] = [self.keys.thread, len(wanted)]
        for entry_id, channel, token in wanted:
            arguments += (entry_id, token.encode(), channel.encode())
        reply = yield Call(READ_PARTS, self.keys.all, [*arguments, 0, *missing])
        numbers, _, entries, flat, vectors = reply
        if not all(numbers) or not all(entries):
            return None
        pieces = Pieces(flat, vectors)
        values: dict[Place, StoredValue | None] = {}
        for place, number in zip(wanted, numbers, strict=True):
            try:
                values[place] = pieces.value(number, place[2].encode())
            except (Malformed, ValueError) as error:
                raise damaged_entry(self.keys, error, place[0]) from error
            self._keep(place, values[place])
        for parts in entries:
            self._written.put(parts[0], parts, sum(map(len, parts)))
        return values, dict(zip(missing, entries, strict=True))

    def offer(self, recorded: Recorded) -> None:
        """Keeps what an event that was read whole has of values and writes, for states to come. Raises `CorruptEntry`."""
        event = recorded.event
        if isinstance(event, WritesSaved):
            parts = [recorded.entry_id, event.task_id.encode(), event.task_path.encode()]
            for idx, channel, type_, data in event.writes:
                parts += (b"!%d" % idx, encode_write(channel, type_, data))
            self._written.put(recorded.entry_id, parts, sum(map(len, parts)))
        elif isinstance(event, (CheckpointSaved, ValuesSaved)):
            for (channel, token), piece in event.values.items():
                place = recorded.entry_id, channel, token
                try:
                    for value in self._made(place, decompressed(piece)):
                        self._keep(place, value)
                except (Malformed, ValueError) as error:
                    raise damaged_entry(self.keys, error, recorded.entry_id) from error

    def _made(self, place: Place, piece: bytes) -> Iterator[StoredValue | None]:
        """The value of a piece, unless that needs one that is not kept."""
        entry_id, channel, token = place
        if piece == EMPTY:
            yield None
        elif not is_delta(piece):
            yield assemble([piece], token.encode(), entry_id)
        else:
            base, base_token = base_of(piece)
            found = self._value((base, channel, base_token.decode()))
            before = found[0] if found else None
            if before is not None:
                at = delta_start(piece)
                yield StoredValue(
                    before.type,
                    apply_deltas(before.data, [(piece, at)]),
                    token.encode(),
                    entry_id,
                    before.deltas + 1,
                    before.weight + len(piece) - at,
                    before.keyframe,
                )

    def _value(self, place: Place) -> tuple[StoredValue | None] | None:
        """A value that is kept, in a tuple."""
        if place in self._given:
            return (self._given[place],)
        return self._values.get(place)

    def _keep(self, place: Place, value: StoredValue | None) -> None:
        self._values.put(place, value, 0 if value is None else len(value.data))


def damaged_entry(keys: ThreadKeys, error: Exception, entry_id: bytes) -> CorruptEntry:
    """The error for an entry that cannot be read."""
    return damaged(keys, error, entry_id)

"""Assembles values from pieces: a keyframe, and the deltas made since.

Pure. The pieces of one reply are numbered from 1 in the order they came. A piece names the piece that it needs by its number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from eventlog.codec import (
    EMPTY,
    Malformed,
    checksum_of,
    decompressed,
    delta_start,
    is_compressed,
    is_delta,
    size_of,
    split_keyframe,
)
from eventlog.events import decode_seen, decode_versions
from eventlog.limits import Budget, Limits
from projections.values.delta import apply_deltas
from projections.values.versions import Versions, overlaid, verify

__all__ = ["DEEPEST", "SMALLEST", "Pieces", "StoredValue", "assemble"]

SMALLEST = 128
"""Bytes of a value below which a delta would hardly be shorter than the value."""
DEEPEST = 100
"""Most changes of versions between those of a checkpoint and whole ones; a writer makes eight at most."""
KEPT = 32 * 1024 * 1024
"""Bytes of decompressed pieces that are kept for other values of the same reply."""


class StoredValue(NamedTuple):
    """A value as it was serialized, and how it is stored."""

    type: str
    data: bytes
    version_key: bytes = b""
    entry_id: bytes = b""
    """The entry of its piece, if a delta may be made against it."""
    deltas: int = 0
    """Number of deltas since the keyframe."""
    weight: int = 0
    """Bytes of these deltas."""
    keyframe: int = 0
    """Bytes of the keyframe."""


def assemble(
    chain: Sequence[bytes], version: bytes = b"", entry_id: bytes = b"", budget: Budget | None = None
) -> StoredValue | None:
    """The value of a keyframe's piece and the pieces of the deltas since, compressed or not.

    None for the piece of no value. Raises `TooLarge` before it takes more memory than the budget has, and `Malformed`.
    """
    return _assemble(chain, version, entry_id, budget or Budget(Limits()), decompressed)


def _assemble(
    chain: Sequence[bytes],
    version: bytes,
    entry_id: bytes,
    budget: Budget,
    plain: Callable[[bytes], bytes],
) -> StoredValue | None:
    if chain[0] == EMPTY and len(chain) == 1:
        return None
    if chain[0][:1] not in (b"K", b"k"):
        raise Malformed("holds a delta without the keyframe that it goes back to, or a piece of unknown form")
    if not all(map(is_delta, chain[1:])):
        raise Malformed("holds a keyframe where a delta should be")
    budget.expand(sum(map(len, chain)), sum(map(size_of, chain)))
    first = plain(chain[0])
    type_, start = split_keyframe(first)
    keyframe = len(first) - start
    if len(chain) == 1:
        budget.value(keyframe)
        data = first[start:]
        if checksum_of(data) != first[start - 8 : start]:
            raise Malformed("holds a value that is not the one that was stored")
        return StoredValue(type_, data, version, entry_id if keyframe >= SMALLEST else b"", keyframe=keyframe)
    deltas = []
    weight = 0
    for piece in map(plain, chain[1:]):
        at = delta_start(piece)
        deltas.append((piece, at))
        weight += len(piece) - at
    data = apply_deltas(memoryview(first)[start:], deltas, budget.value)
    return StoredValue(type_, data, version, entry_id, len(deltas), weight, keyframe)


class Pieces:
    """The pieces and versions of a reply.

    Of each piece the reply has its bytes, the number of the piece that it needs or 0, and its entry id. Of versions it has the
    fields `s`, `q` and `y`, and the number of the versions that they changed from or 0.
    """

    def __init__(
        self, flat: Sequence[bytes | int], vectors: Sequence[bytes | int], limits: Limits | None = None
    ) -> None:
        self._flat = flat
        self._limits = limits or Limits()
        self._plain: dict[bytes, bytes] = {}
        self._kept = 0
        self._vectors = vectors
        self._versions: dict[int, tuple[Versions, int]] = {}

    def versions(self, number: int) -> tuple[Versions, int]:
        """The versions of a checkpoint, and the number of changes since whole ones.

        Raises `Malformed`.
        """
        unknown, base = [], number
        while base and base not in self._versions:
            unknown.append(base)
            base = int(self._vectors[4 * base - 1])
            if len(unknown) > DEEPEST:
                raise Malformed("has versions that change those of more checkpoints than this package builds on")
        for one in reversed(unknown):
            encoded, seen, checksum, changes = self._vectors[4 * one - 4 : 4 * one]
            own, depth = Versions(decode_versions(encoded), decode_seen(seen)), 0  # type: ignore[arg-type]
            if changes:
                before, depth = self._versions[int(changes)]
                own, depth = overlaid(before, own), depth + 1
            self._limits.check_versions(len(own.channels), len(own.seen or ()))
            verify(own, checksum)  # type: ignore[arg-type]
            self._versions[one] = own, depth
        return self._versions[number]

    def encoded_versions(self, number: int) -> list[tuple[bytes, bytes, bytes]]:
        """The fields `s`, `q` and `y` of versions and their bases, whole ones first."""
        fields = []
        while number:
            encoded, seen, checksum, base = self._vectors[4 * number - 4 : 4 * number]
            fields.append((encoded, seen, checksum))
            number = int(base)
        return fields[::-1]  # type: ignore[return-value]

    def budget(self) -> Budget:
        """A budget for the values of one checkpoint."""
        return Budget(self._limits)

    def chain(self, number: int) -> list[bytes]:
        """The pieces of a value as they are in the log, the keyframe first. Empty for number 0."""
        chain = []
        while number:
            chain.append(self.stored(number))
            number = self.base_number(number)
        return chain[::-1]

    def entry_id(self, number: int) -> bytes:
        """The entry of a piece."""
        return self._flat[3 * number - 1]  # type: ignore[return-value]

    def entry_ids(self) -> list[bytes]:
        """The entries of all pieces."""
        return list(self._flat[2::3])  # type: ignore[arg-type]

    def stored(self, number: int) -> bytes:
        """A piece as it is in the log."""
        return self._flat[3 * number - 3]  # type: ignore[return-value]

    def base_number(self, number: int) -> int:
        """The number of the base of a delta's piece, 0 for any other piece."""
        return int(self._flat[3 * number - 2])

    def value(self, number: int, version: bytes, budget: Budget) -> StoredValue | None:
        """The value of a piece, None if there is none.

        Raises `TooLarge` before it takes more memory than the budget has, and `Malformed`.
        """
        return _assemble(self.chain(number), version, self.entry_id(number), budget, self.plain) if number else None

    def plain(self, piece: bytes) -> bytes:
        """A piece without compression. Short ones are kept, since several values may need them."""
        if not is_compressed(piece):
            return piece
        found = self._plain.get(piece)
        if found is None:
            found = decompressed(piece)
            if self._kept + len(found) <= KEPT:
                self._plain[piece] = found
                self._kept += len(found)
        return found

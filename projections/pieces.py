"""Values from pieces: a keyframe, and the deltas that were made against it one after the other.

Pure. The pieces of one reply are numbered from 1 in the order they came; a piece that needs another names it by its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eventlog.codec import Delta, Keyframe, Malformed, Piece, decode_piece
from eventlog.events import decode_seen, decode_versions
from projections.delta import apply_deltas
from projections.versions import Versions, overlaid

__all__ = ["SMALLEST", "Pieces", "StoredValue", "assemble"]

SMALLEST = 128
"""Bytes of a value below which a delta would hardly be shorter than it."""


class StoredValue(NamedTuple):
    """A value as it was serialized, and how it is stored."""

    type: str
    data: bytes
    token: bytes = b""
    entry_id: bytes = b""
    """The entry that its piece lies in, where a delta may be made against it."""
    deltas: int = 0
    """Number of pieces behind the keyframe."""
    weight: int = 0
    """Bytes of these."""
    keyframe: int = 0
    """Bytes of the keyframe."""


def assemble(chain: Sequence[Piece | None], token: bytes = b"", entry_id: bytes = b"") -> StoredValue | None:
    """The value that a keyframe and the deltas since make; None for that of no value. Raises `Malformed`."""
    first = chain[0]
    if first is None and len(chain) == 1:
        return None
    if not isinstance(first, Keyframe):
        raise Malformed("holds a delta without the keyframe that it goes back to")
    keyframe = len(first.data)
    if len(chain) == 1:
        return StoredValue(first.type, first.data, token, entry_id if keyframe >= SMALLEST else b"", keyframe=keyframe)
    deltas: list[Delta] = []
    weight = 0
    for delta in chain[1:]:
        if not isinstance(delta, Delta):
            raise Malformed("holds a keyframe where a delta should be")
        deltas.append(delta)
        weight += len(delta.data) - delta.start
    data = apply_deltas(first.data, deltas)
    return StoredValue(first.type, data, token, entry_id, len(deltas), weight, keyframe)


class Pieces:
    """What a reply has: pieces (bytes, number of the piece that it needs or 0, entry id, in turn), and versions (fields `s` and
    `q`, number of those that they changed from or 0, in turn).
    """

    def __init__(self, flat: Sequence[bytes | int], vectors: Sequence[bytes | int]) -> None:
        self._flat = flat
        self._decoded: dict[int, Piece | None] = {}
        self._vectors = vectors
        self._versions: dict[int, tuple[Versions, int]] = {}

    def versions(self, number: int) -> tuple[Versions, int]:
        """The versions of a checkpoint, and how many changes they are behind whole ones. Raises `Malformed`."""
        if number not in self._versions:
            encoded, seen, base = self._vectors[3 * number - 3 : 3 * number]
            own = Versions(decode_versions(encoded), decode_seen(seen))  # type: ignore[arg-type]
            if base:
                before, depth = self.versions(int(base))
                self._versions[number] = overlaid(before, own), depth + 1
            else:
                self._versions[number] = own, 0
        return self._versions[number]

    def encoded_versions(self, number: int) -> list[tuple[bytes, bytes]]:
        """The fields they are made of, the whole ones first."""
        fields = []
        while number:
            encoded, seen, base = self._vectors[3 * number - 3 : 3 * number]
            fields.append((encoded, seen))
            number = int(base)
        return fields[::-1]  # type: ignore[return-value]

    def chain(self, number: int) -> list[bytes]:
        """The pieces that a value is made of, the keyframe first; none for number 0."""
        return [self._flat[3 * one - 3] for one in self._numbers(number)]  # type: ignore[misc]

    def entry_id(self, number: int) -> bytes:
        """The entry that a piece lies in."""
        return self._flat[3 * number - 1]  # type: ignore[return-value]

    def value(self, number: int, token: bytes) -> StoredValue | None:
        """The value of a piece, None if it has none. Raises `Malformed`."""
        if not number:
            return None
        return assemble([self._piece(one) for one in self._numbers(number)], token, self.entry_id(number))

    def _numbers(self, number: int) -> list[int]:
        numbers = []
        while number:
            numbers.append(number)
            number = int(self._flat[3 * number - 2])
        return numbers[::-1]

    def _piece(self, number: int) -> Piece | None:
        """A piece that several values need is decoded once."""
        if number not in self._decoded:
            self._decoded[number] = decode_piece(self._flat[3 * number - 3])  # type: ignore[arg-type]
        return self._decoded[number]

"""Assembles values from pieces: a keyframe, and the deltas made since.

Pure. The pieces of one reply are numbered from 1 in the order they came. A piece names the piece that it needs by its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eventlog.codec import EMPTY, Malformed, checksum_of, decompressed, delta_start, split_keyframe
from eventlog.events import decode_seen, decode_versions
from projections.values.delta import apply_deltas
from projections.values.versions import Versions, overlaid, verify

__all__ = ["SMALLEST", "Pieces", "StoredValue", "assemble"]

SMALLEST = 128
"""Bytes of a value below which a delta would hardly be shorter than the value."""


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


def assemble(chain: Sequence[bytes], version: bytes = b"", entry_id: bytes = b"") -> StoredValue | None:
    """The value of a keyframe's piece and the pieces of the deltas since.

    None for the piece of no value. Raises `Malformed`.
    """
    first = chain[0]
    if first == EMPTY and len(chain) == 1:
        return None
    if first[:1] != b"K":
        raise Malformed("holds a delta without the keyframe that it goes back to, or a piece of unknown form")
    type_, start = split_keyframe(first)
    keyframe = len(first) - start
    if len(chain) == 1:
        data = first[start:]
        if checksum_of(data) != first[start - 8 : start]:
            raise Malformed("holds a value that is not the one that was stored")
        return StoredValue(type_, data, version, entry_id if keyframe >= SMALLEST else b"", keyframe=keyframe)
    deltas = []
    weight = 0
    for piece in chain[1:]:
        if piece[:1] != b"D":
            raise Malformed("holds a keyframe where a delta should be")
        at = delta_start(piece)
        deltas.append((piece, at))
        weight += len(piece) - at
    data = apply_deltas(memoryview(first)[start:], deltas)
    return StoredValue(type_, data, version, entry_id, len(deltas), weight, keyframe)


class Pieces:
    """The pieces and versions of a reply.

    Of each piece the reply has its bytes, the number of the piece that it needs or 0, and its entry id. Of versions it has the
    fields `s`, `q` and `y`, and the number of the versions that they changed from or 0.
    """

    def __init__(self, flat: Sequence[bytes | int], vectors: Sequence[bytes | int]) -> None:
        self._flat = flat
        self._plain: dict[int, bytes] = {}
        self._vectors = vectors
        self._versions: dict[int, tuple[Versions, int]] = {}

    def versions(self, number: int) -> tuple[Versions, int]:
        """The versions of a checkpoint, and the number of changes since whole ones.

        Raises `Malformed`.
        """
        if number not in self._versions:
            encoded, seen, checksum, base = self._vectors[4 * number - 4 : 4 * number]
            own, depth = Versions(decode_versions(encoded), decode_seen(seen)), 0  # type: ignore[arg-type]
            if base:
                before, depth = self.versions(int(base))
                own, depth = overlaid(before, own), depth + 1
            verify(own, checksum)  # type: ignore[arg-type]
            self._versions[number] = own, depth
        return self._versions[number]

    def encoded_versions(self, number: int) -> list[tuple[bytes, bytes, bytes]]:
        """The fields `s`, `q` and `y` of versions and their bases, whole ones first."""
        fields = []
        while number:
            encoded, seen, checksum, base = self._vectors[4 * number - 4 : 4 * number]
            fields.append((encoded, seen, checksum))
            number = int(base)
        return fields[::-1]  # type: ignore[return-value]

    def chain(self, number: int) -> list[bytes]:
        """The pieces of a value, the keyframe first, decompressed.

        Empty for number 0. Raises `Malformed`.
        """
        chain = []
        while number:
            chain.append(self._piece(number))
            number = int(self._flat[3 * number - 2])
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

    def value(self, number: int, version: bytes) -> StoredValue | None:
        """The value of a piece, None if there is none. Raises `Malformed`."""
        return assemble(self.chain(number), version, self.entry_id(number)) if number else None

    def _piece(self, number: int) -> bytes:
        """A piece, decompressed once even if several values need it."""
        if number not in self._plain:
            self._plain[number] = decompressed(self._flat[3 * number - 3])  # type: ignore[arg-type]
        return self._plain[number]

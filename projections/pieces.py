"""Values from pieces: a keyframe, and the deltas that were made against it one after the other.

Pure. The pieces of one reply are numbered from 1 in the order they came; a piece that needs another names it by its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eventlog.codec import EMPTY, Delta, Malformed, decode_piece
from projections.delta import apply_deltas

__all__ = ["SMALLEST", "Pieces", "StoredValue", "assemble", "is_tracked"]

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
    """Bytes of the keyframe's piece."""


def is_tracked(chain: Sequence[bytes]) -> bool:
    """Whether a delta may be made against the last of a keyframe's piece and its deltas', as save_checkpoint.lua has it."""
    first = chain[0]
    return len(chain) > 1 or (first != EMPTY and (first[:1] == b"k" or len(first) >= SMALLEST))


def assemble(chain: Sequence[bytes], token: bytes = b"", entry_id: bytes = b"") -> StoredValue | None:
    """The value that a keyframe's piece and those of the deltas since make; None for the piece of no value. Raises `Malformed`."""
    first = decode_piece(chain[0])
    if first is None and len(chain) == 1:
        return None
    if first is None or isinstance(first, Delta):
        raise Malformed("holds a delta without the keyframe that it goes back to")
    if len(chain) == 1:
        return StoredValue(first.type, first.data, token, entry_id, keyframe=len(chain[0]))
    deltas = []
    for piece in chain[1:]:
        delta = decode_piece(piece)
        if not isinstance(delta, Delta):
            raise Malformed("holds a keyframe where a delta should be")
        deltas.append(delta.data)
    data = apply_deltas(first.data, deltas)
    weight = sum(map(len, chain)) - len(chain[0])
    return StoredValue(first.type, data, token, entry_id, len(deltas), weight, len(chain[0]))


class Pieces:
    """The pieces of a reply: bytes, number of the piece that it needs (0 for none), and entry id, in turn."""

    def __init__(self, flat: Sequence[bytes | int]) -> None:
        self._flat = flat

    def chain(self, number: int) -> list[bytes]:
        """The pieces that a value is made of, the keyframe first; that of no value for number 0."""
        chain: list[bytes] = []
        while number:
            at = 3 * number - 3
            chain.append(self._flat[at])  # type: ignore[arg-type]
            number = int(self._flat[at + 1])
        return chain[::-1]

    def entry_id(self, number: int) -> bytes:
        """The entry that a piece lies in."""
        return self._flat[3 * number - 1]  # type: ignore[return-value]

    def value(self, number: int, token: bytes) -> StoredValue | None:
        """The value of a piece, None if it has none. Raises `Malformed`."""
        if not number:
            return None
        chain = self.chain(number)
        return assemble(chain, token, self.entry_id(number) if is_tracked(chain) else b"")

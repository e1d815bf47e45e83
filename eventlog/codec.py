"""Bytes: envelopes and pieces.

An envelope is CBOR (RFC 8949) of plain data: no tags, definite lengths, text keys. Decoding one runs no constructor, because a
tag is refused before anything is made of it. Maps keep the order they were written in, since the order of a dict is part of a
checkpoint that has to come back as it was.

A piece is how one version of a channel's value is stored: one letter for its form, then what the form needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from io import BytesIO
from typing import Any, NamedTuple, NoReturn

import cbor2

__all__ = [
    "EMPTY",
    "Keyframe",
    "Malformed",
    "content_digest",
    "decode",
    "decode_piece",
    "encode",
    "encode_keyframe",
    "is_plain",
]

EMPTY = b"E"
"""The piece of a channel that has no value at that version."""
KEYFRAME = b"K"
"""The form of a piece that holds a value whole. (`D`, a delta against an earlier piece, is reserved.)"""

DEEPEST = 300
"""Containers within each other that an envelope may hold; cbor2 decodes up to 400. What is deeper is the serializer's."""
_INT_MIN, _INT_MAX = -(2**64), 2**64 - 1


class Malformed(ValueError):
    """Bytes that this project did not write. Whoever knows the thread and the entry turns it into `CorruptEntry`."""


class Keyframe(NamedTuple):
    """A whole value: the serializer's name for its format, and its bytes."""

    type: str
    data: bytes


def encode(value: object) -> bytes:
    """CBOR of plain data (see `is_plain`)."""
    return cbor2.dumps(value)


def _refuse(*_: object) -> NoReturn:
    raise Malformed("holds a CBOR tag, which this project never writes")


_TAGS: dict[int, Any] = dict.fromkeys(
    # Every tag that cbor2 would act on by itself. Any other reaches `tag_hook`.
    (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799),
    _refuse,
)


def decode(data: bytes) -> Any:
    """The plain data in `data`. Raises `Malformed` for anything else, trailing bytes included."""
    return decode_sequence(data, 1)[0]


def decode_sequence(data: bytes, count: int) -> list[Any]:
    """The `count` plain items that `data` consists of. Raises `Malformed` for anything else."""
    stream = BytesIO(data)
    try:
        decoder = cbor2.CBORDecoder(stream, tag_hook=_refuse, semantic_decoders=_TAGS, allow_indefinite=False)
        items = [decoder.decode() for _ in range(count)]
    except Malformed:
        raise
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, MemoryError, OverflowError) as error:
        raise Malformed(f"is not CBOR: {error}") from error
    if stream.read(1):
        raise Malformed("has bytes after its end")
    return items


def is_plain(value: object) -> bool:
    """Whether CBOR brings `value` back exactly: None, bool, int, float, str, bytes, list, dict with text keys; no subclasses."""
    return _is_plain(value, 0)


def _is_plain(value: Any, depth: int) -> bool:
    if depth > DEEPEST:
        return False
    kind = type(value)
    if value is None or kind is bool or kind is float or kind is bytes:
        return True
    if kind is str:
        return _is_text(value)
    if kind is int:
        return bool(_INT_MIN <= value <= _INT_MAX)
    if kind is list:
        return all(_is_plain(item, depth + 1) for item in value)
    if kind is dict:
        return all(type(key) is str and _is_text(key) and _is_plain(item, depth + 1) for key, item in value.items())
    return False


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def encode_keyframe(type_: str, data: bytes) -> bytes:
    """The piece that holds a value whole."""
    return KEYFRAME + encode([type_, data])


def decode_piece(piece: bytes) -> Keyframe | None:
    """What a piece holds, None for `EMPTY`. Raises `Malformed` for an unknown form."""
    if piece == EMPTY:
        return None
    if piece[:1] != KEYFRAME:
        raise Malformed(f"holds a piece of unknown form {piece[:1]!r}")
    return Keyframe(*decode_shape(piece[1:], str, bytes))


def decode_shape(data: bytes, *types: type) -> list[Any]:
    """The list in `data`, whose items must have just these types. Raises `Malformed`."""
    items = decode(data)
    if not isinstance(items, list) or [type(item) for item in items] != list(types):
        raise Malformed("has another shape than this project writes")
    return items


def decode_texts(data: bytes) -> list[str]:
    """The texts in `data`. Raises `Malformed`."""
    items = decode(data)
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise Malformed("has another shape than this project writes")
    return items


def content_digest(fields: Sequence[bytes]) -> str:
    """SHA-256, in hex, over the fields of an event, each behind its length."""
    digest = sha256()
    for field in fields:
        digest.update(b"%d:" % len(field))
        digest.update(field)
    return digest.hexdigest()

"""Bytes: envelopes and pieces.

An envelope is CBOR (RFC 8949) of plain data: no tags, definite lengths, text keys. Decoding one runs no constructor, because a
tag is refused before anything is made of it. Maps keep the order they were written in, since the order of a dict is part of a
checkpoint that has to come back as it was.

A piece is how one version of a channel's value is stored: one letter for its form, then what the form needs.

    E    no value at this version
    K    keyframe, the value whole: the serde type behind its length, the value's check, its bytes
    D    delta against an earlier piece of the channel: the entry id that piece lies in behind its length, then its version token,
         both behind their length as a 16-bit big-endian number; then the checks of that value and of this, and the edits that lead
         from one to the other (see `projections.values.delta`)
    k, d the same, the bytes, or the edits, compressed with Zstandard

"Behind its length" is a decimal number, a colon, then so many bytes. A check is 8 bytes, XXH3-64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from secrets import token_bytes
from threading import local
from typing import Any, NamedTuple, NoReturn, TypeVar

import cbor2
import zstandard
from xxhash import xxh3_64_digest

__all__ = [
    "EMPTY",
    "Keyframe",
    "Malformed",
    "base_of",
    "compressed",
    "content_digest",
    "decode",
    "decompressed",
    "encode",
    "encode_delta",
    "encode_keyframe",
    "is_plain",
    "paired",
]

T = TypeVar("T")

EMPTY = b"E"
"""The piece of a channel that has no value at that version."""
checksum_of = xxh3_64_digest
"""8 bytes that tell one byte string from another."""
NO_CHECK = bytes(8)
"""Where a check stands, that of no value."""
NEVER = 2**63
"""Bytes above which a piece is compressed, where none is."""

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


_MARK = token_bytes(16)
"""Stands behind data while it is decoded; `loads` looks at nothing that follows what it was asked for."""
_ENCODED_MARK = cbor2.dumps(_MARK)


def decode(data: bytes) -> Any:
    """The plain data in `data`. Raises `Malformed` for anything else, trailing bytes included."""
    try:
        marked = b"".join((b"\x82", data, _ENCODED_MARK))
        value, mark = cbor2.loads(marked, tag_hook=_refuse, semantic_decoders=_TAGS, allow_indefinite=False)
    except Malformed:
        raise
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, MemoryError, OverflowError) as error:
        raise Malformed(f"is not CBOR: {error}") from error
    if mark != _MARK:
        raise Malformed("has bytes after its end")
    return value


def is_plain(value: object) -> bool:
    """Whether CBOR brings `value` back exactly: None, bool, int, float, str, bytes, list, dict with text keys; no subclasses."""
    return _is_plain(value, 0)


_TEXT = frozenset((str,))
_ALWAYS = frozenset((type(None), bool, float, bytes))


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind is dict:
        for key in value:
            if type(key) is not str or not (key.isascii() or _is_text(key)):
                return False
        value = value.values()
    elif kind is not list:
        return _is_plain_scalar(kind, value)
    if depth > DEEPEST:
        return False
    for item in value:
        kind = type(item)
        if kind is dict or kind is list:
            if not _is_plain(item, depth + 1):
                return False
        elif not _is_plain_scalar(kind, item):
            return False
    return True


def _is_plain_scalar(kind: type, value: Any) -> bool:
    if kind is str:
        return value.isascii() or _is_text(value)
    if kind is int:
        return bool(_INT_MIN <= value <= _INT_MAX)
    return kind in _ALWAYS


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Zstd(local):
    """A thread's compressor and decompressor: neither may be used by two threads at once."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


_ZSTD = _Zstd()
_LARGEST = 2**30
"""Bytes that a compressed piece may come to: more than a server takes for one value."""
_SAMPLE = 4096


def _compressed(data: memoryview) -> bytes | None:
    compressor = _ZSTD.compressor
    if len(data) > 4 * _SAMPLE:
        middle = len(data) // 2
        if len(compressor.compress(data[middle : middle + _SAMPLE])) > _SAMPLE * 0.9:
            return None
    made: bytes = compressor.compress(data)
    return made if len(made) < len(data) * 0.9 else None


def _decompressed(data: bytes) -> bytes:
    try:
        if not 0 <= zstandard.frame_content_size(data) <= _LARGEST:
            raise Malformed("holds a compressed piece without its size, or of more bytes than a server takes")
        return _ZSTD.decompressor.decompress(data)
    except zstandard.ZstdError as error:
        raise Malformed(f"holds a compressed piece that cannot be read: {error}") from error


def encode_keyframe(type_: str, data: bytes, check: bytes) -> bytes:
    """The piece that holds a value whole."""
    encoded = type_.encode()
    return b"K%d:%b%b%b" % (len(encoded), encoded, check, data)


def encode_delta(entry_id: bytes, token: bytes, data: bytes) -> bytes:
    """The piece that holds a value by what differs from an earlier piece. `data`: checks and edits."""
    base = b"%d:%b%b" % (len(entry_id), entry_id, token)
    return b"D%b%b%b" % (len(base).to_bytes(2, "big"), base, data)


def compressed(piece: bytes, above: int) -> bytes | None:
    """A piece with its bytes compressed; None if it is not longer than `above` bytes, or would not become a good part shorter."""
    if len(piece) <= above:
        return None
    at = _end_of_checks(piece)
    made = _compressed(memoryview(piece)[at:])
    return None if made is None else piece[:1].lower() + piece[1:at] + made


def decompressed(piece: bytes) -> bytes:
    """A piece as it was before it was compressed. Raises `Malformed`."""
    if piece[:1] not in (b"k", b"d"):
        return piece
    at = _end_of_checks(piece)
    return piece[:1].upper() + piece[1:at] + _decompressed(piece[at:])


def _end_of_checks(piece: bytes) -> int:
    at = delta_start(piece) + 16 if is_delta(piece) else counted_part(piece, 1)[1] + 8
    if at > len(piece):
        raise Malformed("ends before its check does")
    return at


def is_delta(piece: bytes) -> bool:
    """Whether a piece needs an earlier one."""
    return piece[:1] in (b"D", b"d")


def check_in(piece: bytes) -> bytes:
    """The check of the value that a piece stands for. Raises `Malformed`."""
    if piece == EMPTY:
        return NO_CHECK
    end = _end_of_checks(piece)
    return piece[end - 8 : end]


def delta_start(piece: bytes) -> int:
    """Where in a delta's piece the delta begins."""
    return 3 + int.from_bytes(piece[1:3], "big")


def base_of(piece: bytes) -> tuple[bytes, bytes]:
    """Entry id and version token of the piece that a delta was made against. Raises `Malformed`."""
    start = delta_start(piece)
    entry_id, at = counted_part(piece, 3)
    if not at <= start <= len(piece):
        raise Malformed("holds a delta that does not say what it was made against")
    return entry_id, piece[at:start]


def counted_part(data: bytes, at: int) -> tuple[bytes, int]:
    """The part behind its length that begins at `at`, and where it ends. Raises `Malformed`."""
    try:
        start = data.index(b":", at, at + 12) + 1
        end = start + int(data[at : start - 1])
    except ValueError:
        raise Malformed("lacks the length of a part") from None
    if not start <= end <= len(data):
        raise Malformed("ends before one of its parts does")
    return data[start:end], end


def split_keyframe(piece: bytes) -> tuple[str, int]:
    """Serde type of a keyframe's piece, and where its bytes begin. Raises `Malformed`."""
    type_, at = counted_part(piece, 1)
    if len(piece) < at + 8:
        raise Malformed("ends before its check does")
    return _decoded(type_), at + 8


def encode_write(channel: str, type_: str, data: bytes) -> bytes:
    """A write as it lies in the log: channel and serde type, each behind its length, then the bytes."""
    name, kind = channel.encode(), type_.encode()
    return b"%d:%b%d:%b%b" % (len(name), name, len(kind), kind, data)


def decode_write(write: bytes) -> tuple[str, str, bytes]:
    """Channel, serde type and bytes of a write. Raises `Malformed`."""
    name, at = counted_part(write, 0)
    kind, at = counted_part(write, at)
    return _decoded(name), _decoded(kind), write[at:]


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"holds text that is not UTF-8: {error}") from None


def paired(flat: Iterable[T]) -> dict[T, T]:
    """Names and values that follow each other, as a dict. Raises `ValueError` for a name without a value."""
    parts = iter(flat)
    return dict(zip(parts, parts, strict=True))


def decode_texts(data: bytes) -> list[str]:
    """The texts in `data`. Raises `Malformed`."""
    items = decode(data)
    if type(items) is not list or not _TEXT.issuperset(map(type, items)):
        raise Malformed("has another shape than this project writes")
    return items


_LENGTHS = [b"%d," % length for length in range(2048)]
"""What most lengths are in `framed`: looked up in half the time of writing them."""


def framed(fields: Sequence[bytes]) -> bytes:
    """Fields in one byte string, which no other fields make: their lengths, each before a comma, a semicolon, then the fields."""
    lengths = [_LENGTHS[size] if (size := len(field)) < 2048 else b"%d," % size for field in fields]
    return b"".join([*lengths, b";", *fields])


def content_digest(fields: Sequence[bytes]) -> str:
    """SHA-256, in hex, over the fields of an event, `framed`."""
    return sha256(framed(fields)).hexdigest()

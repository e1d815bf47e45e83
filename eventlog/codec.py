"""Envelopes, pieces and writes are encoded as bytes.

An envelope is CBOR (RFC 8949) of plain data: no tags, definite lengths, text keys. Decoding runs no constructor,
because every tag is refused first. Maps keep their order, since the order of a dict is part of a checkpoint.

A piece is the stored form of one version of a channel's value. It begins with a letter for the form:

    E    no value at this version
    K    keyframe, the whole value: a counted serde type, the checksum of the value, its bytes
    D    delta against an earlier piece of the channel, its base: the size of the next two parts (16 bits, big-endian),
         the counted entry id of the base, its version key, the checksums of the base and of this value, and the edits
         that lead from one to the other (see `projections.values.delta`)
    k, d like K and D, with the bytes or the edits compressed by Zstandard

A counted part is a length in decimal, a colon, and that many bytes. A checksum is an XXH3-64 of 8 bytes.

Functions that read bytes raise `Malformed` for bytes of another form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from secrets import token_bytes
from threading import local
from typing import Any, NamedTuple, NoReturn, TypeVar

import cbor2
import zstandard
from xxhash import xxh3_64_digest

T = TypeVar("T")

EMPTY = b"E"
"""The piece of a channel that has no value at that version."""
checksum_of = xxh3_64_digest
"""The checksum of a byte string: 8 bytes."""
NO_CHECK = bytes(8)
"""The checksum of a channel without a value."""
NEVER = 2**63
"""A threshold for compression that no piece reaches."""

DEEPEST = 300
"""Most levels of nesting in an envelope; cbor2 decodes up to 400. The serializer stores deeper data."""
_INT_MIN, _INT_MAX = -(2**64), 2**64 - 1


class Malformed(ValueError):
    """Bytes are not of a form that this project writes.

    A caller that knows the thread and the entry raises `CorruptEntry` instead.
    """


class TooLarge(Malformed):
    """Data would take more memory than a limit allows (`eventlog.limits`)."""


class Keyframe(NamedTuple):
    """A whole value: the serializer's name of its format, and its bytes."""

    type: str
    data: bytes


def encode(value: object) -> bytes:
    """CBOR of plain data (see `is_plain`)."""
    return cbor2.dumps(value)


def _refuse(*_: object) -> NoReturn:
    raise Malformed("has a CBOR tag, which this project never writes")


_TAGS: dict[int, Any] = dict.fromkeys(
    # The tags that cbor2 decodes itself; all others reach `tag_hook`.
    (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799),
    _refuse,
)

_END = token_bytes(16)
"""Follows data while it is decoded, since `loads` ignores trailing bytes."""
_ENCODED_END = cbor2.dumps(_END)


def decode(data: bytes) -> Any:
    """The plain data in an envelope; trailing bytes are an error."""
    try:
        pair = b"".join((b"\x82", data, _ENCODED_END))
        value, end = cbor2.loads(pair, tag_hook=_refuse, semantic_decoders=_TAGS, allow_indefinite=False)
    except Malformed:
        raise
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, MemoryError, OverflowError) as error:
        raise Malformed(f"is not CBOR: {error}") from error
    if end != _END:
        raise Malformed("has bytes after its end")
    return value


def is_plain(value: object) -> bool:
    """Whether CBOR restores `value` exactly.

    It does so for None, bool, int, float, str, bytes, lists, and dicts with text keys, but not for their subclasses.
    """
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
    """The compressor and decompressor of one thread; threads cannot share them."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


_ZSTD = _Zstd()
FREELY = 4096
"""Bytes up to which data are compressed, however short they become: with its frame a piece is never a 250th of that."""
RATIO = 100
"""Most times that longer data become shorter, so that readers can tell them from a bomb."""
_SAMPLE = 4096


def encode_keyframe(type_: str, data: bytes, checksum: bytes) -> bytes:
    """The piece of a whole value."""
    encoded = type_.encode()
    return b"K%d:%b%b%b" % (len(encoded), encoded, checksum, data)


def encode_delta(entry_id: bytes, version: bytes, data: bytes) -> bytes:
    """The piece of a delta, with the checksums and edits in `data`."""
    base = b"%d:%b%b" % (len(entry_id), entry_id, version)
    return b"D%b%b%b" % (len(base).to_bytes(2, "big"), base, data)


def compressed(piece: bytes, above: int) -> bytes | None:
    """A piece with its bytes compressed, if that is worth it.

    None if it has at most `above` bytes, would shrink by less than a tenth, or so much that it would look like a bomb.
    """
    if len(piece) <= above:
        return None
    at = _end_of_checksums(piece)
    data, compressor = memoryview(piece)[at:], _ZSTD.compressor
    if len(data) > 4 * _SAMPLE:
        middle = len(data) // 2
        if len(compressor.compress(data[middle : middle + _SAMPLE])) > _SAMPLE * 0.9:
            return None
    made: bytes = compressor.compress(data)
    if len(made) >= len(data) * 0.9 or len(data) > max(FREELY, RATIO * len(made)):
        return None
    return piece[:1].lower() + piece[1:at] + made


def is_compressed(piece: bytes) -> bool:
    """Whether a piece is compressed."""
    return piece[:1] in (b"k", b"d")


def size_of(piece: bytes) -> int:
    """Bytes of a piece without compression, as far as it says so itself. Decompresses nothing.

    Raises `Malformed` for a compressed piece that does not say so.
    """
    if not is_compressed(piece):
        return len(piece)
    at = _end_of_checksums(piece)
    try:
        size = zstandard.frame_content_size(memoryview(piece)[at:])
    except zstandard.ZstdError as error:
        raise Malformed(f"has a compressed piece that cannot be read: {error}") from error
    if size < 0:
        raise Malformed("has a compressed piece without a size")
    return int(at + size)


def decompressed(piece: bytes) -> bytes:
    """A piece without compression. It takes as much memory as `size_of` says."""
    if not is_compressed(piece):
        return piece
    at = _end_of_checksums(piece)
    try:
        data = _ZSTD.decompressor.decompress(memoryview(piece)[at:], allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Malformed(f"has a compressed piece that cannot be read: {error}") from error
    return b"".join((piece[:1].upper(), piece[1:at], data))


def _end_of_checksums(piece: bytes) -> int:
    at = delta_start(piece) + 16 if is_delta(piece) else counted_part(piece, 1)[1] + 8
    if at > len(piece):
        raise Malformed("ends before its checksum")
    return at


def is_delta(piece: bytes) -> bool:
    """Whether a piece is a delta, and so needs an earlier one."""
    return piece[:1] in (b"D", b"d")


def check_in(piece: bytes) -> bytes:
    """The checksum of a piece's value."""
    if piece == EMPTY:
        return NO_CHECK
    end = _end_of_checksums(piece)
    return piece[end - 8 : end]


def delta_start(piece: bytes) -> int:
    """Where the checksums begin in the piece of a delta."""
    return 3 + int.from_bytes(piece[1:3], "big")


def base_of(piece: bytes) -> tuple[bytes, bytes]:
    """Entry id and version key of the base of a delta."""
    start = delta_start(piece)
    entry_id, at = counted_part(piece, 3)
    if not at <= start <= len(piece):
        raise Malformed("has a delta without a base")
    return entry_id, piece[at:start]


def counted_part(data: bytes, at: int) -> tuple[bytes, int]:
    """The counted part that begins at `at`, and where it ends.

    `eventlog.framing.split_counted` splits bytes that consist of counted parts alone.
    """
    try:
        start = data.index(b":", at, at + 12) + 1
        end = start + int(data[at : start - 1])
    except ValueError:
        raise Malformed("lacks the length of a part") from None
    if not start <= end <= len(data):
        raise Malformed("ends inside one of its parts")
    return data[start:end], end


def split_keyframe(piece: bytes) -> tuple[str, int]:
    """Serde type of a keyframe, and where its bytes begin."""
    type_, at = counted_part(piece, 1)
    if len(piece) < at + 8:
        raise Malformed("ends before its checksum")
    return _decoded(type_), at + 8


def encode_write(channel: str, type_: str, data: bytes) -> bytes:
    """A write in the form of the log: counted channel, counted serde type, bytes."""
    name, kind = channel.encode(), type_.encode()
    return b"%d:%b%d:%b%b" % (len(name), name, len(kind), kind, data)


def decode_write(write: bytes) -> tuple[str, str, bytes]:
    """Channel, serde type and bytes of a write."""
    name, at = counted_part(write, 0)
    kind, at = counted_part(write, at)
    return _decoded(name), _decoded(kind), write[at:]


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"has text that is not UTF-8: {error}") from None


def paired(flat: Iterable[T]) -> dict[T, T]:
    """A dict from names and values in turn.

    Raises `ValueError` for a name without a value.
    """
    parts = iter(flat)
    return dict(zip(parts, parts, strict=True))


def decode_texts(data: bytes) -> list[str]:
    """The texts in a CBOR list."""
    items = decode(data)
    if type(items) is not list or not _TEXT.issuperset(map(type, items)):
        raise Malformed("is not a list of texts")
    return items


_LENGTHS = [b"%d," % length for length in range(2048)]
"""The short lengths of `framed`; to look one up takes half the time of formatting it."""


def framed(fields: Sequence[bytes]) -> bytes:
    """Fields as one byte string that no other fields result in.

    It is the length of each field with a comma, a semicolon, and the fields.
    """
    lengths = [_LENGTHS[size] if (size := len(field)) < 2048 else b"%d," % size for field in fields]
    return b"".join([*lengths, b";", *fields])


def content_digest(fields: Sequence[bytes]) -> str:
    """The hex SHA-256 of the `framed` fields of an event."""
    return sha256(framed(fields)).hexdigest()


def end_of_item(upto: Callable[[int], bytes | bytearray], most: int) -> int:
    """Where the CBOR item ends that begins some data: nothing of it is decoded.

    `upto` returns the data at least as far as its argument, and raises where they are shorter, or more than the caller takes.
    Raises `Malformed` for an item of more than `most` data items, of indefinite length, or with tags.
    """
    at = count = have = 0
    left = 1
    data: bytes | bytearray = b""
    while left:
        if at >= have:
            data = upto(at + 1)
            have = len(data)
        major, size = data[at] >> 5, data[at] & 31
        at += 1
        if size >= 24:
            if size > 27:
                raise Malformed("is not CBOR: it has an item of indefinite length, or of an unknown form")
            begin, at = at, at + (1 << (size - 24))
            if at > have:
                data = upto(at)
                have = len(data)
            size = int.from_bytes(data[begin:at], "big")
        left -= 1
        if major in (2, 3):
            at += size
            if at > have:
                data = upto(at)
                have = len(data)
        elif major in (4, 5):
            left += size * (major - 3)
        elif major == 6:
            _refuse()
        count += 1
        if count + left > most:
            raise Malformed(f"has an item of more than {most:,} parts")
    upto(at)
    return at

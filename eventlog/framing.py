"""Framed byte strings show a reader where each one ends.

Ids are arbitrary text, so no separator is safe. A part either follows its length (`counted`), or has an encoding that
marks its end and keeps the order of parts (`ordered`).
"""

from __future__ import annotations

__all__ = ["counted", "is_number", "ordered", "split_counted", "unordered"]


def counted(part: bytes) -> bytes:
    """`part` after its length, which separates it from the bytes that follow."""
    return b"%d:%b" % (len(part), part)


def is_number(text: bytes) -> bool:
    """Whether bytes are a whole number of at most 19 digits; Python refuses to read one of thousands."""
    return text.isdigit() and len(text) < 20


def split_counted(parts: bytes) -> list[bytes]:
    """The parts of bytes that consist of `counted` parts.

    Raises ValueError for other bytes. `eventlog.codec.counted_part` reads one part inside other bytes.
    """
    found, at = [], 0
    while at < len(parts):
        colon = parts.index(b":", at)
        size = parts[at:colon]
        if not is_number(size):
            raise ValueError("a part has no length")
        end = colon + 1 + int(size)
        if end > len(parts):
            raise ValueError("a part is shorter than its length says")
        found.append(parts[colon + 1 : end])
        at = end
    return found


def ordered(part: bytes) -> bytes:
    """`part` in an encoding that marks its end and sorts as `part` does.

    Source: the tuple layer of FoundationDB.
    """
    return part.replace(b"\0", b"\0\xff") + b"\0"


def unordered(encoded: bytes) -> tuple[bytes, bytes]:
    """The first `ordered` part of `encoded`, decoded, and the bytes after it."""
    end = encoded.index(b"\0")
    while encoded[end + 1 : end + 2] == b"\xff":
        end = encoded.index(b"\0", end + 2)
    return encoded[:end].replace(b"\0\xff", b"\0"), encoded[end + 1 :]

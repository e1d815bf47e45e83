"""Frames byte strings so that a reader can tell where each one ends.

Ids are arbitrary text, so no separator is safe: a part stands after its length (`counted`), or in an encoding that ends itself and
keeps the order of the parts (`ordered`).
"""

from __future__ import annotations

__all__ = ["counted", "ordered", "split_counted", "unordered"]


def counted(part: bytes) -> bytes:
    """`part` behind its length, so that what follows it cannot be mistaken for it."""
    return b"%d:%b" % (len(part), part)


def split_counted(parts: bytes) -> list[bytes]:
    """The `counted` parts that stand one behind the other. Raises ValueError for anything else."""
    found, at = [], 0
    while at < len(parts):
        colon = parts.index(b":", at)
        size = parts[at:colon]
        if not size.isdigit():
            raise ValueError("a part has no length")
        end = colon + 1 + int(size)
        if end > len(parts):
            raise ValueError("a part is shorter than its length says")
        found.append(parts[colon + 1 : end])
        at = end
    return found


def ordered(part: bytes) -> bytes:
    """`part` in an encoding that ends itself and sorts, byte by byte, as `part` does. Source: FoundationDB's tuple layer."""
    return part.replace(b"\0", b"\0\xff") + b"\0"


def unordered(encoded: bytes) -> tuple[bytes, bytes]:
    """The first `ordered` part of `encoded`, decoded, and what follows it."""
    end = encoded.index(b"\0")
    while encoded[end + 1 : end + 2] == b"\xff":
        end = encoded.index(b"\0", end + 2)
    return encoded[:end].replace(b"\0\xff", b"\0"), encoded[end + 1 :]

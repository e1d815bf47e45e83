"""A chain of digests binds the entries of a log.

Each digest covers the digest of the previous entry, the entry's own id and number, and its content. `log.lua` computes it
for an append; this module computes it again to verify a log.
"""

from __future__ import annotations

from hashlib import sha1

from eventlog.codec import content_digest
from eventlog.framing import is_number

__all__ = ["link", "links"]


def link(previous: bytes, entry_id: bytes, sequence: int, content: str) -> bytes:
    """The hex digest of an entry.

    `previous` is the digest of the previous entry, b"" for none. `content` is the content digest of the fields without
    `n` and `d`. SHA-1 reads only text of a fixed form and a SHA-256, so nobody can choose a collision.
    """
    data = b"%b\n%b\n%d\n%b" % (previous, entry_id, sequence, content.encode())
    return sha1(data, usedforsecurity=False).hexdigest().encode()


def links(previous: bytes, entry_id: bytes, flat: list[bytes]) -> bool:
    """Whether an entry follows the digest `previous`; False unless it begins with `n` and `d`, as `log.lua` writes it."""
    if flat[:4:2] != [b"n", b"d"] or not is_number(flat[1]):
        return False
    return flat[3] == link(previous, entry_id, int(flat[1]), content_digest(flat[4:]))

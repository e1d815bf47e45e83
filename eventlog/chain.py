"""The chain of digests that holds a log together: each entry's covers its predecessor's, its own place and all its content.

`log.lua` computes it as it appends; here it is computed again, by whoever verifies.
"""

from __future__ import annotations

from hashlib import sha1

from eventlog.codec import content_digest

__all__ = ["link", "links"]


def link(previous: bytes, entry_id: bytes, sequence: int, content: str) -> bytes:
    """Digest, in hex, of an entry: `content` is that of its fields without `n` and `d`, `previous` its predecessor's, b"" for none.

    What SHA-1 is given is fixed text and a SHA-256, which leaves no room for a chosen collision.
    """
    fed = b"%b\n%b\n%d\n%b" % (previous, entry_id, sequence, content.encode())
    return sha1(fed, usedforsecurity=False).hexdigest().encode()


def links(previous: bytes, entry_id: bytes, flat: list[bytes]) -> bool:
    """Whether an entry, its fields with `n` and `d` first, follows on the digest `previous`."""
    return flat[3] == link(previous, entry_id, int(flat[1]), content_digest(flat[4:]))

"""The versions of a checkpoint, whole or as what changed since an earlier one's.

Pure. They grow with the graph, not with what a step changes: the version of every channel, and for every node the versions it has
seen. A checkpoint that has many of them, and the same channels and nodes as the one before, is stored with those that changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from eventlog.codec import Malformed, checksum_of, encode

__all__ = ["MANY", "Versions", "changed", "check_of_versions", "overlaid", "verify"]

MANY = 16
"""Channels and nodes from which on versions are stored as what changed, and what nodes have seen beside the envelope."""


class Versions(NamedTuple):
    """Version token by channel; and by node what it has seen, None if that is stored elsewhere."""

    channels: Mapping[str, str]
    seen: Mapping[str, Any] | None

    @property
    def size(self) -> int:
        """Number of channels and nodes."""
        return len(self.channels) + len(self.seen or ())


def check_of_versions(versions: Versions) -> bytes:
    """8 bytes that tell versions from others; none where there are not many."""
    if versions.size < MANY:
        return b""
    return checksum_of(encode([list(versions.channels.items()), versions.seen]))


def verify(versions: Versions, check: bytes) -> None:
    """Raises `Malformed` if versions are not those that a check was made of (empty: there is none)."""
    if check and check_of_versions(versions) != check:
        raise Malformed("has versions that are not those that were stored")


def changed(base: Versions, current: Versions) -> Versions | None:
    """What of `current` differs from `base`; None if that would not bring it back as it is, order included."""
    if (base.seen is None) != (current.seen is None) or list(base.channels) != list(current.channels):
        return None
    channels = {name: token for name, token in current.channels.items() if token != base.channels[name]}
    if base.seen is None or current.seen is None:
        return Versions(channels, None)
    if list(base.seen) != list(current.seen):
        return None
    return Versions(channels, {node: seen for node, seen in current.seen.items() if not _same(seen, base.seen[node])})


def _same(one: Any, other: Any) -> bool:
    """Whether two nodes have seen the same, in the same order, 1 and 1.0 being different."""
    return repr(one) == repr(other)


def overlaid(base: Versions, changes: Versions) -> Versions:
    """`base` with what `changed` gave."""
    seen = None if base.seen is None else {**base.seen, **(changes.seen or {})}
    return Versions({**base.channels, **changes.channels}, seen)

"""Stores the versions of a checkpoint whole, or as the changes since another.

Pure. Versions grow with the graph and not with the changes of a step. They have the version of every channel, and the versions that
every node has seen. A checkpoint with many of them is stored with the changed ones only, if it has the same channels and nodes as
the checkpoint before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from eventlog.codec import Malformed, checksum_of, encode

__all__ = ["MANY", "Versions", "changed", "checksum_of_versions", "overlaid", "verify"]

MANY = 16
"""Channels and nodes from which on versions are stored as changes, and versions seen outside of the envelope."""


class Versions(NamedTuple):
    """The version key of each channel, and the versions that each node has seen."""

    channels: Mapping[str, str]
    seen: Mapping[str, Any] | None
    """None if the versions seen are stored elsewhere."""

    @property
    def size(self) -> int:
        """Number of channels and nodes."""
        return len(self.channels) + len(self.seen or ())


def checksum_of_versions(versions: Versions) -> bytes:
    """The checksum of versions, 8 bytes; empty if they are few."""
    if versions.size < MANY:
        return b""
    return checksum_of(encode([list(versions.channels.items()), versions.seen]))


def verify(versions: Versions, checksum: bytes) -> None:
    """Raises `Malformed` if versions do not have a checksum, unless that is empty."""
    if checksum and checksum_of_versions(versions) != checksum:
        raise Malformed("has versions that are not those that were stored")


def changed(base: Versions, current: Versions) -> Versions | None:
    """The changes from `base` to `current`; None if they would not restore it exactly.

    They restore it if both have the same channels and nodes in the same order.
    """
    if (base.seen is None) != (current.seen is None) or list(base.channels) != list(current.channels):
        return None
    channels = {name: version for name, version in current.channels.items() if version != base.channels[name]}
    if base.seen is None or current.seen is None:
        return Versions(channels, None)
    if list(base.seen) != list(current.seen):
        return None
    return Versions(channels, {node: seen for node, seen in current.seen.items() if not _same(seen, base.seen[node])})


def _same(one: Any, other: Any) -> bool:
    """Whether two nodes have seen the same in the same order; 1 and 1.0 differ."""
    return repr(one) == repr(other)


def overlaid(base: Versions, changes: Versions) -> Versions:
    """Versions with changes as `changed` returns them."""
    seen = None if base.seen is None else {**base.seen, **(changes.seen or {})}
    return Versions({**base.channels, **changes.channels}, seen)

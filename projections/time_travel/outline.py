"""Checkpoints without their values. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from eventlog.events import CheckpointSaved

__all__ = ["Outline", "ValueName"]

ValueName = tuple[bytes, str, str]
"""The entry that holds a value, its channel, and its version key."""


@dataclass(slots=True)
class Outline:
    """A checkpoint without its values and writes, and the entries that hold these."""

    event: CheckpointSaved
    """Its versions are whole, its values left out."""
    entry_id: bytes
    depth: int
    """Number of changes between its versions and whole ones."""
    entries: dict[str, bytes | None]
    """By channel, the entry of its value, None where none was stored."""
    writes: list[bytes]
    """The entries of its pending writes, in log order."""

    def names(self) -> dict[str, ValueName]:
        """By channel, the names of the values that were stored."""
        return {
            channel: (entry_id, channel, self.event.versions[channel])
            for channel, entry_id in self.entries.items()
            if entry_id is not None
        }

    def renew(self, entries: dict[tuple[str, str], bytes]) -> None:
        """Take over values that were saved later for versions of this checkpoint."""
        for (channel, version_key), entry_id in entries.items():
            if self.event.versions.get(channel) == version_key:
                self.entries[channel] = entry_id

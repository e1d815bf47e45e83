"""Follow the latest checkpoint of each namespace through a log. Pure.

Theory of operation:

1. Of each namespace the tracker keeps an outline of the latest checkpoint, and the writes to later checkpoints that are not there
   yet.
2. A checkpoint with a greater id becomes the latest. One with the same id replaces it, and keeps its writes. One with a smaller
   id matters only for the values it brings.
3. Values that a checkpoint does not bring along come from the latest one, if the versions are the same. The values of any other
   version (after a fork) lie further back: the caller looks them up.
4. A checkpoint's values in entries of their own count from the checkpoint on. If their checkpoint does not follow, they count as
   values saved later for the latest checkpoint.
5. A namespace whose latest checkpoint was removed is no longer followed, nor is the one used longest ago when there are more than
   128. The caller looks such a namespace up when it needs it, and calls `follow`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from eventlog.events import CheckpointSaved, HistoryPruned, Recorded, Removed, RunsDeleted, ValuesSaved, WritesSaved
from projections.time_travel.outline import Outline

__all__ = ["Followed", "Tracker"]

NAMESPACES = 128
"""Namespaces that are followed at a time."""


@dataclass(slots=True)
class Followed:
    """The end of a namespace."""

    latest: Outline | None = None
    early: dict[str, list[bytes]] = field(default_factory=dict)
    """By checkpoint id, entries of writes to checkpoints that will be the latest when they come."""


class Tracker:
    """The latest checkpoint of each namespace after the events that were added.

    Memory: the outlines of 128 namespaces, and the name of each other one.
    """

    def __init__(self) -> None:
        self._followed: OrderedDict[str, Followed] = OrderedDict()
        self._dropped: set[str] = set()
        """Namespaces that are no longer followed."""
        self._skipped = False
        """Whether events were skipped, so that a namespace which is not followed may have a checkpoint."""
        self._values: tuple[tuple[str, str], dict[tuple[str, str], bytes]] | None = None
        """The namespace and id of a checkpoint whose values have begun to come, and their entries."""

    def skip(self) -> None:
        """Note that events were not added: any namespace has to be looked up from now on."""
        self._skipped = True

    def followed(self, namespace: str) -> Followed | None:
        """The end of a namespace, empty for a new one; None if it has to be looked up."""
        found = self._followed.get(namespace)
        if found is not None:
            self._followed.move_to_end(namespace)
            return found
        if self._skipped or namespace in self._dropped:
            return None
        return self.follow(namespace, Followed())

    def follow(self, namespace: str, found: Followed) -> Followed:
        """Follow a namespace that was looked up."""
        self._dropped.discard(namespace)
        self._followed[namespace] = found
        if len(self._followed) > NAMESPACES:
            self._dropped.add(self._followed.popitem(last=False)[0])
        return found

    def latest(self, namespace: str) -> Outline | None:
        """The latest checkpoint of a namespace, None if it has none or is not followed."""
        found = self._followed.get(namespace)
        return None if found is None else found.latest

    def add_checkpoint(self, entry_id: bytes, event: CheckpointSaved, depth: int) -> tuple[Outline | None, list[str]]:
        """Add a checkpoint whose versions are whole, `depth` changes above whole ones.

        Returns its outline, and the channels in it whose entries the caller has to look up; (None, []) if it is not the latest.
        """
        brought = self._take_values(event) | dict.fromkeys(event.values, entry_id)
        found = self.followed(event.namespace)
        if found is None:
            return None, []
        before = found.latest
        if before is not None and event.checkpoint_id < before.event.checkpoint_id:
            before.renew(brought)
            return None, []
        entries, unknown = _entries_of(event, brought, before)
        if before is not None and before.event.checkpoint_id == event.checkpoint_id:
            writes = before.writes
        else:
            writes = found.early.pop(event.checkpoint_id, [])
            found.early = {one: early for one, early in found.early.items() if one > event.checkpoint_id}
        found.latest = Outline(replace(event, values={}), entry_id, depth, entries, writes)
        return found.latest, unknown

    def add(self, recorded: Recorded) -> None:
        """Add any other event."""
        event = recorded.event
        if isinstance(event, ValuesSaved):
            self._add_values(recorded.entry_id, event)
            return
        self._end_values()
        if isinstance(event, WritesSaved):
            self._add_writes(recorded.entry_id, event)
        elif isinstance(event, (HistoryPruned, RunsDeleted)):
            self._remove(event.removed)

    def _add_values(self, entry_id: bytes, event: ValuesSaved) -> None:
        name = event.namespace, event.checkpoint_id
        if self._values is not None and self._values[0] != name:
            self._end_values()
        if self._values is None:
            self._values = name, {}
        self._values[1].update(dict.fromkeys(event.values, entry_id))

    def _take_values(self, event: CheckpointSaved) -> dict[tuple[str, str], bytes]:
        """The entries of values that came right before their checkpoint."""
        if self._values is not None and self._values[0] != (event.namespace, event.checkpoint_id):
            self._end_values()
        _, entries = self._values or (None, {})
        self._values = None
        return entries

    def _end_values(self) -> None:
        """Count values whose checkpoint does not follow."""
        if self._values is None:
            return
        (namespace, _), entries = self._values
        self._values = None
        latest = self.latest(namespace)
        if latest is not None:
            latest.renew(entries)

    def _add_writes(self, entry_id: bytes, event: WritesSaved) -> None:
        found = self.followed(event.namespace)
        if found is None:
            return
        if found.latest is None or event.checkpoint_id > found.latest.event.checkpoint_id:
            found.early.setdefault(event.checkpoint_id, []).append(entry_id)
        elif event.checkpoint_id == found.latest.event.checkpoint_id:
            found.latest.writes.append(entry_id)

    def _remove(self, removed: Removed) -> None:
        for namespace, checkpoint_id in (*removed.dropped, *removed.hidden):
            latest = self.latest(namespace)
            if latest is not None and latest.event.checkpoint_id == checkpoint_id:
                del self._followed[namespace]
                self._dropped.add(namespace)


def _entries_of(
    event: CheckpointSaved, brought: Mapping[tuple[str, str], bytes], before: Outline | None
) -> tuple[dict[str, bytes | None], list[str]]:
    """By channel the entry of a checkpoint's value, and the channels without one yet."""
    entries: dict[str, bytes | None] = {}
    unknown: list[str] = []
    for channel, version_key in event.versions.items():
        entries[channel] = brought.get((channel, version_key))
        if entries[channel] is not None:
            continue
        if before is not None and before.event.versions.get(channel) == version_key:
            entries[channel] = before.entries[channel]
        else:
            unknown.append(channel)
    return entries, unknown

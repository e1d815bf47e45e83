"""Finds checkpoints that name versions of channels which no event of the log brought.

Such a checkpoint is torn: it reads back without these channels, as a state that never was. Puts refuse it with `VersionMissing`;
earlier versions of this package accepted it after a server had lost events, or a thread had expired while a run went on.

A removal keeps the entries that listed checkpoints need, so their versions are there after it. Hidden and removed checkpoints may
lack theirs, and are left out. A value may come after a checkpoint that names it, so what is missing is settled at the log's end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from eventlog.events import CheckpointSaved, Recorded
from eventlog.framing import counted
from eventlog.keys import split_sort_key, value_name
from projections.log.fold import Index
from projections.maintenance.compare import Difference
from projections.values.versions import first_channels

__all__ = ["VersionIndex"]

_Names = frozenset[tuple[str, str]]
"""Channels and version keys."""


@dataclass
class VersionIndex(Index):
    """An index that also knows the versions that checkpoints named before an event brought them."""

    early: dict[bytes, _Names] = field(default_factory=dict)
    """By the entry id of the checkpoint; only those that have such versions. Equal sets are kept once."""
    _sets: dict[_Names, _Names] = field(default_factory=dict)

    def add(self, recorded: Recorded) -> None:
        """See `Fold`."""
        is_new, event = recorded.sequence > self.sequence, recorded.event
        Index.add(self, recorded)
        if not is_new or not isinstance(event, CheckpointSaved):
            return
        names = self._without_value(event.namespace, event.versions.items())
        if event.base is not None:
            names |= {name for name in self.early.get(event.base[0], ()) if name[0] not in event.versions}
        if names:
            same = frozenset(names)
            self.early[recorded.entry_id] = self._sets.setdefault(same, same)

    def torn(self) -> list[Difference]:
        """A difference for the listed checkpoints of a namespace that lack the same versions."""
        found: dict[tuple[str, _Names], list[str]] = {}
        for sort_key, entry_id in self.checkpoints.items():
            if entry_id in self.early:
                namespace, checkpoint_id, _ = split_sort_key(sort_key)
                if names := frozenset(self._without_value(namespace, self.early[entry_id])):
                    found.setdefault((namespace, names), []).append(checkpoint_id)
        return [_difference(namespace, names, ids) for (namespace, names), ids in found.items()]

    def _without_value(self, namespace: str, names: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of some versions that no event brought so far."""
        start = b"v" + counted(namespace.encode())
        return {name for name in names if start + value_name(name[0].encode(), name[1].encode()) not in self.values}


def _difference(namespace: str, names: _Names, checkpoint_ids: list[str]) -> Difference:
    first, more = checkpoint_ids[0], len(checkpoint_ids) - 1
    subject = f"checkpoint {first!r}" + (f" and {more:,} more" if more else "")
    where = f" of namespace {namespace!r}" if namespace else ""
    channels = first_channels({channel for channel, _ in names})
    return Difference(
        "log", f"{subject}{where}: no event brought the versions of {channels}; the state reads back without them"
    )

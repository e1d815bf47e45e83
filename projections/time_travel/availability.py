"""Find out whether a log still shows the state at an earlier event.

Theory of operation:

1. A removal takes entries out of the log, also for the time before it. Where the log lacks entries, it is read to its end once, and
   folded to the final index.
2. A state from before a removal is certain if the final index still has its checkpoint in the same entry, and each of its values,
   and if no checkpoint with a greater id was removed since. Any other state is `Unavailable`.
3. A gap that no removal accounts for is damage, and so is an entry that cannot be read. Damage is an error only once the cursor
   reaches it. A log that ends before its index does was cut: that is an error at its end.

Known limit: if a checkpoint was saved twice with different contents, and the first entry was pruned, the log does not show that
there was a first. Until the second, the checkpoint counts as not saved yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from eventlog.errors import CorruptEntry, SignatureInvalid
from eventlog.events import HistoryPruned, Recorded, Removed, RunsDeleted
from eventlog.flow import Flow
from eventlog.framing import is_number
from eventlog.keys import checkpoint_sort_key
from projections.log.fold import Index, lacking
from projections.log.pages import SCAN
from projections.time_travel.cursor import Cursor, Measured
from projections.time_travel.outline import Outline

__all__ = ["Availability", "Unavailable"]


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A state that the log no longer has, or no longer shows for certain."""

    message: str
    reason: str = "pruned"


class _Removal(NamedTuple):
    sequence: int
    first: int
    """The first sequence number that it took out."""
    greatest: Mapping[str, str]
    """By namespace, the greatest id of the checkpoints that it dropped."""

    @classmethod
    def of(cls, sequence: int, removed: Removed) -> _Removal:
        greatest: dict[str, str] = {}
        for namespace, checkpoint_id in removed.dropped:
            greatest[namespace] = max(checkpoint_id, greatest.get(namespace, ""))
        return cls(sequence, min((first for first, _, _ in removed.gone), default=sequence + 1), greatest)


class _Damage(NamedTuple):
    sequence: int
    """The first number that is missing, or follows an entry that cannot be read."""
    message: str


class Availability:
    """The parts of a thread's log that are still there, seen from a cursor."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._final: Index | None = None
        """The fold of the whole log, as far as it can be read; None while the log is known to lack nothing."""
        self._removals: list[_Removal] = []
        self._damage: _Damage | None = None
        self._cut = ""
        """The defect of the log's end."""

    def begin(self, measured: Measured) -> Flow[None]:
        """Take a log's extent into account.

        If entries are gone from the log, it is read to its end.
        """
        if measured.sequence != b"%d" % measured.entries:
            yield from self.look_ahead()
        sequence, indexed = measured.sequence, measured.indexed
        if is_number(indexed) and is_number(sequence) and int(indexed) > int(sequence):
            self._cut = (
                f"ends with event {int(sequence)}, its index knows of {int(indexed)}: the end was taken out by hand"
            )

    def look_ahead(self) -> Flow[None]:
        """Read the whole log, or up to its damage.

        Takes one round trip per 1000 entries or 4 MiB.
        """
        index, removals = Index(), []
        after, more, unreadable = b"", 1, ""
        while more:
            try:
                events, more = yield from self._cursor.page(after, SCAN)
            except (CorruptEntry, SignatureInvalid) as error:
                unreadable = str(error)
                break
            for recorded in events:
                after = recorded.entry_id
                index.add(recorded)
                if isinstance(recorded.event, (HistoryPruned, RunsDeleted)):
                    removals.append(_Removal.of(recorded.sequence, recorded.event.removed))
        missing = index.missing()
        if missing is not None:  # a removal after an unreadable entry may account for it
            self._damage = _Damage(missing, unreadable or lacking(self._cursor.thread, missing))
        self._final, self._removals = index, removals

    def account_for(self, gaps: Iterable[tuple[int, int]]) -> Flow[None]:
        """Read the log again if gaps came up that were not there when it was read."""
        known = () if self._final is None else self._final.gaps
        if any(gap not in known for gap in gaps):
            yield from self.look_ahead()

    def account_for_gap_before(self, recorded: Recorded) -> Flow[None]:
        """Account for the gap between the cursor's event and a later one, if any."""
        first, last = self._cursor.sequence + 1, recorded.sequence - 1
        if first <= last:
            yield from self.account_for([(first, last)])

    @property
    def whole_to(self) -> int:
        """The last event up to the cursor that can be read: the log after it is damaged."""
        at = self._cursor.sequence
        return at if self._damage is None else min(at, self._damage.sequence - 1)

    def check_reached(self) -> None:
        """Raise `CorruptEntry` if the cursor has reached damage."""
        if self._damage is not None and self._cursor.reached >= self._damage.sequence:
            raise self._corrupt(self._damage.message)

    def check_end(self) -> None:
        """Raise `CorruptEntry` if the log's end was cut off."""
        if self._cut:
            raise self._corrupt(f"The log of thread {self._cursor.thread!r} {self._cut}. Restore it from a backup.")

    def _corrupt(self, message: str) -> CorruptEntry:
        readable = f" What happened up to event {self.whole_to} can be read." if self.whole_to else ""
        return CorruptEntry(message + readable)

    @property
    def is_pruned(self) -> bool:
        """Whether the log, when it was last read to its end, lacked entries."""
        return self._final is not None and bool(self._final.gaps)

    def is_certain(self, outline: Outline | None, *, latest: bool) -> bool:
        """Whether the log still shows that a checkpoint was there at the cursor's event.

        `outline` None stands for no checkpoint. With `latest`, it must have been the latest one.
        """
        cursor = self._cursor
        since = [one for one in self._removals if one.sequence > cursor.sequence and one.first <= cursor.reached]
        if not since:
            return True
        if outline is None or not self._still_has(outline):
            return False
        event = outline.event
        return not latest or all(one.greatest.get(event.namespace, "") <= event.checkpoint_id for one in since)

    def _still_has(self, outline: Outline) -> bool:
        """Whether a checkpoint and its values were neither removed nor replaced since."""
        event, final = outline.event, self._final
        assert final is not None
        sort_key = checkpoint_sort_key(event.namespace.encode(), event.checkpoint_id.encode())
        return outline.entry_id in {final.checkpoints.get(sort_key), final.hidden.get(sort_key)} and all(
            final.value_entry(event.namespace, channel, version_key) == outline.entries[channel]
            for channel, version_key in event.versions.items()
        )

    def unavailable(self, namespace: str) -> Unavailable:
        """The answer for a state that is not certain."""
        where = f", namespace {namespace!r}," if namespace else ""
        return Unavailable(
            f"The state of thread {self._cursor.thread!r}{where} as of event {self._cursor.sequence} is no longer known: entries "
            "that it needs were pruned since. Restore the log from a backup or an export to look at it."
        )

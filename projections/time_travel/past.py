"""Fold a thread's log event by event, and give the checkpoints as they were.

Theory of operation:

1. The cursor (`cursor.py`) reads the log forward. The tracker (`tracker.py`) keeps an outline of the latest checkpoint of each
   namespace. From one event to the next that takes only the event.
2. Anything else (the values of a fork, a namespace whose latest checkpoint was removed, an older checkpoint) is looked up in an
   index. It is folded up to the current event when it is first needed, and continued from there.
3. A state is put together when it is asked for (`states.py`), if the log still shows that it was so (`availability.py`).

Views are not read, except for one number of the index, and nothing is written.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Union

from eventlog.codec import Malformed
from eventlog.errors import CorruptEntry
from eventlog.events import CheckpointSaved, Recorded
from eventlog.flow import Flow
from eventlog.framing import ordered
from eventlog.keys import ThreadKeys, checkpoint_sort_key, split_sort_key
from projections.checkpoints.read import damaged
from projections.log.fold import Index
from projections.log.pages import SCAN
from projections.time_travel.availability import Availability, Unavailable
from projections.time_travel.cursor import Cursor
from projections.time_travel.moment import Moment
from projections.time_travel.outline import Outline
from projections.time_travel.parts import read_outline
from projections.time_travel.states import States
from projections.time_travel.tracker import Followed, Tracker
from projections.values.stored import StoredCheckpoint
from projections.values.versions import Versions, overlaid, verify

__all__ = ["Past", "State", "Unavailable"]

VERSIONS = 64
"""Checkpoints whose versions are cached: those that later checkpoints change are among the last."""

State = Union[StoredCheckpoint, Unavailable, None]
"""The checkpoint that could be read of a namespace after an event; None where there was none."""


class Past:
    """A thread as it was at an event of its log.

    Call `begin`, then either `add` each event, or `go_to` a moment.
    Memory: some latest checkpoints, 8,192 values and writes, 32 MiB at most, beyond the state given last, and the name of each
    namespace. After a look-up, or in a pruned thread, also the thread's index (some 0.3 KiB an event).
    """

    def __init__(self, keys: ThreadKeys) -> None:
        self.keys = keys
        self.cursor = Cursor(keys)
        self._availability = Availability(self.cursor)
        self._tracker = Tracker()
        self._states = States(keys)
        self._index = Index()
        """Folded up to some event at or before the cursor's."""
        self._versions: OrderedDict[bytes, tuple[Versions, int]] = OrderedDict()
        """By entry, the whole versions of checkpoints, and the number of changes between them and whole ones."""

    def begin(self) -> Flow[None]:
        """Find the log's end, and whether entries are gone from it.

        Takes one round trip; if entries are gone, also one per 1000 entries or 4 MiB. Damage is no error until the cursor reaches
        it. Raises `ThreadNotFound`, `LogLost`, or `CorruptEntry` if the id of the last entry is malformed.
        """
        yield from self._availability.begin((yield from self.cursor.measure()))

    @property
    def whole_to(self) -> int:
        """The last event that can be read: the log after it is damaged."""
        return self._availability.whole_to

    def check_end(self) -> None:
        """Raise `CorruptEntry` if the log's end was cut off, as its index shows."""
        self._availability.check_end()

    def go_to(self, moment: Moment | None = None) -> Flow[Recorded | None]:
        """Go to the last event at or before a moment (None: to the end).

        Returns the event after it, if that was read.
        Takes one round trip per 1000 entries or 4 MiB.
        """
        self._tracker.skip()
        ahead = yield from self._fold_to(moment)
        gaps = list(self._index.gaps)
        if ahead is not None:
            before = ahead.sequence - 1
            last = moment.sequence if moment is not None else None
            self.cursor.reached = before if last is None else min(last, before)
            if before > self.cursor.sequence:
                gaps.append((self.cursor.sequence + 1, before))
        yield from self._availability.account_for(gaps)
        self._availability.check_reached()
        if ahead is None and (moment is None or moment.sequence is None or moment.sequence > self.cursor.sequence):
            self.check_end()
        return ahead

    def _fold_to(self, moment: Moment | None) -> Flow[Recorded | None]:
        """Fold the index up to a moment. Returns the event after it, if that was read."""
        after, more = b"", 1
        while more and not (moment is not None and 0 < self.cursor.sequence == moment.sequence):
            events, more = yield from self.cursor.page(after, SCAN)
            for recorded in events:
                after = recorded.entry_id
                if moment is not None and not moment.covers(recorded):
                    return recorded
                self.cursor.passed(recorded)
                self._index.add(recorded)
        return None

    def add(self, recorded: Recorded) -> Flow[Recorded]:
        """Go on by one event, and return it with its versions whole.

        Raises `CorruptEntry`.
        """
        yield from self._availability.account_for_gap_before(recorded)
        self.cursor.passed(recorded)
        self._availability.check_reached()
        event = recorded.event
        if not isinstance(event, CheckpointSaved):
            self._tracker.add(recorded)
            return recorded
        event, depth = yield from self._with_whole_versions(recorded.entry_id, event)
        outline, unknown = self._tracker.add_checkpoint(recorded.entry_id, event, depth)
        if outline is not None and unknown:
            index = yield from self._caught_up()
            for channel in unknown:
                outline.entries[channel] = index.value_entry(event.namespace, channel, event.versions[channel])
        return recorded._replace(event=event)

    def offer(self, recorded: Recorded) -> None:
        """Cache the values and writes of an event that was read whole.

        Raises `CorruptEntry`.
        """
        self._states.offer(recorded)

    def _with_whole_versions(self, entry_id: bytes, event: CheckpointSaved) -> Flow[tuple[CheckpointSaved, int]]:
        """A checkpoint with its versions whole, and their depth.

        The depth is the number of changes between an entry's versions and whole ones.
        """
        own, depth = Versions(event.versions, event.seen), 0
        if event.base is not None:
            before, depth = yield from self._versions_at(event.base[0], entry_id)
            own, depth = overlaid(before, own), depth + 1
        try:
            self.keys.limits.check_versions(len(own.channels), len(own.seen or ()))
            verify(own, event.check)
        except Malformed as error:
            raise damaged(self.keys, error, entry_id) from error
        self._versions[entry_id] = own, depth
        if len(self._versions) > VERSIONS:
            self._versions.popitem(last=False)
        return replace(event, versions=own.channels, seen=own.seen), depth

    def _versions_at(self, entry_id: bytes, needed_by: bytes) -> Flow[tuple[Versions, int]]:
        """The whole versions in an entry, which another entry changes, and their depth."""
        known = self._versions.get(entry_id)
        if known is not None:
            return known
        outline = yield from read_outline(self.keys, entry_id)
        if outline is None:
            raise CorruptEntry(
                f"The log of thread {self.cursor.thread!r} lacks entry {entry_id.decode(errors='replace')}, which entry "
                f"{needed_by.decode()} builds on. Restore the log from a backup, or delete the thread."
            )
        return Versions(outline.event.versions, outline.event.seen), outline.depth

    def ids(self, namespace: str) -> Flow[list[str]]:
        """The ids of the checkpoints at the current event, smallest first."""
        index = yield from self._caught_up()
        return [split_sort_key(sort_key)[1] for sort_key in sorted(_within(namespace, index.checkpoints))]

    def state(self, namespace: str) -> Flow[State]:
        """The latest checkpoint of a namespace at the current event.

        Takes no round trip if all of it is cached, else one. A look-up takes those of the index too.
        """
        followed = self._tracker.followed(namespace)
        if followed is None:
            followed = yield from self._look_up(namespace)
        if not self._availability.is_certain(followed.latest, latest=True):
            return self._availability.unavailable(namespace)
        return None if followed.latest is None else (yield from self._assembled(followed.latest))

    def checkpoint(self, namespace: str, checkpoint_id: str) -> Flow[State]:
        """The checkpoint of an id at the current event. Takes the round trips of `state`."""
        outline = self._tracker.latest(namespace)
        if outline is None or outline.event.checkpoint_id != checkpoint_id:
            index = yield from self._caught_up()
            sort_key = checkpoint_sort_key(namespace.encode(), checkpoint_id.encode())
            outline = (yield from self._found(index, sort_key)) if sort_key in index.checkpoints else None
        if not self._availability.is_certain(outline, latest=False):
            return self._availability.unavailable(namespace)
        return None if outline is None else (yield from self._assembled(outline))

    def _caught_up(self) -> Flow[Index]:
        """The index at the current event."""
        index, last = self._index, self.cursor.sequence
        while index.sequence < last:
            events, _ = yield from self.cursor.page(
                index.last if index.entries else b"", min(SCAN, last - index.sequence)
            )
            wanted = [recorded for recorded in events if recorded.sequence <= last]
            if not wanted:
                break  # the entry is gone
            for recorded in wanted:
                self.cursor.refuse_disorder(recorded, index.sequence)
                index.add(recorded)
        return index

    def _look_up(self, namespace: str) -> Flow[Followed]:
        """Look a namespace up in the index, and follow it from then on."""
        index = yield from self._caught_up()
        found = Followed()
        latest = max(_within(namespace, index.checkpoints), default=b"")
        if latest:
            found.latest = yield from self._found(index, latest)
        for sort_key in _within(namespace, index.writes):
            if sort_key > latest:
                found.early[split_sort_key(sort_key)[1]] = [entry_id for _, entry_id in index.writes[sort_key]]
        return self._tracker.follow(namespace, found)

    def _found(self, index: Index, sort_key: bytes) -> Flow[Outline]:
        """The checkpoint at a sort key of an index."""
        outline = yield from read_outline(self.keys, index.checkpoints[sort_key])
        if outline is None:
            raise self.cursor.gone()
        event = outline.event
        outline.entries = {
            channel: index.value_entry(event.namespace, channel, version_key)
            for channel, version_key in event.versions.items()
        }
        outline.writes = [entry_id for _, entry_id in index.writes.get(sort_key, ())]
        return outline

    def _assembled(self, outline: Outline) -> Flow[State]:
        """A checkpoint with its values and pending writes.

        Raises `CorruptEntry` if parts are gone that were not pruned.
        """
        state = yield from self._states.assembled(outline)
        if state is not None:
            return state
        yield from self._availability.look_ahead()
        if self._availability.is_pruned:
            return self._availability.unavailable(outline.event.namespace)
        error = Malformed("needs entries that the log lacks, though nothing was pruned")
        raise damaged(self.keys, error, outline.entry_id)


def _within(namespace: str, sort_keys: Iterable[bytes]) -> Iterator[bytes]:
    """The sort keys of a namespace."""
    own = ordered(namespace.encode())
    for sort_key in sort_keys:
        if sort_key.startswith(own) and sort_key[len(own) : len(own) + 1] != b"\xff":  # the name ends there
            yield sort_key

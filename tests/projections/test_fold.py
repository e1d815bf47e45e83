"""The fold and the plan of a removal, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.codec import EMPTY, NO_CHECK, encode_keyframe
from eventlog.errors import CorruptEntry
from eventlog.events import CheckpointSaved, Event, HistoryPruned, Recorded, Removed, WritesSaved
from eventlog.keys import split_sort_key
from projections.checkpoints.plan import History, plan, sort_key_of
from projections.log.fold import Index, fold

ids = st.sampled_from("abcdef")


def checkpoint(name: str, parent: str | None, changed: dict[str, bytes], versions: dict[str, str]) -> CheckpointSaved:
    values = {(channel, versions[channel]): piece for channel, piece in changed.items()}
    return CheckpointSaved("", name, parent, versions, {"checkpoint": {}, "metadata": {}}, values)


@st.composite
def histories(draw: st.DrawFn) -> list[Recorded]:
    """A log of checkpoints and writes: forks, overwrites, early and late writes."""
    events: list[Event] = []
    versions: dict[str, str] = {}
    for number in range(draw(st.integers(1, 14))):
        if draw(st.booleans()):
            events.append(WritesSaved("", draw(ids), "task", "", ()))
            continue
        changed = draw(
            st.dictionaries(
                st.sampled_from(["x", "y", "delta"]),
                st.sampled_from([encode_keyframe("msgpack", b"", NO_CHECK), EMPTY]),
                max_size=3,
            )
        )
        versions = versions | dict.fromkeys(changed, f"v{number}")
        events.append(checkpoint(draw(ids), draw(st.none() | ids), changed, dict(versions)))
    return record(events)


def record(events: list[Event], start: int = 1) -> list[Recorded]:
    return [Recorded(b"%d-0" % number, number, b"d%d" % number, event) for number, event in enumerate(events, start)]


@given(histories())
def test_folding_twice_changes_nothing(log: list[Recorded]) -> None:
    """Every event may come any number of times, late ones too."""
    once = fold("t", log)
    again = fold("t", log)
    for recorded in [*log, *reversed(log)]:
        again.add(recorded)
    assert once == again


@given(histories(), st.data())
def test_gaps_are_found(log: list[Recorded], data: st.DataObject) -> None:
    """An entry that is missing, but for the last ones, is noticed."""
    gone = data.draw(st.integers(0, len(log) - 1))
    rest = log[:gone] + log[gone + 1 :]
    if gone == len(log) - 1:
        fold("t", rest)
    else:
        with pytest.raises(CorruptEntry, match=f"sequence number {log[gone].sequence},"):
            fold("t", rest)


def test_removed_entries_are_no_gap() -> None:
    """Entries that a removal names may be missing."""
    log = record([checkpoint("a", None, {}, {}), checkpoint("b", "a", {}, {})])
    removal = HistoryPruned("keep_latest", Removed((("", "a"),), (), ((1, 1, "d1"),)))
    index = fold("t", [log[1], *record([removal], 3)])
    assert [sort_key_of(log[1].event)] == list(index.checkpoints)  # type: ignore[arg-type]


@given(histories(), st.data())
def test_a_plan_keeps_what_the_others_need(log: list[Recorded], data: st.DataObject) -> None:
    """After a removal every kept checkpoint has its entry, its values and its writes; what is dropped is listed no more."""
    index = fold("t", log)
    listed = list(index.checkpoints)
    if not listed:
        return
    drop = set(data.draw(st.lists(st.sampled_from(listed), max_size=len(listed))))
    history = History(index, log)
    made = plan(history, drop, lambda _: ["delta"])
    after = fold("t", [*made.rest, *record([HistoryPruned("x", made.removed)], len(log) + 1)])
    assert set(listed) - drop == set(after.checkpoints)
    gone = set(made.entries)
    for place, event in history.checkpoints().items():
        if place not in drop:
            needed = {index.checkpoints[place], *(entry_id for _, entry_id in index.writes.get(place, ()))}
            assert not needed & gone
            assert_values_kept(index, after, event)


def assert_values_kept(before: Index, after: Index, event: CheckpointSaved) -> None:
    for channel, token in event.versions.items():
        name = b"v0:%d:%b%b" % (len(token), token.encode(), channel.encode())
        assert before.values.get(name) == after.values.get(name)


@given(histories(), st.data())
def test_a_plan_keeps_ancestors_of_delta_channels(log: list[Recorded], data: st.DataObject) -> None:
    """Up the parents of a kept checkpoint, everything stays until one holds a value of the delta channel."""
    index = fold("t", log)
    history = History(index, log)
    checkpoints = history.checkpoints()
    if not checkpoints:
        return
    drop = set(data.draw(st.lists(st.sampled_from(list(checkpoints)))))
    made = plan(history, drop, lambda _: ["delta"])
    after = fold("t", [*made.rest, *record([HistoryPruned("x", made.removed)], len(log) + 1)])
    for place, event in checkpoints.items():
        if place not in drop:
            assert Ancestry(log, index).of(event) == Ancestry(log, after).of(event)


class Ancestry:
    """What the delta channel of a checkpoint is rebuilt from, found the simple way."""

    def __init__(self, log: list[Recorded], index: Index) -> None:
        self.index = index
        self.events = {recorded.entry_id: recorded.event for recorded in log}
        places = index.hidden | index.checkpoints
        self.entries = {split_sort_key(place)[1]: (place, entry_id) for place, entry_id in places.items()}

    def of(self, event: CheckpointSaved) -> list[bytes]:
        """Entry ids, nearest first: of each ancestor and its writes, up to the entry that holds the value."""
        found: list[bytes] = []
        seen: set[bytes] = set()
        while True:
            if at := self._value(event):
                return [*found, at]
            parent = self.entries.get(event.parent_id or "")
            if parent is None or parent[0] in seen:
                return found
            place, entry_id = parent
            seen.add(place)
            found += [entry_id, *(written for _, written in self.index.writes.get(place, ()))]
            event = self.events[entry_id]  # type: ignore[assignment]

    def _value(self, event: CheckpointSaved) -> bytes | None:
        token = event.versions.get("delta")
        if token is None:
            return None
        at = self.index.values.get(b"v0:%d:%bdelta" % (len(token), token.encode()))
        at = at and at[:-8]
        saved = at and self.events[at]
        return at if isinstance(saved, CheckpointSaved) and saved.values["delta", token] != EMPTY else None

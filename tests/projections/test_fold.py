"""The fold and the plan of a removal, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.codec import EMPTY
from eventlog.errors import CorruptEntry
from eventlog.events import CheckpointSaved, Event, HistoryPruned, Recorded, Removed, WritesSaved
from projections.fold import Index, fold
from projections.removal import History, place_of, plan

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
        changed = draw(st.dictionaries(st.sampled_from(["x", "y", "delta"]), st.sampled_from([b"K", EMPTY]), max_size=3))
        versions = versions | {channel: f"v{number}" for channel in changed}
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
        with pytest.raises(CorruptEntry, match="lacks 1 entries"):
            fold("t", rest)


def test_removed_entries_are_no_gap() -> None:
    """Entries that a removal names may be missing."""
    log = record([checkpoint("a", None, {}, {}), checkpoint("b", "a", {}, {})])
    removal = HistoryPruned("keep_latest", Removed((("", "a"),), (), ((1, 1, "d1"),)))
    index = fold("t", [log[1], *record([removal], 3)])
    assert [place_of(log[1].event)] == list(index.checkpoints)  # type: ignore[arg-type]


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
            needed = {index.checkpoints[place], *index.writes.get(place, ())}
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
            assert ancestry(index, checkpoints, event, set()) == ancestry(after, checkpoints, event, set())


def ancestry(index: Index, checkpoints: dict[bytes, CheckpointSaved], event: CheckpointSaved, seen: set[str]) -> list[object]:
    """Entries that the delta channel of a checkpoint is rebuilt from."""
    token = event.versions.get("delta")
    at = index.values.get(b"v0:%d:%bdelta" % (len(token), token.encode())) if token else None
    forms = {
        saved.values[channel, version]
        for saved in checkpoints.values()
        for channel, version in saved.values
        if (channel, version) == ("delta", token)
    }
    if at and forms == {b"K"}:
        return [at]
    if event.parent_id is None or event.parent_id in seen:
        return []
    parent = next((found for found in checkpoints.values() if found.checkpoint_id == event.parent_id), None)
    if parent is None:
        return []
    place = place_of(parent)
    entry = index.checkpoints.get(place) or index.hidden.get(place)
    return [entry, *index.writes.get(place, ()), *ancestry(index, checkpoints, parent, {*seen, event.parent_id})]

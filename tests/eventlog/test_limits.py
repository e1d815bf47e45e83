"""Limits: how they are written, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from eventlog import (
    CheckpointSaved,
    Event,
    HistoryPruned,
    InvalidArgument,
    Keyspace,
    Limits,
    OverLimit,
    Removed,
    RunsDeleted,
    ThreadCopied,
    ValuesSaved,
    Write,
    WritesSaved,
)
from eventlog.codec import FREELY, RATIO, TooLarge, checksum_of, compressed, encode_keyframe
from eventlog.events import ids_in
from eventlog.limits import SPARE, Budget, brief


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Limits()),
        ("value_bytes=1g", Limits(value_bytes=2**30)),
        (" id_bytes = 200000 , expansion=1000,", Limits(id_bytes=200_000, expansion=1000)),
        ("head_bytes=2M,entry_bytes=3K", Limits(head_bytes=2**21, entry_bytes=3072)),
    ],
)
def test_limits_as_they_are_typed(text: str, expected: Limits) -> None:
    """They are names with numbers, and units after sizes; the others keep their defaults."""
    assert Limits.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["value=1", "value_bytes", "value_bytes=", "value_bytes=-1", "value_bytes=1T", "7", "id_bytes=٣"]
)
def test_limits_that_are_none(text: str) -> None:
    """The error has the part that is wrong, and the names of all limits."""
    with pytest.raises(InvalidArgument, match="is no limit. Write value_bytes, state_bytes"):
        Limits.parse(text)


@pytest.mark.parametrize(
    ("value", "kind"), [(0, InvalidArgument), (-1, InvalidArgument), (1.5, TypeError), (True, TypeError)]
)
def test_impossible_limits(value: Any, kind: type[Exception]) -> None:
    """A limit is a whole number above 0."""
    with pytest.raises(kind, match="id_bytes must be"):
        Limits(id_bytes=value)


def test_ids_by_their_bytes() -> None:
    """An id is measured in UTF-8, and an error shows its beginning, its length and the setting."""
    limits = Limits(id_bytes=100)
    limits.check_ids([("a", "x" * 100), ("b", "é" * 50), ("c", None), ("d", b"x" * 100), ("e", "\ud800")])
    for long in ("x" * 101, "é" * 51, b"x" * 101):
        with pytest.raises(
            OverLimit, match=r"^Here: name .* has 10[12] bytes, above the limit of 100 .*id_bytes=10[12]"
        ):
            limits.check_ids([("name", long)], "Here: ")
    with pytest.raises(OverLimit) as caught:
        limits.check_ids([("name", "x" * 10**6)])
    assert len(str(caught.value)) < 400
    assert issubclass(OverLimit, InvalidArgument)


def test_the_keys_of_a_long_id() -> None:
    """No key of a thread is made without the check, wherever its id comes from."""
    with pytest.raises(OverLimit, match="thread_id 'ttt"):
        Keyspace("p", 1).thread(b"t" * 65_537)
    with pytest.raises(OverLimit, match="prefix 'ppp"):
        Keyspace("p" * 65_537, 1)
    assert Keyspace("p", 1, limits=Limits(id_bytes=65_537)).thread(b"t" * 65_537).thread


def test_the_beginning_of_a_text() -> None:
    """A short text is whole; of a long one there is the beginning."""
    assert brief("short") == "'short'"
    assert brief(b"short") == "'short'"
    assert brief("x" * 81) == repr("x" * 80) + "..."
    assert len(brief(b"\xff" * 10**6)) < 1000


def test_a_budget() -> None:
    """It ends with a value, with the sum of all, and where short data grow too long."""
    Budget(Limits()).value(512 * 2**20)
    Budget(Limits()).expand(1, SPARE)
    with pytest.raises(TooLarge, match="value_bytes=101"):
        Budget(Limits(value_bytes=100)).value(101)
    several = Budget(Limits(state_bytes=100), 40)
    several.value(60)
    with pytest.raises(TooLarge, match="101 bytes, above the limit of 100.*state_bytes=101"):
        several.value(1)
    with pytest.raises(TooLarge, match="expansion="):
        Budget(Limits()).expand(1, SPARE + 251)
    with pytest.raises(TooLarge, match="value_bytes="):
        Budget(Limits(value_bytes=100)).expand(2**40, SPARE + 301)


def test_a_writer_makes_nothing_that_a_reader_takes_for_a_bomb() -> None:
    """Long data that would become too short are stored as they are; short data are compressed in any case."""

    def stored(size: int, step: int) -> bytes | None:
        data = b"".join(number.to_bytes(4, "big") + bytes(step) for number in range(size // (step + 4)))
        return compressed(encode_keyframe("bytes", data, checksum_of(data)), 1024)

    assert stored(FREELY - 64, 2048) is not None
    assert stored(2**20, 2**17) is None
    like_text = stored(2**20, 40)
    assert like_text is not None
    assert len(like_text) * RATIO > 2**20


@pytest.mark.parametrize("size", [1, 100, FREELY - 1, FREELY, FREELY + 1, 16 * 1024, 64 * 1024])
def test_many_short_values_are_no_bomb(size: int) -> None:
    """Any number of values that compress well stays within the budget of a reader with the default limits."""
    data = bytes(size)
    piece = encode_keyframe("bytes", data, checksum_of(data))
    stored = compressed(piece, 0) or piece
    budget = Budget(Limits())
    for _ in range(Limits().put_parts):
        budget.expand(len(stored), len(piece))


REMOVED = Removed((("dropped-ns", "dropped-id"),), (("hidden-ns", "hidden-id"),), ())
EVENTS: list[tuple[Event, str]] = [
    (ValuesSaved("ns", "id", {("channel", "version"): b"E"}), "ns id channel version"),
    (CheckpointSaved("ns", "id", "parent", {"a": "va"}, {}, {("b", "vb"): b"E"}), "ns id parent a va b vb"),
    (WritesSaved("ns", "id", "task", "path", (Write(0, "channel", "null", b""),)), "ns id task path channel"),
    (WritesSaved("ns", "id", "task", "path", (), b"key"), "ns id key task path"),
    (ThreadCopied("source", 1, "digest", signed_for="signed"), "source signed"),
    (HistoryPruned("keep", REMOVED), "dropped-ns dropped-id hidden-ns hidden-id"),
    (RunsDeleted(("run",), REMOVED), "run dropped-ns dropped-id hidden-ns hidden-id"),
]


@pytest.mark.parametrize(("event", "ids"), EVENTS, ids=[event.kind.decode() for event, _ in EVENTS])
def test_the_ids_in_an_event(event: Event, ids: str) -> None:
    """Each id and each name in an event is checked where it is imported or copied."""
    assert [one if isinstance(one, str) else one.decode() for _, one in ids_in(event)] == ids.split()

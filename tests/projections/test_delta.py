"""Deltas: whatever was edited comes back, in little, and what does not fit is refused."""

from __future__ import annotations

import random
import struct
from typing import Any

import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog.codec import Malformed, checksum_of
from projections.values.delta import apply_deltas, make_delta

ITEMS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=60),
    st.lists(st.integers(0, 9), max_size=5),
    st.binary(max_size=80),
)


def packed(value: Any) -> bytes:
    """As LangGraph's serializer lays lists out."""
    return ormsgpack.packb(value, option=ormsgpack.OPT_NON_STR_KEYS)


def edit(items: list[Any], draw: Any) -> list[Any]:
    """One of the things that agents do to a list."""
    items = list(items)
    kind = draw(
        st.sampled_from(["append", "append several", "edit last", "edit any", "remove", "insert in front", "slide"])
    )
    fresh = draw(st.lists(ITEMS, min_size=1, max_size=4))
    at = draw(st.integers(0, max(len(items) - 1, 0)))
    if kind == "append":
        items.append(fresh[0])
    elif kind == "append several":
        items += fresh
    elif kind == "edit last" and items:
        items[-1] = fresh[0]
    elif kind == "edit any" and items:
        items[at] = fresh[0]
    elif kind == "remove":
        del items[at : at + len(fresh)]
    elif kind == "slide":
        items = [*items[len(fresh) :], *fresh]
    else:
        items = [*fresh, *items]
    return items


def apply_all(base: bytes, deltas: list[bytes]) -> bytes:
    """Deltas one after the other, each somewhere in longer bytes."""
    return apply_deltas(base, [(b"xyz" + delta, 3) for delta in deltas])


def apply_delta(base: bytes, delta: bytes) -> bytes:
    """One delta."""
    return apply_deltas(base, [(delta, 0)])


def restores(previous: bytes, current: bytes) -> bytes | None:
    """The delta, if there is one, once it is seen to bring `current` back and to be short."""
    for search in (False, True):
        delta = make_delta(previous, current, search=search)
        if delta is not None:
            assert apply_delta(previous, delta) == current
            assert len(delta) <= len(current) // 2
    return delta


@settings(deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=400))
def test_any_two_byte_strings(previous: bytes, current: bytes) -> None:
    """A delta brings the one out of the other, or there is none."""
    restores(previous, current)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=30), st.lists(st.integers(0, 40), min_size=1, max_size=30), st.data())
def test_byte_strings_that_repeat_themselves(word: bytes, pattern: list[int], data: st.DataObject) -> None:
    """What is looked for may be found in many places; the result is right all the same."""
    previous = b"".join(word[: one % len(word) + 1] for one in pattern)
    cut = data.draw(st.integers(0, len(previous)))
    current = previous[cut:] + word + previous[:cut]
    restores(previous, current)


@settings(deadline=None)
@given(st.lists(ITEMS, max_size=30), st.data())
def test_any_edit_of_a_list(items: list[Any], data: st.DataObject) -> None:
    """Append, edit, remove, insert, slide."""
    restores(packed(items), packed(edit(items, data.draw)))


@pytest.mark.parametrize("count", [0, 14, 15, 16, 17, 65534, 65535, 65536])
def test_appending_where_the_header_grows(count: int) -> None:
    """A list's length takes one, three or five bytes; appending costs about what is appended, wherever that changes."""
    items = [f"item {number} {'x' * 40}" for number in range(count)]
    new = "x" * 200
    delta = restores(packed(items), packed([*items, new]))
    if count > 15:
        assert delta is not None
        assert len(delta) < 300


@pytest.mark.parametrize(
    "change",
    [
        lambda items: [*items, "new" * 50],
        lambda items: [*items, *["new" * 20] * 5],
        lambda items: [*items[:-1], "edited" * 20],
        lambda items: items[3:],
        lambda items: items[:40] + items[45:],
        lambda items: ["new" * 50, *items],
        lambda items: [*items[2:], "new" * 50, "newer" * 30],
        lambda items: [*items[:20], "edited", *items[21:60], "again", *items[61:]],
    ],
    ids=["append", "several", "edit last", "remove first", "remove inside", "insert in front", "slide", "two edits"],
)
def test_what_agents_do_to_messages_takes_little(change: Any) -> None:
    """A delta is about as long as what is new."""
    drawn = random.Random(1)
    items = [
        {"type": "human", "content": "".join(drawn.choices("etaoin shrdlu", k=300)), "id": drawn.randbytes(8).hex()}
        for _ in range(100)
    ]
    delta = restores(packed(items), packed(change(items)))
    assert delta is not None
    assert len(delta) < 800


def test_nothing_shared_makes_no_delta() -> None:
    """Values that do not share are stored whole."""
    drawn = random.Random(2)
    assert make_delta(drawn.randbytes(50_000), drawn.randbytes(50_000)) is None
    assert make_delta(b"", b"") is None
    assert make_delta(b"a" * 1000, b"") is None


def test_a_chain_of_a_thousand_versions() -> None:
    """Each version comes back, from its predecessor and from the first by all deltas at once."""
    drawn = random.Random(3)
    items: list[Any] = ["first" * 40]
    versions, deltas = [packed(items)], []
    for number in range(1000):
        if number % 7 == 3:
            items[drawn.randrange(len(items))] = drawn.randbytes(30)
        elif number % 50 == 49:
            items = items[5:]
        else:
            items = [*items, f"message {number} " * 4]
        versions.append(packed(items))
        delta = make_delta(versions[-2], versions[-1])
        assert delta is not None
        assert apply_delta(versions[-2], delta) == versions[-1]
        deltas.append(delta)
    for end in (0, 1, 500, 1000):
        assert apply_all(versions[0], deltas[:end]) == versions[end]


@settings(deadline=None)
@given(st.lists(ITEMS, min_size=10, max_size=30), st.data())
def test_random_chains_with_keyframes(items: list[Any], data: st.DataObject) -> None:
    """Wherever a version is stored whole, those behind it come back from there."""
    keyframe = packed(items)
    deltas: list[bytes] = []
    for _ in range(data.draw(st.integers(1, 12))):
        items = edit(items, data.draw)
        before = apply_all(keyframe, deltas)
        delta = make_delta(before, packed(items))
        if delta is None or data.draw(st.booleans()):
            keyframe, deltas = packed(items), []
        else:
            deltas.append(delta)
        assert apply_all(keyframe, deltas) == packed(items)


BASE = packed([f"message {number} with some words in it" for number in range(20)])
GROWN = packed([f"message {number} with some words in it" for number in range(21)])
GOOD = make_delta(BASE, GROWN) or b""


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_garbage_is_refused(garbage: bytes) -> None:
    """Bytes that are no delta are refused, whatever they look like."""
    for delta in (garbage, checksum_of(BASE) + garbage):
        with pytest.raises(Malformed):
            apply_delta(BASE, delta)


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_damaged_delta_is_refused(at: int, change: int) -> None:
    """One byte that is not as it was, anywhere, is found."""
    damaged = bytearray(GOOD)
    damaged[at] ^= change
    with pytest.raises(Malformed):
        apply_delta(BASE, bytes(damaged))


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1))
def test_a_delta_that_is_cut_off_is_refused(end: int) -> None:
    """So is one that lacks its end."""
    with pytest.raises(Malformed):
        apply_delta(BASE, GOOD[:end])


def test_another_base_is_refused() -> None:
    """A delta is not applied to other bytes than those it was made for, nor out of turn."""
    second = make_delta(GROWN, packed([*range(3), BASE, GROWN])) or make_delta(GROWN, GROWN + b"more") or b""
    for base, deltas in ((GROWN, [GOOD]), (BASE, [second]), (BASE, [GOOD, GOOD]), (b"", [GOOD])):
        with pytest.raises(Malformed):
            apply_all(base, deltas)
    assert apply_all(BASE, []) == BASE


def of_edits(base: bytes, result: bytes, *edits: tuple[int, int, bytes]) -> bytes:
    """A delta that is put together by hand."""
    packed_edits = [struct.pack(">III", start, removed, len(added)) + added for start, removed, added in edits]
    return b"".join([checksum_of(base), checksum_of(result), *packed_edits])


NONE = (0, 0, b"")
"""An edit that changes nothing."""


@pytest.mark.parametrize("more", [[], [NONE] * 50], ids=["few", "many"])
def test_the_form_of_a_delta(more: list[tuple[int, int, bytes]]) -> None:
    """Starts count in the base, whatever the edits before added or removed; edits may touch each other."""
    base, result = b"0123456789", b"AB1256xyz89"
    assert apply_delta(base, of_edits(base, result, *more, (0, 1, b"AB"), (3, 2, b""), (7, 1, b"xyz"))) == result
    assert apply_delta(b"abcd", of_edits(b"abcd", b"XYd", *more, (0, 2, b"X"), (2, 1, b"Y"))) == b"XYd"
    assert apply_delta(b"ab", of_edits(b"ab", b"abc", *more, (2, 0, b"c"))) == b"abc"


@pytest.mark.parametrize("size", [2, 3, 1000])
def test_the_size_of_a_result(size: int) -> None:
    """It is known before the result is made, also after several deltas."""
    sizes: list[int] = []
    middle = of_edits(b"abcd", b"bX", (0, 1, b""), (2, 2, b"X"))
    last = of_edits(b"bX", b"y" * size, (0, 2, b"y" * size))
    assert apply_deltas(b"abcd", [(middle, 0), (last, 0)], sizes.append) == b"y" * size
    assert sizes == [size]


@pytest.mark.parametrize("more", [[], [NONE] * 50], ids=["few", "many"])
@pytest.mark.parametrize(
    ("result", "edits"),
    [
        (b"0Y2", [(1, 1, b"Y"), (0, 0, b"")]),
        (b"0XY", [(1, 2, b"XY"), (2, 1, b"Y")]),
        (b"012X", [(2, 2, b"2X")]),
        (b"012X", [(4, 0, b"X")]),
    ],
    ids=["order", "overlap", "removes past the end", "starts past the end"],
)
def test_edits_out_of_bounds(
    result: bytes, edits: list[tuple[int, int, bytes]], more: list[tuple[int, int, bytes]]
) -> None:
    """They are refused, even if the result were right."""
    with pytest.raises(Malformed, match="out of bounds"):
        apply_delta(b"012", of_edits(b"012", result, *more, *edits))


def test_a_comparison_of_the_ends_alone() -> None:
    """Without a search, values that share an end have a delta, and others have none."""
    drawn = random.Random(4)
    body, other = drawn.randbytes(4_000), drawn.randbytes(500)
    for current in (body + other, other + body):
        delta = make_delta(body, current, search=False)
        assert delta is not None
        assert len(delta) < 600
        assert apply_delta(body, delta) == current
    inside = other[:10] + body + other[:10]
    assert make_delta(body, inside, search=False) is None
    found = make_delta(body, inside)
    assert found is not None
    assert apply_delta(body, found) == inside

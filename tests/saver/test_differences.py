"""What changed between two states: applying the changes gives the other, and nothing equal is reported."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from saver.differences import Change, differences, same

scalars = st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text("ab", max_size=2)
named = st.builds(lambda name, text: HumanMessage(text, id=name), st.sampled_from("pqrstu"), st.text("ab", max_size=2))
with_ids = st.fixed_dictionaries({"id": st.sampled_from("pqrs"), "n": st.integers(0, 2)})
keys = st.text("ab", max_size=2) | st.integers(0, 2) | st.booleans()
values = st.recursive(
    scalars | named | with_ids,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)
states = st.dictionaries(st.sampled_from("abcd"), values | st.lists(named, max_size=10), max_size=4)


def applied(before: Mapping[str, Any], changes: Sequence[Change]) -> dict[str, Any]:
    """The values that changes make of other values, which stay as they are."""
    return {**_carried_out(dict(before), [(change.path, change) for change in changes])}


def _carried_out(value: Any, changes: Sequence[tuple[tuple[Any, ...], Change]]) -> Any:
    position = 0
    while position < len(changes):
        path, change = changes[position]
        if len(path) > 1:
            some = [(path[1:], change)]
            while position + len(some) < len(changes) and changes[position + len(some)][0][:1] == path[:1]:
                following, later = changes[position + len(some)]
                if len(following) == 1:
                    break
                some.append((following[1:], later))
            inner = value[path[0]]
            value[path[0]] = _carried_out(dict(inner) if isinstance(inner, dict) else list(inner), some)
            position += len(some)
            continue
        if change.what in {"removed", "deleted"}:
            del value[path[0]]
        elif change.what in {"inserted", "appended"}:
            value.insert(path[0], change.after)
        else:
            value[path[0]] = change.after
        position += 1
    return value


@given(before=states, after=states)
def test_applying_the_changes_gives_what_came_after(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Whatever the values are, and without touching what came before."""
    told = repr(before)
    changes = differences(before, after)
    assert same(applied(before, changes), after)
    assert repr(before) == told
    assert not any(same(one.before, one.after) for one in changes if one.what == "changed")


@given(value=states)
def test_equal_states_have_no_differences(value: dict[str, Any]) -> None:
    """Whatever is in them."""
    assert differences(value, dict(value)) == []


def message(number: int, text: str = "") -> HumanMessage:
    return HumanMessage(text or f"message {number}", id=f"m{number}")


TALK = [message(number) for number in range(6)]
NEW, EDITED = message(9), message(2, "edited")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 2}, [Change(("a",), "changed", 1, 2)]),
        ({"a": 1}, {"a": 1.0}, [Change(("a",), "changed", 1, 1.0)]),
        ({"a": 1}, {"b": 2}, [Change(("a",), "removed", before=1), Change(("b",), "added", after=2)]),
        ({"a": {"x": {"y": 1, "z": 2}}}, {"a": {"x": {"z": 2, "y": 3}}}, [Change(("a", "x", "y"), "changed", 1, 3)]),
        ({"a": {"x": 1}}, {"a": {"n": 0, "x": 1}}, [Change(("a", "n"), "added", after=0)]),
        ({"m": TALK}, {"m": [*TALK, NEW]}, [Change(("m", 6), "appended", after=NEW, id="m9")]),
        ({"m": TALK}, {"m": [*TALK[:3], NEW, *TALK[3:]]}, [Change(("m", 3), "inserted", after=NEW, id="m9")]),
        ({"m": TALK}, {"m": [*TALK[:2], EDITED, *TALK[3:]]}, [Change(("m", 2), "changed", TALK[2], EDITED, "m2")]),
        ({"m": TALK}, {"m": TALK[1:]}, [Change(("m", 0), "deleted", before=TALK[0], id="m0")]),
        (
            {"m": TALK},
            {"m": [TALK[1], EDITED, *TALK[3:], NEW]},
            [
                Change(("m", 0), "deleted", before=TALK[0], id="m0"),
                Change(("m", 1), "changed", TALK[2], EDITED, "m2"),
                Change(("m", 5), "appended", after=NEW, id="m9"),
            ],
        ),
        (
            {"m": [message(1)]},
            {"m": [message(2)]},
            [
                Change(("m", 0), "deleted", before=message(1), id="m1"),
                Change(("m", 0), "appended", after=message(2), id="m2"),
            ],
        ),
        ({"l": [1, [2, 3], 4]}, {"l": [1, [2, 5], 4]}, [Change(("l", 1, 1), "changed", 3, 5)]),
        ({"l": [1, 2, 3, 4]}, {"l": [1, 3, 4]}, [Change(("l", 1), "deleted", before=2)]),
        ({"l": []}, {"l": [1]}, [Change(("l", 0), "appended", after=1)]),
    ],
)
def test_what_is_told(before: dict[str, Any], after: dict[str, Any], expected: list[Change]) -> None:
    """As little as says it, in the places where it is."""
    assert differences(before, after) == expected


def test_messages_of_another_kind_differ() -> None:
    """Though their texts are equal."""
    (change,) = differences({"m": HumanMessage("a")}, {"m": AIMessage("a")})
    assert change.channel == "m"


def test_long_lists_take_bounded_effort() -> None:
    """A window that slid over 20,000 messages, with one edited: some seconds at most, and only that is reported."""
    talk = [{"id": f"m{number}", "text": "a"} for number in range(20000)]
    later = [*talk[10:10000], {"id": "m10000", "text": "b"}, *talk[10001:], {"id": "new", "text": ""}]
    began = time.monotonic()
    changes = differences({"m": talk}, {"m": later})
    assert time.monotonic() - began < 20
    assert [one.what for one in changes] == ["deleted"] * 10 + ["changed", "appended"]
    assert changes[10].path == ("m", 9990, "text")
    assert applied({"m": talk}, changes) == {"m": later}


def test_what_cannot_be_compared_is_no_error() -> None:
    """Such as arrays, whose equality is another array."""
    np = pytest.importorskip("numpy")
    one, other = np.array([1, 2]), np.array([1, 3])
    assert differences({"a": one}, {"a": np.array([1, 2])}) == []
    (change,) = differences({"a": one}, {"a": other})
    assert change.after is other

"""Values, times and sizes as `agentlog` writes them, for people and as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import typer
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from saver import cli
from saver.cli import run
from saver.cli.arguments import seconds
from saver.cli.display import MOST_ITEMS, age_text, brief, size_text, value_lines
from saver.cli.output import DEEPEST, Unknown, Unreadable, plain_data
from saver.cli.values import Carried, CarriedWhole, carrying_serializer


@dataclass
class Pair:
    """A type of this test."""

    one: Any
    other: Any


@pytest.mark.parametrize(
    ("age", "shown"),
    [(None, ""), (5.25, "5.2s"), (65, "1m05s"), (3700, "1h01m"), (90_000, "1d01h")],
)
def test_ages(age: float | None, shown: str) -> None:
    """An age has its two largest units."""
    assert age_text(age) == shown


def test_sizes() -> None:
    """A size has a unit of its order of magnitude."""
    assert [size_text(size) for size in (None, 10, 68_813)] == ["unknown", "10 B", "67.2 KiB"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("text", "text"),
        (b"1234", "<4 B>"),
        (Unreadable("msgpack", 2048), "<msgpack, 2.0 KiB>"),
        (Unknown("app.Order", {"id": "o1"}), 'app.Order {"id": "o1"}'),
        ([HumanMessage("hello"), HumanMessage("again", name="bob")], "[human: hello | human (bob): again]"),
        (AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}]), 'ai: -> f({"a": 1})'),
        (AIMessage(["a", {"type": "text", "text": "b"}]), 'ai: ["a", {"type": "text", "text": "b"}]'),
        ([], "[]"),
    ],
)
def test_values_in_a_line(value: Any, shown: str) -> None:
    """A value is shown in one line, a message by its role, content and calls."""
    assert brief(value) == shown


def test_long_values() -> None:
    """A long text ends with its size, and a long list of messages begins with the number of those left out."""
    assert brief("x" * 500).endswith("... (500 B)")
    assert brief("x" * 500, None) == "x" * 500
    messages = [HumanMessage("hello")] * (MOST_ITEMS + 2)
    lines = list(value_lines("talk", messages, full=False))
    assert lines[:2] == [f"talk ({MOST_ITEMS + 2})", "  ... 2 more before; --full shows them"]
    assert len(lines) == MOST_ITEMS + 2
    assert next(value_lines("numbers", [1] * 500, full=False)).startswith("numbers: [1, 1")


def test_values_as_json() -> None:
    """JSON has parts of objects, text for values that it lacks, and no level below the deepest."""
    deep: Any = "bottom"
    for _ in range(DEEPEST + 5):
        deep = [deep]
    found: Any = plain_data(
        {
            1: math.nan,
            "bytes": b"ab",
            "pair": Pair((1, 2.5), None),
            "message": HumanMessage("hello", id="m1"),
            "unknown": Unknown("app.Order", {"number": 7}),
            "unreadable": Unreadable("msgpack", 9),
            "other": range(3),
            "type": Pair,
        }
    )
    assert found["1"] == "nan"
    assert found["bytes"] == {"bytes": "YWI="}
    assert found["pair"] == {"one": [1, 2.5], "other": None}
    assert (found["message"]["content"], found["message"]["id"]) == ("hello", "m1")
    assert found["unknown"] == {"__type__": "app.Order", "value": {"number": 7}}
    assert found["unreadable"] == {"__unreadable__": "msgpack", "bytes": 9}
    assert found["other"] == "range(0, 3)"
    assert found["type"].startswith("<class")
    assert "bottom" in repr(plain_data(deep))
    assert Unknown("app.Order", {"id": "o1"}).id == "o1"
    assert Unknown("app.Order", [1]).id is None


def test_values_that_are_carried() -> None:
    """A migration's serializer keeps objects of any type, and other formats than msgpack, byte for byte."""
    carrying, own = carrying_serializer(), JsonPlusSerializer()
    for value in (None, b"ab", {"pair": Pair(1, 2)}, [HumanMessage("hello")]):
        written = own.dumps_typed(value)
        assert carrying.dumps_typed(carrying.loads_typed(written)) == written
    assert carrying.loads_typed(own.dumps_typed({"pair": Pair(1, 2)}))["pair"].__class__ is Carried
    assert carrying.dumps_typed(CarriedWhole("pickle", b"x")) == ("pickle", b"x")
    assert carrying.loads_typed(("pickle", b"x")) == CarriedWhole("pickle", b"x")
    assert own.loads_typed(carrying.dumps_typed(HumanMessage("made here"))) == HumanMessage("made here")


def test_refused_seconds() -> None:
    """An interval is a number of seconds."""
    for value in (math.nan, math.inf):
        with pytest.raises(typer.BadParameter, match="no number of seconds"):
            seconds(value)
    assert seconds(None) is None


@pytest.mark.parametrize("where", ["_command", "run"])
def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Ctrl-C ends a command quietly with code 130, also while modules load."""

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, where, interrupt)
    assert cli.main(["threads"]) == 130

"""What LangGraph may hand to a saver: values, metadata, ids."""

from __future__ import annotations

from datetime import timedelta, timezone
from typing import Any, Protocol

from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, SCHEDULED


class Draw(Protocol):
    """The `draw` of a composite strategy."""

    def __call__(self, strategy: st.SearchStrategy[Any], /) -> Any: ...


ODD = ["", "\x00", "a\x00b", "é", "🙂", "￿", "{tag}", "*?[a]", "a|b:1", "%s", "\r\n", '"', "\\"]
text = st.sampled_from(ODD) | st.text(st.characters(codec="utf-8"), max_size=12)
integers = st.sampled_from([0, 1, 127, 128, 2**31, 2**53 + 1, 2**63 - 1, 2**64 - 1, -(2**63)]) | st.integers(-300, 300)
large = st.builds(
    lambda part, times: part * times,
    st.sampled_from(["x", "é🙂", "0123456789"]),
    st.sampled_from([31, 32, 255, 256, 6554, 40_000]),
)
offsets = st.builds(timezone, st.builds(timedelta, minutes=st.integers(-14 * 60, 14 * 60)))

hashables = (
    st.none()
    | st.booleans()
    | integers
    | text
    | st.binary(max_size=20)
    | st.decimals(allow_nan=False)
    | st.datetimes(timezones=st.none() | offsets)
    | st.dates()
    | st.timedeltas()
    | st.uuids()
)
scalars = hashables | st.floats() | large | st.builds(lambda part: part * 300, st.binary(max_size=20))


@st.composite
def ai_messages(draw: Draw) -> AIMessage:
    calls = [
        {"name": draw(text), "args": {"city": draw(text)}, "id": str(draw(st.uuids())), "type": "tool_call"}
        for _ in range(draw(st.integers(0, 2)))
    ]
    return AIMessage(draw(text), id=str(draw(st.uuids())), tool_calls=calls)


messages = (
    st.builds(HumanMessage, text, id=st.uuids().map(str))
    | st.builds(SystemMessage, text, id=st.uuids().map(str))
    | st.builds(ToolMessage, text, tool_call_id=st.uuids().map(str))
    | ai_messages()
)
values = st.recursive(
    scalars | messages,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(text | integers, inner, max_size=3)
        | st.tuples(inner, inner)
        | st.sets(hashables, max_size=3)
        | st.frozensets(hashables, max_size=3)
    ),
    max_leaves=4,
)


talks = st.builds(
    lambda name, count: [
        HumanMessage(f"{name} says {number} {'and so on ' * 4}", id=str(number)) for number in range(count)
    ],
    text,
    st.sampled_from([2, 9, 17]),
)
"""Conversations long enough for what follows on them to be stored as deltas."""


@st.composite
def successors(draw: Draw, previous: Any) -> Any:
    """The next value of a channel: often the previous one with a little changed, as agents' states are."""
    if isinstance(previous, list) and draw(st.integers(0, 3)):
        match draw(st.sampled_from(["append", "append", "many", "edit", "drop first", "drop last"])):
            case "append":
                return [*previous, draw(scalars | messages)]
            case "many":
                return [*previous, *([draw(integers)] * draw(st.sampled_from([3, 14, 16, 300])))]
            case "edit" if previous:
                at = draw(st.integers(0, len(previous) - 1))
                return [*previous[:at], draw(values), *previous[at + 1 :]]
            case "drop first":
                return previous[1:]
            case _:
                return previous[:-1]
    if isinstance(previous, str) and draw(st.booleans()):
        at = draw(st.integers(0, len(previous)))
        return previous[:at] + draw(text) + previous[at:]
    if isinstance(previous, dict) and draw(st.booleans()):
        return {**previous, draw(text): draw(scalars)}
    return draw(st.one_of(talks, talks, st.lists(messages, max_size=3), values, values))


plain = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=5,
)
METADATA_KEYS = ["user", "score", "tags", "nested", "é", "a.b", "$", "source_of_truth"]
metadata = st.fixed_dictionaries(
    {},
    optional={
        "source": st.sampled_from(["input", "loop", "update", "fork"]),
        "step": st.integers(-2, 3),
        "parents": st.dictionaries(st.sampled_from(["", "a", "a|b:1"]), text, max_size=2),
        "run_id": st.sampled_from(["run-1", "run-2"]),
        "thread_id": st.sampled_from(["t", "whole", "nobody", 1, None]),
        "counters_since_delta_snapshot": st.dictionaries(text, st.tuples(integers, integers), max_size=2),
        **dict.fromkeys(METADATA_KEYS, plain),
    },
)
extras = st.dictionaries(
    st.sampled_from(["user", "langgraph_step", "__private", "user_id", "run_id", "graph"]),
    st.none() | st.booleans() | integers | st.floats(allow_nan=False) | text | st.just([1]) | st.builds(object),
    max_size=3,
)

CHANNELS = ["messages", "n", "branch:to:é", "__start__", "a\x00b", "log"]
SPECIAL = [ERROR, INTERRUPT, RESUME, SCHEDULED]
writes = st.lists(
    st.tuples(st.sampled_from([*CHANNELS, "__pregel_tasks", *SPECIAL]), integers | text | messages | values), max_size=4
)
task_ids = st.sampled_from(["00000000-0000-0000-0000-000000000000", "1", "10", "2", "é", "task:{x}", "a\x00b"])
task_paths = st.sampled_from(
    ["", "~__pregel_pull, a", "~__pregel_pull, b", "~__pregel_push, 0000000001", "~~0000000001", "é", "￿", "🙂"]
)

"""The states of `scripts/bench --steps`: recorded steps of each kind, and graphs that take turns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, MessagesState, StateGraph
from typing_extensions import TypedDict

from scripts.benchmark.text import Prose
from scripts.benchmark.traffic import Step, Traffic, Writes, conversation

__all__ = ["STATES", "TURNS", "traffic", "turns"]

Change = tuple[dict[str, Any], dict[str, Any]]
"""The values that a step changes, and the writes that led to them."""
SHORT = 10
"""The number of messages of a small state."""
SIDE = ("customer", "order", "status", "amount", "tags", "turn")


def _tiny(_seed: int) -> Iterator[Change]:
    """Yield a counter."""
    for n in itertools.count():
        yield {"count": n}, {"count": n}


def _small(seed: int) -> Iterator[Change]:
    """Yield seven channels, three of which change: messages, a status and a turn."""
    first = {"customer": "C-1029", "order": "A-77", "amount": 129.9, "tags": ["eu", "card"]}
    said = conversation(seed, 2 * SHORT, 60)
    for n in itertools.count():
        changed = {"status": "working" if n % 3 else "waiting", "turn": n}
        window = [said[(n + place) % len(said)] for place in range(SHORT)]
        yield {**(first if n == 0 else {}), **changed, "messages": window}, {**changed, "messages": window[-1:]}


def _wide(seed: int) -> Iterator[Change]:
    """Yield fifty channels of 200 bytes, two of which change."""
    prose = Prose(seed)
    names = [f"field_{n:02}" for n in range(50)]
    first = {name: prose.text(200) for name in names}
    yield first, first
    for n in itertools.count():
        changed = {names[(2 * n + place) % 50]: prose.text(200) for place in range(2)}
        yield changed, changed


def _chat(seed: int) -> Iterator[Change]:
    """Yield messages that grow by one of 1 KiB."""
    said: list[BaseMessage] = []
    for message in conversation(seed, 1000, 1024):
        said = [*said, message]
        yield {"messages": said}, {"messages": [message]}


STATES: dict[str, tuple[str, Callable[[int], Iterator[Change]]]] = {
    "tiny": ("tiny: one counter", _tiny),
    "small": ("small: 7 channels, 10 short messages", _small),
    "wide": ("wide: 50 channels of 200 B, 2 change", _wide),
    "chat": ("chat: grows by 1 KiB", _chat),
}
"""The title of each state, and its steps."""


def traffic(state: str, seed: int, steps: int) -> Traffic:
    """Return a put, then `steps` times two `put_writes` on the checkpoint before and a put."""
    made: list[Step] = []
    values: dict[str, Any] = {}
    versions: dict[str, int] = {}
    for n, (changed, writes) in enumerate(itertools.islice(STATES[state][1](seed), steps + 1)):
        before, parent = [], made[-1].id if made else None
        if parent is not None:
            tasks = list(writes.items()), [("branch:to:agent", None)]
            before = [
                Writes(parent, task, f"{place}-{n:06}-task", f"~__pregel_pull, {place}")
                for place, task in enumerate(tasks)
            ]
        new = dict.fromkeys(changed, n + 1)
        seen = dict(itertools.islice(versions.items(), 1))
        values, versions = {**values, **changed}, {**versions, **new}
        checkpoint = {
            **empty_checkpoint(),
            "id": str(uuid6(clock_seq=n)),
            "channel_values": values,
            "channel_versions": versions,
            "versions_seen": {"__input__": {}, "agent": seen},
            "updated_channels": sorted(changed),
        }
        metadata: dict[str, Any] = {"source": "loop" if n else "input", "step": n - 1, "parents": {}}
        made.append(Step(before, parent, checkpoint, metadata, new))
    return Traffic(made)


Turn = Callable[[], Any]


class _Small(TypedDict):
    messages: list[BaseMessage]
    customer: str
    order: str
    status: str
    amount: float
    tags: list[str]
    turn: int


def _small_graph(saver: Any, seed: int) -> tuple[Any, Iterator[Any]]:
    """Return a graph of two nodes on a small state, and its inputs."""
    said = conversation(seed, 2 * SHORT, 60)

    def speak(now: _Small) -> dict[str, Any]:
        turn = now["turn"] + 1
        window = [*now["messages"], said[turn % len(said)]][-SHORT:]
        return {"messages": window, "turn": turn, "status": "working" if turn % 3 else "waiting"}

    first = {"messages": said[:SHORT], "customer": "C-1029", "order": "A-77", "amount": 129.9, "tags": ["eu", "card"]}
    inputs = itertools.chain([{**first, "status": "new", "turn": 0}], itertools.repeat({"status": "asked"}))
    return _two_nodes(_Small, speak).compile(checkpointer=saver), inputs


def _chat_graph(saver: Any, seed: int) -> tuple[Any, Iterator[Any]]:
    """Return a graph of two nodes that add a message each, and its inputs."""
    said = conversation(seed, 1000, 1024)

    def speak(now: MessagesState) -> dict[str, Any]:
        return {"messages": [said[len(now["messages"])]]}

    inputs = ({"messages": [message]} for message in said[::3])
    return _two_nodes(MessagesState, speak).compile(checkpointer=saver), inputs


def _two_nodes(state: Any, speak: Any) -> StateGraph[Any, Any, Any, Any]:
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(state)
    builder.add_node("think", speak)
    builder.add_node("answer", speak)
    builder.add_edge(START, "think")
    builder.add_edge("think", "answer")
    builder.add_edge("answer", END)
    return builder


class _Four(TypedDict):
    question: str
    north: str
    east: str
    south: str
    west: str


def _four_graph(saver: Any, seed: int) -> tuple[Any, Iterator[Any]]:
    """Return a graph of four parallel tasks, and its inputs."""
    prose = Prose(seed)
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(_Four)
    for name in ("north", "east", "south", "west"):
        answer = {name: prose.text(60)}
        builder.add_node(f"ask_{name}", lambda _now, answer=answer: answer)
        builder.add_edge(START, f"ask_{name}")
    return builder.compile(checkpointer=saver), ({"question": f"question {n}"} for n in itertools.count())


TURNS: dict[str, tuple[str, Callable[[Any, int], tuple[Any, Iterator[Any]]]]] = {
    "small": ("small state, two nodes", _small_graph),
    "chat": ("chat, two nodes", _chat_graph),
    "four": ("four parallel tasks", _four_graph),
}
"""The title of each graph, and the graph."""


def turns(name: str, saver: Any, seed: int) -> Turn:
    """Return a function that takes the next turn, and returns the state after it."""
    graph, inputs = TURNS[name][1](saver, seed)
    config: Any = {"configurable": {"thread_id": name}}
    return lambda: graph.invoke(next(inputs), config)

"""The traffic: what a compiled graph asked of its checkpointer, recorded once and replayed to every saver alike.

A step is one `put`, preceded by the `put_writes` of the task that led to it. Versions of channels are the only thing
that differs between savers: LangGraph lets each saver make its own, so those recorded, numbers, are replaced by what the
saver's `get_next_version` gives in the same order.
"""

from __future__ import annotations

import itertools
import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from typing_extensions import TypedDict

from scripts.benchmark.text import Prose

__all__ = ["MARK", "Replay", "Step", "Traffic", "Writes", "chat", "conversation", "counter", "document", "wide"]

MARK = "review"
"""Metadata key that few checkpoints have, to filter by."""


@dataclass(frozen=True)
class Writes:
    """One call of `put_writes`."""

    checkpoint_id: str
    writes: Sequence[tuple[str, Any]]
    task_id: str
    task_path: str


@dataclass(frozen=True)
class Step:
    """One call of `put`, and the calls of `put_writes` before it."""

    before: Sequence[Writes]
    parent_id: str | None
    checkpoint: Any
    metadata: dict[str, Any]
    new_versions: dict[str, int]

    @property
    def id(self) -> str:
        """The checkpoint's id."""
        return str(self.checkpoint["id"])

    @property
    def changed(self) -> dict[str, Any]:
        """The values this step changed, by channel."""
        values = self.checkpoint["channel_values"]
        return {name: values[name] for name in self.new_versions if name in values}


@dataclass(frozen=True)
class Traffic:
    """The steps of one thread, oldest first."""

    steps: Sequence[Step]

    def __len__(self) -> int:
        return len(self.steps)

    def first(self, count: int) -> Traffic:
        """The same, shorter."""
        return Traffic(self.steps[:count])

    def marked(self, count: int) -> Traffic:
        """The same, with `MARK` in the metadata of `count` checkpoints, evenly spread."""
        every = max(1, len(self.steps) // count)
        chosen = range(every // 2, len(self.steps), every)[:count]
        steps = list(self.steps)
        for n in chosen:
            step = steps[n]
            metadata = {**step.metadata, MARK: "wanted"}
            steps[n] = Step(step.before, step.parent_id, step.checkpoint, metadata, step.new_versions)
        return Traffic(steps)

    def with_mark(self) -> list[Step]:
        """The steps whose metadata has `MARK`, newest first."""
        return [step for step in reversed(self.steps) if MARK in step.metadata]


class _Recorder(BaseCheckpointSaver[int]):
    """A checkpointer that only notes what it is asked to keep."""

    def __init__(self) -> None:
        super().__init__()
        self._puts: list[tuple[str | None, Any, dict[str, Any], dict[str, int]]] = []
        self._writes: dict[str, list[Writes]] = defaultdict(list)

    def get_tuple(self, config: Any) -> None:  # noqa: ARG002
        return None

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        copied = {key: dict(value) if isinstance(value, dict) else value for key, value in checkpoint.items()}
        copied["versions_seen"] = {node: dict(seen) for node, seen in checkpoint["versions_seen"].items()}
        parent = config["configurable"].get("checkpoint_id")
        self._puts.append((parent, copied, dict(metadata), dict(new_versions)))
        return {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        to = config["configurable"]["checkpoint_id"]
        self._writes[to].append(Writes(to, tuple(writes), task_id, task_path))

    def traffic(self) -> Traffic:
        """What was noted, with each task's writes before the put that they led to."""
        steps = []
        for parent, checkpoint, metadata, new_versions in self._puts:
            before = self._writes[parent] if parent is not None else ()
            steps.append(Step(before, parent, checkpoint, metadata, new_versions))
        return Traffic(steps)


def _record(builder: StateGraph[Any, Any, Any, Any], first: Any, steps: int) -> Traffic:
    recorder = _Recorder()
    graph = builder.compile(checkpointer=recorder)
    config: Any = {"configurable": {"thread_id": "recorded"}, "recursion_limit": steps + 10}
    graph.invoke(first, config, durability="sync")
    return recorder.traffic().first(steps)


def _loop(state: Any, node: Any, go_on: Callable[[Any], bool]) -> StateGraph[Any, Any, Any, Any]:
    """A graph of one node that calls itself."""
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(state)
    builder.add_node("agent", node)
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", lambda now: "agent" if go_on(now) else END, ["agent", END])
    return builder


def conversation(seed: int, count: int, size: int) -> list[BaseMessage]:
    """Messages of `size` characters, a human's and a model's in turn."""
    prose, dice = Prose(seed), random.Random(seed)
    kinds: tuple[type[HumanMessage | AIMessage], ...] = (HumanMessage, AIMessage)
    return [
        kinds[n % 2](content=prose.text(size), id=str(uuid.UUID(int=dice.getrandbits(128), version=4)))
        for n in range(count)
    ]


def chat(seed: int, steps: int, size: int = 1024) -> Traffic:
    """A chat that grows by one message a step."""
    said = conversation(seed, steps, size)

    def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [said[len(state["messages"])]]}

    builder = _loop(MessagesState, agent, lambda state: len(state["messages"]) < len(said))
    return _record(builder, {"messages": said[:1]}, steps)


def wide(seed: int, steps: int, channels: int = 50, changes: int = 2) -> Traffic:
    """A state of many channels of some 200 characters, of which few change at a step."""
    prose = Prose(seed)
    names = [f"field_{n:02}" for n in range(channels)]
    state: Any = TypedDict("Wide", dict.fromkeys(names, str))  # type: ignore[misc]
    turns = itertools.count()

    def agent(_now: Any) -> dict[str, str]:
        turn = next(turns)
        return {names[(turn * changes + n) % channels]: prose.text(200) for n in range(changes)}

    return _record(_loop(state, agent, _for(steps)), {name: prose.text(200) for name in names}, steps)


class _Document(TypedDict):
    document: dict[str, str]


def document(seed: int, steps: int, size: int = 1 << 20) -> Traffic:
    """A document of 1,024 fields, one of which is edited at a step."""
    prose, dice = Prose(seed), random.Random(seed)
    fields = [f"section_{n:04}" for n in range(1024)]
    # A field's name and its framing take some 16 bytes of its share.
    share = max(2, size // len(fields) - 16)

    def agent(now: _Document) -> dict[str, Any]:
        return {"document": {**now["document"], dice.choice(fields): prose.text(share)}}

    first = {"document": {name: prose.text(share) for name in fields}}
    return _record(_loop(_Document, agent, _for(steps)), first, steps)


class _Counter(TypedDict):
    turn: int
    status: str


def counter(steps: int) -> Traffic:
    """A small state that stays small, for threads with a long history."""

    def agent(now: _Counter) -> dict[str, Any]:
        return {"turn": now["turn"] + 1, "status": "working" if now["turn"] % 3 else "waiting"}

    return _record(_loop(_Counter, agent, _for(steps)), {"turn": 0, "status": "new"}, steps)


def _for(steps: int) -> Callable[[Any], bool]:
    """True that many times."""
    left = itertools.count(steps, -1)
    return lambda _now: next(left) > 0


@dataclass
class Replay:
    """One thread's traffic as the calls of one saver, with arguments of their own that nothing else shares."""

    saver: Any
    traffic: Traffic
    thread: str
    _versions: list[Any] = field(default_factory=lambda: [None])

    def config(self, checkpoint_id: str | None = None) -> Any:
        """The thread, or one of its checkpoints."""
        named = {} if checkpoint_id is None else {"checkpoint_id": checkpoint_id}
        return {"configurable": {"thread_id": self.thread, "checkpoint_ns": "", **named}}

    def put(self, n: int) -> tuple[Any, Any, Any, Any]:
        """Arguments of the put of a step."""
        step = self.traffic.steps[n]
        checkpoint = {
            **step.checkpoint,
            "channel_values": dict(step.checkpoint["channel_values"]),
            "channel_versions": self._mapped(step.checkpoint["channel_versions"]),
            "versions_seen": {node: self._mapped(seen) for node, seen in step.checkpoint["versions_seen"].items()},
        }
        return self.config(step.parent_id), checkpoint, dict(step.metadata), self._mapped(step.new_versions)

    def writes(self, n: int) -> list[tuple[Any, Any, str, str]]:
        """Arguments of each `put_writes` before the put of a step."""
        return [
            (self.config(one.checkpoint_id), list(one.writes), one.task_id, one.task_path)
            for one in self.traffic.steps[n].before
        ]

    def _mapped(self, versions: dict[str, int]) -> dict[str, Any]:
        return {channel: self._version(number) for channel, number in versions.items()}

    def _version(self, number: int) -> Any:
        while len(self._versions) <= number:
            self._versions.append(self.saver.get_next_version(self._versions[-1], None))
        return self._versions[number]

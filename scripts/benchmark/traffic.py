"""The traffic: calls of a compiled graph, recorded once, replayed to every saver.

A step is one `put`, preceded by the `put_writes` of the task that led to it. Only the versions of channels differ between
savers, because LangGraph lets each saver make its own. The recorded numbers are therefore replaced by the versions that
`get_next_version` of the saver gives in the same order.
"""

from __future__ import annotations

import itertools
import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from typing_extensions import TypedDict

from scripts.benchmark.text import Prose

__all__ = ["FLAG", "Replay", "Step", "Traffic", "Writes", "chat", "conversation", "counter", "document", "wide"]

FLAG = "review"
"""A metadata key that few checkpoints have, to filter by."""


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
        """The id of the checkpoint."""
        return str(self.checkpoint["id"])


@dataclass(frozen=True)
class Traffic:
    """The steps of one thread, oldest first."""

    steps: Sequence[Step]

    def __len__(self) -> int:
        return len(self.steps)

    def first(self, count: int) -> Traffic:
        """Return the first steps."""
        return Traffic(self.steps[:count])

    def flagged(self, count: int) -> Traffic:
        """Return the same steps, of which `count`, evenly spread, have `FLAG`."""
        every = max(1, len(self.steps) // count)
        steps = list(self.steps)
        for n in range(every // 2, len(steps), every)[:count]:
            steps[n] = replace(steps[n], metadata={**steps[n].metadata, FLAG: "wanted"})
        return Traffic(steps)

    def with_flag(self) -> list[Step]:
        """Return the steps whose metadata has `FLAG`, newest first."""
        return [step for step in reversed(self.steps) if FLAG in step.metadata]


class _Recorder(BaseCheckpointSaver[int]):
    """A checkpointer that only records its calls."""

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
        """Return the recorded steps, with the writes of each task before the next put."""
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
    """Return a graph of one node that repeats itself."""
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(state)
    builder.add_node("agent", node)
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", lambda now: "agent" if go_on(now) else END, ["agent", END])
    return builder


def conversation(seed: int, count: int, size: int) -> list[BaseMessage]:
    """Return messages of `size` characters, in turn of a human and of a model."""
    prose, dice = Prose(seed), random.Random(seed)
    kinds: tuple[type[HumanMessage | AIMessage], ...] = (HumanMessage, AIMessage)
    return [
        kinds[n % 2](content=prose.text(size), id=str(uuid.UUID(int=dice.getrandbits(128), version=4)))
        for n in range(count)
    ]


def chat(seed: int, steps: int, size: int = 1024) -> Traffic:
    """Return a chat that grows by one message per step."""
    said = conversation(seed, steps, size)

    def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [said[len(state["messages"])]]}

    builder = _loop(MessagesState, agent, lambda state: len(state["messages"]) < len(said))
    return _record(builder, {"messages": said[:1]}, steps)


def wide(seed: int, steps: int, channels: int = 50, changes: int = 2) -> Traffic:
    """Return a state of many channels of 200 characters, of which few change per step."""
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
    """Return a document of 1,024 fields, of which one changes per step."""
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
    """Return a state that stays small, for threads with a long history."""

    def agent(now: _Counter) -> dict[str, Any]:
        return {"turn": now["turn"] + 1, "status": "working" if now["turn"] % 3 else "waiting"}

    return _record(_loop(_Counter, agent, _for(steps)), {"turn": 0, "status": "new"}, steps)


def _for(steps: int) -> Callable[[Any], bool]:
    """Return a function that is true that many times."""
    left = itertools.count(steps, -1)
    return lambda _now: next(left) > 0


@dataclass
class Replay:
    """The traffic of one thread as calls of one saver, with unshared arguments."""

    saver: Any
    traffic: Traffic
    thread: str
    _versions: list[Any] = field(default_factory=lambda: [None])

    def config(self, checkpoint_id: str | None = None) -> Any:
        """Return the config of the thread, or of one of its checkpoints."""
        named = {} if checkpoint_id is None else {"checkpoint_id": checkpoint_id}
        return {"configurable": {"thread_id": self.thread, "checkpoint_ns": "", **named}}

    def put(self, n: int) -> tuple[Any, Any, Any, Any]:
        """Return the arguments of the put of a step."""
        step = self.traffic.steps[n]
        checkpoint = {
            **step.checkpoint,
            "channel_values": dict(step.checkpoint["channel_values"]),
            "channel_versions": self._mapped(step.checkpoint["channel_versions"]),
            "versions_seen": {node: self._mapped(seen) for node, seen in step.checkpoint["versions_seen"].items()},
        }
        return self.config(step.parent_id), checkpoint, dict(step.metadata), self._mapped(step.new_versions)

    def writes(self, n: int) -> list[tuple[Any, Any, str, str]]:
        """Return the arguments of each `put_writes` before the put of a step."""
        return [
            (self.config(one.checkpoint_id), list(one.writes), one.task_id, one.task_path)
            for one in self.traffic.steps[n].before
        ]

    def store(self, n: int) -> None:
        """Make all calls of a step."""
        for arguments in self.writes(n):
            self.saver.put_writes(*arguments)
        self.saver.put(*self.put(n))

    def _mapped(self, versions: dict[str, int]) -> dict[str, Any]:
        return {channel: self._version(number) for channel, number in versions.items()}

    def _version(self, number: int) -> Any:
        while len(self._versions) <= number:
            self._versions.append(self.saver.get_next_version(self._versions[-1], None))
        return self._versions[number]

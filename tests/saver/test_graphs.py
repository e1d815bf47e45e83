"""Real graphs on the saver, with both drivers, compared with InMemorySaver.

Each scenario is a function of a checkpointer that returns what its user would see. It runs on both checkpointers; their
outlines have to be equal, and the telling part is spelled out.
"""

from __future__ import annotations

import asyncio
import operator
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Overwrite, Send, StateUpdate, interrupt
from typing_extensions import TypedDict

from eventlog.errors import ValueUnwritable
from saver import RedisStreamSaver
from tests.saver.agents import ask, human, weather_agent
from tests.saver.conftest import Server
from tests.saver.drivers import Call, call_async
from tests.saver.resume_worker import approval_graph

pytestmark = pytest.mark.telling

ROOT = Path(__file__).parents[2]
CONFIG: Any = {"configurable": {"thread_id": "t"}}
Scenario = Callable[[Call, Any], Awaitable[Any]]


class Log(TypedDict, total=False):
    """A state that keeps a log."""

    log: Annotated[list[str], operator.add]
    n: int


def outline(snapshot: Any) -> dict[str, Any]:
    """What a state snapshot says, without the ids and times that differ from run to run."""
    return {
        "values": snapshot.values,
        "next": snapshot.next,
        "source": (snapshot.metadata or {}).get("source"),
        "step": (snapshot.metadata or {}).get("step"),
        "has parent": snapshot.parent_config is not None,
        "interrupts": sorted(repr(one.value) for one in snapshot.interrupts),
        "tasks": [
            (
                one.name,
                one.path,
                one.error,
                one.result,
                outline(one.state) if hasattr(one.state, "tasks") else None,
            )
            for one in snapshot.tasks
        ],
    }


async def history(call: Call, graph: Any, config: Any = CONFIG, **kwargs: Any) -> list[dict[str, Any]]:
    """Outlines of all snapshots of a thread, newest first."""
    return [outline(snapshot) for snapshot in await call(graph, "get_state_history", config, **kwargs)]


async def on_both(scenario: Scenario, call: Call, saver: Any) -> Any:
    """What the scenario shows on the saver, once it is known to show the same on InMemorySaver."""
    expected = await scenario(call, InMemorySaver())
    actual = await scenario(call, saver)
    assert expected == actual
    return actual


def counting_graph(checkpointer: Any, **compiled: Any) -> Any:
    """Three nodes in a line, each of which logs its name and adds one."""

    def node(name: str) -> Any:
        return lambda state: {"log": [name], "n": state.get("n", 0) + 1}

    builder = StateGraph(Log)
    names = ["a", "b", "c"]
    for name in names:
        builder.add_node(name, node(name))
    for edge in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(*edge)
    return builder.compile(checkpointer=checkpointer, **compiled)


async def test_react_agent(saver: RedisStreamSaver, call: Call) -> None:
    """A prebuilt agent calls tools, in parallel too, and remembers the conversation at the next question."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        script = [
            ask(1, "sf"),
            AIMessage("Sunny.", id="answer-1"),
            ask(2, "nyc", "sf"),
            AIMessage("Cloudy, or sunny.", id="answer-2"),
        ]
        agent = weather_agent(checkpointer, script)
        await call(agent, "invoke", {"messages": [human("and in sf?")]}, CONFIG)
        await call(agent, "invoke", {"messages": [human("and nyc?")]}, CONFIG)
        snapshots = await call(agent, "get_state_history", CONFIG)
        # Tool messages get random ids.
        return [
            [(message.type, message.content) for message in snapshot.values.get("messages", [])]
            for snapshot in snapshots
        ], [(snapshot.next, snapshot.metadata["step"]) for snapshot in snapshots]

    conversations, _ = await on_both(scenario, call, saver)
    assert conversations[0] == [
        ("human", "and in sf?"),
        ("ai", ""),
        ("tool", "It's always sunny in sf"),
        ("ai", "Sunny."),
        ("human", "and nyc?"),
        ("ai", ""),
        ("tool", "It might be cloudy in nyc"),
        ("tool", "It's always sunny in sf"),
        ("ai", "Cloudy, or sunny."),
    ]


async def test_map_reduce(saver: RedisStreamSaver, call: Call) -> None:
    """Tasks that `Send` fans out all write to one channel, in the order of the sends."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        builder = StateGraph(Log)
        builder.add_node("plan", lambda state: {"log": ["plan"]})
        builder.add_node("work", lambda state: {"log": [f"work {state['n']}"]})
        builder.add_node("reduce", lambda state: {"n": len(state["log"])})
        builder.add_edge(START, "plan")
        builder.add_conditional_edges("plan", lambda state: [Send("work", {"n": n}) for n in range(12)], ["work"])
        builder.add_edge("work", "reduce")
        builder.add_edge("reduce", END)
        graph = builder.compile(checkpointer=checkpointer)
        await call(graph, "invoke", {"log": ["start"]}, CONFIG)
        return await history(call, graph)

    newest, *_ = await on_both(scenario, call, saver)
    assert {"log": ["start", "plan", *(f"work {n}" for n in range(12))], "n": 14} == newest["values"]


def nested_graph(checkpointer: Any, inner_checkpointer: Any = None) -> Any:
    """A graph in a graph in a graph; the innermost stops to ask."""

    def innermost(state: Log) -> Log:
        return {"log": [f"innermost {interrupt('go on?')}"]}

    deep = StateGraph(Log)
    deep.add_node("first", lambda state: {"log": ["first"]})
    deep.add_node("innermost", innermost)
    deep.add_edge(START, "first")
    deep.add_edge("first", "innermost")
    middle = StateGraph(Log)
    middle.add_node("deep", deep.compile(checkpointer=inner_checkpointer))
    middle.add_edge(START, "deep")
    outer = StateGraph(Log)
    outer.add_node("middle", middle.compile(checkpointer=inner_checkpointer))
    outer.add_node("last", lambda state: {"n": len(state["log"])})
    outer.add_edge(START, "middle")
    outer.add_edge("middle", "last")
    return outer.compile(checkpointer=checkpointer)


@pytest.mark.context
async def test_nested_graphs(saver: RedisStreamSaver, call: Call) -> None:
    """The state inside nested graphs is visible while one of them waits, and resuming goes through all of them."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        graph = nested_graph(checkpointer)
        await call(graph, "invoke", {"log": ["in"]}, CONFIG)
        waiting = outline(await call(graph, "get_state", CONFIG, subgraphs=True))
        done = await call(graph, "invoke", Command(resume="yes"), CONFIG)
        return waiting, done, await history(call, graph)

    waiting, done, _ = await on_both(scenario, call, saver)
    middle = waiting["tasks"][0][-1]
    deep = middle["tasks"][0][-1]
    assert (waiting["next"], middle["next"], deep["next"]) == (("middle",), ("deep",), ("innermost",))
    assert deep["values"] == {"log": ["in", "first"]}
    assert done["log"] == ["in", "in", "in", "first", "innermost yes"]


@pytest.mark.context
async def test_update_inside_a_nested_graph(saver: RedisStreamSaver, call: Call) -> None:
    """The state of a nested graph is updated through its own config, and the run goes on from there."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        graph = nested_graph(checkpointer)
        await call(graph, "invoke", {"log": ["in"]}, CONFIG)
        waiting = await call(graph, "get_state", CONFIG, subgraphs=True)
        deep = waiting.tasks[0].state.tasks[0].state
        await call(graph, "update_state", deep.config, {"log": ["patched"]})
        done = await call(graph, "invoke", Command(resume="yes"), CONFIG)
        return done, await history(call, graph)

    done, _ = await on_both(scenario, call, saver)
    assert done["log"] == ["in", "in", "in", "first", "patched", "innermost yes"]


@pytest.mark.context
async def test_nested_graph_with_memory_of_its_own(saver: RedisStreamSaver, call: Call) -> None:
    """A nested graph compiled with `checkpointer=True` keeps its state from one run to the next."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        inner = StateGraph(Log)
        inner.add_node("count", lambda state: {"n": state.get("n", 0) + 1})
        inner.add_edge(START, "count")
        outer = StateGraph(Log)
        counter = inner.compile(checkpointer=True)

        def visit(state: Log) -> Log:
            return {"log": [str(counter.invoke({})["n"])]}

        async def avisit(state: Log) -> Log:
            return {"log": [str((await counter.ainvoke({}))["n"])]}

        outer.add_node("visit", RunnableLambda(visit, avisit))
        outer.add_edge(START, "visit")
        graph = outer.compile(checkpointer=checkpointer)
        for _ in range(3):
            await call(graph, "invoke", {"log": []}, CONFIG)
        return await history(call, graph)

    newest, *_ = await on_both(scenario, call, saver)
    assert newest["values"]["log"] == ["1", "2", "3"]


@pytest.mark.context
async def test_interrupt_and_resume(saver: RedisStreamSaver, call: Call) -> None:
    """A run that stops to ask is resumed by a command, and a second stop in the same node after it."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        def ask_twice(state: Log) -> Log:
            return {"log": [interrupt("name?"), interrupt("age?")]}

        builder = StateGraph(Log)
        builder.add_node("ask", ask_twice)
        builder.add_edge(START, "ask")
        graph = builder.compile(checkpointer=checkpointer)
        seen = []
        for given in [{"log": ["start"]}, Command(resume="Ada"), Command(resume="36", update={"n": 1})]:
            seen.append((await call(graph, "invoke", given, CONFIG))["log"])
            seen.append(outline(await call(graph, "get_state", CONFIG)))
        return seen, await history(call, graph)

    seen, _ = await on_both(scenario, call, saver)
    assert tuple(stop["interrupts"] for stop in seen[1::2]) == (["'name?'"], ["'age?'"], [])
    assert seen[-1]["values"] == {"log": ["start", "Ada", "36"], "n": 1}


@pytest.mark.context
async def test_parallel_interrupts_resumed_by_id(saver: RedisStreamSaver, call: Call) -> None:
    """Several tasks that wait at once get their answers by interrupt id, at once or one after another."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        def question(state: Log) -> Log:
            return {"log": [f"{state['n']}: {interrupt(state['n'])}"]}

        builder = StateGraph(Log)
        builder.add_node("ask", question)
        builder.add_conditional_edges(START, lambda state: [Send("ask", {"n": n}) for n in range(4)], ["ask"])
        graph = builder.compile(checkpointer=checkpointer)
        await call(graph, "invoke", {"log": []}, CONFIG)
        waiting = (await call(graph, "get_state", CONFIG)).interrupts
        await call(graph, "invoke", Command(resume={waiting[2].id: "c"}), CONFIG)
        partly = outline(await call(graph, "get_state", CONFIG))
        rest = {one.id: "abcd"[one.value] for one in waiting if one.value != 2}
        done = await call(graph, "invoke", Command(resume=rest), CONFIG)
        return partly, done, await history(call, graph)

    partly, done, _ = await on_both(scenario, call, saver)
    assert partly["interrupts"] == ["0", "1", "3"]
    assert done["log"] == ["0: a", "1: b", "2: c", "3: d"]


@pytest.mark.context
async def test_resume_in_another_process(server: Server, saver: RedisStreamSaver, prefix: str, call: Call) -> None:
    """A thread that one process left waiting is resumed by another, and the first one sees how it went on."""
    graph = approval_graph(saver)
    await call(graph, "invoke", {"amount": 7, "log": []}, CONFIG)
    driver = "async" if call is call_async else "sync"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.saver.resume_worker", server.url, prefix, "t", driver),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    printed, _ = await process.communicate()
    assert printed.strip() == b'{"amount": 7, "log": ["checked 7", "answer: yes", "paid"]}'
    seen = await call(graph, "get_state", CONFIG)
    assert seen.values["log"] == ["checked 7", "answer: yes", "paid"]
    assert seen.next == ()


async def test_update_state(saver: RedisStreamSaver, call: Call) -> None:
    """An update made as some node takes its place; a bulk update makes a checkpoint for each superstep."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        graph = counting_graph(checkpointer, interrupt_before=["b"])
        await call(graph, "invoke", {"log": ["start"]}, CONFIG)
        await call(graph, "update_state", CONFIG, {"log": ["b by hand"]}, as_node="b")
        skipped = await call(graph, "get_state", CONFIG)
        done = await call(graph, "invoke", None, CONFIG)
        await call(
            graph,
            "bulk_update_state",
            CONFIG,
            [
                [StateUpdate({"log": ["bulk 1"]}, "a")],
                [StateUpdate({"log": ["bulk 2"], "n": 9}, "b")],
                [StateUpdate(None, END)],
            ],
        )
        return outline(skipped), done, await history(call, graph)

    skipped, done, seen = await on_both(scenario, call, saver)
    assert skipped["next"] == ("c",)
    assert done == {"log": ["start", "a", "b by hand", "c"], "n": 2}
    assert seen[0]["values"] == {"log": ["start", "a", "b by hand", "c", "bulk 1", "bulk 2"], "n": 9}


async def test_state_history(saver: RedisStreamSaver, call: Call) -> None:
    """The history is complete, newest first, and obeys filter, limit and before."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        graph = counting_graph(checkpointer)
        for run in range(3):
            await call(graph, "invoke", {"log": [f"run {run}"]}, {**CONFIG, "metadata": {"run": run}})
        everything = await call(graph, "get_state_history", CONFIG)
        before = everything[6].config
        return (
            [outline(snapshot) for snapshot in everything],
            await history(call, graph, limit=2),
            await history(call, graph, before=before),
            await history(call, graph, before=before, limit=3),
            await history(call, graph, filter={"source": "input"}),
            await history(call, graph, filter={"source": "loop", "run": 1}, limit=2),
            await history(call, graph, filter={"run": 5}),
            await history(call, graph, everything[4].config),
        )

    everything, newest, before, limited, inputs, looped, nothing, one = await on_both(scenario, call, saver)
    assert len(everything) == 15
    assert (everything[:2], everything[7:], everything[7:10]) == (newest, before, limited)
    assert [snapshot["step"] for snapshot in inputs] == [9, 4, -1]
    assert [snapshot["step"] for snapshot in looped] == [8, 7]
    assert nothing == []
    assert [everything[4]] == one


async def test_forks(saver: RedisStreamSaver, call: Call) -> None:
    """A run from an earlier checkpoint and an update of one start branches of their own; the first one stays as it was."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        graph = counting_graph(checkpointer)
        await call(graph, "invoke", {"log": ["start"]}, CONFIG)
        trunk = await call(graph, "get_state_history", CONFIG)
        tip, after_a = trunk[0], trunk[2]
        rerun = await call(graph, "invoke", None, after_a.config)
        updated = await call(graph, "update_state", after_a.config, {"log": ["instead"], "n": 100})
        branch = await call(graph, "invoke", None, updated)
        copied = await call(graph, "update_state", trunk[1].config, None, as_node="__copy__")
        copy = await call(graph, "invoke", None, copied)
        trunk_again = [await call(graph, "get_state", snapshot.config) for snapshot in trunk]
        return (
            rerun,
            branch,
            copy,
            [outline(snapshot) for snapshot in trunk] == [outline(snapshot) for snapshot in trunk_again],
            (await call(graph, "get_state", tip.config)).values,
            await history(call, graph),
        )

    rerun, branch, copy, same, tip, _ = await on_both(scenario, call, saver)
    assert {"log": ["start", "a", "b", "c"], "n": 3} == rerun == copy == tip
    assert branch == {"log": ["start", "a", "instead", "b", "c"], "n": 102}
    assert same


@pytest.mark.context
async def test_replay_of_a_graph_with_a_nested_one(saver: RedisStreamSaver, call: Call) -> None:
    """Replaying from before a nested graph runs it from its own checkpoint of that time."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        graph = nested_graph(checkpointer)
        await call(graph, "invoke", {"log": ["in"]}, CONFIG)
        await call(graph, "invoke", Command(resume="yes"), CONFIG)
        waiting = next(one for one in await call(graph, "get_state_history", CONFIG) if one.next == ("middle",))
        await call(graph, "invoke", None, waiting.config)
        replayed = outline(await call(graph, "get_state", CONFIG, subgraphs=True))
        done = await call(graph, "invoke", Command(resume="no"), CONFIG)
        return replayed, done, await history(call, graph)

    _, done, _ = await on_both(scenario, call, saver)
    assert done["log"][-1] == "innermost no"


@pytest.mark.parametrize(("durability", "checkpoints"), [("sync", 5), ("async", 5), ("exit", 1)])
async def test_durability(saver: RedisStreamSaver, call: Call, durability: str, checkpoints: int) -> None:
    """Each durability ends in the same state; `exit` stores one checkpoint per run."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        graph = counting_graph(checkpointer)
        await call(graph, "invoke", {"log": ["start"]}, CONFIG, durability=durability)
        first = await history(call, graph)
        await call(graph, "invoke", {"log": ["again"]}, CONFIG, durability=durability)
        return first, await history(call, graph)

    first, both = await on_both(scenario, call, saver)
    assert (checkpoints, 2 * checkpoints) == (len(first), len(both))
    assert both[0]["values"] == {"log": ["start", "a", "b", "c", "again", "a", "b", "c"], "n": 6}


@pytest.mark.context
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_interrupt_at_each_durability(saver: RedisStreamSaver, call: Call, durability: str) -> None:
    """A stop and its resumption outlive the run whatever the durability."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        graph = approval_graph(checkpointer)
        await call(graph, "invoke", {"amount": 1, "log": []}, CONFIG, durability=durability)
        waiting = outline(await call(graph, "get_state", CONFIG))
        done = await call(graph, "invoke", Command(resume="yes"), CONFIG, durability=durability)
        return waiting, done, await history(call, graph)

    waiting, done, _ = await on_both(scenario, call, saver)
    assert (waiting["next"], waiting["interrupts"]) == (("ask",), ["{'pay?': 1}"])
    assert done["log"] == ["checked 1", "answer: yes", "paid"]


def extend(state: list[str], batch: Sequence[Any]) -> list[str]:
    """Append every write of a batch."""
    return [*state, *(item for write in batch for item in (write if isinstance(write, list) else [write]))]


def merge(state: dict[str, int], batch: Sequence[dict[str, int]]) -> dict[str, int]:
    """Merge every write of a batch, the later one winning."""
    return {key: value for part in [state, *batch] for key, value in part.items()}


class Deltas(TypedDict, total=False):
    """A state of which most is rebuilt from its writes."""

    words: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=3)]
    seen: Annotated[dict[str, int], DeltaChannel(merge, snapshot_frequency=2)]
    rare: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=100)]
    n: int


def delta_graph(checkpointer: Any) -> Any:
    """Two parallel writers to delta channels, then a node that counts."""
    builder = StateGraph(Deltas)
    builder.add_node(
        "left", lambda state: {"words": [f"left {state.get('n', 0)}"], "seen": {"left": state.get("n", 0)}}
    )
    builder.add_node("right", lambda state: {"words": [f"right {state.get('n', 0)}"], "seen": {"both": 1}})
    builder.add_node("count", lambda state: {"n": state.get("n", 0) + 1, "rare": ["x"] if state.get("n") == 1 else []})
    builder.add_edge(START, "left")
    builder.add_edge(START, "right")
    builder.add_edge(["left", "right"], "count")
    builder.add_edge("count", END)
    return builder.compile(checkpointer=checkpointer)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_delta_channels(saver: RedisStreamSaver, call: Call, durability: str) -> None:
    """Delta channels are rebuilt from their writes at every checkpoint of a long line, in the order they were applied."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        graph = delta_graph(checkpointer)
        for run in range(5):
            await call(graph, "invoke", {"words": [f"run {run}"]}, CONFIG, durability=durability)
        return await history(call, graph)

    newest, *_ = await on_both(scenario, call, saver)
    assert [word for n in range(5) for word in (f"run {n}", f"left {n}", f"right {n}")] == newest["values"]["words"]
    assert newest["values"]["seen"] == {"left": 4, "both": 1}


async def test_delta_channels_in_forks_and_updates(saver: RedisStreamSaver, call: Call) -> None:
    """Branches of delta channels do not see each other's writes; updates and overwrites hold."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        graph = delta_graph(checkpointer)
        for run in range(3):
            await call(graph, "invoke", {"words": [f"run {run}"]}, CONFIG)
        trunk = await call(graph, "get_state_history", CONFIG)
        forked = await call(graph, "update_state", trunk[4].config, {"words": ["forked"]}, as_node="count")
        branch = await call(graph, "invoke", {"words": ["on the branch"]}, forked)
        rerun = await call(graph, "invoke", None, trunk[6].config)
        await call(graph, "update_state", CONFIG, {"words": Overwrite(["reset"])}, as_node="count")
        reset = await call(graph, "invoke", {"words": ["after"]}, CONFIG)
        again = [(await call(graph, "get_state", snapshot.config)).values for snapshot in trunk]
        unchanged = [snapshot.values for snapshot in trunk] == again
        return branch, rerun, reset, unchanged, await history(call, graph)

    branch, _, reset, unchanged, _ = await on_both(scenario, call, saver)
    assert "forked" in branch["words"]
    assert "run 2" not in branch["words"]
    assert reset["words"][:2] == ["reset", "after"]
    assert unchanged


async def test_retry_keeps_the_siblings_writes(saver: RedisStreamSaver, call: Call) -> None:
    """After a node failed, a retry runs that node alone: what its sibling wrote is kept."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        runs = {"good": 0, "bad": 0}
        good_ran, agood_ran = threading.Event(), asyncio.Event()

        def good(state: Log) -> Log:
            runs["good"] += 1
            good_ran.set()
            return {"log": ["good"]}

        async def agood(state: Log) -> Log:
            runs["good"] += 1
            agood_ran.set()
            return {"log": ["good"]}

        def fail_once() -> Log:
            runs["bad"] += 1
            if runs["bad"] == 1:
                raise ConnectionError("flaky")
            return {"log": ["bad at last"]}

        def bad(state: Log) -> Log:
            good_ran.wait(10)
            return fail_once()

        async def abad(state: Log) -> Log:
            await agood_ran.wait()
            return fail_once()

        builder = StateGraph(Log)
        builder.add_node("good", RunnableLambda(good, agood))
        builder.add_node("bad", RunnableLambda(bad, abad))
        builder.add_node("join", lambda state: {"n": len(state["log"])})
        builder.add_edge(START, "good")
        builder.add_edge(START, "bad")
        builder.add_edge(["good", "bad"], "join")
        graph = builder.compile(checkpointer=checkpointer)
        with pytest.raises(ConnectionError, match="flaky"):
            await call(graph, "invoke", {"log": ["start"]}, CONFIG)
        failed = outline(await call(graph, "get_state", CONFIG))
        done = await call(graph, "invoke", None, CONFIG)
        return runs, failed, done, await history(call, graph)

    runs, failed, done, _ = await on_both(scenario, call, saver)
    assert runs == {"good": 1, "bad": 2}
    assert {name: (error, result) for name, _, error, result, _ in failed["tasks"]} == {
        "good": (None, {"log": ["good"]}),
        "bad": ("ConnectionError('flaky')", None),
    }
    assert ({"start", "good", "bad at last"}, 3) == (set(done["log"]), done["n"])


@pytest.mark.context
async def test_functional_api(saver: RedisStreamSaver, call: Call) -> None:
    """An entrypoint gets what it returned before, and its finished tasks are not run again when it is resumed."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        runs: list[int] = []

        def square(number: int) -> int:
            runs.append(number)
            return number * number

        async def asquare(number: int) -> int:
            return square(number)

        def total(numbers: list[int], previous: int | None) -> Any:
            futures = [task(square)(number) for number in numbers]
            squares = [future.result() for future in futures]
            bonus = interrupt("bonus?")
            return entrypoint.final(
                value={"squares": squares, "previous": previous}, save=(previous or 0) + sum(squares) + bonus
            )

        async def atotal(numbers: list[int], previous: int | None) -> Any:
            squares = list(await asyncio.gather(*(task(asquare)(number) for number in numbers)))
            bonus = interrupt("bonus?")
            return entrypoint.final(
                value={"squares": squares, "previous": previous}, save=(previous or 0) + sum(squares) + bonus
            )

        decorate = entrypoint(checkpointer=checkpointer)
        flow = decorate(atotal) if call is call_async else decorate(total)
        seen = []
        for numbers, bonus in [([1, 2, 3], 100), ([4, 5], 1000)]:
            await call(flow, "invoke", numbers, CONFIG)
            seen.append(await call(flow, "invoke", Command(resume=bonus), CONFIG))
        return sorted(runs), seen, await history(call, flow)

    runs, seen, _ = await on_both(scenario, call, saver)
    assert runs == [1, 2, 3, 4, 5]
    assert seen == [{"squares": [1, 4, 9], "previous": None}, {"squares": [16, 25], "previous": 114}]


@pytest.mark.parametrize("mode", ["values", "updates", "checkpoints", "tasks"])
async def test_stream(saver: RedisStreamSaver, call: Call, mode: str) -> None:
    """Streams say the same in each mode, and a stream of checkpoints has all those that are stored."""

    async def scenario(call: Call, checkpointer: Any) -> Any:
        graph = counting_graph(checkpointer)
        chunks = await call(graph, "stream", {"log": ["start"]}, CONFIG, stream_mode=mode)
        stored = await call(graph, "get_state_history", CONFIG)
        if mode == "checkpoints":
            streamed = [chunk["config"]["configurable"]["checkpoint_id"] for chunk in chunks]
            kept = [snapshot.config["configurable"]["checkpoint_id"] for snapshot in stored]
            return [(chunk["values"], chunk["next"], chunk["metadata"]) for chunk in chunks], streamed[::-1] == kept
        if mode == "tasks":
            return [(chunk["name"], chunk.get("result")) for chunk in chunks], len(stored)
        return chunks, len(stored)

    chunks, stored = await on_both(scenario, call, saver)
    if mode == "checkpoints":
        assert (len(chunks), stored) == (5, True)
    if mode == "updates":
        assert [{name: {"log": [name], "n": n}} for n, name in enumerate("abc", 1)] == chunks


@pytest.mark.context
async def test_one_saver_in_two_graphs(saver: RedisStreamSaver, call: Call) -> None:
    """Graphs that share a saver share its threads; thread ids may be numbers."""
    counting, approving = counting_graph(saver), approval_graph(saver)
    for number in (1, 2):
        config = {"configurable": {"thread_id": number}}
        await call(counting, "invoke", {"log": [f"thread {number}"]}, config)
    await call(approving, "invoke", {"amount": 3, "log": []}, {"configurable": {"thread_id": 3}})
    expected = {"1": ["thread 1", "a", "b", "c"], "2": ["thread 2", "a", "b", "c"], "3": ["checked 3"]}
    for thread, log in expected.items():
        for thread_id in (thread, int(thread)):
            seen = await call(counting, "get_state", {"configurable": {"thread_id": thread_id}})
            assert log == seen.values["log"]
    assert (await call(approving, "get_state", {"configurable": {"thread_id": 1}})).values["log"] == [
        "thread 1",
        "a",
        "b",
        "c",
    ]
    await call(saver, "delete_thread", "1")
    assert (await call(counting, "get_state", {"configurable": {"thread_id": 1}})).values == {}
    assert {"2", "3"} == {found.config["configurable"]["thread_id"] for found in await call(saver, "list", None)}


class Refuses(JsonPlusSerializer):
    """A serializer that does not write one value."""

    def __init__(self, refused: str) -> None:
        super().__init__()
        self.refused = refused

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if self.refused in repr(obj):
            raise ValueError(f"refused to write {self.refused}")
        return super().dumps_typed(obj)


@pytest.mark.parametrize("refused", ["asked", "answered"], ids=["input", "write of a node"])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("method", ["invoke", "stream"])
async def test_serializer_that_refuses(
    one_saver: RedisStreamSaver, call: Call, method: str, durability: str, refused: str
) -> None:
    """A serializer's ValueError ends the run as a ValueError with its words and as its cause, wherever it was raised."""
    one_saver.serde = Refuses(refused)
    builder = StateGraph(Log).add_node("node", lambda _: {"log": ["answered"]})
    graph = builder.add_edge(START, "node").compile(checkpointer=one_saver)
    with pytest.raises(ValueError, match=f"'t'.*refused to write {refused}") as raised:
        await call(graph, method, {"log": ["asked"]}, CONFIG, durability=durability)
    assert isinstance(raised.value, ValueUnwritable)
    assert type(raised.value.__cause__) is ValueError
    with pytest.raises(ValueError, match=f"refused to write {refused}"):
        await call(graph, "update_state", CONFIG, {"log": [refused]}, as_node="node")

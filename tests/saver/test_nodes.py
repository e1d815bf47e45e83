"""The feed says which channels and nodes an event is about, and of writes which step and run: with real graphs and both drivers."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from threading import Thread
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from eventlog.framing import split_counted
from eventlog.keys import Keyspace
from saver import RedisStreamSaver
from saver.nodes import MOST, NOTHING, Known, KnownCheckpoints, nodes_of, writer_of
from tests.saver.agents import ask, human, weather_agent
from tests.saver.drivers import Call, call_async
from tests.saver.threads import config, follow, step
from tests.servers import Server

CONFIG: Any = {"configurable": {"thread_id": "t"}}
SYNC = "sync"
FIELDS = ["thread", "id", "seq", "kind", "ns", "checkpoint", "source", "step", "run", "channels", "nodes"]

Pointer = dict[str, Any]


class Log(TypedDict, total=False):
    """A state that keeps a log."""

    log: Annotated[list[str], operator.add]
    n: int


class Feed:
    """What the feed tells of a thread."""

    def __init__(self, server: Server, prefix: str) -> None:
        self.client: Any = server.client()
        self.keyspace = Keyspace(prefix, 16)

    def close(self) -> None:
        self.client.close()

    def pointers(self, kind: str | None = None, thread: str = "t", namespace: str | None = "") -> list[Pointer]:
        """Pointers in their order, of one kind or of all, of one namespace or of all, with names taken apart; writes, which LangGraph
        makes in the background, by step.
        """
        found = []
        for _, fields in self.client.xrange(self.keyspace.thread(thread.encode()).shared.feed):
            pointer: Pointer = {name.decode(): value.decode() for name, value in fields.items()}
            for names in ("channels", "nodes"):
                pointer[names] = [one.decode() for one in split_counted(fields[names.encode()])]
            if kind in (None, pointer["kind"]) and namespace in (None, pointer["ns"]) and pointer["thread"] == thread:
                found.append(pointer)
        return sorted(found, key=lambda pointer: int(pointer["step"] or 0)) if kind == "writes" else found

    def nodes(self, kind: str = "checkpoint", **which: Any) -> list[list[str]]:
        """The nodes that pointers name."""
        return [pointer["nodes"] for pointer in self.pointers(kind, **which)]


@pytest.fixture
def feed(server: Server, prefix: str) -> Iterator[Feed]:
    """The feed behind `saver`."""
    opened = Feed(server, prefix)
    yield opened
    opened.close()


@pytest.fixture
def one_feed(any_server: Server, prefix: str) -> Iterator[Feed]:
    """The feed behind `one_saver`."""
    opened = Feed(any_server, prefix)
    yield opened
    opened.close()


def line(checkpointer: Any, *names: str, **compiled: Any) -> Any:
    """Nodes in a line, each of which logs its name."""
    builder = StateGraph(Log)
    for name in names:
        builder.add_node(name, lambda state, name=name: {"log": [name]})
    for edge in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(*edge)
    return builder.compile(checkpointer=checkpointer, **compiled)


def fan_out(checkpointer: Any, work: Any = None) -> Any:
    """A node that sends two tasks to one node and one to another, and one that gathers them."""
    builder = StateGraph(Log)
    builder.add_node("plan", lambda state: {"log": ["plan"]})
    builder.add_node("work", work or (lambda state: {"log": ["work"]}))
    builder.add_node("check", lambda state: {"log": ["check"]})
    builder.add_node("reduce", lambda state: {"n": len(state["log"])})
    builder.add_edge(START, "plan")
    sends = [Send("work", {"n": 1}), Send("check", {"n": 2}), Send("work", {"n": 3})]
    builder.add_conditional_edges("plan", lambda state: sends, ["work", "check"])
    builder.add_edge("work", "reduce")
    builder.add_edge("check", "reduce")
    return builder.compile(checkpointer=checkpointer)


async def test_every_append_tells_of_the_same_fields(saver: RedisStreamSaver, feed: Feed, call: Call) -> None:
    """All kinds of pointers have the same fields in the same order; those that are not about channels or nodes name none."""
    for run in ("one", "two"):
        given = {**CONFIG, "metadata": {"run_id": run}}
        await call(line(saver, "a", "b"), "invoke", {"log": ["in"]}, given, durability=SYNC)
    await call(saver, "copy_thread", "t", "copy")
    await call(saver, "delete_for_runs", ["one"])
    await call(saver, "prune", ["t"])
    await call(saver, "delete_thread", "t")
    for thread in ("t", "copy"):
        for pointer in feed.pointers(thread=thread):
            fields = list(pointer)
            if pointer["kind"] == "deleted":
                fields = [name for name in fields if name not in {"digest", "audit"}]
            assert fields == FIELDS
            if pointer["kind"] not in ("checkpoint", "writes"):
                assert (pointer["channels"], pointer["nodes"]) == ([], [])
    kinds = {pointer["kind"] for thread in ("t", "copy") for pointer in feed.pointers(thread=thread)}
    assert kinds == {"checkpoint", "writes", "copied", "pruned", "runs_deleted", "deleted"}


async def test_nodes_in_a_line(saver: RedisStreamSaver, feed: Feed, call: Call) -> None:
    """Every checkpoint names the node that made it, and every write the node that wrote; what LangGraph itself does is no node."""
    await call(line(saver, "a", "b"), "invoke", {"log": ["in"]}, CONFIG, durability=SYNC)
    checkpoints = feed.pointers("checkpoint")
    assert [(one["source"], one["nodes"]) for one in checkpoints] == [
        ("input", []),
        ("loop", []),
        ("loop", ["a"]),
        ("loop", ["b"]),
    ]
    assert [set(one["channels"]) for one in checkpoints] == [
        {"__start__"},
        {"__start__", "log", "branch:to:a"},
        {"log", "branch:to:a", "branch:to:b"},
        {"log", "branch:to:b"},
    ]
    assert [(one["nodes"], one["channels"]) for one in feed.pointers("writes")] == [
        ([], ["log", "branch:to:a"]),
        (["a"], ["log", "branch:to:b"]),
        (["b"], ["log"]),
    ]


async def test_a_second_turn(saver: RedisStreamSaver, feed: Feed, call: Call) -> None:
    """Nodes that have run before are named again when they run again, and only then."""
    graph = line(saver, "a", "b")
    for _ in range(3):
        await call(graph, "invoke", {"log": ["in"]}, CONFIG, durability=SYNC)
    assert feed.nodes() == [[], [], ["a"], ["b"]] * 3
    # Writes that LangGraph makes before their checkpoint is there have no step to be sorted by.
    assert sorted(feed.nodes("writes")) == [[]] * 3 + [["a"]] * 3 + [["b"]] * 3


async def test_parallel_nodes(saver: RedisStreamSaver, feed: Feed, call: Call) -> None:
    """A checkpoint that several nodes made names all of them; each one's writes name it alone."""
    builder = StateGraph(Log)
    for name in ("left", "right", "middle"):
        builder.add_node(name, lambda state, name=name: {"log": [name]})
        builder.add_edge(START, name)
    builder.add_node("join", lambda state: {"n": 1})
    builder.add_edge(["left", "right", "middle"], "join")
    await call(builder.compile(checkpointer=saver), "invoke", {"log": []}, CONFIG, durability=SYNC)
    assert [sorted(nodes) for nodes in feed.nodes()] == [[], [], ["left", "middle", "right"], ["join"]]
    assert sorted(feed.nodes("writes")) == [[], ["join"], ["left"], ["middle"], ["right"]]


async def test_fan_out(saver: RedisStreamSaver, feed: Feed, call: Call) -> None:
    """Tasks that were sent are named by their writes and by the checkpoint they make, once each, in every turn."""
    graph = fan_out(saver)
    for _ in range(2):
        await call(graph, "invoke", {"log": []}, CONFIG, durability=SYNC)
    nodes = [sorted(nodes) for nodes in feed.nodes()]
    assert nodes == [[], [], ["plan"], ["check", "work"], ["reduce"]] * 2
    writes = [pointer for pointer in feed.pointers("writes") if pointer["step"] == "2"]
    assert sorted(pointer["nodes"] for pointer in writes) == [["check"], ["work"], ["work"]]


async def test_agent(saver: RedisStreamSaver, feed: Feed, call: Call) -> None:
    """A prebuilt agent, whose tools are sent to, names model and tools."""

    agent = weather_agent(saver, [ask(1, "sf", "nyc"), AIMessage("Sunny.", id="answer")])
    await call(agent, "invoke", {"messages": [human("and in sf?")]}, CONFIG, durability=SYNC)
    reported = [nodes for nodes in feed.nodes() if nodes]
    assert len(reported) == 3
    assert reported[0] == reported[2] != reported[1]
    assert feed.nodes("writes").count(reported[1]) == 2


@pytest.mark.context
async def test_subgraphs(saver: RedisStreamSaver, feed: Feed, call: Call) -> None:
    """Checkpoints of a subgraph name its own nodes, in its namespace; the graph around it names the node that it is."""
    inner = StateGraph(Log)
    inner.add_node("deep", lambda state: {"log": ["deep"]})
    inner.add_node("deeper", lambda state: {"log": [interrupt("?")]})
    inner.add_edge(START, "deep")
    inner.add_edge("deep", "deeper")
    outer = StateGraph(Log)
    outer.add_node("sub", inner.compile())
    outer.add_node("last", lambda state: {"n": 1})
    outer.add_edge(START, "sub")
    outer.add_edge("sub", "last")
    graph = outer.compile(checkpointer=saver)
    await call(graph, "invoke", {"log": []}, CONFIG, durability=SYNC)
    await call(graph, "invoke", Command(resume="yes"), CONFIG, durability=SYNC)
    assert feed.nodes() == [[], [], ["sub"], ["last"]]
    (namespace,) = {one["ns"] for one in feed.pointers(namespace=None)} - {""}
    assert namespace.startswith("sub:")
    assert feed.nodes(namespace=namespace) == [[], [], ["deep"], ["deeper"]]
    assert ["deeper"] in feed.nodes("writes", namespace=namespace)


@pytest.mark.context
async def test_resumed_by_a_fresh_saver(
    saver: RedisStreamSaver, feed: Feed, server: Server, prefix: str, call: Call
) -> None:
    """A saver that goes on where another stopped knows from what it read which nodes ran, sent ones too."""

    def work(state: Any) -> Log:
        return {"log": [interrupt("go on?") if state["n"] == 3 else "work"]}

    await call(fan_out(saver, work), "invoke", {"log": []}, CONFIG, durability=SYNC)
    assert feed.nodes() == [[], [], ["plan"]]
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as fresh:
        await call(fan_out(fresh, work), "invoke", Command(resume="yes"), CONFIG, durability=SYNC)
    assert [sorted(nodes) for nodes in feed.nodes()] == [[], [], ["plan"], ["check", "work"], ["reduce"]]
    later = [pointer for pointer in feed.pointers("writes") if pointer["step"] == "2"]
    assert sorted(pointer["nodes"] for pointer in later if pointer["nodes"]) == [
        ["check"],
        ["work"],
        ["work"],
        ["work"],
    ]


async def test_a_saver_that_never_read_the_parent(
    one_saver: RedisStreamSaver, one_feed: Feed, any_server: Server, prefix: str, call: Call
) -> None:
    """Where the checkpoint before is not known nothing is made up: no nodes, no step."""
    first = step({"a": 1})
    first[0]["versions_seen"] = {"one": {"a": "1"}}
    second = follow(first, {"a": 2})
    second[0]["versions_seen"] = {"one": {"a": "2"}}
    named = await call(one_saver, "put", config("t"), *first)
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as other:
        await call(other, "put_writes", named, [("a", 1)], "task", "~__pregel_push, 0000000000, 0000000000")
        await call(other, "put", named, *second)
    assert one_feed.nodes() == [["one"], []]
    (writes,) = one_feed.pointers("writes")
    assert (writes["step"], writes["nodes"], writes["channels"]) == ("", [], ["a"])
    await call(one_saver, "put", named, *second)
    await call(one_saver, "put", named, *follow(first, {"a": 3}))
    assert one_feed.nodes()[-1] == []


async def test_read_by_id(
    one_saver: RedisStreamSaver, one_feed: Feed, any_server: Server, prefix: str, call: Call
) -> None:
    """A run that goes on from an earlier checkpoint names what runs from there on."""
    await call(line(one_saver, "a", "b"), "invoke", {"log": ["in"]}, CONFIG, durability=SYNC)
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as other:
        graph = line(other, "a", "b")
        early = (await call(graph, "get_state_history", CONFIG))[2].config
        assert (await call(graph, "get_state", early)).next == ("a",)
        await call(graph, "invoke", None, early, durability=SYNC)
    reported = [(one["source"], one["nodes"]) for one in one_feed.pointers("checkpoint")[4:]]
    assert reported == [("fork", []), ("loop", ["a"]), ("loop", ["b"])]


async def test_update_state(saver: RedisStreamSaver, feed: Feed, call: Call) -> None:
    """An update is made by no node, nor are tasks that are dropped by new input: neither is named. What it starts is."""
    graph = line(saver, "a", "b", interrupt_before=["b"])
    await call(graph, "invoke", {"log": ["in"]}, CONFIG, durability=SYNC)
    await call(graph, "update_state", CONFIG, {"n": 2}, as_node="a")
    await call(graph, "invoke", {"log": ["again"]}, CONFIG, durability=SYNC)
    await call(graph, "invoke", None, CONFIG, durability=SYNC)
    reported = [(one["source"], one["nodes"]) for one in feed.pointers("checkpoint")]
    again = [("input", []), ("loop", []), ("loop", ["a"])]
    assert reported == [*again, ("update", []), *again, ("loop", ["b"])]


@pytest.mark.parametrize("durability", ["async", "exit"])
async def test_durability(saver: RedisStreamSaver, feed: Feed, call: Call, durability: str) -> None:
    """However checkpoints are saved, the nodes that ran are named; by the one checkpoint of a run that is saved at its end only."""
    graph = line(saver, "a", "b")
    for _ in range(2):
        await call(graph, "invoke", {"log": ["in"]}, CONFIG, durability=durability)
    assert feed.nodes() == ([["a", "b"]] if durability == "exit" else [[], [], ["a"], ["b"]]) * 2


@pytest.mark.context
async def test_functional_api(saver: RedisStreamSaver, feed: Feed, call: Call) -> None:
    """Functions go on as ever; a task's own writes name no node."""

    def square(number: int) -> int:
        return number * number

    async def asquare(number: int) -> int:
        return square(number)

    def flow(numbers: list[int]) -> Any:
        return sum(future.result() for future in [task(square)(number) for number in numbers])

    async def aflow(numbers: list[int]) -> Any:
        return sum([await task(asquare)(number) for number in numbers])

    decorated = entrypoint(checkpointer=saver)(aflow if call is call_async else flow)
    assert await call(decorated, "invoke", [1, 2, 3], CONFIG, durability=SYNC) == 14
    assert [one["nodes"] for one in feed.pointers("writes") if one["channels"] == ["__return__"]] == [[], [], []]
    flow_name, task_name = ("aflow", "asquare") if call is call_async else ("flow", "square")
    assert feed.nodes() == [[], [flow_name, task_name]]


async def test_error_handlers(saver: RedisStreamSaver, feed: Feed, call: Call) -> None:
    """What a node's error handler writes is not reported as the node's."""

    def fail(state: Log) -> Log:
        raise ValueError("flaky")

    builder = StateGraph(Log)
    builder.add_node("bad", fail, error_handler=lambda state: {"n": 5})
    builder.add_edge(START, "bad")
    graph = builder.compile(checkpointer=saver)
    assert (await call(graph, "invoke", {"log": []}, CONFIG, durability=SYNC))["n"] == 5
    assert [(one["channels"], one["nodes"]) for one in feed.pointers("writes")][1:] == [
        (["__error__", "__error_source_node__"], ["bad"]),
        (["n"], []),
    ]
    assert feed.nodes()[-1] == ["bad"]


async def test_more_than_64_names(one_saver: RedisStreamSaver, one_feed: Feed, call: Call) -> None:
    """A pointer has the first 64 names, in the order they came."""
    names = [f"channel {number}" for number in reversed(range(70))]
    first = step(dict.fromkeys(names, 1))
    first[0]["versions_seen"] = {f"node {number}": {"a": "1"} for number in range(70)}
    named = await call(one_saver, "put", config("t"), *first)
    await call(one_saver, "put_writes", named, [(name, 1) for name in names], "task")
    checkpoint, writes = one_feed.pointers()
    assert checkpoint["channels"] == writes["channels"] == names[:64]
    assert checkpoint["nodes"] == [f"node {number}" for number in range(64)]


async def test_names_come_once(one_saver: RedisStreamSaver, one_feed: Feed, call: Call) -> None:
    """A channel that is written to over and over is named once, and does not crowd out another."""
    named = await call(one_saver, "put", config("t"), *step({"a": 1}))
    await call(one_saver, "put_writes", named, [*[("a", 1)] * 200, ("b", 2), ("a", 3)], "task")
    assert one_feed.pointers("writes")[0]["channels"] == ["a", "b"]


async def test_values_of_none_and_versions_without_values(
    one_saver: RedisStreamSaver, one_feed: Feed, call: Call
) -> None:
    """Channels are those that a put brings, None and emptied ones too, not all that the checkpoint has."""
    first = step({"a": 1, "b": 2, "c": 3})
    second = follow(first, {"b": None})
    second[2]["c"] = second[0]["channel_versions"]["c"] = "9"
    del second[0]["channel_values"]["c"]
    named = await call(one_saver, "put", config("t"), *first)
    await call(one_saver, "put", named, *second)
    assert [one["channels"] for one in one_feed.pointers()] == [["a", "b", "c"], ["b", "c"]]


async def test_odd_names(one_saver: RedisStreamSaver, one_feed: Feed, call: Call) -> None:
    """Names may hold what separates them, be empty or in any script, and come back as they are."""
    graph = line(one_saver, "a, b", "3 é, ~__pregel_pull, x")
    await call(graph, "invoke", {"log": []}, CONFIG, durability=SYNC)
    assert one_feed.nodes() == [[], [], ["a, b"], ["3 é, ~__pregel_pull, x"]]
    assert one_feed.nodes("writes") == [[], ["a, b"], ["3 é, ~__pregel_pull, x"]]
    odd = {"": 1, "1:": 2, "a\0b": 3, "12:é": 4}
    first = step(dict(odd))
    first[0]["versions_seen"] = {"1:2:": {}, "é\0": {}}
    named = await call(one_saver, "put", config("odd"), *first)
    await call(one_saver, "put_writes", named, list(odd.items()), "task", "~__pregel_pull, 1:2:")
    checkpoint, writes = one_feed.pointers(thread="odd")
    assert checkpoint["channels"] == writes["channels"] == list(odd)
    assert (checkpoint["nodes"], writes["nodes"]) == (["1:2:", "é\0"], ["1:2:"])


async def test_step_and_run_of_writes(saver: RedisStreamSaver, feed: Feed, call: Call) -> None:
    """Writes are reported with the step they are made in, which is that of the checkpoint they lead to, and with their run."""
    graph = line(saver, "a", "b")
    for run in ("one", "two"):
        given = {**CONFIG, "metadata": {"run_id": run}}
        await call(graph, "invoke", {"log": []}, given, durability=SYNC)
    steps = [(one["kind"], one["step"], one["run"], one["source"]) for one in feed.pointers()]
    writes = [
        ("writes", str(number), run, "")
        for run, first in (("one", 0), ("two", 4))
        for number in range(first, first + 3)
    ]
    made = [
        ("checkpoint", str(number), run, "input" if number == first else "loop")
        for run, first in (("one", -1), ("two", 3))
        for number in range(first, first + 4)
    ]
    assert sorted(steps) == sorted([*writes, *made])


@pytest.mark.parametrize("where", ["metadata", "configurable"])
@pytest.mark.parametrize(("given", "reported"), [("r\0un", "run"), (7, "7"), (None, ""), (["run"], "")])
async def test_the_run_is_found_as_that_of_a_put(
    one_saver: RedisStreamSaver, one_feed: Feed, call: Call, where: str, given: Any, reported: str
) -> None:
    """The run of writes is read from a config as LangGraph reads that of a put."""
    named = config("t")
    (named["configurable"] if where == "configurable" else named.setdefault("metadata", {}))["run_id"] = given
    checkpoint, metadata, versions = step({"a": 1})
    at = await call(one_saver, "put", named, checkpoint, metadata, versions)
    named["configurable"]["checkpoint_id"] = at["configurable"]["checkpoint_id"]
    await call(one_saver, "put_writes", named, [("a", 1)], "task")
    assert [one["run"] for one in one_feed.pointers()] == [reported, reported]


async def test_runs_of_writes_are_not_registered(saver: RedisStreamSaver, feed: Feed, call: Call) -> None:
    """A run that only wrote to a thread made no checkpoint there: it is not known as one of its runs, nor after a rebuild, and
    deleting it deletes nothing.
    """
    checkpoint, metadata, versions = step({"a": 1}, run_id="of the checkpoint")
    named = await call(saver, "put", config("t"), checkpoint, metadata, versions)
    named["metadata"] = {"run_id": "of the writes"}
    await call(saver, "put_writes", named, [("a", 1)], "task")
    keys = feed.keyspace.thread(b"t")
    assert [one["run"] for one in feed.pointers()] == ["of the checkpoint", "of the writes"]
    registered = feed.client.zrange(keys.shared.runs, 0, -1)
    assert not [member for member in registered if b"of the writes" in member]
    before = len(feed.pointers())
    await call(saver, "delete_for_runs", ["of the writes"])
    feed.client.delete(keys.shared.threads, keys.shared.runs, keys.shared.expiries)
    await call(saver, "delete_for_runs", ["of the writes"])
    assert feed.client.zrange(keys.shared.runs, 0, -1) == registered
    assert (await call(saver, "get_tuple", config("t"))).pending_writes == [("task", "a", 1)]
    assert len(feed.pointers()) == before
    await call(saver, "delete_for_runs", ["of the checkpoint"])
    assert await call(saver, "get_tuple", config("t")) is None


async def test_writes_before_their_checkpoint(one_saver: RedisStreamSaver, one_feed: Feed, call: Call) -> None:
    """Writes that come first tell what their path says; their checkpoint comes with its nodes as ever."""
    first = step({"a": 1}, checkpoint_id="1")
    await call(one_saver, "put_writes", config("t", "", "1"), [("a", 1)], "task", "~__pregel_pull, early")
    await call(one_saver, "put", config("t"), *first)
    assert [(one["kind"], one["step"], one["nodes"]) for one in one_feed.pointers()] == [
        ("writes", "", ["early"]),
        ("checkpoint", "1", []),
    ]


@pytest.mark.parametrize("seen", [None, [], {"a": None, "b": 3}, "text"])
async def test_versions_seen_of_another_shape(
    one_saver: RedisStreamSaver, one_feed: Feed, call: Call, seen: Any
) -> None:
    """A checkpoint whose versions_seen is not LangGraph's is saved and read as ever."""
    first = step({"a": 1})
    first[0]["versions_seen"] = seen
    named = await call(one_saver, "put", config("t"), *first)
    found = await call(one_saver, "get_tuple", config("t"))
    assert found.checkpoint["versions_seen"] == seen
    await call(one_saver, "put", named, *follow(first, {"a": 2}))
    assert one_feed.nodes()[0] == (["b"] if isinstance(seen, dict) else [])


async def test_a_large_graph_that_goes_on_from_what_was_read(
    saver: RedisStreamSaver, feed: Feed, server: Server, prefix: str, call: Call
) -> None:
    """LangGraph goes on in place from the checkpoint it is given: what the saver knows of it must not change with it, or what is
    stored as changed would not be what changed.
    """
    names = [f"node {number}" for number in range(14)]
    for _ in range(2):
        async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as fresh:
            graph = line(fresh, *names, interrupt_after=[names[3], names[8]])
            for given in ({"log": ["in"]}, None, None):
                await call(graph, "invoke", given, CONFIG, durability=SYNC)
    history = await call(line(saver, *names), "get_state_history", CONFIG)
    assert len(history) == 2 * 16
    assert feed.nodes() == [[], [], *([name] for name in names)] * 2


def known(seen: dict[str, Any], sends: tuple[str, ...] = (), number: int | None = 1) -> Known:
    """What is known of a checkpoint."""
    return Known(seen, number, sends)


def test_nodes_are_those_that_saw_more() -> None:
    """Those of which versions are new or differ, in their order, then sent ones; LangGraph's own are left out."""
    before = known({"a": {"x": 1}, "b": {"x": 1}, "__start__": {}}, ("sent", "", "__own", "sent"))
    now = known({"c": {}, "b": {"x": 2}, "a": {"x": 1}, "__start__": {"x": 2}, "__interrupt__": {}})
    assert nodes_of(now, "loop", before) == ["c", "b", "sent"]
    assert nodes_of(now, None, before) == ["c", "b", "sent"]
    assert nodes_of(now, "loop", NOTHING) == ["c", "b", "a"]
    assert nodes_of(now, "loop", None) == []
    for source in ("input", "update", "fork"):
        assert nodes_of(now, source, before) == []


@pytest.mark.parametrize(
    ("path", "node"),
    [
        ("", []),
        ("~__pregel_pull, a", ["a"]),
        ("~__pregel_pull, a, b: c", ["a, b: c"]),
        ("~__pregel_pull, ", []),
        ("~__pregel_pull, __start__", []),
        ("~__pregel_pull, a, node_error_handler, 0000000000", []),
        ("~__pregel_push, 0000000000", ["one"]),
        ("~__pregel_push, 0000000002, 0000000000", ["three"]),
        ("~__pregel_push, 0000000001, 0000000000", []),
        ("~__pregel_push, 0000000003, 0000000000", []),
        ("~__pregel_push, 0000000000, node_error_handler, 0000000000", []),
        ("~__pregel_push, ~__pregel_pull, flow, 0000000000, 0000000001", []),
        ("~__pregel_push, -1", []),
        ("~__pregel_push, ", []),
        ("~__interrupt__, 0000000000", []),
        ("of another library", []),
    ],
)
def test_the_writer_by_the_path_of_its_task(path: str, node: list[str]) -> None:
    """A node is reported by its name or by the number of its send; anything else tells none."""
    assert writer_of(path, known({}, ("one", "", "three"))) == node
    assert writer_of(path, None) == (node if "pull" in path else [])


def test_what_is_known_of_a_checkpoint() -> None:
    """Step and sends are taken where they are what LangGraph has there."""

    class Packet:
        def __init__(self, node: Any) -> None:
            self.node = node

    sends = [Packet("a"), "no packet", Packet(3), Packet("b")]
    checkpoint = {"versions_seen": {"a": {}}, "channel_values": {"__pregel_tasks": sends}}
    assert Known.of(checkpoint, {"step": 4}) == Known({"a": {}}, 4, ("a", "", "", "b"))
    for step_given in (None, "4", True, 4.0):
        assert Known.of({"channel_values": {}}, {"step": step_given}) == NOTHING
    assert Known.of({"channel_values": {"__pregel_tasks": 3}}, {}) == NOTHING


def test_the_checkpoints_used_longest_ago_are_forgotten() -> None:
    """A bound holds, whatever is asked for in between, and what is asked for is kept."""
    memory = KnownCheckpoints()
    for number in range(3 * MOST):
        memory.note(("t", "", str(number)), NOTHING)
        assert memory.get(("t", "", "0")) is NOTHING
    assert memory.get(("t", "", str(2 * MOST))) is None
    assert memory.get(("t", "", str(2 * MOST + 1))) is NOTHING
    assert memory.get(("t", "", str(3 * MOST - 1))) is NOTHING


def test_known_checkpoints_from_many_threads() -> None:
    """Threads that note and ask at once do not disturb each other."""
    memory = KnownCheckpoints()
    failures: list[BaseException] = []

    def work(thread: str) -> None:
        try:
            for number in range(4000):
                memory.note((thread, "", str(number)), known({}, number=number))
                for back in (0, 900):
                    found = memory.get((thread, "", str(number - back)))
                    assert found is None or found.step == number - back
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=work, args=(str(number),)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failures == []
    assert len(memory._known) <= MOST

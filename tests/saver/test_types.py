"""What others write into Redis: types that run code, and values without the cipher's mark."""

from __future__ import annotations

import dataclasses
import operator
import sys
from collections.abc import Iterator
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import ormsgpack
import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from eventlog import ActivityFeed
from eventlog.errors import TypeNotAllowed, ValueNotEncrypted
from saver import RedisStreamSaver, StrictSerializer
from saver.migration.migrate import migrate
from tests.saver.agents import ScriptedModel, human
from tests.saver.drivers import Call
from tests.saver.threads import config, follow, step, values_of, writes_of
from tests.servers import Server

KEY = b"0123456789abcdef"
THREAD = config("victim")


class Color(Enum):
    """Of an order."""

    RED = "red"


class Order(BaseModel):
    """A model with an enum in it."""

    name: str
    color: Color = Color.RED


@dataclasses.dataclass
class Point:
    """A dataclass with a decimal in it."""

    x: Decimal


class Answer(BaseModel):
    """What an agent answers."""

    text: str


class ModelState(BaseModel):
    """A state that is a model."""

    order: Order | None = None
    orders: list[Order] = []
    points: dict[str, list[Point]] = {}
    turns: Annotated[int, operator.add] = 0


@dataclasses.dataclass
class DataState:
    """A state that is a dataclass."""

    order: Order | None = None
    points: dict[str, list[Point]] = dataclasses.field(default_factory=dict)
    turns: Annotated[int, operator.add] = 0


class DictState(TypedDict, total=False):
    """A state that is a dictionary."""

    order: Order
    orders: list[Order]
    points: dict[str, list[Point]]
    turns: Annotated[int, operator.add]


class Loose(TypedDict, total=False):
    """A state that does not say what it holds."""

    found: Any


# --- a hostile value, on every server ---


@pytest.fixture
def sprung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is written when the module `sprung_trap` is imported, or its class called."""
    file = tmp_path / "sprung"
    (tmp_path / "sprung_trap.py").write_text(
        f"import pathlib\ndef spring(*args, **kwargs): pathlib.Path({str(file)!r}).write_text('x')\n"
        "class Trap:\n    __init__ = spring\nspring()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield file
    sys.modules.pop("sprung_trap", None)


def is_sprung(file: Path) -> bool:
    """Whether code of the trap ran."""
    return file.exists()


class Planting(JsonPlusSerializer):
    """The serializer of a person who can write to Redis: "HOSTILE" becomes a value that runs code where it is revived."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Returns what is to stand in Redis."""
        if obj == "HOSTILE" or (isinstance(obj, dict) and "HOSTILE" in obj):
            named = ormsgpack.packb(["sprung_trap", "Trap", {}])
            return "msgpack", ormsgpack.packb({"a": [ormsgpack.Ext(2, named)]})
        return super().dumps_typed(obj)


def plant(server: Server, prefix: str, where: str) -> None:
    """Writes a thread of two checkpoints and a write, of which one part is hostile."""
    hostile = {name: "HOSTILE" if name == where else "harmless" for name in ("value", "write")}
    described: dict[str, Any] = {"HOSTILE": 1} if where == "metadata" else {}
    with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, serde=Planting()) as saver:
        first = step({"x": hostile["value"]}, run_id="run", **described)
        named = saver.put(THREAD, *first)
        named = saver.put(named, *follow(first, {"y": 1}, run_id="run", **described))
        saver.put_writes(named, [("x", hostile["write"])], "task")


async def read_all(saver: RedisStreamSaver, server: Server, prefix: str, call: Call) -> dict[str, Exception | None]:
    """What every reading call gives: its error, or None."""
    with ActivityFeed.from_conn_string(server.url, prefix=prefix) as feed:
        activities = list(feed.tail("beginning", follow=False))
    calls: dict[str, Any] = {
        "get_tuple": partial(call, saver, "get_tuple", THREAD),
        "list": partial(call, saver, "list", THREAD),
        "list all": partial(call, saver, "list", None),
        "filter": partial(call, saver, "list", THREAD, filter={"none": 1}),
        "as of": partial(call, saver, "get_tuple_as_of", THREAD, "1"),
        "history": partial(call, saver, "get_delta_channel_history", config=THREAD, channels=["x"]),
        "values": partial(_each, call, saver, activities),
        "replay": partial(_states, call, saver),
    }
    found: dict[str, Exception | None] = {}
    for name, one in calls.items():
        try:
            await one()
            found[name] = None
        except Exception as error:
            found[name] = error
    return found


async def _each(call: Call, saver: RedisStreamSaver, activities: list[Any]) -> None:
    for activity in activities:
        await call(saver, "load_values", activity)


async def _states(call: Call, saver: RedisStreamSaver) -> None:
    for event in await call(saver, "replay", "victim"):
        _ = event.state, getattr(event, "metadata", None)


@pytest.mark.parametrize("where", ["value", "metadata", "write"])
async def test_a_hostile_value_runs_nothing(
    server: Server, prefix: str, saver: RedisStreamSaver, call: Call, where: str, sprung: Path
) -> None:
    """A default saver raises an error that names thread, channel and type, and reads no file's worth of code."""
    plant(server, prefix, where)
    errors = [error for error in (await read_all(saver, server, prefix, call)).values() if error is not None]
    assert errors
    for error in errors:
        assert isinstance(error, TypeNotAllowed), error
        assert error.types == (("sprung_trap", "Trap"),)
        channel = {"value": "'x'", "metadata": "'metadata'", "write": "'x'"}[where]
        for said in ("thread 'victim'", channel, "saver.with_allowlist([('sprung_trap', 'Trap')])"):
            assert said in str(error)
    for upkeep in (("copy_thread", "victim", "copy"), ("prune", ["victim"]), ("delete_for_runs", ["run"])):
        try:
            await call(saver, *upkeep)
        except TypeNotAllowed:
            pass
    assert not is_sprung(sprung)
    assert "sprung_trap" not in sys.modules


async def test_who_trusts_types_runs_them(any_server: Server, prefix: str, call: Call, sprung: Path) -> None:
    """The attack is real: with `trust_types=True` the same read writes the file."""
    plant(any_server, prefix, "value")
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, trust_types=True) as trusting:
        await call(trusting, "get_tuple", THREAD)
    assert is_sprung(sprung)


# --- what an application writes ---


def graph_of(schema: Any, update: Any, checkpointer: Any) -> Any:
    """A graph of one node that returns `update`."""
    builder = StateGraph(schema)
    builder.add_node("node", lambda _: update)
    builder.add_edge(START, "node")
    return builder.compile(checkpointer=checkpointer)


FULL = {"order": Order(name="a"), "points": {"p": [Point(Decimal("1.5"))]}, "turns": 1}


@pytest.mark.parametrize("schema", [ModelState, DataState, DictState])
async def test_types_of_schemas(any_server: Server, prefix: str, call: Call, schema: Any) -> None:
    """Each process compiles its graph, and reads the types of its schema without a word, as with LangGraph's own saver."""
    states = []
    memory = InMemorySaver()
    for turn in range(3):
        with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:
            for checkpointer in (saver, memory):
                graph = graph_of(schema, FULL, checkpointer)
                await call(graph, "invoke", {"turns": 10}, config("t"))
                states.append(await call(graph, "get_state", config("t")))
                assert graph.checkpointer is checkpointer
            assert values_of(await call(saver, "get_tuple", config("t")))["turns"] == 11 * (turn + 1)
    for ours, theirs in zip(states[::2], states[1::2], strict=True):
        assert ours.values == theirs.values
    assert isinstance(states[-2].values["order"], Order)
    assert isinstance(states[-2].values["points"]["p"][0], Point)


class OwnSerializer:
    """A serializer of an application."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Returns form and bytes."""
        return JsonPlusSerializer().dumps_typed(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Returns the value."""
        return JsonPlusSerializer(allowed_msgpack_modules=True).loads_typed(data)


@pytest.mark.parametrize(
    "serde", [JsonPlusSerializer(allowed_msgpack_modules=[("my_app.models", "Invoice")]), OwnSerializer(), None]
)
def test_other_savers_stay_as_they_are(serde: Any, caplog: pytest.LogCaptureFixture) -> None:
    """In a process with this package another saver is no copy, gets no types, and LangGraph says nothing about it."""
    memory = InMemorySaver(serde=serde)
    allowed = getattr(serde, "_allowed_msgpack_modules", None)
    graph = graph_of(DictState, FULL, memory)
    graph.invoke({"turns": 10}, config("t"))
    assert graph.checkpointer is memory
    assert serde is None or memory.serde is serde
    assert getattr(serde, "_allowed_msgpack_modules", None) == allowed
    assert caplog.records == []


def test_a_strict_serializer_in_another_saver() -> None:
    """It gets the types of schemas, too, and stays in its saver."""
    memory = InMemorySaver(serde=StrictSerializer())
    graph = graph_of(DictState, FULL, memory)
    graph.invoke({"turns": 10}, config("t"))
    assert graph.checkpointer is memory
    assert isinstance(graph.get_state(config("t")).values["order"], Order)


def test_types_of_sends_interrupts_and_subgraphs(any_server: Server, prefix: str) -> None:
    """Arguments of nodes, and the state of a graph within a graph, which waits for an answer."""

    def ask(state: DictState) -> Any:
        return {"turns": interrupt({"order": state["order"]})}

    def run(saver: RedisStreamSaver, given: Any) -> Any:
        inner = StateGraph(DictState)
        inner.add_node("make", lambda _: FULL)
        inner.add_node("ask", ask)
        inner.add_edge(START, "make")
        inner.add_edge("make", "ask")
        builder = StateGraph(DictState)
        builder.add_node("work", lambda point: {"turns": int(point.x)}, input_schema=Point)
        builder.add_node("inner", inner.compile())
        builder.add_conditional_edges(START, lambda _: [Send("work", Point(Decimal(4)))], ["work"])
        builder.add_edge("work", "inner")
        return builder.compile(checkpointer=saver, interrupt_before=["work"]).invoke(given, config("t"))

    given: Any
    for given in ({"turns": 0}, None, Command(resume=5)):
        with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:
            found = run(saver, given)
    assert found == {**FULL, "turns": 4 + 4 + 1 + 5}


def test_a_task_of_a_workflow(any_server: Server, prefix: str) -> None:
    """The result of a task is in no schema: the error has the line to add, and with it the workflow goes on."""

    @task
    def count(x: int) -> Point:
        return Point(Decimal(x))

    def run(saver: RedisStreamSaver, given: Any) -> Any:
        @entrypoint(checkpointer=saver)
        def workflow(x: int) -> Any:
            return interrupt(str(count(x).result().x))

        return workflow.invoke(given, config("t"))

    open_saver = partial(RedisStreamSaver.from_conn_string, any_server.url, prefix=prefix)
    with open_saver() as saver:
        run(saver, 3)
    with open_saver() as saver:
        with pytest.raises(TypeNotAllowed, match=r"thread 't'.*'__return__'.*'Point'"):
            run(saver, Command(resume="yes"))
        saver.with_allowlist([Point])
        assert run(saver, Command(resume="yes")) == "yes"


async def test_the_answer_of_an_agent(any_server: Server, prefix: str, call: Call) -> None:
    """A structured response is in no schema either. `with_allowlist` takes effect on the saver and on compiled graphs."""
    answer = {"name": "Answer", "args": {"text": "yes"}, "id": "c", "type": "tool_call"}
    model = ScriptedModel(script=[AIMessage("", id=f"a{n}", tool_calls=[answer]) for n in range(3)])
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:
        agent = create_agent(model, response_format=ToolStrategy(Answer), checkpointer=saver)
        await call(agent, "invoke", {"messages": [human("a")]}, config("t"))
        with pytest.raises(TypeNotAllowed, match="'structured_response'"):
            await call(agent, "invoke", {"messages": [human("b")]}, config("t"))
        assert saver.with_allowlist([(__name__, "Answer")]) is saver
        found = await call(agent, "invoke", {"messages": [human("b")]}, config("t"))
        assert found["structured_response"] == Answer(text="yes")
        assert values_of(await call(saver, "get_tuple", config("t")))["structured_response"] == Answer(text="yes")


def test_a_saver_without_the_graph(any_server: Server, prefix: str) -> None:
    """A process that compiles no graph is refused, and never has a dict in the place of an object."""
    open_saver = partial(RedisStreamSaver.from_conn_string, any_server.url, prefix=prefix)
    with open_saver() as saver:
        graph_of(ModelState, FULL, saver).invoke({"turns": 1}, config("t"))
    with open_saver() as saver:
        with pytest.raises(TypeNotAllowed) as caught:
            saver.get_tuple(config("t"))
        saver.with_allowlist(caught.value.types)
        with pytest.raises(TypeNotAllowed, match="'points'"):
            saver.get_tuple(config("t"))
        assert values_of(saver.with_allowlist([Point]).get_tuple(config("t")))["order"] == Order(name="a")
    with open_saver(trust_types=True) as saver:
        assert values_of(saver.get_tuple(config("t")))["order"] == Order(name="a")


def test_a_serializer_of_the_caller_stays_as_it_is(any_server: Server, prefix: str) -> None:
    """It decides itself what it trusts, and LangGraph's lists of types do not replace it."""
    own: Any = OwnSerializer()
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, serde=own) as saver:
        graph = graph_of(Loose, {"found": Point(Decimal(1))}, saver)
        graph.invoke({}, config("t"))
        assert graph.get_state(config("t")).values == {"found": Point(Decimal(1))}
        assert graph.checkpointer is saver
        assert saver.serde is own


# --- encryption ---


def aes(inner: Any = None) -> EncryptedSerializer:
    """Encryption over a serializer that revives listed types only, as the documents show it."""
    return EncryptedSerializer.from_pycryptodome_aes(inner or StrictSerializer(), key=KEY)


@pytest.mark.parametrize("where", ["value", "metadata", "write", "nowhere"])
async def test_plaintext_under_encryption(server: Server, prefix: str, call: Call, where: str, sprung: Path) -> None:
    """A value without the cipher's mark is refused in every read, and nothing of it is deserialized."""
    plant(server, prefix, where)
    with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, serde=aes(JsonPlusSerializer())) as saver:
        for name, error in (await read_all(saver, server, prefix, call)).items():
            assert isinstance(error, ValueNotEncrypted), (name, error)
            assert "thread 'victim'" in str(error)
            assert "accept_plaintext=True" in str(error)
        await call(saver, "copy_thread", "victim", "copy")
        with pytest.raises(ValueNotEncrypted, match="thread 'copy'"):
            await call(saver, "get_tuple", config("copy"))
        with pytest.raises(ValueNotEncrypted):
            await call(saver, "delete_for_runs", ["run"])
    assert not is_sprung(sprung)


async def test_one_planted_value_among_encrypted_ones(any_server: Server, prefix: str, call: Call) -> None:
    """A saver that encrypts tells the one value that another wrote in the clear."""
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, serde=aes()) as saver:
        named = saver.put(config("t"), *step({"x": [1]}, note="kept"))
        found = await call(saver, "get_tuple", config("t"))
        assert (values_of(found), found.metadata["note"]) == ({"x": [1]}, "kept")
        with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as other:
            other.put_writes(named, [("x", "planted")], "task")
        with pytest.raises(ValueNotEncrypted, match="thread 't'.*'x' is not encrypted"):
            await call(saver, "get_tuple", config("t"))


async def test_threads_from_before_encryption(any_server: Server, prefix: str, call: Call) -> None:
    """With `accept_plaintext=True` they are read and continued, and what is written from then on is encrypted."""
    open_saver = partial(RedisStreamSaver.from_conn_string, any_server.url, prefix=prefix)
    with open_saver() as before:
        first = step({"x": ["old"], "z": None}, note="old")
        before.put(config("t"), *first)
    with open_saver(serde=aes(), accept_plaintext=True) as saver:
        found = await call(saver, "get_tuple", config("t"))
        assert (values_of(found), found.metadata["note"]) == ({"x": ["old"], "z": None}, "old")
        latest = await call(saver, "put", found.config, *follow(first, {"x": ["new"], "z": None}))
        await call(saver, "put_writes", latest, [("x", "written")], "task")
    with open_saver(serde=aes()) as saver:
        found = await call(saver, "get_tuple", config("t"))
        assert values_of(found) == {"x": ["new"], "z": None}
        assert writes_of(found) == [("task", "x", "written")]
        with pytest.raises(ValueNotEncrypted, match="'checkpoint' is not encrypted"):
            await call(saver, "list", config("t"))


def test_a_copy_encrypts(any_server: Server, prefix: str) -> None:
    """Threads from before encryption are copied with all of their history, and the copy needs no plaintext."""
    open_saver = partial(RedisStreamSaver.from_conn_string, any_server.url)
    with open_saver(prefix=f"{prefix}old") as old, open_saver(prefix=f"{prefix}new", serde=aes()) as new:
        first = step({"x": ["a"]}, note="old")
        named = old.put(config("t"), *first)
        named = old.put(named, *follow(first, {"x": ["b"]}, note="old"))
        old.put_writes(named, [("x", "c")], "task")
        assert migrate(old, new).differing == 0
        assert [values_of(found)["x"] for found in new.list(config("t"))] == [["b"], ["a"]]
        assert writes_of(new.get_tuple(config("t"))) == [("task", "x", "c")]


def test_types_under_encryption(any_server: Server, prefix: str) -> None:
    """The inner serializer refuses types, and takes those of graphs and of `with_allowlist`."""
    open_saver = partial(RedisStreamSaver.from_conn_string, any_server.url, prefix=prefix)
    with open_saver(serde=aes()) as saver:
        graph_of(Loose, {"found": Point(Decimal(1))}, saver).invoke({}, config("t"))
        with pytest.raises(TypeNotAllowed, match="'found'.*'Point'"):
            saver.get_tuple(config("t"))
        assert values_of(saver.with_allowlist([Point]).get_tuple(config("t"))) == {"found": Point(Decimal(1))}
    with open_saver(serde=aes()) as saver:
        graph = graph_of(ModelState, FULL, saver)
        graph.invoke({"turns": 1}, config("u"))
        assert graph.get_state(config("u")).values["order"] == Order(name="a")


class Marking:
    """A serializer of another maker with a cipher, which marks its types, or does not."""

    def __init__(self, mark: str) -> None:
        self.cipher = "reversed"
        self.mark = mark

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Returns bytes in another order."""
        form, data = StrictSerializer().dumps_typed(obj)
        return form + self.mark, data[::-1]

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Returns the value."""
        return StrictSerializer().loads_typed((data[0].removesuffix(self.mark), data[1][::-1]))


async def test_ciphers_of_other_makers(any_server: Server, prefix: str, call: Call) -> None:
    """If they mark what they encrypt as LangGraph's does, the mark is needed. Otherwise all is read."""
    open_saver = partial(RedisStreamSaver.from_conn_string, any_server.url, prefix=prefix)
    for mark, thread in (("+reversed", "marked"), ("", "unmarked")):
        with open_saver(serde=Marking(mark)) as saver:
            named = saver.put(config(thread), *step({"x": [1]}, note="kept"))
            found = await call(saver, "get_tuple", config(thread))
            assert (values_of(found), found.metadata["note"]) == ({"x": [1]}, "kept")
            if mark:
                with open_saver() as other:
                    other.put_writes(named, [("x", "planted")], "task")
                with pytest.raises(ValueNotEncrypted):
                    await call(saver, "get_tuple", config(thread))


def test_flags_that_are_none(any_server: Server) -> None:
    """A text is no bool: "false" would be true."""
    with pytest.raises(TypeError, match="accept_plaintext must be True or False"):
        RedisStreamSaver.from_conn_string(any_server.url, accept_plaintext="false")  # type: ignore[arg-type]

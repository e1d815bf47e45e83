"""The default serializer: what it revives, and that it imports and calls nothing else."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import ipaddress
import json
import logging
import pathlib
import re
import sys
import zoneinfo
from collections import deque
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.agents import AgentAction, AgentFinish
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompt_values import ChatPromptValue
from langgraph._internal import _serde
from langgraph.checkpoint.serde import jsonplus
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.store.base import Item
from langgraph.types import Command, Interrupt, Overwrite, Send
from pydantic import BaseModel, Field, RootModel, SecretStr, field_validator

from eventlog.errors import InvalidArgument, TypeNotAllowed
from saver.options import SaverOptions, serializer_of
from saver.serializer import TRUSTED, StrictSerializer, _ask_for_the_types_of_schemas, takes_allowlist

TRUSTING = JsonPlusSerializer(allowed_msgpack_modules=True)
WHEN = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc)


class Color(Enum):
    """Of an order."""

    RED = "red"


class Order(BaseModel):
    """A model that holds others."""

    name: str
    color: Color = Color.RED
    parts: list[Order] = []


class Changed(BaseModel):
    """A model that refuses what it once was, as after a change of its rules."""

    name: str
    order: Order | None = None

    @field_validator("name")
    @classmethod
    def never(cls, value: str) -> str:
        """Refuses all."""
        raise ValueError(value)


class Nested(BaseModel):
    """A model whose constructor takes another name than it has."""

    order: Order = Field(alias="theOrder")


class Tags(RootModel[list[str]]):
    """A model around a list."""


class Named(RootModel[dict[str, Order]]):
    """A model around a dictionary."""


@dataclasses.dataclass
class Point:
    """A point with something in it."""

    x: int
    y: Any = None


class Pair(NamedTuple):
    """A named tuple."""

    a: int
    b: str


class Outer:
    """A place for a class."""

    @dataclasses.dataclass
    class Inner:
        """A class that its name does not find."""

        x: int = 1

    class Kind(Enum):
        """Another."""

        A = 1

    class Model(BaseModel):
        """One more."""

        x: int


@dataclasses.dataclass(init=False)
class Later:
    """A class whose constructor takes another name than is written."""

    x: int

    def __init__(self, given: int) -> None:
        self.x = given


@dataclasses.dataclass
class Partly:
    """A class that does not take all that is written of it."""

    x: int
    y: int = dataclasses.field(init=False, default=2)


class Moment(datetime.datetime):
    """A datetime of another kind."""


OWN = [Color, Order, Point, Pair, Changed, Moment, Partly]

COMMON: list[Any] = [
    None,
    b"bytes",
    bytearray(b"bytes"),
    {"a": [1, 2.5, "text", True, None], 3: (4, 5)},
    WHEN,
    WHEN.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    WHEN.date(),
    datetime.time(1, 2, 3, tzinfo=datetime.timezone.utc),
    datetime.timedelta(1, 2, 3),
    datetime.timezone(datetime.timedelta(hours=2)),
    UUID(int=7),
    Decimal("1.10"),
    {1, 2},
    frozenset("a"),
    deque([1, 2]),
    pathlib.Path("/a/b"),
    re.compile("a.b", re.IGNORECASE),
    ipaddress.ip_address("10.0.0.1"),
    ipaddress.ip_network("fd00::/8"),
    zoneinfo.ZoneInfo("Europe/Berlin"),
    ValueError("written as text"),
    SecretStr("hidden"),
    [
        HumanMessage("a", id="1"),
        AIMessage("b", id="2", tool_calls=[{"name": "t", "args": {"x": 1}, "id": "c", "type": "tool_call"}]),
        ToolMessage("c", tool_call_id="c", artifact=[Document("d", metadata={"when": WHEN})]),
        SystemMessage("d"),
        FunctionMessage(content="e", name="f"),
        ChatMessage(content="f", role="g"),
        RemoveMessage(id="1"),
        AIMessageChunk(content="h"),
    ],
    Document("text", metadata={"id": UUID(int=1)}),
    AgentAction(tool="t", tool_input="i", log="l"),
    AgentFinish(return_values={"a": 1}, log="l"),
    ChatPromptValue(messages=[HumanMessage("a")]),
    Send("node", {"x": HumanMessage("a")}),
    Send("node", 1, timeout=30),
    Command(update={"a": 1}, resume="yes", goto=["b"]),
    Interrupt(value={"ask": "?"}, id="i"),
    Overwrite([1]),
    Item(value={"a": 1}, key="k", namespace=("n",), created_at=WHEN, updated_at=WHEN),
    _DeltaSnapshot([HumanMessage("a")]),
]


@pytest.mark.parametrize("value", COMMON, ids=lambda value: type(value).__name__)
def test_common_values(value: Any) -> None:
    """Values of Python, LangChain and LangGraph are written and read as LangGraph's serializer does it."""
    strict = StrictSerializer()
    written = strict.dumps_typed(value)
    assert written == TRUSTING.dumps_typed(value)
    found, expected = strict.loads_typed(written), TRUSTING.loads_typed(written)
    assert repr(found) == repr(expected)
    assert type(found) is type(expected)


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays(order: Any) -> None:
    """An array comes back with shape, type and order. One that cannot be read is an error, and not None."""
    numpy = pytest.importorskip("numpy")
    strict, array = StrictSerializer(), numpy.asarray([[1, 2, 3], [4, 5, 6]], dtype="int16", order=order)
    found = strict.loads_typed(strict.dumps_typed([array]))[0]
    assert (found.tolist(), found.dtype, found.flags.c_contiguous) == (array.tolist(), array.dtype, order == "C")
    unreadable = strict.dumps_typed(numpy.asarray([{"an": "object"}], dtype=object))
    with pytest.raises(ValueError, match="OBJECT"):
        strict.loads_typed(unreadable)


def test_own_types() -> None:
    """Types of an application are refused by name, all of a value at once, and revived once they are allowed."""
    strict = StrictSerializer()
    value = [Order(name="a", parts=[Order(name="b")]), Point(1, Pair(1, "b")), {"when": Moment(2024, 1, 1)}]
    written = strict.dumps_typed(value)
    with pytest.raises(TypeNotAllowed) as caught:
        strict.loads_typed(written)
    assert set(caught.value.types) == {(__name__, one.__name__) for one in (Color, Order, Point, Pair, Moment)}
    line = re.search(r"saver\.with_allowlist\((\[.*?\])\)", str(caught.value))
    assert line is not None
    assert strict.with_msgpack_allowlist(eval(line[1])) is strict
    assert repr(strict.loads_typed(written)) == repr(value)
    assert repr(StrictSerializer(OWN).loads_typed(written)) == repr(value)


def test_a_model_whose_rules_changed() -> None:
    """It comes back without validation, as from LangGraph's serializer, if its parts have the right types."""
    strict = StrictSerializer([*OWN, Nested])
    plain = Changed.model_construct(name="a", order=None)
    assert strict.loads_typed(TRUSTING.dumps_typed(plain)) == plain
    nested = TRUSTING.dumps_typed(Changed.model_construct(name="a", order=Order(name="b")))
    assert type(TRUSTING.loads_typed(nested).order) is dict
    with pytest.raises(ValueError, match="Changed cannot be made again"):
        strict.loads_typed(nested)


def test_models_of_other_shapes() -> None:
    """One with aliases keeps the models in it, and one around a list stays what it is. LangGraph returns dicts and a list."""
    strict = StrictSerializer([*OWN, Nested, Tags, Named])
    for value in (Nested(theOrder=Order(name="a")), Tags(["a"]), Named({"a": Order(name="b")})):
        assert strict.loads_typed(TRUSTING.dumps_typed(value)) == value


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Pydantic 1 does not work there")
def test_models_of_pydantic_1() -> None:
    """They come back, without validation where it fails."""
    from pydantic.v1 import BaseModel as EarlyModel

    class Early(EarlyModel):
        name: str

    strict = StrictSerializer([Early])
    for value in (Early(name="a"), Early.construct(name=["not", "text"])):
        assert strict.loads_typed(TRUSTING.dumps_typed(value)) == value


@pytest.mark.parametrize("value", [Outer.Inner(), Later(1)], ids=["within a class", "another constructor"])
def test_what_cannot_be_made_again_is_an_error(value: Any) -> None:
    """LangGraph's serializer returns its parts, so that a state has another type without a word."""
    written = TRUSTING.dumps_typed([value])
    assert type(TRUSTING.loads_typed(written)[0]) is dict
    with pytest.raises(ValueError, match="cannot be made again"):
        StrictSerializer([(__name__, type(value).__name__)]).loads_typed(written)


@pytest.mark.parametrize("value", [Outer.Inner(2), Partly(1), Outer.Kind.A, Outer.Model(x=1)])
def test_what_langgraph_does_not_make_again(value: Any) -> None:
    """A class within a class that is allowed as a class, and a dataclass with fields beyond its constructor, come back whole."""
    if isinstance(value, Partly):
        value.y = 7
    written = TRUSTING.dumps_typed([value])
    assert TRUSTING.loads_typed(written) != [value]
    strict = StrictSerializer([type(value)])
    assert strict.loads_typed(written) == [value]
    strict.with_msgpack_allowlist([(__name__, type(value).__name__)])  # as LangGraph hands it over, again and again
    assert strict.loads_typed(written) == [value]


def ext(code: int, *parts: Any) -> Any:
    """An extension as a person who writes to Redis may make it."""
    return ormsgpack.Ext(code, ormsgpack.packb(list(parts)))


@pytest.fixture
def trap(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A file that a module writes when it is imported, and when its class is called or asked."""
    sprung = tmp_path / "sprung"
    (tmp_path / "trapped.py").write_text(
        f"import pathlib\ndef spring(*args, **kwargs): pathlib.Path({str(sprung)!r}).write_text('x')\n"
        "class Trap:\n    __init__ = model_construct = construct = fromisoformat = spring\nspring()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trapped", raising=False)
    return sprung


HOSTILE = {
    "one argument": ext(0, "trapped", "Trap", "x"),
    "arguments": ext(1, "trapped", "Trap", ["x"]),
    "keywords": ext(2, "trapped", "Trap", {"x": 1}),
    "a method": ext(3, "trapped", "Trap", "x", "fromisoformat"),
    "a model of Pydantic 1": ext(4, "trapped", "Trap", {"x": 1}),
    "a model of Pydantic 2": ext(5, "trapped", "Trap", {"x": 1}, "model_validate_json"),
    "within a snapshot": ormsgpack.Ext(7, ormsgpack.packb(ext(0, "trapped", "Trap", "x"))),
    "within a message": ext(
        5, "langchain_core.messages.human", "HumanMessage", {"content": "a", "artifact": ext(0, "trapped", "Trap", 1)}
    ),
    "a function": ext(0, "os", "system", "true"),
    "eval": ext(0, "builtins", "eval", "1"),
    "a model with a connection": ext(5, "langchain_openai", "ChatOpenAI", {"base_url": "http://evil"}),
    "a prompt": ext(5, "langchain_core.prompts.prompt", "PromptTemplate", {"template": "x"}),
    "a path to read": ext(5, "langchain_core.documents.base", "Blob", {"path": "/etc/passwd"}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_else_is_imported_or_called(kind: str, trap: pathlib.Path) -> None:
    """A value that names another type is refused, in every form that LangGraph revives and wherever it stands."""
    for value in (HOSTILE[kind], [{"a": HOSTILE[kind]}], [ext(0, "trapped", "Other", 1), HOSTILE[kind]]):
        with pytest.raises(TypeNotAllowed, match="nothing of them was imported or called"):
            StrictSerializer(OWN).loads_typed(("msgpack", ormsgpack.packb(value)))
    assert not trap.exists()
    assert "trapped" not in sys.modules


def test_a_refused_type_before_a_damaged_part() -> None:
    """The refused type is the error, since it may be why the rest makes no sense."""
    damaged = [ext(0, "trapped", "Trap", 1), ormsgpack.Ext(99, b"")]
    with pytest.raises(TypeNotAllowed):
        StrictSerializer().loads_typed(("msgpack", ormsgpack.packb(damaged)))


def test_the_trap_works(trap: pathlib.Path) -> None:
    """LangGraph's serializer, which a saver with `trust_types=True` uses, springs it."""
    serde = serializer_of({"trust_types": True})
    serde.loads_typed(("msgpack", ormsgpack.packb(HOSTILE["one argument"])))
    assert trap.exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (ext(3, "pathlib", "Path", "/tmp/x", "unlink"), "calls the method"),
        (ext(3, "datetime", "datetime", "now", "strptime"), "calls the method"),
        (ext(0, ["os"], "system", 1), "other than text"),
        (ext(0, "os"), "not enough values"),
        (ext(0), "."),
        (ormsgpack.Ext(0, b"\xc1"), "invalid"),
        (ormsgpack.Ext(0, ormsgpack.packb(5)), "."),
        (ormsgpack.Ext(6, ormsgpack.packb(["O", [1], "C", b"12345678"])), "."),
        (ormsgpack.Ext(99, ormsgpack.packb(None)), "extension 99"),
        (ext(0, "decimal", "Decimal", "none"), "cannot be made again"),
        (ext(0, "datetime", "nothing", 1), "nothing of them was"),
    ],
)
def test_other_forms_are_errors(value: Any, says: str) -> None:
    """What no serializer writes is an error, and never None or a part of the value."""
    with pytest.raises(ValueError, match=says):
        StrictSerializer().loads_typed(("msgpack", ormsgpack.packb([value])))


def test_paths_of_another_python() -> None:
    """Python 3.13 writes another module for them."""
    written = ormsgpack.packb(ext(1, "pathlib._local", "PosixPath", ["/", "a"]))
    assert StrictSerializer().loads_typed(("msgpack", written)) == pathlib.Path("/a")


def test_depth_is_an_error() -> None:
    """A value within itself many thousand times does not end the process."""
    value: Any = 1
    for _ in range(3000):
        value = ormsgpack.Ext(7, ormsgpack.packb(value))
    with pytest.raises((ValueError, RecursionError)):
        StrictSerializer().loads_typed(("msgpack", ormsgpack.packb(value)))


def test_names_from_attackers_are_quoted() -> None:
    """A name cannot steer a terminal, forge a line, or fill a log."""
    names = [ext(0, f"evil\x1b[2J\n{n}", "n" * 5000, 1) for n in range(50)]
    with pytest.raises(TypeNotAllowed) as caught:
        StrictSerializer().loads_typed(("msgpack", ormsgpack.packb(names)))
    assert str(caught.value).isprintable()
    assert "and 40 more" in str(caught.value)
    assert len(str(caught.value)) < 4000
    assert len(caught.value.types) == 50


def lc(*path: Any, version: int = 1, **rest: Any) -> dict[str, Any]:
    """An object in the JSON of early versions."""
    return {"lc": version, "type": "constructor", "id": list(path), **rest}


def test_early_json() -> None:
    """Values that early versions of LangGraph wrote as JSON are read, if their types are listed."""
    value = {
        "messages": [
            lc("langchain", "schema", "messages", "HumanMessage", kwargs={"content": "a"}),
            lc("langchain_core", "messages", "ai", "AIMessage", kwargs={"content": "b"}),
        ],
        "when": lc("datetime", "timedelta", version=2, args=[1, 2, 3]),
        "some": lc("builtins", "set", version=2, args=[[1, 2]]),
        "plain": {"lc": 3, "id": ["x"], "type": "constructor"},
    }
    found = StrictSerializer().loads_typed(("json", json.dumps(value).encode()))
    assert found == {
        "messages": [HumanMessage("a"), AIMessage("b")],
        "when": datetime.timedelta(1, 2, 3),
        "some": {1, 2},
        "plain": value["plain"],
    }


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (lc("trapped", "Trap", version=2), TypeNotAllowed),
        (lc("trapped", "Trap", version=2, method=["spring"]), TypeNotAllowed),
        (lc("langchain_core", "prompts", "prompt", "PromptTemplate", kwargs={"template": "x"}), TypeNotAllowed),
        (lc("langchain", "prompts", "prompt", "PromptTemplate", kwargs={"template": "x"}), TypeNotAllowed),
        ({"lc": 1, "type": "secret", "id": ["HOME"]}, ValueError),
        ({"lc": 1, "type": "not_implemented", "id": ["a", "b"], "repr": "x"}, ValueError),
        ({"lc": 2, "type": "constructor", "id": "os.system"}, ValueError),
        (lc("alone"), ValueError),
        (lc(["os"], "system"), ValueError),
        (lc("builtins", "set", version=2, args=5), ValueError),
    ],
)
def test_hostile_json(value: Any, error: type[Exception], trap: pathlib.Path) -> None:
    """Other types, secrets of the environment and methods are refused in JSON as well."""
    with pytest.raises(error):
        StrictSerializer().loads_typed(("json", json.dumps([value]).encode()))
    assert not trap.exists()


def test_pickles_are_refused() -> None:
    """Pickles run code by their nature."""
    with pytest.raises(NotImplementedError, match="pickle"):
        StrictSerializer().loads_typed(("pickle", b"cos\nsystem\n(S'true'\ntR."))


@given(st.integers(0, 8), st.recursive(st.none() | st.integers(0, 9) | st.text() | st.binary(), st.lists, max_leaves=8))
def test_any_extension(code: int, content: Any) -> None:
    """Any content of an extension gives a value or a `ValueError`."""
    for data in (ormsgpack.packb(content), content if isinstance(content, bytes) else b""):
        try:
            StrictSerializer().loads_typed(("msgpack", ormsgpack.packb(ormsgpack.Ext(code, data))))
        except ValueError:
            pass


def test_every_extension_is_known() -> None:
    """A newer LangGraph with another form of values would show here."""
    known = {name: value for name, value in vars(jsonplus).items() if name.startswith("EXT_")}
    assert set(known.values()) == set(range(8))


def test_trusted_types_are_data() -> None:
    """Every type of our own list that is installed is a model or a dataclass, and none reads a file or an address."""
    for module, name in TRUSTED - SAFE_MSGPACK_TYPES:
        if module.partition(".")[0] in ("langchain_core", "pydantic"):
            found = getattr(importlib.import_module(module), name)
            assert isinstance(found, type)
            assert issubclass(found, BaseModel) or module == "pydantic.types"
    assert not any("prompts" in module or name == "Blob" for module, name in TRUSTED)


def test_a_warning_comes_with_the_first_write(caplog: pytest.LogCaptureFixture) -> None:
    """Who writes a type that would be refused learns it at once and once, not in the process that resumes."""
    strict = StrictSerializer([Color])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for value in (Order(name="a"), [Order(name="a")], {"a": Color.RED}, [1, "a"], HumanMessage("a")):
                strict.dumps_typed(value)
    (record,) = caplog.records
    assert f"saver.with_allowlist([('{__name__}', 'Order')])" in record.getMessage()


def test_types_that_were_written_are_forgotten_in_time() -> None:
    """A process that makes types without end keeps a bounded number of them."""
    strict = StrictSerializer()
    for n in range(2500):
        strict.dumps_typed(type(f"Text{n}", (str,), {})("a"))
    assert len(strict._written) < 1100


def test_without_langgraph(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """LangGraph is not a dependency: without it there is nothing to ask, and nothing is said."""
    monkeypatch.setattr("saver.serializer.find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "langgraph._internal._serde", None)
    _ask_for_the_types_of_schemas()
    assert caplog.records == []


@pytest.mark.parametrize("missing", ["STRICT_MSGPACK_ENABLED", "apply_checkpointer_allowlist", "the module"])
def test_another_langgraph(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: str) -> None:
    """A LangGraph that changed inside is left as it is, and a warning names the line that is needed then."""
    monkeypatch.setattr(_serde, "STRICT_MSGPACK_ENABLED", False)
    if missing == "the module":
        monkeypatch.setitem(sys.modules, "langgraph._internal._serde", None)
    else:
        monkeypatch.delattr(_serde, missing)
    before = dict(vars(_serde))
    _ask_for_the_types_of_schemas()
    assert dict(vars(_serde)) == before
    assert "saver.with_allowlist" in caplog.text


def test_the_types_of_schemas_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag is set, and where the environment sets it already, nothing is changed."""
    handing_over = vars(_serde)["apply_checkpointer_allowlist"]
    monkeypatch.setattr(_serde, "apply_checkpointer_allowlist", handing_over)  # and put back in the end
    monkeypatch.setattr(_serde, "STRICT_MSGPACK_ENABLED", False)
    _ask_for_the_types_of_schemas()
    assert vars(_serde)["STRICT_MSGPACK_ENABLED"] is True
    asked = vars(_serde)["apply_checkpointer_allowlist"]
    assert asked is not handing_over
    _ask_for_the_types_of_schemas()
    assert vars(_serde)["apply_checkpointer_allowlist"] is asked


def test_which_serializers_take_an_allow_list() -> None:
    """Those of LangGraph do, and those that it encrypts for."""
    strict = StrictSerializer()
    encrypting = EncryptedSerializer.from_pycryptodome_aes(strict, key=b"k" * 16)
    assert takes_allowlist(strict)
    assert takes_allowlist(encrypting)
    assert not takes_allowlist(object())


@pytest.mark.parametrize("wrong", ["my_app.Order", ("my_app", "models", "Order"), ("my_app",), (1, 2), 5, None])
def test_types_that_cannot_be_allowed(wrong: Any) -> None:
    """A name in another form would allow nothing, and is refused."""
    with pytest.raises(InvalidArgument, match=r"\('module', 'Name'\)"):
        StrictSerializer().with_msgpack_allowlist([wrong])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"trust_types": "yes"}, TypeError),
        ({"trust_types": True, "serde": StrictSerializer()}, ValueError),
        ({"serde": object()}, TypeError),
    ],
)
def test_options_that_cannot_be(options: SaverOptions, error: type[Exception]) -> None:
    """A trust that is no bool, or that a serializer of the caller's own would not see."""
    with pytest.raises(error):
        serializer_of(options)

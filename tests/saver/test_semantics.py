"""Values, serializers and versions: what comes back is what went in, and what is encrypted stays so."""

from __future__ import annotations

import dataclasses
import enum
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from eventlog.errors import ValueUnreadable
from saver import RedisStreamSaver
from saver.versions import next_version
from tests.saver.drivers import Call
from tests.saver.threads import config, follow, keys_of, keys_under, step, values_of, writes_of
from tests.servers import Client, Server

pytestmark = pytest.mark.telling

KEY = b"0123456789abcdef"
PLANTED = [b"PLANTED-VALUE", b"PLANTED-METADATA", b"PLANTED-WRITE", b"PLANTED-KEY", b"PLANTED-CONFIG"]

Open = Callable[..., RedisStreamSaver]


@pytest.fixture
def on(any_server: Server, prefix: str) -> Iterator[Open]:
    """Savers with a serializer of their own, closed after the test."""
    opened: list[RedisStreamSaver] = []

    def open_saver(serde: Any = None) -> RedisStreamSaver:
        opened.append(RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, serde=serde))
        return opened[-1]

    yield open_saver
    for saver in opened:
        saver.close()


def aes(key: bytes = KEY) -> EncryptedSerializer:
    """LangGraph's own encryption."""
    return EncryptedSerializer.from_pycryptodome_aes(key=key)


async def put_secrets(call: Call, saver: Any) -> Any:
    """Put two checkpoints with secrets wherever an application may have them; the config of the latest."""
    named = config("thread-may-be-read")
    named["configurable"]["api_key"] = "PLANTED-CONFIG"
    first = step({"x": ["PLANTED-VALUE"]}, note="PLANTED-METADATA", nested={"PLANTED-KEY": ["PLANTED-METADATA"]})
    before = await call(saver, "put", named, *first)
    latest = await call(saver, "put", before, *follow(first, {"y": {"PLANTED-KEY": b"PLANTED-VALUE"}}, note="short"))
    await call(saver, "put_writes", latest, [("x", "PLANTED-WRITE"), ("__error__", "PLANTED-WRITE")], "task", "path")
    await call(saver, "put_writes", config("thread-may-be-read", "", "early"), [("x", "PLANTED-WRITE")], "task")
    return latest


def everything(server: Server, prefix: str) -> bytes:
    """The bytes of every key of a prefix, names included."""
    with server.client() as client:
        return b"\n".join(part for key in sorted(keys_under(server, prefix)) for part in (key, *_contents(client, key)))


def _contents(client: Client, key: bytes) -> Iterator[bytes]:
    found: Any = client
    match found.type(key):
        case b"hash":
            for item in found.hgetall(key).items():
                yield from item
        case b"zset":
            yield from found.zrange(key, 0, -1)
        case b"stream":
            for _, fields in found.xrange(key):
                yield from (part for item in fields.items() for part in item)
        case kind:
            raise AssertionError(f"{key!r} is a {kind!r}")


async def test_encrypted(any_server: Server, prefix: str, on: Open, call: Call) -> None:
    """With an encrypting serializer values, metadata and writes come back exactly, and no key holds them in the clear."""
    saver = on(aes())
    latest = await put_secrets(call, saver)
    for named in (config("thread-may-be-read"), latest):
        found = await call(saver, "get_tuple", named)
        assert values_of(found) == {"x": ["PLANTED-VALUE"], "y": {"PLANTED-KEY": b"PLANTED-VALUE"}}
        assert writes_of(found) == [("task", "__error__", "PLANTED-WRITE"), ("task", "x", "PLANTED-WRITE")]
        assert found.metadata["note"] == "short"
    (matching,) = await call(saver, "list", config("thread-may-be-read"), filter={"note": "PLANTED-METADATA"})
    assert matching.metadata["nested"] == {"PLANTED-KEY": ["PLANTED-METADATA"]}
    await call(saver, "copy_thread", "thread-may-be-read", "copy")
    await call(saver, "prune", ["copy"])
    stored = everything(any_server, prefix)
    assert b"thread-may-be-read" in stored
    assert [secret for secret in PLANTED if secret in stored] == []


async def test_search_finds_what_is_in_the_clear(any_server: Server, prefix: str, on: Open, call: Call) -> None:
    """The search above would find all of it if it were not encrypted."""
    await put_secrets(call, on())
    stored = everything(any_server, prefix)
    assert [secret for secret in PLANTED if secret not in stored] == []


async def test_wrong_key(on: Open, call: Call) -> None:
    """With another key, or none, values are unreadable: an error by thread, not an empty state; writing on is possible."""
    latest = await put_secrets(call, on(aes()))
    for serde in (aes(b"another key, 16b"), None):
        saver = on(serde)
        for method, arguments in (("get_tuple", latest), ("get_tuple", config("thread-may-be-read")), ("list", latest)):
            with pytest.raises(ValueUnreadable, match="'thread-may-be-read'.*serde") as caught:
                await call(saver, method, arguments)
            assert caught.value.__cause__ is not None
        with pytest.raises(ValueUnreadable, match="'thread-may-be-read'"):
            await call(saver, "get_delta_channel_history", config=latest, channels=["x"])
    assert values_of(await call(on(aes()), "get_tuple", latest))["x"] == ["PLANTED-VALUE"]


class Untyped:
    """A serializer as LangGraph's first ones were: no types beside the bytes."""

    def dumps(self, obj: Any) -> bytes:
        """JSON, backwards, so that nothing else reads it by chance."""
        return json.dumps(obj).encode()[::-1]

    def loads(self, data: bytes) -> Any:
        """What `dumps` was given."""
        return json.loads(data[::-1])


async def test_untyped_serializer(on: Open, call: Call) -> None:
    """A serializer with `dumps` and `loads` alone serves for values, writes and metadata."""
    saver = on(Untyped())
    latest = await call(saver, "put", config("t"), *step({"x": {"a": [1, None]}}, note="kept"))
    await call(saver, "put_writes", latest, [("x", "é")], "task")
    found = await call(saver, "get_tuple", config("t"))
    assert (values_of(found), writes_of(found)) == ({"x": {"a": [1, None]}}, [("task", "x", "é")])
    assert found.metadata == {"source": "loop", "step": 1, "note": "kept"}
    assert len(await call(saver, "list", config("t"), filter={"note": "kept"})) == 1
    with pytest.raises(ValueUnreadable, match="'t'"):
        await call(on(), "get_tuple", config("t"))


class Colour(enum.Enum):
    """An enum of an application."""

    RED = "red"


@dataclasses.dataclass
class Point:
    """A dataclass of an application."""

    x: int
    y: Decimal


class Order(pydantic.BaseModel):
    """A model of an application."""

    id: uuid.UUID
    at: datetime
    lines: list[str]


ALLOWED = [(one.__module__, one.__name__) for one in (Colour, Point, Order)]
VALUES: dict[str, Any] = {
    "decimal": Decimal("0.10"),
    "aware": datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    "naive": datetime(2024, 2, 29),  # noqa: DTZ001
    "date": date(2024, 2, 29),
    "timedelta": timedelta(days=-1, microseconds=1),
    "uuid": uuid.UUID(int=7),
    "set": {1, "a"},
    "frozenset": frozenset({1}),
    "tuple": (1, (2,)),
    "bytes": b"\0\xff",
    "bytearray": bytearray(b"\0\xff"),
    "int keys": {1: "a", "1": "b"},
    "large ints": [2**63, -(2**63), 2**64 - 1],
    "floats": [0.1, float("inf"), -0.0],
    "bools": [True, False, 1, 0],
    "enum": Colour.RED,
    "dataclass": Point(1, Decimal("2.50")),
    "model": Order(id=uuid.UUID(int=1), at=datetime(2024, 1, 1, tzinfo=timezone.utc), lines=["a"]),
    "messages": [
        HumanMessage("hi", id="1"),
        AIMessage("", id="2", tool_calls=[{"name": "f", "args": {"x": 1}, "id": "c", "type": "tool_call"}]),
        ToolMessage("3", tool_call_id="c", id="3"),
    ],
}


@pytest.mark.parametrize("name", VALUES)
async def test_exact_types(on: Open, call: Call, name: str) -> None:
    """A value comes back with the type that InMemorySaver gives it: as a value, a write, and in metadata."""
    serde = JsonPlusSerializer(allowed_msgpack_modules=ALLOWED)
    value = VALUES[name]
    given = step({"x": value}, note=value)
    read = []
    for saver in (InMemorySaver(serde=serde), on(serde)):
        latest = await call(saver, "put", config("t"), *given)
        await call(saver, "put_writes", latest, [("x", value)], "task")
        found = await call(saver, "get_tuple", config("t"))
        read.append((values_of(found), writes_of(found), found.metadata["note"]))
    expected, actual = read
    assert repr(expected) == repr(actual)
    assert expected == actual
    assert type(actual[0]["x"]) is type(expected[0]["x"])


async def test_arrays(on: Open, call: Call) -> None:
    """An array comes back with its shape and type."""
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(6, dtype="int16").reshape(2, 3)
    saver = on()
    await call(saver, "put", config("t"), *step({"x": array}))
    found = values_of(await call(saver, "get_tuple", config("t")))["x"]
    assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())


async def test_with_allowlist(on: Open, call: Call) -> None:
    """`with_allowlist` gives a saver that revives more types, on the same connections and the same threads."""
    strict = on(JsonPlusSerializer(allowed_msgpack_modules=[]))
    allowing = strict.with_allowlist(ALLOWED)
    assert isinstance(allowing, RedisStreamSaver)
    assert allowing is not strict
    assert allowing._connections is strict._connections
    await call(strict, "put", config("t"), *step({"x": Point(1, Decimal(2))}))
    assert values_of(await call(allowing, "get_tuple", config("t"))) == {"x": Point(1, Decimal(2))}
    assert values_of(await call(strict, "get_tuple", config("t"))) != {"x": Point(1, Decimal(2))}


def test_config_specs(on: Open) -> None:
    """Nothing has to be configured beyond what LangGraph asks of every checkpointer."""
    assert on().config_specs == InMemorySaver().config_specs


def test_versions_rise(on: Open) -> None:
    """Each version is greater than the one before, also where the count gets a digit more, and never the same twice."""
    saver = on()
    for power in range(1, 9):
        version: Any = f"{10**power - 3:10}.xxxx"
        seen = [version]
        for _ in range(6):
            seen.append(saver.get_next_version(seen[-1], None))
        assert seen == sorted(set(seen))
    version = None
    for _ in range(20_000):
        following = saver.get_next_version(version, None)
        assert version is None or following > version
        version = following
    assert version.startswith("     20000.")


@pytest.mark.parametrize("current", ["a~9999999999.Zk3_aQ", 2**53, 1_767_225_600_000_000_000, 1e17, -1e17], ids=repr)
def test_versions_that_others_made_rise(on: Open, current: Any) -> None:
    """A version without room for one more, or with more digits than a float, has a greater one after it."""
    saver = on()
    for _ in range(20):
        following: Any = saver.get_next_version(current, None)
        assert following > current
        current = following


def test_versions_of_forks_differ(on: Open) -> None:
    """Two forks from one version do not give the same version to different values."""
    saver = on()
    assert len({saver.get_next_version("       123.abc", None) for _ in range(1_000)}) == 1_000
    assert len({saver.get_next_version(None, None) for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize("count", [1, 9, 10, 99, 12_345, 10**8])
@pytest.mark.parametrize("first", ["{:032}.0.5", "{:10}.Zk3_aQ"], ids=["theirs", "ours"])
def test_versions_in_turn_with_other_savers(first: str, count: int) -> None:
    """This saver and LangGraph's own continue each other's versions, which rise with every turn and count on."""
    theirs: Any = InMemorySaver().get_next_version
    version: Any = first.format(count)
    for by_us in (True, True, False, False, True, False):
        before, version = version, next_version(version) if by_us else theirs(version, None)
        count += 1
        assert version > before
        assert int(version.partition(".")[0]) == count


@pytest.mark.parametrize("current", [0, 1, 9, 10**6, 2.5, 1e6 + 0.25])
def test_versions_after_numbers(current: float) -> None:
    """From numbers versions stay numbers, rise, and differ on forks."""
    following: list[Any] = [next_version(current) for _ in range(100)]
    assert all(isinstance(one, float) and one > current for one in following)
    assert len(set(following)) > 95
    assert all(next_version(one) > one for one in following)


@pytest.mark.parametrize("current", ["", "z9", "v1.2.3", "é", "~", "c123.Zk3_aQ", "9999999999.x", "0" * 50])
def test_versions_after_anything(current: str) -> None:
    """From any other text the next version is greater too."""
    first: Any = next_version(current)
    second: Any = next_version(first)
    assert second > first > current


async def test_numbers_as_versions(on: Open, call: Call, prefix: str, any_server: Server) -> None:
    """Int, float and text versions of one thread are kept apart and come back as they were."""
    saver = on()
    latest: Any = config("t")
    for version in (1, 1.5, "1", 2**60):
        checkpoint, metadata, _ = step({"x": f"{version!r}"})
        checkpoint["channel_versions"] = {"x": version}
        latest = await call(saver, "put", latest, checkpoint, metadata, {"x": version})
        found = await call(saver, "get_tuple", latest)
        assert found.checkpoint["channel_versions"] == {"x": version}
        assert type(found.checkpoint["channel_versions"]["x"]) is type(version)
    listed = await call(saver, "list", config("t"))
    assert [values_of(one)["x"] for one in listed] == [repr(2**60), "'1'", "1.5", "1"]
    with any_server.client() as client:
        assert client.xlen(keys_of(prefix, "t").log) == 4

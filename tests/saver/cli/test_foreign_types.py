"""Commands run no code of values, of missing types or harmful ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from eventlog.codec import checksum_of, encode_keyframe
from eventlog.events import CheckpointSaved
from saver import RedisStreamSaver
from saver.cli.values import REFUSED, Values, careful_serializer
from tests import bombs
from tests.saver.cli.commands import Agentlog
from tests.saver.threads import config, step


class Harmful(JsonPlusSerializer):
    """Writes a value that runs a command where it is read trustingly."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self.command = command

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if obj != "harm":
            return super().dumps_typed(obj)
        called = ormsgpack.packb(("os", "system", self.command))
        return "msgpack", ormsgpack.packb({"run": ormsgpack.Ext(0, called)})


@pytest.fixture
def trap(agentlog: Agentlog, tmp_path: Path) -> Path:
    """A file that appears if thread "1" was deserialized trustingly."""
    path = tmp_path / "trap"
    serde = Harmful(f"touch {path}")
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix, serde=serde) as saver:
        put = step({"a": "harm", "b": [1, 2]})
        saver.put(config("1"), *put)
        saver.put_writes(config("1", "", put[0]["id"]), [("a", "harm")], "task")
    return path


class Constructing(JsonPlusSerializer):
    """Writes JSON that names constructors and a method, which langgraph-checkpoint 4.1.0 called."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if obj != "harm" and not isinstance(obj, dict):
            return super().dumps_typed(obj)
        path = {"lc": 2, "type": "constructor", "id": ["pathlib", "Path"], "args": [str(self.path)]}
        written = {**path, "method": "write_text", "args": [path, "text"]}
        message = ["langchain", "schema", "messages", "HumanMessage"]
        made = {"lc": 1, "type": "constructor", "id": message, "kwargs": {"content": "from JSON"}}
        return "json", json.dumps({"write": written, "make": made}).encode()


KEY = b"sixteen byte key"


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def json_trap(
    agentlog: Agentlog, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A file that appears if the JSON of thread "1" was deserialized: values, metadata and a write."""
    path = tmp_path / "trap"
    serde: Any = Constructing(path)
    if request.param:
        serde = EncryptedSerializer.from_pycryptodome_aes(serde, key=KEY)
        monkeypatch.setenv("LANGGRAPH_AES_KEY", KEY.decode())
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix, serde=serde) as saver:
        first, second = step({"a": 1}), step({"a": "harm", "b": [1, 2]})
        saved = saver.put(config("1"), *first)
        saver.put(saved, *second)
        saver.put_writes(config("1", "", second[0]["id"]), [("a", "harm")], "task")
    return path


@pytest.mark.telling
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("show 1", 0),
        ("show 1 --full", 0),
        ("show 1 --json", 0),
        ("show 1 --at 2 --full", 0),
        ("log 1 --patch --full", 0),
        ("log 1 --patch --json", 0),
        ("diff 1 @1 @2 --full", 0),
        ("diff 1 @1 @2 --json", 0),
        ("replay 1 --speed 1000x --full", 0),
        ("tail", 0),
        ("export 1 {out} --jsonl --values", 3),
        ("verify 1", 0),
        ("check 1", 0),
        ("threads", 0),
    ],
)
def test_json_is_not_read(agentlog: Agentlog, json_trap: Path, tmp_path: Path, words: str, code: int) -> None:
    """LangGraph's JSON names constructors: no command runs them, and its format and a hint are shown instead."""
    done = agentlog(*words.format(out=tmp_path / "out").split())
    assert done.code == code, done
    assert not json_trap.exists()
    assert "from JSON" not in done.out
    if "--full" in words or "--json" in words or code:
        assert "json" in done.out + done.err
        assert REFUSED in done.out + done.err


@pytest.mark.parametrize("metadata", [["json", b"{}"], ["msgpack", b"\xc1"], None])
def test_metadata_that_is_not_read(metadata: Any) -> None:
    """Refused metadata is shown as such, and other metadata that cannot be read is left out."""
    shown = Values("1").metadata(CheckpointSaved("", "c", None, {}, {"metadata": metadata}))
    assert [(one.format, one.hint) for one in shown.values()] == (
        [("json", REFUSED)] if metadata == ["json", b"{}"] else []
    )


@pytest.mark.parametrize("form", ["json", "pickle", "", "MSGPACK"])
def test_any_other_format_is_refused(form: str) -> None:
    """Only formats that are known to hold no constructors are read."""
    with pytest.raises(ValueError, match="does not read"):
        careful_serializer().loads_typed((form, b"1"))


@pytest.mark.parametrize(
    "words",
    [
        ["show", "1", "--full"],
        ["log", "1", "--patch"],
        ["replay", "1", "--speed", "1000x"],
        ["export", "1", "{out}", "--jsonl", "--values"],
        ["verify", "1"],
        ["check", "1"],
    ],
    ids=lambda words: words[0],
)
def test_nothing_is_run(agentlog: Agentlog, trap: Path, tmp_path: Path, words: list[str]) -> None:
    """What a command shows of such a value is its name."""
    done = agentlog(*(word.format(out=tmp_path / "out") for word in words))
    assert (done.code, done.err) == (0, "")
    assert not trap.exists()
    if "--full" in words:
        assert "os.system" in done.out


def test_migrating_carries_it_byte_for_byte(agentlog: Agentlog, trap: Path) -> None:
    """A migration needs no types, and the stored bytes are the same on both sides."""
    source = f"{agentlog.url}{'&' if '?' in agentlog.url else '?'}prefix={agentlog.prefix}"
    target = f"{agentlog.prefix}-new"
    done = Agentlog(agentlog.url, target, agentlog._capsys)("migrate", "--from", source)
    assert (done.code, done.err) == (0, "")
    assert not trap.exists()
    stored = []
    for prefix in (agentlog.prefix, target):
        with RedisStreamSaver.from_conn_string(agentlog.url, prefix=prefix, cache_bytes=0) as saver:
            client: Any = saver._connections.sync_client()
            saver.setup()
            entries = client.xrange(saver._operations.keyspace.thread(b"1").log)
            stored.append(
                [value for _, fields in entries for name, value in fields.items() if name[:1] in (b"=", b"!")]
            )
    assert any(b"system" in value for value in stored[0])
    assert stored[0] == stored[1]


@pytest.mark.parametrize("level", [b"\x91", b"\x81\x01"], ids=["lists", "maps"])
def test_values_that_are_nested_deep(agentlog: Agentlog, tmp_path: Path, level: bytes) -> None:
    """Commands show their type, compare them, or end with an error that names the thread."""
    for number in (1, 2):
        packed = level * 1000 + bytes([number])
        bombs.plant(
            agentlog.url, agentlog.prefix, "t", number, {"a": encode_keyframe("msgpack", packed, checksum_of(packed))}
        )
    for command in (["show", "t"], ["show", "t", "--full"], ["show", "t", "--json"]):
        done = agentlog(*command)
        assert done.code == 0
        assert "nested too" in done.out
    for command in (["diff", "t", "001", "002"], ["log", "t", "--patch"], ["replay", "t"]):
        assert agentlog(*command).code == 0
    done = agentlog("export", "t", str(tmp_path / "e"), "--jsonl", "--values")
    assert done.code == 3
    assert "Thread 't', entry " in done.err
    assert "nested too deep for lines of JSON" in done.err

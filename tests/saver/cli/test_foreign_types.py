"""Commands run no code of values, of missing types or harmful ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from saver import RedisStreamSaver
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

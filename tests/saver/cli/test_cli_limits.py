"""The limits of commands: the option, the environment, and ids that are too long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventlog import Limits
from eventlog.keys import Keyspace
from saver import RedisStreamSaver
from tests import bombs
from tests.saver.cli.commands import COMMANDS, Agentlog, put
from tests.saver.threads import config, step
from tests.servers import connect

LONG = "x" * 65_537
ARGUMENTS: dict[str, list[list[str]]] = {
    "archive": [[LONG, "file"]],
    "check": [[LONG], ["t", LONG]],
    "delete": [["t", LONG, "--yes"]],
    "diff": [[LONG, "1", "2"], ["t", LONG, "2"], ["t", "1", "2", "--namespace", LONG]],
    "drop": [[LONG, "--yes"]],
    "export": [["t", LONG, "file"]],
    "groups": [],
    "import": [["file", "--thread", LONG]],
    "lag": [[LONG]],
    "log": [[LONG], ["t", "--namespace", LONG]],
    "migrate": [["--from", "sqlite:///none", "--thread", LONG]],
    "parked": [[LONG]],
    "rebuild": [[LONG]],
    "replay": [[LONG]],
    "retry": [[LONG], ["g", "--thread", LONG]],
    "show": [[LONG], ["t", "--namespace", LONG]],
    "skip": [["g", "--thread", LONG]],
    "tail": [["--thread", LONG], ["--namespace", LONG], ["--node", LONG]],
    "threads": [],
    "trim": [],
    "verify": [["t", LONG]],
}
CASES = [(name, arguments) for name, some in ARGUMENTS.items() for arguments in some]


@pytest.mark.parametrize(
    ("name", "arguments"), CASES, ids=[f"{name} {number}" for number, (name, _) in enumerate(CASES)]
)
def test_a_long_id_in_a_command(agentlog: Agentlog, name: str, arguments: list[str]) -> None:
    """Every command refuses it as bad input, and shows its beginning and its length only."""
    assert set(ARGUMENTS) == set(COMMANDS)
    done = agentlog(name, *arguments)
    assert (done.code, done.out) == (2, "")
    assert "has 65,537 bytes, above the limit of 65,536 for an id" in done.err
    assert "agentlog --limits id_bytes=65537" in done.err
    assert len(done.err) < 500


def test_a_planted_long_id(agentlog: Agentlog, tmp_path: Path) -> None:
    """Commands on all threads come to the others, and check and verify name it."""
    put(agentlog.url, agentlog.prefix, "a", "z")
    keyspace = Keyspace(agentlog.prefix, 16)
    shared = keyspace.partition(keyspace.partition_of(LONG.encode()))
    with connect(agentlog.url) as client:
        for feed in client.keys(f"{{{agentlog.prefix}:*:feed"):
            _, fields = client.xrevrange(feed, count=1)[0]
        client.xadd(
            shared.feed,
            {**fields, b"thread": LONG.encode(), b"kind": b"checkpoint", b"id": b"1-0"},
            id="9999999999999-0",
        )
        client.delete(shared.threads)
    for command, code in (("threads", 0), ("check --all", 1), ("rebuild --all", 0), ("verify --all", 2)):
        done = agentlog(*command.split())
        assert (command, done.code) == (command, code), done.err
        assert LONG not in done.out + done.err
        assert ("65,537 bytes" in done.out + done.err) == (code > 0)
    assert [line.split()[0] for line in agentlog("verify", "--all").out.splitlines()[-2:]] == ["a", "z"]
    done = agentlog("export", "--all", str(tmp_path / "file"))
    assert (done.code, done.out.startswith("2 threads"), "65,537 bytes" in done.err) == (1, True, True)


def test_higher_limits(agentlog: Agentlog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option, or the environment, raises limits for reads and imports, before and after the command's name."""
    bombs.plant(agentlog.url, agentlog.prefix, "t", 1, {"a": bombs.keyframe(80 * bombs.MIB)})
    needed = "expansion=40000"
    refused = agentlog("show", "t")
    assert refused.code == 2
    assert "above the limit of" in refused.err
    assert agentlog("show", "t", "--limits", needed).code == 0
    monkeypatch.setenv("AGENTLOG_LIMITS", needed)
    assert agentlog("show", "t").code == 0
    assert agentlog("show", "t", "--limits", "expansion=300").code == 2


@pytest.mark.parametrize(
    "words",
    [["show"], ["log"], ["check"], ["replay", "--speed", "9999x"], ["diff", "@1", "@1"], ["verify"], ["export"]],
    ids=lambda words: words[0],
)
def test_higher_limits_with_a_key(
    agentlog: Agentlog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """They hold where signatures are checked, too."""
    secret = "a secret of sixteen bytes or more"
    limits = Limits(id_bytes=100_000)
    with RedisStreamSaver.from_conn_string(
        agentlog.url, prefix=agentlog.prefix, signing_key=secret.encode(), limits=limits
    ) as saver:
        saver.put(config(LONG), *step({"a": 1}))
    monkeypatch.setenv("AGENTLOG_KEY", secret)
    name, *more = words
    more = [str(tmp_path / "e")] if name == "export" else more
    done = agentlog(name, LONG, *more, "--limits", "id_bytes=100000")
    assert done.code == 0, done.err[:200]


def test_limits_of_a_migration(agentlog: Agentlog) -> None:
    """They hold for both sides."""
    with RedisStreamSaver.from_conn_string(
        agentlog.url, prefix=f"{agentlog.prefix}-source", limits=Limits(id_bytes=100_000)
    ) as saver:
        saver.put(config(LONG), *step({"a": 1}))
    source = f"{agentlog.url}{'&' if '?' in agentlog.url else '?'}prefix={agentlog.prefix}-source"
    assert agentlog("migrate", "--from", source).code == 2
    done = agentlog("migrate", "--from", source, "--limits", "id_bytes=100000")
    assert done.code == 0, done.err[:200]


def test_limits_of_imports(agentlog: Agentlog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import takes them, too, and says what it found."""
    file = str(tmp_path / "e")
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        saver.put(config("t"), *step({"a": 1}))
        saver.export_threads(file)
    done = agentlog("import", file, "--limits", "entry_bytes=10")
    assert done.code == 2
    assert "e' (at byte" in done.err
    assert "entry_bytes=" in done.err
    monkeypatch.setenv("AGENTLOG_LIMITS", "entry_bytes=1M")
    outcome: Any = {"file": file, "threads": 0, "entries": 0, "present": 1}
    assert agentlog("import", file, "--json").objects == [outcome]
    assert agentlog("import", file).lines == ["0 threads with 0 events put in place; there already: 1."]


@pytest.mark.parametrize("text", ["size=1", "id_bytes=0", "id_bytes"])
def test_limits_that_are_none(agentlog: Agentlog, text: str) -> None:
    """They are bad input."""
    done = agentlog("threads", "--limits", text)
    assert done.code == 2
    assert "id_bytes" in done.err

"""`agentlog threads`, `check`, `rebuild` and `migrate`."""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from eventlog.errors import MissingExtra
from saver import RedisStreamSaver
from saver.migration.opening import open_source
from tests.saver.audit import Audit
from tests.saver.cli.commands import STEERING, Agentlog, on_terminal, put
from tests.saver.threads import config, follow, step
from tests.servers import Server

pytestmark = pytest.mark.telling


@pytest.fixture
def reader(any_server: Server, prefix: str) -> Iterator[str]:
    """The URL of a user who may read, and nothing else."""
    with any_server.client() as client:
        rights = ["+@read", "+@connection", "+eval", "+evalsha"]
        keys = [f"~{{{prefix}:*", f"~{prefix}:*"]
        client.execute_command("ACL", "SETUSER", prefix, "on", ">secret", *keys, *rights)
        yield any_server.url.replace("://", f"://{prefix}:secret@")
        client.execute_command("ACL", "DELUSER", prefix)


def test_threads(everywhere: Agentlog) -> None:
    """On every server, the last active first, with sizes; --limit and --since hold."""
    put(everywhere.url, everywhere.prefix, "a", count=2)
    for thread in ("b", STEERING):
        put(everywhere.url, everywhere.prefix, thread)
        time.sleep(0.002)
    put(everywhere.url, everywhere.prefix, "a")
    done = everywhere("threads")
    assert done.code == 0
    assert "\x1b" not in done.out
    heading, first, second, third = done.lines
    assert heading.split() == ["last", "activity", "thread", "events", "checkpoints", "namespaces", "size", "expires"]
    assert first.split()[1:5] == ["a", "6", "3", "1"]
    assert "\\x1b" in second
    assert third.split()[1] == "b"
    found = everywhere("threads", "--json").objects
    assert [one["thread_id"] for one in found] == ["a", STEERING, "b"]
    assert found[0]["bytes"] > 100
    assert found[0]["expires"] is None
    assert [one["thread_id"] for one in everywhere("threads", "--json", "--limit", "1").objects] == ["a"]
    since = found[1]["last_activity"]
    assert [one["thread_id"] for one in everywhere("threads", "--json", "--since", since).objects] == ["a", STEERING]
    assert everywhere("threads", "--since", "soon").code == 2
    assert everywhere("threads", "--limit", "0").code == 2


def test_nothing_there(agentlog: Agentlog) -> None:
    """An empty prefix has nothing to list, check or rebuild, and stays empty."""
    for words in (["threads"], ["check", "--all"], ["rebuild", "--all"]):
        done = agentlog(*words)
        assert (done.code, done.out) == (0, "")
        assert "Nothing was written" in done.err
    assert agentlog("check", "t").code == 2
    with Audit(agentlog.url, agentlog.prefix) as audit:
        assert audit.everything() == set()


def test_check_and_rebuild(everywhere: Agentlog) -> None:
    """Damage is reported with exit code 1, and gone after a rebuild."""
    put(everywhere.url, everywhere.prefix, "a", "b", count=3)
    assert everywhere("check", "--all").out == "2 threads checked: no differences.\n"
    with Audit(everywhere.url, everywhere.prefix) as audit:
        keys = audit.keyspace.thread(b"a")
        audit.client.hset(keys.index, b"n", b"77")
        audit.client.zrem(keys.shared.threads, b"ta")
        done = everywhere("check", "a", "b")
        assert done.code == 1
        assert "thread a: index: sequence number is 77, but by the log 6" in done.lines
        assert done.lines[-1] == "2 threads checked: 2 differences."
        found = everywhere("check", "--all", "--json")
        assert found.code == 1
        assert found.objects[0]["registry"]
        assert "'a' is missing" in found.objects[0]["differences"][0]["what"]
        assert everywhere("rebuild", "--all").out == "2 threads rebuilt.\n"
        done = everywhere("rebuild", "a", "--json")
        assert done.objects == [{"thread_id": "a", "events": 6, "checkpoints": 3, "heads": 1}]
        done = everywhere("check", "--all", "--json")
        assert (done.code, [one["ok"] for one in done.objects]) == (0, [True, True])
        audit.check("a")
        audit.client.delete(keys.log)
    done = everywhere("check", "--all")
    assert done.code == 1
    assert "thread a: log: is gone" in done.out
    done = everywhere("rebuild", "--all")
    assert (done.code, done.out) == (1, "1 thread rebuilt.\n")
    assert "delete_thread" in done.err
    assert everywhere("rebuild", "a").code == 3


@pytest.mark.parametrize(
    "words", [["check"], ["rebuild"], ["check", "a", "--all"], ["rebuild", "--all", "a"]], ids=" ".join
)
def test_which_threads(agentlog: Agentlog, words: list[str]) -> None:
    """Either threads are named, or all are meant."""
    done = agentlog(*words)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert "--all" in done.err


def test_a_thread_that_is_not_there(agentlog: Agentlog) -> None:
    """A thread that does not exist is bad input."""
    put(agentlog.url, agentlog.prefix, "a")
    for name in ("check", "rebuild"):
        done = agentlog(name, "nobody")
        assert done.code == 2
        assert "'nobody'" in done.err


def test_a_user_who_may_only_read(agentlog: Agentlog, reader: str) -> None:
    """Listing and checking need no right to write, also without the registry."""
    for thread in ("a", "b"):
        put(agentlog.url, agentlog.prefix, thread, count=2)
        time.sleep(0.002)
    for _ in range(2):
        found = Agentlog(reader, agentlog.prefix, agentlog._capsys)("threads", "--json")
        assert [one["thread_id"] for one in found.objects] == ["b", "a"]
        with Audit(agentlog.url, agentlog.prefix) as audit:
            for number in range(16):
                audit.client.delete(audit.keyspace.partition(number).threads)
    reading = Agentlog(reader, agentlog.prefix, agentlog._capsys)
    done = reading("check", "--all")
    assert done.code == 1
    assert "threads: missing" in done.out
    assert reading("rebuild", "a").code == 3
    agentlog("rebuild", "--all")
    assert reading("check", "--all").code == 0


def fill(path: Path, threads: int = 3) -> None:
    """A database of SqliteSaver."""
    with SqliteSaver.from_conn_string(str(path)) as saver:
        for number in range(threads):
            before = step({"x": number})
            saved = saver.put(config(f"t{number}"), *before)
            after = follow(before, {"y": [1, 2]})
            saved = saver.put(saved, *after)
            saver.put_writes(saved, [("x", 5)], "task", "~1")


def test_migrate(everywhere: Agentlog, tmp_path: Path) -> None:
    """Threads are copied once and compared; planted differences are found, and gone."""
    path = tmp_path / "checkpoints.sqlite"
    fill(path)
    words = ["migrate", "--from", f"sqlite:///{path}"]
    assert everywhere(*words, "--verify-only").code == 1
    done = everywhere(*words)
    assert (done.code, done.err) == (0, "")
    assert (
        done.out == "3 threads: 6 checkpoints and 3 pending writes copied, 0 were there; 6 compared: no differences.\n"
    )
    done = everywhere(*words, "--json", "--thread", "t1")
    (told,) = done.objects
    assert told == {
        "threads": 1,
        "checkpoints": 0,
        "writes": 0,
        "present": 2,
        "compared": 2,
        "differing": 0,
        "ok": True,
    }
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE checkpoints SET metadata = '{\"step\": 9}' WHERE thread_id = 't2'")
        connection.commit()
    done = everywhere(*words, "--verify-only", "--json")
    assert done.code == 1
    assert done.objects[0]["difference"]["thread_id"] == "t2"
    assert done.objects[0]["difference"]["what"] == "metadata"
    assert "thread t2, checkpoint" in everywhere(*words, "--verify-only").out
    assert everywhere(*words).code == 0
    assert everywhere("check", "--all").code == 0


def test_migrate_from_another_prefix(agentlog: Agentlog) -> None:
    """Another prefix of this project is a source, with its own number of partitions."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix + "old", partitions=3) as saver:
        saver.put(config("t"), *step({"x": 1}))
    done = agentlog("migrate", "--from", f"{agentlog.url}?prefix={agentlog.prefix}old")
    assert done.code == 0, done.err
    assert done.out == "1 thread: 1 checkpoint and 0 pending writes copied, 0 were there; 1 compared: no differences.\n"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("mongodb://host", "begins with 'mongodb://'"),
        ("nonsense", "is not a URL"),
        ("sqlite:///nowhere/at/all.sqlite", "no file"),
        ("sqlite:///TEXT", "cannot be read as"),
        ("sqlite:///EMPTY", "no checkpoints"),
        ("postgresql://user:secret@127.0.0.1:1/db", "cannot be read"),
        ("valkey://127.0.0.1:1", "cannot be read"),
        ("plainredis://127.0.0.1:1", "cannot be read"),
        ("redis://SERVER?prefix=nobodys", "RedisStreamSaver wrote nothing under prefix 'nobodys'"),
        ("redis://SERVER?prefix=nobodys", "No URL reads the threads of langgraph-checkpoint-redis (RedisSaver)"),
    ],
)
def test_unusable_sources(agentlog: Agentlog, tmp_path: Path, source: str, words: str) -> None:
    """An unusable source is bad input in a line without passwords; it writes nothing."""
    package = {
        "postgresql": "langgraph.checkpoint.postgres",
        "valkey": "langgraph_checkpoint_aws",
        "plainredis": "langgraph_checkpoint_plainredis",
    }.get(source.partition("://")[0])
    if package is not None and find_spec(package) is None:
        words = "needs a package"
    text, empty = tmp_path / "text", tmp_path / "empty"
    text.write_text("words " * 1000)
    sqlite3.connect(empty).close()
    given = source.replace("TEXT", str(text)).replace("EMPTY", str(empty))
    given = given.replace("redis://SERVER", agentlog.url)
    done = agentlog("migrate", "--from", given)
    assert done.code == 2, done.err
    assert words in done.err
    assert "secret" not in done.err
    assert len(done.err.splitlines()) == 1
    with Audit(agentlog.url, agentlog.prefix) as audit:
        assert audit.everything() == set()


def test_missing_packages(agentlog: Agentlog, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error for a source whose package is missing names the package."""

    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    for scheme in ("sqlite", "postgresql", "valkey", "plainredis"):
        with pytest.raises(MissingExtra, match="pip install"), open_source(f"{scheme}://host/x"):
            pass


def test_progress_on_a_terminal(agentlog: Agentlog, tmp_path: Path) -> None:
    """On a terminal progress is shown while it lasts; NO_COLOR keeps colors out."""
    path = tmp_path / "checkpoints.sqlite"
    fill(path, 40)
    with on_terminal(agentlog.words("migrate", "--from", f"sqlite:///{path}")) as terminal:
        assert "no differences" in terminal.until("compared: ")[-2000:] or terminal.end() == 0
    put(agentlog.url, agentlog.prefix, "a")
    with on_terminal(agentlog.words("check", "--all"), NO_COLOR="1") as terminal:
        assert terminal.end() == 0
        assert "\x1b[3" not in terminal.text


def test_help(agentlog: Agentlog) -> None:
    """Each command's help has an example."""
    for name in ("threads", "check", "rebuild", "migrate"):
        done = agentlog(name, "--help")
        assert done.code == 0
        assert f"agentlog {name}" in done.out.partition("Examples:")[2]

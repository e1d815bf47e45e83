"""Commands on threads that were lost, copied, overwritten, or left alone at the last moment."""

from __future__ import annotations

import time

import pytest

from eventlog.keys import Keyspace
from saver import RedisStreamSaver
from tests.saver.audit import checkpoint_id, put_of
from tests.saver.cli.commands import Agentlog, on_terminal, put
from tests.servers import connect


@pytest.mark.parametrize("words", [["drop", "audit"], ["delete", "1"]], ids=lambda words: words[0])
def test_a_refusal_on_a_terminal(agentlog: Agentlog, words: list[str]) -> None:
    """Without consent nothing is deleted, and the exit code is 1."""
    put(agentlog.url, agentlog.prefix, "1")
    with agentlog.feed() as feed:
        feed.group("audit").register()
        with on_terminal(agentlog.words(*words)) as terminal:
            terminal.until("[y/N]: ")
            time.sleep(0.3)  # until it reads
            terminal.type("n\n")
            assert terminal.end() == 1
        assert [one.name for one in feed.groups()] == ["audit"]
    assert agentlog("show", "1").code == 0


def test_a_thread_without_log_is_deleted(agentlog: Agentlog) -> None:
    """A thread whose log another program deleted is removed from the views."""
    put(agentlog.url, agentlog.prefix, "1")
    keys = Keyspace(agentlog.prefix, 16).thread(b"1")
    with connect(agentlog.url) as client:
        client.delete(keys.log)
        assert agentlog("check", "1").code != 0
        assert agentlog("delete", "1", "--yes").code == 0
        assert not client.exists(keys.index)


def test_an_archive_is_pruned_or_deleted(agentlog: Agentlog) -> None:
    """The options of `archive` exclude each other."""
    done = agentlog("archive", "1", "/nowhere/file", "--delete", "--keep-last", "1")
    assert (done.code, "either --keep-last or --delete" in done.err) == (2, True)


def test_marks(agentlog: Agentlog) -> None:
    """`log` marks a checkpoint that comes late or twice, and names the source of a copy."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        saver.put(*put_of("1", 2))
        saver.put(*put_of("1", 1))
        saver.put(*put_of("1", 2, channels=("m",)))
        saver.copy_thread("1", "2")
    lines = agentlog("log", "2").lines
    assert [[mark for mark in ("overwrite", "late") if mark in line] for line in lines] == [
        [],
        ["late"],
        ["overwrite"],
        [],
    ]
    assert "copied from '1', up to its event 3" in lines[-1]


def test_a_namespace(agentlog: Agentlog) -> None:
    """`show` names the namespace of a subgraph's checkpoint, and a beginning of its id that is not unique is refused."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        for number in (1, 2):
            saver.put(*put_of("1", number, namespace="sub"))
    words = ["show", "1", "--namespace", "sub"]
    done = agentlog(*words, checkpoint_id(1))
    assert (done.code, "namespace   sub" in done.lines) == (0, True)
    done = agentlog(*words, checkpoint_id(1)[:4])
    assert (done.code, "2 checkpoints whose ids begin" in done.err) == (2, True)
    done = agentlog(*words, "1999-01-01T00:00Z")
    assert (done.code, "1999" in done.err) == (2, True)

"""Users with the access rights of OPERATIONS.md can do their work, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from tests.saver.audit import Audit
from tests.saver.cli.commands import COMMANDS, Agentlog, park, put
from tests.saver.threads import config, step
from tests.saver.users import MEMBERS, user_on
from tests.servers import Server

READING = [
    "threads",
    "log 42",
    "log 42 --patch",
    "show 42",
    "show 42 --at 1",
    "diff 42 @1 @3",
    "replay 42 --speed 100000x",
    "verify 42",
    "verify --all",
    "check 42",
    "check --all",
    "export 42 FILE",
    "export --all FILE-all",
    "export 42 FILE-lines --jsonl --values",
    "tail --from beginning",
    "groups",
    "lag billing",
    "parked billing",
]
WRITING = [
    "rebuild 42",
    "retry billing --thread 43",
    "skip billing --thread 42 --yes",
    "trim --count 1",
    "archive 42 FILE-archive --keep-last 1",
    "export 42 FILE --force",
    "delete 42 --yes",
    "import FILE",
    "migrate --from sqlite:///SQLITE",
    "drop billing --yes",
]


def test_an_auditor_can_read_and_change_nothing(
    server: Server, prefix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """On every server, reading commands work with or without views, and write nothing."""
    put(server.url, prefix, "42", "43", count=3)
    owner = Agentlog(server.url, prefix, capsys)
    with owner.feed() as feed:
        park(feed, "billing", "43")
    with user_on(server, "auditor", prefix) as url, Audit(server.url, prefix) as audit:
        auditor = Agentlog(url, prefix, capsys)
        for views in ((), (b":head:", b":index:", b":order:", b":threads", b":runs")):
            for key in audit.everything():
                if any(view in key for view in views):
                    audit.client.delete(key)
            before = audit.everything()
            for command in READING:
                if views and command.startswith("check"):
                    continue  # which tells that they are gone
                words = command.replace("FILE", str(tmp_path / f"e{len(views)}")).split()
                done = auditor(*words)
                expected = 1 if words[0] in ("lag", "parked") and done.code == 1 else 0
                assert (done.code, "agentlog:" in done.err) == (expected, False), (words, done)
                assert "?" not in done.out or words[0] != "threads", done  # which knows all sizes
            assert audit.everything() == before
        audit.client.delete(audit.keyspace.thread(b"42").log)
        for command in ("rebuild 43", f"import {tmp_path / 'e0'}", "drop billing --yes"):
            assert auditor(*command.split()).code == 3, command


def test_a_saver_and_its_members(
    server: Server, prefix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """On every server, a user with the rights of savers and members puts, follows, and runs every command."""
    with SqliteSaver.from_conn_string(str(tmp_path / "other")) as other:
        other.put(config("44"), *step({"n": 1}))
    assert {command.split()[0] for command in (*READING, *WRITING)} == {*COMMANDS}
    with user_on(server, "agent", prefix, MEMBERS) as url:
        agent = Agentlog(url, prefix, capsys)
        put(url, prefix, "42", "43", count=3)
        with agent.feed() as feed:
            park(feed, "billing", "42", "43")
        for command in (*READING, *WRITING):
            words = command.replace("FILE", str(tmp_path / "e")).replace("SQLITE", str(tmp_path / "other")).split()
            done = agent(*words)
            expected = 1 if words[0] in ("lag", "parked") and done.code == 1 else 0
            assert (done.code, "agentlog:" in done.err) == (expected, False), (words, done)

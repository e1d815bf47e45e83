"""Users with the access rights of OPERATIONS.md can do their work, and no more."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.saver.audit import Audit
from tests.saver.cli.commands import ROOT, Agentlog, park, put
from tests.servers import RunningServer

MEMBERS = ["~langgraph:groups", "~langgraph:members:*"]
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


def rights_of(user: str) -> list[str]:
    """The rights that OPERATIONS.md gives to a user."""
    told = re.search(rf"^ACL SETUSER {user} (.*)$", (ROOT / "OPERATIONS.md").read_text(), re.MULTILINE)
    assert told is not None
    return told[1].split()


def as_user(
    server: RunningServer, user: str, rights: list[str], prefix: str, capsys: pytest.CaptureFixture[str]
) -> Agentlog:
    """The command line of a user who has these rights to the prefix."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", user, *(one.replace("langgraph", prefix) for one in rights))
    scheme, _, rest = server.url.partition("://")
    return Agentlog(f"{scheme}://{user}:secret@{rest}", prefix, capsys)


def test_an_auditor_can_read_and_change_nothing(
    private_server: Callable[..., RunningServer],
    binary: Path,
    prefix: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """On every server, reading commands work with or without views, and write nothing."""
    server = private_server(binary=binary)
    put(server.url, prefix, "42", "43", count=3)
    owner = Agentlog(server.url, prefix, capsys)
    with owner.feed() as feed:
        park(feed, "billing", "43")
    auditor = as_user(server, "auditor", rights_of("auditor"), prefix, capsys)
    with Audit(server.url, prefix) as audit:
        for views in ((), (b":head:", b":index:", b":order:", b":threads", b":runs")):
            audit.client.delete("none", *(key for key in audit.everything() if any(view in key for view in views)))
            before = audit.everything()
            for command in READING:
                if views and command.startswith("check"):
                    continue  # which tells that they are gone
                words = command.replace("FILE", str(tmp_path / f"e{len(views)}")).split()
                done = auditor(*words)
                expected = 1 if words[0] in ("lag", "parked") and done.code == 1 else 0
                assert (done.code, "agentlog:" in done.err) == (expected, False), (words, done)
            assert audit.everything() == before
    with owner.feed() as feed, Audit(server.url, prefix) as audit:
        feed.group("billing").lag()
        audit.client.delete(audit.keyspace.thread(b"42").log)
    for command in ("rebuild 43", f"import {tmp_path / 'e0'}", "drop billing --yes"):
        assert auditor(*command.split()).code == 3, command


def test_a_saver_and_its_members(
    private_server: Callable[..., RunningServer], binary: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On every server, a saver's user puts, and follows with the rights of members."""
    server = private_server(binary=binary)
    agent = as_user(server, "agent", [*rights_of("agent"), *MEMBERS], prefix, capsys)
    put(agent.url, prefix, "42", "43", count=2)
    with agent.feed() as feed:
        group = park(feed, "billing", "42")
        assert [one.thread_id for one in group.parked()] == ["42"]
    for words in ("groups", "retry billing --thread 42", "rebuild 42", "trim --count 1"):
        done = agent(*words.split())
        assert (done.code, done.err) == (0, ""), (words, done)

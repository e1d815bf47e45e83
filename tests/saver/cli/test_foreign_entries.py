"""Commands beside entries of the feed that this package did not write, or that do not agree with the log."""

from __future__ import annotations

from typing import Any

import pytest

from eventlog.signing import SigningKey
from saver import RedisStreamSaver
from tests.projections.tampering import Tampering, chained
from tests.saver.audit import Audit, put_of
from tests.saver.cli.commands import Agentlog, put

SECRET = "a secret of sixteen bytes or more"


def add(agentlog: Agentlog, fields: dict[Any, Any], thread: str = "1") -> str:
    """Adds an entry to the feed of a thread by hand, and returns the command that removes it."""
    with Audit(agentlog.url, agentlog.prefix) as audit:
        feed = audit.keyspace.thread(thread.encode()).shared.feed
        return f"XDEL {feed.decode()} {audit.client.xadd(feed, fields).decode()}"


@pytest.mark.parametrize(
    "fields",
    [{"foo": "bar"}, {"thread": "1", "id": "1-0", "seq": "x", "kind": "writes"}, {"thread": b"\xff", "kind": "writes"}],
    ids=["nothing of a pointer", "no number", "no text"],
)
def test_all_threads_are_verified_and_checked(
    agentlog: Agentlog, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    """A foreign entry is named with the command that removes it, and the threads are judged: exit code 1."""
    put(agentlog.url, agentlog.prefix, "1", "2")
    remedy = add(agentlog, fields)
    for words in (["verify", "--all"], ["verify", "--all", "--json"]):
        done = agentlog(*words)
        assert (done.code, remedy in done.err, "Error(" in done.err) == (1, True, False)
        assert done.out.count("unchanged") + done.out.count('"sound": true') == 2
    done = agentlog("check", "--all")
    assert (done.code, remedy in done.out, "2 threads checked: 1 difference" in done.out) == (1, True, True)
    monkeypatch.setenv("AGENTLOG_KEY", SECRET)
    done = agentlog("check", "--all", "--json")
    assert (done.code, {one.get("thread_id") for one in done.objects}) == (1, {None, "1", "2"})
    assert remedy in done.out


def test_missing_views_beside_a_foreign_entry(agentlog: Agentlog) -> None:
    """The threads that the feed knows are verified, checked and rebuilt."""
    put(agentlog.url, agentlog.prefix, "1")
    remedy = add(agentlog, {"foo": "bar"})
    with Audit(agentlog.url, agentlog.prefix) as audit:
        audit.client.delete(audit.keyspace.thread(b"1").shared.threads)
    done = agentlog("verify", "--all")
    assert (done.code, remedy in done.err, "unchanged" in done.out) == (1, True, True)
    done = agentlog("check", "--all")
    assert (done.code, remedy in done.out, "1 thread checked" in done.out) == (1, True, True)
    done = agentlog("rebuild", "--all")
    assert (done.code, remedy in done.err, done.lines) == (1, True, ["1 thread rebuilt."])


def test_a_damaged_pointer_beside_findings(agentlog: Agentlog) -> None:
    """A thread whose pointer cannot be read is named, and the others are verified."""
    put(agentlog.url, agentlog.prefix, "1", "2")
    remedy = add(agentlog, {"thread": "1", "id": "1-0", "seq": "x", "kind": "writes"})
    with Audit(agentlog.url, agentlog.prefix) as audit:
        log = audit.keyspace.thread(b"1").log
        audit.client.xdel(log, audit.client.xrevrange(log, count=1)[0][0])
    done = agentlog("verify", "--all")
    assert (done.code, remedy in done.err, done.out.count("unchanged")) == (1, True, 1)
    assert (agentlog("verify", "1").code, remedy in agentlog("verify", "1").err) == (3, True)


def test_all_threads_are_rebuilt(agentlog: Agentlog) -> None:
    """A foreign entry is named, and the heads and indexes of the threads are rebuilt all the same."""
    put(agentlog.url, agentlog.prefix, "1", "2")
    remedy = add(agentlog, {"foo": "bar"})
    with Audit(agentlog.url, agentlog.prefix) as audit:
        index = audit.keyspace.thread(b"2").index
        audit.client.delete(index)
        done = agentlog("rebuild", "--all")
        assert (done.code, remedy in done.err, "2 threads rebuilt" in done.out) == (1, True, True)
        assert audit.client.exists(index)
        done = agentlog("check", "2")
        assert done.code == 0


def test_tail_names_the_feed_of_a_foreign_entry(agentlog: Agentlog) -> None:
    """Its error has the command to type, and the field that is missing."""
    put(agentlog.url, agentlog.prefix, "1")
    remedy = add(agentlog, {"foo": "bar"})
    done = agentlog("tail")
    assert (done.code, remedy in done.err, "it lacks the field 'thread'" in done.err) == (3, True, True)
    assert "KeyError" not in done.err


def test_a_forged_pointer_does_not_hide_signed_states(agentlog: Agentlog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed events are shown though a pointer gives another number to one of them; verify names the pointer."""
    key = SigningKey.hmac(SECRET.encode())
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix, signing_key=key) as saver:
        saver.put(*put_of("1", 1))
        saver.put(*put_of("1", 2, 1))
    with Audit(agentlog.url, agentlog.prefix) as audit:
        _, true = audit.client.xrange(audit.keyspace.thread(b"1").shared.feed)[0]
    remedy = add(agentlog, {**true, b"seq": "99"})
    monkeypatch.setenv("AGENTLOG_KEY", SECRET)
    for words in (["show", "1"], ["show", "1", "--at", "1"], ["diff", "1", "@1", "@2"]):
        assert agentlog(*words).code == 0
    done = agentlog("verify", "--all")
    assert (done.code, remedy in done.out, "truncated" in done.out) == (1, True, False)


def test_a_rewritten_log_is_not_shown_as_whole(agentlog: Agentlog) -> None:
    """Without a key a pointer may be the only witness that an event was taken out, also for a state as of a moment."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        for number in (1, 2, 3, 4):
            saver.put(*put_of("1", number, number - 1 or None))
    with Audit(agentlog.url, agentlog.prefix) as audit:
        log = Tampering(audit.client, audit.keyspace.thread(b"1"))
        first, _, *others = log.entries()
        log.write(chained([first, *others]))
    codes = [agentlog("show", "1", *more).code for more in ([], ["--at", "3"], ["--at", "1"])]
    assert codes == [3, 3, 0]

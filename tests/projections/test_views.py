"""What the views say after unusual calls: values that come late, a thread without a name, reads that prolong lives."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from eventlog.errors import LogLost
from saver import RedisStreamSaver
from tests.projections.conftest import Open
from tests.saver.audit import Audit, checkpoint_id, config, number_of, put_of, value_of


def test_a_value_that_comes_late(saver: RedisStreamSaver, audit: Audit) -> None:
    """A value that an older checkpoint brings is seen at once in the newer one that named its version before."""
    older, newer = put_of("t", 1, channels=["x"]), put_of("t", 2, 1, channels=["x"])
    checkpoint = {**newer[1], "channel_values": {}, "channel_versions": older[1]["channel_versions"]}
    both: tuple[Any, ...] = (saver, InMemorySaver())
    for one in both:
        one.put(newer[0], checkpoint, newer[2], {})
        assert one.get_tuple(config("t")).checkpoint["channel_values"] == {}
        one.put(*older)
        assert one.get_tuple(config("t")).checkpoint["channel_values"] == {"x": value_of(1)}
    audit.check("t")


@pytest.mark.parametrize("ttl", [None, 10], ids=["forever", "with a ttl"])
def test_a_thread_without_a_name(on: Open, audit: Audit, ttl: float | None) -> None:
    """The empty thread id is one like any other: a lost log of another thread is noticed before and after its deletion."""
    saver = on(ttl=ttl)
    shared = audit.keyspace.partition(0)
    saver.put(*put_of("", 1))
    for thread in ("a", "b"):
        saver.put(*put_of(thread, 1))
    for thread in ("a", "b"):
        assert audit.client.zscore(shared.expiries, b"") == float("inf")
        audit.client.delete(audit.keyspace.thread(thread.encode()).log)
        with pytest.raises(LogLost):
            saver.get_tuple(config(thread))
        saver.delete_thread("")
    saver.put(*put_of("", 2))
    found = saver.get_tuple(config(""))
    assert found is not None
    assert number_of(found) == 2


def test_an_order_that_outlived_log_and_index(saver: RedisStreamSaver, audit: Audit) -> None:
    """Of early writes, which have an end, a server may evict log and index first: the thread starts over, or is reported to be lost."""
    keys = audit.keyspace.thread(b"t")
    saver.put_writes(config("t", 1), [("n", 1)], "task")
    audit.client.delete(keys.log, keys.index)
    try:
        saver.put(*put_of("t", 1))
    except LogLost:
        saver.delete_thread("t")
        saver.put(*put_of("t", 1))
    assert [number_of(found) for found in saver.list(config("t"))] == [1]
    assert audit.kinds("t") == ["checkpoint"]


@pytest.mark.parametrize("namespace", ["", "sub"])
def test_reading_gives_no_end_to_a_thread_that_had_none(on: Open, audit: Audit, namespace: str) -> None:
    """`refresh_on_read` prolongs lives, and limits none."""
    saver, reader = on(), on(ttl={"default_ttl": 10, "refresh_on_read": True})
    saver.put(*put_of("t", 1, namespace=namespace))
    for number in (None, 1):
        assert number_of(reader.get_tuple(config("t", number, namespace))) == 1
    keys = audit.keyspace.thread(b"t")
    for key in (keys.log, keys.index, keys.order):
        assert audit.client.pttl(key) == -1
    assert audit.client.zrange(keys.shared.expiries, 0, -1) == [b""]
    assert (audit.client.pttl(keys.head(namespace.encode())) == -1) is (namespace == "")


def head_of(audit: Audit, thread: str, namespace: str = "") -> dict[bytes, bytes]:
    """The fields of a head."""
    found: dict[bytes, bytes] = audit.client.hgetall(audit.keyspace.thread(thread.encode()).head(namespace.encode()))
    return found


@pytest.mark.parametrize("namespace", ["", "sub"])
@pytest.mark.parametrize("shared", [False, True])
def test_each_put_moves_the_head(saver: RedisStreamSaver, audit: Audit, namespace: str, shared: bool) -> None:
    """A head follows its checkpoints, and has their writes, also those that came first."""
    keys = audit.keyspace.thread(b"t")
    for number in range(1, 5):
        early = number % 2
        if early:
            saver.put_writes(config("t", number, namespace), [("n", "early")], "task 1")
        saver.put(*put_of("t", number, number - 1 or None, namespace=namespace, shared=shared))
        head = head_of(audit, "t", namespace)
        assert head[b"id"].decode() == checkpoint_id(number)
        assert head[b"at"] == audit.client.xrevrange(keys.log, count=1)[0][0]
        assert [name for name in head if name[:1] == b"!"] == [b"!1"] * early
        assert head[b"w"] == b"%d" % early
        for again in range(2):  # a repeated call changes nothing
            saver.put_writes(config("t", number, namespace), [("n", "late")], "task 2")
            assert head_of(audit, "t", namespace)[b"w"] == b"%d" % (early + 1), again
        assert b"!%d" % (early + 1) in head_of(audit, "t", namespace)
    audit.check("t")


def test_a_checkpoint_that_comes_late_and_the_head(saver: RedisStreamSaver, audit: Audit) -> None:
    """Without values it leaves the head of the newer one; with values, or as another form of the newest, it drops it."""
    saver.put(*put_of("t", 5))
    newest = head_of(audit, "t")
    late = put_of("t", 3)
    empty: Any = {**late[1], "channel_values": {}}
    saver.put(late[0], empty, late[2], {})
    assert head_of(audit, "t") == newest
    saver.put(*put_of("t", 2))
    assert head_of(audit, "t") == {}
    saver.put(*put_of("t", 6, 5))
    assert head_of(audit, "t") == {}
    assert number_of(saver.get_tuple(config("t"))) == 6
    assert head_of(audit, "t")[b"id"].decode() == checkpoint_id(6)
    saver.put(*put_of("t", 6, 2))
    assert head_of(audit, "t") == {}
    found = saver.get_tuple(config("t"))
    assert found is not None
    assert found.parent_config == config("t", 2)
    audit.check("t")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_checkpoint_that_is_replaced(saver: RedisStreamSaver, audit: Audit, number: int) -> None:
    """Of a checkpoint that is put in two forms the last one is listed, once; the same call again changes nothing."""
    for each in (1, 2, 3):
        saver.put(*put_of("t", each, each - 1 or None))
    for again in range(2):
        saver.put(*put_of("t", number, 9))
        assert len(audit.check("t")) == 4, again
    assert [number_of(found) for found in saver.list(config("t"))] == [3, 2, 1]
    (found,) = (one for one in saver.list(config("t")) if number_of(one) == number)
    assert found.parent_config == config("t", 9)


def test_a_write_that_is_repeated(saver: RedisStreamSaver, audit: Audit) -> None:
    """The first ordinary write of a task counts, the last special one; calls that change nothing are not stored."""
    saver.put(*put_of("t", 1))
    here = config("t", 1)
    for value in ("first", "second"):
        saver.put_writes(here, [("n", value)], "task")
    for value in ("one", "one", "two", "two", "one"):
        saver.put_writes(here, [("__error__", value)], "task")
    found = saver.get_tuple(here)
    assert found is not None
    assert sorted(found.pending_writes or []) == [("task", "__error__", "one"), ("task", "n", "first")]
    assert audit.kinds("t") == ["checkpoint", *["writes"] * 4]
    assert audit.feed("t") == [
        (b"t", b"1", b"checkpoint", b"", checkpoint_id(1).encode(), b"r"),
        *((b"t", b"%d" % number, b"writes", b"", checkpoint_id(1).encode(), b"") for number in range(2, 6)),
    ]


def test_a_head_keeps_nothing_of_earlier_values(saver: RedisStreamSaver, audit: Audit) -> None:
    """Wherever values become deltas, keyframes or short ones, and versions are changed or whole, a rebuilt head is the same."""
    key = audit.keyspace.thread(b"t").head(b"")
    channels = [f"channel {number}" for number in range(20)]
    versions: dict[str, Any] = {}
    seen = set()
    for number in range(1, 25):
        changed = channels if number % 9 == 1 else channels[:2]
        put = put_of("t", number, number - 1 or None, channels=changed, shared=number % 6 != 0)
        versions |= put[3]
        if number % 4 == 0:
            saver.put_writes(config("t", number), [("n", "early")], "task")
        checkpoint: Any = {**put[1], "channel_versions": dict(versions)}
        saver.put(put[0], checkpoint, put[2], put[3])
        head = head_of(audit, "t")
        seen |= {name[:1] for name in head}
        audit.client.delete(key)
        assert saver.get_tuple(config("t")) is not None
        assert head_of(audit, "t") == head
        audit.client.delete(key)
        audit.client.hset(key, mapping=head)
    assert {b"+", b"#", b"=", b"b", b"!"} <= seen
    assert audit.changed_versions("t") > 10


def test_a_head_that_outlived_its_log(saver: RedisStreamSaver, audit: Audit) -> None:
    """The first checkpoint of a namespace replaces it whole."""
    key = audit.keyspace.thread(b"t").head(b"")
    audit.client.hset(key, mapping={"id": "c", "at": "1-0", "w": 3, "!3": "x", "=old": "K", "#n": "1:1-0:checksum"})
    saver.put(*put_of("t", 1))
    head = head_of(audit, "t")
    assert not {b"!3", b"=old", b"#n"} & head.keys()
    audit.client.delete(key)
    assert number_of(saver.get_tuple(config("t"))) == 1
    assert head_of(audit, "t") == head


@pytest.mark.parametrize("other", [{}, {"cache_bytes": 0}, {"compress_above": 64}])
def test_a_head_that_two_savers_move(on: Open, audit: Audit, other: dict[str, Any]) -> None:
    """Where a value does not continue the head's chain there is no head; any other head is as rebuilt."""
    savers = on(), on(**other)
    key = audit.keyspace.thread(b"t").head(b"")
    dropped = 0
    for number in range(1, 21):
        writer = savers[number % 5 in {2, 3}]
        writer.put(*put_of("t", number, number - 1 or None, channels=["x", "y"], shared=True))
        head = head_of(audit, "t")
        audit.client.delete(key)
        assert number_of(on().get_tuple(config("t"))) == number
        if head:
            assert head_of(audit, "t") == head
            audit.client.delete(key)
            audit.client.hset(key, mapping=head)
        dropped += not head
    assert 0 < dropped < 20
    audit.check("t")


def test_writes_that_begin_a_thread_that_had_expired(saver: RedisStreamSaver, on: Open, audit: Audit) -> None:
    """Its expiry is forgotten: early writes wait for a day, which is no time to live."""
    keys = audit.keyspace.thread(b"t")
    on(ttl=10).put(*put_of("t", 1))
    audit.client.delete(keys.log, *audit.views("t"))
    audit.client.zadd(keys.shared.expiries, {b"tt": 1})
    saver.put_writes(config("t", 2), [("n", 1)], "task")
    assert audit.client.zrange(keys.shared.expiries, 0, -1) == [b""]
    assert 86_000_000 < audit.client.pttl(keys.log) <= 86_400_000
    audit.check("t")

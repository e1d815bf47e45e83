"""What the views say after unusual calls: values that come late, a thread without a name, reads that prolong lives."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from eventlog.errors import LogLost
from saver import RedisStreamSaver
from tests.projections.conftest import Open
from tests.saver.audit import Audit, config, number_of, put_of, value_of


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

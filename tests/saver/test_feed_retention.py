"""A saver that trims the feed behind its puts: when, how much, and what becomes of failures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from eventlog.errors import InvalidArgument
from saver import RedisStreamSaver, retention
from tests.saver.audit import Audit, config, put_of
from tests.saver.drivers import Call
from tests.servers import Server


class Clock:
    """One that goes on request."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def audit(server: Server, prefix: str) -> Iterator[Audit]:
    """A look at the feed, which has one partition."""
    with Audit(server.url, prefix, 1) as opened:
        yield opened


def trimming_saver(server: Server, prefix: str, bounds: Any, **options: Any) -> tuple[RedisStreamSaver, Clock]:
    """A saver with one partition, and its clock."""
    saver = RedisStreamSaver.from_conn_string(server.url, prefix=prefix, partitions=1, feed_retention=bounds, **options)
    clock = Clock()
    assert saver._operations.trimming is not None
    saver._operations.trimming._clock = clock
    return saver, clock


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings of the logger of the feed."""
    return [record.getMessage() for record in caplog.records if record.name == "eventlog.feed"]


async def test_puts_trim_as_they_go(server: Server, prefix: str, audit: Audit, call: Call) -> None:
    """The first put, and those five seconds after the last trimming, with either driver; writes count too; logs keep everything."""
    saver, clock = trimming_saver(server, prefix, 2)
    feed = audit.keyspace.partition(0).feed
    async with saver:
        for number in range(1, 6):
            await call(saver, "put", *put_of("t", number, number - 1 or None))
        assert audit.client.xlen(feed) == 5
        clock.now += 4.9
        await call(saver, "put", *put_of("u", 1))
        assert audit.client.xlen(feed) == 6
        clock.now += 0.1
        await call(saver, "put_writes", config("t", 5), [("n", 1)], "task")
        assert audit.client.xlen(feed) == 2
        await call(saver, "put", *put_of("t", 6, 5))
        assert audit.client.xlen(feed) == 3
        assert len(audit.check("t")) == 7
        assert len(await call(saver, "list", config("t"))) == 6


async def test_puts_trim_after_so_many(
    server: Server, prefix: str, audit: Audit, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little time passes; and more than came in, so that a long feed gets short."""
    monkeypatch.setattr(retention, "PUTS", 10)
    monkeypatch.setattr(retention, "MOST", 20)
    with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, partitions=1) as before:
        for number in range(60):
            before.put(*put_of(f"t{number}", 1))
    lengths = []
    saver, _ = trimming_saver(server, prefix, {"age": timedelta(days=1), "count": 1})
    async with saver:
        for number in range(41):
            await call(saver, "put", *put_of("t", number))
            lengths.append(audit.client.xlen(audit.keyspace.partition(0).feed))
    drops = [number for number in range(1, 41) if lengths[number] < lengths[number - 1]]
    assert drops == [10, 20, 30, 40]
    assert (lengths[0], lengths[-1]) == (41, 1)


async def test_puts_of_many_at_once(server: Server, prefix: str, audit: Audit) -> None:
    """Concurrent puts trim once, and none is lost."""
    saver, clock = trimming_saver(server, prefix, 0)
    async with saver:
        await saver.aput(*put_of("t", 0))
        clock.now += 5
        await asyncio.gather(*(saver.aput(*put_of(f"t{number}", 1)) for number in range(40)))
        clock.now += 5
        await saver.aput(*put_of("t", 1))
        shared = audit.keyspace.partition(0)
        assert audit.client.xlen(shared.feed) == 0
        assert audit.client.hget(shared.trimmed, "n") == b"42"
        audit.client.delete(shared.threads)
        assert len({found.config["configurable"]["thread_id"] async for found in saver.alist(None)}) == 41


async def test_a_trimming_that_fails(
    server: Server, prefix: str, audit: Audit, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the put that it is behind succeeds."""
    saver, clock = trimming_saver(server, prefix, 0)
    trimmed = audit.keyspace.partition(0).trimmed
    audit.client.set(trimmed, "something else")
    with caplog.at_level(logging.WARNING):
        async with saver:
            assert await call(saver, "put", *put_of("t", 1)) == config("t", 1)
            assert len(told(caplog)) == 1
            assert "partition 0" in told(caplog)[0]
            assert "WRONGTYPE" in told(caplog)[0]
            await call(saver, "put", *put_of("t", 2, 1))
            assert len(told(caplog)) == 1
            audit.client.delete(trimmed)
            clock.now += 5
            await call(saver, "put_writes", config("t", 2), [("n", 1)], "task")
    assert len(told(caplog)) == 1
    assert audit.client.hget(trimmed, "n") == b"3"
    assert len(audit.check("t")) == 3


async def test_groups_that_hold_back(
    server: Server, prefix: str, audit: Audit, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is warned about once, and again if it does so again; what it needs stays."""
    saver, clock = trimming_saver(server, prefix, 0)
    shared = audit.keyspace.partition(0)
    number = 0

    async def put() -> None:
        nonlocal number
        number += 1
        clock.now += 5
        await call(saver, "put", *put_of("t", number))

    async with saver:
        with caplog.at_level(logging.WARNING):
            audit.client.hset(shared.positions, "slow", "0-0")
            for _ in range(3):
                await put()
            assert len(told(caplog)) == 1
            assert "'slow'" in told(caplog)[0]
            assert "'other'" not in told(caplog)[0]
            assert audit.client.xlen(shared.feed) == 3
            audit.client.hset(shared.positions, "other", "0-0")
            await put()
            assert len(told(caplog)) == 2
            assert "'other'" in told(caplog)[1]
            audit.client.hdel(shared.positions, "other", "slow")
            await put()
            assert audit.client.xlen(shared.feed) == 0
            audit.client.hset(shared.positions, "slow", audit.client.hget(shared.trimmed, "id"))
            for _ in range(2):
                await put()
            assert len(told(caplog)) == 3
            assert "'slow'" in told(caplog)[2]
            assert audit.client.xlen(shared.feed) == 2


async def test_a_put_that_fails_trims_nothing(server: Server, prefix: str, audit: Audit, call: Call) -> None:
    """Its error is the caller's."""
    saver, clock = trimming_saver(server, prefix, 0)
    async with saver:
        await call(saver, "put", *put_of("t", 1))
        audit.client.set(audit.keyspace.thread(b"u").log, "something else")
        with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, partitions=1) as other:
            other.put(*put_of("t", 2))
        clock.now += 5
        with pytest.raises(Exception, match="WRONGTYPE"):
            await call(saver, "put", *put_of("u", 1))
        assert audit.client.xlen(audit.keyspace.partition(0).feed) == 1


async def test_partitions_are_trimmed_for_themselves(server: Server, prefix: str) -> None:
    """A put trims the partition it went to, which keeps its share of the count."""
    saver = RedisStreamSaver.from_conn_string(server.url, prefix=prefix, partitions=4, feed_retention=4)
    clock = Clock()
    trimming = saver._operations.trimming
    assert trimming is not None
    trimming._clock = clock
    with Audit(server.url, prefix, 4) as audit:
        feeds = [audit.keyspace.partition(number).feed for number in range(4)]
        async with saver:
            for number in range(60):
                await saver.aput(*put_of(f"t{number}", 1))
            before = [audit.client.xlen(feed) for feed in feeds]
            assert min(before) > 1
            clock.now += 5
            await saver.aput(*put_of("t0", 2, 1))
        after = [audit.client.xlen(feed) for feed in feeds]
    number = audit.keyspace.partition_of(b"t0")
    assert after == [1 if place == number else length for place, length in enumerate(before)]


def test_without_bounds_nothing_is_trimmed(any_server: Server, prefix: str) -> None:
    """Nor is anything there that could."""
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:
        assert saver._operations.trimming is None


@pytest.mark.parametrize("bounds", [-1, timedelta(0), {"days": 1}, "a day", True])
def test_bounds_that_are_none(any_server: Server, bounds: Any) -> None:
    """They are refused when the saver is made."""
    with pytest.raises((InvalidArgument, TypeError), match="feed_retention"):
        RedisStreamSaver.from_conn_string(any_server.url, feed_retention=bounds)

"""Copies of the beginning of a history: the thread as it was then."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from eventlog.errors import CorruptEntry, HistoryGone, InvalidArgument, ThreadExists, ThreadNotFound
from saver import RedisStreamSaver
from tests.saver.audit import Audit, config, number_of, put_of
from tests.saver.drivers import Call
from tests.servers import Server


async def fill(call: Call, saver: Any, thread: str, last: int = 6, *, shared: bool = True) -> None:
    for number in range(1, last + 1):
        await call(saver, "put", *put_of(thread, number, number - 1 or None, shared=shared))
        await call(saver, "put_writes", config(thread, number), [("n", number)], "task")


def entries(audit: Audit, thread: str) -> list[Any]:
    return list(audit.client.xrange(audit.keyspace.thread(thread.encode()).log))


async def seen(call: Call, saver: Any, thread: str) -> list[Any]:
    return [(number_of(one), one.pending_writes) for one in await call(saver, "list", config(thread))]


async def test_copy_up_to_any_event(server: Server, prefix: str, saver: RedisStreamSaver, call: Call) -> None:
    """Named by its number, its id, or a time: the same entries up to it, the index of those, and the latest checkpoint of then."""
    await fill(call, saver, "t")
    with Audit(server.url, prefix) as audit:
        log = entries(audit, "t")
        for number, (entry_id, _) in enumerate(log, 1):
            at = datetime.fromtimestamp(int(entry_id.split(b"-")[0]) / 1000, timezone.utc)
            for form, until in (("number", number), ("text", f"@{number}"), ("id", entry_id.decode()), ("time", at)):
                copy = f"{form} {number}"
                await call(saver, "copy_thread", "t", copy, until=until)
                assert entries(audit, copy)[:-1] == log[:number]
                assert audit.kinds(copy)[-1] == "copied"
                found = await call(saver, "get_tuple", config(copy))
                assert number_of(found) == (number + 1) // 2
                assert len(found.pending_writes) == (number + 1) % 2
                assert [one for one, _ in await seen(call, saver, copy)] == list(range((number + 1) // 2, 0, -1))
        assert entries(audit, "t") == log


async def test_a_copy_goes_on_by_itself(saver: RedisStreamSaver, call: Call, server: Server, prefix: str) -> None:
    """What is put behind it is chained to it, and does not show in the source."""
    await fill(call, saver, "t")
    await call(saver, "copy_thread", "t", "copy", until=5)
    await call(saver, "put", *put_of("copy", 9, 3, shared=True))
    assert [one for one, _ in await seen(call, saver, "copy")] == [9, 3, 2, 1]
    assert len(await seen(call, saver, "t")) == 6
    with Audit(server.url, prefix) as audit:
        assert len(audit.check("copy")) == 7
    await call(saver, "delete_for_runs", ["r"])
    assert await seen(call, saver, "copy") == []


async def test_times(one_saver: RedisStreamSaver, call: Call) -> None:
    """One behind the end stands for all, in any zone; one before the beginning has nothing."""
    await fill(call, one_saver, "t")
    now = datetime.now(timezone(timedelta(hours=5)))
    await call(one_saver, "copy_thread", "t", "all", until=now + timedelta(days=1))
    assert len(await seen(call, one_saver, "all")) == 6
    with pytest.raises(InvalidArgument, match="no checkpoint"):
        await call(one_saver, "copy_thread", "t", "none", until=now - timedelta(days=1))
    assert await seen(call, one_saver, "none") == []


async def test_history_that_was_pruned(
    one_saver: RedisStreamSaver, call: Call, any_server: Server, prefix: str
) -> None:
    """Is not copied as if it were whole: before what was pruned is all there is, and behind the pruning."""
    await fill(call, one_saver, "t", shared=False)
    with Audit(any_server.url, prefix) as audit:
        log = entries(audit, "t")
        await call(one_saver, "prune", ["t"], keep_last=2)
        await call(one_saver, "put", *put_of("t", 7, 6))
        left = {int(fields[b"n"]): entry_id.decode() for entry_id, fields in entries(audit, "t")}
        assert 12 in left
        assert 3 not in left
        for until in (3, 8, 12, left[12], datetime.fromtimestamp(int(log[8][0][:-2]) / 1000, timezone.utc)):
            with pytest.raises(HistoryGone, match="'t' was pruned"):
                await call(one_saver, "copy_thread", "t", "copy", until=until)
        with pytest.raises((HistoryGone, InvalidArgument)):
            await call(one_saver, "copy_thread", "t", "copy", until=log[2][0].decode())
        assert audit.check("copy") == []
        await call(one_saver, "copy_thread", "t", "copy", until=13)
        assert [one for one, _ in await seen(call, one_saver, "copy")] == [6, 5]
        audit.check("copy")


async def test_a_damaged_log_is_no_pruned_one(
    one_saver: RedisStreamSaver, call: Call, any_server: Server, prefix: str
) -> None:
    """An entry that was taken out by hand is an error of the log."""
    await fill(call, one_saver, "t")
    with Audit(any_server.url, prefix) as audit:
        keys = audit.keyspace.thread(b"t")
        audit.client.xdel(keys.log, entries(audit, "t")[2][0])
        with pytest.raises(CorruptEntry, match="'t'"):
            await call(one_saver, "copy_thread", "t", "copy", until=8)


async def test_what_there_is_none_of(one_saver: RedisStreamSaver, call: Call) -> None:
    """Events that the thread does not have, and what names none."""
    await fill(call, one_saver, "t", 1)
    for until in (3, 10**9, "1-0", "9999999999999-0"):
        with pytest.raises(InvalidArgument, match="'t' has no (event|entry)"):
            await call(one_saver, "copy_thread", "t", "copy", until=until)
    for bad in (0, -1, "", "latest", "5-1", "0", "2026-01-01T00:00:00", datetime(2026, 1, 1)):  # noqa: DTZ001
        with pytest.raises(InvalidArgument, match="'t': until"):
            await call(one_saver, "copy_thread", "t", "copy", until=bad)
    for wrong in (True, 1.5, ["1-0"]):
        with pytest.raises(TypeError, match="until"):
            await call(one_saver, "copy_thread", "t", "copy", until=wrong)
    with pytest.raises(ThreadNotFound, match="'nobody'"):
        await call(one_saver, "copy_thread", "nobody", "copy", until=1)
    await call(one_saver, "copy_thread", "t", "copy", until=1)
    with pytest.raises(ThreadExists):
        await call(one_saver, "copy_thread", "t", "copy", until=2)

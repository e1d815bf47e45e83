"""Pointers that others wrote into the feed, and events that agree with no pointer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from eventlog import Activity, ActivityFeed, CorruptEntry, EventGone, InvalidArgument, SignatureInvalid, codec
from eventlog.feed.failures import Failure
from eventlog.feed.registration import decoded
from eventlog.framing import counted
from eventlog.signing import SigningKey
from saver import RedisStreamSaver
from tests.eventlog.feed.feeds import Worker, eventually, through
from tests.saver.audit import config, put_of
from tests.servers import Server

KEY = SigningKey.hmac(b"k" * 32)
OTHER = SigningKey.hmac(b"o" * 32)


@pytest.fixture
def written(any_server: Server, prefix: str) -> Iterator[RedisStreamSaver]:
    """A signed thread with a checkpoint and writes."""
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1, signing_key=KEY) as saver:
        where, checkpoint, metadata, versions = put_of("t", 1)
        saver.put(where, checkpoint, {**metadata, "source": "loop", "step": 1, "run_id": "r"}, versions)  # type: ignore[typeddict-item]
        saver.put_writes(config("t", 1), [("n", 1), ("m", 2)], "task")
        yield saver


def pointers(server: Server, prefix: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    with server.client() as client:
        found: list[Any] = client.xrange(f"{{{prefix}:0}}:feed")
    return found


def announce(server: Server, prefix: str, pointer: dict[bytes, bytes]) -> None:
    with server.client() as client:
        client.xadd(f"{{{prefix}:0}}:feed", pointer)


def activities(server: Server, prefix: str, **options: Any) -> tuple[ActivityFeed, list[Activity]]:
    feed = ActivityFeed.from_conn_string(server.url, prefix=prefix, **options)
    return feed, list(feed.tail("beginning", follow=False))


@pytest.mark.parametrize(
    ("number", "forged", "named"),
    [
        (0, {b"seq": b"7"}, "seq 7"),
        (0, {b"kind": b"writes"}, "kind 'writes'"),
        (0, {b"kind": b"pruned", b"ns": b"x"}, "kind 'pruned'"),
        (0, {b"kind": b"imported", b"seq": b"9"}, "seq 9"),
        (0, {b"ns": b"sub"}, "ns 'sub'"),
        (0, {b"checkpoint": b"other"}, "checkpoint 'other'"),
        (0, {b"source": b"input"}, "source 'input'"),
        (0, {b"step": b"9"}, "step 9"),
        (0, {b"run": b"other"}, "run 'other'"),
        (0, {b"channels": counted(b"secret")}, "channels"),
        (0, {b"channels": b""}, "channels"),
        (1, {b"kind": b"checkpoint"}, "kind 'checkpoint'"),
        (1, {b"channels": counted(b"n")}, "channels"),
        (1, {b"ns": b"sub"}, "ns 'sub'"),
    ],
)
@pytest.mark.parametrize("key", [None, KEY], ids=["without a key", "with a key"])
def test_a_forged_pointer_is_refused_when_it_is_loaded(
    written: RedisStreamSaver, any_server: Server, prefix: str, number: int, forged: Any, named: str, key: Any
) -> None:
    """The error names thread, pointer and field, with a key and without."""
    _, pointer = pointers(any_server, prefix)[number]
    announce(any_server, prefix, {**pointer, **forged})
    feed, found = activities(any_server, prefix, signing_key=key)
    with feed:
        with pytest.raises(CorruptEntry, match=rf"(?s)Pointer .*{named}.*thread 't'"):
            found[-1].load()
        with pytest.raises(CorruptEntry, match="Pointer"):
            written.load_values(found[-1])
        assert [one.load().sequence for one in found[:-1]] == [1, 2]


async def test_the_event_itself_is_checked_with_a_key(
    written: RedisStreamSaver, any_server: Server, prefix: str
) -> None:
    """An event that another key signed, or none, is refused; without a key it is believed. Both drivers do so."""
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as unsigned:
        unsigned.put(*put_of("u", 1))
    feed, found = activities(any_server, prefix)
    assert [one.load().sequence for one in found] == [1, 2, 1]
    feed.close()
    feed, found = activities(any_server, prefix, signing_key=KEY)
    assert [one.load().sequence for one in found[:2]] == [1, 2]
    for load in (found[2].load, lambda: written.load_values(found[2])):
        with pytest.raises(SignatureInvalid, match="'u'"):
            load()
    with pytest.raises(SignatureInvalid, match="'u'"):
        await found[2].aload()
    await feed.aclose()
    feed, found = activities(any_server, prefix, signing_key=OTHER)
    with feed, pytest.raises(SignatureInvalid, match="not accepted"):
        found[0].load()
    feed, found = activities(any_server, prefix, signing_key=OTHER, accepted_keys=[KEY])
    with feed:
        assert found[0].load().sequence == 1


def test_all_genuine_pointers_agree_with_their_events(any_server: Server, prefix: str, tmp_path: Any) -> None:
    """Of every kind, of wide and large puts, and of odd metadata, with a key."""
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1, signing_key=KEY) as saver:
        where, checkpoint, metadata, _ = put_of("t", 1)
        for step in (1.5, "x1", None, "9" * 5000, -1, True):
            names = [f"c{number}" for number in range(3 if step != -1 else 2500)]
            wide = {**checkpoint, "id": f"{checkpoint['id']}{str(step)[:9]}", "channel_values": dict.fromkeys(names, 1)}
            wide["channel_versions"] = dict.fromkeys(names, 1)
            saver.put(where, wide, {**metadata, "step": step, "run_id": 7}, wide["channel_versions"])  # type: ignore[typeddict-item, arg-type]
        saver.put(*put_of("t", 2))
        saver.put_writes(config("t", 2), [(f"c{number}", 1) for number in range(1100)], "task")
        saver.put_writes(config("t", 2), [("one", 1)], "task2")
        saver.copy_thread("t", "copy")
        saver.copy_thread("t", "beginning", until=3)
        saver.export_threads(tmp_path / "copy.agentlog", ["copy"])
        saver.delete_thread("copy")
        saver.import_threads(tmp_path / "copy.agentlog")
        loaded = kinds_loaded(any_server, prefix)
        saver.delete_for_runs(["7"])
        saver.put(*put_of("t", 3))
        saver.prune(["t"])
    every = {"checkpoint", "writes", "copied", "imported", "deleted", "runs_deleted", "pruned"}
    assert loaded | kinds_loaded(any_server, prefix) == every


def kinds_loaded(server: Server, prefix: str) -> set[str]:
    """The kinds of all activities; each was loaded, or is gone."""
    feed, found = activities(server, prefix, signing_key=KEY)
    with feed:
        for one in found:
            try:
                one.load()
            except EventGone as gone:
                assert (gone.thread_id, gone.event_id) == (one.thread_id, one.event_id)
                assert one.kind not in {"runs_deleted", "pruned"}
        return {one.kind for one in found}


def test_bad_keys_of_a_feed_are_refused(any_server: Server) -> None:
    """Before anything is read."""
    with pytest.raises(TypeError, match="SigningKey, not bytes"):
        ActivityFeed.from_conn_string(any_server.url, signing_key=b"k" * 32)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="go with a signing_key"):
        ActivityFeed.from_conn_string(any_server.url, accepted_keys=[KEY])


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_an_error_of_another_event_is_a_failure(any_server: Server, prefix: str, driver: str) -> None:
    """A handler that loads another thread's event, which is gone, has not handled its own."""
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as saver,
        ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed,
    ):
        saver.put(*put_of("gone", 1))
        (other,) = feed.tail("beginning", follow=False)
        saver.delete_thread("gone")
        saver.put(*put_of("kept", 1))
        group = feed.group("g")
        group.register()
        worker = Worker(
            any_server.url,
            prefix,
            "g",
            lambda activity: feed.load(other) if activity.thread_id == "kept" else None,
            driver=driver,
            max_attempts=2,
        )
        eventually(lambda: group.lag().parked == 1)
        worker.stop()
        (parked,) = group.parked()
        assert (parked.thread_id, parked.attempts) == ("kept", 2)
        assert "EventGone" in parked.error


def test_errors_of_handlers_are_logged_in_one_line(
    any_server: Server, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With escapes for control characters, so that no line of a log is forged."""

    def fail(_: Activity) -> None:
        raise ValueError("x\n2026-11-29 INFO all is well \x1b[2J")

    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as saver,
        ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed,
        caplog.at_level(logging.WARNING, "eventlog.feed"),
    ):
        saver.put(*put_of("t\nforged", 1))
        feed.group("g").register()
        worker = Worker(any_server.url, prefix, "g", fail, max_attempts=1)
        eventually(lambda: through(feed.group("g")) or feed.group("g").lag().parked)
        worker.stop()
    messages = [record.getMessage() for record in caplog.records]
    assert any(r"x\n2026-11-29 INFO all is well \x1b[2J" in message for message in messages)
    assert all(message.isprintable() for message in messages)


RECORD = {"v": 1, "created": 1, "start": "beginning", "filters": {"threads": ["t"]}}
FAILURE = {"attempts": 1, "error": "e", "traceback": "t", "last": 1, "member": "m"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"created": 2**63},
        {"created": "1"},
        {"created": None},
        {"start": 1},
        {"filters": {"kinds": 5}},
        {"filters": {"kinds": [[]]}},
        {"filters": {"threads": [1]}},
        {"filters": {"nodes": {}}},
    ],
)
def test_forged_registrations_are_refused(wrong: dict[str, Any]) -> None:
    """A record with other types than this package writes is named, wherever it is read."""
    assert decoded("g", codec.encode(RECORD)) == RECORD
    with pytest.raises(CorruptEntry, match="record of group 'g' .* Drop the group"):
        decoded("g", codec.encode({**RECORD, **wrong}))


@pytest.mark.parametrize(
    "wrong",
    [{"last": 2**63}, {"last": -1}, {"last": 1.5}, {"error": b"e"}, {"member": None}, {"attempts": "1"}, {"x": 1}],
)
def test_forged_failures_are_refused(wrong: dict[str, Any]) -> None:
    """A record with other types than this package writes is named, with group and thread."""
    assert Failure.decode("g", b"t", codec.encode(FAILURE)) == Failure(1, "e", "t", 1, "m")
    with pytest.raises(CorruptEntry, match="Group 'g': the record of the failure in thread 't'"):
        Failure.decode("g", b"t", codec.encode({**FAILURE, **wrong}))

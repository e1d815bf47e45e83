"""Bytes of other shapes raise a typed error that names the thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventlog import codec
from eventlog.errors import CorruptEntry, EventLogError
from eventlog.events import encode_versions
from projections.maintenance.check_registry import check_registry
from projections.registry.rebuild import rebuild_registry
from saver import RedisStreamSaver
from tests.projections.steps import Steps
from tests.saver.audit import Audit, config, number_of, put_of

READS: list[Callable[[RedisStreamSaver], object]] = [
    lambda saver: saver.get_tuple(config("t")),
    lambda saver: saver.get_tuple(config("t", 1)),
    lambda saver: list(saver.list({"configurable": {"thread_id": "t"}})),
    lambda saver: saver.get_delta_channel_history(config=config("t"), channels=["n"]),
]
CALLS: list[Callable[[RedisStreamSaver], object]] = [
    *READS,
    lambda saver: saver.put(*put_of("t", 9, 3)),
    lambda saver: saver.put_writes(config("t", 3), [("n", 1)], "task"),
    lambda saver: saver.prune(["t"]),
    lambda saver: saver.delete_for_runs(["r"]),
    lambda saver: saver.copy_thread("t", "copy"),
]


@pytest.fixture
def thread(saver: RedisStreamSaver, audit: Audit) -> Callable[[dict[str, Any]], None]:
    """Adds an entry to a thread of three checkpoints: the last entry with some fields changed."""
    for number in (1, 2, 3):
        saver.put(*put_of("t", number, number - 1 or None))

    def add(changes: dict[str, Any]) -> None:
        log = audit.keyspace.thread(b"t").log
        ((last, fields),) = audit.client.xrevrange(log, count=1)
        entry_id = b"%d-0" % (int(last.partition(b"-")[0]) + 1)
        changed = {**fields, b"n": b"4", **{name.encode(): value for name, value in changes.items()}}
        audit.client.xadd(log, changed, entry_id)

    return add


@pytest.mark.parametrize("kind", ["pruned", "runs_deleted"])
@pytest.mark.parametrize(
    "odd",
    [
        {"dropped": [["a"]]},
        {"dropped": [[1, 2]]},
        {"dropped": ["ab"]},
        {"hidden": [["", "a", "b"]]},
        {"hidden": [None]},
        {"gone": [[1]]},
        {"gone": [["1", "2", "d"]]},
        {"gone": [[1, 2, 3]]},
        {"gone": {"1": 2}},
        {"runs": [1], "strategy": 1},
    ],
    ids=str,
)
def test_odd_removals(
    saver: RedisStreamSaver, thread: Callable[[dict[str, Any]], None], kind: str, odd: dict[str, Any]
) -> None:
    """A removal of another shape stops its thread only, and the error names the thread."""
    envelope = {"strategy": "", "runs": [], "dropped": [], "hidden": [], "gone": [], **odd}
    thread({"k": kind.encode(), "e": codec.encode(envelope)})
    for call in CALLS:
        with pytest.raises(CorruptEntry, match="of thread 't'"):
            call(saver)
    saver.delete_thread("t")
    assert list(saver.list(None)) == []


@pytest.mark.parametrize(
    ("number", "gone"),
    [
        (b"-4", []),
        (b"4.0", []),
        (b"9" * 5000, []),
        (b"%d" % 2**70, []),
        pytest.param(
            b"%d" % 2**70,
            [[4, 2**64 - 1, ""]],
        ),
    ],
    ids=["negative", "no int", "thousands of digits", "past 64 bits", "past 64 bits, with all before gone"],
)
def test_odd_numbers(
    saver: RedisStreamSaver, thread: Callable[[dict[str, Any]], None], number: bytes, gone: list[Any]
) -> None:
    """A sequence number that cannot be next stops its thread, and the error names the thread."""
    envelope = {"strategy": "", "dropped": [], "hidden": [], "gone": gone}
    thread({"n": number, "k": b"pruned", "e": codec.encode(envelope)})
    for call in CALLS:
        with pytest.raises(CorruptEntry, match="of thread 't'"):
            call(saver)
    saver.delete_thread("t")
    assert list(saver.list(None)) == []


@pytest.mark.parametrize("token", ["iZZ", "i", "", "fZZ", "i" + "9" * 5000, "x"], ids=lambda token: str(token)[:9])
def test_odd_versions(saver: RedisStreamSaver, thread: Callable[[dict[str, Any]], None], token: str) -> None:
    """An impossible version is reported where it is read, and its checkpoint can still be pruned."""
    thread({"s": encode_versions({"n": token})})
    for call in (READS[0], READS[2]):
        with pytest.raises(CorruptEntry, match="is not a version"):
            call(saver)
    assert number_of(saver.get_tuple(config("t", 1))) == 1
    saver.put(*put_of("t", 9, 3))
    saver.prune(["t"])
    assert [number_of(found) for found in saver.list(config("t"))] == [9]


def nested(depth: int, kind: str) -> Any:
    """Containers nested to some depth."""
    found: Any = "innermost"
    for _ in range(depth):
        found = [found] if kind == "list" else {"a": found}
    return found


@pytest.mark.parametrize(
    ("depth", "kind"),
    [
        *((depth, kind) for depth in (100, 2000, 100_000) for kind in ("list", "dict")),
        pytest.param(450, "list"),
    ],
)
def test_deep_metadata(saver: RedisStreamSaver, depth: int, kind: str) -> None:
    """Deeply nested metadata comes back, or is refused before anything is stored."""
    given, checkpoint, metadata, versions = put_of("t", 1)
    metadata["deep"] = nested(depth, kind)
    try:
        saver.put(given, checkpoint, metadata, versions)
    except EventLogError:
        assert saver.get_tuple(config("t")) is None
        return
    for found in (saver.get_tuple(config("t")), saver.get_tuple(config("t", 1)), *saver.list(config("t"))):
        assert found is not None
        assert str(dict(found.metadata)["deep"]) == str(nested(depth, kind))


@pytest.mark.parametrize(("member", "score"), [(b"t\xff\xfe", 5), (b"tother", float("inf")), (b"tother", 1e300)])
def test_odd_threads(saver: RedisStreamSaver, audit: Audit, member: bytes, score: float) -> None:
    """Foreign members of the view of threads hide no thread, and are reported; a rebuild restores the view."""
    saver.put(*put_of("t", 1))
    keys = audit.keyspace.partition(0)
    audit.client.zadd(keys.threads, {member: score})
    assert [one.thread_id for one in saver.threads()] == ["t"]
    if score == 5:
        assert len(list(saver.list(None))) == 1
    (found,) = Steps(saver).run(check_registry(audit.keyspace, 0))
    assert ("is no thread" if score == 5 else "the feed does not have it") in found.what
    audit.client.zadd(keys.threads, {b"tt": score})
    assert len(Steps(saver).run(check_registry(audit.keyspace, 0))) == 2
    Steps(saver).run(rebuild_registry(audit.keyspace, keys))
    assert [one.thread_id for one in saver.threads()] == ["t"]
    assert len(list(saver.list(None))) == 1


def test_odd_entries_in_the_feed(saver: RedisStreamSaver, audit: Audit) -> None:
    """A rebuild names the entry of the feed that prevents it and leaves nothing; without the entry it succeeds."""
    saver.put(*put_of("t", 1))
    keys = audit.keyspace.partition(0)
    added = audit.client.xadd(keys.feed, {"foo": "bar"})
    audit.client.delete(keys.threads)
    before = audit.everything()
    for call in (lambda: list(saver.list(None)), lambda: list(saver.threads()), lambda: saver.rebuild("t")):
        with pytest.raises(CorruptEntry, match=f"{added.decode()} of .*:feed.* XDEL"):
            call()
    assert audit.everything() == before
    audit.client.xdel(keys.feed, added)
    assert len(list(saver.list(None))) == 1
    assert [one.thread_id for one in saver.threads()] == ["t"]

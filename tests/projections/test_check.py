"""Views are compared with the log, and rebuilt while agents write and read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from eventlog.errors import ThreadNotFound
from eventlog.framing import ordered
from eventlog.keys import checkpoint_sort_key
from projections.maintenance.check import check_thread
from projections.maintenance.check_registry import check_registry
from projections.maintenance.rebuild import rebuild_thread
from saver import RedisStreamSaver
from tests.projections.conftest import Open
from tests.projections.steps import Steps, is_call
from tests.saver.audit import Audit, checkpoint_id, config, number_of, put_of

pytestmark = pytest.mark.telling

PLACE = checkpoint_sort_key(b"", checkpoint_id(3).encode())


@pytest.fixture
def thread(saver: RedisStreamSaver, audit: Audit) -> Any:
    """The keys of a thread with checkpoints in two namespaces, writes, a fork, and deltas."""
    for number in (1, 2, 3):
        saver.put(*put_of("t", number, number - 1 or None, shared=True))
        saver.put_writes(config("t", number), [("n", number)], f"task {number}")
    saver.put(*put_of("t", 2, 1, namespace="sub", run="other"))
    for namespace in ("", "sub"):
        saver.get_tuple(config("t", None, namespace))
    return audit.keyspace.thread(b"t")


Damage = Callable[[Any, Any], object]
DAMAGES: list[tuple[str, str, Damage]] = [
    ("index", "missing", lambda client, keys: client.delete(keys.index)),
    ("order", "missing", lambda client, keys: client.delete(keys.order)),
    ("index", "sequence number is 99", lambda client, keys: client.hset(keys.index, b"n", b"99")),
    ("index", "digest is x", lambda client, keys: client.hset(keys.index, b"d", b"x")),
    ("index", "last entry", lambda client, keys: client.hdel(keys.index, b"l")),
    ("index", "number of entries", lambda client, keys: client.hincrby(keys.index, b"c", 1)),
    ("index", "hidden checkpoints is there", lambda client, keys: client.hset(keys.index, b"h", b"1")),
    ("index", "channel 'n', version 'v2' is missing", lambda client, keys: client.hdel(keys.index, b"v0:3:sv2n")),
    ("index", "channel 'n', version 'v3' is 1-0", lambda client, keys: client.hset(keys.index, b"v0:3:sv3n", b"1-0")),
    (
        "index",
        "channel 'n', version 'v8' is there",
        lambda client, keys: client.hset(keys.index, b"v0:3:sv8n", b"1-0"),
    ),
    ("index", "field b'odd' is there", lambda client, keys: client.hset(keys.index, b"odd", b"1")),
    ("order", "says that the view is whole, is missing", lambda client, keys: client.zrem(keys.order, b"")),
    (
        "order",
        f"checkpoint '{checkpoint_id(3)}' in entry",
        lambda client, keys: client.zremrangebylex(keys.order, b"[c" + PLACE, b"(c" + PLACE + b"\xff"),
    ),
    (
        "order",
        f"writes of task 'task 3' to checkpoint '{checkpoint_id(3)}'",
        lambda client, keys: client.zremrangebylex(keys.order, b"[w" + PLACE, b"(w" + PLACE + b"\xff"),
    ),
    (
        "order",
        "of namespace 'x' is there",
        lambda client, keys: client.zadd(keys.order, {b"c" + ordered(b"x") + ordered(b"i") + b"5-0": 0}),
    ),
    ("order", "member b'odd' is there", lambda client, keys: client.zadd(keys.order, {b"odd": 0})),
    ("order", "says that the view is whole, is score 5", lambda client, keys: client.zadd(keys.order, {b"": 5})),
    ("head", "value of channel 'n'", lambda client, keys: _spoil(client, keys.head(b""))),
    (
        "head",
        "pending writes",
        lambda client, keys: client.hset(
            keys.head(b""), b"!1", client.hget(keys.head(b""), b"!1").replace(b"k 3", b"k 9")
        ),
    ),
    ("head", "parent", lambda client, keys: client.hset(keys.head(b""), b"p", b"nobody")),
    ("head", "is that of checkpoint", lambda client, keys: client.hset(keys.head(b"sub"), b"at", b"7-0")),
    ("head", "cannot be read", lambda client, keys: client.hset(keys.head(b""), b"e", b"\xff")),
    ("registry", "threads: the thread is missing", lambda client, keys: client.zrem(keys.shared.threads, b"tt")),
    ("registry", "threads: missing", lambda client, keys: client.delete(keys.shared.threads)),
    (
        "registry",
        "expiries: the thread's end is noted",
        lambda client, keys: client.zadd(keys.shared.expiries, {b"tt": 1}),
    ),
    ("registry", "run 'other' does not name", lambda client, keys: client.zrem(keys.shared.runs, b"r5:othert")),
]


def _spoil(client: Any, key: bytes) -> None:
    """Gives a head an earlier version of a channel's value."""
    head = client.hgetall(key)
    older = {name: value for name, value in head.items() if name not in (b"=n", b"#n") and not name.startswith(b"+")}
    client.delete(key)
    client.hset(key, mapping={**older, b"=n": b"3:sv3E"})


@pytest.mark.parametrize(("view", "words", "damage"), DAMAGES, ids=[f"{view}: {words}" for view, words, _ in DAMAGES])
def test_damage_is_found_and_mended(
    saver: RedisStreamSaver, audit: Audit, thread: Any, view: str, words: str, damage: Damage
) -> None:
    """A check names each kind of damage to a view and changes nothing; a rebuild repairs it."""
    assert saver.check("t").ok
    damage(audit.client, thread)
    before = {key: audit.client.dump(key) for key in audit.everything()}
    found = saver.check("t")
    assert {one.view for one in found.differences} == {view}
    assert any(words in one.what for one in found.differences), found.differences
    assert {key: audit.client.dump(key) for key in audit.everything()} == before
    done = saver.rebuild("t")
    assert (done.events, done.checkpoints, done.heads) == (7, 4, 2)
    assert saver.check("t") == found.__class__("t", 7, 4, 2, 2, ())
    audit.check("t")
    assert number_of(saver.get_tuple(config("t"))) == 3


def test_a_log_that_is_damaged_or_gone(saver: RedisStreamSaver, audit: Audit, thread: Any) -> None:
    """A damaged or lost log is a difference; a thread that never existed is an error."""
    entry_id = audit.client.xrange(thread.log)[2][0]
    audit.client.xdel(thread.log, entry_id)
    (found,) = saver.check("t").differences
    assert found.view == "log"
    assert "sequence number 3" in found.what
    audit.client.delete(thread.log)
    (found,) = saver.check("t").differences
    assert "is gone" in found.what
    with pytest.raises(ThreadNotFound, match="'nobody'"):
        saver.check("nobody")
    with pytest.raises(ThreadNotFound, match="'nobody'"):
        saver.rebuild("nobody")


def test_a_log_that_moves_on_is_no_difference(saver: RedisStreamSaver, steps: Steps, audit: Audit, thread: Any) -> None:
    """Events, a pruning and a deletion between the requests of a check are no differences."""
    numbers = iter(range(4, 1000))

    def write(_: Any) -> None:
        number = next(numbers)
        if number < 12:
            saver.put(*put_of("t", number, number - 1, shared=True))
            saver.put_writes(config("t", number), [("n", number)], "task")
        if number == 8:
            saver.prune(["t"], keep_last=2)
        if number == 10:
            saver.delete_thread("t")

    assert steps.run(check_thread(thread), write).ok


def test_damage_is_found_while_the_log_moves_on(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, thread: Any
) -> None:
    """Surplus and wrong parts of an index are found although events come between the requests."""
    audit.client.hset(thread.index, b"v0:3:sv2n", b"1-0")
    audit.client.zadd(thread.order, {b"odd": 0})
    numbers = iter(range(4, 14))

    def write(_: Any) -> None:
        number = next(numbers, None)
        if number is not None:
            saver.put(*put_of("t", number, number - 1))

    found = steps.run(check_thread(thread), write)
    assert [one.view for one in found.differences] == ["index", "order"]


def test_a_rebuild_between_other_calls(saver: RedisStreamSaver, steps: Steps, audit: Audit, thread: Any) -> None:
    """Readers find the right state between all requests of a rebuild, and the views are right in the end."""
    audit.client.hset(thread.index, b"v0:3:sv2n", b"1-0")
    newest = 3

    def between(request: Any) -> None:
        nonlocal newest
        if newest < 20:
            newest += 1
            saver.put(*put_of("t", newest, newest - 1, shared=True))
            saver.put_writes(config("t", newest), [("n", newest)], "task")
        if newest == 8:
            newest += 1
            saver.prune(["t"], keep_last=3)
            saver.put(*put_of("t", newest, newest - 1))
        if is_call(request, "store_index") and newest % 3 == 0:
            saver.put(*put_of("t", newest, newest - 1, shared=newest % 2 == 0))  # once more, with another value
        assert number_of(saver.get_tuple(config("t"))) == newest

    steps.run(rebuild_thread(thread), between)
    assert saver.check("t").ok
    audit.check("t")


def test_a_rebuild_while_agents_write_and_read(on: Open, audit: Audit) -> None:
    """No reader sees a missing state, or an older one than before, and no call fails."""
    saver = on()
    for number in range(1, 300):
        saver.put(*put_of("t", number, number - 1 or None, shared=True))
    ended = threading.Event()
    errors: list[BaseException] = []

    def write() -> None:
        number = 300
        while not ended.is_set():
            saver.put(*put_of("t", number, number - 1, shared=True))
            saver.put_writes(config("t", number), [("n", number)], "task")
            number += 1

    def read() -> None:
        reader, seen = on(), 0
        while not ended.is_set():
            found = reader.get_tuple(config("t"))
            assert found is not None
            number = number_of(found)
            assert number >= seen
            seen = number
            assert number_of(reader.get_tuple(config("t", 150))) == 150

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
            ended.set()

    workers = [threading.Thread(target=guarded, args=(work,)) for work in (write, read, read)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(4):
            saver.rebuild("t")
            assert saver.check("t").ok
    finally:
        ended.set()
        for worker in workers:
            worker.join()
    assert not errors, errors
    audit.check("t")


REGISTRY: list[tuple[str, Damage]] = [
    ("thread 't' is missing", lambda client, keys: client.zrem(keys.shared.threads, b"tt")),
    ("thread 'nobody' is there", lambda client, keys: client.zadd(keys.shared.threads, {b"tnobody": 5})),
    ("is last active at 5", lambda client, keys: client.zadd(keys.shared.threads, {b"tt": 5})),
    ("is missing", lambda client, keys: client.zrem(keys.shared.runs, b"t1:tr")),
    ("is there", lambda client, keys: client.zadd(keys.shared.runs, {b"r1:xt": 0})),
    ("'odd' is there", lambda client, keys: client.zadd(keys.shared.runs, {b"odd": 0})),
    ("runs: missing", lambda client, keys: client.delete(keys.shared.runs)),
]


@pytest.mark.parametrize(("words", "damage"), REGISTRY, ids=[words for words, _ in REGISTRY])
def test_registries(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, thread: Any, words: str, damage: Damage
) -> None:
    """A check names differences between a registry and its feed; a rebuild repairs them."""
    saver.put(*put_of("u", 1))
    saver.copy_thread("t", "copy")
    saver.delete_thread("u")
    assert steps.run(check_registry(audit.keyspace, 0)) == []
    damage(audit.client, thread)
    found = steps.run(check_registry(audit.keyspace, 0))
    assert any(words in one.what for one in found), found
    saver.rebuild("t")
    assert steps.run(check_registry(audit.keyspace, 0)) == []


def test_lists_of_threads(on: Open, steps: Steps, audit: Audit) -> None:
    """Threads come once each with their sizes, the last active first, also if the registry is missing."""
    saver = on()
    for number in range(40):
        saver.put(*put_of(f"t{number % 30}", number + 1))
        time.sleep(0.002)  # so that no two are of the same millisecond
    saver.put(*put_of("t3", 50, namespace="sub"))
    for _ in range(2):
        found = list(saver.threads())
        assert [one.thread_id for one in found[:2]] == ["t3", "t9"]
        assert len({one.thread_id for one in found}) == len(found) == 30
        assert (found[0].events, found[0].checkpoints, found[0].namespaces) == (3, 3, ("", "sub"))
        assert (found[0].bytes or 0) > 1000
        assert found[0].expires is None
        assert found == sorted(found, key=lambda one: one.last_activity, reverse=True)
        since = found[10].last_activity
        assert {one.thread_id for one in saver.threads(since=since)} >= {one.thread_id for one in found[:11]}
        assert [one.thread_id for one in saver.threads(limit=3)] == [one.thread_id for one in found[:3]]
        audit.client.delete(audit.keyspace.partition(0).threads)
    on(ttl=60).put(*put_of("t5", 60))
    (first,) = saver.threads(limit=1)
    assert first.expires is not None

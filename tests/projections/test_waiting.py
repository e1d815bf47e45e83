"""Checkpoints with more waiting writes than one script reads."""

from __future__ import annotations

from typing import Any

import pytest

from eventlog.errors import ThreadBusy
from eventlog.keys import ThreadKeys
from eventlog.limits import Limits
from projections.checkpoints.ancestry import read_ancestry
from projections.checkpoints.read import read_checkpoint, read_latest
from projections.checkpoints.waiting import ATTEMPTS
from saver import RedisStreamSaver
from tests.projections.conftest import Open
from tests.projections.steps import Steps, is_call
from tests.saver.audit import Audit, checkpoint_id, config, put_of

MANY = 1_100
"""More entries of writes than two scripts read."""
ROUND_TRIPS = 1 + MANY // 500


@pytest.fixture
def keys(audit: Audit) -> ThreadKeys:
    return audit.keyspace.thread(b"t")


@pytest.fixture
def waiting(saver: RedisStreamSaver) -> RedisStreamSaver:
    """A saver with a checkpoint on which many tasks wait."""
    saver.put(*put_of("t", 1))
    for number in range(MANY):
        saver.put_writes(config("t", 1), [("n", number)], f"task {number:05}")
    return saver


def numbers(found: Any) -> list[int]:
    """What was written, sorted."""
    return sorted(value for _, _, value in found.pending_writes)


def pending(saver: RedisStreamSaver) -> list[Any]:
    """The pending writes of the latest checkpoint."""
    found = saver.get_tuple(config("t"))
    assert found is not None
    return found.pending_writes or []


def test_many_writes_are_read_in_pages(waiting: RedisStreamSaver, steps: Steps, audit: Audit, keys: ThreadKeys) -> None:
    """A read from the log takes a round trip for each 500, and finds all of them; a read of the head takes one."""
    steps.run(read_latest(keys, ""))
    assert len(steps.requests) == 1
    assert numbers(waiting.get_tuple(config("t"))) == list(range(MANY))
    audit.client.delete(keys.head(b""))
    steps.run(read_checkpoint(keys, "", checkpoint_id(1)))
    assert len(steps.requests) == ROUND_TRIPS
    assert numbers(waiting.get_tuple(config("t", 1))) == list(range(MANY))
    steps.run(read_latest(keys, ""))
    assert len(steps.requests) == ROUND_TRIPS + 1, "the head is stored"
    assert numbers(waiting.get_tuple(config("t"))) == list(range(MANY))


def test_every_reader_pages(waiting: RedisStreamSaver, steps: Steps, keys: ThreadKeys) -> None:
    """So do lists, past states, ancestors, checks and rebuilds."""
    (listed,) = waiting.list(config("t"))
    assert numbers(listed) == list(range(MANY))
    past = waiting.get_tuple_as_of(config("t"), MANY + 1)
    assert numbers(past) == list(range(MANY))
    assert waiting.check("t").differences == ()
    assert waiting.rebuild("t").heads == 1
    assert waiting.check("t").differences == ()
    waiting.put(*put_of("t", 2, 1, channels=("m",)))
    ancestry = steps.run(read_ancestry(keys, "", checkpoint_id(2), ["n"]))
    assert len(ancestry["n"].writes) == MANY


def test_signed_writes_are_read_in_pages(on: Open) -> None:
    """A saver with a key checks all of them."""
    saver = on(signing_key=b"k" * 32)
    saver.put(*put_of("t", 1))
    for number in range(MANY):
        saver.put_writes(config("t", 1), [("n", number)], f"task {number:05}")
    assert numbers(saver.get_tuple(config("t"))) == list(range(MANY))


@pytest.mark.parametrize("task", ["a", "z"])
def test_writes_between_two_pages(waiting: RedisStreamSaver, steps: Steps, keys: ThreadKeys, task: str) -> None:
    """Those that come later are left out: all pages are of one state, which is read once."""

    def before(request: Any) -> None:
        if is_call(request, "read_writes"):
            waiting.put_writes(config("t", 1), [("n", -1)], f"{task} {len(steps.requests)}")
            waiting.put(*put_of("t", 2 + len(steps.requests), 1))

    found = steps.run(read_checkpoint(keys, "", checkpoint_id(1)), before)
    assert len(steps.requests) == ROUND_TRIPS
    assert found is not None
    assert len(found.writes) == MANY


def test_a_checkpoint_that_is_saved_again_between_two_pages(
    waiting: RedisStreamSaver, steps: Steps, keys: ThreadKeys
) -> None:
    """It is read again, values and writes."""
    left = 1

    def before(request: Any) -> None:
        nonlocal left
        if left and is_call(request, "read_writes"):
            left -= 1
            waiting.put(*put_of("t", 1, channels=("n", "m")))

    found = steps.run(read_checkpoint(keys, "", checkpoint_id(1)), before)
    assert found is not None
    assert set(found.values) == {"n", "m"}
    assert len(found.writes) == MANY


def test_a_checkpoint_that_is_removed_between_two_pages(
    waiting: RedisStreamSaver, steps: Steps, keys: ThreadKeys
) -> None:
    """It is none."""

    def before(request: Any) -> None:
        if is_call(request, "read_writes"):
            waiting.delete_thread("t")

    assert steps.run(read_checkpoint(keys, "", checkpoint_id(1)), before) is None


def test_a_checkpoint_that_is_saved_again_and_again(waiting: RedisStreamSaver, steps: Steps, keys: ThreadKeys) -> None:
    """The read gives up after some attempts, and says so."""
    saved = 0

    def before(request: Any) -> None:
        nonlocal saved
        if is_call(request, "read_writes"):
            saved += 1
            waiting.put(*put_of("t", 1, channels=("n", f"m{saved}")))

    with pytest.raises(ThreadBusy, match="'t' were removed or saved again each time.*Call again"):
        steps.run(read_checkpoint(keys, "", checkpoint_id(1)), before)
    assert saved == ATTEMPTS


def test_many_early_writes(saver: RedisStreamSaver, audit: Audit, keys: ThreadKeys) -> None:
    """A checkpoint that comes after more writes than a script reads gets its head from the next read."""
    for number in range(MANY):
        saver.put_writes(config("t", 1), [("n", number)], f"task {number:05}")
    saver.put(*put_of("t", 1))
    assert not audit.client.exists(keys.head(b""))
    assert numbers(saver.get_tuple(config("t"))) == list(range(MANY))
    assert audit.client.exists(keys.head(b""))
    audit.check("t")


def test_a_task_that_writes_often(saver: RedisStreamSaver, audit: Audit) -> None:
    """A put looks at its newest entries only. A repetition of an old call changes no state, one of a newer call nothing."""
    saver.put(*put_of("t", 1))
    for number in range(MANY):
        saver.put_writes(config("t", 1), [("__interrupt__", number)], "task")
        if number == 0:
            saver.put_writes(config("t", 1), [("n", 0)], "task")
    before = pending(saver)
    length = len(audit.check("t"))
    saver.put_writes(config("t", 1), [("__interrupt__", MANY - 1)], "task")
    assert len(audit.check("t")) == length
    saver.put_writes(config("t", 1), [("n", 0)], "task")
    assert len(audit.check("t")) == length + 1
    assert pending(saver) == before
    assert ("task", "n", 0) in before
    assert ("task", "__interrupt__", MANY - 1) in before


def test_a_large_put_of_writes_that_is_repeated(saver: RedisStreamSaver, audit: Audit) -> None:
    """It is known as a whole, however many entries it has."""
    saver.put(*put_of("t", 1))
    writes = [(f"n{number}", number) for number in range(15_500)]
    for _ in range(2):
        saver.put_writes(config("t", 1), writes, "task")
        assert len(audit.check("t")) == 1 + 16


def sizes(audit: Audit, keys: ThreadKeys) -> int:
    """The bytes of values and writes in a head, 0 if there is none."""
    return sum(len(part) for name, part in audit.client.hgetall(keys.head(b"")).items() if name[:1] in b"=+!")


@pytest.mark.parametrize("kind", ["new channels", "longer values", "deltas", "writes"])
def test_small_puts_that_add_up_above_a_limit(on: Open, audit: Audit, keys: ThreadKeys, kind: str) -> None:
    """A head does not grow above it. Reads take the log then, until the state is smaller, and agree with a rebuild."""
    limits = Limits(head_bytes=20_000)
    saver = on(limits=limits)
    channels = tuple(f"c{number}" for number in range(30))
    were_stored = set()
    last = None
    for number in range(1, 31):
        put = put_of("t", number, last)
        if kind == "new channels":
            put[1]["channel_values"] = dict.fromkeys(channels[:number], "x" * 1_500)
            put[1]["channel_versions"] = {name: f"v{place}" for place, name in enumerate(channels[:number])}
            put = (*put[:3], {channels[number - 1]: f"v{number - 1}"})
        elif kind == "longer values":
            put[1]["channel_values"] = {"n": bytes((number * place) % 251 for place in range(number * 900))}
        elif kind == "deltas":
            put[1]["channel_values"] = {"n": "".join(f"{place:x} " for place in range(number * 200))}
        if kind != "writes" or number == 1:
            saver.put(*put)
            last = number
        else:
            saver.put_writes(config("t", 1), [("n", f"{number}" * 500)], f"task {number}")
        assert sizes(audit, keys) <= limits.head_bytes
        were_stored.add(bool(sizes(audit, keys)))
        found = saver.get_tuple(config("t"))
        assert found is not None
        assert found.checkpoint["channel_values"] == put[1]["channel_values"] or kind == "writes"
        assert sizes(audit, keys) <= limits.head_bytes
        stored = sizes(audit, keys)
        assert saver.rebuild("t").heads == bool(stored)
        assert sizes(audit, keys) == stored
        assert saver.check("t").differences == ()
    assert were_stored == {True, False}
    saver.put(*put_of("t", 40))
    saver.get_tuple(config("t"))
    assert audit.client.hget(keys.head(b""), "wb") == b"0"


def test_a_head_without_its_bytes(saver: RedisStreamSaver, audit: Audit, keys: ThreadKeys) -> None:
    """One of an earlier version is read as it is, and dropped by the next put."""
    for put in (
        lambda: saver.put_writes(config("t", 1), [("n", 0)], "task"),
        lambda: saver.put(*put_of("t", 2, 1)),
    ):
        saver.put(*put_of("t", 1))
        saver.get_tuple(config("t"))
        audit.client.hdel(keys.head(b""), "vb", "wb")
        saver.get_tuple(config("t"))
        assert b"vb" not in audit.client.hkeys(keys.head(b""))
        assert audit.client.exists(keys.head(b""))
        put()
        assert not audit.client.exists(keys.head(b""))
        assert saver.get_tuple(config("t")) is not None
        assert audit.client.hexists(keys.head(b""), "vb")
        saver.delete_thread("t")

"""What others do between the requests of a flow, and what expires meanwhile."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from eventlog.errors import CorruptEntry
from eventlog.events import WritesSaved, decode_entry
from eventlog.flow import Request
from projections.checkpoints import pruning
from projections.checkpoints.deletion import delete_thread
from projections.log.staging import STAGED_FOR
from projections.maintenance.rebuild import rebuild_thread
from projections.registry import rebuild as registry
from projections.transfer import copy
from saver import RedisStreamSaver
from tests.projections.conftest import Open
from tests.projections.steps import Steps, is_call
from tests.saver.audit import Audit, config, number_of, put_of

pytestmark = pytest.mark.telling

RESUME = "__resume__"


def put_line(saver: RedisStreamSaver, thread: str, count: int, run: str = "r", first: int = 1) -> None:
    """Put checkpoints, each the parent of the next."""
    for number in range(first, first + count):
        saver.put(*put_of(thread, number, number - 1 if number > first else None, run=run))


def numbers(saver: RedisStreamSaver, thread: str) -> list[int]:
    """The numbers of the checkpoints of a thread, newest first."""
    return [number_of(found) for found in saver.list(config(thread))]


def once(moment: int, act: Callable[[], object]) -> Callable[[Request], None]:
    """Does something before the request with a number, from 1."""
    seen = 0

    def before(_: Request) -> None:
        nonlocal seen
        seen += 1
        if seen == moment:
            act()

    return before


def check_ids_and_winner(saver: RedisStreamSaver, audit: Audit) -> Any:
    """Ids sort as text, and the write that came last is the one that is read; what it holds."""
    keys = audit.keyspace.thread(b"t")
    entries = audit.client.xrange(keys.log)
    ids = [entry_id.decode() for entry_id, _ in entries]
    assert all(re.fullmatch(r"\d{13}-0", entry_id) for entry_id in ids)
    assert ids == sorted(set(ids))
    last, fields = entries[-1]
    event = decode_entry("t", last, [part for field in fields.items() for part in field]).event
    assert isinstance(event, WritesSaved)
    value = saver.serde.loads_typed((event.writes[0].type, event.writes[0].data))
    for _ in ("from the head", "from the log"):
        for wanted in (config("t"), config("t", 1)):
            found = saver.get_tuple(wanted)
            assert found is not None
            assert found.pending_writes == [("task", RESUME, value)]
        audit.forget_views("t")
    return value


def test_the_last_special_write_wins_though_the_clock_is_behind(saver: RedisStreamSaver, audit: Audit) -> None:
    """Where the log's last id is a minute ahead of the clock, ids rise by a millisecond each."""
    saver.put(*put_of("t", 1))
    index = audit.keyspace.thread(b"t").index
    audit.client.hset(index, "l", f"{time.time_ns() // 10**6 + 60_000}-0")
    for number in range(30):
        saver.put_writes(config("t", 1), [(RESUME, number)], "task")
    assert check_ids_and_winner(saver, audit) == 29


def test_the_last_special_write_wins_of_many_at_once(saver: RedisStreamSaver, audit: Audit) -> None:
    """Of writes that come within one millisecond the last in the log is read."""
    saver.put(*put_of("t", 1))
    with ThreadPoolExecutor(30) as pool:
        list(pool.map(lambda number: saver.put_writes(config("t", 1), [(RESUME, number)], "task"), range(30)))
    check_ids_and_winner(saver, audit)


@pytest.mark.parametrize("runs", [["old", "old", "stays"], ["old"] * 3], ids=["some", "all"])
def test_a_thread_begun_anew_is_not_taken_for_the_old_one(
    saver: RedisStreamSaver, on: Open, steps: Steps, audit: Audit, runs: list[str]
) -> None:
    """A removal planned for a thread does nothing to one that was begun again with as many events."""
    for number, run in enumerate(runs, 1):
        saver.put(*put_of("t", number, run=run))
    other = on()
    begun: list[Any] = []

    def begin_anew(request: Request) -> None:
        if not begun and (is_call(request, "remove_checkpoints") or is_call(request, "delete_thread")):
            other.delete_thread("t")
            put_line(other, "t", 3, "new", first=11)
            begun.append(audit.check("t"))

    steps.run(saver._operations.delete_for_runs(saver.serde, ["old"]), begin_anew)
    assert [audit.check("t")] == begun
    for _ in ("from the head", "from the log"):
        assert numbers(saver, "t") == [13, 12, 11]
        audit.forget_views("t")


@pytest.mark.parametrize("views", [True, False], ids=["views kept", "views dropped"])
def test_a_thread_that_moved_on_is_not_deleted(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, *, views: bool
) -> None:
    """A deletion of what a thread held before leaves alone what it holds now, and deletes it when asked for that."""
    put_line(saver, "t", 2)
    keys = audit.keyspace.thread(b"t")
    before = audit.check("t")[-1].digest
    saver.put(*put_of("t", 3, 2))
    if not views:
        audit.forget_views("t")
    assert steps.run(delete_thread(keys, only=before)) is False
    now = audit.check("t")
    assert len(now) == 3
    assert numbers(saver, "t") == [3, 2, 1]
    assert steps.run(delete_thread(keys, only=now[-1].digest)) is True
    assert numbers(saver, "t") == []


def test_pruning_in_more_steps_than_attempts(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many steps a removal takes, the log is read once where nobody else writes."""
    monkeypatch.setattr(pruning, "AT_ONCE", 2)
    put_line(saver, "t", 130)
    steps.run(steps.pruning("t"))
    assert len(steps.calls("remove_checkpoints")) == 65
    assert len(steps.calls("scan_log")) == 1
    assert numbers(saver, "t") == [130]
    assert len(audit.check("t")) == 2


def test_pruning_while_another_writes(
    saver: RedisStreamSaver, on: Open, steps: Steps, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that comes between every other two steps holds a removal up, and does not stop it."""
    monkeypatch.setattr(pruning, "AT_ONCE", 2)
    put_line(saver, "t", 60)
    other, seen = on(), [0]

    def write(request: Request) -> None:
        seen[0] += is_call(request, "remove_checkpoints")
        if is_call(request, "remove_checkpoints") and seen[0] % 2 and seen[0] < 40:
            other.put(*put_of("t", 60 + seen[0], 60))

    steps.run(steps.pruning("t"), write)
    assert numbers(saver, "t") == [99]
    assert len(audit.check("t")) == 2


def test_writing_until_a_thread_expires(saver: RedisStreamSaver, on: Open, audit: Audit) -> None:
    """Writes without a ttl, up to the last millisecond of a thread's life, do not make it look lost."""
    mortal = on(ttl=10 / 60_000)
    for turn in range(30):
        thread = f"t{turn}"
        log = audit.keyspace.thread(thread.encode()).log
        mortal.put(*put_of(thread, 1))
        number = 0
        while 0 <= audit.client.pttl(log) <= 10:  # writes after the end begin a log that is kept for a day
            number += 1
            saver.put_writes(config(thread, 1), [("n", number)], f"task {number}")
        found = saver.get_tuple(config(thread))
        assert found is None or number_of(found) == 1
        saver.put(*put_of(thread, 2))
        found = saver.get_tuple(config(thread))
        assert found is not None
        assert number_of(found) == 2


ENDS_NOW = """
local now = redis.call('TIME')
for _, key in ipairs(KEYS) do
  redis.call('PEXPIREAT', key, string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + 1))
end
"""


def test_a_checkpoint_in_the_last_millisecond_of_its_early_writes(saver: RedisStreamSaver, audit: Audit) -> None:
    """A checkpoint that was put is there to stay, however little was left of the day that early writes are kept for."""
    for turn in range(100):
        thread = f"t{turn}"
        keys = audit.keyspace.thread(thread.encode())
        saver.put_writes(config(thread, 1), [("n", 1)], "task")
        audit.client.eval(ENDS_NOW, 3, keys.log, keys.index, keys.order)
        saver.put(*put_of(thread, 1))
        while audit.client.pttl(keys.log) >= 0:
            pass
        assert numbers(saver, thread) == [1]


def drop_staged(audit: Audit, part: bytes = b"") -> None:
    """Delete what is staged."""
    for key in audit.everything():
        if b":stage:" in key and key.endswith(part):
            audit.client.delete(key)


@pytest.mark.parametrize("part", [b"", b":log", b":index", b":order"], ids=["all", "log", "index", "order"])
def test_a_copy_whose_parts_were_dropped(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, monkeypatch: pytest.MonkeyPatch, part: bytes
) -> None:
    """Whenever what was staged of a copy is dropped, it is staged again: the copy is whole."""
    monkeypatch.setattr(copy, "PAGE", 2)
    put_line(saver, "t", 5)
    saver.get_tuple(config("t"))
    source = audit.keyspace.thread(b"t")
    again = 0
    for moment in range(1, 16):
        target = f"copy {moment}"
        flow = copy.copy_thread(audit.keyspace, source, audit.keyspace.thread(target.encode()), ttl=0)
        steps.run(flow, once(moment, lambda: drop_staged(audit, part)))
        again += len(steps.calls("store_copy")) == 2
        assert numbers(saver, target) == [5, 4, 3, 2, 1], moment
        assert len(audit.check(target)) == 6
    assert again >= 3
    assert all(audit.client.pttl(key) > 0 for key in audit.everything() if b":stage:" in key)


def test_a_copy_of_what_is_pruned_meanwhile(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever that is, the copy is the source before or after, and verifies."""
    monkeypatch.setattr(copy, "PAGE", 3)
    for moment in range(1, 14):
        source, target = f"t{moment}", f"copy {moment}"
        put_line(saver, source, 9)
        keys = [audit.keyspace.thread(name.encode()) for name in (source, target)]

        def prune(source: str = source) -> None:
            saver.prune([source], keep_last=4)

        steps.run(copy.copy_thread(audit.keyspace, keys[0], keys[1], ttl=0), once(moment, prune))
        found = saver.verify(target)
        assert found.sound, (moment, found.findings)
        assert len(numbers(saver, target)) in (4, 9)
        audit.check(target)


def test_a_rebuild_of_a_thread_that_is_put_again_meanwhile(saver: RedisStreamSaver, steps: Steps, audit: Audit) -> None:
    """Whenever a thread is deleted and put again, its new log is rebuilt, and nothing that was staged is left."""
    for moment in range(1, 9):
        thread = f"t{moment}"
        put_line(saver, thread, 6)

        def put_again(thread: str = thread) -> None:
            saver.delete_thread(thread)
            put_line(saver, thread, 3)

        steps.run(rebuild_thread(audit.keyspace.thread(thread.encode())), once(moment, put_again))
        assert numbers(saver, thread) in ([3, 2, 1], [6, 5, 4, 3, 2, 1])
        assert saver.check(thread).ok
        audit.check(thread)
    assert not [key for key in audit.everything() if b":stage:" in key]


def test_a_rebuild_that_is_interrupted(saver: RedisStreamSaver, audit: Audit) -> None:
    """Wherever that is, it asks for nothing more, and leaves the views as they were; what was staged drops itself."""
    put_line(saver, "t", 6)
    before = audit.everything()
    for moment in range(20):
        flow = rebuild_thread(audit.keyspace.thread(b"t"))
        try:
            request = next(flow)
            for _ in range(moment):
                request = flow.send(saver._runner._ask(request))
        except StopIteration:
            break
        flow.close()
        assert {key for key in audit.everything() if b":stage:" not in key} == before
        assert saver.check("t").ok
    assert 6 < moment < 19
    staged = audit.everything() - before
    assert staged
    assert all(0 < audit.client.ttl(key) <= STAGED_FOR for key in staged)


def test_reads_of_a_damaged_log_leave_nothing_behind(saver: RedisStreamSaver, audit: Audit) -> None:
    """Each fails, and drops what it had staged."""
    put_line(saver, "t", 5)
    log = audit.keyspace.thread(b"t").log
    audit.client.xdel(log, audit.client.xrange(log)[2][0])
    before = audit.everything()
    for _ in range(3):
        with pytest.raises(CorruptEntry):
            saver.get_tuple(config("t"))
    assert audit.everything() == before


@pytest.mark.parametrize(
    ("part", "lacking"),
    [
        (b"", [0, 1, 2]),
        (b":threads", [0, 1, 2]),
        pytest.param(b":runs", [0, 1, 2]),
        pytest.param(b"", [1]),
        pytest.param(b"", [2]),
    ],
    ids=["all", "threads", "runs", "all of runs", "all of expiries"],
)
def test_a_registry_whose_parts_were_dropped(
    on: Open, audit: Audit, monkeypatch: pytest.MonkeyPatch, part: bytes, lacking: list[int]
) -> None:
    """Whenever what was staged of a partition's views is dropped, they are whole in the end."""
    monkeypatch.setattr(registry, "PAGE", 2)
    saver = on(ttl=10)
    steps = Steps(saver)
    threads = [f"t{number}" for number in range(5)]
    for thread in threads:
        saver.put(*put_of(thread, 1))
    shared = audit.keyspace.partition(0)
    views = shared.threads, shared.runs, shared.expiries
    whole = [audit.client.zrange(view, 0, -1) for view in views]
    stretches = set()
    for moment in range(1, 16):
        audit.client.delete(*(views[number] for number in lacking))
        listed = steps.items(steps.listing(), once(moment, lambda: drop_staged(audit, part)))
        assert sorted(found.config["configurable"]["thread_id"] for found in listed) == threads, moment
        assert [set(audit.client.zrange(view, 0, -1)) for view in views] == [set(view) for view in whole], moment
        stretches.add(len(steps.calls("rebuild_registry")))
    assert len(stretches) >= 3

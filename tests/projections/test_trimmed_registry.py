"""A registry is the same whether or not its feed was trimmed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from eventlog.errors import LogLost
from eventlog.feed.trimming import Retention, Trimmed, trim_feed, trim_partition
from eventlog.keys import PartitionKeys
from projections.registry import rebuild as registry
from saver import RedisStreamSaver
from tests.projections.conftest import Open
from tests.projections.steps import Steps
from tests.projections.test_agreement import Bench, relaxed
from tests.projections.test_races import once
from tests.projections.traffic import Operation, traffic
from tests.saver.audit import Audit, config, put_of
from tests.servers import Server

View = dict[bytes, float]
Trim = Callable[..., Trimmed]


def views(keys: PartitionKeys) -> list[bytes]:
    """The keys that are rebuilt from the feed."""
    return [keys.threads, keys.runs, keys.expiries]


def contents(client: Any, keys: PartitionKeys) -> list[View]:
    """Members and scores of the views."""
    return [dict(client.zrange(view, 0, -1, withscores=True)) for view in views(keys)]


def check_same(found: list[View], expected: list[View]) -> None:
    """Compares members and scores; ends of threads may differ a little, since they are read later."""
    assert found[:2] == expected[:2]
    assert found[2].keys() == expected[2].keys()
    assert all(score == pytest.approx(expected[2][member], abs=100) for member, score in found[2].items())


class TrimmedBench(Bench):
    """Two partitions that are trimmed at random."""

    def trim(self, bounds: Retention, page: int = 1000) -> Trimmed:
        done: Trimmed = self.run(trim_feed(self.keyspace, bounds, page=page))
        return done

    @property
    def partitions(self) -> list[PartitionKeys]:
        return [self.keyspace.partition(number) for number in range(2)]

    def registry(self) -> list[View]:
        """Contents of the views of both partitions, completed where one is missing."""
        self.run(registry.threads_of(self.keyspace))
        return [view for keys in self.partitions for view in contents(self.client, keys)]

    def rebuilt(self, missing: Sequence[int]) -> list[View]:
        """The same after some views, given by number, are deleted."""
        for keys in self.partitions:
            self.client.delete(*(views(keys)[number] for number in missing))
        return self.registry()

    def close(self) -> None:
        for keys in self.partitions:
            self.client.delete(*(getattr(keys, name) for name in keys.__slots__))
        super().close()


def some_views(dice: random.Random) -> Sequence[int]:
    """Numbers of one view or more."""
    return dice.sample(range(3), dice.randint(1, 3))


def names_in(found: list[View]) -> list[set[bytes]]:
    """Members of threads and runs. (Until they are rebuilt, expiries also have threads without checkpoints.)"""
    return [set(view) for number, view in enumerate(found) if number % 3 < 2]


def check_kept(bench: TrimmedBench, dice: random.Random) -> None:
    """The registry is the same when it is kept, rebuilt, and rebuilt after a trim; a trim leaves what groups need."""
    missing = some_views(dice)
    kept = bench.registry()
    before = bench.rebuilt(missing)
    assert names_in(before) == names_in(kept)
    slowest = []
    for keys in bench.partitions:
        ids = [b"0-0", *(entry_id for entry_id, _ in bench.client.xrange(keys.feed))]
        slowest.append(dice.choice(ids))
        bench.client.hset(keys.positions, mapping={"g": slowest[-1], "other": ids[-1]})
    bench.trim(Retention(count=dice.randint(0, 12)), page=dice.choice([1, 3, 1000]))
    for keys, position in zip(bench.partitions, slowest, strict=True):
        last = bench.client.hget(keys.trimmed, "id")
        if position != b"0-0":
            assert last == position or bench.client.xrange(keys.feed, position, position)
    after = bench.rebuilt(missing)
    for first in (0, 3):
        check_same(after[first : first + 3], before[first : first + 3])


@given(operations=traffic, seed=st.integers(0, 2**32), ttl=st.sampled_from([{}, {"ttl": 10}]))
@relaxed
def test_a_registry_is_the_same_before_and_after(
    server: Server, operations: list[Operation], seed: int, ttl: dict[str, Any]
) -> None:
    """Any traffic leaves the same registry, however often the feed is trimmed meanwhile."""
    dice = random.Random(seed)
    bench = TrimmedBench(server, ttl)
    try:
        for operation in operations:
            bench.player.play(operation)
            if dice.random() < 0.2:
                note(f"trimmed after {operation}")
                check_kept(bench, dice)
        check_kept(bench, dice)
        for keys in bench.partitions:
            bench.client.delete(keys.positions)
        missing = some_views(dice)
        before = bench.rebuilt(missing)
        bench.trim(Retention(count=0))
        assert [bench.client.xlen(keys.feed) for keys in bench.partitions] == [0, 0]
        after = bench.rebuilt(missing)
        for first in (0, 3):
            check_same(after[first : first + 3], before[first : first + 3])
    finally:
        bench.close()


@given(operations=traffic, seed=st.integers(0, 2**32))
@relaxed
def test_trimming_shows_in_no_read(server: Server, operations: list[Operation], seed: int) -> None:
    """A saver with a trimmed feed and views that are deleted at random answers as one that keeps everything."""
    dice = random.Random(seed)
    whole, trimmed = TrimmedBench(server, {}), TrimmedBench(server, {})
    try:
        for operation in operations:
            assert whole.player.play(operation) == trimmed.player.play(operation)
            trimmed.trim(Retention(count=dice.randint(0, 8)))
            if dice.random() < 0.3:
                trimmed.rebuilt(some_views(dice))
        assert whole.player.everything() == trimmed.player.everything()
        assert names_in(trimmed.rebuilt([0, 1, 2])) == names_in(whole.rebuilt([0, 1, 2]))
    finally:
        whole.close()
        trimmed.close()


@pytest.fixture
def trimming(saver: RedisStreamSaver, audit: Audit) -> Trim:
    """Trims all but some entries of the one partition."""

    def trim(count: int = 0) -> Trimmed:
        done: Trimmed = saver._runner.run(trim_feed(audit.keyspace, Retention(count=count)), "feed")
        return done

    return trim


def threads(saver: RedisStreamSaver) -> set[str]:
    """The threads in a list of all checkpoints."""
    return {found.config["configurable"]["thread_id"] for found in saver.list(None)}


def test_a_put_after_all_was_trimmed(saver: RedisStreamSaver, audit: Audit, trimming: Trim) -> None:
    """An empty feed with missing views is not taken for a partition without threads."""
    shared = audit.keyspace.partition(0)
    for thread in ("a", "b", "gone"):
        saver.put(*put_of(thread, 1, run=f"run of {thread}"))
    saver.copy_thread("b", "copy")
    saver.delete_thread("gone")
    expected = contents(audit.client, shared)
    for missing in ([shared.threads], [shared.runs], [shared.expiries], views(shared)):
        trimming()
        assert audit.client.xlen(shared.feed) == 0
        audit.client.delete(*missing)
        saver.put(*put_of("c", 1, run="run of c"))
        assert threads(saver) == {"a", "b", "copy", "c"}
        saver.delete_for_runs(["run of c"])
        audit.client.delete(*missing)
        saver.list(None)
        trimming()
        audit.client.delete(*missing)
        assert threads(saver) == {"a", "b", "copy"}
        check_same(contents(audit.client, shared), expected)
    saver.delete_for_runs(["run of b"])
    assert threads(saver) == {"a"}


def test_a_feed_that_is_gone(saver: RedisStreamSaver, audit: Audit, trimming: Trim) -> None:
    """The threads of the trimmed part are known without the feed."""
    shared = audit.keyspace.partition(0)
    for thread in ("a", "b"):
        saver.put(*put_of(thread, 1))
    trimming()
    audit.client.delete(shared.feed, *views(shared))
    assert threads(saver) == {"a", "b"}


@pytest.mark.parametrize("key", ["past_threads", "past_runs"])
def test_what_was_kept_is_gone(saver: RedisStreamSaver, audit: Audit, trimming: Trim, key: str) -> None:
    """A registry that would lack threads is not rebuilt until an operator accepts the loss."""
    shared = audit.keyspace.partition(0)
    saver.put(*put_of("a", 1))
    trimming()
    saver.put(*put_of("b", 1))
    audit.client.delete(getattr(shared, key))
    assert threads(saver) == {"a", "b"}
    audit.client.delete(shared.threads)
    with pytest.raises(LogLost, match="ZADD"):
        saver.list(None).__next__()
    audit.client.zadd(getattr(shared, key), {b"": 0})
    assert "b" in threads(saver)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_trimming_while_a_registry_is_rebuilt(
    on: Open, audit: Audit, trimming: Trim, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """A trim at any moment of a rebuild loses no thread, run or end, and revives no deleted thread."""
    monkeypatch.setattr(registry, "PAGE", 2)
    saver, other = on(ttl=10), on()
    steps = Steps(saver)
    shared = audit.keyspace.partition(0)
    expected = {f"t{number}" for number in range(7)}
    stretches = set()
    for moment in range(1, 16):
        for thread in sorted(expected):
            (saver if thread in {"t1", "t2"} else other).put(*put_of(thread, moment, run=f"run of {thread}"))
        other.put(*put_of("deleted", 1, run="run of deleted"))
        added = f"late {moment}"

        def trim(added: str = added) -> None:
            other.put(*put_of(added, 1, run=f"run of {added}"))
            other.delete_thread("deleted")
            trimming(count)

        audit.client.delete(*views(shared))
        steps.items(steps.listing(), once(moment, trim))
        stretches.add(len(steps.calls("rebuild_registry")))
        expected.add(added)
        found, runs, expiries = contents(audit.client, shared)
        assert set(found) == {b""} | {b"t" + thread.encode() for thread in expected}, moment
        assert len(runs) == 2 * len(expected) + 1, moment
        assert set(expiries) == {b"", b"tt1", b"tt2"}, moment
    assert len(stretches) >= 3


def test_trimming_again_and_again_while_a_registry_is_rebuilt(
    saver: RedisStreamSaver, on: Open, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trimming a little before each step delays a rebuild, and does not stop it."""
    monkeypatch.setattr(registry, "PAGE", 2)
    steps, other = Steps(saver), on()
    for number in range(40):
        saver.put(*put_of(f"t{number}", 1))
    audit.client.delete(*views(audit.keyspace.partition(0)))

    def trim(_: Any) -> None:
        flow = trim_partition(audit.keyspace, 0, Retention(count=1), most=3)
        other._runner.run(flow, "feed")

    steps.items(steps.listing(), trim)
    assert threads(saver) == {f"t{number}" for number in range(40)}


def test_threads_that_expired(on: Open, audit: Audit, trimming: Trim) -> None:
    """A rebuild leaves out expired threads, whether or not their pointers were trimmed."""
    saver, mortal = on(), on(ttl=50 / 60_000)
    shared = audit.keyspace.partition(0)
    saver.put(*put_of("stays", 1))
    mortal.put(*put_of("ended", 1, run="ended"))
    trimming()
    mortal.put(*put_of("ended later", 1, run="ended"))
    time.sleep(0.1)
    audit.client.delete(shared.threads, shared.expiries)
    assert threads(saver) == {"stays"}
    found, runs, expiries = contents(audit.client, shared)
    assert set(found) == {b"", b"tstays"}
    assert not [member for member in runs if b"ended" in member]
    assert set(expiries) == {b""}


def test_an_age(saver: RedisStreamSaver, audit: Audit) -> None:
    """Pointers that are too old by the server's clock are removed; the logs keep the events."""
    saver.put(*put_of("t", 1))
    time.sleep(0.3)
    saver.put(*put_of("t", 2, 1))
    flow = trim_feed(audit.keyspace, Retention(age=timedelta(milliseconds=250)))
    assert saver._runner.run(flow, "feed").entries == 1
    assert [fields[2] for fields in audit.feed("t")] == [b"checkpoint"]
    assert len(audit.check("t")) == 2
    assert saver.get_tuple(config("t", 1)) is not None

"""Much to read: big values, many steps and many namespaces take no more of the server at once, and no more requests, than need be."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from eventlog.flow import Emit
from projections.checkpoints import ancestry
from saver import RedisStreamSaver
from tests.projections.steps import Steps
from tests.saver.audit import Audit, checkpoint_id, config, number_of, put_of

COUNT = 6


def big_of(number: int) -> bytes:
    """3 MiB that share nothing with those of other numbers."""
    return Random(number).randbytes(3 * 2**20)


@pytest.fixture
def big(saver: RedisStreamSaver) -> RedisStreamSaver:
    """A saver with a thread of six checkpoints of 3 MiB each."""
    for number in range(1, COUNT + 1):
        given, checkpoint, metadata, versions = put_of("t", number, number - 1 or None)
        checkpoint["channel_values"]["n"] = [number, big_of(number)]
        saver.put(given, checkpoint, metadata, versions)
    return saver


def states(found: list[Any]) -> list[tuple[str, Any]]:
    """Ids and values."""
    return [(one.checkpoint["id"], one.checkpoint["channel_values"]) for one in found]


EXPECTED = [(checkpoint_id(number), {"n": [number, big_of(number)]}) for number in range(COUNT, 0, -1)]


def test_pruning_reads_a_few_big_values_at_a_time(big: RedisStreamSaver, steps: Steps, audit: Audit) -> None:
    """A removal reads the log in stretches that end after some MiB."""
    steps.run(steps.pruning("t", keep=2))
    assert len(steps.calls("scan_log")) >= 3
    assert states(list(big.list(config("t")))) == EXPECTED[:2]
    assert len(audit.check("t")) == 3


@pytest.mark.parametrize("filter", [None, {"source": "loop"}], ids=["all", "with a filter"])
def test_a_list_reads_a_few_big_values_at_a_time(big: RedisStreamSaver, steps: Steps, filter: Any) -> None:
    """A page ends after some MiB of the log, also where no values are sent."""
    assert states(steps.items(steps.listing(config("t"), filter))) == EXPECTED
    full = [call.arguments[1] for call in steps.calls("read_page")]
    assert full.count(1) >= 3
    assert full.count(0) == 0 if filter is None else full.count(0) >= 3
    assert states(list(big.list(config("t"), filter={"step": 2}))) == EXPECTED[4:5]


def test_ancestors_are_read_a_few_big_ones_at_a_time(
    saver: RedisStreamSaver, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk up the ancestors pauses after some MiB, and gathers what it gathers without a pause."""
    for number in range(1, COUNT + 1):
        given, checkpoint, metadata, versions = put_of("t", number, number - 1 or None)
        if number > 1:
            checkpoint["channel_values"] = {}
        saver.put(given, checkpoint, metadata, versions)
        saver.put_writes(config("t", number), [("n", [number, big_of(number)]), ("other", number)], "task")

    def read() -> Any:
        return steps.run(saver._operations.delta_history(saver.serde, config("t"), ["n"]))

    found = read()
    assert len(steps.calls("read_ancestors")) >= 3
    monkeypatch.setattr(ancestry, "PAGE_BYTES", 2**40)
    assert found == read()
    assert len(steps.calls("read_ancestors")) == 1
    assert [value[0] for _, _, value in found["n"]["writes"]] == list(range(1, COUNT))
    assert found["n"]["seed"] == [1, "value 1"]


def test_one_checkpoint_of_many_namespaces(saver: RedisStreamSaver, steps: Steps) -> None:
    """A checkpoint id without a namespace is looked up in all namespaces of the thread at once."""
    for number in range(300):
        saver.put(*put_of("t", 1, namespace=f"n{number}"))
    saver.put(*put_of("t", 2, namespace="n7"))
    saver.put(*put_of("t", 2, namespace="another"))
    named = {"configurable": {"thread_id": "t", "checkpoint_id": checkpoint_id(1)}}
    for filter, count in ((None, 300), ({"step": 1}, 300), ({"step": 2}, 0)):
        found = steps.items(steps.listing(named, filter))
        assert sum(not isinstance(request, Emit) for request in steps.requests) <= 5
        assert {number_of(one) for one in found} <= {1}
        assert len({one.config["configurable"]["checkpoint_ns"] for one in found}) == len(found) == count


def test_pruning_after_every_step(saver: RedisStreamSaver, audit: Audit) -> None:
    """The log of a thread that is pruned after every step stays short, and one dropped long ago can be put again."""
    for number in range(1, 41):
        saver.put(*put_of("t", number, number - 1 or None))
        saver.put_writes(config("t", number), [("n", number)], "task")
        saver.prune(["t"])
        assert len(audit.check("t")) < 10
        assert [number_of(found) for found in saver.list(config("t"))] == [number]
    saver.put(*put_of("t", 3))
    saver.prune(["t"], keep_last=2)
    for _ in ("from the views", "from the log"):
        assert [number_of(found) for found in saver.list(config("t"))] == [40, 3]
        found = saver.get_tuple(config("t"))
        assert found is not None
        assert found.pending_writes == [("task", "n", 40)]
        assert len(audit.check("t")) < 10
        audit.forget_views("t")


def test_ancestors_of_delta_channels_outlive_many_prunings(saver: RedisStreamSaver, audit: Audit) -> None:
    """What a delta channel is rebuilt from is carried from pruning to pruning, and goes once a value was stored again."""
    order = audit.keyspace.thread(b"t").order

    def hidden() -> int:
        return int(audit.client.zlexcount(order, b"[h", b"(i"))

    def deltas(thread: str) -> Any:
        return saver.get_delta_channel_history(config=config(thread), channels=["n"])

    for number in range(1, 41):
        for thread in ("t", "whole"):
            given, checkpoint, metadata, versions = put_of(thread, number, number - 1 or None)
            if number % 4 != 1:
                checkpoint["channel_values"] = {}
            metadata["counters_since_delta_snapshot"] = {"n": [1, 1]}
            saver.put(given, checkpoint, metadata, versions)
            saver.put_writes(config(thread, number), [("n", number)], "task")
        saver.prune(["t"])
        if number % 4 != 1:  # else it has the value itself
            assert deltas("t") == deltas("whole")
        assert hidden() == (number - 1) % 4
        assert len(audit.check("t")) < 10
        assert [found.checkpoint["id"] for found in saver.list(config("t"))] == [checkpoint_id(number)]
    audit.forget_views("t")
    assert deltas("t") == deltas("whole")
    assert hidden() == 3
    for number in (38, 5):  # an ancestor that is hidden, and one that was dropped
        saver.put(*put_of("t", number))
    for _ in ("from the views", "from the log"):
        listed = [found.checkpoint["id"] for found in saver.list(config("t"))]
        assert listed == [checkpoint_id(number) for number in (40, 38, 5)]
        assert hidden() == 2
        audit.check("t")
        audit.forget_views("t")
        saver.get_tuple(config("t"))
    saver.prune(["t"])
    assert len(audit.check("t")) < 10


def test_a_value_of_a_dropped_checkpoint_stays_through_many_prunings(saver: RedisStreamSaver, audit: Audit) -> None:
    """An entry that is kept for a value alone does not bring its checkpoint back, however often the thread is pruned."""
    saver.put(*put_of("t", 1, channels=["kept", "n"]))
    for number in range(2, 12):
        given, checkpoint, metadata, versions = put_of("t", number, number - 1)
        checkpoint["channel_versions"] = {"kept": "v1", **versions}
        saver.put(given, checkpoint, metadata, versions)
        saver.prune(["t"])
        assert len(audit.check("t")) == 3
        for _ in ("from the views", "from the log"):
            (found,) = saver.list(config("t"))
            assert found.checkpoint["channel_values"] == {"kept": [1, "value 1"], "n": [number, f"value {number}"]}
            audit.forget_views("t")

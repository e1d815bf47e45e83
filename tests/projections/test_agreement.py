"""What the scripts keep inline, and what a fold of the log gives, are the same."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from eventlog.connect.connections import Connections
from eventlog.keys import Keyspace, ThreadKeys
from eventlog.limits import Limits
from eventlog.transport.drivers import Runner
from projections.checkpoints.read import read_checkpoint, read_latest
from projections.log.fold import Index
from projections.log.index import scan
from projections.values.stored import Incomplete, StoredCheckpoint, from_head
from saver import RedisStreamSaver
from tests.projections.traffic import NAMESPACES, THREADS, Operation, Player, Put, traffic
from tests.servers import Server

pytestmark = pytest.mark.telling

relaxed = settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    print_blob=True,
)


Options = dict[str, Any]
SMALL = Limits(head_bytes=600)
options = st.sampled_from([{}, {}, {"compress_above": 64}, {"cache_bytes": 0}, {"limits": SMALL}])
"""Of a saver: with deltas, with compressed ones, without, with heads that states outgrow."""


class Bench:
    """Savers on a prefix of their own, and a look behind them."""

    def __init__(self, server: Server, options: Options) -> None:
        prefix = "t" + uuid.uuid4().hex[:8]
        named: Options = {"prefix": prefix, "partitions": 2, **options}
        self.saver = RedisStreamSaver.from_conn_string(server.url, **named)
        self.other = RedisStreamSaver.from_conn_string(server.url, **named)
        self.keyspace = Keyspace(prefix, 2)
        self.connections = Connections.from_url(server.url)
        self.runner = Runner(self.connections)
        self.client: Any = self.connections.sync_client()
        self.player = Player(self.saver, self.other)
        self.most = options.get("limits", Limits()).head_bytes

    def close(self) -> None:
        """Deletes what is left and closes."""
        for thread in THREADS:
            self.saver.delete_thread(thread)
        self.connections.close()
        self.saver.close()
        self.other.close()

    def keys(self, thread: str) -> ThreadKeys:
        return self.keyspace.thread(thread.encode())

    def run(self, flow: Any) -> Any:
        return self.runner.run(flow, "test")

    def derived(self) -> list[bytes]:
        """Every key that may be deleted at any time."""
        found = []
        for thread in THREADS:
            keys = self.keys(thread)
            found += [keys.index, keys.order, *(keys.head(namespace.encode()) for namespace in NAMESPACES)]
            found += [keys.shared.threads, keys.shared.runs, keys.shared.expiries]
        return sorted(set(found))


def check_agreement(bench: Bench) -> None:
    for thread in THREADS:
        keys = bench.keys(thread)
        index: Index = bench.run(scan(keys))
        if not index.entries:
            assert bench.client.exists(keys.index, keys.order) == 0
            continue
        assert index.hash() == bench.client.hgetall(keys.index)
        assert set(index.members()) == set(bench.client.zrange(keys.order, 0, -1))
        for namespace in NAMESPACES:
            check_head(bench, keys, namespace)


def check_head(bench: Bench, keys: ThreadKeys, namespace: str) -> None:
    """A head that is there is that of the newest checkpoint, or knows that it is not complete; put together from the log it is the
    same, field by field.
    """
    key = keys.head(namespace.encode())
    fields = bench.client.hgetall(key)
    if not fields:
        return
    newest = max(found.config["configurable"]["checkpoint_id"] for found in listed(bench, keys, namespace))
    assert fields[b"id"].decode() == newest
    assert int(fields[b"vb"]) + int(fields[b"wb"]) <= bench.most
    try:
        head = from_head([part for item in fields.items() for part in item])
    except Incomplete:
        return
    expected: StoredCheckpoint = bench.run(read_checkpoint(keys, namespace, newest))
    assert expected == head
    bench.client.delete(key)
    assert bench.run(read_latest(keys, namespace)) == head
    left_over = fields.keys() - {name for name in fields if channel_of(name) in {None, *map(str.encode, head.versions)}}
    expected_fields = {name: value for name, value in fields.items() if name not in left_over}
    spare = sum(len(fields[name]) for name in left_over if name[:1] in {b"=", b"+"})
    expected_fields[b"vb"] = b"%d" % (int(fields[b"vb"]) - spare)
    assert bench.client.hgetall(key) == expected_fields


def channel_of(name: bytes) -> bytes | None:
    """The channel that a field of a head is about, None for any other field."""
    if name[:1] == b"+":
        return name.partition(b":")[2]
    return name[1:] if name[:1] in {b"=", b"#"} else None


def listed(bench: Bench, keys: ThreadKeys, namespace: str) -> list[Any]:
    config: Any = {"configurable": {"thread_id": keys.thread.decode(), "checkpoint_ns": namespace}}
    return list(bench.saver.list(config))


@given(operations=traffic, options=options)
@relaxed
def test_head_and_index_are_what_a_fold_of_the_log_gives(
    server: Server, operations: list[Operation], options: Options
) -> None:
    """After any traffic, index and heads hold what folding the log from its first entry gives."""
    bench = Bench(server, options)
    try:
        for operation in operations:
            bench.player.play(operation)
        check_agreement(bench)
    finally:
        bench.close()


@given(operations=traffic, seed=st.integers(0, 2**32), options=options)
@relaxed
def test_derived_keys_may_be_deleted_at_any_time(
    server: Server, operations: list[Operation], seed: int, options: Options
) -> None:
    """With derived keys deleted at random between operations, every read gives what it gives without."""
    dice = random.Random(seed)
    whole, torn = Bench(server, options), Bench(server, options)
    try:
        for operation in operations:
            expected = whole.player.play(operation)
            for key in dice.sample(torn.derived(), dice.randint(0, 6)):
                note(f"delete {key!r} before {operation}")
                torn.client.delete(key)
            assert expected == torn.player.play(operation)
        assert whole.player.everything() == torn.player.everything()
        check_agreement(torn)
        assert registry(whole) == registry(torn)
    finally:
        whole.close()
        torn.close()


def registry(bench: Bench) -> list[Any]:
    """Members of the partitions' views, read after a list has completed them."""
    list(bench.saver.list(None))
    shared = [bench.keyspace.partition(number) for number in range(2)]
    return [set(bench.client.zrange(key, 0, -1)) for keys in shared for key in (keys.threads, keys.runs)]


@pytest.mark.parametrize(
    ("options", "forms"),
    [
        ({}, {b"K", b"D", b"E"}),
        ({"compress_above": 64}, {b"K", b"k", b"D", b"d", b"E"}),
        ({"cache_bytes": 0}, {b"K", b"E"}),
    ],
    ids=["deltas", "compressed", "whole"],
)
def test_traffic_has_deltas(server: Server, options: Options, forms: set[bytes]) -> None:
    """What the traffic above puts is stored in every form, versions as well, so that agreement means something."""
    bench = Bench(server, options)
    try:
        for number in range(60):
            emptied = ("count",) if number % 6 == 5 else ()
            bench.player.play(Put("a", "", number // 2 * 2, number - 2, ("messages", "count"), emptied, (), "run-1"))
            if number % 10 == 9:
                check_agreement(bench)
                bench.player.everything()
        check_agreement(bench)
        found: Counter[Any] = Counter()
        for _, fields in bench.client.xrange(bench.keys("a").log):
            found.update(piece[:1] for name, piece in fields.items() if name[:1] == b"=")
            found["changed versions"] += b"b" in fields
        assert {form for form in found if isinstance(form, bytes)} == forms
        assert found[b"D"] + found[b"d"] > 30 or not bench.saver._operations.cache.limit
        assert (found["changed versions"] > 10) == (bench.saver._operations.cache.limit > 0)
    finally:
        bench.close()

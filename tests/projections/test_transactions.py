"""Appends by transactions: they do what the scripts do, also where others write, delete or prune in between."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from eventlog.codec import Keyframe
from eventlog.errors import ThreadDeleted, ThreadNotFound, VersionMissing
from eventlog.events import CheckpointSaved, Event, Write, WritesSaved, decode_entry, encode_event
from eventlog.flow import Transaction
from eventlog.keys import Keyspace, ThreadKeys
from eventlog.limits import Limits
from eventlog.memory import Seen
from eventlog.transport import watched
from projections.checkpoints.save import About, save_checkpoint, save_writes
from projections.checkpoints.transaction import Head, Standing
from projections.log.fold import Index
from projections.maintenance.check_registry import check_registry
from projections.values.cache import KnownVersions, ValueCache
from projections.values.stored import from_head
from projections.values.versions import Versions
from tests.projections.test_agreement import Bench, check_agreement
from tests.projections.traffic import NAMESPACES, Operation, Put, Upkeep, Writes
from tests.servers import Server


class Stand:
    """A thread without a server: its keys as Python's data, and its standing, which the commands move on."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.keys: ThreadKeys = Keyspace("pure", 1, None, limits).thread(b"t")
        self.index, self.events = Index(), list[Event]()
        self.hash: dict[bytes, dict[bytes, bytes]] = {}
        self.members = {b""}
        self.pointers: list[Sequence[bytes]] = []
        self.now = 1000
        self._begin()

    def _begin(self) -> None:
        """The first checkpoint, which a script would append."""
        event = CheckpointSaved("", "0", None, {}, {}, idempotency_key=b"first")
        fields = encode_event(event)
        self._record(b"1000-0", [b"n", b"1", b"d", b"first", *fields])
        named = dict(zip(fields[::2], fields[1::2], strict=True))
        head = {b"id": b"0", b"at": b"1000-0", b"p": b"", b"e": named[b"e"], b"s": named[b"s"], b"q": b""}
        self.hash[self.keys.head(b"")] = {**head, b"w": b"0", b"vb": b"0", b"wb": b"0"}
        self.hash[self.keys.index] = self.index.hash()
        self.members = set(self.index.members())
        before = Head(b"0", b"1000-0", 0, 0, b"", 0, 0, {}, frozenset())
        self.standing = Standing(1, b"first", b"1000-0", 0, self.keys.head(b""), before, b"", {}, (b"first",))
        self.keys.memory.note(b"t", Seen.in_reply(self.standing.end))

    def _record(self, entry_id: bytes, flat: list[bytes]) -> None:
        recorded = decode_entry("t", entry_id, flat)
        self.index.add(recorded)
        self.events.append(recorded.event)

    def run(self, flow: Any) -> bool:
        """Whether a flow appends by a transaction alone; its commands are carried out."""
        request = next(flow)
        made: Transaction | None = request.plan(self.standing, self.now)
        if made is None:
            flow.close()
            return False
        for name, *words in made.commands:
            getattr(self, name.decode().lower())(*words)
        for (name, *words), expected in made.proof[:2]:
            assert name == b"HMGET"
            assert [self.hash[words[0]].get(field) for field in words[1:]] == expected
        self.standing = made.standing  # type: ignore[assignment]
        with suppress(StopIteration):
            flow.send(made.standing)
        return True

    def written(self, checkpoint_id: str) -> list[tuple[str, Write]]:
        """The writes of a checkpoint, sorted as a head's readers sort them."""
        writes = [
            (event.task_id, write)
            for event in self.events
            if isinstance(event, WritesSaved) and event.checkpoint_id == checkpoint_id
            for write in event.writes
        ]
        return sorted(writes, key=lambda one: (one[0], one[1].idx))

    def xadd(self, _: bytes, entry_id: bytes, *flat: bytes) -> None:
        self._record(entry_id, list(flat))

    def hset(self, key: bytes, *flat: bytes) -> None:
        self.hash[key].update(zip(flat[::2], flat[1::2], strict=True))

    def hdel(self, key: bytes, *names: bytes) -> None:
        for name in names:
            del self.hash[key][name]

    def zadd(self, _: bytes, score: bytes, member: bytes) -> None:
        assert score == b"0"
        self.members.add(member)

    def eval(self, _: bytes, count: bytes, *words: bytes) -> None:
        assert count == b"2"
        self.pointers.append(words[2:])


@pytest.mark.parametrize("seed", range(20))
def test_commands_do_what_a_fold_of_their_events_does(seed: int) -> None:
    """After any line of checkpoints and writes, index, order and head are those that the log gives."""
    dice, stand = random.Random(seed), Stand()
    cache = ValueCache(*(dice.choice([(2**20, 4096), (2**20, 64), (0, 4096)])))
    cache.know_versions(b"t", "", KnownVersions(Versions({}, None), b"1000-0", b"", 0, stand.keys.seen().life))  # type: ignore[union-attr]
    versions: dict[str, str] = {}
    texts: dict[str, bytes] = {}
    for number in range(1, 40):
        stand.now += dice.choice([0, 1, 50])
        early = dice.sample(["zero", "one"], dice.choice([0, 0, 1, 2]))
        for task in early:
            written = WritesSaved("", f"{number:04}", task, "path", (Write(0, "a", "x", dice.randbytes(9)),))
            assert stand.run(save_writes(stand.keys, written, ttl=0, about=About()))
        values: dict[tuple[str, str], Keyframe | None] = {}
        for channel in dice.sample(["a", "b", "c:1", "é\0", *(f"wide {n}" for n in range(dice.choice([0, 20])))], 4):
            versions[channel] = f"i{number}"
            texts[channel] = texts.get(channel, b"") + dice.randbytes(dice.choice([1, 30, 90]))
            value = dice.choice([Keyframe("x", texts[channel]), Keyframe("x", b"short"), None])
            values[channel, versions[channel]] = value or (None if dice.random() < 0.3 else Keyframe("y", b"z" * 300))
        event = CheckpointSaved("", f"{number:04}", "0" if number == 1 else f"{number - 1:04}", dict(versions), {})
        about = About("loop", str(number), "", ["node"])
        assert stand.run(save_checkpoint(stand.keys, event, values, cache=cache, ttl=0, about=about))
        for task in dice.sample(["two", "three", "t\0"], dice.randint(1, 3)):
            writes = tuple(Write(idx, "a", "x", dice.randbytes(9)) for idx in dice.sample([-1, 0, 1], 2))
            written = WritesSaved("", event.checkpoint_id, task, "path", writes)
            assert stand.run(save_writes(stand.keys, written, ttl=0, about=about))
            assert not stand.run(save_writes(stand.keys, written, ttl=0, about=about)), (
                "a script decides on repetitions"
            )
        repeated = [replace(written, task_id=task) for task in early]
        assert not any(stand.run(save_writes(stand.keys, one, ttl=0, about=about)) for one in repeated)
        assert stand.hash[stand.keys.index] == stand.index.hash()
        assert stand.members == set(stand.index.members())
        head = stand.hash[stand.keys.head(b"")]
        found = from_head(head)
        assert stand.written(event.checkpoint_id) == [(one.task_id, one.write) for one in found.writes]
        assert (found.checkpoint_id, found.versions) == (event.checkpoint_id, versions)
        assert {channel: found.values[channel].data for channel, _ in values if channel in found.values} == {
            channel: value.data for (channel, _), value in values.items() if value is not None
        }
        assert sum(len(content) for name, content in head.items() if name[:1] in b"=+") == int(head[b"vb"])
        assert sum(len(content) for name, content in head.items() if name[:1] == b"!") == int(head[b"wb"])
    assert len(stand.pointers) == stand.index.sequence - 1


@contextmanager
def always_watching() -> Iterator[None]:
    """Watches after each call, also after failures, so that as many transactions as possible are tried."""
    rest, watched.LONGEST_REST = watched.LONGEST_REST, 0
    try:
        yield
    finally:
        watched.LONGEST_REST = rest


def line_of(dice: random.Random, steps: int) -> Iterator[Operation | None]:
    """A run on a thread, with some steps back, removals and reads; None where a derived key is to be deleted."""
    namespace, number, run = "", 0, "run-1"
    for _ in range(steps):
        kind = dice.choices(
            ("put", "writes", "read", "prune", "delete_thread", "back", "namespace", "run", "evict"),
            (40, 40, 4, 2, 1, 3, 2, 2, 2),
        )[0]
        changed = tuple(dice.sample(("messages", "count", "branch:to:n"), dice.randint(0, 3)))
        if kind == "put":
            number += 1
            emptied = ("count",) if dice.random() < 0.1 else ()
            yield Put("a", namespace, number, number - 1 or None, changed, emptied, (), run)
        elif kind == "writes":
            channels = tuple(dice.sample(("messages", "count", "__interrupt__", "__error__"), dice.randint(1, 3)))
            yield Writes(
                "a",
                namespace,
                number + (dice.random() < 0.2),
                dice.choice(("t1", "t2", "t3")),
                channels,
                dice.randint(0, 3),
            )
        elif kind == "back":
            yield Put("a", namespace, max(1, number - dice.randint(0, 3)), max(0, number - 2), changed, (), (), run)
        elif kind == "namespace":
            namespace = dice.choice(NAMESPACES)
        elif kind == "run":
            run = dice.choice(("run-1", "run-2"))
        else:
            yield None if kind == "evict" else Upkeep(kind, "a", "b", dice.randint(1, 3), run)


@pytest.mark.parametrize(
    "options", [{}, {"compress_above": 64}, {"cache_bytes": 0}], ids=["deltas", "compressed", "whole"]
)
@pytest.mark.parametrize("seed", range(3))
def test_both_ways_and_removals_interleave(single_server: Server, seed: int, options: dict[str, Any]) -> None:
    """After each step of two savers, index, order, heads and registry are those that log and feed give."""
    dice, bench = random.Random(seed), Bench(single_server, options)
    try:
        with always_watching():
            for operation in line_of(dice, 80):
                if operation is None:
                    bench.client.delete(dice.choice(bench.derived()))
                    bench.player.everything()
                    continue
                bench.player._savers = (bench.other if dice.random() < 0.1 else bench.saver,)
                with suppress(ThreadDeleted, VersionMissing):
                    bench.player.play(operation)
                if dice.random() < 0.2:
                    agree(bench)
        agree(bench)
    finally:
        bench.close()


def agree(bench: Bench) -> None:
    """Compares every view with log and feed, and the log with its digests."""
    bench.player.everything()
    check_agreement(bench)
    for number in range(2):
        assert bench.run(check_registry(bench.keyspace, number)) == []
    with suppress(ThreadNotFound):
        assert bench.saver.check("a").differences == ()
        assert bench.saver.verify("a").findings == ()

"""Fuzzers of views: damaged ones give typed errors or right answers, and the log makes them whole again.

The damage is done to every key that is no log and no feed: views, the record of trimming, and the keys of consumer groups.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from eventlog.errors import CorruptEntry, EventLogError, SignatureInvalid
from tests.fuzz.conftest import EXAMPLES
from tests.fuzz.mutations import ODD, bounded, bounded_memory, mutated
from tests.fuzz.test_fuzz_logs import State, state_of
from tests.saver.audit import config
from tests.saver.damage import READS, WRITES, Operation, Patient
from tests.saver.strategies import Draw
from tests.servers import Server

pytestmark = pytest.mark.timeout(0 if EXAMPLES else 120)
LONG = b"tx" * 35_000
"""A member or a name above the limit of ids."""
SCORES = [b"inf", b"-inf", b"-1", b"0", b"1.5", b"1e300", b"1750000000000"]
STREAMS = (b":log:", b"}:feed")
OF_ONE = (b":index:t", b":order:t", b":head:1:t")
"""The views of the thread "t"."""
WRITTEN = [name for name in WRITES if name != "member"]

NAMED = re.compile(r"([Tt]hread|[Gg]roup) ['\"]|[Pp]artition 0")
"""What an error names that names no key."""

Change = tuple[Any, ...]
"""A command."""


class Target:
    """Two threads, a subgraph and a group with all kinds of keys, which come back after each example."""

    def __init__(self, server: Server, *, signed: bool) -> None:
        self.patient = Patient(server, "t" + uuid.uuid4().hex[:8], signed=signed)
        self.signed = signed
        client = self.patient.client
        self.hashes: dict[bytes, dict[bytes, bytes]] = {}
        self.sets: dict[bytes, list[bytes]] = {}
        self.others: list[bytes] = []
        for key in self.patient.whole:
            kind = client.type(key)
            if any(part in key for part in STREAMS) or key.endswith(b":meta"):
                continue
            if kind == b"hash":
                self.hashes[key] = client.hgetall(key)
            elif kind == b"zset":
                self.sets[key] = client.zrange(key, 0, -1)
            else:
                self.others.append(key)
        with self.patient.saver() as saver:
            self.states = {thread: [state_of(one) for one in saver.list(config(thread))] for thread in "tue"}
            self.states["t"] += [state_of(one) for one in saver.list(config("t", namespace="sub"))]
        self.patient.heal()

    def is_written(self, found: Any) -> bool:
        """Whether a checkpoint is as it was written; writes may be left out."""
        state = state_of(found)
        return any(
            state[:6] == one[:6] and all(write in one[6] for write in state[6])
            for one in self.states.get(found.config["configurable"]["thread_id"], [])
        )

    def damage(self, changes: Sequence[Change]) -> None:
        """Makes all keys whole, then changes some."""
        self.patient.heal()
        for change in changes:
            self.patient.client.execute_command(*change)


@st.composite
def change_of_a_hash(draw: Draw, target: Target, key: bytes) -> list[Change]:
    """Changes of a hash: of a name or a value, or something of another hash."""
    fields = target.hashes[key]
    name = draw(st.sampled_from(sorted(fields)))
    kind = draw(st.sampled_from(["value", "value", "value", "name", "drop", "swap", "other", "add", "number", "long"]))
    if kind == "value":
        return [("HSET", key, name, draw(mutated(fields[name])))]
    if kind == "name":
        return [("HDEL", key, name), ("HSET", key, draw(mutated(name)), fields[name])]
    if kind == "drop":
        return [("HDEL", key, name)]
    if kind == "swap":
        other = draw(st.sampled_from(sorted(fields)))
        return [("HSET", key, name, fields[other], other, fields[name])]
    if kind == "other":
        there = target.hashes[draw(st.sampled_from(sorted(target.hashes)))]
        other = draw(st.sampled_from(sorted(there)))
        return [("HSET", key, draw(st.sampled_from([name, other])), there[other])]
    if kind == "number":
        return [("HSET", key, name, draw(st.integers(-(2**70), 2**70)))]
    if kind == "long":
        return [("HSET", key, *draw(st.sampled_from([(LONG, b"1"), (name, LONG)])))]
    return [("HSET", key, draw(st.sampled_from(ODD)), draw(st.sampled_from(ODD)))]


@st.composite
def change_of_a_set(draw: Draw, target: Target, key: bytes) -> list[Change]:
    """Changes of a sorted set: of a member or a score, or a member of another set."""
    members = target.sets[key]
    member = draw(st.sampled_from(members))
    score = draw(st.sampled_from(SCORES))
    kind = draw(st.sampled_from(["member", "member", "member", "drop", "score", "other", "add", "long"]))
    if kind == "member":
        made = draw(mutated(member))
        return [*([("ZREM", key, member)] if draw(st.booleans()) else []), ("ZADD", key, b"0", made)]
    if kind == "drop":
        return [("ZREM", key, member)]
    if kind == "score":
        return [("ZADD", key, score, member)]
    if kind == "other":
        there = target.sets[draw(st.sampled_from(sorted(target.sets)))]
        return [("ZADD", key, score, draw(st.sampled_from(there)))]
    return [("ZADD", key, score, LONG if kind == "long" else draw(st.sampled_from(ODD)))]


@st.composite
def damages(draw: Draw, target: Target, of: Callable[[bytes], bool] = lambda _: True) -> Any:
    """The commands that damage some keys."""
    keys = sorted(key for key in (*target.hashes, *target.sets, *target.others) if of(key))
    views = [key for key in keys if any(part in key for part in OF_ONE)]
    found: list[Change] = []
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(views if draw(st.booleans()) else keys))
        if key in target.hashes:
            found += draw(change_of_a_hash(target, key))
        elif key in target.sets:
            found += draw(change_of_a_set(target, key))
        else:
            found.append(("SET", key, draw(st.sampled_from(ODD))))
    return found


def outcome(target: Target, name: str, operation: Operation, path: Path) -> Any:
    """The result of an operation, or its error: one of ours, which names a thread, a group or a key, and a remedy."""
    patient = target.patient
    with patient.saver() as saver, patient.feed() as feed:
        try:
            return operation(patient, saver, feed, path)
        except EventLogError as error:
            said = str(error)
            note(f"{name}: {said}")
            assert NAMED.search(said) or patient.prefix in said, name
            assert "look at the server's log" not in said, name
            assert len(said) < 3000, name
            return error


def found_in(result: Any) -> Iterator[Any]:
    """The checkpoints in a result."""
    for one in result if isinstance(result, list) else [result]:
        if hasattr(one, "checkpoint") and hasattr(one, "config"):
            yield one


@pytest.fixture(scope="module", params=[False, True], ids=["unsigned", "signed"])
def target(any_server: Server, request: pytest.FixtureRequest) -> Iterator[Target]:
    """A target without signatures, and one with them."""
    made = Target(any_server, signed=request.param)
    yield made
    made.patient.client.close()


@given(data=st.data())
@bounded(20)
def test_damaged_views(target: Target, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Every call gives a result or a typed error; with a key, no read gives a state that was never written."""
    changes = data.draw(damages(target))
    order = random.Random(data.draw(st.integers(0, 999)))
    path = tmp_path_factory.mktemp("files")
    target.damage(changes)
    with bounded_memory():
        for name in order.sample([*READS], len(READS)):
            for found in found_in(outcome(target, name, READS[name], path)):
                assert not target.signed or target.is_written(found), name
        for name in order.sample(WRITTEN, 4):
            target.damage(changes)
            outcome(target, name, WRITES[name], path)
        if order.random() < 0.1:
            target.damage(changes)
            outcome(target, "member", WRITES["member"], path)


@given(data=st.data())
@bounded(20)
def test_a_rebuild_mends_the_views(target: Target, data: st.DataObject) -> None:
    """Damage to the views of one thread harms no other one, and is gone after a rebuild."""
    target.damage(data.draw(damages(target, lambda key: any(part in key for part in OF_ONE))))
    with target.patient.saver() as saver:
        try:
            listed = [one for one in saver.list(None) if one.config["configurable"]["thread_id"] != "t"]
            assert [state_of(one) for one in listed] == target.states["u"] + target.states["e"]
        except (CorruptEntry, SignatureInvalid) as error:
            assert target.signed  # a damaged index is refused, and not believed
            assert "'t'" in str(error)
        assert {"t", "u", "e"} == {one.thread_id for one in saver.threads()}
        saver.rebuild("t")
        assert saver.check("t").ok
        again: list[State] = [state_of(one) for one in saver.list(config("t"))]
        again += [state_of(one) for one in saver.list(config("t", namespace="sub"))]
        assert again == target.states["t"]

"""The script that settles, called directly: each list is written whole, once, or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from eventlog import Keyspace
from eventlog.feed.delivery import SETTLE
from eventlog.framing import ordered
from tests.servers import Server, connect

A, B, C = (ordered(name) + b"event" for name in (b"a", b"b", b"c"))
"""The first waiting event of three threads."""
Effect = tuple[bytes, ...]


class Settling:
    """A group with the lease of one partition, whose feed has one entry."""

    def __init__(self, client: Any, prefix: str) -> None:
        self.client = client
        self.shared = Keyspace(prefix, 1).partition(0)
        self.own = self.shared.group(b"g")
        client.hset(self.own.state, mapping={"token": "t", "stamp": "s0"})
        self.entry: bytes = client.xadd(self.shared.feed, {"thread": "a", "id": "1-0", "seq": "1", "kind": "writes"})

    def settle(
        self,
        stamp: str = "s1",
        *,
        before: str = "s0",
        token: str = "t",
        position: tuple[Any, str, int] = ("", "", 0),
        handled: int = 0,
        joined: Sequence[bytes] = (),
        done: Sequence[bytes] = (),
        failed: Sequence[bytes] = (),
        effects: Sequence[Effect] = (),
    ) -> Any:
        """The reply. An effect is a command, the end of its key, and its arguments."""
        names = list(dict.fromkeys(effect[1] for effect in effects))
        words: list[Any] = ["g", token, before, stamp, *position, handled]
        words += [len(joined) // 2, *joined, len(done) // 2, *done, len(failed) // 4, *failed, len(effects)]
        for command, name, *arguments in effects:
            words += [len(arguments) + 2, command, names.index(name) + 1, *arguments]
        shared, own = self.shared, self.own
        keys = [shared.positions, own.state, own.held, own.failures, own.due, shared.feed, shared.trimmed]
        keys += map(self.key, names)
        return self.client.eval(SETTLE.source, len(keys), *keys, *words)

    def key(self, name: bytes) -> bytes:
        """The key of an effect."""
        return self.own.effects + name

    def contents(self) -> dict[str, Any]:
        """The parts of the group, as they are stored."""
        client, own = self.client, self.own
        return {
            "state": client.hgetall(own.state),
            "position": client.hget(self.shared.positions, "g"),
            "waiting": client.zrange(own.held, 0, -1),
            "failures": client.hgetall(own.failures),
            "due": dict(client.zrange(own.due, 0, -1, withscores=True)),
        }

    def now(self) -> int:
        """The server's clock in ms."""
        seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000


@pytest.fixture
def settling(any_server: Server, prefix: str) -> Iterator[Settling]:
    """A group on the quick server."""
    client: Any = connect(any_server.url)
    yield Settling(client, prefix)
    client.close()


def test_each_list_is_written(settling: Settling) -> None:
    """Events join, are done with, and fail; the threads that are free and due are in the reply."""
    settling.client.zadd(settling.own.held, {B: 0, C: 0, C + b" later": 0})
    settling.client.hset(settling.own.failures, mapping={"b": "record", "c": "record"})
    settling.client.zadd(settling.own.due, {"b": 5, "c": math.inf})
    before = settling.now()
    reply = settling.settle(
        position=(settling.entry, "", 7),
        handled=2,
        joined=[b"a", A, b"a", A + b" later"],
        done=[b"b", B, b"c", C],
        failed=[b"d", b"d\0event", b"5000", b"failure", b"e", b"e\0event", b"inf", b"parked"],
    )
    after = settling.now()
    assert (reply[0], reply[1], sorted(reply[2]), reply[3]) == (b"ok", [b"b"], [b"a", b"c"], 0)
    found = settling.contents()
    assert found["waiting"] == sorted([A, A + b" later", C + b" later", b"d\0event", b"e\0event"])
    assert found["failures"] == {b"d": b"failure", b"e": b"parked"}
    assert before + 5000 <= found["due"].pop(b"d") <= after + 5000
    assert found["due"] == {b"a": 0, b"c": 0, b"e": math.inf}
    assert found["position"] == settling.entry
    at, rate = int(found["state"].pop(b"at")), float(found["state"].pop(b"rate"))
    assert before <= at <= after
    assert rate == pytest.approx(2 / 60, abs=1e-5)
    assert found["state"] == {
        b"token": b"t", b"stamp": b"s1", b"id": settling.entry, b"check": b"", b"n": b"7", b"handled": b"2",
    }  # fmt: skip


def test_the_same_settlement_again(settling: Settling) -> None:
    """It changes nothing, whatever it says, and has the reply of the first."""
    settling.client.zadd(settling.own.held, {A: 0, B: 0, B + b" later": 0})
    same: dict[str, Any] = {
        "position": (settling.entry, "", 7),
        "handled": 2,
        "done": [b"a", A, b"b", B],
        "joined": [b"c", C],
        "effects": [(b"INCRBY", b"n", b"1")],
    }
    first = settling.settle(**same)
    assert first[1] == [b"a"]
    contents = settling.contents()
    assert settling.settle(**same) == first
    assert settling.contents() == contents
    assert settling.client.get(settling.key(b"n")) == b"1"


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"token": "another"}, b"fenced"),
        ({"before": "s9"}, b"lost"),
        ({"before": ""}, b"lost"),
        ({"position": ("1-1", "12345678", 1)}, b"lost"),
        ({"position": ("5-0", "", 1)}, b"trimmed"),
    ],
)
def test_settlements_that_are_refused(settling: Settling, wrong: dict[str, Any], status: bytes) -> None:
    """Nothing is written by a member without the lease, or by one that knows another history."""
    trimmed = {"id": "9-0", "check": "12345678"} if status == b"trimmed" else {"id": "1-0", "check": "12345678"}
    settling.client.hset(settling.shared.trimmed, mapping=trimmed)
    before = settling.contents()
    same: dict[str, Any] = {"handled": 1, "joined": [b"a", A], "effects": [(b"SET", b"n", b"1")], **wrong}
    assert settling.settle(**same) == [status]
    assert settling.contents() == before
    assert settling.client.get(settling.key(b"n")) is None


def test_the_first_settlement_of_a_lease(settling: Settling) -> None:
    """A group without a stamp has the empty one; a settlement without a position leaves it."""
    settling.client.hdel(settling.own.state, "stamp")
    settling.client.hset(settling.own.state, mapping={"id": "1-0", "n": 1})
    assert settling.settle(before="") == [b"ok", [], [], -1]
    assert settling.contents()["state"] == {b"token": b"t", b"stamp": b"s1", b"id": b"1-0", b"n": b"1"}
    assert settling.contents()["position"] is None


def test_a_thread_that_waits_keeps_its_time(settling: Settling) -> None:
    """An event that joins does not make its thread due."""
    settling.client.zadd(settling.own.due, {"a": math.inf, "b": 3})
    settling.settle(joined=[b"a", A, b"b", B])
    assert settling.contents()["due"] == {b"a": math.inf, b"b": 3}


def test_the_rate_fades(settling: Settling) -> None:
    """The events of a minute ago count by 1/e."""
    settling.client.hset(settling.own.state, mapping={"handled": 100, "rate": 3, "at": settling.now() - 60_000})
    settling.settle(handled=6)
    state = settling.contents()["state"]
    assert state[b"handled"] == b"106"
    assert float(state[b"rate"]) == pytest.approx(3 / math.e + 0.1, abs=0.1)
    settling.client.hset(settling.own.state, mapping={"rate": 3, "at": settling.now() + 1_000_000})
    settling.settle("s2", before="s1", handled=6)
    assert float(settling.contents()["state"][b"rate"]) == pytest.approx(3.1, abs=0.001)


def test_effects_run_in_order(settling: Settling) -> None:
    """Several keys, several arguments, and a key that is made on the way."""
    effects: list[Effect] = [
        (b"HSET", b"h", b"f", b"1", b"g", b"2"), (b"SET", b"n", b"5"), (b"INCRBY", b"n", b"2"), (b"HDEL", b"h", b"f"),
    ]  # fmt: skip
    assert settling.settle(effects=effects, handled=1)[0] == b"ok"
    assert settling.client.hgetall(settling.key(b"h")) == {b"g": b"2"}
    assert settling.client.get(settling.key(b"n")) == b"7"


@pytest.mark.parametrize(
    ("effects", "number", "error"),
    [
        ([(b"HSET", b"n", b"f", b"1")], 1, b"HSET on a key that holds a string"),
        ([(b"SET", b"other", b"1"), (b"HSET", b"n", b"f", b"1")], 2, b"HSET on a key that holds a string"),
        ([(b"INCRBY", b"n", b"1")], 1, b"not an integer"),
    ],
)
def test_effects_that_cannot_run(settling: Settling, effects: list[Effect], number: int, error: bytes) -> None:
    """The settlement is refused with the first that cannot, and writes nothing but a stamp that it had."""
    settling.client.set(settling.key(b"n"), "text")
    before = settling.contents()
    reply = settling.settle(handled=1, effects=effects, position=(settling.entry, "", 1))
    assert reply[:2] == [b"refused", number]
    assert error in reply[2]
    assert settling.contents() == before
    assert settling.client.get(settling.key(b"other")) is None


def test_a_settlement_that_stopped_halfway(settling: Settling) -> None:
    """It is known when it is sent again, so that no effect runs twice; the next settlement is free to go on."""
    effects: list[Effect] = [(b"INCRBY", b"n", b"1"), (b"HSET", b"n", b"f", b"v")]
    first = settling.settle(effects=effects, handled=1)
    assert first[:2] == [b"halfway", 2]
    contents = settling.contents()
    assert settling.settle(effects=effects, handled=1) == first
    assert settling.contents() == contents
    assert settling.client.get(settling.key(b"n")) == b"1"
    assert contents["state"][b"stamp"] == b"s0"
    assert settling.settle("s", failed=[b"a", A, b"inf", b"record"])[0] == b"ok"
    assert settling.contents()["failures"] == {b"a": b"record"}

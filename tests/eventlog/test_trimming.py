"""Trimming the feed: what goes, what stays for its bounds or for a group, and what is kept of what went."""

from __future__ import annotations

import hashlib
import math
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventlog import Connections, CorruptEntry, InvalidArgument, Keyspace, LogLost, Runner
from eventlog.errors import AccessDenied
from eventlog.feed.trimming import HeldBack, Retention, Trimmed, trim_feed, trim_partition
from eventlog.framing import counted
from tests.saver.users import rights_of, set_user
from tests.servers import RunningServer, Server

Pointer = tuple[str, str, str]
"""Thread, kind, and what it has for the run."""
RUNS = st.sampled_from(["", "r", "run:2"])
POINTERS = st.one_of(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["checkpoint", "checkpoint", "writes", "deleted"]), RUNS),
    st.tuples(st.sampled_from("abc"), st.just("copied"), st.sampled_from(["", "1:r", "1:r5:run:2"])),
)


class Feed:
    """A feed of pointers that were made up, trimmed on a server."""

    def __init__(self, url: str, prefix: str, partitions: int = 1, **options: Any) -> None:
        self.keyspace = Keyspace(prefix, partitions)
        self.keys = self.keyspace.partition(0)
        self.connections = Connections.from_url(url, **options)
        self.runner = Runner(self.connections)
        self.client: Any = self.connections.sync_client()

    def add(self, thread: str, kind: str = "checkpoint", run: str = "", entry_id: str = "*", partition: int = 0) -> str:
        """Announces an event; the entry id."""
        fields = {"thread": thread, "id": f"{len(thread)}-0", "seq": "1", "kind": kind, "run": run}
        made: bytes = self.client.xadd(self.keyspace.partition(partition).feed, fields, id=entry_id)
        return made.decode()

    def trim(self, page: int = 1000, **bounds: Any) -> Trimmed:
        """Takes all that may go."""
        return self.runner.run(trim_feed(self.keyspace, Retention(**bounds), page=page), "feed")

    def trim_some(self, most: int, **bounds: Any) -> Trimmed:
        """Takes some of the first partition."""
        return self.runner.run(trim_partition(self.keyspace, 0, Retention(**bounds), most=most), "feed")

    def ids(self) -> list[str]:
        """Those that the feed has."""
        return [entry_id.decode() for entry_id, _ in self.client.xrange(self.keys.feed)]

    def trimmed(self) -> dict[str, str]:
        """The report on those that went."""
        return {name.decode(): value.decode() for name, value in self.client.hgetall(self.keys.trimmed).items()}

    def past(self) -> tuple[dict[bytes, float], set[bytes]]:
        """Threads and runs of what went."""
        threads = dict(self.client.zrange(self.keys.past_threads, 0, -1, withscores=True))
        return threads, set(self.client.zrange(self.keys.past_runs, 0, -1))

    def everything(self) -> dict[bytes, Any]:
        """All keys of the partition, dumped."""
        return {key: self.client.dump(key) for key in vars_of(self.keys)}

    def close(self) -> None:
        """Deletes what it made."""
        for number in range(self.keyspace.partitions):
            self.client.delete(*vars_of(self.keyspace.partition(number)))
        self.connections.close()


def vars_of(keys: Any) -> list[bytes]:
    """All keys of a partition."""
    return [getattr(keys, name) for name in keys.__slots__]


@pytest.fixture
def feed(any_server: Server, prefix: str) -> Iterator[Feed]:
    """A feed of one partition on the one quick server."""
    made = Feed(any_server.url, prefix)
    yield made
    made.close()


def check_of(thread: str, kind: str) -> str:
    """What tells a pointer of `Feed.add` from others."""
    return hashlib.sha1(f"{thread}\n{len(thread)}-0\n1\n{kind}".encode()).hexdigest()[:8]


def fold(entries: list[tuple[str, Pointer]]) -> tuple[dict[bytes, float], set[bytes]]:
    """Threads and runs that pointers tell of, as the keys have them."""
    threads: dict[bytes, float] = {b"": 0}
    runs: set[tuple[str, str]] = set()
    for entry_id, (thread, kind, run) in entries:
        name = b"t" + thread.encode()
        if kind == "deleted":
            threads.pop(name, None)
            runs = {one for one in runs if one[0] != thread}
        elif kind != "writes" or name in threads:
            threads[name] = float(entry_id.partition("-")[0])
            told = {"copied": {"": [], "1:r": ["r"], "1:r5:run:2": ["r", "run:2"]}.get(run, []), "writes": []}
            runs |= {(thread, one) for one in told.get(kind, [run] if run else [])}
    members = {b""}
    for thread, run in runs:
        members |= {b"r" + counted(run.encode()) + thread.encode(), b"t" + counted(thread.encode()) + run.encode()}
    return threads, members


@given(
    pointers=st.lists(POINTERS, min_size=1, max_size=30),
    trims=st.lists(st.tuples(st.none() | st.integers(0, 20), st.none() | st.integers(0, 31)), min_size=1, max_size=4),
    positions=st.dictionaries(st.sampled_from(["slow", "fast", "é:"]), st.integers(0, 30), max_size=3),
    page=st.sampled_from([1, 2, 7, 1000]),
)
@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    print_blob=True,
)
def test_what_goes_and_what_stays(
    server: Server,
    pointers: list[Pointer],
    trims: list[tuple[int | None, int | None]],
    positions: dict[str, int],
    page: int,
) -> None:
    """Exactly what is beyond a bound goes, none that a group needs, and what went is reported as a fold of it says."""
    feed = Feed(server.url, "t" + uuid.uuid4().hex[:8])
    try:
        now = time.time_ns() // 10**6
        begin = now - 1_000_000 * len(pointers)
        entries = [
            (feed.add(*pointer, entry_id=f"{begin + number // 2 * 2_000_000}-{1 + number % 2}"), pointer)
            for number, pointer in enumerate(pointers)
        ]
        ids = ["0-0", *(entry_id for entry_id, _ in entries)]
        for group, position in positions.items():
            feed.client.hset(feed.keys.positions, group, ids[min(position, len(pointers))])
        needed = min(positions.values(), default=len(pointers))
        gone = 0
        for count, old in trims:
            if count is None and old is None:
                continue
            age = (
                None if old is None else timedelta(milliseconds=1_000_000 * len(pointers) - 2_000_000 * old + 1_000_000)
            )
            if age is not None and age <= timedelta(0):
                continue
            beyond = gone if count is None else max(gone, len(pointers) - count)
            beyond = beyond if old is None else max(beyond, min(len(pointers), 2 * old))
            done = feed.trim(page=page, age=age, count=count)
            assert done.entries == min(beyond, max(needed, gone)) - gone
            gone += done.entries
            assert feed.ids() == ids[1 + gone :]
            holders = {group for group, position in positions.items() if position < beyond}
            assert {held.group for held in done.held_back} <= holders
            assert {group for group in holders if positions[group] == needed} <= {held.group for held in done.held_back}
            if page == 1000:
                assert {held.group: held.entries for held in done.held_back} == {
                    group: beyond - max(gone, positions[group]) for group in holders
                }
        if gone:
            last_id, (thread, kind, _) = entries[gone - 1]
            assert feed.trimmed() == {"id": last_id, "n": str(gone), "check": check_of(thread, kind)}
            assert feed.past() == fold(entries[:gone])
        else:
            assert feed.client.exists(feed.keys.trimmed, feed.keys.past_threads, feed.keys.past_runs) == 0
    finally:
        feed.close()


def test_a_feed_trimmed_to_nothing_counts_on(server: Server, prefix: str) -> None:
    """The stream stays, empty, and ids go on rising even where the clock is behind."""
    feed = Feed(server.url, prefix)
    ahead = f"{time.time_ns() // 10**6 + 600_000}-7"
    feed.add("a", entry_id=ahead)
    assert feed.trim(count=0) == Trimmed(1, ())
    assert feed.client.exists(feed.keys.feed) == 1
    assert feed.ids() == []
    assert feed.trim(count=0) == Trimmed(0, ())
    assert feed.trimmed()["n"] == "1"
    following = feed.add("b")
    assert following == f"{ahead[:-2]}-8"
    assert feed.trim(count=0).entries == 1
    assert feed.trimmed() == {"id": following, "n": "2", "check": check_of("b", "checkpoint")}
    feed.close()


def test_a_feed_that_never_was(feed: Feed) -> None:
    """There is nothing to take, and nothing is made."""
    assert feed.trim(count=0, age=timedelta(1)) == Trimmed(0, ())
    assert set(feed.everything().values()) == {None}


def test_at_most_so_many(feed: Feed) -> None:
    """A call takes what it is asked for; all calls together what is beyond the bounds, in as many round trips."""
    ids = [feed.add(f"t{number}") for number in range(25)]
    assert feed.trim_some(4, count=3).entries == 4
    assert feed.ids() == ids[4:]
    asked = []

    def watched() -> Any:
        flow = trim_feed(feed.keyspace, Retention(count=3), page=6)
        reply = None
        try:
            while True:
                asked.append(flow.send(reply))
                reply = yield asked[-1]
        except StopIteration as stop:
            return stop.value

    assert feed.runner.run(watched(), "feed") == Trimmed(18, ())
    assert len(asked) == 3
    assert feed.ids() == ids[22:]


def test_the_count_is_that_of_the_whole_feed(server: Server, prefix: str) -> None:
    """Each partition keeps its share, rounded up."""
    feed = Feed(server.url, prefix, partitions=4)
    for number in range(40):
        feed.add("t", partition=number % 4)
    assert feed.trim(count=10).entries == 28
    assert [feed.client.xlen(feed.keyspace.partition(number).feed) for number in range(4)] == [3] * 4
    feed.close()


def test_what_groups_hold_back(server: Server, prefix: str) -> None:
    """Each group that needs entries beyond the bounds is named, with how many and how old the oldest is; done with them, they go."""
    feed = Feed(server.url, prefix)
    now = time.time_ns() // 10**6
    ids = [feed.add("t", entry_id=f"{now - 100_000 + 1000 * number}-0") for number in range(10)]
    feed.client.hset(feed.keys.positions, mapping={"slow": ids[1], "new": "0-0", "fast": ids[9]})
    done = feed.trim(count=4)
    assert done.entries == 0
    held = {one.group: one for one in done.held_back}
    assert {group: (one.partition, one.entries) for group, one in held.items()} == {"slow": (0, 4), "new": (0, 6)}
    assert held["new"].age == pytest.approx(100, abs=30)
    assert held["new"].age - held["slow"].age == pytest.approx(2, abs=0.001)
    feed.client.hset(feed.keys.positions, "new", ids[3])
    done = feed.trim(count=4)
    assert (done.entries, feed.ids()) == (2, ids[2:])
    assert {(one.group, one.entries) for one in done.held_back} == {("slow", 4), ("new", 2)}
    feed.client.hset(feed.keys.positions, mapping={"slow": ids[5], "new": ids[9]})
    assert feed.trim(count=4) == Trimmed(4, ())
    assert feed.ids() == ids[6:]
    feed.close()


def test_a_position_that_cannot_be_read_holds_everything(feed: Feed) -> None:
    """It is not taken for one that is far."""
    for position in ("", "nonsense", "99999999999999"):
        feed.client.hset(feed.keys.positions, "g", position)
        feed.add("t")
        done = feed.trim(count=0)
        assert done.entries == 0
        assert [held.group for held in done.held_back] == ["g"]


def test_more_is_held_back_than_one_call_looks_at(feed: Feed) -> None:
    """What is beyond the count is reported whole, by count."""
    ids = [feed.add("t") for _ in range(30)]
    feed.client.hset(feed.keys.positions, "g", ids[4])
    done = feed.trim(page=7, count=2)
    assert (done.entries, [held.entries for held in done.held_back]) == (5, [23])


@pytest.mark.parametrize("key", ["feed", "trimmed", "positions", "past_threads", "past_runs", "threads"])
def test_a_key_of_another_type_is_an_error(feed: Feed, key: str) -> None:
    """Nothing is written then."""
    for number in range(3):
        feed.add(f"t{number}", run="r")
    feed.trim(count=2)
    name = getattr(feed.keys, key)
    feed.client.delete(name)
    feed.client.set(name, "something else")
    before = feed.everything()
    with pytest.raises(CorruptEntry, match="WRONGTYPE"):
        feed.trim(count=0)
    assert feed.everything() == before


@pytest.mark.parametrize(
    "fields",
    [{"thread": "t"}, {"thread": "t", "kind": "copied", "run": "9:r"}, {"thread": "t", "kind": "copied", "run": "r"}],
)
def test_an_entry_that_is_no_pointer(feed: Feed, fields: dict[Any, Any]) -> None:
    """It is named, and nothing is written."""
    feed.add("a")
    foreign = feed.client.xadd(feed.keys.feed, fields)
    before = feed.everything()
    with pytest.raises(CorruptEntry, match=foreign.decode()):
        feed.trim(count=0)
    assert feed.everything() == before
    assert feed.trim(count=1).entries == 1


@pytest.mark.parametrize("key", ["past_threads", "past_runs"])
def test_what_was_kept_is_gone(feed: Feed, key: str) -> None:
    """Trimming does not go on as if nothing had been known."""
    for _ in range(2):
        feed.add("t", run="r")
    feed.trim(count=1)
    feed.client.delete(getattr(feed.keys, key))
    with pytest.raises(LogLost, match="backup"):
        feed.trim(count=0)
    assert len(feed.ids()) == 1
    for name in (feed.keys.past_threads, feed.keys.past_runs):
        feed.client.zadd(name, {b"": 0})
    assert feed.trim(count=0).entries == 1


def test_threads_that_expired_are_forgotten(server: Server, prefix: str) -> None:
    """What is kept of the past stays in proportion to the threads that live; these and their runs stay known."""
    feed = Feed(server.url, prefix)
    live = [f"live {number}" for number in range(20)]
    pipeline = feed.client.pipeline(transaction=False)
    for thread in (*live, *(f"ended {number}" for number in range(2500))):
        pipeline.xadd(feed.keys.feed, {"thread": thread, "id": "1-0", "seq": "1", "kind": "checkpoint", "run": "r"})
    pipeline.execute()
    feed.trim(count=0)
    assert feed.client.zcard(feed.keys.past_threads) == 2521
    feed.client.zadd(feed.keys.threads, {f"t{thread}": 1 for thread in live})
    feed.trim(count=0)
    assert feed.client.zcard(feed.keys.past_threads) == 2521  # `threads` is not whole, and may lack some
    feed.client.zadd(feed.keys.threads, {"": 0})
    sizes = []
    for _ in range(4):
        feed.trim(count=0)
        sizes.append(feed.client.zcard(feed.keys.past_threads))
    assert sizes[0] >= 1521
    assert 20 < sizes[-1] <= 2 * 21 + 1000
    threads, runs = feed.past()
    assert {f"t{thread}".encode() for thread in live} <= set(threads)
    assert len(runs) == 2 * (len(threads) - 1) + 1
    feed.close()


def test_a_full_server_is_trimmed(private_server: Callable[..., RunningServer], binary: Path, prefix: str) -> None:
    """It makes room, so it is not refused where a put is."""
    feed = Feed(private_server(binary=binary).url, prefix)
    for number in range(100):
        feed.add(f"t{number}", run="r")
    feed.client.config_set("maxmemory", "1")
    with pytest.raises(Exception, match="OOM|maxmemory"):
        feed.add("one more")
    assert feed.trim(count=10).entries == 90
    assert len(feed.past()[0]) == 91
    feed.client.config_set("maxmemory", "0")
    feed.close()


def test_rights_that_a_saver_has_are_enough(
    private_server: Callable[..., RunningServer], binary: Path, prefix: str
) -> None:
    """Those that OPERATIONS.md lists; without them nothing is written."""
    running = private_server(binary=binary)
    feed = Feed(running.url, prefix)
    for _ in range(4):
        feed.add("t")
    set_user(feed.client, "agent", rights_of("agent"), prefix)
    agent = Feed(running.url, prefix, username="agent", password="secret")
    assert agent.trim(count=2).entries == 2
    feed.client.execute_command("ACL", "SETUSER", "agent", "-xtrim")
    before = feed.everything()
    with pytest.raises(AccessDenied):
        agent.trim(count=1)
    assert feed.everything() == before
    agent.connections.close()
    feed.close()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (timedelta(days=2), Retention(age=timedelta(days=2))),
        (1000, Retention(count=1000)),
        (0, Retention(count=0)),
        ({"age": 60}, Retention(age=timedelta(minutes=1))),
        ({"age": 0.5, "count": 3}, Retention(timedelta(milliseconds=500), 3)),
        ({"age": timedelta(1), "count": None}, Retention(age=timedelta(1))),
        (Retention(count=3), Retention(count=3)),
        (timedelta.max, Retention(age=timedelta.max)),
    ],
)
def test_bounds(value: Any, expected: Retention | None) -> None:
    """Every form they may be given in."""
    assert Retention.of(value) == expected


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (-1, InvalidArgument, "pass None"),
        (2**60, InvalidArgument, "pass None"),
        (timedelta(0), InvalidArgument, "count of 0"),
        (timedelta(seconds=-1), InvalidArgument, "count of 0"),
        ({"age": 0}, InvalidArgument, "count of 0"),
        ({"age": math.nan}, InvalidArgument, "must be a time"),
        ({"age": math.inf}, InvalidArgument, "must be a time"),
        ({"age": 1e300}, InvalidArgument, "must be a time"),
        ({"count": -3}, InvalidArgument, "-3"),
        ({}, InvalidArgument, "pass None"),
        ({"age": None}, InvalidArgument, "pass None"),
        ({"days": 2}, InvalidArgument, "days"),
        (True, TypeError, "bool"),
        (2.5, TypeError, "float"),
        ("2 days", TypeError, "str"),
        ({"age": True}, TypeError, "bool"),
        ({"age": "2"}, TypeError, "str"),
        ({"count": False}, TypeError, "bool"),
        ({"count": 1.0}, TypeError, "float"),
    ],
)
def test_bounds_that_are_none(value: Any, kind: type[Exception], words: str) -> None:
    """The message says what to pass."""
    with pytest.raises(kind, match=words):
        Retention.of(value)


def test_an_age_longer_than_time_keeps_everything(feed: Feed) -> None:
    """And does not overflow."""
    feed.add("t")
    assert feed.trim(age=timedelta.max) == Trimmed(0, ())
    feed.client.hset(feed.keys.positions, "g", "0-0")
    (held,) = feed.trim(count=0).held_back
    assert held == HeldBack("g", 0, 1, held.age)

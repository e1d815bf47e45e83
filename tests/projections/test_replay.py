"""Replay gives, for each event, what could be read right after it."""

from __future__ import annotations

import re
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import Self

from eventlog.connect.connections import Connections
from eventlog.errors import BeforeFirstEvent, CorruptEntry, EventGone, InvalidArgument, SignatureInvalid, ThreadNotFound
from eventlog.events import CheckpointSaved, Recorded, ValuesSaved, WritesSaved
from eventlog.keys import Keyspace, ThreadKeys
from eventlog.signing import Signer, SigningKey
from eventlog.transport.drivers import Runner
from projections.checkpoints.read import read_latest
from projections.time_travel.moment import moment_of, time_of
from projections.time_travel.past import Past, State, Unavailable
from projections.time_travel.replay import replay, state_as_of
from saver import RedisStreamSaver
from tests.projections.traffic import NAMESPACES, THREADS, Operation, Player, Put, Upkeep, Writes, traffic
from tests.saver.audit import config, put_of
from tests.servers import Server

quick = settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    print_blob=True,
)
options = st.sampled_from([{}, {"compress_above": 64}, {"cache_bytes": 0}])

Answers = dict[int, dict[str, Any]]
"""Of a thread, by sequence number and namespace: the latest checkpoint as it was read then."""


class Bench:
    """Savers on a prefix of their own, and every answer that reads gave, by thread."""

    def __init__(self, server: Server, **options: Any) -> None:
        prefix = "t" + uuid.uuid4().hex[:8]
        self.savers = [
            RedisStreamSaver.from_conn_string(server.url, prefix=prefix, partitions=2, **options) for _ in range(2)
        ]
        self.player = Player(*self.savers)
        key = options.get("signing_key")
        self.keyspace = Keyspace(prefix, 2, None if key is None else Signer(SigningKey.hmac(key)))
        self.connections = Connections.from_url(server.url)
        self.runner = Runner(self.connections)
        self.client: Any = self.connections.sync_client()
        self.answers: dict[str, Answers] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in THREADS:
            self.savers[0].delete_thread(thread)
        for one in self.savers:
            one.close()
        self.connections.close()

    def keys(self, thread: str) -> Any:
        return self.keyspace.thread(thread.encode())

    def run(self, flow: Any) -> Any:
        return self.runner.run(flow, "test")

    def items(self, flow: Any) -> list[tuple[Recorded, State]]:
        return list(self.runner.iterate(flow, "test"))

    def sequence(self, thread: str) -> int:
        last = self.client.xrevrange(self.keys(thread).log, count=1)
        return int(last[0][1][b"n"]) if last else 0

    def read(self, thread: str) -> dict[str, Any]:
        return {namespace: self.run(read_latest(self.keys(thread), namespace)) for namespace in NAMESPACES}

    def play(self, operation: Operation) -> None:
        """Carries an operation out, then notes what can be read."""
        before = {thread: self.sequence(thread) for thread in THREADS}
        self.player.play(operation)
        for thread in THREADS:
            after = self.sequence(thread)
            if not after:
                self.answers.pop(thread, None)
            elif after != before[thread]:
                answers = self.answers.setdefault(thread, {})
                if isinstance(operation, Upkeep) and operation.name == "copy_thread" and not before[thread]:
                    answers.update(self.answers[operation.thread])
                answers[after] = self.read(thread)

    def check(self, *, exact: bool) -> int:
        """Compares each replay with the answers; how many states were given. `exact`: none may be unavailable."""
        given = 0
        for thread, answers in self.answers.items():
            events = self.items(replay(self.keys(thread)))
            assert [recorded.entry_id for recorded, _ in events] == [
                entry_id for entry_id, _ in self.client.xrange(self.keys(thread).log)
            ]
            for recorded, state in events:
                namespace = getattr(recorded.event, "namespace", "")
                if recorded.sequence not in answers:
                    assert isinstance(recorded.event, (ValuesSaved, WritesSaved, CheckpointSaved))
                    continue
                if isinstance(state, Unavailable) and not exact:
                    continue
                assert state == answers[recorded.sequence][namespace]
                given += 1
            self._check_moments(thread, answers, exact=exact)
        return given

    def _check_moments(self, thread: str, answers: Answers, *, exact: bool) -> None:
        entries = {int(fields[b"n"]): entry_id for entry_id, fields in self.client.xrange(self.keys(thread).log)}
        for sequence, expected in list(answers.items())[:: max(1, len(answers) // 4)]:
            for namespace in NAMESPACES:
                for when in (sequence, entries.get(sequence)):
                    if when is None:
                        continue
                    try:
                        found = self.run(state_as_of(self.keys(thread), namespace, when))
                    except (EventGone, BeforeFirstEvent):
                        assert not exact
                    else:
                        assert found == expected[namespace]


def without(operations: list[Operation], *names: str) -> list[Operation]:
    return [one for one in operations if not (isinstance(one, Upkeep) and one.name in names)]


@given(operations=traffic, options=options)
@quick
def test_replay_gives_what_could_be_read_after_each_event(
    any_server: Server, operations: list[Operation], options: dict[str, Any]
) -> None:
    """Of forks, overwrites, late values, early writes, copies: exactly; and so do reads as of a moment."""
    with Bench(any_server, **options) as bench:
        for operation in without(operations, "prune", "delete_for_runs"):
            bench.play(operation)
        bench.check(exact=True)


@given(operations=traffic, options=options)
@quick
def test_replay_of_what_was_pruned_is_right_or_unavailable(
    any_server: Server, operations: list[Operation], options: dict[str, Any]
) -> None:
    """Never wrong; and right again from the last removal on. Checkpoints are put once."""
    with Bench(any_server, **options) as bench:
        put: set[Any] = set()
        for operation in operations:
            named = (operation.thread, operation.namespace, operation.rank) if isinstance(operation, Put) else None
            if named is not None and (put & {(thread, *named[1:]) for thread in THREADS}):
                continue
            put.add(named)
            bench.play(operation)
        bench.check(exact=False)
        for thread, answers in bench.answers.items():
            last = max(answers)
            for recorded, state in bench.items(replay(bench.keys(thread))):
                if recorded.sequence == last:
                    assert state == answers[last][getattr(recorded.event, "namespace", "")]


LINE: list[Operation] = []
for _number in range(40):
    _parent = _number - 1 if _number else None
    LINE += [
        Put("a", "", _number, _parent, ("messages", "count"), (), (), f"run-{1 + _number % 20 // 19}"),
        Writes("a", "", _number, "t1", ("messages", "__interrupt__"), _number % 4),
        Writes("a", "", _number + 1, "t2", ("count",), 1),
    ]


def test_what_is_left_of_a_pruned_thread_is_available(server: Server) -> None:
    """On every server: states of checkpoints that were kept are given for the time before the pruning, others are not."""
    with Bench(server, compress_above=64) as bench:
        for operation in LINE:
            bench.play(operation)
        assert bench.check(exact=True) == 120
        before = bench.sequence("a")
        bench.play(Upkeep("prune", "a", "", 5, ""))
        bench.check(exact=False)
        events = bench.items(replay(bench.keys("a")))
        given = [recorded for recorded, state in events if not isinstance(state, Unavailable)]
        assert [one.sequence for one in given if one.sequence > 1] == [*range(before - 14, before + 2)]
        told = [state for _, state in events if isinstance(state, Unavailable)]
        assert told
        assert all(one.reason == "pruned" and "'a'" in one.message for one in told)
        with pytest.raises(EventGone) as gone:
            bench.run(state_as_of(bench.keys("a"), "", before - 20))
        assert gone.value.reason == "pruned"


def test_deleted_runs_hide_what_was_the_latest(any_server: Server) -> None:
    """A deleted latest uncovers the one before it; before the deletion its state is unavailable, and that of others is given."""
    with Bench(any_server, cache_bytes=0) as bench:
        for operation in LINE[: 3 * 21]:
            bench.play(operation)
        before = bench.sequence("a")
        bench.play(Upkeep("delete_for_runs", "a", "", 1, "run-2"))  # checkpoint 19
        bench.play(Put("a", "", 50, 20, ("messages",), (), (), "run-1"))
        bench.player.saver.prune(["a"], keep_last=1)
        bench.answers["a"][bench.sequence("a")] = bench.read("a")
        bench.check(exact=False)
        events = bench.items(replay(bench.keys("a")))
        assert any(recorded.sequence <= before and isinstance(state, Unavailable) for recorded, state in events)
        assert any(recorded.sequence > before and not isinstance(state, Unavailable) for recorded, state in events)


def test_a_moment_among_events_that_are_gone(any_server: Server) -> None:
    """Is not taken for that of the event before them."""
    with Bench(any_server, cache_bytes=0) as bench:
        bench.play(Put("a", "", 1, None, ("count",), (), (), "run-1"))
        for number in (2, 3):
            bench.play(Put("a", "sub", number, None, ("count",), (), (), "run-2"))
        bench.play(Upkeep("delete_for_runs", "a", "", 1, "run-2"))
        assert [int(fields[b"n"]) for _, fields in bench.client.xrange(bench.keys("a").log)] == [1, 4]
        assert bench.run(state_as_of(bench.keys("a"), "sub", 1)) is None
        assert bench.run(state_as_of(bench.keys("a"), "sub", 4)) is None
        for gone in (2, 3):
            with pytest.raises(EventGone):
                bench.run(state_as_of(bench.keys("a"), "sub", gone))
            assert bench.run(state_as_of(bench.keys("a"), "", gone)) == bench.answers["a"][gone][""]


def test_replay_of_a_part(any_server: Server) -> None:
    """After and until take times, entries and sequence numbers; what is left out changes no state."""
    with Bench(any_server) as bench:
        for operation in LINE:
            bench.play(operation)
        keys = bench.keys("a")
        whole = bench.items(replay(keys))
        first, last = whole[30][0], whole[70][0]
        for after, until in (
            (first.entry_id, last.entry_id),
            (first.sequence, last.sequence),
            (time_of(first.entry_id), time_of(last.entry_id)),
            (first.entry_id.decode(), last.sequence),
        ):
            found = bench.items(replay(keys, after=moment_of(after), until=moment_of(until)))
            assert found == whole[31:71]
        assert moment_of(first.sequence).before().covers(whole[29][0])
        assert not moment_of(first.sequence).before().covers(first)
        assert not moment_of(first.entry_id).before().covers(first)
        assert bench.items(replay(keys, after=moment_of(last.sequence + 1000))) == []
        assert bench.items(replay(keys, states=False)) == [(recorded, None) for recorded, _ in whole]


def test_replay_of_one_namespace(any_server: Server) -> None:
    """Its own events, and those of the whole thread with its state."""
    with Bench(any_server) as bench:
        for number, namespace in enumerate(("", "sub", "", "sub")):
            bench.play(Put("a", namespace, number, None, ("messages",), (), (), "run-1"))
        bench.play(Upkeep("copy_thread", "a", "b", 1, ""))
        found = bench.items(replay(bench.keys("b"), namespace="sub"))
        assert [recorded.sequence for recorded, _ in found] == [2, 4, 5]
        expected = bench.read("b")["sub"]
        assert found[-1][1] == found[-2][1] == expected


def test_many_namespaces_are_looked_up_again(any_server: Server) -> None:
    """More than are followed at a time: states are right all the same."""
    with Bench(any_server) as bench:
        saver, expected = bench.savers[0], []
        for turn in range(2):
            for number in range(150):
                put = put_of("a", 1000 * turn + number, namespace=f"sub:{number}", shared=True)
                saver.put(*put)
                saver.put_writes(config("a", 1000 * turn + number, f"sub:{number}"), [("n", number)], "t")
                expected.append(bench.run(read_latest(bench.keys("a"), f"sub:{number}")))
        states = [
            state for recorded, state in bench.items(replay(bench.keys("a"))) if isinstance(recorded.event, WritesSaved)
        ]
        assert states == expected


def test_wide_checkpoints(any_server: Server) -> None:
    """Values and writes that are spread over several entries."""
    with Bench(any_server, cache_bytes=0) as bench:
        saver = bench.savers[0]
        channels = [f"c{number}" for number in range(2300)]
        for number in (1, 2):
            saver.put(*put_of("a", number, number - 1 or None, channels=channels, shared=True))
        saver.put_writes(config("a", 2), [(f"c{number}", number) for number in range(1500)], "t")
        states = {
            recorded.sequence: state for recorded, state in bench.items(replay(bench.keys("a"))) if state is not None
        }
        assert states[max(states)] == bench.run(read_latest(bench.keys("a"), ""))
        assert [len(one.values) for one in states.values() if not isinstance(one, Unavailable)] == [2300] * len(states)


def test_a_replay_while_others_write(any_server: Server) -> None:
    """It ends with what was there when it began; a pruning meanwhile makes states unavailable, a deletion ends it."""
    with Bench(any_server) as bench:
        for operation in LINE:
            bench.play(operation)
        keys = bench.keys("a")
        begun = bench.runner.iterate(replay(keys), "test")
        seen = [next(begun)]
        bench.play(Put("a", "", 60, 39, ("messages",), (), (), "run-1"))
        bench.play(Upkeep("prune", "a", "", 2, ""))
        seen += begun
        assert [recorded.sequence for recorded, _ in seen] == list(range(1, 121))
        for recorded, state in seen:
            assert isinstance(state, Unavailable) or state == bench.answers["a"][recorded.sequence][""]
        past = Past(keys)
        bench.run(past.begin())
        bench.play(Upkeep("delete_thread", "a", "", 1, ""))
        with pytest.raises(ThreadNotFound, match="'a'"):
            bench.items(replay(keys))


def test_moments(any_server: Server) -> None:
    """What cannot be asked for is distinguished: before the beginning, an unknown thread, no moment."""
    with Bench(any_server) as bench:
        bench.play(Put("a", "", 1, None, ("messages",), (), (), "run-1"))
        keys = bench.keys("a")
        begun = time_of(bench.client.xrange(keys.log)[0][0])
        for early in (0, -5, begun - timedelta(milliseconds=1), "1-0"):
            with pytest.raises(BeforeFirstEvent, match=re.escape(begun.isoformat(timespec="milliseconds"))):
                bench.run(state_as_of(keys, "", early))
        with pytest.raises(InvalidArgument, match="no event 99"):
            bench.run(state_as_of(keys, "", 99))
        for late in (begun, datetime.now(timezone.utc) + timedelta(days=1)):
            assert bench.run(state_as_of(keys, "", late)) == bench.answers["a"][1][""]
        assert bench.run(state_as_of(keys, "sub", 1)) is None
        with pytest.raises(ThreadNotFound, match="'b'"):
            bench.run(state_as_of(bench.keys("b"), "", 1))
        for wrong in (datetime(2026, 1, 1), "yesterday", "1-1", b"\xff"):  # noqa: DTZ001
            with pytest.raises(InvalidArgument, match="when"):
                bench.run(state_as_of(keys, "", wrong))
        for odd in (None, 1.5, True):
            with pytest.raises(TypeError, match="when"):
                bench.run(state_as_of(keys, "", odd))  # type: ignore[arg-type]


def _take_out(bench: Bench, keys: ThreadKeys, number: int) -> None:
    bench.client.xdel(keys.log, bench.client.xrange(keys.log)[number - 1][0])


def _make_unreadable(bench: Bench, keys: ThreadKeys, number: int) -> None:
    """An entry that is no event in the place of one."""
    entries = bench.client.xrange(keys.log)
    bench.client.delete(keys.log)
    for at, (entry_id, fields) in enumerate(entries, 1):
        bench.client.xadd(keys.log, {b"what": b"is this"} if at == number else fields, id=entry_id)


@pytest.mark.parametrize("damage", [_take_out, _make_unreadable])
@pytest.mark.parametrize("options", [{}, {"signing_key": b"a secret of 16 bytes or more"}], ids=["unsigned", "signed"])
def test_what_stands_before_damage_can_be_read(
    any_server: Server, options: dict[str, Any], damage: Callable[[Bench, ThreadKeys, int], None]
) -> None:
    """Up to an entry that was taken out by hand, or is no event, all is as it was; from there on it is an error."""
    with Bench(any_server, **options) as bench:
        for operation in LINE:
            bench.play(operation)
        keys = bench.keys("a")
        damage(bench, keys, 41)
        found = []
        with pytest.raises((CorruptEntry, SignatureInvalid), match="'a'"):
            for one, state in bench.runner.iterate(replay(keys), "test"):
                found.append(one.sequence)
                namespace = getattr(one.event, "namespace", "")
                assert state == bench.answers["a"][one.sequence][namespace]
        assert found == list(range(1, 41))
        assert bench.run(state_as_of(keys, "", 40)) == bench.answers["a"][40][""]
        assert len(list(bench.runner.iterate(replay(keys, until=moment_of(12)), "test"))) == 12
        for late in (41, 42, datetime.now(timezone.utc)):
            with pytest.raises((CorruptEntry, SignatureInvalid), match="'a'"):
                bench.run(state_as_of(keys, "", late))


def test_an_end_that_was_cut_off_is_noticed(any_server: Server) -> None:
    """What the index knows of and is not there: what comes before it is read, and then it is an error."""
    with Bench(any_server) as bench:
        for operation in LINE:
            bench.play(operation)
        keys = bench.keys("a")
        last = bench.sequence("a")
        _take_out(bench, keys, last)
        found: list[int] = []
        with pytest.raises(CorruptEntry, match=f"ends with event {last - 1}, its index knows of {last}"):
            found.extend(one.sequence for one, _ in bench.runner.iterate(replay(keys), "test"))
        assert bench.run(state_as_of(keys, "", last - 1)) == bench.answers["a"][last - 1][""]
        for late in (last, datetime.now(timezone.utc)):
            with pytest.raises(CorruptEntry, match="can be read"):
                bench.run(state_as_of(keys, "", late))


def test_nothing_is_written(private_server: Any) -> None:
    """By replay and reads as of a moment: a user who may only read can run them, without views too."""
    running = private_server()
    with Bench(Server("private", running.url, is_cluster=False)) as bench:
        for operation in LINE:
            bench.play(operation)
        keys = bench.keys("a")
        bench.client.delete(keys.index, keys.order, keys.head(b""))
        bench.client.execute_command(
            "ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+@connection", "+eval", "+evalsha"
        )
        names = set(bench.client.keys("*"))
        reading = Connections.from_url(with_user(running.url, "reader", "secret"))
        runner = Runner(reading)
        found = list(runner.iterate(replay(keys), "test"))
        assert [state for _, state in found] == [bench.answers["a"][one.sequence][""] for one, _ in found]
        assert runner.run(state_as_of(keys, "", 30), "test") == bench.answers["a"][30][""]
        reading.close()
        assert set(bench.client.keys("*")) == names


def with_user(url: str, user: str, password: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme == "unix":
        return f"unix://{user}:{password}@{rest}"
    return f"{scheme}://{user}:{password}@{rest}"


@pytest.fixture(scope="module")
def long_threads(any_server: Server) -> Iterator[tuple[Bench, list[str]]]:
    """A thread of 2,000 events and one of 4,000: a list that is as long in both, and does not stay as it is."""
    with Bench(any_server) as bench:
        names = []
        for name, count in (("a", 1000), ("b", 2000)):
            for number in range(count):
                put = put_of(name, number, number - 1 if number else None, shared=True)
                bench.savers[0].put(*put)
                bench.savers[0].put_writes(config(name, number), [("n", f"{number} " * 20)], "t")
            names.append(name)
        yield bench, names


def test_memory_does_not_grow_with_the_thread(long_threads: tuple[Bench, list[str]]) -> None:
    """Replaying 4,000 events takes as much as replaying 2,000, but for what is kept within its bounds."""
    bench, _ = long_threads

    def peak(name: str) -> int:
        events = bench.runner.iterate(replay(bench.keys(name)), "test")
        tracemalloc.start()
        count = sum(1 for _ in events)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == bench.sequence(name)
        return most

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("projections.time_travel.states.CACHED", 200)
        peak("a")
        short, long = peak("a"), peak("b")
    assert long < short + 300_000 < 3_000_000


def test_states_do_not_depend_on_what_is_kept(any_server: Server) -> None:
    """With nothing kept, all comes from the log."""
    with Bench(any_server) as bench, pytest.MonkeyPatch.context() as patch:
        for operation in LINE:
            bench.play(operation)
        patch.setattr("projections.time_travel.states.CACHED", 0)
        patch.setattr("projections.time_travel.past.VERSIONS", 1)
        assert bench.check(exact=True) == 120


def test_every_operation_is_an_event_of_its_own() -> None:
    """The line of operations above has what it should: all distinct."""
    assert len({repr(one) for one in LINE}) == len(LINE)
    assert replace(LINE[0], thread="b") != LINE[0]

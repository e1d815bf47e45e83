"""Keys that another program, or an attacker, wrote to: answers are right, or errors are typed and name the key or thread."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from eventlog import CorruptEntry, EventLogError, Runner
from eventlog.codec import encode
from eventlog.connect.connections import Connections
from eventlog.errors import ServerFailedCommand
from eventlog.flow import Request
from projections.maintenance.check_registry import check_registry
from projections.registry import foreign, sizes
from projections.registry.rebuild import rebuild_registry
from saver import RedisStreamSaver
from tests.projections.steps import Steps, is_call
from tests.saver.audit import config, put_of
from tests.saver.damage import READS, WRITES, Patient, damages
from tests.saver.threads import follow, keys_of, step, values_of
from tests.servers import Server, connect

EVERY = int(os.environ.get("DAMAGE_EVERY", "19"))
"""One damage of so many is tried. DAMAGE_EVERY=1 tries each, with one operation; that takes some minutes."""


@pytest.fixture(autouse=True)
def _warn_again() -> Iterator[None]:
    warnings = (foreign.leave_out, foreign.leave_out_long, sizes.warn)
    for one in warnings:
        one.cache_clear()
    yield
    for one in warnings:
        one.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_damage_never_raises_an_untyped_error(any_server: Server, prefix: str, tmp_path: Path, *, signed: bool) -> None:
    """Each kind of key is damaged in each way, and the operations are tried in turn."""
    patient = Patient(any_server, prefix, signed=signed)
    operations, turn = {**READS, **WRITES}, count()
    names = [name for name in operations if name != "member"]
    tried: set[str] = set()
    for key in patient.whole:
        patient.heal()
        for number, (what, damage) in enumerate(list(damages(patient, key))):
            if number % EVERY and what not in {"gone", "a text", "a list"}:
                continue
            for _ in range(3 if EVERY > 1 else 1):
                name = names[next(turn) % len(names)]
                patient.heal()
                damage()
                tried.add(name)
                (tmp_path / "archive").unlink(missing_ok=True)
                with patient.saver() as saver, patient.feed() as feed:
                    try:
                        operations[name](patient, saver, feed, tmp_path)
                    except EventLogError as error:
                        assert len(str(error)) > 40, (key, what, name)
                    except Exception as error:
                        error.add_note(f"{key!r}: {what}; {name}") if hasattr(error, "add_note") else None
                        raise
    assert tried == set(names)
    patient.client.close()


@pytest.fixture
def three(server: Server, prefix: str) -> Iterator[RedisStreamSaver]:
    """Threads a, b and c in one partition, of two checkpoints each."""
    with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, partitions=1) as saver:
        for thread in "abc":
            saver.put(*put_of(thread, 1))
            saver.put(*put_of(thread, 2, 1))
        yield saver


def listed(saver: RedisStreamSaver) -> list[str]:
    return sorted(one.config["configurable"]["thread_id"] for one in saver.list(None))


@pytest.mark.parametrize("member", [b"\xff\xfe", b"x", b"t\xff", b"ta\xff", b"c" * 70_000])
def test_a_foreign_member_hides_no_thread(
    three: RedisStreamSaver, server: Server, prefix: str, member: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Lists go on without it, and warn once; check names it, and a rebuild removes it."""
    keyspace = three._operations.keyspace
    keys = keyspace.partition(0)
    connections = Connections.from_url(server.url)
    run = Runner(connections, "test").run
    with server.client() as client, caplog.at_level(logging.WARNING, "projections.registry"):
        client.zadd(keys.threads, {member: 1})
        for _ in range(2):
            assert listed(three) == ["a", "a", "b", "b", "c", "c"]
            assert sorted(one.thread_id for one in three.threads()) == ["a", "b", "c"]
        assert len(caplog.records) == 1
        assert f"{{{prefix}:0}}:threads" in caplog.text
        (found,) = run(check_registry(keyspace, 0), "test")
        assert "is no thread" in found.what
        run(rebuild_registry(keyspace, keys), "test")
        assert run(check_registry(keyspace, 0), "test") == []
        assert client.zscore(keys.threads, member) is None
    connections.close()


@pytest.mark.parametrize("where", ["view", "feed"])
def test_a_thread_id_above_the_limit_hides_no_thread(
    three: RedisStreamSaver, server: Server, where: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Lists, exports and removals of runs go on without it, and warn once; check names it."""
    keyspace = three._operations.keyspace
    keys = keyspace.partition(0)
    long = b"x" * 70_000
    connections = Connections.from_url(server.url)
    run = Runner(connections, "test").run
    with server.client() as client, caplog.at_level(logging.WARNING, "projections.registry"):
        if where == "view":
            client.zadd(keys.threads, {b"t" + long: 1})
        else:
            pointer: Any = client.xrevrange(keys.feed, count=1)[0][1]
            client.xadd(keys.feed, {**pointer, b"thread": long}, id="9999999999999-0")
            client.delete(keys.threads, keys.runs)
            assert sorted(one.thread_id for one in three.threads()) == ["a", "b", "c"]
            caplog.clear()
        for _ in range(2):
            assert listed(three) == ["a", "a", "b", "b", "c", "c"]
            assert sorted(one.thread_id for one in three.threads()) == ["a", "b", "c"]
        assert [one.getMessage().count("70,000 bytes") for one in caplog.records] == [1]
        done = three.export_threads(tmp_path / "all")
        assert done.threads == 3
        assert [(one.thread, "70,000 bytes" in one.why) for one in done.left_out] == [("x" * 80 + "...", True)]
        (found,) = run(check_registry(keyspace, 0), "test")
        assert "70,000 bytes, above the limit of 65,536" in found.what
        assert len(found.what) < 500
        run(rebuild_registry(keyspace, keys), "test")
        assert (client.zscore(keys.threads, b"t" + long) is None) == (where == "view")
        three.delete_for_runs(["r"])
        assert listed(three) == []
    connections.close()


@pytest.mark.parametrize("made", [b"c", b"c\0\x01", b"c\xff\0\xff\0\xff"])
def test_threads_go_on_over_a_damaged_order(
    three: RedisStreamSaver, server: Server, made: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread's checkpoints are unknown, and a warning names it once; the next list of it rebuilds the order."""
    keys = keys_of(three._operations.keyspace.prefix, "b", 1)
    with server.client() as client, caplog.at_level(logging.WARNING, "projections.registry"):
        client.zadd(keys.order, {made: 0})
        for _ in range(2):
            found = {one.thread_id: one for one in three.threads()}
            assert {thread: one.checkpoints for thread, one in found.items()} == {"a": 2, "b": None, "c": 2}
            assert found["b"].events == 2
        assert [one.getMessage().startswith("Thread 'b'") for one in caplog.records] == [True]
        assert len(list(three.list(config("b")))) == 2
        list(three.list(None))
        assert [one.checkpoints for one in three.threads()] == [2, 2, 2]


@pytest.mark.parametrize("score", [b"inf", b"-inf", b"-1", b"1e300"])
def test_a_thread_with_an_odd_time_is_listed(
    three: RedisStreamSaver, server: Server, score: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its time counts as the first or the last one; check names it."""
    keyspace = three._operations.keyspace
    connections = Connections.from_url(server.url)
    with server.client() as client, caplog.at_level(logging.WARNING, "projections.registry"):
        client.execute_command("ZADD", keyspace.partition(0).threads, score, b"tb")
        assert {one.thread_id: one.last_activity.year for one in three.threads()}["b"] in {1970, 9999}
        assert listed(three) == ["a", "a", "b", "b", "c", "c"]
        assert "is no time" in caplog.text
        (found,) = Runner(connections, "test").run(check_registry(keyspace, 0), "test")
        assert "'b'" in found.what
    connections.close()


def test_foreign_members_of_runs_are_left_out(three: RedisStreamSaver, server: Server, tmp_path: Path) -> None:
    """Exports, copies and removals of runs go on with the others."""
    keys = keys_of(three._operations.keyspace.prefix, "a", 1)
    with server.client() as client:
        client.zadd(keys.shared.runs, {b"t1:a\xff": 0, b"r1:r\xff": 0, b"r9:x": 0, b"\xff": 0, b"t99999:a": 0})
    assert three.export_threads(tmp_path / "file", ["a"]).threads == 1
    three.copy_thread("a", "d")
    three.delete_for_runs(["r"])
    assert listed(three) == []


@pytest.mark.parametrize(
    "made",
    [
        b"c",
        b"c\0",
        b"c\0\x01",
        b"c\0\x01\0",
        b"c\0\x01\x001-0",
        b"c\0x",
        b"w\xff",
        b"c\0\xff\0\xff",
        b"c\xff\0\xff\0\xff",
        b"c\0zzz\0",
        b"c\0zzz\x001-0",
        b"w\0x\x00",
    ],
)
@pytest.mark.parametrize("instead", [False, True], ids=["one more", "in place of one"])
def test_a_damaged_order_is_rebuilt(three: RedisStreamSaver, server: Server, made: bytes, *, instead: bool) -> None:
    """Lists of all threads and of one go on, and are right."""
    keys = keys_of(three._operations.keyspace.prefix, "b", 1)
    with server.client() as client:
        if instead:
            client.zremrangebyrank(keys.order, 2, 2)
        client.zadd(keys.order, {made: 0})
    for _ in range(2):
        found = listed(three)
        assert [one for one in found if one != "b"] == ["a", "a", "c", "c"]
    assert three.rebuild("b").checkpoints == 2
    assert listed(three) == ["a", "a", "b", "b", "c", "c"]
    assert len(list(three.list(config("b")))) == 2


@pytest.mark.parametrize("made", [b"c\0", b"c\0\x01", b"c\0x", b"c\0\xff\0\xff"])
def test_a_thread_may_have_the_name_of_an_error(one_saver: RedisStreamSaver, any_server: Server, made: bytes) -> None:
    """Its damaged order is rebuilt as that of any other: the server's words count, not the message that names the thread."""
    for name in ("WRONGTYPE", "other"):
        one_saver.put(config(name), *step({"x": 1}))
        keys = keys_of(one_saver._operations.keyspace.prefix, name)
        with any_server.client() as client:
            client.zadd(keys.order, {made: 0})
        assert len(list(one_saver.list({"configurable": {"thread_id": name}}))) == 1
        assert one_saver.check(name).ok


@pytest.mark.parametrize("checkpoint_id", [b"z\xff", b"\x01\xff"], ids=["newest", "oldest"])
@pytest.mark.parametrize("filtered", [False, True])
def test_a_checkpoint_id_that_is_no_text_is_mended(
    three: RedisStreamSaver, server: Server, checkpoint_id: bytes, *, filtered: bool
) -> None:
    """The order names a real entry under another id: lists of one thread and of all rebuild the order, and are right."""
    keys = keys_of(three._operations.keyspace.prefix, "b", 1)
    wanted: Any = {"filter": {"run_id": "r"}} if filtered else {}
    with server.client() as client:
        entry_id = client.xrange(keys.log)[0][0]
        for where, number in ((config("b"), 2), (None, 6)):
            client.zadd(keys.order, {b"c\0" + checkpoint_id + b"\0" + entry_id: 0})
            assert len(list(three.list(where, **wanted))) == number
            assert client.zcard(keys.order) == 3


def swap(client: Any, keys: Any) -> None:
    """Has the order name the entry of each of two checkpoints under the id of the other."""
    first, second = sorted(one for one in client.zrange(keys.order, 0, -1) if one)
    at = len(first) - len(second.rpartition(b"\0")[2])
    client.zrem(keys.order, first, second)
    client.zadd(keys.order, {first[:at] + second[at:]: 0, second[:at] + first[at:]: 0})
    client.delete(keys.head(b""))


def test_checkpoints_under_each_others_ids_are_mended(three: RedisStreamSaver, server: Server) -> None:
    """A read by id rebuilds the order, and is right; if the order is damaged again each time, an error names the thread."""
    keys = keys_of(three._operations.keyspace.prefix, "b", 1)
    steps = Steps(three)
    with server.client() as client:
        swap(client, keys)
        found: Any = three.get_tuple(config("b", 1))
        assert found.metadata["step"] == 1
        assert len(list(three.list(config("b")))) == 2

        def again(request: Request) -> None:
            if is_call(request, "read_checkpoint"):
                swap(client, keys)

        with pytest.raises(CorruptEntry, match=r"'b'.*is not that of checkpoint"):
            steps.run(three._operations.get_tuple(three.serde, config("b", 1)), again)


@pytest.mark.parametrize("reading", ["read_checkpoint", "read_ancestors"])
def test_a_latest_checkpoint_that_is_no_text_is_mended(three: RedisStreamSaver, server: Server, reading: str) -> None:
    """Reads of the latest state and of its history rebuild the order, and are right; they end if it is damaged each time."""
    keys = keys_of(three._operations.keyspace.prefix, "b", 1)
    steps, operations = Steps(three), three._operations
    with server.client() as client:
        entry_id = client.xrange(keys.log)[0][0]

        def plant(request: Request | None = None) -> None:
            if request is None or is_call(request, reading):
                client.zadd(keys.order, {b"c\0z\xff\0" + entry_id: 0})
                client.delete(keys.head(b""))

        plant()
        if reading == "read_checkpoint":
            found: Any = three.get_tuple(config("b"))
            assert found.metadata["step"] == 2
            steps.run(operations.get_tuple(three.serde, config("b")), plant)
        else:
            found = three.get_delta_channel_history(config=config("b"), channels=["n"])
            assert found == three.get_delta_channel_history(config=config("b"), channels=["n"])
            with pytest.raises(CorruptEntry, match=r"'b'.*Rebuild the thread"):
                steps.run(operations.delta_history(three.serde, config("b"), ["n"]), plant)


@pytest.mark.parametrize("made", [b"c", b"c\0\x01", b"c\xff\0\xff\0\xff"])
def test_a_thread_with_a_damaged_order_is_deleted(three: RedisStreamSaver, server: Server, made: bytes) -> None:
    """With the heads of all its namespaces."""
    three.put(*put_of("b", 3, namespace="sub"))
    keys = keys_of(three._operations.keyspace.prefix, "b", 1)
    with server.client() as client:
        client.zadd(keys.order, {made: 0})
        three.delete_thread("b")
        assert client.exists(keys.log, keys.index, keys.order, keys.head(b""), keys.head(b"sub")) == 0
    assert listed(three) == ["a", "a", "c", "c"]


@pytest.mark.parametrize("value", [b"", b"x", b"\xff\xfe", b"1-0", b"9" * 400])
def test_an_index_that_names_no_entry_is_rebuilt(three: RedisStreamSaver, server: Server, value: bytes) -> None:
    """The log has the values, so reads are right."""
    keys = keys_of(three._operations.keyspace.prefix, "b", 1)
    with server.client() as client:
        for field in client.hkeys(keys.index):
            if field[:1] == b"v":
                client.hset(keys.index, field, value)
        client.delete(keys.head(b""))
    assert [one.checkpoint["channel_values"] for one in three.list(config("b"))] == [
        one.checkpoint["channel_values"] for one in three.list(config("a"))
    ]
    assert len(listed(three)) == 6


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("d", None),
        *((field, value) for field in "nlch" for value in (None, b"", b"inf", b"-1", b"1e400", b"x", b"0x10")),
        *((field, b"9" * digits) for field in "nch" for digits in (16, 400)),
        *(("l", b"9" * digits + b"-0") for digits in (16, 400)),
    ],
)
def test_an_index_without_its_state_is_rebuilt(
    any_server: Server, prefix: str, field: str, value: bytes | None, *, signed: bool
) -> None:
    """Reads and writes go on, and the log stays whole."""
    options: Any = {"signing_key": b"k" * 32} if signed else {}
    keys = keys_of(prefix, "t", 1)
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1, **options) as saver,
        any_server.client() as client,
    ):
        saver.put(*put_of("t", 1))
        for number in range(2, 5):
            client.delete(keys.head(b""))
            client.hdel(keys.index, field) if value is None else client.hset(keys.index, field, value)
            if number > 2:
                found = saver.get_tuple(config("t"))
                assert found is not None
                assert found.metadata["run_id"] == "r"
            saver.put(*put_of("t", number, number - 1))
        assert saver.verify("t").sound
        assert saver.check("t").ok


@pytest.mark.parametrize("name", [b"w", b"b", b"#x"])
def test_a_head_with_a_false_number_holds_no_put(any_server: Server, prefix: str, name: bytes) -> None:
    """A put counts no further than the head has fields. Its head is right, or there is none."""
    keys, before = keys_of(prefix, "t", 1), step({"x": "a" * 200})
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as saver,
        any_server.client() as client,
    ):
        put = saver.put(config("t"), *before)
        end = client.hget(keys.head(b""), b"at") + b":12345678sv1"
        client.hset(keys.head(b""), name, b"999999" + (b":" + end if name == b"#x" else b""))
        saver.put(put, *follow(before, {"x": "b" * 200}))
        assert not client.exists(keys.head(b""))
        assert values_of(saver.get_tuple(config("t"))) == {"x": "b" * 200}


@pytest.mark.parametrize("method", ["put", "put_writes"])
def test_a_log_that_takes_no_more_gets_no_pointers(server: Server, prefix: str, method: str) -> None:
    """A stream can give its greatest id without an entry: XSETID, or XADD and XDEL."""
    keys, before = keys_of(prefix, "t", 1), step({"x": 1})
    with (
        RedisStreamSaver.from_conn_string(server.url, prefix=prefix, partitions=1) as saver,
        server.client() as client,
    ):
        put = saver.put(config("t"), *before)
        last = client.xrevrange(keys.log, count=1)[0][0]
        client.execute_command("XSETID", keys.log, "18446744073709551615-0")
        with pytest.raises(ServerFailedCommand, match=r"thread 't'.*XSETID"):
            if method == "put":
                saver.put(put, *follow(before, {"x": 2}))
            else:
                saver.put_writes(put, [("x", 2)], "task")
        assert client.xlen(keys.shared.feed) == 1
        client.execute_command("XSETID", keys.log, last)
        saver.put(put, *follow(before, {"x": 2}))
        assert saver.verify("t").sound
        assert saver.check("t").ok


def test_an_order_of_another_type_is_named(three: RedisStreamSaver, server: Server) -> None:
    """It may be another application's, so it is not replaced; the error names thread and key."""
    keys = keys_of(three._operations.keyspace.prefix, "b", 1)
    with server.client() as client:
        client.delete(keys.order)
        client.set(keys.order, b"of another application")
    with pytest.raises(CorruptEntry, match=r"Thread 'b', key '.*order:b'.*prefix of its own"):
        list(three.list(None))
    with pytest.raises(CorruptEntry, match=r"Thread 'b', its log or its order: .*prefix of its own"):
        list(three.threads())
    assert len(list(three.list(config("a")))) == 2


@pytest.mark.parametrize(
    ("name", "field", "value", "operations", "match"),
    [
        ("state", "id", b"\xff", ["member"], "Group 'g'.*drop the group"),
        ("state", "check", b"\xff", ["member"], "Group 'g'"),
        ("state", "n", b"x", ["member"], "Group 'g'"),
        ("state", "handled", b"x", ["lag"], "Group 'g'"),
        ("due", b"\xff", 1, ["member"], "Group 'g'"),
        ("groups", b"\xff", b"", ["groups"], "groups'.*HDEL"),
        ("groups", b"g", encode({"v": 1, "filters": {}}), ["groups", "lag", "member"], "group 'g' is no registration"),
        (
            "groups",
            b"g",
            encode({"v": 1, "created": 2**60, "start": "now", "filters": {}}),
            ["groups"],
            "group 'g' is no registration",
        ),
        ("groups", b"x" * 70_000, b"", ["groups"], "group 'x{80}'... .*Drop the group"),
        ("trimmed", "check", b"\xff", ["now"], "trimmed'.*Restore"),
        ("trimmed", "id", b"x", ["now"], "trimmed'.*Restore"),
        (
            "trimmed",
            "id",
            b"x",
            ["trim", "check registry", "rebuild registry"],
            "trimmed'.*Nothing was changed.*restore",
        ),
        ("trimmed", "n", b"\xd9\xa1", ["trim"], "trimmed'.*Nothing was changed.*restore"),
    ],
)
def test_damaged_keys_of_the_feed_are_named(
    any_server: Server, prefix: str, name: str, field: Any, value: Any, operations: list[str], match: str
) -> None:
    """The error names the group or the key, and the remedy."""
    patient = Patient(any_server, prefix)
    shared = patient.keyspace.partition(0)
    own = shared.group(b"g")
    key = {"state": own.state, "due": own.due, "groups": patient.keyspace.groups, "trimmed": shared.trimmed}[name]
    if name == "due":
        patient.client.zadd(key, {field: value})
    else:
        patient.client.hset(key, field, value)
    length = patient.client.xlen(shared.feed)
    for operation in operations:
        with patient.saver() as saver, patient.feed() as feed, pytest.raises(CorruptEntry, match=match):
            {**READS, **WRITES}[operation](patient, saver, feed, Path())
    assert patient.client.xlen(shared.feed) == length
    patient.client.close()


def test_a_foreign_position_holds_trimming_back_by_name(any_server: Server, prefix: str) -> None:
    """Its name is shown as far as it is text."""
    patient = Patient(any_server, prefix)
    patient.client.hset(patient.keyspace.partition(0).positions, b"\xff", b"0-0")
    with patient.feed() as feed:
        assert [one.group for one in feed.trim(0).held_back] == ["\N{REPLACEMENT CHARACTER}"]
    patient.client.close()


def test_foreign_members_of_the_trimmed_part_are_left_out(
    any_server: Server, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The registry is folded without them when a view is missing, and a warning names the key."""
    patient = Patient(any_server, prefix)
    keys = patient.keyspace.partition(0)
    patient.client.zadd(keys.past_threads, {b"t\xff": 1, b"x": 1, b"tu": -5})
    patient.client.zadd(keys.past_runs, {b"t": 0, b"tx:": 0, b"t9:u": 0, b"t99999999999999999999999:u": 0})
    patient.client.delete(keys.threads, keys.runs)
    connections = Connections(patient.client)
    with caplog.at_level(logging.WARNING, "projections.registry"):
        found = Runner(connections, "test").run(check_registry(patient.keyspace, 0), "test")
    assert ["missing" in one.what for one in found] == [True, True]
    assert caplog.text.count("trimmed:threads has") == 3
    assert caplog.text.count("trimmed:runs has") == 4
    with patient.saver() as saver:
        assert {one.thread_id for one in saver.threads()} == {"e", "t", "u"}
    patient.client.close()


def test_a_reader_without_rights_is_sent_to_a_writer(any_server: Server, prefix: str) -> None:
    """Where a damaged order cannot be rebuilt, the error names the thread, and who can rebuild it."""
    with any_server.client() as client:
        client.execute_command("ACL", "SETUSER", prefix, "on", ">secret", "~*", "+@all", "-@write", "+eval", "+evalsha")
        try:
            with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as saver:
                saver.put(*put_of("t", 1))
                saver.put(*put_of("t", 2, 1))
            keys = keys_of(prefix, "t", 1)
            for made in (b"c\0\x01\0x", b"c\0\x01", b"c\0x"):
                client.zadd(keys.order, {made: 0})
                reader = connect(any_server.url, username=prefix, password="secret")
                with (
                    reader,
                    RedisStreamSaver(reader, prefix=prefix, partitions=1) as auditor,
                    pytest.raises(CorruptEntry, match=r"(?s)'t'.*Rebuild the thread"),
                ):
                    list(auditor.list(config("t")))
                client.zrem(keys.order, made)
        finally:
            client.execute_command("ACL", "DELUSER", prefix)

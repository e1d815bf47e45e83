"""Deltas that others damaged: no read gives what was never put, the error names the thread, and a damaged head is rebuilt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventlog.errors import CorruptEntry, EventLogError, ValueUnreadable
from eventlog.keys import ThreadKeys
from saver import RedisStreamSaver
from saver.json_lines import export_lines
from tests.saver.audit import Audit
from tests.saver.deltas import talk
from tests.saver.drivers import Call, call_now
from tests.saver.threads import config, step, values_of
from tests.servers import Server

Fields = dict[bytes, bytes]
STATES = [talk(20 + number) for number in range(4)]
READS: dict[str, Callable[[list[Any]], tuple[Any, ...]]] = {
    "get_tuple": lambda _: (config("t"),),
    "by id": lambda configs: (configs[-1],),
    "list": lambda _: (config("t"),),
}


@pytest.fixture
def audit(any_server: Server, prefix: str) -> Iterator[Audit]:
    """A look behind the savers of the one quick server."""
    with Audit(any_server.url, prefix) as opened:
        yield opened


@pytest.fixture
def keys(audit: Audit) -> ThreadKeys:
    """The keys of thread "t"."""
    return audit.keyspace.thread(b"t")


@pytest.fixture(params=[None, 16], ids=["plain", "compressed"])
async def saver(any_server: Server, prefix: str, request: pytest.FixtureRequest) -> AsyncIterator[RedisStreamSaver]:
    """A saver that compresses or does not."""
    options: Any = {"prefix": prefix, "compress_above": request.param}
    async with RedisStreamSaver.from_conn_string(any_server.url, **options) as opened:
        yield opened


@pytest.fixture
async def other(any_server: Server, prefix: str) -> AsyncIterator[RedisStreamSaver]:
    """A saver that knows nothing yet."""
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as opened:
        yield opened


def put_line(saver: RedisStreamSaver, run: str = "run") -> list[Any]:
    """Put a keyframe and three deltas; their configs."""
    configs: list[Any] = [config("t")]
    for state in STATES:
        configs.append(saver.put(configs[-1], *step({"n": state}, run_id=run)))
    return configs[1:]


def name_of(fields: Fields) -> bytes:
    """The name of the field with the value of an entry."""
    (name,) = (name for name in fields if name[:1] == b"=")
    return name


def entries_of(audit: Audit, keys: ThreadKeys) -> list[tuple[bytes, Fields]]:
    """Entry ids and fields of the log."""
    return list(audit.client.xrange(keys.log))


def put_back(audit: Audit, keys: ThreadKeys, entries: list[tuple[bytes, Fields]]) -> None:
    """Make the log one of these entries, and the index that of the log."""
    audit.client.delete(keys.log)
    for entry_id, fields in entries:
        audit.client.xadd(keys.log, fields, entry_id)
    audit.forget_views("t")


def with_piece(entry: tuple[bytes, Fields], piece: bytes) -> tuple[bytes, Fields]:
    """An entry with another piece."""
    return entry[0], {**entry[1], name_of(entry[1]): piece}


def check_refused(saver: RedisStreamSaver, configs: list[Any]) -> set[str]:
    """Check that every read of the last checkpoint is refused, or right after all; what was right."""
    right = set()
    for read, arguments in READS.items():
        try:
            found = call_now(saver, "list" if read == "list" else "get_tuple", *arguments(configs))
        except (
            CorruptEntry,
            ValueUnreadable,
        ) as error:  # unreadable where the serializer's name for its format is damaged
            assert "'t'" in str(error)
        else:
            expected = [{"n": state} for state in reversed(STATES)]
            found = list(map(values_of, found)) if isinstance(found, list) else values_of(found)
            assert found == (expected if read == "list" else expected[0])
            right.add(read)
    return right


@pytest.mark.parametrize("position", [-1, 1, 0], ids=["last delta", "first delta", "keyframe"])
def test_any_byte_of_a_piece(saver: RedisStreamSaver, audit: Audit, keys: ThreadKeys, position: int) -> None:
    """Whichever byte of a delta, or of the keyframe behind it, is not as it was: reads raise CorruptEntry."""
    configs = put_line(saver)
    entries = entries_of(audit, keys)
    whole = entries[position][1][name_of(entries[position][1])]
    for at in range(0, len(whole), 1 if len(whole) < 300 else len(whole) // 150):
        damaged = bytearray(whole)
        damaged[at] ^= (0x01, 0x10, 0xFF)[at % 3]
        changed = [*entries]
        changed[position] = with_piece(entries[position], bytes(damaged))
        put_back(audit, keys, changed)
        # A later value may be right all the same, where what was damaged is edited away.
        assert "list" not in check_refused(saver, configs) or at < 12, (at, whole[at], damaged[at])
    put_back(audit, keys, entries)
    assert check_refused(saver, configs) == set(READS)


@pytest.mark.parametrize("method", ["prune", "delete_for_runs", "copy_thread"])
def test_upkeep_of_damaged_pieces(saver: RedisStreamSaver, audit: Audit, keys: ThreadKeys, method: str) -> None:
    """Whatever a damaged delta looks like, upkeep succeeds without reading it or raises CorruptEntry, and nothing else."""
    put_line(saver)
    latest = saver.get_tuple(config("t"))
    assert latest is not None
    saver.put(latest.config, *step({"n": talk(24)}, run_id="stays"))
    entries = entries_of(audit, keys)
    whole = entries[-1][1][name_of(entries[-1][1])]
    arguments: Any = {"prune": (["t"],), "delete_for_runs": (["run"],), "copy_thread": ("t", "copy")}[method]
    for at in range(0, 60, 2):
        damaged = bytearray(whole)
        damaged[at] ^= (0x01, 0x10, 0xFF)[at // 2 % 3]
        put_back(audit, keys, [*entries[:-1], with_piece(entries[-1], bytes(damaged))])
        saver.delete_thread("copy")
        try:
            call_now(saver, method, *arguments)
        except CorruptEntry as error:
            assert "'t'" in str(error)


async def test_pieces_that_are_missing_or_mixed_up(
    saver: RedisStreamSaver, audit: Audit, keys: ThreadKeys, call: Call
) -> None:
    """A base whose entry lacks it, another one in its place, and a delta without any are refused, whatever is asked for."""
    configs = put_line(saver)
    entries = entries_of(audit, keys)
    pieces = [fields[name_of(fields)] for _, fields in entries]
    first = {name: value for name, value in entries[0][1].items() if name[:1] != b"="}
    mixed_up = [
        [(entries[0][0], first), *entries[1:]],
        [with_piece(entries[0], b"E"), *entries[1:]],
        [with_piece(entries[0], b""), *entries[1:]],
        [with_piece(entries[0], pieces[2]), *entries[1:]] if pieces[2][:1] == b"K" else [],
        [entries[0], with_piece(entries[1], pieces[0]), *entries[2:]],
        [*entries[:2], with_piece(entries[2], pieces[1]), entries[3]],
        [*entries[:3], with_piece(entries[3], pieces[3][:20])],
        [*entries[:3], with_piece(entries[3], b"D")],
        [*entries[:3], with_piece(entries[3], b"X" + pieces[3][1:])],
    ]
    for changed in filter(None, mixed_up):
        put_back(audit, keys, changed)
        for read, arguments in READS.items():
            with pytest.raises(CorruptEntry, match="'t'"):
                await call(saver, "list" if read == "list" else "get_tuple", *arguments(configs))
    put_back(audit, keys, entries)
    assert values_of(await call(saver, "get_tuple", config("t"))) == {"n": STATES[-1]}


@pytest.mark.parametrize("circle", ["itself", "each other"])
def test_pieces_that_go_round_in_a_circle(private_server: Any, prefix: str, tmp_path: Path, circle: str) -> None:
    """A delta that was made to go back to itself, or to a later one, is refused by every read and by an export."""
    server = private_server()
    with (
        RedisStreamSaver.from_conn_string(server.url, prefix=prefix, socket_timeout=3) as saver,
        Audit(server.url, prefix) as audit,
    ):
        keys = audit.keyspace.thread(b"t")
        versions = []
        given: Any = config("t")
        for state in STATES[:3]:
            checkpoint, metadata, new = step({"n": state})
            given = saver.put(given, checkpoint, metadata, new)
            versions.append(b"s" + new["n"].encode())
        entries = entries_of(audit, keys)
        last = entries[2][1][name_of(entries[2][1])]
        if circle == "itself":
            changed = last.replace(entries[1][0], entries[2][0]).replace(versions[1], versions[2])
            put_back(audit, keys, [*entries[:2], with_piece(entries[2], changed)])
        else:
            middle = entries[1][1][name_of(entries[1][1])]
            changed = middle.replace(entries[0][0], entries[2][0]).replace(versions[0], versions[2])
            put_back(audit, keys, [entries[0], with_piece(entries[1], changed), entries[2]])
        for arguments in (config("t"), given):
            with pytest.raises(CorruptEntry, match="'t'"):
                saver.get_tuple(arguments)
        with pytest.raises(CorruptEntry, match="'t'"):
            list(saver.list(config("t")))
        with pytest.raises(CorruptEntry, match="'t'"):
            saver.prune(["t"])
        lines = export_lines(audit.keyspace, ["t"], tmp_path / "lines", translator=None, overwrite=True, damaged=True)
        saver._runner.run(lines, "test", id)
        exported = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
        assert ["damaged" in one for one in exported] == [False, circle != "itself", True]


@pytest.mark.parametrize("field", [b"=n", b"+1:n", b"+3:n", b"#n"])
def test_any_byte_of_a_head(
    saver: RedisStreamSaver, other: RedisStreamSaver, audit: Audit, keys: ThreadKeys, field: bytes
) -> None:
    """Whatever was done to a head whose value has deltas, the latest checkpoint reads right: the head is rebuilt."""
    configs = put_line(saver)
    head = keys.head(b"")
    good = audit.client.hgetall(head)
    whole = good[field]
    for at in range(0, len(whole), max(1, len(whole) // 80)):
        damaged = bytearray(whole)
        damaged[at] ^= (0x01, 0x10, 0xFF)[at % 3]
        audit.client.hset(head, field, bytes(damaged))
        assert values_of(saver.get_tuple(config("t"))) == {"n": STATES[-1]}, (at, whole, damaged)
    for value in (b"", b"garbage", None):
        audit.client.hdel(head, field)
        if value is not None:
            audit.client.hset(head, field, value)
        assert values_of(other.get_tuple(config("t"))) == {"n": STATES[-1]}
    assert audit.client.hgetall(head) == good
    other.put(configs[-1], *step({"n": talk(30)}))
    assert values_of(saver.get_tuple(config("t"))) == {"n": talk(30)}
    audit.check("t")


@pytest.mark.parametrize("field", [b"#n", b"w", b"b"])
@pytest.mark.parametrize("known", [True, False], ids=["delta", "keyframe"])
async def test_a_put_on_a_damaged_head(
    one_saver: RedisStreamSaver,
    other: RedisStreamSaver,
    audit: Audit,
    keys: ThreadKeys,
    call: Call,
    field: bytes,
    known: bool,
) -> None:
    """A put that finds a head damaged is carried out whole all the same, or refused and not carried out at all."""
    half = []
    for value in (b"", b"garbage", b"0:1-0:v", b"99:", b"-1:x", b"2:\xff", None):
        await call(one_saver, "delete_thread", "t")
        configs = await asyncio.to_thread(put_line, one_saver)
        audit.client.hdel(keys.head(b""), field)
        if value is not None:
            audit.client.hset(keys.head(b""), field, value)
        try:
            await call(one_saver if known else other, "put", configs[-1], *step({"n": talk(24)}))
        except EventLogError:
            if len(entries_of(audit, keys)) != len(STATES):
                half.append(value)
            continue
        expected = [{"n": talk(count)} for count in (24, 23, 22, 21, 20)]
        for _ in ("with views", "without"):
            assert [values_of(one) for one in await call(other, "list", config("t"))] == expected
            assert values_of(await call(other, "get_tuple", config("t"))) == expected[0]
            audit.check("t")
            audit.forget_views("t")
    assert not half


async def test_a_damaged_head_does_not_damage_the_log(
    one_saver: RedisStreamSaver, other: RedisStreamSaver, audit: Audit, keys: ThreadKeys, call: Call
) -> None:
    """What was read from a head with another value in it is no base of a delta that the log cannot make anything of."""
    first = await call(one_saver, "put", config("t"), *step({"n": talk(20)}))
    head = keys.head(b"")
    held = audit.client.hget(head, "=n")
    audit.client.hset(head, "=n", held.replace(b" 7: ", b" 8: "))
    await call(other, "get_tuple", config("t"))
    await call(other, "put", first, *step({"n": talk(21)}))
    for _ in ("with views", "without"):
        listed = await call(one_saver, "list", config("t"))
        assert [values_of(one) for one in listed] == [{"n": talk(21)}, {"n": talk(20)}]
        assert values_of(await call(one_saver, "get_tuple", config("t"))) == {"n": talk(21)}
        audit.forget_views("t")


async def test_a_damaged_thread_can_be_deleted(
    saver: RedisStreamSaver, audit: Audit, keys: ThreadKeys, call: Call
) -> None:
    """A thread whose deltas are damaged is deleted whole, and starts over for a saver that knew its values."""
    put_line(saver)
    entries = entries_of(audit, keys)
    put_back(audit, keys, [*entries[:1], *(with_piece(entry, b"D1:x") for entry in entries[1:])])
    with pytest.raises(CorruptEntry, match="'t'"):
        await call(saver, "get_tuple", config("t"))
    await call(saver, "delete_thread", "t")
    assert await call(saver, "get_tuple", config("t")) is None
    await call(saver, "put", config("t"), *step({"n": talk(25)}))
    assert values_of(await call(saver, "get_tuple", config("t"))) == {"n": talk(25)}
    assert audit.forms("t").upper() == "K"


def put_wide(saver: RedisStreamSaver) -> list[Any]:
    """Put five checkpoints of which all but the first have their versions stored as what changed; their configs."""
    configs: list[Any] = [config("t")]
    for number in range(5):
        checkpoint, metadata, _ = step({"n": number})
        checkpoint["channel_versions"] = {**WIDE, "n": f"v{number}"}
        configs.append(saver.put(configs[-1], checkpoint, metadata, {"n": f"v{number}"}))
    return configs[1:]


WIDE: dict[str, Any] = {f"channel number {number} of many": "v" for number in range(40)}


@pytest.mark.parametrize("method", ["get_tuple", "by id", "list", "prune", "copy_thread", "get_delta_channel_history"])
def test_any_byte_of_what_versions_changed_from(
    one_saver: RedisStreamSaver, audit: Audit, keys: ThreadKeys, method: str
) -> None:
    """Whichever byte of where a checkpoint's versions changed from is not as it was: right versions, or CorruptEntry."""
    configs = put_wide(one_saver)
    entries = entries_of(audit, keys)
    entry_id, fields = entries[-1]
    arguments: dict[str, Any] = {
        "by id": (configs[-1],),
        "prune": (["t"],),
        "copy_thread": ("t", "copy"),
    }
    for at in range(len(fields[b"b"])):
        for change in (0x01, 0x02, 0x10, 0xFF):
            damaged = bytearray(fields[b"b"])
            damaged[at] ^= change
            put_back(audit, keys, [*entries[:-1], (entry_id, {**fields, b"b": bytes(damaged)})])
            one_saver.delete_thread("copy")
            try:
                if method == "get_delta_channel_history":
                    one_saver.get_delta_channel_history(config=config("t"), channels=["n"])
                    continue
                called = {"by id": "get_tuple"}.get(method, method)
                found = call_now(one_saver, called, *arguments.get(method, (config("t"),)))
            except CorruptEntry as error:
                assert "'t'" in str(error)
                continue
            if found:
                newest = found[0] if isinstance(found, list) else found
                assert newest.checkpoint["channel_versions"] == {**WIDE, "n": "v4"}, (at, bytes(damaged))


def test_versions_that_go_round_in_a_circle(private_server: Any, prefix: str) -> None:
    """Versions that were made to change from themselves, or from later ones, are refused."""
    server = private_server()
    with (
        RedisStreamSaver.from_conn_string(server.url, prefix=prefix, socket_timeout=3) as saver,
        Audit(server.url, prefix) as audit,
    ):
        keys = audit.keyspace.thread(b"t")
        put_wide(saver)
        entries = entries_of(audit, keys)
        for last in (3, 4):
            changed = [*entries]
            changed[3] = entries[3][0], {**entries[3][1], b"b": b"15:" + entries[last][0] + b"x"}
            put_back(audit, keys, changed)
            for method, arguments in (("get_tuple", config("t")), ("list", config("t")), ("prune", ["t"])):
                with pytest.raises(CorruptEntry, match="'t'"):
                    call_now(saver, method, arguments)

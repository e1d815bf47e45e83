"""Short data that would take much memory: in a log, in a file, and as values of commands.

Each reader is a process of its own, with a bounded address space, which reports its greatest memory.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import cbor2
import pytest
import zstandard
from xxhash import xxh3_64_digest

from eventlog import Limits, OverLimit, ValueTooLarge, limits
from eventlog.codec import Malformed, encode, encode_delta, encode_keyframe
from eventlog.errors import CorruptEntry
from eventlog.events import CheckpointSaved, encode_event, encode_versions
from projections.transfer import frames
from projections.values.pieces import Pieces
from projections.values.stored import from_head
from projections.values.versions import Versions, checksum_of_versions
from saver import RedisStreamSaver
from tests import bombs
from tests.bombs import MIB
from tests.projections.tampering import Tampering, chained
from tests.saver.drivers import Call
from tests.saver.threads import config, follow, keys_of, step, values_of
from tests.servers import Server

ROOT = Path(__file__).parents[2]
ADDRESSES = 3000
"""MiB of address space of a reader: three times that of its libraries and threads."""
ENDLESS = zstandard.ZstdCompressor(write_content_size=False)
OPEN = """
from saver import RedisStreamSaver
saver = RedisStreamSaver.from_conn_string(args[0], prefix=args[1])
config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
"""
READS = {
    "get_tuple": "saver.get_tuple(config)",
    "by id": "saver.get_tuple({'configurable': {**config['configurable'], 'checkpoint_id': '001'}})",
    "list": "list(saver.list(None))",
    "as of": "saver.get_tuple_as_of(config, 1)",
    "replay": "[one.state for one in saver.replay('t')]",
    "delta history": "saver.get_delta_channel_history(config=config, channels=['a', 'b'])",
    "rebuild": "saver.rebuild('t')",
    "check": "saver.check('t')",
    "copy": "saver.copy_thread('t', 'copy') or saver.get_tuple({'configurable': {'thread_id': 'copy'}})",
    "log": "main(['log', 't', '--patch', *shared])",
    "show": "main(['show', 't', *shared])",
    "export": "main(['export', 't', args[2], '--jsonl', '--values', *shared])",
}


def run(code: str, *args: str | Path, addresses: int = ADDRESSES) -> dict[str, Any]:
    """Run code in another process, and return what it prints."""
    command = [sys.executable, "-m", "tests.bomb_worker", str(addresses), code, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def plant_all(url: str, prefix: str) -> None:
    """A piece of 33 KB that becomes 1 GiB, before and after small ones."""
    bombs.plant(url, prefix, "t", 1, {"a": bombs.keyframe(1024 * MIB), "b": bombs.keyframe(MIB)})


EACH = """
import json
ends = {{}}
for one in {some!r}:
    try:
        ends[one] = str({code})
    except Exception as error:
        ends[one] = f"{{type(error).__name__}}: {{error}}"
result = json.dumps(ends)
"""
COMMAND = """
import io, contextlib
from saver.cli.run import run as command
shared = ["--url", args[0], "--prefix", args[1]]
def main(arguments):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        return f"{command(arguments)}: {errors.getvalue()}"
"""
EXPANDS_NOTHING = {"rebuild", "check"}


def test_a_bomb_in_a_log(single_server: Server, prefix: str, tmp_path: Path) -> None:
    """No read takes memory for it; each names thread, channel, size, limit and setting, and none stores it as a head."""
    bomb = bombs.keyframe(1024 * MIB)
    bombs.plant(single_server.url, prefix, "t", 1, {"a": bomb, "b": bombs.keyframe(MIB)})
    bombs.plant(single_server.url, prefix, "t", 2, {"a": bomb})
    code = EACH.format(some=READS, code="eval(READS[one])")
    found = run(f"{OPEN}{COMMAND}READS = {READS!r}{code}", single_server.url, prefix, tmp_path / "e")
    assert found["mib"] < 64
    ends = json.loads(found["result"])
    assert list(ends) == list(READS)
    for name, end in ends.items():
        if name in EXPANDS_NOTHING:
            assert "OverLimit" not in end
            continue
        assert end.startswith(("OverLimit: Thread", "2: agentlog: Thread")), (name, end)
        for part in (", entry 1", "channel 'a' ", "1,073,741,840 bytes, above the limit of", "=Limits(expansion="):
            assert part in end, (name, end)
    with single_server.client() as client:
        keys = keys_of(prefix, "t")
        assert not client.exists(keys.head(b""))
        assert client.memory_usage(keys.log) < MIB


FORGED: dict[str, tuple[str, dict[str, bytes]]] = {
    "many": ("expansion=", dict.fromkeys((f"c{number}" for number in range(40)), bombs.keyframe(60 * MIB))),
    "tebibyte": ("1,099,511,627,792 bytes, above", {"a": bombs.keyframe(MIB, claimed=2**40)}),
    "absurd": ("bytes, above the limit", {"a": bombs.keyframe(MIB, claimed=2**63)}),
    "longer": ("cannot be read", {"a": bombs.keyframe(1024 * MIB, claimed=1000)}),
    "shorter": ("cannot be read", {"a": bombs.keyframe(MIB, claimed=2 * MIB)}),
    "nothing": ("not the one that was stored", {"a": bombs.keyframe(1024 * MIB, claimed=0)}),
    "no size": ("without a size", {"a": b"k5:bytes" + bytes(8) + ENDLESS.compress(bytes(10**8))}),
    "cut": ("cannot be read", {"a": b"k5:bytes" + bytes(8) + b"\x28\xb5\x2f\xfd"}),
}
"""Checkpoints by thread: a part of the error, and the pieces of their channels."""


def test_forged_sizes(any_server: Server, prefix: str) -> None:
    """Sizes that add up, that lie, and that are missing are refused before memory is taken for them."""
    for thread, (_, pieces) in FORGED.items():
        bombs.plant(any_server.url, prefix, thread, 1, pieces)
    code = "saver.get_tuple({'configurable': {'thread_id': one}})"
    found = run(OPEN + EACH.format(some=list(FORGED), code=code), any_server.url, prefix)
    assert found["mib"] < 220
    ends = json.loads(found["result"])
    for thread, (problem, _) in FORGED.items():
        assert ends[thread].startswith(("OverLimit: ", "CorruptEntry: ")), ends[thread]
        assert f"hread {thread!r}" in ends[thread]
        assert problem in ends[thread]


def test_a_delta_of_many_edits(any_server: Server, prefix: str) -> None:
    """Each byte of the base is copied once for all of them, where it was moved once for each."""
    size, count = 4 * MIB, 20_000
    base = bombs.plant(any_server.url, prefix, "t", 1, {"a": bombs.keyframe(size)})
    edits = (bytes(8) + (1).to_bytes(4, "big") + b"x") * count
    checksums = bombs.checksum(size) + xxh3_64_digest(b"x" * count + bytes(size))
    bombs.plant(any_server.url, prefix, "t", 2, {"a": bombs.delta(base.encode(), "s1", checksums, edits)})
    code = "result = len(saver.get_tuple(config).checkpoint['channel_values']['a'])"
    found = run(
        OPEN + f"import resource; resource.setrlimit(resource.RLIMIT_CPU, (20, 20)); {code}", any_server.url, prefix
    )
    assert found["result"] == str(size + count)
    assert found["mib"] < 160


def test_a_state_that_is_too_large_for_a_head(server: Server, prefix: str) -> None:
    """It is read from the log each time, in one round trip, until it is smaller."""
    limits = Limits(head_bytes=300_000)
    text = "".join(f"{number:x} " for number in range(70_000))
    keys = keys_of(prefix, "t")
    with (
        RedisStreamSaver.from_conn_string(server.url, prefix=prefix, limits=limits) as saver,
        server.client() as client,
    ):
        small = step({"a": text[:1000], "b": "b"})
        saver.put(config("t"), *small)
        assert client.exists(keys.head(b""))
        large = follow(small, {"a": text}, step=2)
        saver.put(config("t", checkpoint_id=small[0]["id"]), *large)
        last = follow(large, {"b": "c"}, step=3)
        saver.put(config("t", checkpoint_id=large[0]["id"]), *last)
        for _ in range(2):
            assert values_of(saver.get_tuple(config("t"))) == {"a": text, "b": "c"}
            assert not client.exists(keys.head(b""))
        assert saver.rebuild("t").heads == 0
        assert saver.check("t").differences == ()
        with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as generous:
            assert values_of(generous.get_tuple(config("t"))) == {"a": text, "b": "c"}
            assert client.exists(keys.head(b""))
        assert saver.rebuild("t").heads == 0
        assert not client.exists(keys.head(b""))
        shorter = follow(last, {"a": "a"}, step=4)
        saver.put(config("t", checkpoint_id=last[0]["id"]), *shorter)
        assert values_of(saver.get_tuple(config("t"))) == {"a": "a", "b": "c"}
        assert client.exists(keys.head(b""))


async def test_values_above_a_limit(any_server: Server, prefix: str, call: Call) -> None:
    """A put refuses what a reader would refuse; a reader with a higher limit reads it."""
    narrow, data = Limits(value_bytes=1000), bytes(range(250)) * 8
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, limits=narrow) as saver:
        with pytest.raises(ValueTooLarge, match=r"'t': channel 'a' has a value of 2,00\d bytes.*value_bytes=200\d"):
            await call(saver, "put", config("t"), *step({"a": data}))
        with pytest.raises(ValueTooLarge, match="channel 'w' has a value of"):
            await call(saver, "put_writes", config("t", checkpoint_id="1"), [("w", data)], "task")
        assert await call(saver, "get_tuple", config("t")) is None
        async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as wide:
            await call(wide, "put", config("t"), *step({"a": data}))
            for _ in range(2):  # from the head
                with pytest.raises(OverLimit, match=r"Thread 't', entry .*channel 'a' holds a value .*value_bytes=2"):
                    await call(saver, "get_tuple", config("t"))
            assert values_of(await call(wide, "get_tuple", config("t"))) == {"a": data}


def test_large_values_by_default(any_server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, zeros and a growing list: what a writer stores is read without a setting, even with next to nothing to spare."""
    monkeypatch.setattr(limits, "SPARE", 256 * 1024)
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:
        text = "".join(f"{number:08} " for number in range(10_000)) * 20
        values: dict[str, Any] = {"text": text, "zeros": bytes(2 * MIB), "list": ["same text " * 1000] * 100}
        last = step(values)
        saver.put(config("t"), *last)
        for number in range(70):
            values = {**values, "list": [*values["list"], "same text " * 1000, number]}
            after = follow(last, {"list": values["list"]}, step=number)
            saver.put(config("t", checkpoint_id=last[0]["id"]), *after)
            last = after
        with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as fresh:
            assert values_of(fresh.get_tuple(config("t"))) == values
            assert values_of(fresh.get_tuple(config("t", checkpoint_id=last[0]["id"]))) == values
            assert len(list(fresh.list(config("t")))) == 71


NESTED = """
import ormsgpack
from saver.cli.values import careful_serializer
def nested(size, depth):
    data = ormsgpack.packb(bytes(size))
    for _ in range(depth):
        data = ormsgpack.packb(ormsgpack.Ext(0, b"\\x93\\xa4some\\xa4type" + data))
    return "msgpack", data
careful = careful_serializer()
shallow = careful.loads_typed(nested(1000, 100))
try:
    careful.loads_typed(nested(8_000_000, 100))
except ValueError as error:
    result = shallow.name, str(error)
"""


@pytest.mark.server
def test_objects_within_objects() -> None:
    """A command shows a value that would take 800 MB as unreadable: each object is a copy of those within it."""
    found = run(NESTED)
    assert found["result"] == "('some.type', 'ext_hook failed')"
    assert found["mib"] < 250


DEEP = """
import ormsgpack, threading
from saver.cli.values import careful_serializer
from saver.serializer import StrictSerializer
def nested(code, depth, begin, levels):
    data = b"\\1"
    for _ in range(depth):
        data = ormsgpack.packb(ormsgpack.Ext(code, begin + b"\\x91" * levels + data))
    return "msgpack", data
named = b"\\x93\\xa4some\\xa4type"
result = []
def read():
    for serde in (StrictSerializer(), careful_serializer()):
        serde.loads_typed(nested(7, 2, b"", 900))
        for value in (nested(7, 100, b"", 1000), nested(0, 100, named, 1000), nested(7, 3000, b"", 0)):
            try:
                serde.loads_typed(value)
            except (ValueError, RecursionError) as error:
                result.append(type(error).__name__)
thread = threading.Thread(target=read)
thread.start()
thread.join()
"""


@pytest.mark.server
def test_objects_within_objects_leave_the_stack_whole() -> None:
    """Lists within objects, again and again, are an error; they would overflow the stack, and end the process."""
    assert run(DEEP)["result"].count("Error") == 6


def items(*parts: bytes) -> bytes:
    """The beginning of an entry in an export, and more."""
    return b"\x82\x631-0" + b"".join(parts)


def head_of(**changes: Any) -> bytes:
    """The first item of a thread in an export."""
    return cbor2.dumps({"thread": "t", "ends": 1, "digest": "", "entries": 1, "runs": [], **changes})


HOSTILE: dict[str, tuple[str, bytes]] = {
    "string": ("expansion=", bombs.thread_frame(items(b"\x81\x5a", (2**30).to_bytes(4, "big")), zeros=1024)),
    "strings": ("1,048,576 parts", bombs.thread_frame(items(b"\x9a", (2**30).to_bytes(4, "big")), zeros=64)),
    "lists": ("parts", bombs.thread_frame(items(b"\x9a", (50 * MIB).to_bytes(4, "big")), zeros=50, byte=b"\x80")),
    "claimed list": ("parts", bombs.thread_frame(items(b"\x9b" + b"\xff" * 8), zeros=1)),
    "claimed string": ("ends within an item", bombs.thread_frame(items(b"\x5b" + b"\xff" * 8), zeros=1)),
    "nested": ("CBOR", bombs.thread_frame(b"\x81" * 10**6 + b"\0", zeros=0)),
    "run names": ("parts", bombs.compress(b"\xa1\x64runs\x9a" + (2**25).to_bytes(4, "big"), 32, b"\x60")),
    "thread": ("id_bytes=70000", bombs.compress(head_of(thread="t" * 70_000))),
    "run": ("id_bytes=70000", bombs.compress(head_of(runs=["r" * 70_000]))),
    "window": ("cannot be decompressed", b"\x28\xb5\x2f\xfd\x00\xff" + bytes(100)),
}
"""Files: a part of the error, and the frame of a thread."""


def test_hostile_exports(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """A file of some KiB takes some memory, and ends in a typed error that names the file; nothing is imported."""
    for name, (_, frame) in HOSTILE.items():
        bombs.export(tmp_path / name, [frame])
        assert (tmp_path / name).stat().st_size < 150_000
    code = "saver.import_threads(f'{args[2]}/{one}')"
    found = run(OPEN + EACH.format(some=list(HOSTILE), code=code), any_server.url, prefix, tmp_path)
    assert found["mib"] < 200
    ends = json.loads(found["result"])
    for name, (problem, _) in HOSTILE.items():
        assert ends[name].startswith(("OverLimit: File '", "ExportUnreadable: File '")), ends[name]
        assert str(tmp_path / name) in ends[name]
        assert problem in ends[name]
    with any_server.client() as client:
        assert not list(client.scan_iter(f"*{prefix}*"))


def test_an_item_above_its_limit(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """An entry may have as many bytes as its limit says; the command takes the limit from its options or the environment."""
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:
        saver.put(config("t"), *step({"a": random.Random(1).randbytes(100_000)}))
        saver.export_threads(tmp_path / "e")
        saver.delete_thread("t")
        narrow = Limits(entry_bytes=50_000)
        with (
            RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, limits=narrow) as careful,
            pytest.raises(OverLimit, match="entry_bytes="),
        ):
            careful.import_threads(tmp_path / "e")
        assert saver.import_threads(tmp_path / "e").threads == 1


async def test_versions_of_too_many_channels(any_server: Server, prefix: str, call: Call) -> None:
    """They are refused in heads, in the log, and as of a moment: each checkpoint of a page would repeat all of them."""
    many = {f"c{number}": number for number in range(40)}
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:
        first = step(many)
        saver.put(config("t"), *first)
        second = follow(first, {"c1": 2})
        saver.put(config("t", checkpoint_id=first[0]["id"]), *second)
    narrow = Limits(put_parts=39)
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, limits=narrow) as saver:
        for method, args in (
            ("get_tuple", (config("t"),)),
            ("get_tuple", (config("t", checkpoint_id=second[0]["id"]),)),
            ("list", (config("t"),)),
            ("get_tuple_as_of", (config("t"), 2)),
            ("replay", ("t",)),
        ):
            with pytest.raises(OverLimit, match="'t', entry .*versions of 40 channels or nodes.*put_parts=40"):
                await call(saver, method, *args)


def test_versions_that_go_back_too_far() -> None:
    """Changes of changes are followed a hundred times at most, in the log and in a head, without recursion."""
    whole: list[Any] = [encode_versions({"a": "s1"}), b"", b"", 0]
    vectors: list[Any] = [
        part for number in range(3000) for part in (whole if not number else [encode_versions({}), b"", b"", number])
    ]
    pieces = Pieces([], vectors)
    assert pieces.versions(100) == (Versions({"a": "s1"}, None), 99)
    assert pieces.versions(150)[1] == 149
    with pytest.raises(Malformed, match="more checkpoints than"):
        pieces.versions(3000)
    with pytest.raises(Malformed, match="more changes of versions"):
        from_head({b"e": encode({"ns": "", "id": "1"}), b"s": whole[0], b"q": b"", b"b": b"101"})


def test_an_export_that_shrinks_much(
    any_server: Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of zeros can be archived, its interrupted export is continued, and it can be imported with the usual limits."""
    monkeypatch.setattr(frames, "SPARE", 2 * MIB)
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:
        for thread in "ab":
            last = step({"a": 1})
            saver.put(config(thread), *last)
            saver.put_writes(config(thread, checkpoint_id=last[0]["id"]), [("w", bytes(4 * MIB))], "task")
        saver.export_threads(tmp_path / "e")
        (tmp_path / "f.part").write_bytes((tmp_path / "e").read_bytes()[:-100])
        assert saver.export_threads(tmp_path / "f").threads == 2
        assert saver.archive_thread("a", tmp_path / "a", delete=True).entries == 2
        assert saver.import_threads(tmp_path / "a").threads == 1
        assert (tmp_path / "a").stat().st_size < MIB


def refused_by_reads(server: Server, prefix: str, made: list[tuple[bytes, list[bytes]]]) -> None:
    """Plant a log, whose last checkpoint is made from too many entries."""
    with server.client() as client, RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as saver:
        Tampering(client, keys_of(prefix, "t")).write(chained(made), mend=False)
        for read in (lambda: saver.get_tuple(config("t")), lambda: list(saver.list(config("t"), limit=1))):
            with pytest.raises(CorruptEntry, match="more entries than this package builds on"):
                read()


def test_no_script_follows_versions_back_too_far(any_server: Server, prefix: str) -> None:
    """A script copies all versions for each change. So it refuses more changes than a writer makes, before it copies any."""
    channels = [f"c{number}" for number in range(40)]
    body: dict[str, Any] = {"checkpoint": {"v": 4}, "metadata": {"source": "loop", "step": 1}}
    versions, check = dict.fromkeys(channels, "i1"), b""
    made: list[tuple[bytes, list[bytes]]] = []
    for number in range(150):
        base = (made[-1][0], check) if made else None
        changed = {"c0": f"i{number + 1}"} if made else versions
        versions = {**versions, **changed}
        check = checksum_of_versions(Versions(versions, None)) or bytes(8)
        event = CheckpointSaved("", f"{number:04}", None, changed, body, base=base, check=check)
        made.append((b"%d-0" % (number + 1), [b"n", b"0", b"d", b"", *encode_event(event)]))
    refused_by_reads(any_server, prefix, made)


def test_no_script_follows_a_value_back_too_far(any_server: Server, prefix: str) -> None:
    """A script looks up each delta, some 13 microseconds long. So it refuses more of them than a writer makes."""
    body: dict[str, Any] = {"checkpoint": {"v": 4}, "metadata": {"source": "loop", "step": 1}}
    made: list[tuple[bytes, list[bytes]]] = []
    for number in range(4100):
        at, version = b"%d-0" % number, b"i%d" % (number - 1)
        piece = encode_delta(at, version, bytes(16)) if made else encode_keyframe("bytes", b"x", bytes(8))
        event = CheckpointSaved(
            "", f"{number:04}", None, {"c": f"i{number}"}, body, values={("c", f"i{number}"): piece}
        )
        made.append((b"%d-0" % (number + 1), [b"n", b"0", b"d", b"", *encode_event(event)]))
    refused_by_reads(any_server, prefix, made)

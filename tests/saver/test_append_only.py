"""What an append-only file may hold before the embedded server loads it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog.errors import InvalidArgument, ServerUnavailable
from saver import append_only
from saver.append_only import ALLOWED, LONGEST_MANIFEST, check_append_only
from tests.servers import RunningServer

LINE = "file appendonly.aof.{n}.{kind}.{ending} seq {n} type {letter}\n"
HEADER, END = b"VALKEY080", b"\xff" + bytes(8)
SAFE = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"


def command(*words: str) -> bytes:
    """A command, as servers write it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., None]:
    """Check a folder whose manifest names a file with some bytes."""

    def check(data: bytes, kind: str = "incr", ending: str = "aof") -> None:
        line = LINE.format(n=1, kind=kind, ending=ending, letter=kind[0])
        (tmp_path / "appendonly.aof.manifest").write_text(line)
        (tmp_path / f"appendonly.aof.1.{kind}.{ending}").write_bytes(data)
        check_folder(tmp_path)

    return check


def check_folder(folder: Path) -> None:
    """Check a folder by its path."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        check_append_only(descriptor, folder)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    "words",
    [
        ("MODULE", "LOAD", "/tmp/evil.so"),
        ("module", "loadex", "evil.so"),
        ("EVAL", "return 1", "0"),
        ("EVALSHA", "0" * 40, "0"),
        ("SCRIPT", "LOAD", "return 1"),
        ("FUNCTION", "LOAD", "#!lua name=evil"),
        ("FCALL", "evil", "0"),
        ("CONFIG", "SET", "dir", "/"),
        ("DEBUG", "JMAP"),
        ("SLAVEOF", "evil", "1"),
        ("REPLICAOF", "evil", "1"),
        ("MIGRATE", "evil", "1", "k", "0", "1"),
        ("ACL", "SETUSER", "default", "on"),
        ("CLUSTER", "MEET", "evil", "1"),
        ("SHUTDOWN",),
        ("SAVE",),
        ("BGREWRITEAOF",),
        ("SETT", "k", "v"),
        ("SE",),
        ("",),
    ],
    ids=lambda words: words[0] or "empty",
)
def test_other_commands_are_refused(check: Callable[..., None], words: tuple[str, ...]) -> None:
    """Anything but a change of data is refused, in each place where a server would run it."""
    evil = command(*words)
    places = (evil, SAFE + evil, command("MULTI") + evil + command("EXEC"), HEADER + END + evil, SAFE + evil + SAFE[:9])
    for data in places:
        for kind in ("incr", "base"):
            with pytest.raises(
                InvalidArgument, match=r"appendonly\.aof\.1\..*at byte.*Nothing was loaded.*another path"
            ):
                check(data, kind)


@pytest.mark.parametrize(
    "data",
    [
        b"*1 \r\n$4\r\nSAVE\r\n",
        b"*+1\r\n$4\r\nSAVE\r\n",
        b"*1\n$4\nSAVE\r\n",
        b"*1\r\n$4 \r\nSAVE\r\n",
        b"*1\r\n$+4\r\nSAVE\r\n",
        b"*1\r\n$-1\r\nSAVE\r\n",
        b"*-1\r\n" + SAFE,
        b"#TS:1\r\n" + SAFE,
        b"# " + b"x" * 125 + SAFE,
        b"*00000000000000000001\r\n$4\r\nSAVE\r\n",
        b"\n" + SAFE,
        b"PING\r\n",
        b"damage" + SAFE,
        SAFE[:-2] + b"xx" + SAFE,
        SAFE[:-1] + SAFE,
        b"REDI",
        b"*1\r\n*4\r\nSAVE\r\n",
        b"$1\r\n$4\r\nSAVE\r\n",
    ],
    ids=repr,
)
def test_other_forms_are_damage(check: Callable[..., None], data: bytes) -> None:
    """A form that servers read and do not write is not interpreted: it is damage."""
    for before in (b"", SAFE):
        with pytest.raises(ServerUnavailable, match=r"appendonly\.aof\.1\.incr\.aof'.*damaged at byte"):
            check(before + data)


def test_a_last_command_that_was_cut_short(check: Callable[..., None]) -> None:
    """After a crash, the file may end anywhere within a command of data."""
    for size in range(len(SAFE) + 1):
        check(SAFE + SAFE[:size])
        check(HEADER + END + SAFE[:size])
    long = command("XADD", "log", "1-0", "n", "1" * 10_000)
    for size in range(0, len(long), 97):
        check(long[:size])


@pytest.mark.parametrize(
    "line",
    [
        "file ../../evil.aof seq 1 type i",
        "file evil seq 1 type i",
        'file "appendonly.aof.1.incr.aof" seq 1 type i',
        "file appendonly.aof.manifest seq 1 type b",
        "#" + "x" * 200,
        "*1 x file appendonly.aof.1.incr.aof seq 1 type i",
        "",
        "file appendonly.aof.1.incr.aof seq 1 type i\r",
    ],
)
def test_other_manifests_are_refused(tmp_path: Path, line: str) -> None:
    """A manifest names files of the folder only, and has nothing else in it."""
    (tmp_path / "appendonly.aof.manifest").write_text(
        LINE.format(n=1, kind="base", ending="rdb", letter="b") + line + "\n"
    )
    with pytest.raises(InvalidArgument, match=r"appendonly\.aof\.manifest' has a line"):
        check_folder(tmp_path)


def test_a_long_manifest_is_refused_whole(tmp_path: Path) -> None:
    """No file goes unchecked because its line comes after the longest manifest, wherever that ends."""
    (tmp_path / "appendonly.aof.2.incr.aof").write_bytes(command("EVAL", "return 1", "0"))
    last = LINE.format(n=2, kind="incr", ending="aof", letter="i")
    line = f"file appendonly.aof.{'1' * 12}.incr.aof seq {'1' * 10} type h\n"  # 64 bytes, of a file that is not loaded
    for lines in (LONGEST_MANIFEST // len(line), 2 * LONGEST_MANIFEST // len(line)):
        (tmp_path / "appendonly.aof.manifest").write_text(line * lines + last)
        with pytest.raises(InvalidArgument, match=r"appendonly\.aof\.manifest' is longer than 65,536 bytes"):
            check_folder(tmp_path)
    assert LONGEST_MANIFEST % len(line) == 0


def test_files_that_are_not_loaded(tmp_path: Path) -> None:
    """Old files, files that are gone, and a folder without a manifest are no reason to refuse."""
    check_folder(tmp_path)
    (tmp_path / "appendonly.aof.1.incr.aof").write_bytes(command("SAVE"))
    check_folder(tmp_path)
    lines = [(1, "incr", "aof", "h"), (2, "incr", "aof", "i")]
    manifest = "".join(LINE.format(n=n, kind=kind, ending=ending, letter=letter) for n, kind, ending, letter in lines)
    (tmp_path / "appendonly.aof.manifest").write_text(manifest)
    check_folder(tmp_path)


def text(data: bytes) -> bytes:
    """A short string of a snapshot."""
    return bytes([len(data)]) + data


FIELD = b"\xfa" + text(b"valkey-ver") + text(b"9.1.2")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\xf5" + text(b"#!lua name=evil"), "functions"),
        (b"\xf6" + text(b"evil"), "functions"),
        (b"\xf7\x81" + bytes(8), "data of a module"),
        (b"\x07" + text(b"k") + b"\x81" + bytes(8), "data of a module|unknown type"),
        (b"\x06" + text(b"k"), "data of a module|unknown type"),
        (b"\x17" + text(b"k"), "unknown type 23"),
        (b"\xf3" + text(b"k"), "unknown type 243"),
    ],
)
def test_code_in_a_snapshot_is_refused(check: Callable[..., None], data: bytes, what: str) -> None:
    """Functions, data of modules, and unknown data are refused wherever they stand."""
    for before in (b"", FIELD, b"\xfe\0\0" + text(b"k") + text(b"v")):
        with pytest.raises(InvalidArgument, match=what):
            check(HEADER + before + data + END, "base", "rdb")


@pytest.mark.parametrize("header", [b"REDIS0004", b"REDIS0012", b"REDIS0079", b"REDISxxxx", b"VALKEYabc", b"VALKE"])
def test_snapshots_of_other_versions_are_refused(check: Callable[..., None], header: bytes) -> None:
    """Their values may mean something else."""
    with pytest.raises(InvalidArgument, match="snapshot of another version"):
        check(header + END, "base", "rdb")


def test_a_snapshot_that_is_not_whole(check: Callable[..., None]) -> None:
    """Each cut of a snapshot, and each length that is none, is damage."""
    whole = (
        HEADER
        + FIELD
        + b"\xfe\0\xfb\1\0\xfc"
        + bytes(8)
        + b"\4"
        + text(b"k")
        + b"\1"
        + text(b"a")
        + b"\xc2"
        + bytes(4)
        + END
    )
    check(whole, "base", "rdb")
    for size in range(len(HEADER), len(whole)):
        with pytest.raises(ServerUnavailable, match="damaged"):
            check(whole[:size], "base", "rdb")
    for value in (b"\xc4", b"\xff", b"\x82", b"\xbf"):
        with pytest.raises(ServerUnavailable, match="damaged"):
            check(HEADER + b"\0" + text(b"k") + value + END, "base", "rdb")
    with pytest.raises(ServerUnavailable, match="damaged"):
        check(HEADER + b"\xfe\xc0" + END, "base", "rdb")  # a number where a length should be


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_bytes_end_in_a_verdict(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever a file holds, the walk ends, and raises nothing but its two errors."""
    folder = tmp_path_factory.mktemp("any")
    (folder / "appendonly.aof.manifest").write_text(LINE.format(n=1, kind="base", ending="rdb", letter="b"))
    begin = data.draw(st.sampled_from([b"", HEADER, b"REDIS0011", SAFE, HEADER + b"\x15\1k", HEADER + b"\x12\1k"]))
    (folder / "appendonly.aof.1.base.rdb").write_bytes(begin + data.draw(st.binary(max_size=200)))
    try:
        check_folder(folder)
    except (InvalidArgument, ServerUnavailable):
        return


def rewrite(client: redis.Redis) -> None:
    """Make a snapshot of everything, at the beginning of the append-only file."""
    client.bgrewriteaof()
    deadline = time.monotonic() + 20
    while client.info("persistence")["aof_rewrite_in_progress"] or client.info("persistence")["aof_rewrite_scheduled"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def write_everything(client: Any) -> None:
    """Values of each type, small and large, and commands that servers write in another form."""
    run: Any = client.execute_command
    many = [f"{number:040}" for number in range(700)]
    client.mset({"text": "t", "number": 42, "big": 1 << 40, "long": "x" * 100_000, "small": -3, "middle": 70_000})
    client.rpush("list", "a", *many)
    client.rpush("short list", "a", "b" * 10_000)
    client.sadd("set", "a", *many)
    client.sadd("numbers", 1, 2, 3)
    client.sadd("short set", "a", "b")
    client.zadd("zset", {one: number / 3 for number, one in enumerate(many)})
    client.zadd("short zset", {"a": 1.5, "b": float("inf")})
    client.hset("hash", mapping=dict.fromkeys(many, "v"))
    client.hset("short hash", mapping={"a": "1"})
    client.pfadd("hll", *many)
    client.geoadd("geo", (13.36, 38.11, "Palermo"))
    client.setbit("bits", 1000, 1)
    client.set("expiring", "v", ex=1000)
    client.expire("hash", 1000)
    for number in range(300):
        client.xadd("stream", {"n": number, "v": "x" * 50})
    client.xgroup_create("stream", "group", "0")
    client.xgroup_create("stream", "empty", "$")
    client.xreadgroup("group", "one", {"stream": ">"}, count=20)
    client.xreadgroup("group", "two", {"stream": ">"}, count=20)
    client.xack("stream", "group", client.xrange("stream")[0][0])
    client.xdel("stream", client.xrange("stream")[5][0])
    client.xadd("gone", {"a": 1}, id="1-1")
    client.xdel("gone", "1-1")
    client.eval(
        "redis.call('SET', KEYS[1], ARGV[1]) redis.call('INCRBYFLOAT', KEYS[2], 1.5)", 2, "by script", "float", "v"
    )
    with client.pipeline() as pipe:
        pipe.lpop("list").spop("set").getdel("small").rename("middle", "renamed")
        pipe.execute()
    client.restore("restored", 0, client.dump("zset"))
    client.copy("list", "copy")
    client.move("renamed", 1)
    if "valkey_version" in client.info("server"):
        run("HSETEX", "hash with ends", "EX", 1000, "FIELDS", 1, "a", "v")


@pytest.mark.server
def test_what_servers_write_is_accepted(
    private_server: Callable[..., RunningServer], binary: Path, tmp_path: Path
) -> None:
    """Every type of value and every way to write it is accepted: as commands, as a snapshot, and as both."""
    server = private_server("--appendonly", "yes", "--databases", "4", binary=binary, dir=tmp_path)
    folder = tmp_path / "appendonlydir"
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        major, minor = (int(part) for part in client.info("server")["redis_version"].split(".")[:2])
        if major < 7 or (major, minor) >= (7, 4):
            pytest.skip("a server with another form of files, which the embedded server is not")
        write_everything(client)
        check_folder(folder)
        rewrite(client)
        check_folder(folder)
        client.set("later", "v")
        client.flushall()
        write_everything(client)
        check_folder(folder)
        client.config_set("aof-use-rdb-preamble", "no")
        rewrite(client)
        check_folder(folder)
        client.config_set("aof-use-rdb-preamble", "yes")
        client.function_load("#!lua name=mine\nredis.register_function('f', function() return 1 end)")
        with pytest.raises(InvalidArgument, match="command 'FUNCTION'"):
            check_folder(folder)
        rewrite(client)
        with pytest.raises(InvalidArgument, match="has functions"):
            check_folder(folder)


@pytest.mark.server
def test_every_command_was_decided_on(private_server: Callable[..., RunningServer], binary: Path) -> None:
    """A command of a server that writes is allowed, or is known to be more than data."""
    with private_server(binary=binary).client() as client:
        if "valkey_version" not in client.info("server"):
            pytest.skip("the embedded server is a Valkey")
        found: Any = client.command_list(category="write")
        names = {name.upper() for name in found if b"|" not in name}
    assert len(names) > 90
    assert names - ALLOWED == {b"MIGRATE", b"PFDEBUG", b"RESTORE-ASKING"}


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A manifest or a file that is a link is refused by the system."""
    (tmp_path / "appendonly.aof.manifest").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="symbolic links"):
        check_folder(tmp_path)
    assert append_only.FOLDER == "appendonlydir"

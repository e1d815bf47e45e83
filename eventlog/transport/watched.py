"""Connections that watch the keys of a thread, so that the next append to it is one transaction.

A call with a `Watch` is followed, in the same write, by `WATCH`, a script that reads what stands in the keys, and `TIME`. The
connection then rests with this standing. A `Transact` on it sends `MULTI`, the commands and `EXEC` at once. If any watched key was
touched meanwhile, `EXEC` replies nil and nothing was written. Behind it go `WATCH`, commands that prove the next standing, and
`TIME`, so the connection rests again. Whatever else happens, the connection gives up its watch, and the call takes the script.

A transaction is written to the socket on which the keys were watched, never by a method of redis-py that could connect again: a new
connection watches nothing.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, RLock
from typing import Any

import hiredis
import redis.exceptions as rx

from eventlog.flow import Call, Transact, Transaction, Watch
from eventlog.printable import printable
from eventlog.transport.wire import words

log = logging.getLogger("eventlog.transport")

__all__ = ["MOST", "Place", "Watching", "transact"]

MOST = 64
"""Connections that rest with a watch."""
SECONDS = 60
"""How long a standing is used: the longer it is, the less the server's clock is known."""
WORTH = 10
"""Seconds since its last standing for which a place does not go for a new one, so that many threads do not take turns."""
LAG = 0.1
"""Seconds by which the clock of a standing may lag: the longest exchange after which a connection rests."""
LONGEST_REST = 32
"""Calls without a watch after several failures in a row."""


def _packed(command: Any) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(command))
    return packed


_MULTI, _EXEC, _TIME = _packed([b"MULTI"]), _packed([b"EXEC"]), _packed([b"TIME"])


class Place:
    """The calls of one name, one at a time, and the connection that rests with their watch."""

    __slots__ = ("connection", "failures", "is_busy", "lock", "ms", "rest", "since", "socket", "standing", "watch")

    def __init__(self) -> None:
        self.lock = RLock()
        self.is_busy = False
        """Also seen by a call that a signal's handler makes within another one."""
        self.connection: Any = None
        self.socket: Any = None
        self.watch = b""
        """The command that watches the keys."""
        self.standing: Any = None
        self.ms = 0
        """The server's clock when the standing was read."""
        self.since = 0.0
        """The local clock then."""
        self.failures = 0
        self.rest = 0
        """How many calls to come go out without a watch."""

    def now(self) -> int:
        """The server's clock in ms. It lags, by the time that a reply travels."""
        return self.ms + int((time.monotonic() - self.since) * 1000)

    def stand(self, standing: Any, clock: Any, began: float) -> bool:
        """Notes a standing that was just read, with the reply to `TIME`, unless the exchange took too long."""
        self.since = time.monotonic()
        if self.since - began > LAG:
            return False
        self.standing = standing
        self.ms = int(clock[0]) * 1000 + int(clock[1]) // 1000
        return True

    def fail(self) -> None:
        """Notes that a watch did not serve; after several times the next calls do without."""
        self.failures = min(self.failures + 1, 8)
        self.rest = min(LONGEST_REST, 2**self.failures // 8)

    def is_sound(self) -> bool:
        """Whether the connection still has the socket on which it watches, and the clock is known."""
        return self.connection._sock is self.socket is not None and time.monotonic() - self.since < SECONDS


class Watching:
    """The places of a client's connections. `give_back` takes a connection that no longer rests here."""

    def __init__(self, most: int, give_back: Callable[[Any], None]) -> None:
        self.is_refused = most < 1
        """Whether the server refuses to watch, or the pool has no connection to spare."""
        self._most = most
        self._give_back = give_back
        self._places: OrderedDict[bytes, Place] = OrderedDict()
        self._lock = Lock()
        self._is_unknown = False

    @contextmanager
    def held(self, name: bytes, *, begin: bool) -> Iterator[Place | None]:
        """The place of a name, for this caller alone; None if there is none, unless it is to `begin` and there is room."""
        place = self._place(name, begin=begin)
        if place is None:
            yield None
            return
        try:
            with place.lock:
                yield place
        finally:
            if self._places.get(name) is not place:  # it had to go meanwhile
                self._leave(place)

    def _place(self, name: bytes, *, begin: bool) -> Place | None:
        oldest = None
        with self._lock:
            place = self._places.get(name)
            if place is not None:
                self._places.move_to_end(name)
            elif begin:
                if len(self._places) == self._most:
                    first = next(iter(self._places.values()))
                    if time.monotonic() - first.since < WORTH:
                        return None
                    _, oldest = self._places.popitem(last=False)
                place = self._places[name] = Place()
        if oldest is not None:
            self._leave(oldest)
        return place

    def give_one_back(self) -> None:
        """Gives up the watch of the place used longest ago, since a call waits for a connection."""
        with self._lock:
            places = list(self._places.values())
        any(self._leave(place) for place in places)

    def _leave(self, place: Place) -> bool:
        """Gives the connection of a place back, unless a call holds the place: that one gives it back as it leaves."""
        if not place.lock.acquire(blocking=False):
            return False
        try:
            if place.is_busy or place.connection is None:
                return False
            self.give_up(place)
            return True
        finally:
            place.lock.release()

    def give_up(self, place: Place) -> None:
        """Gives the connection of a place back; its watch may still be set, which only a transaction would notice."""
        connection, place.connection = place.connection, None
        place.socket = place.standing = None
        self._give_back(connection)

    def settle(self, call: Call, place: Place, connection: Any, replies: list[Any], began: float) -> None:
        """Lets a connection rest if the replies that follow a call's say that it may; else gives it back."""
        _, watched, read, clock = replies
        watch: Any = call.watch
        standing = None
        if _is_refusal(watched):
            self._refuse(watched)
        elif isinstance(read, rx.NoScriptError):
            self._is_unknown = True
        elif watched == b"OK" and not isinstance(read, Exception) and not isinstance(clock, Exception):
            standing = watch.standing(read)
        place.connection = connection
        if standing is None or not place.stand(standing, clock, began):
            place.fail()
            self.give_up(place)
            return
        place.socket, place.watch = connection._sock, _packed((b"WATCH", *watch.keys))

    def packed(self, watch: Watch, *, whole: bool) -> bytes:
        """The commands that follow a call with a watch: they have four replies."""
        whole, self._is_unknown = whole or self._is_unknown, False
        return _looks(watch, whole=whole)

    def _refuse(self, error: Exception) -> None:
        if not self.is_refused:
            self.is_refused = True
            log.warning(
                "The server refuses WATCH (%s). Puts go on by scripts, which cost the server twice as much as transactions. To fix "
                "it: grant +@transaction to the user, or connect without the proxy that refuses it.",
                printable(str(error)),
            )


def transact(place: Place, request: Transact) -> tuple[bool, Any]:
    """Whether a place's connection still rests, and the standing after a transaction, None if it was not carried out.

    Raises redis-py's ResponseError if a command of it failed, and ConnectionError, TimeoutError or OSError if a reply was lost.
    """
    transaction = request.plan(place.standing, place.now())
    if transaction is None:
        place.fail()
        return True, None
    place.standing, began = None, time.monotonic()
    replies = _exchange(place, transaction)
    executed, watched, *proof, clock = replies[1 + len(transaction.commands) :]
    if not isinstance(executed, list):
        place.fail()
        return False, None
    if replies[0] != b"OK" or len(executed) != len(transaction.commands):
        raise rx.ConnectionError("The server's replies are out of step")
    for reply in executed:
        if isinstance(reply, hiredis.ReplyError):
            raise rx.ResponseError(str(reply))
    rests = watched == b"OK" and proof == [expected for _, expected in transaction.proof] and isinstance(clock, list)
    if rests and place.stand(transaction.standing, clock, began):
        place.failures = place.rest = 0
        return True, transaction.standing
    place.fail()
    return False, transaction.standing


def _exchange(place: Place, transaction: Transaction) -> list[Any]:
    """The replies to a transaction and to what follows it, sent in one write; errors as hiredis has them."""
    queued = map(_packed, transaction.commands)
    proof = [_packed(command) for command, _ in transaction.proof]
    commands = [_MULTI, *queued, _EXEC, place.watch, *proof, _TIME]
    place.socket.sendall(b"".join(commands))
    reader = hiredis.Reader()
    replies: list[Any] = []
    while len(replies) < len(commands):
        received = place.socket.recv(65536)
        if not received:
            raise rx.ConnectionError("The server closed the connection")
        reader.feed(received)
        while (reply := reader.gets()) is not False:
            if isinstance(reply, hiredis.PushNotification):
                raise rx.ConnectionError("The server sent a notification within a transaction")
            replies.append(reply)
    return replies


def _looks(watch: Watch, *, whole: bool) -> bytes:
    """The commands that watch keys and read what stands in them."""
    commands = (b"UNWATCH",), (b"WATCH", *watch.keys), words(watch.read, whole=whole), (b"TIME",)
    return b"".join(map(_packed, commands))


def _is_refusal(reply: Any) -> bool:
    """Whether a reply says that `WATCH` is not for this user or this server."""
    if isinstance(reply, rx.NoPermissionError):
        return True
    return isinstance(reply, rx.ResponseError) and "unknown command" in str(reply).lower()

"""An operation is a flow: a generator without I/O.

A flow yields requests to the server, receives replies, and returns a result. It holds the whole logic of an operation,
once for sync and async. The drivers (`eventlog.transport.drivers`) only carry requests and replies. Replies have the
types of RESP2: bytes, int, None, and lists of these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, Generic, ParamSpec, TypeVar, Union

P = ParamSpec("P")
T = TypeVar("T")
_PRELUDES = re.compile(rb"^-- Preludes: (.+)\.$", re.MULTILINE)
Argument = Union[bytes, str, int]


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, which the server caches by the SHA-1 of its source."""

    name: str
    source: bytes
    sha: str


@dataclass(frozen=True, slots=True)
class Call:
    """Run a script whose keys are all in one slot.

    A `shared` call is short and may share a write with others; those with the same first key keep their order.
    `then` is a command on a key of that slot, in the same round trip (on a cluster in one more). The reply is then the
    pair of both replies. It reads data that a script would have to copy several times.
    """

    script: Script
    keys: Sequence[bytes]
    arguments: Sequence[Argument]
    shared: bool = False
    then: Command | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """Run one command on the node that has `key`.

    The reply is the server's, or the form into which redis-py's clients transform it.
    """

    name: str
    key: bytes
    arguments: Sequence[Argument] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Run independent commands; the reply is a list.

    They take one round trip if they go to one node.
    """

    commands: Sequence[Command]


@dataclass(frozen=True, slots=True)
class Begin:
    """Send a call and go on while the server carries it out.

    The reply is the handle for `Finish`. If the flow ends first, the reply is discarded. So use it only for calls whose
    reply may be discarded. A flow that emits items finishes the call before the next item. A process that is forked in
    between would wait without end.
    """

    call: Call


@dataclass(frozen=True, slots=True)
class Finish:
    """Wait for a call that was begun; the reply or the error is that of the call."""

    begun: Any


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait, `ms` at most, until a stream has an entry after a given id.

    The reply lists the keys of streams that have or may have one; it is empty if the time is over.
    """

    streams: Sequence[tuple[bytes, bytes]]
    """Key and entry id of each stream."""
    ms: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """Give an item to the caller that iterates over the flow."""

    item: Any


class Work(Generic[T]):
    """A function that the driver calls where it may block: in a thread beside an event loop."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self.result: T

    def __call__(self) -> None:
        """Calls the function and keeps the result."""
        self.result = self._function()


Request = Union[Call, Command, Batch, Begin, Finish, Wait, Pause, Emit]
Flow = Generator[Request, Any, T]


def blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Flow[T]:
    """The result of a function that may block, such as one that works on a file. No round trip.

    Errors of the function end the flow, and are raised as they are.
    """
    work = Work(lambda: function(*args, **kwargs))
    yield Emit(work)
    return work.result


def collected(flow: Flow[None]) -> Flow[list[Any]]:
    """The items that a flow emits."""
    items = []
    try:
        request = next(flow)
        while True:
            if isinstance(request, Emit):
                items.append(request.item)
                request = next(flow)
                continue
            try:
                reply = yield request
            except Exception as error:  # noqa: BLE001 - the flow handles it
                request = flow.throw(error)
            else:
                request = flow.send(reply)
    except StopIteration:
        return items


@cache
def load_script(path: str) -> Script:
    """A Lua script by its path, after the preludes that its header names.

    The path is a folder and a name without its ending, such as "eventlog/feed/lag".
    """
    own = _source(path)
    named = _PRELUDES.search(own)
    preludes = named.group(1).decode().split(", ") if named else []
    source = b"".join([*map(_source, preludes), own])
    return Script(path, source, sha1(source, usedforsecurity=False).hexdigest())


def _source(path: str) -> bytes:
    package, _, name = path.rpartition("/")
    return files(package.replace("/", ".")).joinpath(f"{name}.lua").read_bytes()

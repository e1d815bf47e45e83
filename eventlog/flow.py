"""Operations without I/O.

An operation is a *flow*: a generator that yields what it wants of the server, receives the reply, and returns its result.
Flows hold the whole logic of an operation, once, for sync and async alike; the drivers (`eventlog.transport.drivers`) only carry
requests and replies. Raw replies are what RESP2 gives: bytes, int, None and lists of these.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, TypeVar, Union

__all__ = [
    "Argument",
    "Batch",
    "Begin",
    "Call",
    "Command",
    "Emit",
    "Finish",
    "Flow",
    "Pause",
    "Request",
    "Script",
    "Wait",
    "load_script",
]

T = TypeVar("T")
_PRELUDES = re.compile(rb"^-- Preludes: (.+)\.$", re.MULTILINE)
Argument = Union[bytes, str, int]


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script; the server caches it by the SHA-1 of its source."""

    name: str
    source: bytes
    sha: str


@dataclass(frozen=True, slots=True)
class Call:
    """Run a script; all its keys in one slot.

    A `shared` one is short, and may go out in one write with others; those with the same first key keep their order.
    With `then`, a command on a key of that slot goes out right behind it, in the same round trip (on a cluster in one more), and
    the reply is the pair of both: what a script would have to copy several times is read without it.
    """

    script: Script
    keys: Sequence[bytes]
    arguments: Sequence[Argument]
    shared: bool = False
    then: Command | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """Run one command on the node that has `key`. Its reply may be as redis-py's clients transform it, or as the server sent it."""

    name: str
    key: bytes
    arguments: Sequence[Argument] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Run commands that do not depend on each other, in one round trip where they go to one node. The reply is a list."""

    commands: Sequence[Command]


@dataclass(frozen=True, slots=True)
class Begin:
    """Send a call and go on while the server carries it out; the reply is what `Finish` takes.

    Nobody waits for it where the flow ends before: only for what may be carried out in vain. A flow that emits items finishes it
    before the next, since a child that is forked then would wait for ever.
    """

    call: Call


@dataclass(frozen=True, slots=True)
class Finish:
    """Wait for a call that was begun. The reply, and the errors, are the call's."""

    begun: Any


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until one of some streams has an entry after the id named beside it, `ms` at most. The reply: the keys of
    those that have one, or may have one; none if the time is over.
    """

    streams: Sequence[tuple[bytes, bytes]]
    ms: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """Hand an item to whoever iterates over the flow."""

    item: Any


Request = Union[Call, Command, Batch, Begin, Finish, Wait, Pause, Emit]
Flow = Generator[Request, Any, T]


@cache
def load_script(path: str) -> Script:
    """A Lua script by its path, joined with the preludes that its header names.

    Args:
        path: the script's folder and name without ending, e.g. "eventlog/feed/lag".

    """
    own = _source(path)
    named = _PRELUDES.search(own)
    preludes = named.group(1).decode().split(", ") if named else []
    source = b"".join([*map(_source, preludes), own])
    return Script(path, source, sha1(source, usedforsecurity=False).hexdigest())


def _source(path: str) -> bytes:
    package, _, name = path.rpartition("/")
    return files(package.replace("/", ".")).joinpath(f"{name}.lua").read_bytes()

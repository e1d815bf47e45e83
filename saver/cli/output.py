"""The output of `agentlog`: stdout, stderr, and values as JSON has them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from eventlog.errors import CallerError
from eventlog.printable import printable as plain
from saver.differences import Change

__all__ = [
    "BadInput",
    "Unknown",
    "Unreadable",
    "change_object",
    "complain",
    "drop_output",
    "fail",
    "flush",
    "json_line",
    "line",
    "note",
    "plain",
    "plain_data",
    "redacted",
    "time_text",
    "write",
]

SIGNS = {"added": "+", "appended": "+", "inserted": "+", "removed": "-", "deleted": "-", "changed": "~"}
"""The sign of each kind of change."""
SHORTEST = 4
"""Characters of the shortest password that is hidden; any text has shorter ones."""
HIDDEN = "***"
DEEPEST = 20
"""Levels of nested values that are unfolded."""

_CREDENTIALS = re.compile(r"(://)\S*@")
_OPTION = re.compile(r"(password=)[^\s&'\"]+", re.IGNORECASE)


class BadInput(Exception):
    """The input of a command is wrong."""


@dataclass(frozen=True)
class Unknown:
    """A value of a type of which no objects are made here."""

    name: str
    value: Any

    def as_plain(self) -> dict[str, Any]:
        """Its name and parts, for JSON."""
        return {"__type__": self.name, "value": self.value}

    @property
    def id(self) -> Any:
        """The id by which an item of a list is known, if it has one."""
        return self.value.get("id") if isinstance(self.value, dict) else None

    def __repr__(self) -> str:
        return f"{self.name}({self.value!r})"


@dataclass(frozen=True)
class Unreadable:
    """A value that cannot be deserialized, for want of a key or of its serializer."""

    format: str
    size: int
    value: bytes = b""
    hint: str = ""


def write(text: str) -> None:
    """Put text on stdout, or nowhere where stdout is closed."""
    print(text, end="")  # noqa: T201 - the one place that prints


def flush() -> None:
    """Send the text that was written."""
    print(end="", flush=True)  # noqa: T201 - a closed stdout is no error here


def drop_output() -> None:
    """Send the rest of the output nowhere, so that the interpreter ends without error."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def line(text: str) -> None:
    """Write a line for people."""
    write(plain(text) + "\n")


def json_line(value: Any) -> None:
    """Write a line for programs: one JSON value, all of it ASCII, with times in UTC."""
    write(json.dumps(value, default=time_text) + "\n")


def time_text(when: datetime, *, local: bool = False) -> str:
    """A time in ISO 8601 to the millisecond: in UTC with a Z, or in the local zone."""
    if local:
        return when.astimezone().isoformat(timespec="milliseconds")
    return when.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def note(text: str) -> None:
    """Write a line that people may want to know to stderr."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(plain(text), file=sys.stderr, flush=True)  # noqa: T201 - the one place for stderr


def complain(text: str, url: str | None = None) -> None:
    """Write an error to stderr in one line, without passwords."""
    lines = redacted(text, url).splitlines()  # blanks stay, since an id may have several
    note("agentlog: " + " ".join(filter(None, map(str.strip, lines))))


def fail(error: BaseException, url: str | None = None) -> int:
    """Report an error on stderr, and return its exit code."""
    complain(str(error) or type(error).__name__, url)
    return 2 if isinstance(error, (BadInput, CallerError)) else 3


def redacted(text: str, url: str | None = None) -> str:
    """Text without the credentials of URLs in it, and without the passwords of `url`."""
    text = _OPTION.sub(rf"\1{HIDDEN}", _CREDENTIALS.sub(rf"\1{HIDDEN}@", text))
    for secret in sorted(_passwords(url or ""), key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, HIDDEN)
    return text


def _passwords(url: str) -> Iterator[str]:
    """Possible passwords of a URL, as they are written there, and decoded."""
    rest = url.partition("://")[2]
    written = rest.rpartition("@")[0].partition(":")[2]
    options = [value for name, value in parse_qsl(rest.partition("?")[2]) if "password" in name.lower()]
    for one in (written, *options):
        yield from {one, unquote(one), quote(one, safe="")}
    yield from re.split(r"[/?#@:]", written)  # a password that was not encoded, as a parser may take it apart


def plain_data(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it; what JSON lacks becomes its name and parts, or a text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)
    if depth > DEEPEST:
        return _deep(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else repr(key): plain_data(one, depth + 1) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_data(one, depth + 1) for one in value]
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": b64encode(value).decode()}
    if isinstance(value, Unknown):
        return plain_data(value.as_plain(), depth)
    if isinstance(value, Unreadable):
        hint = {"hint": value.hint} if value.hint else {}
        return {"__unreadable__": value.format, "bytes": value.size, **hint}
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain_data(getattr(value, one.name), depth + 1) for one in fields(value)}
    if hasattr(value, "model_dump"):
        dumped = {name: one for name, one in value.model_dump().items() if one not in (None, [], {}, "")}
        return plain_data(dumped, depth + 1)
    return repr(value)


def _deep(value: Any) -> str:
    try:
        return repr(value)
    except RecursionError:
        return f"<{type(value).__name__}, nested too deep to be shown>"


def change_object(change: Change) -> dict[str, Any]:
    """A change as JSON has it."""
    found: dict[str, Any] = {"path": plain_data(list(change.path)), "what": change.what}
    if change.id is not None:
        found["id"] = change.id
    if SIGNS[change.what] != "+":
        found["before"] = plain_data(change.before)
    if SIGNS[change.what] != "-":
        found["after"] = plain_data(change.after)
    return found

"""Values as people and programs are shown them: folded where they are long, told by name where their type is not known here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from saver.cli import output
from saver.differences import Change

__all__ = ["Unknown", "Unreadable", "brief", "change_line", "change_object", "lines_of", "plain_data"]

MOST = 160
"""Characters of a value in a line, unless it is unfolded."""
SIGNS = {"added": "+", "appended": "+", "inserted": "+", "removed": "-", "deleted": "-", "changed": "~"}
DEEPEST = 20


@dataclass(frozen=True)
class Unknown:
    """A value of a type that nothing here makes objects of."""

    name: str
    value: Any

    def as_plain(self) -> dict[str, Any]:
        """For programs."""
        return {"__type__": self.name, "value": self.value}

    @property
    def id(self) -> Any:
        """What an item of a list is known by."""
        return self.value.get("id") if isinstance(self.value, dict) else None

    def __repr__(self) -> str:
        return f"{self.name}({self.value!r})"


@dataclass(frozen=True)
class Unreadable:
    """A value that cannot be deserialized here: encrypted with a key that is not given, or of another serializer."""

    format: str
    size: int
    value: bytes = b""

    def __repr__(self) -> str:
        return f"<{self.format}, {output.size_text(self.size)}>"


def plain_data(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it: what JSON cannot say becomes its name and its parts, or a text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)
    if depth > DEEPEST:
        return repr(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else repr(key): plain_data(one, depth + 1) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_data(one, depth + 1) for one in value]
    if isinstance(value, Unknown):
        return {"__type__": value.name, "value": plain_data(value.value, depth + 1)}
    if isinstance(value, Unreadable):
        return {"__unreadable__": value.format, "bytes": value.size}
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain_data(getattr(value, one.name), depth + 1) for one in fields(value)}
    if hasattr(value, "model_dump"):
        dumped = {name: one for name, one in value.model_dump().items() if one not in (None, [], {}, "")}
        return plain_data(dumped, depth + 1)
    return repr(value)


def brief(value: Any, most: int | None = MOST) -> str:
    """A value in one line, shortened to so many characters, with its size then."""
    told = _told(value)
    if most is None or len(told) <= most:
        return told
    return f"{told[: most - 16].rstrip()}... ({output.size_text(len(told))})"


def _told(value: Any) -> str:
    if _is_message(value):
        return _message(value)
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return f"<{output.size_text(len(value))}>"
    if isinstance(value, Unknown):
        return f"{value.name} {_told(value.value)}"
    if isinstance(value, Unreadable):
        return repr(value)
    if isinstance(value, (list, tuple)) and value and all(map(_is_message, value)):
        return "[" + " | ".join(map(_message, value)) + "]"
    return json.dumps(plain_data(value), ensure_ascii=False, separators=(", ", ": "))


def _is_message(value: Any) -> bool:
    return isinstance(getattr(value, "type", None), str) and hasattr(value, "content")


def _message(message: Any) -> str:
    content = message.content
    parts = [content if isinstance(content, str) else json.dumps(plain_data(content), ensure_ascii=False)]
    calls = getattr(message, "tool_calls", None) or ()
    parts += [f"-> {one.get('name')}({json.dumps(plain_data(one.get('args')), ensure_ascii=False)})" for one in calls]
    name = f" ({message.name})" if getattr(message, "name", None) else ""
    return f"{message.type}{name}: " + " ".join(part for part in parts if part)


def lines_of(name: str, value: Any, *, full: bool) -> Iterator[str]:
    """A channel and its value, a line for each item of a list."""
    most = None if full else MOST
    if isinstance(value, list) and value and (full or len(value) <= 200 or any(map(_is_message, value))):
        shown = value if full or len(value) <= 200 else value[-200:]
        yield f"{name} ({len(value)})"
        if len(shown) < len(value):
            yield f"  ... {len(value) - len(shown)} more before; --full shows them"
        for number, item in enumerate(shown, len(value) - len(shown)):
            yield f"  [{number}] {brief(item, most)}"
    else:
        yield f"{name}: {brief(value, most)}"


def path_text(path: tuple[Any, ...]) -> str:
    """A path as it is written: `messages[3]`, `state.count`."""
    told = str(path[0])
    for part in path[1:]:
        told += f"[{part}]" if isinstance(part, int) and not isinstance(part, bool) else f".{part}"
    return told


def change_line(change: Change, *, full: bool) -> str:
    """A difference in a line."""
    most = None if full else MOST
    sign, where = SIGNS[change.what], path_text(change.path)
    if change.what == "changed":
        half = None if most is None else most // 2
        return f"{sign} {where}: {brief(change.before, half)} -> {brief(change.after, half)}"
    return f"{sign} {where}: {brief(change.before if sign == '-' else change.after, most)}"


def change_object(change: Change) -> dict[str, Any]:
    """A difference for programs."""
    told: dict[str, Any] = {"path": plain_data(list(change.path)), "what": change.what}
    if change.id is not None:
        told["id"] = change.id
    if SIGNS[change.what] != "+":
        told["before"] = plain_data(change.before)
    if SIGNS[change.what] != "-":
        told["after"] = plain_data(change.after)
    return told

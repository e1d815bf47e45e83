"""The default serializer: LangGraph's, but it makes objects of listed types only.

LangGraph's serializer imports any module that stored data names, and calls any constructor. A person who can write to Redis
could so run code in a reader. Its own strict mode returns the plain parts of an object whose type is not listed, so that a
state silently has another type. This serializer writes the same bytes, and differs in what it reads:

- A type that is not listed is neither imported nor called, and raises `TypeNotAllowed`.
- An object that cannot be made again raises an error. LangGraph returns its parts, or None.

The list has three sources: `TRUSTED`, the types of the schemas of compiled graphs, and `with_allowlist`. LangGraph hands the
types of schemas to a checkpointer's `with_allowlist` when it compiles and runs a graph.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from typing import Any

import ormsgpack
from langchain_core.load.mapping import SERIALIZABLE_MAPPING
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from typing_extensions import Self

from eventlog.errors import InvalidArgument, TypeNotAllowed

__all__ = ["TRUSTED", "StrictSerializer", "takes_allowlist"]

_DATA: Mapping[str, tuple[str, ...]] = {
    "langchain_core.agents": ("AgentAction", "AgentActionMessageLog", "AgentFinish", "AgentStep"),
    "langchain_core.outputs.chat_generation": ("ChatGeneration", "ChatGenerationChunk"),
    "langchain_core.outputs.chat_result": ("ChatResult",),
    "langchain_core.outputs.generation": ("Generation", "GenerationChunk"),
    "langchain_core.outputs.llm_result": ("LLMResult",),
    "langchain_core.outputs.run_info": ("RunInfo",),
    "langchain_core.prompt_values": (
        "ChatPromptValue",
        "ChatPromptValueConcrete",
        "ImagePromptValue",
        "StringPromptValue",
    ),
    "langmem.short_term.summarization": ("RunningSummary",),
    "pydantic.types": ("SecretBytes", "SecretStr"),
}
"""Types of LangChain and Pydantic that are data only: their constructors open nothing, and their methods read nothing.

Not listed, since their use opens files or connections: models, prompts, loaders, tools, and `Blob`, which reads a path.
"""
TRUSTED = SAFE_MSGPACK_TYPES | {(module, name) for module, names in _DATA.items() for name in names}
"""The types that every saver revives: those that LangGraph trusts, and `_DATA`."""
_READ = ormsgpack.OPT_NON_STR_KEYS
_SINGLE, _POSITIONAL, _KEYWORDS, _METHOD, _PYDANTIC_V1, _PYDANTIC_V2, _ARRAY, _SNAPSHOT = range(8)
"""Codes of msgpack's extensions, as LangGraph numbers them."""
_HOMES = {"pathlib._local": "pathlib"}
"""Modules whose types have another home in other versions of Python: 3.13 alone has `pathlib._local`."""
_MOST_NAMED = 10
"""Types that one error names."""
_MOST_TEXT = 200
_MOST_NOTED = 1000
_PLAIN = (type(None), bool, int, float, str, bytes, list, tuple, dict)
"""Types that are written without a name."""

_Allowed = dict[tuple[str, ...], "type | None"]
"""Allowed types by module and name, with the class where it is known."""

log = logging.getLogger("saver.serializer")


class StrictSerializer(JsonPlusSerializer):
    """LangGraph's serializer, which revives listed types only. The default of a saver.

    `allowed` are types beyond `TRUSTED`: classes, or pairs of module and name. The saver's `with_allowlist` adds to them.
    A class within a class or a function has no name by which it could be imported, and must be passed as a class.
    """

    def __init__(self, allowed: Iterable[tuple[str, ...] | type] = ()) -> None:
        super().__init__(allowed_msgpack_modules=None)
        self._allowed: _Allowed = {**dict.fromkeys(TRUSTED), **_named(allowed)}
        self._written: set[type] = set(_PLAIN)

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Returns form and bytes, as LangGraph's serializer does.

        The first value of a type is looked at. If it would be refused when it is read, a warning names the line to add. Nothing is
        refused here: what an agent did is recorded first.
        """
        form, data = super().dumps_typed(obj)
        if form == "msgpack" and not self._written.issuperset(types := _types_at_the_top(obj)):
            if len(self._written) > _MOST_NOTED:
                self._written = set(_PLAIN)
            self._written |= types
            reading = _Reading(self._allowed, makes=False)
            with suppress(ValueError):
                ormsgpack.unpackb(data, ext_hook=reading.extension, option=_READ)
            if reading.refused:
                log.warning(
                    "A value was written that this saver will refuse to read. Allow its types: %s",
                    _line_to_add(reading.refused),
                )
        return form, data

    def with_msgpack_allowlist(self, extra_allowlist: Iterable[tuple[str, ...] | type]) -> Self:
        """Adds types, and returns this serializer.

        LangGraph's serializer returns a copy here. This one is shared on purpose: a graph compiles with a saver, and the
        same saver must read what the graph wrote. So must the server of LangGraph, which wraps savers.

        Raises `InvalidArgument` for anything but classes and pairs of module and name.
        """
        extra = _named(extra_allowlist)
        self._allowed.update({name: found for name, found in extra.items() if found or name not in self._allowed})
        return self

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Returns the value.

        Raises `TypeNotAllowed` if it holds types that are not listed, and `ValueError` if it cannot be made again.
        """
        form, packed = data
        if form == "msgpack":
            reading = _Reading(self._allowed)
            return reading.result(lambda: ormsgpack.unpackb(packed, ext_hook=reading.extension, option=_READ))
        if form == "json":
            reading = _Reading(self._allowed)
            return reading.result(lambda: json.loads(packed, object_hook=reading.constructor))
        return super().loads_typed(data)


def takes_allowlist(serde: object) -> bool:
    """Whether LangGraph's `with_allowlist` reaches a serializer: its own, or the one that it encrypts for."""
    return isinstance(_inner(serde), JsonPlusSerializer)


def _inner(serde: object) -> object:
    return serde.serde if isinstance(serde, EncryptedSerializer) else serde


class _Reading:
    """One value while it is decoded.

    ormsgpack replaces an exception of its hook by another, so the first one is kept here. Once a type is refused, no
    further object is made, and decoding goes on to name all types that are missing.
    """

    __slots__ = ("allowed", "failure", "makes", "refused")

    def __init__(self, allowed: _Allowed, *, makes: bool = True) -> None:
        self.allowed = allowed
        self.makes = makes
        self.refused: dict[tuple[str, str], None] = {}
        self.failure: Exception | None = None

    def result(self, decode: Callable[[], Any]) -> Any:
        """Returns the decoded value."""
        try:
            value = decode()
        except Exception as error:  # noqa: BLE001 - any error of a decoder or a constructor
            if not self.refused:
                failure = self.failure or error
                if isinstance(failure, ValueError):
                    raise failure from None
                raise ValueError(f"a part of it is malformed ({type(failure).__name__}: {failure})") from failure
        if self.refused:
            raise TypeNotAllowed(
                "it holds types that this saver may not revive, and nothing of them was imported or called. If your application "
                f"wrote them, allow them: {_line_to_add(self.refused)}. Otherwise look at the thread with agentlog.",
                tuple(self.refused),
            )
        return value

    def extension(self, code: int, data: bytes) -> Any:
        """Returns the object of an extension of msgpack."""
        try:
            return self._extension(code, data)
        except Exception as error:
            if self.failure is None:
                self.failure = error
            raise

    def _extension(self, code: int, data: bytes) -> Any:
        parts = ormsgpack.unpackb(data, ext_hook=self.extension, option=_READ)
        if code == _SNAPSHOT:
            return _DeltaSnapshot(parts)
        if code == _ARRAY:
            return _array(*parts)
        if code not in _MAKERS:
            raise ValueError(f"it holds an extension {code} of msgpack that is not known; upgrade this package")
        module, name, value, *method = parts
        if code == _METHOD and method != ["fromisoformat"]:
            raise ValueError(f"it calls the method {method!r:.{_MOST_TEXT}} of {module!r:.{_MOST_TEXT}}")
        return self._made(module, name, _MAKERS[code], value)

    def constructor(self, found: dict[str, Any]) -> Any:
        """Returns the object of a JSON object, which is a plain one in most cases.

        Early versions of LangGraph wrote values as JSON: objects of LangChain as "lc" 1, others as "lc" 2.
        """
        kind, path = found.get("lc"), found.get("id")
        if kind not in (1, 2) or "type" not in found or path is None:
            return found
        if found["type"] != "constructor" or not isinstance(path, list) or len(path) < 2:
            raise ValueError(f"it holds a {found['type']!r:.{_MOST_TEXT}} of LangChain, which is not data")
        if not all(isinstance(part, str) for part in path):
            raise ValueError("it names a type by something other than text")
        *module, name = SERIALIZABLE_MAPPING.get(tuple(path), path) if kind == 1 else path
        arguments, keywords = found.get("args") or (), found.get("kwargs") or {}
        return self._made(".".join(module), name, lambda made, _: made(*arguments, **keywords), None)

    def _made(self, module: Any, name: Any, make: Callable[[Any, Any], Any], value: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it names a type by something other than text")  # noqa: TRY004 - data, not an argument
        written = module, name
        if written not in self.allowed:
            self.refused[written] = None
        if self.refused or not self.makes:
            return None
        try:
            found = self.allowed[written] or getattr(import_module(_HOMES.get(module, module)), name)
            return make(found, value)
        except Exception as error:
            said = f"{type(error).__name__}: {str(error)[:_MOST_TEXT]!r}"
            raise ValueError(
                f"an object of type {module}.{name} cannot be made again ({said}). A type must take what it was written with, and "
                "be at the top of its module or be allowed as a class"
            ) from error


def _send(found: Any, value: Any) -> Any:
    """Returns what takes arguments by position. A `Send` takes its third one, the timeout, by name."""
    if len(value) == 3 and found.__module__ == "langgraph.types" and found.__name__ == "Send":
        return found(value[0], value[1], timeout=value[2])
    return found(*value)


def _keywords(found: Any, value: Any) -> Any:
    """Returns what takes arguments by name. Fields of a dataclass that its constructor does not take are set afterwards."""
    late = [one.name for one in fields(found) if not one.init and one.name in value] if is_dataclass(found) else []
    made = found(**{name: item for name, item in value.items() if name not in late})
    for name in late:
        object.__setattr__(made, name, value[name])
    return made


def _model(found: Any, value: Any) -> Any:
    """Returns a model, also one that is written by its fields' names and made by their aliases.

    A model that refuses what it once was comes back without validation, as from LangGraph, but never with parts of another type.
    """
    with suppress(Exception):  # any error of a validator
        return found(**value) if isinstance(value, dict) else found(value)
    try:
        return found.model_validate(value, by_name=True)
    except Exception:  # noqa: BLE001 - also a Pydantic that does not know `by_name`
        made = found.model_construct(**value)
        made.model_dump(warnings="error")
        return made


def _early_model(found: Any, value: Any) -> Any:
    """Returns a model of Pydantic 1."""
    try:
        return found(**value)
    except Exception:  # noqa: BLE001 - any error of a validator
        return found.construct(**value)


_MAKERS: Mapping[int, Callable[[Any, Any], Any]] = {
    _SINGLE: lambda found, value: found(value),
    _POSITIONAL: _send,
    _KEYWORDS: _keywords,
    _METHOD: lambda found, value: found.fromisoformat(value),
    _PYDANTIC_V1: _early_model,
    _PYDANTIC_V2: _model,
}


def _array(kind: str, shape: list[int], order: Any, data: bytes) -> Any:
    import numpy as np  # noqa: PLC0415 - optional, and the one module that arrays need

    return np.frombuffer(data, dtype=np.dtype(kind)).reshape(shape, order=order)


def _named(types: Iterable[tuple[str, ...] | type]) -> _Allowed:
    return {_name(one): one if isinstance(one, type) else None for one in types}


def _name(one: tuple[str, ...] | type) -> tuple[str, ...]:
    if isinstance(one, type):
        return one.__module__, one.__name__
    if isinstance(one, (tuple, list)) and [type(part) for part in one] == [str, str]:
        return tuple(one)
    raise InvalidArgument(f"A type is allowed as a class or as ('module', 'Name'), not as {one!r:.{_MOST_TEXT}}.")


def _types_at_the_top(value: Any) -> set[type]:
    """Returns the type of a value, and those of the items of a list or a dict."""
    types = {type(value)}
    if isinstance(value, (list, tuple)):
        types.update(map(type, value))
    elif isinstance(value, dict):
        types.update(map(type, value.values()))
    return types


def _line_to_add(types: Collection[tuple[str, str]]) -> str:
    """Returns the call that allows types, whose names may come from an attacker."""
    shown = ", ".join(
        f"({module[:_MOST_TEXT]!r}, {name[:_MOST_TEXT]!r})" for module, name in islice(types, _MOST_NAMED)
    )
    more = f" and {len(types) - _MOST_NAMED} more" if len(types) > _MOST_NAMED else ""
    return f"saver.with_allowlist([{shown}]){more}"


def _ask_for_the_types_of_schemas() -> None:
    """Lets LangGraph hand the types of graphs' schemas to checkpointers with a `StrictSerializer`.

    LangGraph does so only with LANGGRAPH_STRICT_MSGPACK in the environment, read at import, and then for all checkpointers.
    The flag that is set here governs the collection of types alone. Other checkpointers are passed over and stay as they are.
    """
    if find_spec("langgraph.pregel") is None:  # LangGraph is optional
        return
    try:
        private: Any = import_module("langgraph._internal._serde")
        is_on, hand_over = private.STRICT_MSGPACK_ENABLED, private.apply_checkpointer_allowlist
    except (ImportError, AttributeError):
        log.warning(
            "This version of LangGraph may not hand the types of graphs' schemas to savers. If a read raises TypeNotAllowed, "
            "allow the types with saver.with_allowlist, or upgrade langgraph-checkpoint-redis-streams."
        )
        return
    if is_on:
        return

    def where_needed(checkpointer: Any, allowlist: Any) -> Any:
        is_strict = isinstance(_inner(getattr(checkpointer, "serde", None)), StrictSerializer)
        return hand_over(checkpointer, allowlist) if is_strict else checkpointer

    private.apply_checkpointer_allowlist = where_needed
    private.STRICT_MSGPACK_ENABLED = True


_ask_for_the_types_of_schemas()

"""A serializer that carries what it does not know: for moving threads, where no type needs to be installed, let alone run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from saver.cli.values import with_key

__all__ = ["carrying_serializer"]

_READ = ormsgpack.OPT_NON_STR_KEYS
_WRITE = _READ | ormsgpack.OPT_PASSTHROUGH_DATACLASS
_OWN = ("null", "bytes", "bytearray")


@dataclass(frozen=True, slots=True)
class Carried:
    """An object of a type that is not looked at: msgpack's code and bytes of it."""

    code: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CarriedWhole:
    """A value in another form than msgpack."""

    type: str
    data: bytes


def _packed(value: object) -> Any:
    if isinstance(value, Carried):
        return ormsgpack.Ext(value.code, value.data)
    raise TypeError(f"{type(value).__name__} cannot be carried")


def carrying_serializer() -> SerializerProtocol:
    """LangGraph's serializer, in whose place objects come as `Carried` and go back byte for byte; nothing is imported or run.

    With `LANGGRAPH_AES_KEY` in the environment it decrypts and encrypts. Raises `BadInput` where that cannot be.
    """
    serde = JsonPlusSerializer()
    dumps, loads = serde.dumps_typed, serde.loads_typed

    def dumps_typed(obj: Any) -> tuple[str, bytes]:
        if isinstance(obj, CarriedWhole):
            return obj.type, obj.data
        if obj is None or isinstance(obj, (bytes, bytearray)):
            return dumps(obj)
        try:
            return "msgpack", ormsgpack.packb(obj, default=_packed, option=_WRITE)
        except (TypeError, ValueError):  # something that was made here, not carried
            return dumps(obj)

    def loads_typed(data: tuple[str, bytes]) -> Any:
        form, packed = data
        if form in _OWN:
            return loads(data)
        if form == "msgpack":
            return ormsgpack.unpackb(packed, ext_hook=Carried, option=_READ)
        return CarriedWhole(form, packed)

    serde.dumps_typed = dumps_typed  # type: ignore[method-assign]
    serde.loads_typed = loads_typed  # type: ignore[method-assign]
    return with_key(serde)

"""Serializers of commands, which import and run nothing that stored data names.

A log may have been written by anyone, and its types need not be installed where it is looked at. A value that is shown
becomes an object if LangGraph trusts its type; otherwise it is shown by its type's name. A value that is copied is
carried as bytes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_METHODS, SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from eventlog.codec import Keyframe, encode
from eventlog.errors import CorruptEntry, ValueNotEncrypted, ValueUnreadable
from eventlog.events import CheckpointSaved
from eventlog.limits import SPARE
from projections.values.pieces import StoredValue
from projections.values.stored import StoredCheckpoint
from saver.binding import FormMismatch
from saver.cli.output import BadInput, Unknown, Unreadable
from saver.nesting import Nesting
from saver.translation import Translator

__all__ = ["Values", "careful_serializer", "carrying_serializer"]

AES_KEY = "LANGGRAPH_AES_KEY"
"""The variable in which LangGraph's encrypted serializer looks for its key."""
_NAMED = range(6)
"""Codes of msgpack's extensions that name a type: module, name, and its parts."""
_METHOD = 3
_TRUSTING = JsonPlusSerializer(allowed_msgpack_modules=None)
_READ = ormsgpack.OPT_NON_STR_KEYS
_WRITE = _READ | ormsgpack.OPT_PASSTHROUGH_DATACLASS
COPIES = 4
"""Times the bytes of an object that those within it may take, beyond 16 MiB."""
_OWN = ("null", "bytes", "bytearray")
"""Forms of values that hold no types."""
_READABLE = (*_OWN, "msgpack")
_CIPHER = "+aes"
"""The end of a format that LangGraph's encrypted serializer wrote."""
REFUSED = "agentlog does not read this format; if you trust the log, read it with your program's serializer"
"""Why a value was not read. LangGraph's `json` and `pickle` run constructors that a value names."""
ENCRYPTED = f"encrypted; set {AES_KEY} to read it"
OTHER_KEY = f"encrypted with another key than {AES_KEY}"
ALTERED = "altered: encrypted in another format"
IN_CLEAR = "not encrypted; pass --accept-plaintext to read it"


def careful_serializer() -> SerializerProtocol:
    """LangGraph's serializer, which makes objects of types that LangGraph trusts only.

    With `LANGGRAPH_AES_KEY` in the environment it decrypts. Raises `BadInput` for a key that cannot be used.
    """
    return _with_key(_Careful(__unpack_ext_hook__=_revived))


class _Refused(ValueError):
    """Reading a value of this format may run what the value names."""


class _Careful(JsonPlusSerializer):
    """LangGraph's serializer, but it refuses formats that name constructors, such as `json`."""

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        if data[0] not in _READABLE:
            raise _Refused(f"{REFUSED}, or export without --values")
        return super().loads_typed(data)


class _Nesting(threading.local):
    """The bytes of the objects that contain the current one: each of them is a copy of those within."""

    outermost = taken = 0

    def __init__(self) -> None:
        self.levels = Nesting()

    @contextmanager
    def within(self, data: bytes) -> Iterator[None]:
        """Enters an object. Raises ValueError for one so deep that the copies would fill the memory, or the stack."""
        size = len(data)
        self.outermost = self.outermost or size
        self.taken += size
        try:
            if self.taken > SPARE + COPIES * self.outermost:
                raise ValueError("objects within objects")
            with self.levels.within(data):
                yield
        finally:
            self.taken -= size
            self.outermost = self.outermost if self.taken else 0


_nesting = _Nesting()


def _revived(code: int, data: bytes) -> Any:
    with _nesting.within(data):
        parts = ormsgpack.unpackb(data, ext_hook=_revived, option=_READ)
    if code not in _NAMED:
        return _trusted(code, data)
    module, name, value, *method = parts
    known = (
        (module, name, method[0]) in SAFE_MSGPACK_METHODS if code == _METHOD else (module, name) in SAFE_MSGPACK_TYPES
    )
    return _trusted(code, data) if known else Unknown(f"{module}.{name}", value)


def _trusted(code: int, data: bytes) -> Any:
    return _TRUSTING.loads_typed(("msgpack", ormsgpack.packb(ormsgpack.Ext(code, data))))


def _with_key(serde: SerializerProtocol) -> SerializerProtocol:
    """A serializer that also decrypts and encrypts, if the environment has a key."""
    if not os.environ.get(AES_KEY):
        return serde
    try:
        return EncryptedSerializer.from_pycryptodome_aes(serde)
    except (ImportError, ValueError) as error:
        raise BadInput(f"{AES_KEY} is set, and cannot be used: {error}") from error


@dataclass(frozen=True, slots=True)
class Carried:
    """An object that is not looked at: msgpack's code of its type, and its bytes."""

    code: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CarriedWhole:
    """A value in another form than msgpack."""

    type: str
    data: bytes


class _Carrying(JsonPlusSerializer):
    """LangGraph's serializer, but objects come as `Carried` and go back byte for byte."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if isinstance(obj, CarriedWhole):
            return obj.type, obj.data
        if obj is None or isinstance(obj, (bytes, bytearray)):
            return super().dumps_typed(obj)
        try:
            return "msgpack", ormsgpack.packb(obj, default=_packed, option=_WRITE)
        except (TypeError, ValueError):  # an object that was made here, not carried
            return super().dumps_typed(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        form, packed = data
        if form in _OWN:
            return super().loads_typed(data)
        if form == "msgpack":
            return ormsgpack.unpackb(packed, ext_hook=Carried, option=_READ)
        return CarriedWhole(form, packed)


def _packed(value: object) -> Any:
    if isinstance(value, Carried):
        return ormsgpack.Ext(value.code, value.data)
    raise TypeError(f"{type(value).__name__} cannot be carried")


def carrying_serializer() -> SerializerProtocol:
    """A serializer that copies values: objects of any type pass byte for byte.

    With `LANGGRAPH_AES_KEY` in the environment it decrypts and encrypts. Raises `BadInput` as `careful_serializer`.
    """
    return _with_key(_Carrying())


def _hint(type_: str, error: ValueUnreadable) -> str:
    """Why a value of a format was not read, and what to do. Empty if nobody knows."""
    if isinstance(error, ValueNotEncrypted):
        return IN_CLEAR
    if type_.endswith(_CIPHER) and not os.environ.get(AES_KEY):
        return ENCRYPTED
    if isinstance(error.__cause__, _Refused):
        return REFUSED
    if isinstance(error.__cause__, FormMismatch):
        return ALTERED
    return OTHER_KEY if type_.endswith(_CIPHER) else ""


def _unreadable(type_: str, data: bytes, error: ValueUnreadable) -> Unreadable:
    return Unreadable(type_, len(data), data, _hint(type_, error))


class Values:
    """Deserializes the values of a thread to show them."""

    def __init__(self, thread_id: str, *, accept_plaintext: bool = False) -> None:
        self._translator = Translator(careful_serializer(), accept_plaintext=accept_plaintext)
        self._thread_id = thread_id

    def metadata(self, event: CheckpointSaved) -> Mapping[str, Any]:
        """The metadata of a checkpoint: what is known about it if it was not read, empty if it cannot be read."""
        try:
            return self._translator.metadata(self._thread_id, event.checkpoint_id, event.body)
        except ValueUnreadable as error:
            stored = event.body["metadata"]
            type_, data = stored if isinstance(stored, list) else ("plain", encode(stored))
            return {"metadata": _unreadable(type_, data, error)} if _hint(type_, error) else {}
        except CorruptEntry:
            return {}

    def one(self, channel: str, value: StoredValue | Keyframe) -> Any:
        """A value, or `Unreadable`."""
        try:
            return self._translator.value(self._thread_id, channel, value)
        except ValueUnreadable as error:
            return _unreadable(value.type, value.data, error)

    def all(self, stored: StoredCheckpoint) -> dict[str, Any]:
        """The values of a checkpoint by channel."""
        return {channel: self.one(channel, value) for channel, value in stored.values.items()}

    def changed(
        self, before: StoredCheckpoint | None, after: StoredCheckpoint
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The values of two checkpoints by channel, without those of the same bytes."""
        old = {} if before is None else before.values
        same = {
            channel
            for channel, value in after.values.items()
            if channel in old and (old[channel].type, old[channel].data) == (value.type, value.data)
        }
        return (
            {channel: self.one(channel, value) for channel, value in old.items() if channel not in same},
            {channel: self.one(channel, value) for channel, value in after.values.items() if channel not in same},
        )

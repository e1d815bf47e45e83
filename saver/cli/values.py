"""Reading values: with LangGraph's serializer, which here makes objects of the types that LangGraph trusts, and of no others.

A log may have been written by anyone, and its types need not be installed where it is looked at: what is of another type is
shown by its name, and nothing of it is imported or run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_METHODS, SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from eventlog.codec import Keyframe
from eventlog.errors import CorruptEntry, ValueUnreadable
from eventlog.events import CheckpointSaved
from projections.values.pieces import StoredValue
from projections.values.stored import StoredCheckpoint
from saver.cli.output import BadInput
from saver.cli.shown import Unknown, Unreadable
from saver.translation import Translator

__all__ = ["Values", "careful_serializer"]

AES_KEY = "LANGGRAPH_AES_KEY"
"""Where LangGraph's own serializer looks for its key."""
_NAMED = range(6)
"""Codes of msgpack's extensions that name a type: module, name, and what it is made of."""
_METHOD = 3
_TRUSTING = JsonPlusSerializer(allowed_msgpack_modules=None)


def _revived(code: int, data: bytes) -> Any:
    if code not in _NAMED:
        return _trusted(code, data)
    module, name, value, *method = ormsgpack.unpackb(data, ext_hook=_revived, option=ormsgpack.OPT_NON_STR_KEYS)
    known = (
        (module, name, method[0]) in SAFE_MSGPACK_METHODS if code == _METHOD else (module, name) in SAFE_MSGPACK_TYPES
    )
    return _trusted(code, data) if known else Unknown(f"{module}.{name}", value)


def _trusted(code: int, data: bytes) -> Any:
    return _TRUSTING.loads_typed(("msgpack", ormsgpack.packb(ormsgpack.Ext(code, data))))


def careful_serializer() -> SerializerProtocol:
    """LangGraph's serializer, which makes nothing but what LangGraph trusts. Raises `BadInput` for a key that cannot be used."""
    return with_key(JsonPlusSerializer(__unpack_ext_hook__=_revived))


def with_key(serde: SerializerProtocol) -> SerializerProtocol:
    """A serializer that decrypts and encrypts too, if `LANGGRAPH_AES_KEY` is in the environment. Raises `BadInput`."""
    if not os.environ.get(AES_KEY):
        return serde
    try:
        return EncryptedSerializer.from_pycryptodome_aes(serde)
    except (ImportError, ValueError) as error:
        raise BadInput(f"{AES_KEY} is set, and cannot be used: {error}") from error


class Values:
    """Deserializes what is shown."""

    def __init__(self, thread_id: str) -> None:
        self._translator = Translator(careful_serializer())
        self._thread_id = thread_id

    def metadata(self, event: CheckpointSaved) -> Mapping[str, Any]:
        """The metadata of a checkpoint, empty where it cannot be read here."""
        try:
            return self._translator.metadata(self._thread_id, event.checkpoint_id, event.body)
        except (ValueUnreadable, CorruptEntry):
            return {}

    def one(self, channel: str, value: StoredValue | Keyframe) -> Any:
        """A value, or `Unreadable`."""
        try:
            return self._translator.value(self._thread_id, channel, value)
        except ValueUnreadable:
            return Unreadable(value.type, len(value.data), value.data)

    def all(self, stored: StoredCheckpoint) -> dict[str, Any]:
        """The values of a checkpoint, by channel."""
        return {channel: self.one(channel, value) for channel, value in stored.values.items()}

    def changed(
        self, before: StoredCheckpoint | None, after: StoredCheckpoint
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The values of two checkpoints, those left out that were stored as the same bytes."""
        old = {} if before is None else before.values
        held = {
            channel
            for channel, value in after.values.items()
            if channel in old and (old[channel].type, old[channel].data) == (value.type, value.data)
        }
        return (
            {channel: self.one(channel, value) for channel, value in old.items() if channel not in held},
            {channel: self.one(channel, value) for channel, value in after.values.items() if channel not in held},
        )

"""Encrypted values are bound to their format.

LangGraph's `EncryptedSerializer` encrypts a value's bytes, and writes the form beside them in the clear: "bytes+aes". So a
person who can write to Redis could mark the bytes of a caller as an object: "msgpack+aes". Here the encrypted text begins
with its form, and the mark says so: "bytes+bound+aes". The text also begins with a byte that begins no msgpack, JSON or
pickle. So values of LangGraph's own form are read as before, and bound ones are read as nothing else.
"""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

__all__ = ["FormMismatch", "bound"]

_MARK = "+bound+"
_START = b"\xc1form:"
"""The start of every bound text; msgpack never uses its first byte."""
_OF_LANGGRAPH = EncryptedSerializer.dumps_typed, EncryptedSerializer.loads_typed


class FormMismatch(ValueError):
    """An encrypted value's mark names another form than the one that was encrypted."""

    def __init__(self) -> None:
        super().__init__(
            "its mark names another form than the one that was encrypted, so it was altered and not deserialized; restore the "
            "log from an export or a backup"
        )


def bound(serde: SerializerProtocol) -> SerializerProtocol:
    """A serializer that binds forms, for LangGraph's encrypting one; any other serializer as it is."""
    kind = type(serde)
    if isinstance(serde, EncryptedSerializer) and (kind.dumps_typed, kind.loads_typed) == _OF_LANGGRAPH:
        return _Bound(serde.cipher, serde.serde)
    return serde


class _Bound(EncryptedSerializer):
    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        form, data = self.serde.dumps_typed(obj)
        cipher, encrypted = self.cipher.encrypt(_start_of(form) + data)
        return form + _MARK + cipher, encrypted

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        written, encrypted = data
        form, mark, cipher = written.rpartition(_MARK)
        if not mark:
            form, mark, cipher = written.partition("+")
        if not mark:
            return self.serde.loads_typed(data)
        text = self.cipher.decrypt(cipher, encrypted)
        start = _start_of(form) if mark == _MARK else b""
        if not text.startswith(start) or (not start and text.startswith(_START)):
            raise FormMismatch
        return self.serde.loads_typed((form, text[len(start) :]))


def _start_of(form: str) -> bytes:
    return b"%b%b\0" % (_START, form.encode())

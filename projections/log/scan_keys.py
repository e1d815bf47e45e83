"""Reads the names in a view, and shows bytes to people."""

from __future__ import annotations

from eventlog.codec import paired
from eventlog.flow import Call, Flow, load_script

__all__ = ["names_in", "shown"]

VIEW_NAMES = load_script("projections/log/view_names")


def names_in(key: bytes, command: str) -> Flow[dict[bytes, bytes]]:
    """What a hash (`HSCAN`) or sorted set (`ZSCAN`) holds. A round trip per 1000 names."""
    found: dict[bytes, bytes] = {}
    cursor = b"0"
    while True:
        cursor, some = yield Call(VIEW_NAMES, [key], [command, cursor])
        found.update(paired(some))
        if cursor == b"0":
            return found


def shown(value: bytes) -> str:
    """Bytes for people: text as it is, anything else in hex."""
    return value.decode() if value.isascii() and value.decode().isprintable() else value.hex()

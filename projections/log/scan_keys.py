"""Reads the names in a view, and shows bytes to people."""

from __future__ import annotations

from eventlog.codec import paired
from eventlog.flow import Call, Flow, load_script

__all__ = ["names_in", "shown"]

VIEW_NAMES = load_script("projections/log/view_names")


def names_in(key: bytes, command: str) -> Flow[dict[bytes, bytes]]:
    """The fields of a hash (`HSCAN`), or the members of a sorted set (`ZSCAN`).

    With their values, or scores. A round trip per 1,000 names.
    """
    found: dict[bytes, bytes] = {}
    cursor = b""
    while cursor != b"0":
        cursor, some = yield Call(VIEW_NAMES, [key], [command, cursor or b"0"])
        found.update(paired(some))
    return found


def shown(value: bytes) -> str:
    """Bytes for people: printable ASCII as text, anything else in hex."""
    return value.decode() if value.isascii() and value.decode().isprintable() else value.hex()

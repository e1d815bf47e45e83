"""Defines the format of exports: threads with their logs in one file.

    file      Zstandard frames (RFC 8878), one after the other, then a seal. `zstd -d` reads it as one stream.
    content   the frames together: a CBOR sequence (RFC 8742) of maps and arrays without tags, definite lengths only

The items come in this order. The first item, the last item, and all items of a thread have a frame each, with a checksum:

    {"format": "agentlog-export", "version": 1, "created": ms since 1970, "prefix": text, "package": version of the writer}
    for each thread
        {"thread": id, "ends": sequence number of its last entry, "digest": that entry's `d`, "entries": number of entries,
         "runs": [id of each run that wrote checkpoints to it]}
        for each entry of its log, in order, every field as it is stored, `n` and `d` first
            [entry id, [field name, value, field name, value, ...]]         text, byte strings
        {"end": id, "entries": number of entries, "sha256": of the thread's items up to here, 32 bytes}
    {"trailer": number of threads, "sha256": of all items up to here, 32 bytes}

The seal is a skippable frame, which other readers of Zstandard ignore: the bytes 50 2A 4D 18, 20 00 00 00, then the SHA-256 of
the file up to here. It reveals every changed byte, including bytes that decompression does not look at.

A map may have more keys than these. A reader of this version ignores them, and refuses a file of a greater version. The module
`eventlog.events` describes the entries' fields. `projections.integrity.chain` checks that the entries are a whole log, chained by
its digests. Values are as they were stored: encrypted values are encrypted in the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple, Union

__all__ = ["Entry", "Header", "Item", "State", "ThreadEnd", "ThreadHead", "Trailer"]

FORMAT = "agentlog-export"
VERSION = 1
SEAL = b"\x50\x2a\x4d\x18" + (32).to_bytes(4, "little")


class Header(NamedTuple):
    """The first item of a file."""

    created: int
    """Ms since 1970 at which the export began."""
    prefix: str
    package: str
    """Version of the package that wrote it."""


class ThreadHead(NamedTuple):
    """The item before the entries of a thread."""

    thread: str
    sequence: int
    digest: str
    entries: int
    runs: tuple[str, ...] = ()


class Entry(NamedTuple):
    """An entry of a log: its id, and its field names and values in turn."""

    entry_id: bytes
    fields: list[bytes]


class ThreadEnd(NamedTuple):
    """The item after the entries of a thread. It has been checked."""

    thread: str
    entries: int


class Trailer(NamedTuple):
    """The last item of a file. It has been checked."""

    threads: int


Item = Union[Header, ThreadHead, Entry, ThreadEnd, Trailer]


@dataclass
class State:
    """The state of a file after a whole frame, from which writing can continue."""

    offset: int = 0
    """Bytes of the file."""
    threads: int = 0
    items: Any = field(default_factory=sha256)
    """SHA-256 of all items so far."""
    file: Any = field(default_factory=sha256)
    """SHA-256 of the file so far."""

    def copy(self) -> State:
        """An independent copy."""
        return State(self.offset, self.threads, self.items.copy(), self.file.copy())

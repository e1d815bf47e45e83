"""Altering a log as someone would who can write to the server and knows the form of everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eventlog.chain import link
from eventlog.codec import content_digest
from eventlog.events import HistoryPruned, Removed, encode_event
from eventlog.keys import ThreadKeys

Entry = tuple[bytes, list[bytes]]
"""Entry id, and fields and values in turn, `n` and `d` first."""
Tamper = Callable[["Tampering", list[Entry]], list[Entry]]


class Tampering:
    """A thread's log, read and written again with plain commands."""

    def __init__(self, client: Any, keys: ThreadKeys) -> None:
        self.client = client
        self.keys = keys

    def entries(self) -> list[Entry]:
        """What is there."""
        found = self.client.xrange(self.keys.log)
        return [(entry_id, [part for item in fields.items() for part in item]) for entry_id, fields in found]

    def write(self, entries: Sequence[Entry], *, last: bytes | None = None, mend: bool = True) -> None:
        """Puts a log in the place of the one there is: with `last` as the last id the stream gave, the index mended or as it was."""
        self.client.delete(self.keys.log)
        for entry_id, flat in entries:
            self.client.execute_command("XADD", self.keys.log, entry_id, *flat)
        if last is not None:
            self.client.execute_command("XSETID", self.keys.log, last)
        if mend:
            entry_id, flat = entries[-1]
            state = {b"n": flat[1], b"d": flat[3], b"l": entry_id, b"c": b"%d" % len(entries)}
            self.client.hset(self.keys.index, mapping=state)


def chained(entries: Sequence[Entry], *, renumbered: bool = True) -> list[Entry]:
    """The entries with digests that hold, and numbers without a gap."""
    made: list[Entry] = []
    digest, number = b"", 0
    for entry_id, flat in entries:
        number = number + 1 if renumbered else int(flat[1])
        digest = link(digest, entry_id, number, content_digest(flat[4:]))
        made.append((entry_id, [b"n", b"%d" % number, b"d", digest, *flat[4:]]))
    return made


def with_field(entry: Entry, name: bytes, value: bytes) -> Entry:
    """An entry with another value of a field."""
    entry_id, flat = entry
    at = next(at for at in range(0, len(flat), 2) if flat[at] == name)
    return entry_id, [*flat[: at + 1], value, *flat[at + 2 :]]


def bent(entry: Entry) -> Entry:
    """An entry with one bit of its last field but the signature turned."""
    entry_id, flat = entry
    at = max(at for at in range(4, len(flat), 2) if flat[at] != b"g") + 1
    value = flat[at][:-1] + bytes([flat[at][-1] ^ 1])
    return entry_id, [*flat[:at], value, *flat[at + 1 :]]


def own_digest(entry: Entry, previous: bytes) -> Entry:
    """An entry whose digest says what it holds."""
    entry_id, flat = entry
    digest = link(previous, entry_id, int(flat[1]), content_digest(flat[4:]))
    return entry_id, [b"n", flat[1], b"d", digest, *flat[4:]]


def later(entries: Sequence[Entry], ms: int = 1) -> bytes:
    """An id behind the last one."""
    return b"%d-0" % (int(entries[-1][0].partition(b"-")[0]) + ms)


def removal(entries: Sequence[Entry], gone: Sequence[Entry]) -> Entry:
    """A removal that accounts for some entries, made up: chained to the last one there is, and not signed."""
    ranges = tuple((int(flat[1]), int(flat[1]), flat[3].decode()) for _, flat in gone)
    fields = encode_event(HistoryPruned("keep_latest", Removed((), (), ranges)))
    number, entry_id = int(entries[-1][1][1]) + 1, later(entries)
    digest = link(entries[-1][1][3], entry_id, number, content_digest(fields))
    return entry_id, [b"n", b"%d" % number, b"d", digest, *fields]

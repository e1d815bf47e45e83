"""Reads the items of an export, and checks each as far as it can be checked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, NoReturn, TypeVar

from eventlog.errors import ExportUnreadable, OverLimit
from eventlog.limits import Limits, brief
from projections.transfer.format import FORMAT, VERSION, Entry, Header, Item, State, ThreadEnd, ThreadHead, Trailer
from projections.transfer.frames import Frames, Source

__all__ = ["Reader"]

T = TypeVar("T")
ENTRY_ID = re.compile(rb"[0-9]{1,20}-[0-9]{1,20}")
"""The id of an entry of any stream: an export of a damaged log has those that others added, too."""
REMEDIES = {
    "truncated": "Fetch the whole file, or let the export that wrote it come to its end.",
    "foreign": "Name a file that was written by an export.",
    "newer": "Upgrade this package.",
    "damaged": "Fetch the file again from where it was written, or export again.",
}
"""By the reason of an `ExportUnreadable`."""


class Reader:
    """Iterates over the items of a file.

    The end of a thread, and of the file, comes only if all items before it are right. Items of a thread whose end has not come are
    not known to be right. Iterating raises `ExportUnreadable` for a file that is truncated, changed, of a newer version, or no
    export. Memory: a few times the largest entry.

    Args:
        source: the file, from its beginning.
        name: the name of the file in errors.
        limits: the limits on its items and ids.

    """

    def __init__(self, source: Source, name: str = "the export", limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._frames = Frames(source, self._refuse, self._limits)
        self._name = name
        self._now = State()
        self._thread: ThreadHead | None = None
        self.state = State()
        """The state after the last whole thread, or the header."""

    def __iter__(self) -> Iterator[Item]:
        """The items. May be called once."""
        yield self._header()
        while isinstance(item := self._head_or_trailer(), ThreadHead):
            yield item
            yield from self._entries(item)
        yield item

    def _header(self) -> Header:
        self._frames.begin(first=True)
        item, _ = self._map()
        if item.get("format") != FORMAT:
            self._refuse(f"is no export: it does not begin with the format {FORMAT!r}", "foreign")
        version = item.get("version")
        if type(version) is int and version > VERSION:
            self._refuse(f"is of version {version}, this package reads up to {VERSION}", "newer")
        if version != VERSION:
            self._refuse("has a header without a version")
        header = Header(
            self._field(item, "created", int), self._field(item, "prefix", str), self._field(item, "package", str)
        )
        self._end_frame()
        self.state = self._now.copy()
        return header

    def _head_or_trailer(self) -> ThreadHead | Trailer:
        self._frames.begin()
        before = self._now.copy()
        item, raw = self._map()
        if "trailer" in item:
            if item["trailer"] != before.threads or item.get("sha256") != before.items.digest():
                self._refuse("has a trailer that does not match the threads before it")
            self._end_frame()
            self._frames.seal()
            return Trailer(before.threads)
        sequence, entries = self._field(item, "ends", int), self._field(item, "entries", int)
        runs = self._field(item, "runs", list)
        if any(type(run) is not str for run in runs):
            self._refuse("has an item without 'runs'")
        head = ThreadHead(
            self._field(item, "thread", str), sequence, self._field(item, "digest", str), entries, tuple(runs)
        )
        self._limits.check_ids([("thread", head.thread), *(("run_id", run) for run in runs)], f"{self._name}: ")
        self._thread = head
        self._digest = sha256(raw)
        return head

    def _entries(self, head: ThreadHead) -> Iterator[Item]:
        found = 0
        item, raw = self._next()
        while type(item) is not dict:
            self._digest.update(raw)
            found += 1
            if found > head.entries:
                self._refuse(f"has more entries of it than the {head.entries} that it names")
            yield self._entry(item)
            item, raw = self._next()
        if item.get("end") != head.thread or item.get("entries") != found or found != head.entries:
            self._refuse(f"has {found} entries of it, not the {head.entries} that it names")
        if item.get("sha256") != self._digest.digest():
            self._refuse("has entries of it that were changed")
        self._now.threads += 1
        self._end_frame()
        self.state = self._now.copy()
        self._thread = None
        yield ThreadEnd(head.thread, found)

    def _entry(self, item: Any) -> Entry:
        shape = [type(part) for part in item] if type(item) is list else []
        if shape != [str, list] or len(item[1]) % 2 or not {*map(type, item[1])} <= {bytes}:
            self._refuse("has an entry of another shape than this package writes")
        try:
            entry_id = item[0].encode()
        except ValueError as error:
            self._refuse(str(error))
        if not ENTRY_ID.fullmatch(entry_id):
            self._refuse("has an entry under an id that no stream gives")
        return Entry(entry_id, item[1])

    def _next(self) -> tuple[Any, bytes]:
        """The next item of the frame, decoded and as bytes."""
        item, raw = self._frames.item()
        self._now.items.update(raw)
        return item, raw

    def _map(self) -> tuple[Mapping[str, Any], bytes]:
        item, raw = self._next()
        if type(item) is not dict:
            reason = "damaged" if self.state.offset else "foreign"
            self._refuse("is no export: it has something else where a map should be", reason)
        return item, raw

    def _end_frame(self) -> None:
        self._frames.end()
        self._now.offset, self._now.file = self._frames.offset, self._frames.digest

    def _field(self, item: Mapping[str, Any], name: str, kind: type[T]) -> T:
        found = item.get(name)
        if type(found) is not kind or (isinstance(found, int) and not 0 <= found < 2**63):
            self._refuse(f"has an item without {name!r}")
        return found

    def _refuse(self, problem: str, reason: str = "damaged") -> NoReturn:
        where = f"at byte {self._frames.offset:,}"
        if self._thread is not None:
            where += f", thread {brief(self._thread.thread)}"
        if reason == "limit":
            raise OverLimit(f"{self._name} ({where}) {problem}.")
        raise ExportUnreadable(f"{self._name} ({where}) {problem}. {REMEDIES[reason]}", reason)

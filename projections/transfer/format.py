"""The format of exports: threads with their logs, entry by entry, in one file.

    file      Zstandard frames (RFC 8878), one behind the other, then a seal. `zstd -d` reads it as one stream.
    content   what the frames hold together: a CBOR sequence (RFC 8742) of maps and arrays without tags, definite lengths only

The items, in this order; the first, the last, and all of a thread have a frame of their own, with a checksum:

    {"format": "agentlog-export", "version": 1, "created": ms since 1970, "prefix": text, "package": version of the writer}
    for each thread
        {"thread": id, "ends": sequence number of its last entry, "digest": that entry's `d`, "entries": number of entries,
         "runs": [id of each run that wrote checkpoints to it]}
        for each entry of its log, in order, every field as it is stored, `n` and `d` first
            [entry id, [field name, value, field name, value, ...]]         text, byte strings
        {"end": id, "entries": number of entries, "sha256": of the thread's items up to here, 32 bytes}
    {"trailer": number of threads, "sha256": of all items up to here, 32 bytes}

The seal is a skippable frame, which other readers of Zstandard leave out: the bytes 50 2A 4D 18, 20 00 00 00, then the SHA-256 of
the file up to here. So any byte that was changed is noticed, also one that decompression does not look at.

A map may have more keys than these, which a reader of this version ignores. A file of a greater version is refused. What the
entries' fields mean is told in `eventlog.events`; that they are a whole log, chained by its digests, is checked by
`projections.integrity.chain`. Values stay as they were stored, encrypted ones encrypted.

Nothing here opens a file: `Encoder` gives the bytes to be written, `Reader` reads from whatever has `read`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple, NoReturn, Protocol, Union

import zstandard

from eventlog import codec
from eventlog.errors import ExportUnreadable
from eventlog.events import entry_ms

__all__ = [
    "FORMAT",
    "VERSION",
    "Encoder",
    "Entry",
    "Header",
    "Item",
    "Reader",
    "Source",
    "ThreadEnd",
    "ThreadHead",
    "Trailer",
]

FORMAT = "agentlog-export"
VERSION = 1
LEVEL = 3
"""Of compression."""
MAGIC = b"\x28\xb5\x2f\xfd"
SEAL = b"\x50\x2a\x4d\x18" + (32).to_bytes(4, "little")
CHUNK = 4096
"""Bytes of a file that are decompressed at once: at most some 128 MiB come of them, mostly some KiB."""
LARGEST = 2**31
"""Bytes of one item: more than a server takes for one entry."""


class Header(NamedTuple):
    """What a file begins with."""

    created: int
    """Ms since 1970 at which the export began."""
    prefix: str
    package: str
    """Version of the package that wrote it."""


class ThreadHead(NamedTuple):
    """What the entries of a thread begin with."""

    thread: str
    sequence: int
    digest: str
    entries: int
    runs: tuple[str, ...] = ()


class Entry(NamedTuple):
    """An entry of a log: its id, and its fields and values in turn."""

    entry_id: bytes
    fields: list[bytes]


class ThreadEnd(NamedTuple):
    """What the entries of a thread end with; it has been checked."""

    thread: str
    entries: int


class Trailer(NamedTuple):
    """What a file ends with; it has been checked."""

    threads: int


Item = Union[Header, ThreadHead, Entry, ThreadEnd, Trailer]


class Source(Protocol):
    """What a file is read from."""

    def read(self, size: int, /) -> bytes:
        """Some bytes, at most `size`; none at the end."""
        ...


@dataclass
class State:
    """How far a file goes that is whole up to here."""

    offset: int = 0
    """Bytes of the file."""
    threads: int = 0
    items: Any = field(default_factory=sha256)
    """Digest so far of all items."""
    file: Any = field(default_factory=sha256)
    """Digest so far of the file."""

    def copy(self) -> State:
        """One that does not go on with this."""
        return State(self.offset, self.threads, self.items.copy(), self.file.copy())


class Encoder:
    """Gives the bytes of a file, in order. A thread that has begun can be taken back: then what came of it is cut off the file.

    Args:
        state: that of a file which is to be continued (`Reader.state`).

    """

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()
        """Behind the last whole frame."""
        self._now = self.state.copy()
        self._thread: Any = sha256()
        self._entries = 0
        self._frame: Any = None
        self._head: ThreadHead | None = None

    def header(self, header: Header) -> bytes:
        """The beginning of a file."""
        named = {"created": header.created, "prefix": header.prefix, "package": header.package}
        return self._close(self._item({"format": FORMAT, "version": VERSION, **named}))

    def begin(self, head: ThreadHead) -> bytes:
        """The beginning of a thread."""
        self._head, self._thread, self._entries = head, sha256(), 0
        thread, sequence, digest, entries, runs = head
        named = {"thread": thread, "ends": sequence, "digest": digest, "entries": entries, "runs": list(runs)}
        return self._item(named)

    def entry(self, entry: Entry) -> bytes:
        """An entry of the thread that has begun; nothing where it is kept until more comes."""
        self._entries += 1
        return self._item([entry.entry_id.decode(), entry.fields])

    def end(self) -> bytes:
        """The end of the thread that has begun."""
        assert self._head is not None
        named = {"end": self._head.thread, "entries": self._entries, "sha256": self._thread.digest()}
        made = self._item(named)
        self._now.threads += 1
        self._head = None
        return self._close(made)

    def undo(self) -> int:
        """Takes the thread that has begun back; the length that the file is to be cut to."""
        self._now, self._frame, self._head = self.state.copy(), None, None
        return self.state.offset

    def trailer(self) -> bytes:
        """The end of a file."""
        made: bytes = self._close(self._item({"trailer": self._now.threads, "sha256": self._now.items.digest()}))
        return b"%b%b%b" % (made, SEAL, self._now.file.digest())

    def _item(self, item: object) -> bytes:
        encoded = codec.encode(item)
        self._now.items.update(encoded)
        self._thread.update(encoded)
        if self._frame is None:
            compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=False)
            self._frame = compressor.compressobj()
        return self._written(self._frame.compress(encoded))

    def _close(self, made: bytes) -> bytes:
        made += self._written(self._frame.flush())
        self._frame = None
        self.state = self._now.copy()
        return made

    def _written(self, made: bytes) -> bytes:
        self._now.file.update(made)
        self._now.offset += len(made)
        return made


class Reader:
    """Reads the items of a file, each checked as far as it can be; the end of a thread and of the file once all before them is.

    Args:
        source: the file, from its beginning.
        name: how errors call it.

    Iterating raises `ExportUnreadable` for a file that is truncated, changed, of a newer version or no export.
    Memory: the largest entry, some times over. What is read before the end of its thread has come is not known to be right.

    """

    def __init__(self, source: Source, name: str = "the export") -> None:
        self._frames = _Frames(source, self._refuse)
        self._name = name
        self._now = State()
        self._thread: ThreadHead | None = None
        self.state = State()
        """Behind the last whole thread, or the header."""

    def __iter__(self) -> Iterator[Item]:
        """The items. May be called once."""
        yield self._header()
        while isinstance(item := self._begin(), ThreadHead):
            yield item
            yield from self._rest_of(item)
        yield item

    def _header(self) -> Header:
        self._frames.begin(first=True)
        item = self._mapped(self._next())
        if item.get("format") != FORMAT:
            self._refuse(f"is no export: it does not begin with the format {FORMAT!r}", "foreign")
        version = item.get("version")
        if type(version) is int and version > VERSION:
            self._refuse(f"is of version {version}, this package reads up to {VERSION}", "newer")
        if version != VERSION:
            self._refuse("has a header without a version")
        header = Header(self._int(item, "created"), self._text(item, "prefix"), self._text(item, "package"))
        self._end_frame()
        return header

    def _begin(self) -> ThreadHead | Trailer:
        self._frames.begin()
        before, threads = self._now.items.digest(), self._now.threads
        raw = self._next()
        item = self._mapped(raw)
        if "trailer" in item:
            if item["trailer"] != threads or item.get("sha256") != before:
                self._refuse("has a trailer that is not that of the threads before it")
            self._end_frame(seals=True)
            return Trailer(threads)
        runs = item.get("runs")
        if type(runs) is not list or any(type(run) is not str for run in runs):
            self._refuse("has a thread without its runs")
        numbers = self._int(item, "ends"), self._int(item, "entries")
        head = ThreadHead(self._text(item, "thread"), numbers[0], self._text(item, "digest"), numbers[1], tuple(runs))
        self._thread = head
        self._digest = sha256(raw)
        return head

    def _rest_of(self, head: ThreadHead) -> Iterator[Item]:
        found = 0
        while True:
            before = self._digest.digest()
            raw = self._next()
            item = self._decoded(raw)
            if type(item) is dict:
                break
            self._digest.update(raw)
            found += 1
            if found > head.entries:
                self._refuse(f"has more entries of it than the {head.entries} that it names")
            yield self._entry(item)
        if item.get("end") != head.thread or item.get("entries") != found or found != head.entries:
            self._refuse(f"has {found} entries of it, not the {head.entries} that it names")
        if item.get("sha256") != before:
            self._refuse("has entries of it that were changed")
        self._now.threads += 1
        self._end_frame()
        self._thread = None
        yield ThreadEnd(head.thread, found)

    def _entry(self, item: object) -> Entry:
        if type(item) is not list or [type(part) for part in item] != [str, list]:
            self._refuse("has an entry of another shape than this package writes")
        entry_id, fields = item
        if len(fields) % 2 or any(type(part) is not bytes for part in fields):
            self._refuse("has an entry of another shape than this package writes")
        try:
            entry_ms(entry_id.encode())
        except ValueError as error:  # of text without UTF-8 too
            self._refuse(str(error))
        return Entry(entry_id.encode(), fields)

    def _next(self) -> bytes:
        raw = self._frames.item()
        if raw is None:
            self._refuse("has a frame that ends too early")
        self._now.items.update(raw)
        return raw

    def _end_frame(self, *, seals: bool = False) -> None:
        self._frames.end()
        if seals:
            self._frames.seal()
        self._now.offset, self._now.file = self._frames.offset, self._frames.digest
        if not seals:
            self.state = self._now.copy()

    def _decoded(self, raw: bytes) -> Any:
        try:
            return codec.decode(raw)
        except codec.Malformed as error:
            self._refuse(str(error))

    def _mapped(self, raw: bytes) -> Mapping[str, Any]:
        item = self._decoded(raw)
        if type(item) is not dict:
            self._refuse(
                "is no export: it has something else where a map should be",
                "damaged" if self.state.offset else "foreign",
            )
        return item

    def _int(self, item: Mapping[str, Any], name: str) -> int:
        found = item.get(name)
        if type(found) is not int or not 0 <= found < 2**63:
            self._refuse(f"has an item without {name!r}")
        return found

    def _text(self, item: Mapping[str, Any], name: str) -> str:
        found = item.get(name)
        if type(found) is not str:
            self._refuse(f"has an item without {name!r}")
        return found

    def _refuse(self, what: str, reason: str = "damaged") -> NoReturn:
        where = f"at byte {self._frames.offset:,}"
        if self._thread is not None:
            where += f", thread {self._thread.thread!r}"
        raise ExportUnreadable(f"{self._name} ({where}) {what}. {REMEDIES[reason]}", reason)


REMEDIES = {
    "truncated": "Fetch the whole file, or let the export that wrote it come to its end.",
    "foreign": "Name a file that was written by an export.",
    "newer": "Upgrade this package.",
    "damaged": "Fetch the file again from where it was written, or export again.",
}


class _Frames:
    """The frames of a file, and the items in each."""

    def __init__(self, source: Source, refuse: Any) -> None:
        self._source = source
        self._refuse = refuse
        self._unread = b""
        self._frame: Any = None
        self._out = bytearray()
        self._at = 0
        self.offset = 0
        """Bytes of the file that were looked at."""
        self.digest = sha256()
        """Of these."""

    def begin(self, *, first: bool = False) -> None:
        """Begins the next frame."""
        magic = self._ahead(4)
        if first and magic != MAGIC[: len(magic)]:
            self._refuse("is no export: it is not compressed with Zstandard", "foreign")
        if len(magic) < 4:
            self._refuse("is empty" if first and not magic else "ends too early", "truncated")
        if magic != MAGIC:
            self._refuse("goes on with something else than its next thread")
        self._frame = zstandard.ZstdDecompressor().decompressobj()

    def item(self) -> bytes | None:
        """The bytes of the next item of the frame; None at its end."""
        if self._at > CHUNK:
            del self._out[: self._at]
            self._at = 0
        wanted = 1
        while True:
            held = len(self._out) - self._at
            if held < wanted and self._more():
                continue
            if not held:
                return None
            size = self._size_of_item()
            if size > LARGEST:
                self._refuse("has an item that is larger than any entry can be")
            if size <= held:
                self._at += size
                return bytes(memoryview(self._out)[self._at - size : self._at])
            if self._frame is None:
                self._refuse("has a frame that ends within an item")
            wanted = max(size, held * 3 // 2)

    def end(self) -> None:
        """Ends the frame. Refuses one that has more items."""
        while self._more():
            pass
        if len(self._out) > self._at:
            self._refuse("has more in a frame than belongs there")
        self._out.clear()
        self._at = 0

    def seal(self) -> None:
        """Reads the seal, behind which the file ends."""
        digest = self.digest.digest()
        found = self._ahead(len(SEAL) + 33)
        if len(found) < len(SEAL) + 32:
            self._refuse("ends too early", "truncated")
        if found != SEAL + digest:
            self._refuse("was changed: its seal is not that of what comes before")
        self._take(self._unread)
        self._unread = b""

    def _more(self) -> bool:
        """Decompresses some more; False if the frame has ended."""
        if self._frame is None:
            return False
        chunk = self._unread or self._source.read(CHUNK)
        if not chunk:
            self._refuse("ends too early", "truncated")
        try:
            self._out += self._frame.decompress(chunk)
        except zstandard.ZstdError as error:
            self._refuse(f"cannot be decompressed: {error}")
        self._unread = b""
        if self._frame.eof:
            self._unread = self._frame.unused_data
            self._frame = None
        self._take(chunk[: len(chunk) - len(self._unread)])
        return True

    def _take(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.offset += len(chunk)

    def _ahead(self, size: int) -> bytes:
        while len(self._unread) < size and (more := self._source.read(CHUNK)):
            self._unread += more
        return self._unread[:size]

    def _size_of_item(self) -> int:
        """Bytes of the item at hand; more than are held, where that is all that is known of it."""
        data, begin, length, left = self._out, self._at, len(self._out), 1
        at = begin
        while left:
            left -= 1
            if at >= length:
                return at + 1 - begin
            head = data[at]
            at += 1
            major, number = head >> 5, head & 31
            if number >= 24:
                if number > 27:
                    self._refuse("is not CBOR of definite lengths")
                size = 1 << (number - 24)
                number = int.from_bytes(data[at : at + size], "big")
                at += size
                if at > length:
                    return at - begin
            if major in (2, 3):
                at += number
            elif major == 4:
                left += number
            elif major == 5:
                left += 2 * number
            elif major == 6:
                self._refuse("holds a CBOR tag, which this package never writes")
        return at - begin

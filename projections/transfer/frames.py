"""Decompresses the frames of an export, and decodes the items in them."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, NoReturn, Protocol

import zstandard

from eventlog.codec import Malformed, decode, end_of_item
from eventlog.limits import SPARE, Limits
from projections.transfer.format import SEAL

__all__ = ["Frames", "Source"]

MAGIC = b"\x28\xb5\x2f\xfd"
"""The first bytes of a Zstandard frame."""
CHUNK = 512
"""Bytes of a file that are decompressed at once. They become 16 MiB at most, and usually some KiB."""
WINDOW = 8 * 1024 * 1024
"""Most bytes of what came before that a frame may refer to. This project writes 2 MiB."""
MOST_PARTS = 2**20
"""Most data items in an item of the file: an object in memory is far larger than a byte of CBOR."""


class Source(Protocol):
    """Something that a file is read from."""

    def read(self, size: int, /) -> bytes:
        """Returns at most `size` bytes, none at the end."""
        ...


class Frames:
    """The frames of a file, in order.

    An item is decoded when all its bytes were found, and no more than its limits allow.
    """

    def __init__(self, source: Source, refuse: Callable[..., NoReturn], limits: Limits) -> None:
        self._source = source
        self._refuse = refuse
        self._limits = limits
        self._unread = b""
        """Bytes of the file that were read, and neither decompressed nor hashed."""
        self._frame: Any = None
        """The decompressor, None after the end of the frame."""
        self._content = bytearray()
        """Content of the frame from the current item on."""
        self._at = 0
        """Bytes of it that belong to the item."""
        self._expanded = 0
        """Bytes of all frames so far."""
        self.offset = 0
        """Bytes of the file that were hashed."""
        self.digest = sha256()
        """Their hash."""

    def begin(self, *, first: bool = False) -> None:
        """Begins the next frame."""
        magic = self._ahead(4)
        if first and magic != MAGIC[: len(magic)]:
            self._refuse("is no export: it is not compressed with Zstandard", "foreign")
        if len(magic) < 4:
            self._refuse("is empty" if first and not magic else "ends too early", "truncated")
        if magic != MAGIC:
            self._refuse("has other data where the next thread should begin")
        self._frame = zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj()

    def item(self) -> tuple[Any, bytes]:
        """The next item of the frame, decoded and as bytes."""
        del self._content[: self._at]
        self._at = 0
        try:
            self._at = end_of_item(self._ahead_in_frame, MOST_PARTS)
            raw = bytes(memoryview(self._content)[: self._at])
            return decode(raw), raw
        except Malformed as error:
            self._refuse(str(error))

    def _ahead_in_frame(self, end: int) -> bytearray:
        """The content of the frame from the item on, as far as `end` and perhaps farther.

        Refuses a frame that is shorter, and an item that is longer than an entry may be.
        """
        while len(self._content) < end:
            if len(self._content) > self._limits.entry_bytes:
                break
            if not self._more():
                raise Malformed("is not CBOR: it ends within an item")
        if end > self._limits.entry_bytes:
            self._over(f"has an item of {end:,} bytes", self._limits.entry_bytes, "entry_bytes", end)
        return self._content

    def end(self) -> None:
        """Ends the frame. Refuses a frame that has more items."""
        while len(self._content) <= self._at and self._more():
            pass
        if len(self._content) > self._at:
            self._refuse("has more in a frame than belongs there")
        self._content.clear()
        self._at = 0

    def seal(self) -> None:
        """Checks the seal, after which the file has to end."""
        expected = SEAL + self.digest.digest()
        found = self._ahead(len(expected) + 1)
        if len(found) < len(expected):
            self._refuse("ends too early", "truncated")
        if found != expected:
            self._refuse("was changed: its seal does not match the content")
        self._hash(found)
        self._unread = b""

    def _more(self) -> bool:
        """Decompresses one more chunk; False if the frame has ended."""
        if self._frame is None:
            return False
        chunk = self._unread or self._source.read(CHUNK)
        if not chunk:
            self._refuse("ends too early", "truncated")
        try:
            made = self._frame.decompress(chunk)
        except zstandard.ZstdError as error:
            self._refuse(f"cannot be decompressed: {error}")
        self._content += made
        self._expanded += len(made)
        read = self.offset + len(chunk)
        most = SPARE + self._limits.expansion * read
        if self._expanded > most:
            needed = -(-self._expanded // read)
            self._over(f"has {self._expanded:,} bytes in its first {read:,}", most, "expansion", needed)
        self._unread = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = None
        self._hash(chunk[: len(chunk) - len(self._unread)])
        return True

    def _over(self, what: str, limit: int, setting: str, needed: int) -> NoReturn:
        given = f"{setting}={needed}"
        trust = f"If you trust the file, raise the limit: limits=Limits({given}), or agentlog --limits {given}"
        self._refuse(f"{what}, above the limit of {limit:,}. Nothing was imported. {trust}", "limit")

    def _hash(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.offset += len(chunk)

    def _ahead(self, size: int) -> bytes:
        """At most `size` bytes of the file, which stay unread."""
        while len(self._unread) < size and (more := self._source.read(CHUNK)):
            self._unread += more
        return self._unread[:size]

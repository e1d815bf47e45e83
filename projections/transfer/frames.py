"""Decompresses the frames of an export, and decodes the items in them."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, NoReturn, Protocol

import zstandard

from eventlog.codec import Malformed, decode_next
from projections.transfer.format import SEAL

__all__ = ["Frames", "Source"]

MAGIC = b"\x28\xb5\x2f\xfd"
"""The first bytes of a Zstandard frame."""
CHUNK = 4096
"""Bytes of a file that are decompressed at once. They become 128 MiB at most, and usually some KiB."""
LARGEST = 2**31
"""Most bytes of an item: more than a server takes for one entry."""


class Source(Protocol):
    """Something that a file is read from."""

    def read(self, size: int, /) -> bytes:
        """Returns at most `size` bytes, none at the end."""
        ...


class Frames:
    """The frames of a file, in order.

    To the CBOR decoder it is a file that has the content of the current frame.
    """

    def __init__(self, source: Source, refuse: Callable[..., NoReturn]) -> None:
        self._source = source
        self._refuse = refuse
        self._unread = b""
        """Bytes of the file that were read, and neither decompressed nor hashed."""
        self._frame: Any = None
        """The decompressor, None after the end of the frame."""
        self._content = bytearray()
        """Content of the frame from the current item on."""
        self._at = 0
        """Bytes of it that the decoder has read."""
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
        self._frame = zstandard.ZstdDecompressor().decompressobj()

    def item(self) -> tuple[Any, bytes]:
        """The next item of the frame, decoded and as bytes."""
        del self._content[: self._at]
        self._at = 0
        try:
            item = decode_next(self)
        except Malformed as error:
            self._refuse(str(error))
        return item, bytes(self._content[: self._at])

    def end(self) -> None:
        """Ends the frame. Refuses a frame that has more items."""
        while self._more():
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

    def readable(self) -> bool:
        """Part of the interface of a file."""
        return True

    def seekable(self) -> bool:
        """Part of the interface of a file: the decoder returns bytes that it read ahead."""
        return True

    def seek(self, offset: int, whence: int) -> int:
        """Part of the interface of a file: moves back over bytes that were read ahead."""
        assert whence == 1
        self._at += offset
        return self._at

    def read(self, size: int) -> bytes:
        """Part of the interface of a file: `size` bytes of the frame, fewer at its end."""
        while len(self._content) < self._at + size and self._more():
            pass
        data = bytes(self._content[self._at : self._at + size])
        self._at += len(data)
        return data

    def _more(self) -> bool:
        """Decompresses one more chunk; False if the frame has ended."""
        if self._frame is None:
            return False
        chunk = self._unread or self._source.read(CHUNK)
        if not chunk:
            self._refuse("ends too early", "truncated")
        try:
            self._content += self._frame.decompress(chunk)
        except zstandard.ZstdError as error:
            self._refuse(f"cannot be decompressed: {error}")
        if len(self._content) > LARGEST:
            self._refuse("has an item that is larger than any entry can be")
        self._unread = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = None
        self._hash(chunk[: len(chunk) - len(self._unread)])
        return True

    def _hash(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.offset += len(chunk)

    def _ahead(self, size: int) -> bytes:
        """At most `size` bytes of the file, which stay unread."""
        while len(self._unread) < size and (more := self._source.read(CHUNK)):
            self._unread += more
        return self._unread[:size]

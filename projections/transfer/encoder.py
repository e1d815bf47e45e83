"""Encodes the items of an export as the bytes of a file. Pure."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import zstandard

from eventlog import codec
from projections.transfer.format import FORMAT, SEAL, VERSION, Entry, Header, State, ThreadHead

__all__ = ["Encoder"]

LEVEL = 3
"""Level of compression."""
SPARE, RATIO = 2**20, 100
"""Bytes, and times the bytes of the file so far, beyond which content is compressed in short blocks.

Content that repeats itself, such as one state in a thousand sends, can become some thousand times shorter. A reader would take
such a file for a bomb. A block takes four bytes at least, so short ones keep the file within the default `Limits`.
"""
SHORT = 512
"""Bytes of content in a short block."""
AT_ONCE = 64 * 1024
"""Bytes of content that are compressed in one way or the other."""


class Encoder:
    """Returns the bytes of a file, item by item.

    A thread that has no end yet can be undone.

    Args:
        state: the state of a file that is to be continued (`Reader.state`).

    """

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()
        """The state after the last whole frame."""
        self._now = self.state.copy()
        self._thread: Any = sha256()
        self._entries = 0
        self._frame: Any = None
        self._head: ThreadHead | None = None
        self._expanded = RATIO * self.state.offset
        """Bytes of content so far; in a file that is continued, as many as it may have."""

    def header(self, header: Header) -> bytes:
        """Begins a file."""
        return self._close(self._item({"format": FORMAT, "version": VERSION, **header._asdict()}))

    def begin(self, head: ThreadHead) -> bytes:
        """Begins a thread."""
        self._head, self._thread, self._entries = head, sha256(), 0
        thread, sequence, digest, entries, runs = head
        return self._item(
            {"thread": thread, "ends": sequence, "digest": digest, "entries": entries, "runs": list(runs)}
        )

    def entry(self, entry: Entry) -> bytes:
        """Adds an entry to the thread.

        The bytes are empty while the compressor waits for more.
        """
        self._entries += 1
        return self._item([entry.entry_id.decode(), entry.fields])

    def end(self) -> bytes:
        """Ends the thread."""
        assert self._head is not None
        made = self._item({"end": self._head.thread, "entries": self._entries, "sha256": self._thread.digest()})
        self._now.threads += 1
        self._head = None
        return self._close(made)

    def undo(self) -> int:
        """Undoes the current thread, and returns the length to cut the file to."""
        self._now, self._frame, self._head = self.state.copy(), None, None
        self._expanded = RATIO * self.state.offset
        return self.state.offset

    def trailer(self) -> bytes:
        """Ends a file."""
        made = self._close(self._item({"trailer": self._now.threads, "sha256": self._now.items.digest()}))
        return b"".join((made, SEAL, self._now.file.digest()))

    def _item(self, item: object) -> bytes:
        encoded = codec.encode(item)
        self._now.items.update(encoded)
        self._thread.update(encoded)
        if self._frame is None:
            compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=False)
            self._frame = compressor.compressobj()
        return b"".join(self._compressed(encoded[at : at + AT_ONCE]) for at in range(0, len(encoded), AT_ONCE))

    def _compressed(self, content: bytes) -> bytes:
        self._expanded += len(content)
        if self._expanded <= SPARE + RATIO * self._now.offset:
            return self._written(self._frame.compress(content))
        made: list[bytes] = []
        for at in range(0, len(content), SHORT):
            made += (
                self._frame.compress(content[at : at + SHORT]),
                self._frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK),
            )
        return self._written(b"".join(made))

    def _close(self, made: bytes) -> bytes:
        made += self._written(self._frame.flush())
        self._frame = None
        self.state = self._now.copy()
        return made

    def _written(self, made: bytes) -> bytes:
        self._now.file.update(made)
        self._now.offset += len(made)
        return made

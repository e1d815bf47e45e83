"""Writes and reads files of exports.

A file has another name until it is whole. It is read item by item.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import BinaryIO, NamedTuple, Union

from eventlog.errors import ExportUnreadable, FileTaken, OverLimit
from eventlog.flow import Flow, blocking
from eventlog.limits import Limits
from projections.transfer.encoder import Encoder
from projections.transfer.format import Entry, Header, Item, State, ThreadEnd, ThreadHead
from projections.transfer.reader import Reader

try:
    import fcntl
except ImportError:  # pragma: no cover - on Windows; without such locks, two exports to one file at once go unnoticed
    fcntl = None  # type: ignore[assignment]

__all__ = ["ExportFile", "Name", "PartFile", "WrittenThread", "read_file"]

Name = Union[str, "PathLike[str]"]


class WrittenThread(NamedTuple):
    """A thread that a part has whole."""

    head: ThreadHead
    state: State
    """The state of the part after the thread."""


class PartFile(ABC):
    """A file for the entries of threads that has a suffix after its path until it is whole and on the disk.

    Each thread has `begin`, `entries` any number of times, and `end`, or instead of the last `undo`.

    Args:
        path: the path of the file.
        overwrite: whether an existing file is replaced.
        ending: the suffix.

    """

    def __init__(self, path: Name, *, overwrite: bool, ending: str = ".part") -> None:
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ending)
        self._overwrite = overwrite
        self._file: BinaryIO | None = None

    def check(self) -> None:
        """Raises `FileTaken` if the file exists and must not be replaced."""
        if self.path.is_dir():
            raise FileTaken(f"{str(self.path)!r} is a directory. Name a file.")
        if not self._overwrite and os.path.lexists(self.path):
            raise FileTaken(
                f"File {str(self.path)!r} exists already. Name another, move it away, or have an export replace it: --force, "
                "overwrite=True."
            )

    def open_part(self) -> BinaryIO:
        """Opens the part, which may have content.

        Raises `FileTaken` if another process writes it.
        """
        file = self.part.open("r+b" if self.part.exists() else "x+b")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise FileTaken(
                f"File {str(self.part)!r} is being written by another process. Wait for it to end, or name another file."
            ) from error
        self._file = file
        return file

    @abstractmethod
    def open_written(self) -> list[WrittenThread]:
        """Opens the part, and returns the threads that it has whole, in order.

        Raises `FileTaken` if the part is not the part of an export.
        """

    @abstractmethod
    def resume(self, kept: Sequence[WrittenThread]) -> None:
        """Continues after the threads that the part begins with, if any are kept."""

    @abstractmethod
    def begin(self, head: ThreadHead) -> None:
        """Begins a thread."""

    @abstractmethod
    def entries(self, entries: Sequence[Entry]) -> Flow[None]:
        """Adds entries to the thread."""

    @abstractmethod
    def end(self) -> None:
        """Ends the thread."""

    @abstractmethod
    def undo(self) -> None:
        """Removes what was written since the last end of a thread."""

    def write(self, data: bytes) -> None:
        """Appends bytes."""
        assert self._file is not None
        self._file.write(data)

    def cut(self, size: int) -> None:
        """Cuts the part to a length."""
        assert self._file is not None
        self._file.flush()
        self._file.truncate(size)
        self._file.seek(size)

    def finish(self) -> None:
        """Renames the part to the file after all of it is on the disk."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self.check()
        self.part.replace(self.path)
        self.close()
        with suppress(OSError):  # some systems do not open directories
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def close(self) -> None:
        """Closes the part and leaves it on the disk."""
        if self._file is not None:
            self._file.close()
            self._file = None


class ExportFile(PartFile):
    """An export that is being written.

    Args:
        path: the path of the file.
        header: the header of the export; an export that is continued keeps its own.
        overwrite: whether an existing file is replaced.
        unchecked: whether logs are written unchecked; an export that checks them does not continue such a part.

    """

    def __init__(self, path: Name, header: Header, *, overwrite: bool, unchecked: bool) -> None:
        super().__init__(path, overwrite=overwrite, ending=".damaged.part" if unchecked else ".part")
        self._header = header
        self._encoder = Encoder()

    def open_written(self) -> list[WrittenThread]:  # noqa: D102
        file = self.open_part()
        reader = Reader(file, f"File {str(self.part)!r}")
        found: list[WrittenThread] = []
        try:
            for item in reader:
                if isinstance(item, Header) and item.prefix != self._header.prefix:
                    return []
                if isinstance(item, ThreadHead):
                    head = item
                elif isinstance(item, ThreadEnd):
                    found.append(WrittenThread(head, reader.state))
        except OverLimit:  # an export of values that shrink much: it is written again from there on
            pass
        except ExportUnreadable as error:
            if error.reason in ("foreign", "newer"):
                raise FileTaken(
                    f"File {str(self.part)!r}, which is to become the export, exists and has something else in it. Move it away, "
                    "or name another file."
                ) from error
        return found

    def resume(self, kept: Sequence[WrittenThread]) -> None:  # noqa: D102
        state = kept[-1].state if kept else State()
        self._encoder = Encoder(state)
        self.cut(state.offset)
        if not kept:
            self.write(self._encoder.header(self._header))

    def begin(self, head: ThreadHead) -> None:  # noqa: D102
        self.write(self._encoder.begin(head))

    def entries(self, entries: Sequence[Entry]) -> Flow[None]:  # noqa: D102
        yield from blocking(lambda: self.write(b"".join(map(self._encoder.entry, entries))))

    def end(self) -> None:  # noqa: D102
        self.write(self._encoder.end())

    def undo(self) -> None:  # noqa: D102
        self.cut(self._encoder.undo())

    def finish(self) -> None:
        """Ends the export, and renames the part to the file."""
        self.write(self._encoder.trailer())
        super().finish()


def read_file(path: Name, limits: Limits | None = None) -> Generator[Item]:
    """Reads the items of an export, each checked as far as it can be checked.

    Raises `ExportUnreadable`, `OverLimit`, and OSError.
    """
    with Path(path).open("rb") as file:
        yield from Reader(file, f"File {str(path)!r}", limits)

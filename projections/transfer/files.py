"""Files of exports on a disk: written beside their place and put there whole, and read back item by item."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import BinaryIO, NamedTuple, Union

from eventlog.errors import ExportUnreadable, FileTaken
from projections.transfer.encoder import Encoder
from projections.transfer.format import Entry, Header, Item, State, ThreadEnd, ThreadHead
from projections.transfer.reader import Reader

try:
    import fcntl
except ImportError:  # where there is no such lock, two exports to one file at once are not noticed
    fcntl = None  # type: ignore[assignment]

__all__ = ["ExportFile", "PartFile", "read_file"]

Name = Union[str, "PathLike[str]"]


class PartFile:
    """A file that comes to be: written as its path with ".part" behind it, and renamed once it is whole and on the disk.

    Args:
        path: of the file.
        overwrite: whether one that is there is replaced.
        ending: what stands behind the path until then.

    """

    def __init__(self, path: Name, *, overwrite: bool, ending: str = ".part") -> None:
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ending)
        self._overwrite = overwrite
        self._file: BinaryIO | None = None

    def check(self) -> None:
        """Raises `FileTaken` if the file is there and is not to be replaced."""
        if self.path.is_dir():
            raise FileTaken(f"{str(self.path)!r} is a directory. Name a file.")
        if not self._overwrite and os.path.lexists(self.path):
            raise FileTaken(
                f"File {str(self.path)!r} exists already. Name another, move it away, or have an export replace it: --force, "
                "overwrite=True."
            )

    def open_part(self) -> BinaryIO:
        """Opens the part, which may have something in it. Raises `FileTaken` if another process writes it."""
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

    def write(self, data: bytes) -> None:
        """Adds bytes."""
        assert self._file is not None
        self._file.write(data)

    def cut(self, size: int) -> None:
        """Takes all behind so many bytes away."""
        assert self._file is not None
        self._file.flush()
        self._file.truncate(size)
        self._file.seek(size)

    def finish(self) -> None:
        """Puts the file in its place, once it is on the disk."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self.check()
        self.part.replace(self.path)
        self.close()
        with suppress(OSError):  # not every system opens directories
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def close(self) -> None:
        """Closes the part, which stays where it is."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Left(NamedTuple):
    """A thread that a part has whole."""

    head: ThreadHead
    state: State
    """Of the part, behind it."""


class ExportFile(PartFile):
    """An export that comes to be.

    Args:
        path: of the file.
        header: of the export; one that is continued keeps its own.
        overwrite: whether a file that is there is replaced.
        unchecked: whether logs come as they are; such a part is not continued by an export that checks them.

    """

    def __init__(self, path: Name, header: Header, *, overwrite: bool, unchecked: bool) -> None:
        super().__init__(path, overwrite=overwrite, ending=".damaged.part" if unchecked else ".part")
        self._header = header
        self._encoder = Encoder()

    def left(self) -> list[Left]:
        """Opens the part; the threads that it has whole already, in order. Raises `FileTaken` for a part that is no export."""
        file = self.open_part()
        reader = Reader(file, f"File {str(self.part)!r}")
        found: list[Left] = []
        try:
            for item in reader:
                if isinstance(item, Header) and item.prefix != self._header.prefix:
                    return []
                if isinstance(item, ThreadHead):
                    head = item
                elif isinstance(item, ThreadEnd):
                    found.append(Left(head, reader.state))
        except ExportUnreadable as error:
            if error.reason in ("foreign", "newer"):
                raise FileTaken(
                    f"File {str(self.part)!r}, which is to become the export, exists and has something else in it. Move it away, "
                    "or name another file."
                ) from error
        return found

    def go_on(self, kept: Sequence[Left]) -> None:
        """Goes on behind these first threads of those that are left; without any, from the beginning."""
        state = kept[-1].state if kept else State()
        self._encoder = Encoder(state)
        self.cut(state.offset)
        if not kept:
            self.write(self._encoder.header(self._header))

    def begin(self, head: ThreadHead) -> None:
        """The beginning of a thread."""
        self.write(self._encoder.begin(head))

    def entries(self, entries: Sequence[Entry]) -> None:
        """Entries of it."""
        self.write(b"".join(map(self._encoder.entry, entries)))

    def end(self) -> None:
        """The end of it."""
        self.write(self._encoder.end())

    def undo(self) -> None:
        """Takes a thread that has begun back."""
        self.cut(self._encoder.undo())

    def finish(self) -> None:
        """Ends the file and puts it in its place."""
        self.write(self._encoder.trailer())
        super().finish()


def read_file(path: Name) -> Iterator[Item]:
    """The items of an export, each checked as far as it can be. Raises `ExportUnreadable`, and OSError."""
    with Path(path).open("rb") as file:
        yield from Reader(file, f"File {str(path)!r}")

"""Writes and reads files of exports.

A file has another name until it is whole. It is read item by item.

Others may have an account on the machine, and may write to the directory of the file. So the directory is opened once, and every
name is looked up in it. A part is created new, for its owner only, or it is a file of the same user that has no other name and that
this package wrote. Links are not followed. Threads of an earlier part are checked again. An existing file is replaced by a rename.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn, Union

from eventlog.errors import CorruptEntry, ExportUnreadable, FileTaken, InvalidArgument, OverLimit
from eventlog.flow import Flow, blocking
from eventlog.limits import Limits
from projections.integrity.chain import WholeChain
from projections.transfer.encoder import Encoder
from projections.transfer.format import Entry, Header, Item, State, ThreadEnd, ThreadHead, Trailer
from projections.transfer.reader import REMEDIES, Reader

try:
    import fcntl
except ImportError:  # pragma: no cover - on Windows; without such locks, two exports to one file at once go unnoticed
    fcntl = None  # type: ignore[assignment]

__all__ = ["ExportFile", "Name", "PartFile", "WrittenThread", "read_file"]

Name = Union[str, "PathLike[str]"]

PRIVATE = 0o600
"""The mode of parts and files: nobody but their owner may read them."""
ATTEMPTS = 10
"""Times that a part is opened while other processes finish theirs."""

# Windows has none of these. Its files have no owner that could be compared, and directories cannot be opened.
_BINARY: int = getattr(os, "O_BINARY", 0)
_NO_LINK: int = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)
_FOLDERS = os.open in os.supports_dir_fd
_user = getattr(os, "geteuid", lambda: 0)


class WrittenThread(NamedTuple):
    """A thread that a part has whole."""

    head: ThreadHead
    last: bytes
    """Entry id of its last entry."""
    state: State
    """The state of the part after the thread."""


class PartFile(ABC):
    """A file for the entries of threads that has another name until it is whole and on the disk.

    Each thread has `begin`, `entries` any number of times, and `end`, or instead of the last `undo`.

    Args:
        path: the path of the file.
        overwrite: whether an existing file is replaced.
        resume: whether the part, the path with ".part" after it, stays after a failure and is continued by the next export.
            Otherwise the part has a name that nobody can know before, and is removed after a failure.

    """

    def __init__(self, path: Name, *, overwrite: bool, resume: bool) -> None:
        self.path = Path(path)
        self._name = self.path.name
        self._part = f"{self._name}.part" if resume else f"{self._name}.{secrets.token_hex(4)}.part"
        self._overwrite = overwrite
        self._resume = resume
        self._folder: int | None = None
        self._file: BinaryIO | None = None

    @property
    def part(self) -> Path:
        """The path of the part."""
        return self.path.parent / self._part

    def check(self) -> None:
        """Raises `FileTaken` if the file exists and must not be replaced."""
        if self._name in ("", ".."):
            raise self._is_directory()
        try:
            if self._folder is None and _FOLDERS:
                # A directory that may be written to, and not be read, can be named by O_PATH only.
                flags = os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)
                self._folder = os.open(self.path.parent, flags)
            found = self._status(self._name)
        except ValueError as error:
            raise _impossible(self.path, error) from error
        if found is None:
            return
        if not self._overwrite:
            self._refuse_existing()
        if self.path.is_dir():
            raise self._is_directory()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            raise FileTaken(f"{str(self.path)!r} is no file that an export could replace. Name another.")

    def open_part(self) -> BinaryIO:
        """Opens the part, which may have content if exports are continued.

        Raises `FileTaken` if another process writes it, or if it is not a file of this user alone.
        """
        for _ in range(ATTEMPTS):
            descriptor = self._create_or_open()
            if descriptor is None:
                continue
            self._file = os.fdopen(descriptor, "r+b")
            try:
                if fcntl is not None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise FileTaken(
                    f"File {str(self.part)!r} is being written by another process. Wait for it to end, or name another file."
                ) from error
            if self._is_at(self._part):  # else another process has just finished it, and given it its name
                return self._file
            self._file.close()
            self._file = None
        raise self._part_refused("is created and removed again and again")

    def _create_or_open(self) -> int | None:
        """A descriptor of the part, None if it was removed meanwhile."""
        flags = os.O_RDWR | _BINARY | _NO_LINK
        try:
            return os.open(self._at(self._part), flags | os.O_CREAT | os.O_EXCL, PRIVATE, dir_fd=self._folder)
        except FileExistsError:
            pass
        except OSError as error:
            error.filename = str(self.part)  # the system was given the last part only
            raise
        try:
            descriptor = os.open(self._at(self._part), flags | _NO_WAIT, dir_fd=self._folder)
        except FileNotFoundError:
            return None
        except OSError as error:  # a link, a pipe without a writer, a directory, or a file that others own
            problem = "is a link" if error.errno == errno.ELOOP else f"cannot be opened ({error.strerror})"
            raise self._part_refused(problem) from error
        found = os.fstat(descriptor)
        problem = ""
        if not stat.S_ISREG(found.st_mode):
            problem = "is no regular file"
        elif found.st_uid != _user():
            problem = "belongs to another user"
        elif found.st_nlink > 1:
            problem = "has another name, too (a hard link)"
        elif stat.S_IMODE(found.st_mode) & ~PRIVATE and hasattr(os, "fchmod"):
            os.fchmod(descriptor, PRIVATE)
        if problem:
            os.close(descriptor)
            raise self._part_refused(problem)
        return descriptor

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
        """Gives the part the name of the file after all of it is on the disk.

        Raises `FileTaken` if the file exists by now, or if another process renamed or replaced the part.
        """
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self.check()
        if self._is_at(self._part):
            self._give_name()
        if not self._is_at(self._name):
            raise FileTaken(
                f"File {str(self.part)!r} was renamed or replaced by another process before it became {str(self.path)!r}. Name a "
                "file in a directory that only you can write to."
            )
        self._file.close()
        self._file = None
        with suppress(OSError):  # some systems do not open directories
            directory = os.open(self._at("."), os.O_RDONLY, dir_fd=self._folder)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _give_name(self) -> None:
        try:
            self._move()
        except IsADirectoryError as error:  # it has appeared since the check
            raise self._is_directory() from error

    def _move(self) -> None:
        part, name, folder = self._at(self._part), self._at(self._name), self._folder
        if self._overwrite:
            os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            return
        try:  # unlike a rename, a link never replaces a file that has appeared since the check
            os.link(part, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            if not self._is_at(self._name):  # else a network file system lost the reply
                self._refuse_existing()
        except (OSError, NotImplementedError):  # a file system without hard links
            os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            return
        os.unlink(part, dir_fd=folder)

    def close(self) -> None:
        """Closes the part. It is left on the disk if the next export continues it."""
        if self._file is not None:
            if not self._resume and self._is_at(self._part):
                os.unlink(self._at(self._part), dir_fd=self._folder)
            self._file.close()
            self._file = None
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def _at(self, name: str) -> str | Path:
        """A name in the directory of the file, for functions that get the directory too."""
        return self.path.parent / name if self._folder is None else name

    def _status(self, name: str) -> os.stat_result | None:
        """The status of a name in the directory, None if there is none. Links are not followed."""
        try:
            return os.stat(self._at(name), dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _is_at(self, name: str) -> bool:
        """Whether the open part has this name."""
        assert self._file is not None
        found = self._status(name)
        return found is not None and os.path.samestat(found, os.fstat(self._file.fileno()))

    def _is_directory(self) -> FileTaken:
        return FileTaken(f"{str(self.path)!r} is a directory. Name a file.")

    def _refuse_existing(self) -> NoReturn:
        if self.path.is_dir():
            raise self._is_directory()
        raise FileTaken(
            f"File {str(self.path)!r} exists already. Name another, move it away, or have an export replace it: --force, "
            "overwrite=True."
        )

    def _part_refused(self, problem: str) -> FileTaken:
        return FileTaken(
            f"File {str(self.part)!r}, which is to become the export, exists and {problem}. Move it away, or name another file."
        )


class ExportFile(PartFile):
    """An export that is being written.

    Args:
        path: the path of the file.
        header: the header of the export; an export that is continued keeps its own.
        overwrite: whether an existing file is replaced.
        resume: whether an earlier part is continued.

    """

    def __init__(self, path: Name, header: Header, *, overwrite: bool, resume: bool) -> None:
        super().__init__(path, overwrite=overwrite, resume=resume)
        self._header = header
        self._encoder = Encoder()

    def open_written(self) -> list[WrittenThread]:
        """Opens the part, and returns the threads whose entries are a whole log, up to the first that is not.

        Whether these are the logs of the server is up to the caller.
        """
        file = self.open_part()
        if not os.fstat(file.fileno()).st_size:
            return []
        reader = Reader(file, f"File {str(self.part)!r}")
        found: list[WrittenThread] = []
        try:
            for item in reader:
                if isinstance(item, Header) and item.prefix != self._header.prefix:
                    raise self._part_refused(f"is the part of an export of prefix {item.prefix!r}")
                if isinstance(item, ThreadHead):
                    head, chain = item, WholeChain(item.thread)
                elif isinstance(item, Entry):
                    chain.add(*item)
                elif isinstance(item, ThreadEnd):
                    chain.finish()
                    if (chain.sequence, chain.digest) != (head.sequence, head.digest.encode()):
                        break
                    found.append(WrittenThread(head, chain.last, reader.state))
                elif isinstance(item, Trailer):
                    raise self._part_refused("is a whole export")
        except CorruptEntry:  # a log that was made up, or one of another version
            return found
        except OverLimit:  # content that expands too far: it is written again from there on
            return found
        except ExportUnreadable as error:
            if not reader.state.offset:
                raise self._part_refused("has something else in it") from error
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
        """Ends the export, and gives the part the name of the file."""
        self.write(self._encoder.trailer())
        super().finish()


def read_file(path: Name, limits: Limits | None = None) -> Generator[Item]:
    """Reads the items of an export, each checked as far as it can be checked.

    Raises `ExportUnreadable`, `OverLimit`, and OSError.
    """
    try:
        opened = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAIT))  # noqa: SIM115 - see below
    except ValueError as error:
        raise _impossible(path, error) from error
    with opened as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ExportUnreadable(f"File {str(path)!r} is no regular file. {REMEDIES['foreign']}", "foreign")
        yield from Reader(file, f"File {str(path)!r}", limits)


def _impossible(path: Name, error: ValueError) -> InvalidArgument:
    return InvalidArgument(f"{str(path)!r} is no name that a file can have: {error}. Name another file.")

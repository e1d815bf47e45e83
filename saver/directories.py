"""Directories and files of the embedded server, on a machine where others have accounts.

A directory is opened once, checked by its descriptor, and then used through it. So it does not matter who can rename or replace the
directories above it. Files are opened without following links, and have to be regular files of this user with one name.

A temporary directory holds `temporary.lock`, which its owner, the guard and the server keep locked. One whose lock is free was left
by processes that were killed, and the next start removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from eventlog.errors import InvalidArgument
from saver.append_only import FOLDER
from saver.guard import MARK, remove

if sys.platform != "win32":
    import fcntl

__all__ = [
    "Directory",
    "check_contents",
    "keep",
    "open_directory",
    "open_file",
    "open_folder",
    "release",
    "sweep",
    "temporary_base",
    "temporary_directory",
    "unusable",
]

PREFIX = "redis-streams-"
ATTEMPTS = 10
"""Times that a temporary directory is made, if others remove it at once."""

_OURS = re.compile(
    r"(owner|server|temporary)\.lock|server\.log|appendonlydir|appendonly\.aof.*|temp-.*\.(aof|rdb|manifest)"
)
"""Names that the embedded server and its owner give."""
_OLD_FILE = "appendonly.aof"
"""A file of Redis 6 and older, which a newer server takes over."""
_FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_STEP_FLAGS = _FOLDER_FLAGS | getattr(os, "O_PATH", 0)
"""Flags for the directories on the way, which may be searched and not read, where the system has `O_PATH`."""
_MOST_LINKS = 40
"""Links that lead to one directory, as in Linux."""


class Directory(NamedTuple):
    """An open directory."""

    path: Path
    descriptor: int
    lock: int | None = None
    """The descriptor of the lock of a temporary directory."""


_descriptors: set[int] = set()


def keep(descriptor: int) -> int:
    """Remembers a descriptor that forked children must close."""
    _descriptors.add(descriptor)
    return descriptor


def release(descriptor: int) -> None:
    """Closes a descriptor, unless it was closed."""
    if descriptor in _descriptors:
        _descriptors.discard(descriptor)
        os.close(descriptor)


def _release_in_child() -> None:
    """Closes the inherited descriptors in a forked child.

    Otherwise they would keep the server alive, and its directory locked, after the owner's end.
    """
    for descriptor in tuple(_descriptors):
        release(descriptor)


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_release_in_child)


def open_directory(path: str | os.PathLike[str], undo: contextlib.ExitStack) -> Directory:
    """Makes a directory for data, or opens one of this user, which nobody else may use from then on.

    Raises `InvalidArgument` for a directory of another user, for one that others can write to, for one that others can read and
    that has other files than the server's, and if a link of another user leads to it.
    """
    if not os.fspath(path):
        raise InvalidArgument("The path is empty. To fix it: name a directory, or pass None for a temporary one.")
    try:
        directory, descriptor = _walk(Path(path).absolute())  # with each "..", which may come after a link
    except NotADirectoryError as error:
        raise InvalidArgument(
            f"{os.fspath(path)!r} is a file, or leads through one. To fix it: give the embedded server a directory."
        ) from error
    except (OSError, ValueError) as error:
        raise unusable(path, error) from error
    undo.callback(release, descriptor)
    _make_private(directory, descriptor)
    return Directory(directory, descriptor)


def unusable(path: str | os.PathLike[str], problem: object) -> InvalidArgument:
    """The error for a directory that cannot hold the data."""
    return InvalidArgument(
        f"The embedded server cannot keep its data in {os.fspath(path)!r}: {problem}. "
        "To fix it: choose a directory that can be written to."
    )


def _unsafe(path: Path, problem: str, remedy: str) -> InvalidArgument:
    return InvalidArgument(f"The embedded server refuses {str(path)!r}: {problem}. To fix it: {remedy}.")


def _trusted() -> tuple[int, int]:
    """The ids of this user and of root, which is the one that owns the root directory."""
    return os.geteuid(), Path("/").stat().st_uid


def _walk(path: Path) -> tuple[Path, int]:
    """Opens a directory name by name, makes it if it is missing, and returns where it is.

    A link that appears meanwhile, in the place of a name that was looked at, is not followed.
    """
    rest, links = [*reversed(path.parts[1:])], 0
    at, here = Path(path.anchor), os.open(path.anchor, _STEP_FLAGS)
    try:
        while rest:
            name = rest.pop()
            found = _made(name, here, 0o777 if rest else 0o700)
            if not stat.S_ISLNK(found.st_mode):
                here, last = os.open(name, _STEP_FLAGS, dir_fd=here), here
                os.close(last)
                at = at.parent if name == ".." else at / name
                continue
            if found.st_uid not in _trusted():
                problem = f"user {found.st_uid} made this link"
                raise _unsafe(at / name, problem, "name the directory that it leads to, or choose another")
            target, links = Path(os.readlink(name, dir_fd=here)), links + 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            rest += reversed(target.parts[target.is_absolute() :])
            if target.is_absolute():
                here, last = os.open(target.anchor, _STEP_FLAGS), here
                os.close(last)
                at = Path(target.anchor)
        return at, keep(os.open(".", _FOLDER_FLAGS, dir_fd=here))
    finally:
        os.close(here)


def _made(name: str, folder: int, mode: int) -> os.stat_result:
    """The status of a name in a directory, which becomes a directory if there is none."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=folder)
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def _names(descriptor: int) -> list[str]:
    return os.listdir(descriptor)


def _make_private(path: Path, descriptor: int) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        raise _unsafe(path, f"it belongs to user {found.st_uid}", "choose a directory of your own, or a new one in it")
    if found.st_mode & 0o022:
        raise _unsafe(
            path,
            "other users can write to it",
            "look at what it holds, then change its mode to 700, or choose a directory within it",
        )
    if not found.st_mode & 0o077:
        return
    if foreign := [name for name in _names(descriptor) if not _OURS.fullmatch(name)]:
        raise _unsafe(
            path,
            f"other users can read it, and it has more than the server's files, such as {min(foreign)!r}",
            "choose a directory for the server alone, or change the mode of this one to 700",
        )
    try:
        os.fchmod(descriptor, 0o700)
    except OSError as error:
        raise unusable(path, error) from error
    if os.fstat(descriptor).st_mode & 0o077:
        raise _unsafe(path, "its file system keeps no permissions", "choose a directory on another file system")


def open_file(directory: Directory, name: str) -> int:
    """A descriptor of a file to read and write, which is made if it does not exist.

    Raises `InvalidArgument` for anything but a regular file of this user with one name.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(name, flags, 0o600, dir_fd=directory.descriptor)
    except OSError as error:
        raise unusable(directory.path / name, error) from error
    problem = _problem(os.fstat(descriptor))
    if problem:
        os.close(descriptor)
        raise _unsafe(directory.path / name, problem, "remove it, or choose another directory")
    return descriptor


def _problem(found: os.stat_result) -> str:
    """Why a file or directory is not one that the server made, else ""."""
    if found.st_uid != os.geteuid():
        return f"it belongs to user {found.st_uid}"
    if stat.S_ISDIR(found.st_mode):
        return ""
    if not stat.S_ISREG(found.st_mode):
        return "it is no regular file"
    return "it has another name, too (a hard link)" if found.st_nlink > 1 else ""


def check_contents(directory: Directory) -> None:
    """Checks all files that have names of the server's.

    Raises `InvalidArgument` for links, and for files of other users.
    """
    for name in filter(_OURS.fullmatch, _names(directory.descriptor)):
        _check_entry(directory, name, is_folder=name == FOLDER)
    with open_folder(directory) as folder:
        if folder is not None:
            os.fchmod(folder.descriptor, 0o700)
            for name in _names(folder.descriptor):
                _check_entry(folder, name, is_folder=False)


def _check_entry(directory: Directory, name: str, *, is_folder: bool) -> None:
    try:
        found = os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False)
    except FileNotFoundError:  # a temporary file of a server that is about to end
        return
    problem = _problem(found)
    if not problem and stat.S_ISDIR(found.st_mode) != is_folder:
        problem = "it is no directory" if is_folder else "it is a directory"
    if not problem and name == _OLD_FILE and not is_folder:
        problem = "a server would load this file, and the embedded server never writes it"
    if problem:
        raise _unsafe(directory.path / name, problem, "remove it, or choose another directory")


@contextlib.contextmanager
def open_folder(directory: Directory) -> Iterator[Directory | None]:
    """The folder of the append-only file, None if there is none."""
    path = directory.path / FOLDER
    try:
        descriptor = os.open(FOLDER, _FOLDER_FLAGS, dir_fd=directory.descriptor)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise unusable(path, error) from error
    try:
        yield Directory(path, descriptor)
    finally:
        os.close(descriptor)


def temporary_directory(base: str, undo: contextlib.ExitStack) -> Directory:
    """A new directory that `undo` removes, and `sweep` if this process cannot."""
    for _ in range(ATTEMPTS):
        try:
            with contextlib.ExitStack() as failed:
                path = tempfile.mkdtemp(prefix=PREFIX, dir=base)
                failed.callback(_remove_empty, path)
                descriptor = keep(os.open(path, _FOLDER_FLAGS))
                failed.callback(release, descriptor)
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                lock = keep(os.open(MARK, flags, 0o600, dir_fd=descriptor))
                failed.callback(release, lock)
                if _locked(lock) and os.fstat(lock).st_nlink:  # else another process is sweeping it away
                    failed.callback(remove, descriptor, path)
                    undo.push(failed.pop_all())
                    return Directory(Path(path), descriptor, lock)
        except OSError as error:  # a full disk
            raise unusable(base, error) from error
    raise unusable(base, "directories that are made there are removed at once")


def _remove_empty(path: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(path)  # noqa: PTH106


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sweep(bases: Iterable[str]) -> None:
    """Removes temporary directories of this user whose owner, guard and server are gone."""
    for base in {*bases}:
        with contextlib.suppress(OSError):
            for path in [*Path(base).glob(PREFIX + "*")]:
                _sweep_one(str(path))


def _sweep_one(path: str) -> None:
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        descriptor = os.open(path, _FOLDER_FLAGS)
        stack.callback(os.close, descriptor)
        lock = os.open(MARK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
        stack.callback(os.close, lock)
        if os.fstat(descriptor).st_uid == os.geteuid() and not _problem(os.fstat(lock)) and _locked(lock):
            remove(descriptor, path)


def temporary_base(longest: int | None = None) -> str:
    """The path in which temporary directories are made, since nobody else can replace them there.

    Args:
        longest: most bytes of the path, if they are limited.

    Raises `InvalidArgument` if there is none.

    """
    chosen = tempfile.gettempdir()
    for base in (chosen, os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/dev/shm"):  # noqa: S108 - mkdtemp's directory is private # nosec B108
        if base and (longest is None or len(os.fsencode(base)) <= longest) and _is_safe(base):
            return base
    raise InvalidArgument(
        f"The embedded server has no place for its temporary files: {chosen!r} is too long, cannot be written to, or other users "
        "can replace it. To fix it: set TMPDIR to a short path of a directory of your own."
    )


def _is_safe(base: str) -> bool:
    """Whether this user can make directories in a directory, and no other user can rename them or a directory above."""
    try:
        path = Path(base).resolve()
        found = [one.stat() for one in (path, *path.parents)]
    except OSError:
        return False
    trusted = _trusted()
    return os.access(path, os.W_OK | os.X_OK) and all(
        one.st_uid in trusted and (not one.st_mode & 0o022 or one.st_mode & stat.S_ISVTX) for one in found
    )

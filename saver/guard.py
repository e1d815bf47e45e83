"""The guard process of an embedded server, which ends it when the owner is gone.

    guard.py <seconds> <lock> <directory> [<descriptor> <path to remove> ...] -- <server> [<argument> ...]

Run by path; the package imports `remove` only. Standard input is a pipe whose other end only the owner holds. It ends
when the owner closes it or dies, even by SIGKILL. Then, or on SIGTERM, the guard sends the server SIGTERM, on which
it writes out its log, and SIGKILL after `seconds`. The guard then removes the directories that the owner would have
removed. The guard is the server's parent, so the server never runs unguarded. `lock` is an inherited descriptor of
an open, locked file. The server inherits it in turn, and the guard writes the server's pid to the file. `directory`
is a descriptor of the directory in which the server runs. Nobody else may read what the server writes there.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

__all__ = ["MARK", "remove"]

OWNER = 0
MARK = "temporary.lock"
"""The locked file in a temporary directory. It is removed last, so that a removal that is cut short is completed later."""

# From Linux's <sys/prctl.h>.
PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Runs the server until it ends or has to end.

    Returns its exit status, negative if a signal ended it.
    """
    at = arguments.index("--")
    seconds, lock, directory, *leftovers = arguments[:at]
    os.fchdir(int(directory))
    os.umask(0o077)
    # Blocked until the server can die of them and the guard can receive them: a SIGTERM in between would be lost.
    signal.pthread_sigmask(signal.SIG_SETMASK, _signals())
    server = _start(arguments[at + 1 :])
    wakeups = _wake_on_signals()
    os.ftruncate(int(lock), 0)
    os.pwrite(int(lock), b"%d\n" % server, 0)
    status = _wait(server, wakeups)
    if status is None:
        status = _stop(server, float(seconds))
    for descriptor, path in zip(leftovers[::2], leftovers[1::2], strict=True):
        remove(int(descriptor), path)
    return status


def _signals() -> tuple[signal.Signals, ...]:
    return signal.SIGCHLD, signal.SIGTERM, signal.SIGINT


def _start(command: list[str]) -> int:
    guard = os.getpid()
    server = os.fork()
    if server:
        return server
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _end_with(guard)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execv(command[0], command)  # noqa: S606 - the purpose of the guard
    except OSError as error:
        os.write(2, f"{command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _end_with(guard: int) -> None:
    """Lets the server end even if the guard is killed, where Linux can."""
    if sys.platform != "linux":
        return
    try:
        import ctypes  # noqa: PLC0415 - only the child needs it

        # Sent when the thread that forked ends: safe here, the guard has only one.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    except (ImportError, OSError, AttributeError):
        return
    if os.getppid() != guard:
        os._exit(1)


def _wake_on_signals() -> int:
    """Returns a descriptor that becomes readable on any of the signals."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in _signals():
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    return reader


def _wait(server: int, wakeups: int) -> int | None:
    """Returns the server's exit status.

    None if the owner is gone, or a signal asks to end.
    """
    while True:
        ready, _, _ = select.select([OWNER, wakeups], [], [])
        ended, status = os.waitpid(server, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        # SIGCHLD comes too when the server is stopped and continued.
        if OWNER in ready or set(os.read(wakeups, 512)) - {signal.SIGCHLD}:
            return None


def _stop(server: int, seconds: float) -> int:
    os.kill(server, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(server, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(server, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])


def remove(directory: int, path: str) -> None:
    """Removes a temporary directory, found by a descriptor, and its path if that leads to an empty directory.

    Another user may have put other directories in its place. Errors are ignored, since the next start tries again.
    """
    with contextlib.suppress(OSError):
        for root, folders, files, descriptor in os.fwalk(".", topdown=False, dir_fd=directory):
            for name in files:
                if (root, name) != (".", MARK):
                    os.unlink(name, dir_fd=descriptor)
            for name in folders:
                os.rmdir(name, dir_fd=descriptor)
        os.unlink(MARK, dir_fd=directory)
        os.rmdir(path)  # noqa: PTH106 - the guard does not wait for pathlib


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) != 0)

"""The guard process of an embedded server, which ends it when the owner is gone.

    guard.py <seconds> <lock> [<directory to remove> ...] -- <server> [<argument> ...]

Run by path, never imported by the package. Standard input is a pipe whose other end only the owner holds. It ends
when the owner closes it or dies, even by SIGKILL. Then, or on SIGTERM, the guard sends the server SIGTERM, on which
it writes out its log, and SIGKILL after `seconds`. The guard then removes the directories that the owner would have
removed. The guard is the server's parent, so the server never runs unguarded. `lock` is an inherited descriptor of
an open, locked file. The server inherits it in turn, and the guard writes the server's pid to the file.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

OWNER = 0
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)

# From Linux's <sys/prctl.h>.
PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Runs the server until it ends or has to end.

    Returns its exit status, negative if a signal ended it.
    """
    at = arguments.index("--")
    seconds, lock, *leftovers = arguments[:at]
    # Blocked until the server can die of them and the guard can receive them: a SIGTERM in between would be lost.
    signal.pthread_sigmask(signal.SIG_SETMASK, SIGNALS)
    server = _start(arguments[at + 1 :])
    wakeups = _wake_on_signals()
    os.ftruncate(int(lock), 0)
    os.pwrite(int(lock), b"%d\n" % server, 0)
    status = _wait(server, wakeups)
    if status is None:
        status = _stop(server, float(seconds))
    _remove(leftovers)
    return status


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
    for number in SIGNALS:
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


def _remove(directories: list[str]) -> None:
    import shutil  # noqa: PLC0415 - not while the owner waits for the server

    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) != 0)

"""Work in the child of a fork, which never goes on with the tests of its parent."""

from __future__ import annotations

import os
import select
import signal
import traceback
from collections.abc import Callable

PATIENCE = 60.0
"""Seconds that a child may take."""


def in_child(work: Callable[[], object]) -> bytes:
    """Do `work` in a forked child, and return what it returned, if that is bytes.

    The test fails with the child's traceback if `work` raises, and also if the child does not end.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _do(work, write)
    os.close(write)
    found = None
    try:
        found = _read(read)
    finally:
        os.close(read)
        if found is None:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert found is not None, f"the child did not end within {PATIENCE:g} seconds"
    assert found[:1] == b"+", f"in the child:\n{found[1:].decode()}"
    return found[1:]


def _do(work: Callable[[], object], write: int) -> None:
    try:
        try:
            done = work()
            report = b"+" + (done if isinstance(done, bytes) else b"")
        except BaseException:
            report = b"-" + traceback.format_exc().encode()
        os.write(write, report[:60_000])
        os._exit(0)  # coverage has this save what it measured, which may raise
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


def _read(read: int) -> bytes | None:
    """All that the child wrote, None if that takes too long."""
    found = b""
    while select.select([read], [], [], PATIENCE)[0]:
        piece = os.read(read, 65536)
        if not piece:
            return found
        found += piece
    return None

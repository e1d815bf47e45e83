"""The PostgreSQL that tests start."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.postgres import ABSENT, RunningPostgres, find_binaries, has_driver

ROOT = Path(__file__).parent.parent
BINARIES = find_binaries()

pytestmark = [pytest.mark.server, pytest.mark.skipif(BINARIES is None or not has_driver(), reason=ABSENT)]


@pytest.mark.server
def test_it_ends_with_a_killed_owner() -> None:
    """A server ends with the process that started it, and its files are removed."""
    code = (
        "from tests.postgres import *; s = RunningPostgres(find_binaries());"
        "print(s.pid, s.url().split('host=')[1].split('&')[0], flush=True); input()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, home = owner.stdout.readline().split()
        assert Path(home, "data").exists()
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (_alive(pid) or Path(home).exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)
    assert not Path(home).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_binaries_out_of_reach_are_copied(tmp_path: Path) -> None:
    """The server starts for root also if only root may enter the binaries' folder."""
    assert BINARIES is not None
    install, package = BINARIES.parent, BINARIES.parent.parent
    if not package.with_name(f"{package.name}.libs").exists():
        pytest.skip("the binaries come from a distribution and cannot be moved, unlike those of a wheel")
    closed = tmp_path / "closed"
    shutil.copytree(install, closed / package.name / install.name, symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), closed / f"{package.name}.libs")
    closed.chmod(0o700)
    running = RunningPostgres(closed / package.name / install.name / "bin")
    assert str(running.pid).isdecimal()
    running.stop()


def _alive(pid: str) -> bool:
    """Return whether the process runs and is not a zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")

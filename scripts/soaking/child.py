"""Processes of scripts/soak: how they are started, told to end, and end with the one that started them, however that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

__all__ = ["Child", "end_with_parent"]

ROOT = Path(__file__).parents[2]


class Child:
    """A process that runs one of these modules; what it prints goes to files."""

    def __init__(self, name: str, module: str, arguments: list[str], folder: Path) -> None:
        self.name = name
        self._out = folder / f"{name}.out"
        self._err = folder / f"{name}.err"
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=os.environ | {"PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                start_new_session=True,  # Ctrl-C is for the one that started it
            )

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    @property
    def out(self) -> str:
        """What it printed."""
        return self._out.read_text()

    @property
    def complaint(self) -> str:
        """The end of what it said on standard error."""
        return "\n".join(self._err.read_text(errors="replace").splitlines()[-15:])

    def send(self, number: signal.Signals) -> None:
        """A signal; nothing if it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def ended_within(self, seconds: float) -> bool:
        """Whether it ends by itself in that time."""
        deadline = time.monotonic() + seconds
        while self.code is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.code is not None


def end_with_parent() -> None:
    """Called in the child: it ends at once when the process that started it does."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)

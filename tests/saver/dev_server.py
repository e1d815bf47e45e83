"""`langgraph dev` as a process, with the checkpointer and the configuration that GUIDE.md shows."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from typing_extensions import Self

from tests.servers import _watch, free_ports

ROOT = Path(__file__).parents[2]
AVAILABLE = sys.version_info >= (3, 11) and importlib.util.find_spec("langgraph_api") is not None
"""Whether `langgraph-cli[inmem]` is installed, which needs Python 3.11."""

_AGENT = """\
from tests.saver.served_graphs import nested_approval, slow_graph, typed_graph

graph = nested_approval()
slow = slow_graph()
typed = typed_graph()
"""
_PROGRAM = """\
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
runpy.run_module("langgraph_cli", run_name="__main__")
"""


def guide_block(language: str, *words: str) -> str:
    """The one block of GUIDE.md in this language that has all these words."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "GUIDE.md").read_text(), re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if all(word in block for word in words)]
    return str(found)


def write_project(home: Path, url: str, prefix: str) -> None:
    """Writes `langgraph.json` and `checkpointer.py` as GUIDE.md shows them, for this server and prefix, and three graphs."""
    code = guide_block("python", "@asynccontextmanager", "def checkpointer()")
    code, count = re.subn(r'from_conn_string\("[^"]*"\)', f"from_conn_string({url!r}, prefix={prefix!r})", code)
    assert count == 1
    allowing = 'saver.with_allowlist([("tests.saver.served_graphs", "Parcel")])'
    code = code.replace("yield saver", f"{allowing}\n        yield saver")
    (home / "checkpointer.py").write_text(code)
    (home / "agent.py").write_text(_AGENT)
    settings = json.loads(guide_block("json", '"checkpointer"'))
    settings["graphs"]["slow"] = "./agent.py:slow"
    settings["graphs"]["typed"] = "./agent.py:typed"
    (home / "langgraph.json").write_text(json.dumps(settings))


class DevServer:
    """A running `langgraph dev`; its log is in `home`. Ends with `stop`, and with the process that started it."""

    def __init__(self, home: Path) -> None:
        self._log = home / "dev.log"
        port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-c", _PROGRAM, "dev", "--no-browser", "--no-reload", "--port", str(port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=home,
                env=_environment(home),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._watcher = _watch(self._process.pid, home)
        try:
            self._wait_until_ready(120)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """The log without colours."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self._log.read_text(errors="replace"))

    def terminate(self) -> None:
        """Ends the server as an operator does, with SIGTERM, and waits until it has ended."""
        self._process.terminate()
        self._process.wait(60)

    def stop(self) -> None:
        """Kills the server and whatever it started. A second call does nothing."""
        self._watcher.kill()
        self._watcher.communicate()
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()

    def _wait_until_ready(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"langgraph dev did not start:\n{self.log}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ok", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False


def _environment(home: Path) -> dict[str, str]:
    """An environment in which the server keeps to this machine: no traces, no analytics, no look for newer versions."""
    foreign = ("LANG", "REDIS", "DATABASE", "POSTGRES", "AGENTLOG", "PYTEST")
    kept: dict[str, Any] = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    quiet = {"LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGGRAPH_NO_VERSION_CHECK": "true"}
    return {**kept, **quiet, "PYTHONPATH": str(ROOT), "HOME": str(home)}

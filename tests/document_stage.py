"""Run the blocks of one document on real servers, in a temporary directory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from typing_extensions import Self

from tests.documents import Block, Command, agree, commands
from tests.servers import RunningServer, free_ports, launch_cluster, preferred_binary

ROOT = Path(__file__).parent.parent
PROGRAMS = (
    "agentlog",
    "export",
    "python",
    "pytest",
    "head",
    "openssl",
    "sha256sum",
    "scripts/demo --url",
    "scripts/demo --keep",
)
"""Commands of `sh` blocks that are run; of a `console` block all are."""
PATIENCE = 100
THREAD = re.compile(r"refund-desk-[0-9a-f]{8}")


class Stage:
    """One document's server, directory, process of Python, and environment."""

    def __init__(self, name: str, text: str, directory: Path, start_server: Callable[..., RunningServer]) -> None:
        self.name = name
        self.directory = directory
        (directory / "scripts").symlink_to(ROOT / "scripts")
        self._text = text
        self._stack = contextlib.ExitStack()
        self._start_server = start_server
        self._ports = {"6379": str(self._server("--appendonly", "yes").port)}
        self._thread = ""
        self.environment: dict[str, str] = {}
        self._worker: subprocess.Popen[str] | None = None
        self._printed = ""

    def __enter__(self) -> Self:
        """Start the other servers that the document names, and make the file to migrate."""
        if "checkpoints.sqlite" in self._text:
            _fill(self.directory / "checkpoints.sqlite")
        if "7100" in self._text:
            cluster = launch_cluster(preferred_binary())
            self._stack.callback(cluster.stop)
            self._ports |= {str(7100 + number): str(node.port) for number, node in enumerate(cluster.nodes)}
        if "26379" in self._text:
            self._ports["26379"] = str(self._sentinel())
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.communicate()
        self._stack.close()

    def _server(self, *arguments: str) -> RunningServer:
        return self._start_server(*arguments, port=free_ports(1)[0])

    def _sentinel(self) -> int:
        """Start a Sentinel that knows the server as "mymaster", and return its port."""
        (port,) = free_ports(1)
        settings = self.directory / "sentinel.conf"
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {self._ports['6379']} 1\n"
        )
        process = subprocess.Popen(
            [preferred_binary(), settings, "--sentinel"], stdout=subprocess.DEVNULL, cwd=self.directory
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        with redis.Redis(port=port) as sentinel:
            while not _answers(sentinel):
                assert process.poll() is None, "the Sentinel did not start"
                time.sleep(0.02)
        return port

    # -- blocks

    def run(self, blocks: Sequence[Block]) -> None:
        """Run every block, top to bottom.

        Raises `AssertionError` with the document's line where a block fails.
        """
        for number, block in enumerate(blocks):
            if block.not_run:
                continue
            if block.language == "python":
                self._python(block, later=blocks[number + 1 :])
            elif block.language in {"sh", "console"}:
                for command in commands(block):
                    self._command(block, command)
            elif block.language == "json":
                json.loads(block.text)
            elif block.language == "text" and number and blocks[number - 1].language == "python":
                assert agree(block.text, self._printed), self._where(block.line, self._printed)

    def _where(self, line: int, what: str) -> str:
        return f"{self.name}:{line}: {what}"

    def _here(self, text: str) -> str:
        """Return a text with this stage's addresses and the thread of the demo."""
        text = re.sub(r"\b(6379|26379|710[0-2])\b", lambda found: self._ports.get(found[0], found[0]), text)
        return THREAD.sub(self._thread, text) if self._thread else text

    def _python(self, block: Block, later: Sequence[Block]) -> None:
        code = self._here(block.text)
        if block.file:
            (self.directory / block.file).write_text(code)
            if any(block.file in one.text for one in later if one.language in {"sh", "console"}):
                return
            self._command(block, Command(f"python {block.file}", block.line))
            return
        self._printed, error = self._ask(
            code=code,
            name=self.name,
            line=block.line,
            endless=block.endless,
            url=self._here("redis://localhost:6379/0"),
        )
        assert not error, self._where(block.line, error)

    def use(self, code: str) -> None:
        """Run code that uses the names which the document's blocks have defined."""
        self._python(Block("python", code, 1), ())

    def _ask(self, **request: Any) -> tuple[str, str]:
        """Run code in the document's process, and return its output and its traceback."""
        if self._worker is None:
            command = [sys.executable, "-m", "tests.document_worker"]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._worker = subprocess.Popen(command, cwd=self.directory, env=self._variables(), **pipes)
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        self._worker.stdin.write(json.dumps({**request, "environment": self.environment}) + "\n")
        self._worker.stdin.flush()
        reply = self._worker.stdout.readline()
        assert reply, f"{self.name}:{request['line']}: the process ended with exit code {self._worker.wait(PATIENCE)}"
        answer = json.loads(reply)
        return answer["out"], answer["error"]

    # -- commands

    def _command(self, block: Block, command: Command) -> None:
        if not command.text.startswith(PROGRAMS):
            assert command.output is None, self._where(command.line, f"nothing runs {command.text!r}")
            return
        text = self._here(command.text).replace("scripts/demo", "python -m scripts.story.story")
        if text.startswith("export "):
            self._export(text)
            return
        code, out = self._run(text, endless=command.endless or block.endless)
        assert code == command.exit_code, self._where(command.line, f"exit code {code} of {text!r}:\n{out}")
        if "scripts.story" in text:
            self._thread = next(iter(THREAD.findall(out)), "")
        if command.output is not None:
            assert agree(self._here(command.output), out), self._where(command.line, f"{text!r} prints\n{out}")

    def _export(self, text: str) -> None:
        shown = subprocess.run(
            ["sh", "-c", f"{text}\nenv -0"], env=self._variables(), cwd=self.directory, capture_output=True, check=True
        )
        before = self._variables()
        for pair in shown.stdout.decode().split("\0"):
            name, _, value = pair.partition("=")
            if name and before.get(name) != value and name not in {"_", "SHLVL", "PWD", "OLDPWD"}:
                self.environment[name] = value

    def _run(self, text: str, *, endless: bool) -> tuple[int, str]:
        """Run a command, and return its exit code and output.

        SIGTERM ends an endless command.
        """
        process = subprocess.Popen(
            ["sh", "-c", f"exec {text}" if endless else text],
            env=self._variables(),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            out, _ = process.communicate(timeout=4 if endless else PATIENCE)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM if endless else signal.SIGKILL)
            out, _ = process.communicate()
        return process.returncode, out

    def _variables(self) -> dict[str, str]:
        """Return the environment of every process, without settings of colors."""
        deciding = {"COLUMNS", "FORCE_COLOR", "NO_COLOR", "REDIS_URL", "AGENTLOG_PREFIX", "LANGGRAPH_AES_KEY"}
        kept = {name: value for name, value in os.environ.items() if name not in deciding}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return {**kept, "PYTHONPATH": f"{ROOT}{os.pathsep}.", "PATH": path, "COLUMNS": "120", **self.environment}


def _answers(sentinel: redis.Redis) -> bool:
    try:
        return bool(sentinel.ping())
    except redis.ConnectionError:
        return False


def _fill(path: Path) -> None:
    """Make a file of LangGraph's SqliteSaver with two threads of one turn each."""
    builder = StateGraph(MessagesState)
    builder.add_node("answer", lambda _: {"messages": [("ai", "Hello yourself")]})
    builder.add_edge(START, "answer")
    with SqliteSaver.from_conn_string(str(path)) as saver:
        graph: Any = builder.compile(checkpointer=saver)
        for thread in ("old-1", "old-2"):
            graph.invoke({"messages": [("human", "Hello")]}, {"configurable": {"thread_id": thread}})

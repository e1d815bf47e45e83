"""Runs `agentlog`, in this process or another, against a prefix with some history."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from eventlog import ActivityFeed, Group
from saver import RedisStreamSaver
from saver.cli import main
from saver.cli.run import app
from tests.saver.threads import config, step

ROOT = Path(__file__).parents[3]
STEERING = "a\x1b[31mred\x07[bold]b[/bold]\n\u202e"
"""A thread id that would steer a terminal, and rich."""
GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands
"""All commands of `agentlog`, by name."""


@dataclass
class Done:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it printed."""
        return self.out.splitlines()

    @property
    def objects(self) -> list[Any]:
        """What it printed, as JSON lines."""
        return [json.loads(one) for one in self.lines]


class Agentlog:
    """`agentlog` for one prefix of a server."""

    def __init__(self, url: str, prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = url
        self.prefix = prefix
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Done:
        """Runs a command in this process."""
        self._capsys.readouterr()
        code = main([*arguments, "--url", self.url, "--prefix", self.prefix])
        return Done(code, *self._capsys.readouterr())

    def words(self, *arguments: str) -> list[str]:
        """The command, for a process of its own."""
        return [*PROGRAM, *arguments, "--url", self.url, "--prefix", self.prefix]

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """A process of its own."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True}
        return subprocess.Popen(self.words(*arguments), **{**pipes, "env": environment(), **options})

    def feed(self) -> ActivityFeed:
        """The feed, to compare with."""
        return ActivityFeed.from_conn_string(self.url, prefix=self.prefix)


PROGRAM = [sys.executable, "-c", "import sys; from saver.cli import main; sys.exit(main())"]


def environment(**more: str) -> dict[str, str]:
    """The environment of a process: nothing in it decides on colours or widths."""
    deciding = {"COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "REDIS_URL", "AGENTLOG_PREFIX"}
    kept = {name: value for name, value in os.environ.items() if name not in deciding}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **more}


def put(url: str, prefix: str, *threads: str, count: int = 1, ns: str = "") -> None:
    """Some checkpoints on each thread, in a namespace, each with a task's writes."""
    with RedisStreamSaver.from_conn_string(url, prefix=prefix) as saver:
        for thread in threads:
            for number in range(count):
                saved = saver.put(config(thread, ns), *step({"messages": ["x"]}, step=number))
                saver.put_writes(saved, [("messages", "y")], f"task-{number}")


def park(feed: ActivityFeed, name: str, *threads: str, told: str = f"cannot bill {STEERING}") -> Group:
    """A group in which the first event of each thread is parked with this error."""
    group = feed.group(name, thread=threads)
    member = group.member("clerk", max_attempts=1, backoff=0, stop_on_sigterm=False)
    failed = set()

    def handle(activity: Any) -> None:
        failed.add(activity.thread_id)
        if failed == set(threads):
            member.stop()
        raise ValueError(told)

    member.run(handle)
    assert {one.thread_id for one in group.parked()} == set(threads)
    return group


@contextlib.contextmanager
def on_terminal(words: Sequence[str], columns: int = 100, **more: str) -> Iterator[Terminal]:
    """A command on a terminal of its own."""
    own, other = pty.openpty()
    try:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        process = subprocess.Popen(
            words, stdin=other, stdout=other, stderr=other, env=environment(**more), start_new_session=True
        )
        try:
            yield Terminal(process, own)
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(other)
        os.close(own)


class Terminal:
    """The other end of a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], own: int) -> None:
        self.process = process
        self.text = ""
        self._own = own

    def until(self, wanted: str, seconds: float = 60) -> str:
        """What it showed, once that has `wanted`."""
        deadline = time.monotonic() + seconds
        while wanted not in self.text:
            assert time.monotonic() < deadline, self.text
            self._read(0.1)
        return self.text

    def type(self, text: str) -> None:
        """Keys pressed."""
        os.write(self._own, text.encode())

    def end(self, seconds: float = 20) -> int:
        """Its exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.text
            self._read(0.1)
        self._read(0.1)
        return self.process.returncode

    def _read(self, seconds: float) -> None:
        if select.select([self._own], [], [], seconds)[0]:
            self.text += os.read(self._own, 65536).decode(errors="replace")

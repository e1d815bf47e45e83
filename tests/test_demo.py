"""scripts/demo, run as a user runs it, in the environment of the tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from saver import RedisStreamSaver
from tests.servers import Server

pytestmark = [pytest.mark.server, pytest.mark.slow]

ROOT = Path(__file__).parents[1]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the demo with these arguments, without a terminal."""
    return start([sys.executable, "-m", "scripts.story.story", *arguments], **environment)


def start(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the modules of this project."""
    variables = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "FORCE_COLOR"}}
    variables |= {"PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=200, check=False)


def thread_in(output: str) -> str:
    """Return the thread that the demo names."""
    found = re.search(r"refund-desk-\w+", output)
    assert found
    return found[0]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Run the demo once, and return its output and the directory of its thread."""
    path = tmp_path_factory.mktemp("demo") / "data"
    done = run("--keep", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, path


def test_every_claim_is_checked_and_holds(kept: tuple[str, Path]) -> None:
    """Every claim is shown as held."""
    output, _ = kept
    assert len(re.findall(r"^  ok ", output, re.MULTILINE)) == 19
    assert "FAILED" not in output
    assert output.rstrip().endswith("Every claim held.")


def test_the_killed_branches_run_again_and_the_finished_do_not(kept: tuple[str, Path]) -> None:
    """The books show two processes for unfinished branches, and one for finished ones."""
    output, _ = kept
    books = re.findall(r"^(A-\d+) +((?:by \d+(?:, )?)+) +EUR [\d.]+ by (\d+)", output, re.MULTILINE)
    (killed,) = re.findall(r"process (\d+) was killed by SIGKILL", output)
    (resumed,) = re.findall(r"Process (\d+) ran a?invoke\(None\)", output)
    assert sorted({(order, asked.strip(), by) for order, asked, by in books}) == [
        ("A-1042", f"by {killed}", killed),
        ("A-1043", f"by {killed}, by {resumed}", resumed),
        ("A-1044", f"by {killed}", killed),
        ("A-1045", f"by {killed}, by {resumed}", resumed),
    ]


def test_every_event_of_the_log_is_shown_once(kept: tuple[str, Path]) -> None:
    """The demo shows the sequence numbers from 1 to the number of events, each once."""
    output, _ = kept
    shown = [int(number) for number in re.findall(r"^ *(\d+) +\d\d:\d\d:\d\d ", output, re.MULTILINE)]
    (said,) = re.findall(r"^(\d+) events, ", output, re.MULTILINE)
    assert shown == list(range(1, int(said) + 1))


def test_keep_leaves_the_thread_in_the_directory(kept: tuple[str, Path]) -> None:
    """A saver on that directory reads the fork and the original branch."""
    output, path = kept
    config: Any = {"configurable": {"thread_id": thread_in(output)}}
    with RedisStreamSaver.embedded(path) as saver:
        states = [found.checkpoint["channel_values"] for found in saver.list(config)]
        latest = saver.get_tuple(config)
    assert latest is not None
    assert latest.checkpoint["channel_values"]["approved"] is False
    assert {state.get("risk") for state in states} >= {"fraud suspected", "high (118)"}


def test_keep_says_how_to_look_at_the_thread(kept: tuple[str, Path]) -> None:
    """The printed lines of Python start a server whose URL `agentlog` takes."""
    output, path = kept
    lines = re.findall(r"^    ((?:from|server) .*)$", output, re.MULTILINE)
    code = "\n".join([*lines, "input()"])
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as opened:
        assert opened.stdout is not None
        url = opened.stdout.readline().strip()
        with RedisStreamSaver.from_conn_string(url) as saver:
            assert [thread.thread_id for thread in saver.threads()] == [thread_in(output)]
        opened.communicate("\n")
    assert repr(str(path)) in lines[1]


def test_output_is_plain_where_there_is_no_terminal(kept: tuple[str, Path]) -> None:
    """There are no escape sequences, and no line is wider than 120 columns."""
    output, _ = kept
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 120


def test_it_runs_on_a_cluster_in_a_narrow_ascii_terminal(cluster: Server) -> None:
    """With `--url` and a narrow ASCII terminal, the output fits the terminal."""
    done = run("--url", cluster.url, COLUMNS="50", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert max(map(len, done.stdout.splitlines())) <= 50
    with RedisStreamSaver.from_conn_string(cluster.url) as saver:
        saver.delete_thread(thread_in(done.stdout))


def test_a_server_that_is_not_there_is_an_error_without_traceback() -> None:
    """The demo names the error, and exits with 1."""
    done = run("--url", "redis://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("scripts/demo: ")
    assert "Traceback" not in done.stderr


def test_a_claim_that_does_not_hold_fails_the_run() -> None:
    """A failed claim is shown as failed, and the exit code is 1."""
    program = (
        "import sys\n"
        "from scripts.story import story\n"
        "story._tell = lambda stage: stage.check('black is white', False)\n"
        "sys.exit(story.main())\n"
    )
    done = start([sys.executable, "-c", program])
    assert done.returncode == 1
    assert "  FAILED   black is white" in done.stdout
    assert done.stdout.rstrip().endswith("Claims that FAILED: 1.")


def test_help_names_every_option() -> None:
    """`--help` names every option."""
    done = run("--help")
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--keep PATH", "--url URL", "NO_COLOR"))

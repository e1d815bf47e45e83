"""scripts/demo, run as its user runs it, in this environment rather than one it sets up."""

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
    """The demo with these arguments, on something that is not a terminal."""
    return start([sys.executable, "-m", "scripts.story.story", *arguments], **environment)


def start(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """A command, with this project importable."""
    variables = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "FORCE_COLOR"}}
    variables |= {"PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=200, check=False)


def thread_in(output: str) -> str:
    found = re.search(r"refund-desk-\w+", output)
    assert found
    return found[0]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What one run printed, and where it left its thread."""
    path = tmp_path_factory.mktemp("demo") / "data"
    done = run("--keep", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, path


def test_every_claim_is_checked_and_holds(kept: tuple[str, Path]) -> None:
    """All of its claims are shown as held."""
    output, _ = kept
    assert len(re.findall(r"^  ok ", output, re.MULTILINE)) == 19
    assert "FAILED" not in output
    assert output.rstrip().endswith("Every claim held.")


def test_the_killed_branches_run_again_and_the_finished_do_not(kept: tuple[str, Path]) -> None:
    """The books it shows name two processes for the unfinished branches, one for the finished."""
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
    """The sequence numbers shown are gapless from 1, and as many as it says there are events."""
    output, _ = kept
    shown = [int(number) for number in re.findall(r"^ *(\d+) +\d\d:\d\d:\d\d ", output, re.MULTILINE)]
    (said,) = re.findall(r"^(\d+) events, ", output, re.MULTILINE)
    assert shown == list(range(1, int(said) + 1))


def test_keep_leaves_the_thread_in_the_directory(kept: tuple[str, Path]) -> None:
    """A saver opened there afterwards reads the fork, and the branch it left alone."""
    output, path = kept
    config: Any = {"configurable": {"thread_id": thread_in(output)}}
    with RedisStreamSaver.embedded(path) as saver:
        states = [found.checkpoint["channel_values"] for found in saver.list(config)]
        latest = saver.get_tuple(config)
    assert latest is not None
    assert latest.checkpoint["channel_values"]["approved"] is False
    assert {state.get("risk") for state in states} >= {"fraud suspected", "high (118)"}


def test_output_is_plain_where_there_is_no_terminal(kept: tuple[str, Path]) -> None:
    """No escape sequences, and no line wider than the 120 columns it takes for granted."""
    output, _ = kept
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 120


def test_it_runs_on_a_cluster_in_a_narrow_ascii_terminal(cluster: Server) -> None:
    """`--url` names any server; the output keeps to the columns and the characters there are."""
    done = run("--url", cluster.url, COLUMNS="50", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert max(map(len, done.stdout.splitlines())) <= 50
    with RedisStreamSaver.from_conn_string(cluster.url) as saver:
        saver.delete_thread(thread_in(done.stdout))


def test_a_server_that_is_not_there_is_an_error_without_traceback() -> None:
    """It says so, and exits with 1."""
    done = run("--url", "redis://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("scripts/demo: ")
    assert "Traceback" not in done.stderr


def test_a_claim_that_does_not_hold_fails_the_run() -> None:
    """It is shown as failed, and the exit code is 1."""
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
    """`--help` is complete."""
    done = run("--help")
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--keep PATH", "--url URL", "NO_COLOR"))

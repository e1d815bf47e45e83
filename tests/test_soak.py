"""scripts/soak in its short form, and its claims on false evidence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.soaking.chaos import Chaos, Disturbance, Move
from scripts.soaking.claims import claims
from scripts.soaking.evidence import Evidence, Repeat
from scripts.soaking.member import Handling
from scripts.soaking.plan import Plan

ROOT = Path(__file__).parents[1]
SHORT = (
    *("--events", "3000", "--threads", "20", "--writers", "2", "--lease", "1"),
    *("--seconds-between-kills", "0.8", "--seconds", "8"),
)


def command(*options: str) -> list[str]:
    """Return the command of a soak with these options."""
    return [sys.executable, "-m", "scripts.soaking.main", *options]


def surroundings(folder: Path) -> dict[str, str]:
    """Return an environment with this temporary directory, and without a terminal."""
    variables = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "FORCE_COLOR"}}
    folder.mkdir()
    return variables | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}


def left_in(folder: Path) -> list[str]:
    """Return the files in a directory, and processes with it in their command line."""
    found = [str(path) for path in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in words:
            found.append(words.replace(b"\0", b" ").decode())
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """Run the short form, and return its output, JSON, and temporary directory."""
    base = tmp_path_factory.mktemp("soak")
    folder, report = base / "tmp", base / "soak.json"
    done = subprocess.run(
        command(*SHORT, "--json", str(report)),
        env=surroundings(folder),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(report.read_text()), folder


@pytest.mark.slow
@pytest.mark.server
def test_every_claim_holds(ran: tuple[str, Any, Path]) -> None:
    """Each claim is shown as held, and is in the file."""
    output, report, _ = ran
    assert [claim for claim in report["claims"] if not claim["holds"]] == []
    assert len(report["claims"]) == 13
    assert output.count("  ok  ") == 13
    assert output.rstrip().endswith("Every claim held.")


@pytest.mark.slow
@pytest.mark.server
def test_members_were_killed_stopped_and_paused_and_the_server_restarted(ran: tuple[str, Any, Path]) -> None:
    """The short form has each kind of disturbance."""
    _, report, _ = ran
    kinds = [one["kind"] for one in report["disturbances"]]
    assert set(kinds) == {"kill", "stop", "pause", "server"}
    assert kinds.count("kill") >= 3
    assert report["figures"]["members killed"] == kinds.count("kill")


@pytest.mark.slow
@pytest.mark.server
def test_nothing_is_left_behind(ran: tuple[str, Any, Path]) -> None:
    """The soak leaves neither files nor processes."""
    assert left_in(ran[2]) == []


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_all_that_it_started(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C or SIGTERM in the middle ends all processes, and leaves no file."""
    folder = tmp_path / "tmp"
    variables = surroundings(folder)
    process = subprocess.Popen(
        command(*SHORT), env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not list(folder.glob("soak-*/writer-1.out")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(30) != 0
    finally:
        process.kill()
        process.wait()
    assert left_in(folder) == []


@pytest.mark.server
def test_help_names_every_option() -> None:
    """`--help` names every option."""
    done = subprocess.run(
        command("--help"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0
    wanted = (
        "--events",
        "--threads",
        "--writers",
        "--members",
        "--seconds-between",
        "--lease",
        "--seed",
        "--url",
        "--json",
    )
    assert all(option in done.stdout for option in wanted)


def faithful() -> tuple[Any, Any, Any]:
    """Return a plan of six events, a chaos with one kill, and evidence of success."""
    plan = Plan(events=6, threads=2, writers=1, lease=1)
    chaos = object.__new__(Chaos)
    kill = Disturbance("kill", "record-0-0", 10.0, 10.0)
    chaos.disturbances, chaos.moves, chaos.failures = [kill], [], []
    found = Evidence()
    for thread in plan.names:
        found.logs[thread] = [(number, f"{number}-0") for number in (1, 2, 3)]
        found.feed[thread] = list(found.logs[thread])
        found.handled[thread] = found.applied[thread] = [1, 2, 3]
        found.counts[thread], found.orders[thread] = 3, "3"
        found.positions[thread] = "3"
    found.handled, found.applied = dict(found.handled), {thread: [1, 2, 3] for thread in plan.names}
    found.writers = [{"events": 6, "retries": 0}]
    return plan, chaos, found


def failing(plan: Any, chaos: Any, found: Any) -> list[str]:
    """Return the claims that do not hold."""
    return [claim.text for claim in claims(plan, chaos, found) if not claim.holds]


def repeat(before: str, after: str, at: float) -> Any:
    """Return an event that two members handled, the second at that time."""
    one, other = Handling(9.9, "agent-000", 2, "2-0", before), Handling(at, "agent-000", 2, "2-0", after)
    return Repeat(one, other)


def test_true_evidence_fails_no_claim() -> None:
    """Events of a killed member may be handled again."""
    plan, chaos, found = faithful()
    found.repeats = [repeat("record-0-0", "record-1-0", 11.0)]
    assert failing(plan, chaos, found) == []


@pytest.mark.parametrize(
    ("what", "wrong", "words"),
    [
        ("logs", [(1, "1-0"), (3, "3-0")], "logs have each"),
        ("logs", [(1, "1-0"), (2, "2-0"), (3, "3-0"), (4, "4-0")], "logs have each"),
        ("feed", [(1, "1-0"), (3, "3-0"), (2, "2-0")], "the feed announces"),
        ("handled", [1, 3], "at least once"),
        ("handled", [1, 3, 2], "the first time, in the order"),
        ("applied", [1, 2, 2, 3], "applied every event once"),
        ("applied", [2, 1, 3], "applied every event once"),
        ("counts", 4, "its counts"),
        ("positions", "2", "its positions"),
    ],
)
def test_false_evidence_fails_its_claim(what: str, wrong: Any, words: str) -> None:
    """A claim fails if an event of one thread is lost, added or out of order."""
    plan, chaos, found = faithful()
    getattr(found, what)["agent-001"] = wrong
    assert any(words in text for text in failing(plan, chaos, found))


@pytest.mark.parametrize(
    ("before", "at"),
    [("record-1-0", 11.0), ("record-0-0", 9.95), ("record-0-0", 30.0)],
    ids=["of a member that was not killed", "before the kill", "long after"],
)
def test_a_repeat_that_no_kill_explains_fails(before: str, at: float) -> None:
    """An event that is handled twice without a reason fails a claim."""
    plan, chaos, found = faithful()
    found.repeats = [repeat(before, "record-2-0", at)]
    assert any("handled events again (1)" in text for text in failing(plan, chaos, found))


def test_partitions_that_stay_with_a_dead_member_fail() -> None:
    """Partitions that others take over too late fail a claim."""
    plan, chaos, found = faithful()
    move = Move("record-0-0", "record", 10.0, set(), 20.0)
    chaos.moves = [move]
    (text,) = failing(plan, chaos, found)
    assert "killed member after 10.0 s at most" in text

"""scripts/bench in its smallest form, in the environment of the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Server

for _package in ("matplotlib", "typer", "zstandard", "langgraph_checkpoint_plainredis"):
    pytest.importorskip(_package, reason="needs the extra: bench")

pytestmark = [pytest.mark.server, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
SMALL = """
import sys
from pathlib import Path
from scripts.benchmark import main
from scripts.benchmark.plan import Plan
from scripts.benchmark.servers import open_servers
plan = Plan(
    steps=24, long_steps=40, rounds=2, reads=2, turns=4, turn_rounds=2, wide_steps=12, document_steps=11,
    document_bytes=1 << 16, state_rounds=1, tasks=10, events=60, small_samples=4, conversations=(4, 8),
    conversation_turns=3, conversation_rounds=2, deletions=2,
)
with open_servers(None, None, None) as servers:
    main.measure(plan, servers, list(main.WORKLOADS), "this,floor,memory", Path(sys.argv[1]))
"""


SMALL_AUDIT = """
import sys
from pathlib import Path
from scripts.benchmark.audit import AuditPlan, measure_audit
from scripts.benchmark.servers import open_servers
if __name__ == "__main__":
    with open_servers(None, None, None) as servers:
        measure_audit(AuditPlan(puts=20, block=10, events=40, rounds=2, short=20, long=40), servers, Path(sys.argv[1]))
"""

SMALL_LONGEST = """
from scripts.benchmark.longest import measure_longest
from scripts.benchmark.servers import open_servers
from tests.hostile import Sizes
with open_servers(None, None, None) as servers:
    measure_longest(Sizes(threads=3, namespaces=20, large=50, runs=700, history=10, channels=3), servers)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the modules of the benchmark, and without a progress bar."""
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Run a small benchmark, and return its output and the folder of its report."""
    folder = tmp_path_factory.mktemp("bench") / "report"
    done = run("-c", SMALL, str(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout, folder


@pytest.fixture(scope="module")
def data(ran: tuple[str, Path]) -> Any:
    """Return the figures of the small run."""
    return json.loads((ran[1] / "report.json").read_text())


def test_the_table_is_printed_and_written(ran: tuple[str, Path]) -> None:
    """The file has every target and every workload, and so has the terminal."""
    output, folder = ran
    written = (folder / "report.md").read_text()
    assert written in output
    targets, *workloads = written.split("\n## ")[1:]
    assert targets.startswith("Targets")
    assert len(targets.splitlines()) == 2 + 2 + 19
    assert len(workloads) == 10


def test_every_figure_is_in_the_json(data: Any) -> None:
    """The JSON has the median and 99th percentile of this saver, and no failure."""
    figures = {
        f"{workload}.{name}": figure["savers"]
        for workload, there in data["workloads"].items()
        for name, figure in there.items()
    }
    assert len(figures) == 46
    measured = [(name, saver, found) for name, savers in figures.items() for saver, found in savers.items()]
    assert [(name, saver, found["failed"]) for name, saver, found in measured if "failed" in found] == []
    for savers in figures.values():
        assert savers["this"]["samples"] > 0
        assert savers["this"]["median"] <= savers["this"]["p99"]


def test_every_target_that_needs_no_other_saver_is_measured(data: Any) -> None:
    """Only the target that compares with plainredis is not measured."""
    missing = [target["name"] for target in data["targets"] if target["measured"] is None]
    assert missing == ["server memory, 24 steps"]


def test_nothing_was_lost(data: Any) -> None:
    """Concurrent conversations lose neither operations nor checkpoints."""
    for workload in ("few", "many"):
        for figure in ("errors", "lost"):
            assert data["workloads"][workload][figure]["savers"]["this"]["median"] == 0


def test_the_charts_are_there(ran: tuple[str, Path]) -> None:
    """Every chart is a PNG file."""
    charts = {path.stem: path.read_bytes() for path in ran[1].glob("*.png")}
    assert set(charts) == {
        "put",
        "put_long",
        "get_tuple",
        "get_tuple_long",
        "stored",
        "append_only_file",
        "conversations",
        "turn",
    }
    assert all(chart.startswith(b"\x89PNG") for chart in charts.values())


def test_audit_is_measured(tmp_path: Path) -> None:
    """The costs of signing, reading and memory are printed and written."""
    script = tmp_path / "small_audit.py"
    script.write_text(SMALL_AUDIT)
    done = run(str(script), str(tmp_path))
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "audit.json").read_text())["figures"]
    by_name = {(one["figure"], one["variant"]): one for one in figures}
    assert len(by_name) == 13
    assert all(one["samples"] for one in figures)
    assert by_name["put", "HMAC"]["ratio"] > 0
    assert "Ed25519" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="reads the server's CPU time from /proc")
def test_the_longest_requests() -> None:
    """`--longest` prints the longest request of each operation, and those over the limit."""
    done = run("-c", SMALL_LONGEST)
    assert done.returncode == 0, done.stderr
    assert "| list(None, limit=1) | " in done.stdout
    assert " | newest |" in done.stdout
    assert "Over 50 ms: none." in done.stdout


def test_a_server_with_data_is_refused(any_server: Server, prefix: str) -> None:
    """A server with data is refused, because the benchmark would flush it."""
    with any_server.client() as client:
        client.set(prefix, "mine")
        done = run("-m", "scripts.benchmark.main", "--url", any_server.url)
        assert client.getdel(prefix) == b"mine"
    assert done.returncode == 1
    assert "contains" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_option() -> None:
    """`--help` names every option."""
    done = run("-m", "scripts.benchmark.main", "--help")
    assert done.returncode == 0
    wanted = (
        "--quick",
        "--only",
        "--feed",
        "--audit",
        "--longest",
        "--savers",
        "--steps",
        "--seed",
        "--url",
        "--postgres",
        "--redis-modules",
        "--out",
    )
    assert all(option in done.stdout for option in wanted)

"""The shape of the project: floors, public names, the two colours."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from saver import RedisStreamSaver

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "eventlog": {"eventlog"},
    "projections": {"eventlog", "projections"},
    "saver": {"eventlog", "projections", "saver"},
}
FLOORS = set(ALLOWED)


def imported(path: Path) -> set[str]:
    """Top-level packages that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("floor", sorted(FLOORS))
def test_imports_go_down_only(floor: str) -> None:
    """saver -> projections -> eventlog, and never up."""
    for path in (ROOT / floor).rglob("*.py"):
        assert imported(path) & FLOORS <= ALLOWED[floor], path.name


def test_the_log_knows_nothing_of_langgraph() -> None:
    """The lower floors import neither langgraph nor langchain."""
    for floor in ("eventlog", "projections"):
        for path in (ROOT / floor).rglob("*.py"):
            assert not imported(path) & {"langgraph", "langchain_core"}, path.name


def test_top_level_holds_nothing_else() -> None:
    """No folder but the three floors, tests and scripts."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    folders = {name.partition("/")[0] for name in tracked if "/" in name and not name.startswith(".")}
    assert folders <= FLOORS | {"tests", "scripts"}


def public_methods() -> list[str]:
    return [name for name, _ in inspect.getmembers(RedisStreamSaver, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("name", [name for name in public_methods() if "a" + name in public_methods()])
def test_both_colours_take_the_same(name: str) -> None:
    """A method and its async twin have the same parameters, and both say what they do."""
    sync, twin = getattr(RedisStreamSaver, name), getattr(RedisStreamSaver, "a" + name)
    assert inspect.signature(sync).parameters == inspect.signature(twin).parameters
    assert sync.__doc__
    assert twin.__doc__


def test_every_operation_has_two_colours() -> None:
    """All of the interface is there in both colours, and is this class's own."""
    names = "get_tuple list put put_writes delete_thread delete_for_runs copy_thread prune get_delta_channel_history setup close"
    for name in names.split():
        assert name in vars(RedisStreamSaver)
        assert "a" + name in vars(RedisStreamSaver)


def test_lower_floors_load_without_langgraph() -> None:
    """The log can be tailed and folded where LangGraph is not installed."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('langgraph', 'langchain_core')));"
        "import eventlog, projections, projections.checkpoints.listing, projections.checkpoints.pruning, projections.transfer.copy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

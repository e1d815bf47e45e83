"""The shape of the project: floors, rooms, public names, sync and async methods."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from saver import RedisStreamSaver

ROOT = Path(__file__).parent.parent
FLOORS = ["eventlog", "projections", "saver"]
"""The floors, from the bottom up."""
ROOMS = {
    "eventlog": ["connect", "transport", "feed"],
    "projections": [
        "values",
        "log",
        "integrity",
        "registry",
        "checkpoints",
        "time_travel",
        "transfer",
        "maintenance",
    ],
    "saver": ["migration", "cli", "namespace"],
}
"""The rooms of each floor, from the bottom up."""
TOP_ABOVE_ROOMS = {"projections.feed"}
"""Modules outside of rooms that may import from rooms."""


def module_files() -> dict[str, Path]:
    """Return every module of the three floors by its dotted name."""
    found = {}
    for floor in FLOORS:
        for path in (ROOT / floor).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


FILES = module_files()


def imports_of(path: Path) -> set[str]:
    """Return the dotted names that a module imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in FILES else node.module)
    return found


def top_packages(path: Path) -> set[str]:
    """Return the top-level packages that a module imports."""
    return {name.partition(".")[0] for name in imports_of(path)}


def circles(graph: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """Return the groups of nodes that reach each other."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        found: set[str] = set()
        left = [start]
        while left:
            for following in graph[left.pop()] & graph.keys() - found:
                found.add(following)
                left.append(following)
        reached[start] = found
    return sorted(
        {
            tuple(sorted({name, *(other for other in reached[name] if name in reached[other])}))
            for name in graph
            if name in reached[name]
        }
    )


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_go_down_only(floor: str) -> None:
    """Imports go from saver to projections to eventlog, and never up."""
    allowed = FLOORS[: FLOORS.index(floor) + 1]
    for path in (ROOT / floor).rglob("*.py"):
        assert top_packages(path) & set(FLOORS) <= set(allowed), path.name


def test_no_module_imports_itself_by_way_of_others() -> None:
    """There is no import circle, also none through lazy imports."""
    assert circles({name: imports_of(path) - {name} for name, path in FILES.items()}) == []


def test_circles_are_found() -> None:
    """The search finds a circle of three and leaves the rest alone."""
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}
    assert circles(graph) == [("a", "b", "c")]


def room_of(module: str) -> int | None:
    """Return the number of a module's room, None for a module outside of rooms."""
    floor, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    return ROOMS[floor].index(room) if room in ROOMS[floor] else None


@pytest.mark.parametrize("floor", FLOORS)
def test_rooms_import_rooms_below_them(floor: str) -> None:
    """A room imports only from itself and rooms below, and other modules from no room."""
    wrong = []
    for module, path in FILES.items():
        if module == floor or not module.startswith(f"{floor}."):
            continue
        own = room_of(module)
        for other in imports_of(path):
            if not other.startswith(f"{floor}.") or module in TOP_ABOVE_ROOMS:
                continue
            target = room_of(other)
            if target is not None and (own is None or target > own):
                wrong.append(f"{module} -> {other}")
    assert wrong == []


def test_every_folder_is_a_room() -> None:
    """The folders of each floor are the rooms named here."""
    for floor, rooms in ROOMS.items():
        folders = {path.relative_to(ROOT / floor).parts[0] for path in (ROOT / floor).rglob("*/*.py")}
        assert folders == set(rooms)


def test_the_log_knows_nothing_of_langgraph() -> None:
    """The lower floors import neither langgraph nor langchain."""
    for floor in ("eventlog", "projections"):
        for path in (ROOT / floor).rglob("*.py"):
            assert not top_packages(path) & {"langgraph", "langchain_core"}, path.name


@pytest.mark.server
def test_top_level_holds_nothing_else() -> None:
    """The only folders are the three floors, tests and scripts."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    folders = {name.partition("/")[0] for name in tracked if "/" in name and not name.startswith(".")}
    assert folders <= {*FLOORS, "tests", "scripts"}


def public_methods() -> list[str]:
    return [name for name, _ in inspect.getmembers(RedisStreamSaver, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("name", [name for name in public_methods() if "a" + name in public_methods()])
def test_sync_and_async_methods_take_the_same(name: str) -> None:
    """A method and its async twin have the same parameters, and both have a docstring."""
    sync, twin = getattr(RedisStreamSaver, name), getattr(RedisStreamSaver, "a" + name)
    assert inspect.signature(sync).parameters == inspect.signature(twin).parameters
    assert sync.__doc__
    assert twin.__doc__


def test_every_operation_is_sync_and_async() -> None:
    """The class defines every method of the interface, sync and async."""
    names = "get_tuple list put put_writes delete_thread delete_for_runs copy_thread prune get_delta_channel_history setup close"
    for name in names.split():
        assert name in vars(RedisStreamSaver)
        assert "a" + name in vars(RedisStreamSaver)


@pytest.mark.server
def test_lower_floors_load_without_langgraph() -> None:
    """The log can be read and folded without LangGraph."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('langgraph', 'langchain_core')));"
        "import eventlog, projections, projections.checkpoints.listing, projections.checkpoints.pruning, projections.transfer.copy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

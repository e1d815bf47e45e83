"""The distributions of the project, its public names, and its scripts' headers."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import eventlog
from eventlog import errors
from eventlog.flow import load_script

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "GUIDE.md").read_text()


NAMESPACE = "saver/namespace/"


@pytest.mark.server
def test_the_wheel_holds_the_packages_and_nothing_else(tmp_path: Path) -> None:
    """The wheel has modules, scripts and type markers of the floors and the namespace."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in inside} == {"eventlog", "langgraph", "projections", "saver"}
    assert not {"langgraph/__init__.py", "langgraph/checkpoint/__init__.py"} & inside
    assert {"langgraph/checkpoint/redis_streams/__init__.py", "langgraph/checkpoint/redis_streams/py.typed"} <= inside
    assert {
        "eventlog/py.typed",
        "projections/py.typed",
        "saver/py.typed",
        "projections/checkpoints/save_checkpoint.lua",
    } <= inside
    expected = {
        str(path.relative_to(ROOT)).removeprefix(NAMESPACE)
        for floor in ("eventlog", "projections", "saver")
        for path in (ROOT / floor).rglob("*")
        if path.suffix in {".py", ".lua"} or path.name == "py.typed"
    }
    assert expected == inside


@pytest.mark.server
def test_the_source_distribution_holds_the_namespace(tmp_path: Path) -> None:
    """A wheel can be built from the source distribution."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path], cwd=ROOT, check=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    folder = NAMESPACE + "langgraph/checkpoint/redis_streams/"
    assert {folder + name for name in ("__init__.py", "cli.py", "py.typed")} <= inside


def test_the_guide_names_every_error() -> None:
    """The guide has a row for each error."""
    bases = {"EventLogError", "CallerError", "ServerError"}
    kinds = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)} - bases
    rows = "".join(line for line in GUIDE.splitlines() if line.startswith("| `"))
    assert [name for name in sorted(kinds) if f"`{name}`" not in rows] == []


def test_public_names_are_there() -> None:
    """Each public name exists."""
    assert [name for name in eventlog.__all__ if not hasattr(eventlog, name)] == []


SCRIPTS = sorted(path for floor in ("eventlog", "projections", "saver") for path in (ROOT / floor).rglob("*.lua"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_script_has_a_header(path: Path) -> None:
    """A header describes the script and, unless it is a prelude, its keys and reply."""
    header = [line for line in path.read_text().splitlines() if line.startswith("--")]
    assert header
    if "Prelude" not in header[0]:
        text = "\n".join(header)
        assert "-- KEYS" in text
        assert "Reply:" in text


def test_a_script_names_its_preludes_in_its_header() -> None:
    """A script is joined with the preludes that its header names, in that order."""
    script = load_script("eventlog/feed/ends")
    sources = [
        (ROOT / f"{path}.lua").read_bytes() for path in ("eventlog/names", "eventlog/pointers", "eventlog/feed/ends")
    ]
    assert script.source == b"".join(sources)


@pytest.mark.server
def test_scripts_import_nothing_from_the_current_directory(tmp_path: Path) -> None:
    """A module that another user put where a script is started is not run."""
    for name in ("scripts/story/story.py", "rich.py", "typer.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('planted')")
    command = [sys.executable, str(ROOT / "scripts/run.py"), "scripts.story.story", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for script in (ROOT / "scripts").iterdir():
        if script.is_file() and not script.suffix and "bin/python" in (text := script.read_text()):
            stays = '\ncd "$(dirname "$0")/.."\n' in text
            assert stays or " -m " not in text, f"{script.name} runs a module where it is started"

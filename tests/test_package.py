"""What is shipped, and what the documents say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import eventlog
from eventlog import errors
from eventlog.flow import load_script

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_wheel_holds_the_three_packages_and_nothing_else(tmp_path: Path) -> None:
    """Modules, scripts and type markers of the three floors."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in inside} == {"eventlog", "projections", "saver"}
    assert {
        "eventlog/py.typed",
        "projections/py.typed",
        "saver/py.typed",
        "projections/checkpoints/save_checkpoint.lua",
    } <= inside
    expected = {
        str(path.relative_to(ROOT))
        for floor in ("eventlog", "projections", "saver")
        for path in (ROOT / floor).rglob("*")
        if path.suffix in {".py", ".lua"} or path.name == "py.typed"
    }
    assert expected == inside


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_the_readmes_python_is_python(code: str) -> None:
    """Every example parses (await at top level is fine)."""
    compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


def test_the_readme_names_every_error() -> None:
    """Whoever meets an error finds it in the README."""
    bases = {"EventLogError", "CallerError", "ServerError"}
    kinds = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)} - bases
    assert [name for name in sorted(kinds) if f"`{name}`" not in README] == []


def test_public_names_are_there() -> None:
    """What the packages promise, they have."""
    assert [name for name in eventlog.__all__ if not hasattr(eventlog, name)] == []


SCRIPTS = sorted(path for floor in ("eventlog", "projections", "saver") for path in (ROOT / floor).rglob("*.lua"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_script_has_a_header(path: Path) -> None:
    """What it does, and, unless it is a prelude, its keys and reply."""
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

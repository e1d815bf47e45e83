"""Run the tests on every Python that the project supports.

Usage: nox -f scripts/noxfile.py
Each session installs the project into an environment of its own under scripts/.nox and runs the tests of
`scripts/test quick`. Arguments after `--` replace that selection: nox -f scripts/noxfile.py -s tests-3.10 -- -k fold
An interpreter that is not installed is skipped with a message.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

ROOT = Path(__file__).parent.parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
QUICK = ["-m", "(pure or telling) and not slow and not elsewhere"]

nox.needs_version = ">=2024.10"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False

if shutil.which("pyenv"):  # the shims of pyenv run only selected versions
    installed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True).stdout
    os.environ["PYENV_VERSION"] = ":".join(installed.split())


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the quick selection of tests, or pytest with the arguments given after `--`."""
    session.chdir(ROOT)
    session.install("--editable", ".[test,dev,embedded]")
    session.run("pytest", "-n", "2", *(session.posargs or QUICK))

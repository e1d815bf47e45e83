"""The namespace of LangGraph, and modules of an application that hide a package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import eventlog
import projections
import saver

pytestmark = pytest.mark.server

ROOT = Path(__file__).parent.parent
STARTS = {"script": ["app.py"], "module": ["-m", "app"]}
IMPORTS = {
    "namespace": "from langgraph.checkpoint.redis_streams import RedisStreamSaver",
    "saver": "from saver import RedisStreamSaver",
    "agentlog": (
        "from importlib.metadata import distribution\n"
        "(command,) = distribution('langgraph-checkpoint-redis-streams').entry_points.select(name='agentlog')\n"
        "command.load()"
    ),
}
HIDDEN = [
    (name, form, through)
    for name in ("eventlog", "projections", "saver")
    for form in (f"{name}.py", f"{name}/__init__.py")
    for through in IMPORTS
    if (name, through) != ("saver", "saver")  # then no code of this project runs
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that a wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site-packages")
    return folder / "site-packages"


def run(arguments: list[str], folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with these paths first on `sys.path`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def put(path: Path, text: str) -> Path:
    """Write a file, and make its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def assert_refused(done: subprocess.CompletedProcess[str], name: str, path: Path) -> None:
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: '{name}' is a package of langgraph-checkpoint-redis-streams"), done
    assert f"Python finds {path} first" in last
    assert "Rename it" in last


def test_the_namespace_has_every_public_name(installed: Path, tmp_path: Path) -> None:
    """The namespace has the objects of the packages, and a pickled error its type."""
    app = put(
        tmp_path / "app.py",
        "import json, pickle, sys\n"
        "import langgraph.checkpoint.redis_streams as names\n"
        "import eventlog, langgraph.checkpoint.base, projections, saver, saver.differences, saver.migration.migrate\n"
        "homes = (eventlog, projections, saver, saver.differences, saver.migration.migrate)\n"
        "found = {name: getattr(names, name) for name in names.__all__}\n"
        "assert all(any(vars(home).get(name) is it for home in homes) for name, it in found.items())\n"
        "assert set(found) <= set(dir(names))\n"
        "error = pickle.loads(pickle.dumps(names.ThreadNotFound('gone')))\n"
        "assert type(error) is eventlog.ThreadNotFound\n"
        "print(json.dumps([names.__file__, saver.__file__, repr(error), sorted(found)]))\n",
    )
    done = run([app.name], tmp_path, installed)
    assert not done.returncode, done
    at, beside, error, found = json.loads(done.stdout)
    assert at == str(installed / "langgraph/checkpoint/redis_streams/__init__.py")
    assert beside == str(installed / "saver/__init__.py")
    assert error == "ThreadNotFound('gone')"
    others = {"amigrate", "differences", "migrate"}
    assert set(found) == {*eventlog.__all__, *projections.__all__, *saver.__all__} | others


def test_the_namespace_loads_on_first_use(installed: Path, tmp_path: Path) -> None:
    """An import loads neither LangGraph nor Redis, and a name loads only its floor."""
    code = (
        "import sys, langgraph.checkpoint.redis_streams as names\n"
        "assert not {'langgraph.checkpoint.base', 'langchain_core', 'redis', 'eventlog', 'projections'} & set(sys.modules)\n"
        "names.EventLogError\n"
        "assert not {'langgraph.checkpoint.base', 'langchain_core', 'projections'} & set(sys.modules)\n"
    )
    done = run(["-c", code], tmp_path, installed)
    assert not done.returncode, done


def test_the_namespace_has_no_other_name(installed: Path, tmp_path: Path) -> None:
    """A name that does not exist raises an ImportError that names it."""
    done = run(["-c", "from langgraph.checkpoint.redis_streams import Nothing"], tmp_path, installed)
    assert "ImportError: cannot import name 'Nothing' from 'langgraph.checkpoint.redis_streams'" in done.stderr


def test_an_editable_install_has_the_namespace(tmp_path: Path) -> None:
    """The folders that an editable install adds to `sys.path` contain everything."""
    build = "import sys; from hatchling.build import build_editable; build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site-packages")
    (links,) = (tmp_path / "site-packages").glob("*.pth")
    folders = [Path(line) for line in links.read_text().splitlines()]
    code = (
        "import langgraph.checkpoint.redis_streams as names; print(names.__file__, names.RedisStreamSaver.__module__)"
    )
    done = run(["-c", code], tmp_path, *folders)
    assert done.stdout.split() == [
        str(ROOT / "saver/namespace/langgraph/checkpoint/redis_streams/__init__.py"),
        "saver.saver",
    ]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("name", "form", "through"), HIDDEN)
def test_a_module_that_hides_a_package_is_named(
    installed: Path, tmp_path: Path, name: str, form: str, through: str, start: str
) -> None:
    """The error names the hiding file and the remedy, and the file does not run."""
    path = put(tmp_path / form, "raise SystemExit('the application was run')\n")
    put(tmp_path / "app.py", IMPORTS[through])
    assert_refused(run(STARTS[start], tmp_path, installed), name, path)


def test_an_application_of_that_name_is_named(installed: Path, tmp_path: Path) -> None:
    """The error names a script that has the name of a package."""
    path = put(tmp_path / "saver.py", IMPORTS["namespace"])
    assert_refused(run(["saver.py"], tmp_path, installed), "saver", path)


@pytest.mark.parametrize("name", ["eventlog", "projections", "saver"])
def test_a_module_that_was_imported_before_is_named(installed: Path, tmp_path: Path, name: str) -> None:
    """The error names a module that the application has imported before."""
    path = put(tmp_path / f"{name}.py", "")
    put(tmp_path / "app.py", f"import {name}\n{IMPORTS['namespace']}")
    assert_refused(run(["app.py"], tmp_path, installed), name, path)


@pytest.mark.parametrize("start", STARTS)
def test_names_inside_a_package_hide_nothing(installed: Path, tmp_path: Path, start: str) -> None:
    """Modules inside a package, and folders without Python, hide nothing."""
    for name in ("eventlog", "projections", "saver"):
        put(tmp_path / "own" / f"{name}.py", f"NAME = 'own.{name}'\n")
        put(tmp_path / name / "notes.txt", "")
    put(tmp_path / "own" / "__init__.py", "")
    put(
        tmp_path / "app.py",
        f"from own import eventlog, projections, saver\n{IMPORTS['namespace']}\n{IMPORTS['agentlog']}\n"
        "print(eventlog.NAME, projections.NAME, saver.NAME, RedisStreamSaver.__name__)\n",
    )
    done = run(STARTS[start], tmp_path, installed)
    assert done.stdout == "own.eventlog own.projections own.saver RedisStreamSaver\n", done

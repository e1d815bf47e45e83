"""Every block and command of the documents runs, and every link has a target."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.document_stage import ROOT, Stage
from tests.documents import Block, Command, agree, anchors, blocks, commands, links, normalized
from tests.servers import RunningServer

RUN = ("README", "GUIDE", "FEED", "AUDIT", "CLI", "OPERATIONS", "SECURITY", "COMPARISON", "PERFORMANCE")
"""Documents whose blocks run, where they exist. Links are followed in all documents."""
MOST_NOT_RUN = 4
LANGUAGES = {"python", "sh", "console", "json", "text", "diff", "toml", "yaml", "redis", ""}

USES = {
    "README.md": """
from app import app
from fastapi.testclient import TestClient

with TestClient(app) as client:
    for turn in range(2):
        reply = client.post("/chat/web", params={"text": f"turn {turn}"})
        assert reply.json() == f"You said: turn {turn}", reply.text
""",
    "GUIDE.md": r"""
import subprocess
from pathlib import Path

Path("test_saver.py").write_text("def test_a_saver(saver):\n    assert list(saver.list(None)) == []\n")
subprocess.run(["pytest", "-q", "test_saver.py"], check=True, stdout=subprocess.DEVNULL)
""",
}
"""Code that uses what a document defines but does not call: its web application, its fixture for tests."""

RUN_FILES = [path for name in RUN if (path := ROOT / f"{name}.md").exists()]
ALL_FILES = [*sorted(ROOT.glob("*.md")), ROOT / "tests/README.md"]


@pytest.mark.timeout(900)  # a document has up to thirty commands, each a process of its own
@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.name)
def test_every_block_runs(path: Path, private_server: Callable[..., RunningServer], tmp_path: Path) -> None:
    """The blocks of a document run in order, and print the output that it shows."""
    text = path.read_text()
    with Stage(path.name, text, tmp_path, private_server) as stage:
        stage.run(list(blocks(text)))
        stage.use(USES.get(path.name, ""))


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.name)
def test_every_block_has_a_language_that_is_known(path: Path) -> None:
    """Every block has a known language, because others do not run."""
    unknown = [(one.line, one.language) for one in blocks(path.read_text()) if one.language not in LANGUAGES]
    assert unknown == []


def test_few_blocks_are_not_run() -> None:
    """Each block that is not run names its reason, and there are few."""
    found = [f"{path.name}:{one.line}: {one.not_run}" for path in RUN_FILES for one in blocks(path.read_text())]
    left_out = [line for line in found if not line.endswith(": ")]
    assert len(left_out) <= MOST_NOT_RUN, left_out


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_has_a_target(path: Path) -> None:
    """Files and anchors exist; addresses of other sites have a host."""
    wrong = [target for target in links(path.read_text()) if not _has_target(path, target)]
    assert wrong == []


def _has_target(path: Path, target: str) -> bool:
    if target.startswith(("https://", "http://")):
        parts = urlsplit(target)
        return parts.scheme == "https" and "." in parts.netloc
    name, _, anchor = target.partition("#")
    file = path.parent / name if name else path
    return file.exists() and (not anchor or anchor in anchors(file.read_text()))


def test_every_file_that_the_tests_document_names_exists() -> None:
    """The table of `tests/README.md` names every test file, and each named file or folder exists."""
    named = set(re.findall(r"`([\w./*]+)`", (ROOT / "tests/README.md").read_text()))
    files = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    folders = {Path(one).relative_to("tests") for one in named if one.startswith("tests/") and "." not in one}
    assert all((ROOT / "tests" / folder).is_dir() for folder in folders)
    tests = {one for one in named if one.startswith("test_")}
    assert tests <= {file.stem for file in files}
    assert {file.stem for file in files if not any(file.is_relative_to(one) for one in folders)} - tests == set()
    known = {
        path.name
        for top in ("eventlog", "projections", "saver", "scripts", "tests")
        for path in (ROOT / top).rglob("*.py")
    }
    assert {Path(one).name for one in named if one.endswith(".py") and "*" not in one} - known == set()


# The reader of documents

DOCUMENT = """\
# A `title`, with [a link](other.md)

Text with a [picture](charts/one.png "One") and `[code](nowhere)`.

```python
await nothing  # [not a link](nowhere)
```

## Notes
## Notes

<!-- not run: needs Sentinel -->
```sh
agentlog log 42 \\
    --patch
# a comment
agentlog lag billing  # exit code 1 if it is late
```

<!-- runs until stopped -->
```console
$ agentlog tail --follow
one
$ agentlog threads
```
"""


def test_blocks_have_lines_and_directives() -> None:
    """Blocks have a language, a first line, and the comment directly before them."""
    found = [(one.language, one.line, one.not_run, one.endless) for one in blocks(DOCUMENT)]
    assert found == [("python", 6, "", False), ("sh", 14, "needs Sentinel", False), ("console", 22, "", True)]


def test_commands_have_continuations_outputs_and_exit_codes() -> None:
    """Commands have continuation lines, outputs, and exit codes from comments."""
    _, shell, console = blocks(DOCUMENT)
    first, second = commands(shell)
    assert (first.text, first.output, first.exit_code) == ("agentlog log 42 \\\n    --patch", None, 0)
    assert (second.line, second.exit_code) == (17, 1)
    follow, threads = commands(console)
    assert (follow.text, follow.output, follow.endless) == ("agentlog tail --follow", "one", True)
    assert threads == Command("agentlog threads", 24, "")


def test_links_and_anchors_are_githubs() -> None:
    """Links are outside of code, and repeated slugs of headings have numbers."""
    assert links(DOCUMENT) == ["other.md", "charts/one.png"]
    assert anchors(DOCUMENT) == {"a-title-with-a-link", "notes", "notes-1"}


def test_a_block_can_be_a_file() -> None:
    """The first line of a block can name a file."""
    assert Block("python", "# hello.py\nprint()\n", 1).file == "hello.py"
    assert Block("python", "# A comment.\n", 1).file is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2026-11-22T12:00:00.123Z  a", "2027-01-02T01:02:03Z a"),
        ("1764412345678-0", "1764499999999-0"),
        ("1f0c5a3e-7b8d-6c2a-9e4f-0123456789ab", "1f0c5a3e-7b8d-6c2a-8e4f-0123456789cd"),
        ("refund-desk-0123abcd", "refund-desk-deadbeef"),
        ("redis at localhost:6379", "redis at 127.0.0.1:12345"),
        ("2026-11-22T12:00:00Z 3 writes 1 -", "2026-11-22T12:00:01Z  4 writes 1 -"),
        ("12 bytes in 3.5 s", "1,200 bytes in 4 s"),
    ],
)
def test_variable_parts_are_equal(one: str, other: str) -> None:
    """Times, ids, addresses, sizes and durations may differ from the document."""
    assert normalized(one) == normalized(other)


def test_outputs_agree_but_for_lines_left_out() -> None:
    """A line `...` stands for any lines, and all other lines must be there in order."""
    assert agree("a\n...\nd", "a\nb\nc\nd\n")
    assert agree("a\n...\nd", "a\nd\n")
    assert not agree("a\nd", "a\nb\nd\n")
    assert not agree("count 3", "count 4")
    assert agree("a\nb", "b\na")
    assert not agree("a\nb", "a")

"""The checks of scripts/prose, on short texts."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def prose() -> Any:
    """Load the script as a module."""
    loader = SourceFileLoader("prose", str(ROOT / "scripts/prose"))
    spec = spec_from_loader("prose", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


LONG = "word " * 31


def test_every_word_to_avoid_is_found(prose: Any) -> None:
    """A word is found across lines and in capitals, but not inside other words."""
    for word in prose.AVOID:
        assert [line for line, _ in prose.avoided(7, f"one\n{word.title()}.")] == [8]
    assert list(prose.avoided(1, "at\nhand")) == [(1, "avoid 'at hand'")]
    assert list(prose.avoided(1, "renewed, untold, forever")) == []


def test_long_sentences_of_markdown_are_found(prose: Any) -> None:
    """A long sentence has the line on which its paragraph or list item begins."""
    found = list(prose.markdown(f"# Title\n\nShort.\n{LONG}\n\n- Short.\n- {LONG}"))
    assert [line for line, _ in found] == [3, 7]
    assert all("31 words" in words or "32 words" in words for _, words in found)


def test_sentences_end_where_they_end(prose: Any) -> None:
    """A sentence ends at a full stop, not at a semicolon or an abbreviation.

    A link counts by its text.
    """
    half = "word " * 20
    assert list(prose.markdown(f"{half.strip()}. {half.strip()}! (Not {half.strip()}.) {half}")) == []
    assert len(list(prose.markdown(f"{half.strip()}; {half}"))) == 1
    assert len(list(prose.markdown(f"{half}e.g. {half}"))) == 1
    assert list(prose.markdown("[one two](https://example.com/a-b) " * 15)) == []


@pytest.mark.parametrize(
    "text", [f"```text\n{LONG}told\n```\n", f"| {LONG} |\n|---|\n", f"<!-- {LONG} told -->", "`told`"]
)
def test_code_tables_and_comments_are_left_out(prose: Any, text: str) -> None:
    """Long sentences in tables are allowed, and everything in code and comments."""
    assert list(prose.markdown(text)) == []


def test_words_in_tables_are_found(prose: Any) -> None:
    """Words in tables are checked."""
    assert list(prose.markdown("| told |\n")) == [(1, "avoid 'told'")]


def test_python_is_checked_in_comments_and_strings(prose: Any) -> None:
    """Comments and strings are checked, but not names."""
    source = '"""Read anew."""\ntold = 1  # told\nprint(f"{name} in vain")\n'
    assert [line for line, _ in prose.python(source)] == [1, 2, 3]


def test_lua_is_checked_in_comments(prose: Any) -> None:
    """Comments are checked, but not code."""
    assert list(prose.lua("local told = 1 -- for ever\n")) == [(1, "avoid 'for ever'")]


def test_a_finding_is_printed_and_fails(prose: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finding has a file and line; the exit code is 1 with findings, else 0."""
    (tmp_path / "bad.md").write_text("Read anew.\n")
    (tmp_path / "good.md").write_text("Read again.\n")
    assert prose.main([str(tmp_path / "good.md")]) == 0
    assert prose.main([str(tmp_path / "bad.md")]) == 1
    assert capsys.readouterr().out == f"{tmp_path / 'bad.md'}:1: avoid 'anew'\n"


def test_documents_and_code_are_checked(prose: Any) -> None:
    """All documents and all code are checked."""
    names = {path.name for path in prose.files()}
    assert {"README.md", "ARCHITECTURE.md", "saver.py", "log.lua", "test_package.py"} <= names

"""CLI.md and the commands: each names what the other has, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from saver.cli.app import _SHARED
from tests.saver.cli.commands import COMMANDS, GROUP, ROOT

TEXT = (ROOT / "CLI.md").read_text()
SHARED = {f"--{one.name.replace('_', '-')}" for one in _SHARED} | {"--help", "-h"}
NAMED = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def section(title: str) -> str:
    """The part of the document under a heading."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, f"CLI.md has no heading {title!r}"
    return found[1]


def rows(part: str) -> Iterator[tuple[str, str]]:
    """The first cell of each row of options, without its code marks, and the row."""
    for line in part.splitlines():
        if line.startswith("| `-"):
            yield line.split(" | ")[0].strip("| "), line


def options_of(name: str) -> set[str]:
    """The options of a command, but for those that all commands have."""
    return {word for one in COMMANDS[name].params if one.param_type_name == "option" for word in one.opts} - SHARED


def test_every_command_has_a_section_and_a_link() -> None:
    """The headings and the table of questions name the commands, and no others."""
    headings = re.findall(r"^### agentlog (\S+)$", TEXT, re.MULTILINE)
    assert sorted(headings) == sorted(COMMANDS)
    assert len(headings) == len(COMMANDS)
    assert set(re.findall(r"\(#agentlog-(\w+)\)", TEXT)) == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_section_names_the_options_and_arguments_of_its_command(name: str) -> None:
    """Each option has a row, each row an option, and each argument stands in the text."""
    part = section(f"agentlog {name}")
    assert {word for cell, _ in rows(part) for word in NAMED.findall(cell)} == options_of(name)
    for one in COMMANDS[name].params:
        if one.param_type_name == "argument":
            for word in re.findall(r"[A-Z]+", one.metavar or one.name.upper()):
                assert f"`{word}`" in part, (name, word)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_section_has_an_example_with_known_options(name: str) -> None:
    """The example calls the command, and every named option exists."""
    part = section(f"agentlog {name}")
    examples = re.findall(rf"^\$ agentlog {name}\b(.*)$", part, re.MULTILINE)
    assert examples
    known = options_of(name) | SHARED
    assert {word for one in examples for word in NAMED.findall(one.split(" #")[0])} <= known
    everywhere = {word for one in COMMANDS for word in options_of(one)}
    assert set(re.findall(r"`(--[a-z-]+)", part)) <= everywhere | SHARED


def test_the_options_of_every_command() -> None:
    """The shared options have rows; options of `agentlog` itself stand in the text."""
    part = section("For every command")
    assert {word for cell, _ in rows(part) for word in NAMED.findall(cell)} == SHARED
    own = {word for one in GROUP.params for word in one.opts} - SHARED
    sentence = re.search(r"^`agentlog` itself .*$", part, re.MULTILINE)
    assert sentence is not None
    assert own == set(NAMED.findall(sentence[0]))


def test_the_environment_variables() -> None:
    """The table has each variable that the command line reads."""
    named = set(re.findall(r"^\| `([A-Z_]+)` \|", section("For every command"), re.MULTILINE))
    read = set()
    for path in (ROOT / "saver/cli").glob("*.py"):
        read |= set(re.findall(r'"((?:REDIS|AGENTLOG|LANGGRAPH)_[A-Z_]+)"', path.read_text()))
    assert named == read

"""Read the blocks, commands, links and headings of Markdown files.

Nothing here runs a block: `tests/document_stage.py` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import dedent

ENDLESS = ("--follow", "-f", "--watch")
"""Options with which a command runs until it gets a signal."""

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL
)
_DIRECTIVE = re.compile(r"<!-- (?P<word>not run: .+?|runs until stopped) -->\s*\Z")
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)(?: \"[^\"]*\")?\)|^\[[^\]]+\]:\s+(?P<named>\S+)", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_EXIT_CODE = re.compile(r"#.*\bexit code (\d+)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document, and the comment directly before it."""

    language: str
    text: str
    line: int
    """Number of its first line in the file, from 1."""
    not_run: str = ""
    """The reason why it is not run, from a comment `<!-- not run: REASON -->` directly before it."""
    endless: bool = False
    """Whether it runs until a signal ends it, from a comment `<!-- runs until stopped -->`."""

    @property
    def file(self) -> str | None:
        """The file that the block shows: its first line is `# NAME.py`."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found[1] if found and self.language == "python" else None


@dataclass(frozen=True)
class Command:
    """A command of a `sh` or `console` block."""

    text: str
    line: int
    output: str | None = None
    """The output that the document shows; None in `sh` blocks."""

    @property
    def exit_code(self) -> int:
        """The exit code that a comment next to the command names, else 0."""
        found = _EXIT_CODE.search(self.text)
        return int(found[1]) if found else 0

    @property
    def endless(self) -> bool:
        """Whether it runs until it gets a signal."""
        return bool(set(ENDLESS) & set(self.text.split("#")[0].split()))


def blocks(text: str) -> Iterator[Block]:
    """Yield every fenced block, from top to bottom."""
    for found in _FENCE.finditer(text):
        directive = _DIRECTIVE.search(text, 0, found.start())
        word = directive["word"] if directive else ""
        yield Block(
            found["language"],
            dedent(found["text"]),
            text.count("\n", 0, found.start()) + 2,
            not_run=word.removeprefix("not run: ") if word.startswith("not run") else "",
            endless=word == "runs until stopped",
        )


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a block.

    A `sh` block has a command per line. A `console` block has a command after each `$ `, followed by its output.
    """
    prompt = "$ " if block.language == "console" else ""
    lines = block.text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(prompt) and not _continues(lines, number)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        last = start
        while _continues(lines, last + 1):
            last += 1
        text = "\n".join(lines[start : last + 1]).removeprefix(prompt)
        output = "\n".join(lines[last + 1 : end]) if prompt else None
        if text.strip() and not text.lstrip().startswith("#"):
            yield Command(text, block.line + start, output)


def _continues(lines: list[str], number: int) -> bool:
    return 0 < number < len(lines) and lines[number - 1].endswith("\\")


def prose(text: str) -> str:
    """Return a document without its fenced blocks and comments, line by line."""
    for pattern in (_FENCE, re.compile(r"<!--.*?-->", re.DOTALL)):
        text = pattern.sub(lambda found: "\n" * found[0].count("\n"), text)
    return text


def links(text: str) -> list[str]:
    """Return the targets of all links and pictures."""
    bare = re.sub(r"`[^`\n]*`", "`", prose(text))
    return [found["target"] or found["named"] for found in _LINK.finditer(bare)]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to a document's headings."""
    counts: dict[str, int] = {}
    found = set()
    for heading in _HEADING.findall(prose(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        repeats = counts.get(slug, 0)
        counts[slug] = repeats + 1
        found.add(f"{slug}-{repeats}" if repeats else slug)
    return found


VARIABLE = (
    (r"refund-desk-[0-9a-f]{8}", "THREAD"),
    (r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?", "TIME"),
    (r"\b\d\d:\d\d:\d\d(?:\.\d+)?Z?", "TIME"),
    (r"\b1\d{12}-\d+\b", "ENTRY"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}(?:-[0-9a-f]{4}(?:-[0-9a-f]{0,12})?)?", "ID"),
    (r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,64}\b(?:\.\.\.|\N{HORIZONTAL ELLIPSIS})?", "HEX"),
    (r"(?:unix://[^\s'\"]+|\b(?:localhost|127\.0\.0\.1):\d+)", "SERVER"),
    (r"\b\d[\d,]*(?:\.\d+)? ?(?:bytes|KiB|MiB|kB|B)\b", "SIZE"),
    (r"\b\d+(?:\.\d+)? ?(?:s|ms|us|seconds?|minutes?)\b", "DURATION"),
    (r"(\.|\N{HORIZONTAL ELLIPSIS}){4,}|[-\N{BOX DRAWINGS LIGHT HORIZONTAL}]{4,}", "RULE"),
    (r"\bTIME +\d+ (?=checkpoint|writes)", "TIME NUMBER "),
    (r"[ \t]+", " "),
)
"""Parts of an output that differ from run to run, and their names."""


def normalized(output: str) -> list[str]:
    """Return the lines of an output that have text, with variable parts replaced."""
    for pattern, name in VARIABLE:
        output = re.sub(pattern, name, output)
    return [line.strip() for line in output.splitlines() if line.strip()]


def agree(shown: str, printed: str) -> bool:
    """Return whether a printed output is the one that a document shows.

    A line `...` stands for any number of lines. Lines may come in another order where none is left out: LangGraph saves the writes of a step in threads.
    """
    if sorted(normalized(shown)) == sorted(normalized(printed)):
        return True
    parts = [re.escape(line) for line in normalized(shown)]
    pattern = "".join(r"(?:.*\n)*?" if part == r"\.\.\." else part + "\n" for part in parts)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in normalized(printed))) is not None

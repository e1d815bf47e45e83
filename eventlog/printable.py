"""Text from logs, feeds and handlers in a form that cannot forge a line, a field or a command.

Anyone who may write to the server, or call an application, can choose ids, stamps and messages of errors.
"""

from __future__ import annotations

import shlex

__all__ = ["as_argument", "printable", "word"]

_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0\U0001d159")
"""Letters and symbols that look like a blank, though Unicode counts them as printable."""
_STYLES = frozenset("\ufe0e\ufe0f")
"""Marks that show the character before them as a symbol or as an emoji; common in messages."""
_INVISIBLE = frozenset("\u034f\u17b4\u17b5\u180b\u180c\u180d\u180f").union(
    map(chr, range(0xFE00, 0xFE10)), map(chr, range(0xE0100, 0xE01F0))
)
"""Marks that nobody sees, though Unicode counts them as printable: two ids that differ in them look the same."""
_IN_IDS = _BLANK | _INVISIBLE
_IN_TEXT = _IN_IDS - _STYLES


def _is_seen(text: str, unseen: frozenset[str] = _IN_IDS) -> bool:
    """Whether all characters can be printed and seen, and those that look like a blank are blanks."""
    return text.isprintable() and (text.isascii() or unseen.isdisjoint(text))


def printable(text: str) -> str:
    r"""Text with escapes such as `\x1b` for characters that cannot be printed or seen, or that look like a blank.

    Marks for the style of an emoji stay.
    """
    return _escaped(text, _IN_TEXT)


def _escaped(text: str, unseen: frozenset[str] = _IN_IDS) -> str:
    if _is_seen(text, unseen):
        return text
    return "".join(one if _is_seen(one, unseen) else one.encode("unicode_escape").decode() for one in text)


def word(text: str, apart: str = "") -> str:
    """An id as one word: as it is, or its `repr` if that is ambiguous.

    That is so if it is "-" (which stands for nothing), begins with a quote, or has a blank, a character that cannot be
    printed or seen, or one of `apart`, which separate the words around it. The empty text stays empty.
    """
    is_plain = _is_seen(text) and " " not in text and text != "-" and text[:1] not in {"'", '"'}
    return text if is_plain and not any(one in text for one in apart) else _escaped(repr(text))


def as_argument(text: str) -> str:
    """An id as a shell takes it, for command lines in messages."""
    if _is_seen(text):
        return shlex.quote(text)
    return "$'" + "".join(map(_in_shell, text)) + "'"  # bash, zsh and ksh


def _in_shell(one: str) -> str:
    if one in "'\\":
        return "\\" + one
    if _is_seen(one):
        return one
    return f"\\x{ord(one):02x}" if ord(one) < 0x80 else f"\\U{ord(one):08x}"

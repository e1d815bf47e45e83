"""Text from logs, feeds and handlers in a form that cannot forge a line, a field or a command.

Anyone who may write to the server, or call an application, can choose ids, stamps and messages of errors.
"""

from __future__ import annotations

import shlex

__all__ = ["as_argument", "printable", "word"]

_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0\U0001d159")
"""Letters and symbols that look like a blank, though Unicode counts them as printable."""


def _is_seen(text: str) -> bool:
    """Whether all characters can be printed, and those that look like a blank are blanks."""
    return text.isprintable() and (text.isascii() or _BLANK.isdisjoint(text))


def printable(text: str) -> str:
    r"""Text with escapes such as `\x1b` for characters that cannot be printed, or that look like a blank."""
    if _is_seen(text):
        return text
    return "".join(one if _is_seen(one) else one.encode("unicode_escape").decode() for one in text)


def word(text: str, apart: str = "") -> str:
    """An id as one word: as it is, or its `repr` if that is ambiguous.

    That is so if it is "-" (which stands for nothing), begins with a quote, or has a blank, a character that cannot be
    printed, or one of `apart`, which separate the words around it. The empty text stays empty.
    """
    is_plain = _is_seen(text) and " " not in text and text != "-" and text[:1] not in {"'", '"'}
    return text if is_plain and not any(one in text for one in apart) else printable(repr(text))


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

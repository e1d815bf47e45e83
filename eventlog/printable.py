"""Text from logs, feeds and handlers in a form that cannot forge a line, a field or a command.

Anyone who may write to the server, or call an application, can choose ids, stamps and messages of errors.
"""

from __future__ import annotations

import shlex

__all__ = ["as_argument", "printable", "word"]


def printable(text: str) -> str:
    r"""Text with escapes such as `\x1b` for characters that cannot be printed."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def word(text: str, apart: str = "") -> str:
    """An id as one word: as it is, or its `repr` if that is ambiguous.

    That is so if it is "-" (which stands for nothing), begins with a quote, or has a blank, a character that cannot be
    printed, or one of `apart`, which separate the words around it. The empty text stays empty.
    """
    is_plain = text.isprintable() and " " not in text and text != "-" and text[:1] not in {"'", '"'}
    return text if is_plain and not any(one in text for one in apart) else repr(text)


def as_argument(text: str) -> str:
    """An id as a shell takes it, for command lines in messages."""
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_in_shell, text)) + "'"  # bash, zsh and ksh


def _in_shell(one: str) -> str:
    if one in "'\\":
        return "\\" + one
    if one.isprintable():
        return one
    return f"\\x{ord(one):02x}" if ord(one) < 0x80 else f"\\U{ord(one):08x}"

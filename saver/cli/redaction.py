"""Messages without the passwords of connection URLs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, quote, unquote

__all__ = ["redacted"]

LEAST = 4
"""Characters from which on a password is looked for by itself; a shorter one would be found in any text."""
HIDDEN = "***"

_CREDENTIALS = re.compile(r"(://)\S*@")
_OPTION = re.compile(r"(password=)[^\s&'\"]+", re.IGNORECASE)


def redacted(text: str, url: str | None = None) -> str:
    """Text without the credentials of URLs in it, and without the passwords of `url` wherever they stand."""
    text = _OPTION.sub(rf"\1{HIDDEN}", _CREDENTIALS.sub(rf"\1{HIDDEN}@", text))
    for secret in sorted(_passwords(url or ""), key=len, reverse=True):
        if len(secret) >= LEAST:
            text = text.replace(secret, HIDDEN)
    return text


def _passwords(url: str) -> Iterator[str]:
    """What may be a password of a URL, as it stands there, and decoded."""
    rest = url.partition("://")[2]
    written = rest.rpartition("@")[0].partition(":")[2]
    options = [value for name, value in parse_qsl(rest.partition("?")[2]) if "password" in name.lower()]
    for one in (written, *options):
        yield from {one, unquote(one), quote(one, safe="")}
    yield from re.split(r"[/?#@:]", written)  # one that was not encoded, as a reader of URLs may take it apart

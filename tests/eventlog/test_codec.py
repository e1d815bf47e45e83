"""CBOR of plain data: what is decoded, and what is refused."""

from __future__ import annotations

import cbor2
import pytest

from eventlog import codec
from eventlog.codec import Malformed, decode, encode


@pytest.mark.parametrize("mark", [b"%" * 16, b"%b" * 8, bytes(16), b"\xff" * 16])
def test_whatever_the_mark_is(monkeypatch: pytest.MonkeyPatch, mark: bytes) -> None:
    """What stands behind data while it is decoded is drawn by lot, once in a process."""
    monkeypatch.setattr(codec, "_MARK", mark)
    monkeypatch.setattr(codec, "_ENCODED_MARK", cbor2.dumps(mark))
    for value in ({"a": [1, None, b"%"]}, b"", mark, [mark, mark]):
        assert decode(encode(value)) == value
        for wrong in (encode(value) + b"\x00", encode(value)[:-1]):
            with pytest.raises(Malformed):
                decode(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\x01\x01",
        b"\x58\x11",
        b"\x81",
        b"\xa1aa",
        b"\x82\x01",
        b"\xd8\x1c\x01",
        b"\xc1\x01",
        b"\x9f\xff",
        b"\xff",
        b"%b",
    ],
)
def test_anything_else_is_malformed(wrong: bytes) -> None:
    """Too little, too much, tags, indefinite lengths."""
    with pytest.raises(Malformed):
        decode(wrong)

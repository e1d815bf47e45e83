"""Bytes and fields that this project never writes are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import zstandard

from eventlog.codec import Malformed, base_of, decode_texts, decompressed, encode, encode_keyframe, split_keyframe
from eventlog.errors import CorruptEntry
from eventlog.events import decode_entry, decode_seen, decode_versions
from eventlog.feed.activity import unpack_pointer

UNSIZED = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100)


@pytest.mark.parametrize(
    "read",
    [
        lambda: decompressed(b"k" + encode_keyframe("msgpack", UNSIZED, bytes(8))[1:]),
        lambda: base_of(b"D\xff\xff3:1-0"),
        lambda: split_keyframe(b"K1:m"),
        lambda: decode_texts(encode({"a": 1})),
        lambda: decode_texts(encode(["a", 1])),
        lambda: decode_versions(encode(["channel"])),
        lambda: decode_seen(encode([1])),
    ],
)
def test_malformed(read: Callable[[], object]) -> None:
    """Each reader refuses bytes of another form."""
    with pytest.raises(Malformed):
        read()


@pytest.mark.parametrize(
    ("kind", "envelope"),
    [
        (b"writes", [1]),
        (b"copied", {"source": "t", "seq": 1, "digest": "d", "for": 7}),
        (b"runs_deleted", {"runs": [1], "dropped": [], "hidden": [], "gone": []}),
        (b"pruned", {"strategy": "s", "dropped": [1], "hidden": [], "gone": []}),
    ],
)
def test_envelopes_of_another_form(kind: bytes, envelope: object) -> None:
    """An entry whose envelope lacks its parts is an error that names thread and entry."""
    flat = [b"n", b"1", b"d", b"x", b"k", kind, b"v", b"1", b"e", encode(envelope), b"t", b"", b"a", b""]
    with pytest.raises(CorruptEntry, match="Entry 5-0 of thread 't'"):
        decode_entry("t", b"5-0", flat)


@pytest.mark.parametrize("packed", [b"", b"x" * 40, b"0" * 26 + b"1:a"])
def test_waiting_events_of_another_form(packed: bytes) -> None:
    """A waiting event that another program wrote is an error that names its partition."""
    with pytest.raises(CorruptEntry, match="waiting event in partition 3"):
        unpack_pointer(3, packed)

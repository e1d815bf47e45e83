"""Reads parts of views together with the end of the stream they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eventlog.flow import Call, Flow, load_script

__all__ = ["PAGE", "Difference", "Views", "difference", "read_views"]

CHECK_VIEWS = load_script("projections/maintenance/check_views")
PAGE = 1000
"""Most fields, and most members, in one call of `read_views`."""


class Difference(NamedTuple):
    """Something in a view that differs from the log."""

    view: str
    """"log", "index", "order", "head" or "registry"."""
    what: str
    """The part that differs, with its contents in the view and by the log."""


class Views(NamedTuple):
    """The reply of `check_views.lua`."""

    last: bytes
    """Entry id of the stream's last entry, b"" if there is none."""
    length: int
    """Number of entries in the stream."""
    fields: int
    """Number of fields in the hash."""
    members: int
    """Number of members in the sorted set."""
    values: Sequence[bytes | None]
    scores: Sequence[float | None]


def read_views(keys: tuple[bytes, bytes, bytes], fields: Sequence[bytes], members: Sequence[bytes]) -> Flow[Views]:
    """Reads fields of a hash and scores of a sorted set, with their stream's end.

    One round trip.
    `keys`: of the stream, the hash and the sorted set.
    """
    reply = yield Call(CHECK_VIEWS, keys, [len(fields), *fields, *members])
    views = Views(*reply)
    return views._replace(scores=[None if score is None else float(score) for score in views.scores])


def difference(subject: str, found: object | None, expected: object | None, source: str) -> str:
    """A difference in words.

    None means that the view, or its source, does not have the subject.
    """
    if found is None:
        return f"{subject} is missing"
    if expected is None:
        return f"{subject} is there, but {source} does not have it"
    return f"{subject} is {found}, but by {source} {expected}"

"""Times, durations and places in the feed as they are typed."""

from __future__ import annotations

from datetime import datetime, timedelta

from eventlog.errors import InvalidArgument
from eventlog.feed.position import Position
from eventlog.feed.reading import Start
from projections.time_travel import moment
from saver.cli.output import BadInput

__all__ = ["duration_of", "start_of", "time_of"]


def duration_of(text: str) -> timedelta:
    """A duration such as 7d, 12h, 1h30m or 45s. Raises `BadInput`."""
    try:
        return moment.duration_of(text)
    except InvalidArgument as error:
        raise BadInput(str(error)) from None


def time_of(text: str, local: bool) -> datetime | None:  # noqa: FBT001 - as the option
    """A time in UTC, None for any other text: ISO 8601, in UTC or the local zone if it names none, or that long ago."""
    return moment.parsed_time(text, "local" if local else "utc")


def start_of(text: str, local: bool) -> Start:  # noqa: FBT001 - as the option
    """Where reading begins. Raises `BadInput`."""
    if text in ("beginning", "now"):
        return text
    found = time_of(text, local)
    if found is not None:
        return found
    try:
        return Position.parse(text)
    except InvalidArgument:
        raise BadInput(
            f"--from {text!r:.100} is no place in the feed. It takes beginning, now, a time such as 2026-01-31T12:00:00Z, a "
            "duration such as 30m (that long ago), or the position of an activity, as --json prints it."
        ) from None

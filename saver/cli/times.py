"""Times, durations and places in the feed as they are typed."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from eventlog.errors import InvalidArgument
from eventlog.feed.position import Position
from eventlog.feed.reading import Start
from saver.cli.output import BadInput

__all__ = ["duration_of", "start_of", "time_of"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])")


def duration_of(text: str) -> timedelta:
    """A duration such as 7d, 12h, 1h30m or 45s. Raises `BadInput`."""
    parts = _PART.findall(text)
    if not parts or "".join(map("".join, parts)) != text:
        raise BadInput(f"{text!r:.100} is no duration; write one as 7d, 12h, 30m, 45s, or 1h30m.")
    try:
        found = timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
    except OverflowError:
        raise BadInput(f"{text!r:.100} is too long a duration.") from None
    if found < timedelta(milliseconds=1):
        raise BadInput(f"{text!r:.100} is no time at all; write a millisecond (0.001s) or more.")
    return found


def time_of(text: str, local: bool) -> datetime | None:  # noqa: FBT001 - as the option
    """A time in ISO 8601, in UTC, None for what is none; one without a zone is taken to be in UTC, or in the local zone."""
    try:
        found = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", text))
        if found.tzinfo is None and not local:
            return found.replace(tzinfo=timezone.utc)
        return found.astimezone(timezone.utc)
    except (ValueError, OverflowError):  # in UTC it would be before the year 1, or after 9999
        return None


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
            f"--from {text!r:.100} is no place in the feed. It takes beginning, now, a time such as 2026-01-31T12:00:00Z, or the "
            "position of an activity, as --json prints it."
        ) from None

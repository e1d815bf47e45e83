"""Moments in the life of a thread, and the one parser of their names. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal, Union

from eventlog.errors import InvalidArgument
from eventlog.events import Recorded, entry_ms

__all__ = ["FORMS", "Moment", "When", "Zone", "duration_of", "moment_of", "parsed_time", "time_of"]

When = Union[datetime, str, bytes, int]
"""A datetime with a time zone, a sequence number, or a text of one of the `FORMS`."""
Zone = Literal["written", "utc", "local"]
"""The zone of a time that is written without one: "written" refuses it."""

FORMS = (
    "a time such as 2026-01-31T12:00:00Z, a duration such as 30m (that long ago), an entry id such as 1795392694336-0, "
    "or a sequence number such as 17 or @17"
)
"""The accepted texts, as errors and the command line's help name them."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ENTRY = re.compile(r"[0-9]{1,18}-0")
_NUMBER = re.compile(r"@?[0-9]{1,17}")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?[smhdw])+")
_PART = re.compile(r"([0-9.]+)([smhdw])")


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in a log: up to a time, or up to a sequence number.

    Times are those of entries, by the server's clock, in ms since 1970.
    """

    ms: int | None = None
    sequence: int | None = None
    words: str = ""
    """How errors name it."""
    entry_id: bytes | None = None
    """The entry that was named, where one was; `ms` is its time."""
    checkpoint: str | None = None
    """A text that may be the beginning of a checkpoint id, which then takes precedence."""

    @property
    def is_checkpoint(self) -> bool:
        """Whether it can be nothing but a checkpoint id."""
        return self.ms is None and self.sequence is None

    def covers(self, recorded: Recorded) -> bool:
        """Whether an event had happened by then."""
        if self.sequence is not None:
            return recorded.sequence <= self.sequence
        return self.ms is not None and entry_ms(recorded.entry_id) <= self.ms

    def before(self) -> Moment:
        """The moment right before the events of this one."""
        if self.sequence is not None:
            return Moment(None, self.sequence - 1, self.words)
        return Moment((self.ms or 0) - 1, None, self.words)


def moment_of(
    when: When | Moment,
    field: str = "when",
    *,
    thread: str = "",
    zone: Zone = "written",
    checkpoints: bool = False,
    now: datetime | None = None,
) -> Moment:
    """A moment as callers and users write it.

    It is a datetime, a sequence number, or a text of one of the `FORMS`.
    `zone` holds for a text without a zone. With `checkpoints`, a text may be the beginning of a checkpoint id too.
    Durations count back from `now`, by default by this machine's clock.
    Raises `InvalidArgument` or `TypeError`, naming `field` and `thread`.
    """
    if isinstance(when, Moment):
        return when
    subject = f"Thread {thread!r:.100}: {field}" if thread else field
    if isinstance(when, datetime):
        if when.utcoffset() is None:
            raise InvalidArgument(f"{subject} {when!r} has no time zone; pass e.g. datetime.now(timezone.utc).")
        return _at(when)
    if isinstance(when, int) and not isinstance(when, bool):
        return Moment(None, when, f"event number {when}")
    if not isinstance(when, (str, bytes)):
        raise TypeError(f"{subject} must be a datetime, an int or a text, not {type(when).__name__}. Pass {FORMS}.")
    text = when if isinstance(when, str) else when.decode(errors="replace")
    if text.startswith("@") and _NUMBER.fullmatch(text):
        return Moment(None, int(text[1:]), f"event number {text[1:]}")
    checkpoint = text if checkpoints else None
    if _NUMBER.fullmatch(text):
        return Moment(None, int(text), f"event number {text}", checkpoint=checkpoint)
    if _ENTRY.fullmatch(text):
        return Moment(int(text[:-2]), None, f"entry {text}", text.encode(), checkpoint)
    found = parsed_time(text, "utc" if zone == "written" else zone, now)
    if found is None:
        if checkpoints:
            return Moment(words=f"checkpoint {text}", checkpoint=text)
        raise InvalidArgument(f"{subject} {text!r:.100} is no moment. Pass {FORMS}.")
    if zone == "written" and parsed_time(text, "written", now) is None:
        raise InvalidArgument(f"{subject} {text!r:.100} has no time zone; write it as 2026-01-31T12:00:00Z.")
    return _at(found, checkpoint)


def _at(when: datetime, checkpoint: str | None = None) -> Moment:
    return Moment((when - _EPOCH) // timedelta(milliseconds=1), None, when.isoformat(), checkpoint=checkpoint)


def parsed_time(text: str, zone: Zone, now: datetime | None = None) -> datetime | None:
    """The time that a text names, in UTC; None if it names none.

    A text is in ISO 8601, or a duration for that long ago.
    """
    try:
        if _DURATION.fullmatch(text):
            return (now or datetime.now(timezone.utc)) - duration_of(text)
        if "\0" in text:  # Python 3.11 ignores it at the end
            return None
        found = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", text))
        if found.tzinfo is None and zone != "local":
            return found.replace(tzinfo=timezone.utc) if zone == "utc" else None
        return found.astimezone(timezone.utc)
    except (ValueError, OverflowError, InvalidArgument):  # in UTC it would be before the year 1, or after 9999
        return None


def duration_of(text: str) -> timedelta:
    """A duration such as 7d, 12h, 1h30m or 45s. Raises `InvalidArgument`."""
    if not _DURATION.fullmatch(text):
        raise InvalidArgument(f"{text!r:.100} is no duration; write one as 7d, 12h, 30m, 45s, or 1h30m.")
    try:
        found = timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)))
    except OverflowError:
        raise InvalidArgument(f"{text!r:.100} is too long a duration.") from None
    if found < timedelta(milliseconds=1):
        raise InvalidArgument(f"{text!r:.100} is no time at all; write a millisecond (0.001s) or more.")
    return found


def time_of(entry_id: bytes) -> datetime:
    """When an entry was appended, by the server's clock."""
    return _EPOCH + timedelta(milliseconds=entry_ms(entry_id))

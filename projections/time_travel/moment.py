"""Moments in the life of a thread: a time, an entry of its log, or a sequence number. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Union

from eventlog.errors import InvalidArgument
from eventlog.events import Recorded, entry_ms

__all__ = ["Moment", "When", "moment_of", "time_of"]

When = Union[datetime, str, bytes, int]
"""A time with a zone, the id of an entry ("1795392694336-0"), or a sequence number."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ENTRY = re.compile(r"\d{1,18}-0")


@dataclass(frozen=True, slots=True)
class Moment:
    """A place in a log: up to an entry's time by the server's clock, in ms since 1970, or up to a sequence number."""

    ms: int | None = None
    sequence: int | None = None
    words: str = ""
    """How errors name it."""

    def covers(self, recorded: Recorded) -> bool:
        """Whether an event had happened by then."""
        if self.sequence is not None:
            return recorded.sequence <= self.sequence
        return self.ms is not None and entry_ms(recorded.entry_id) <= self.ms

    def before(self) -> Moment:
        """The moment right before what happened at this."""
        if self.sequence is not None:
            return Moment(None, self.sequence - 1, self.words)
        return Moment((self.ms or 0) - 1, None, self.words)


def moment_of(when: When, field: str = "when") -> Moment:
    """A moment as it is passed. Raises `InvalidArgument` or `TypeError`, naming `field`."""
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise InvalidArgument(f"{field} {when!r} has no time zone; pass e.g. datetime.now(timezone.utc).")
        return Moment((when - _EPOCH) // timedelta(milliseconds=1), None, when.isoformat())
    if isinstance(when, int) and not isinstance(when, bool):
        return Moment(None, when, f"sequence number {when}")
    if isinstance(when, (str, bytes)):
        entry_id = when if isinstance(when, str) else when.decode(errors="replace")
        if not _ENTRY.fullmatch(entry_id):
            raise InvalidArgument(f'{field} {entry_id!r:.80} is no id of an entry, such as "1795392694336-0".')
        return Moment(int(entry_id[:-2]), None, f"entry {entry_id}")
    raise TypeError(
        f"{field} must be a datetime with a time zone, the id of an entry, or a sequence number, not {type(when).__name__}."
    )


def time_of(entry_id: bytes) -> datetime:
    """When an entry was appended, by the server's clock."""
    return _EPOCH + timedelta(milliseconds=entry_ms(entry_id))

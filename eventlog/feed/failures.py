"""Records of events whose handlers failed."""

from __future__ import annotations

import time
import traceback
from dataclasses import asdict, dataclass, replace
from typing import Any

from eventlog import codec
from eventlog.errors import CorruptEntry
from eventlog.events import LATEST

__all__ = ["Failure"]

MOST_TEXT = 16_000
"""The characters that are kept: the first of an error, the last of a traceback."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The failures of one event so far."""

    attempts: int
    error: str
    traceback: str
    last: int
    """The time of the last failure, in ms since 1970, by the clock of the member."""
    member: str

    @classmethod
    def of(cls, error: BaseException, attempts: int, member: str) -> Failure:
        """Makes the record of an exception that a handler raised."""
        summary = "".join(traceback.format_exception_only(error)).strip()
        trace = "".join(traceback.format_exception(error))
        return cls(attempts, _text(summary[:MOST_TEXT]), _text(trace[-MOST_TEXT:]), int(time.time() * 1000), member)

    def renewed(self) -> Failure:
        """The record with no attempts counted."""
        return replace(self, attempts=0)

    def encode(self) -> bytes:
        """The stored form."""
        return codec.encode(asdict(self))

    @classmethod
    def decode(cls, group: str, thread: bytes, record: bytes) -> Failure:
        """Decodes the stored form. Raises `CorruptEntry`."""
        try:
            fields: Any = codec.decode(record)
            made = cls(**fields)
            wrong = [name for name, kind in _KINDS.items() if type(getattr(made, name)) is not kind]
            if wrong or not 0 <= made.last <= LATEST:
                raise codec.Malformed(f"has a wrong {', '.join(wrong) or 'time'}")
        except (codec.Malformed, TypeError) as error:
            raise CorruptEntry(
                f"Group {group!r}: the record of the failure in thread {thread.decode(errors='replace')!r} was not written by "
                f"this package ({error}). Skip the event."
            ) from error
        return made


_KINDS: dict[str, type] = {"attempts": int, "error": str, "traceback": str, "last": int, "member": str}


def _text(given: str) -> str:
    """Text that UTF-8 can encode."""
    return given.encode(errors="backslashreplace").decode()

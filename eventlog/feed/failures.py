"""What is known of an event whose handler failed."""

from __future__ import annotations

import time
import traceback
from dataclasses import asdict, dataclass, replace
from typing import Any

from eventlog import codec
from eventlog.errors import CorruptEntry

__all__ = ["Failure"]

MOST_TEXT = 16_000
"""Characters of an error or a traceback that are kept: the end of a traceback says most."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The failures of one event so far."""

    attempts: int
    error: str
    traceback: str
    last: int
    """When it failed last, in ms since 1970, by the clock of the member."""
    member: str

    @classmethod
    def of(cls, error: BaseException, attempts: int, member: str) -> Failure:
        """From what a handler raised."""
        told = "".join(traceback.format_exception_only(type(error), error)).strip()
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return cls(attempts, _text(told[:MOST_TEXT]), _text(trace[-MOST_TEXT:]), int(time.time() * 1000), member)

    def renewed(self) -> Failure:
        """As if it had not been tried yet."""
        return replace(self, attempts=0)

    def encode(self) -> bytes:
        """As it is stored."""
        return codec.encode(asdict(self))

    @classmethod
    def decode(cls, group: str, thread: bytes, told: bytes) -> Failure:
        """Raises `CorruptEntry`."""
        try:
            found: Any = codec.decode(told)
            return cls(**found)
        except (codec.Malformed, TypeError) as error:
            raise CorruptEntry(
                f"What group {group!r} knows of the failure of thread {thread.decode(errors='replace')!r} is nothing that this "
                f"package wrote ({error}). Skip the event."
            ) from error


def _text(told: str) -> str:
    """Text that UTF-8 can encode."""
    return told.encode(errors="backslashreplace").decode()

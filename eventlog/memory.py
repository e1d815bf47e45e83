"""What a process saw last of each thread's log.

A saver keeps the end of a log as it last appended to it or read it, and sends it along with the next call. A log that lacks this
event has lost events that were acknowledged, unless a removal accounts for it (`projections.log.accounting`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from itertools import count
from threading import Lock
from typing import NamedTuple

from eventlog.forks import renew_after_fork

__all__ = ["MOST_THREADS", "SECONDS", "Memory", "Seen"]

MOST_THREADS = 10_000
"""Threads that a process remembers; each takes some 400 bytes. The one that was used longest ago is forgotten first."""
SECONDS = 12 * 3600
"""How long a thread is remembered: less than the day for which the server knows that a thread ended."""


class Seen(NamedTuple):
    """The end of a log."""

    sequence: int
    entry_id: bytes
    digest: bytes
    removed: int
    """The number of entries that were removed from the log."""
    at: int = 0
    """The server's time at which the log ended so, in ms. The entry id may be ahead of it."""
    life: int = 0
    """A number that changes whenever the thread was forgotten: what was known before may not hold any more."""
    is_lost: bool = False
    """Whether an error reported that the log lacks this event."""
    expired: bool = False
    """Whether the thread expired while a run went on, so that puts bring whole states."""

    @classmethod
    def in_reply(cls, end: Sequence[bytes]) -> Seen:
        """The end of a log as scripts report it (`end_of` in `log.lua`)."""
        sequence, entry_id, digest, removed, at = end
        return cls(int(sequence), entry_id, digest, int(removed), int(at))


class Memory:
    """The last end of each thread's log that this process saw. Threads may share it; a forked child keeps what was seen."""

    def __init__(self, most: int = MOST_THREADS, seconds: float = SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._lives = count(1)
        self._seen: OrderedDict[bytes, tuple[Seen, float]] = OrderedDict()
        self._begin_process()
        renew_after_fork(self)

    def _begin_process(self) -> None:
        self._lock = Lock()

    def seen(self, thread: bytes) -> Seen | None:
        """What was seen last, None if nothing was, or too long ago."""
        found = self._seen.get(thread)
        return found[0] if found is not None and time.monotonic() - found[1] < self._seconds else None

    def note(self, thread: bytes, seen: Seen) -> None:
        """Notes the end of a log. Replies may come out of turn, so an earlier end than the last is passed over."""
        with self._lock:
            found = self._seen.pop(thread, None)
            if found is None:
                seen = seen._replace(life=next(self._lives))
            elif (before := found[0]).sequence > seen.sequence:
                seen = before
            else:
                seen = seen._replace(life=before.life, expired=before.expired)
            self._seen[thread] = seen, time.monotonic()
            if len(self._seen) > self._most:
                self._seen.popitem(last=False)

    def note_lost(self, thread: bytes, seen: Seen) -> None:
        """Notes that an error reported that the log lacks what was seen."""
        with self._lock:
            if (found := self._seen.get(thread)) is not None and found[0] == seen:
                self._seen[thread] = seen._replace(is_lost=True), found[1]

    def forget(self, thread: bytes, *, expired: bool = False) -> None:
        """Forgets a thread: the next call takes the log as it is. If it `expired`, that is noted."""
        with self._lock:
            self._seen.pop(thread, None)
            if expired:
                begun = Seen(0, b"", b"", 0, life=next(self._lives), expired=True)
                self._seen[thread] = begun, time.monotonic()

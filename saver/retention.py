"""Trims the feed after puts, in the partitions that this saver writes to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from eventlog.errors import EventLogError
from eventlog.feed.trimming import HeldBack, Retention, Trimmed, trim_partition
from eventlog.flow import Flow
from eventlog.forks import renew_after_fork
from eventlog.keys import Keyspace
from eventlog.printable import printable

__all__ = ["TrimmingAfterPuts"]

EVERY = 5.0
"""Seconds after which a put trims."""
PUTS = 500
"""Puts after which one trims, whatever the time."""
MOST = 2 * PUTS
"""The most entries that one trimming takes: more than come in meanwhile, so that a long feed gets shorter."""

logger = logging.getLogger("eventlog.feed")


@dataclass(slots=True)
class _Since:
    """The puts to a partition since it was trimmed last."""

    time: float
    puts: int = 0


class TrimmingAfterPuts:
    """Keeps the feed within its bounds as a saver writes.

    A put stands even if the trimming after it fails. Failures are logged, and so are consumer groups that hold
    trimming back, each once until it no longer does.
    """

    def __init__(
        self, keyspace: Keyspace, retention: Retention, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` is monotonic, in seconds."""
        self._keyspace = keyspace
        self._retention = retention
        self._clock = clock
        self._since: dict[int, _Since] = {}
        self._holding: dict[int, set[str]] = {}
        """The groups that hold trimming back, by partition."""
        self._begin_process()
        renew_after_fork(self)

    def _begin_process(self) -> None:
        self._lock = threading.Lock()

    def after_put(self, thread: bytes) -> Flow[None]:
        """Trims the partition of a thread after a put, if trimming is due.

        One round trip then, otherwise none.
        """
        partition = self._keyspace.partition_of(thread)
        if not self._is_due(partition):
            return
        try:
            trimmed = yield from trim_partition(self._keyspace, partition, self._retention, most=MOST)
        except EventLogError as error:
            logger.warning("The feed of partition %d was not trimmed: %s", partition, printable(str(error)))
        else:
            self._log_held_back(partition, trimmed)

    def _is_due(self, partition: int) -> bool:
        """Counts a put, and says whether trimming is due."""
        now = self._clock()
        with self._lock:
            since = self._since.get(partition)
            if since is not None:
                since.puts += 1
                if since.puts < PUTS and now - since.time < EVERY:
                    return False
            self._since[partition] = _Since(now)
            return True

    def _log_held_back(self, partition: int, trimmed: Trimmed) -> None:
        for held in self._begin_to_hold(partition, trimmed):
            logger.warning(
                "Consumer group %r holds trimming back: it still needs %d entries or more of partition %d that are beyond "
                "feed_retention, the oldest %.0f seconds old. Run a member of the group, or drop it with "
                "feed.drop_group(name).",
                held.group,
                held.entries,
                held.partition,
                held.age,
            )

    def _begin_to_hold(self, partition: int, trimmed: Trimmed) -> list[HeldBack]:
        """Returns what is held back by groups that held nothing back before."""
        with self._lock:
            known = set[str]().union(*self._holding.values())
            self._holding[partition] = {held.group for held in trimmed.held_back}
        return [held for held in trimmed.held_back if held.group not in known]

"""Trimming the feed behind puts, a little at a time, in the partitions that this saver writes to."""

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

__all__ = ["TrimmingAfterPuts"]

EVERY = 5.0
"""Seconds after which a put is followed by trimming."""
PUTS = 500
"""Puts after which one is, whatever the time."""
MOST = 2 * PUTS
"""Entries that one trimming takes: more than come in meanwhile, so that a feed that was long before gets short."""

logger = logging.getLogger("eventlog.feed")


@dataclass(slots=True)
class _Since:
    """What was put in a partition since it was trimmed last."""

    time: float
    puts: int = 0


class TrimmingAfterPuts:
    """Keeps the feed within bounds, for a saver.

    What a put did stands, whatever becomes of the trimming behind it: its failures are logged, as are consumer groups that hold
    it back, each once until it no longer does.

    Args:
        keyspace: of the saver.
        retention: the bounds.
        clock: monotonic, in seconds.

    """

    def __init__(
        self, keyspace: Keyspace, retention: Retention, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keyspace = keyspace
        self._retention = retention
        self._clock = clock
        self._since: dict[int, _Since] = {}
        self._holding: dict[str, set[int]] = {}
        self._begin_process()
        renew_after_fork(self)

    def _begin_process(self) -> None:
        self._lock = threading.Lock()

    def after_put(self, thread: bytes) -> Flow[None]:
        """Trims the partition of a thread that was put to, if that is due. No round trip, or one."""
        partition = self._keyspace.partition_of(thread)
        if not self._is_due(partition):
            return
        try:
            trimmed = yield from trim_partition(self._keyspace, partition, self._retention, most=MOST)
        except EventLogError as error:
            logger.warning("The feed of partition %d was not trimmed: %s", partition, error)
        else:
            self._tell(partition, trimmed)

    def _is_due(self, partition: int) -> bool:
        """Counts a put; whether trimming is due, which begins to count anew."""
        now = self._clock()
        with self._lock:
            since = self._since.get(partition)
            if since is not None:
                since.puts += 1
                if since.puts < PUTS and now - since.time < EVERY:
                    return False
            self._since[partition] = _Since(now)
            return True

    def _tell(self, partition: int, trimmed: Trimmed) -> None:
        for held in self._begin_to_hold(partition, trimmed):
            logger.warning(
                "Consumer group %r holds the feed back: it needs %d entries or more of partition %d that are beyond "
                "feed_retention, the oldest %.0f seconds old. They stay until it is done with them; run a member of the group, or "
                "drop it with feed.drop_group(name).",
                held.group,
                held.entries,
                held.partition,
                held.age,
            )

    def _begin_to_hold(self, partition: int, trimmed: Trimmed) -> list[HeldBack]:
        """What is held back by groups that held nothing back in any partition before."""
        groups = {held.group for held in trimmed.held_back}
        with self._lock:
            for group in [*self._holding]:
                if group not in groups:
                    self._holding[group].discard(partition)
                    if not self._holding[group]:
                        del self._holding[group]
            new = [held for held in trimmed.held_back if held.group not in self._holding]
            for group in groups:
                self._holding.setdefault(group, set()).add(partition)
        return new

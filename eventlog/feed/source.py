"""The feed of one prefix: the part that all its readers share."""

from __future__ import annotations

from eventlog.connect.connections import Connections
from eventlog.errors import FeedClosed, InvalidArgument
from eventlog.events import Recorded
from eventlog.feed.activity import Activity
from eventlog.feed.reading import load_event, open_keyspace
from eventlog.flow import Flow
from eventlog.keys import Keyspace
from eventlog.limits import Limits
from eventlog.signing import Signer
from eventlog.transport.drivers import Runner

__all__ = ["SUBJECT", "UNUSED", "FeedSource"]

SUBJECT = "the feed"
"""The feed's name in errors."""
UNUSED = 0.25
"""The seconds between looks at a prefix that nothing was written under yet."""


class FeedSource:
    """A prefix, its keys, and the runner of flows; `ActivityFeed` is one."""

    def __init__(
        self,
        connections: Connections,
        prefix: str,
        partitions: int | None,
        signer: Signer | None = None,
        limits: Limits | None = None,
    ) -> None:
        Keyspace(prefix, 1 if partitions is None else partitions)  # refuses bad arguments
        self.limits = limits or Limits()
        self.prefix = prefix
        self.runner = Runner(connections, "feed", FeedClosed)
        self._partitions = partitions
        self._signer = signer
        self._keyspace: Keyspace | None = None

    def opened(self) -> Flow[Keyspace | None]:
        """Returns the prefix's keys, or None while nothing was written under it.

        One round trip for each call until something was written, none afterwards.
        """
        if self._keyspace is None:
            self._keyspace = yield from open_keyspace(
                self.runner.connections, self.prefix, self._partitions, self._signer, self.limits
            )
        return self._keyspace

    def used(self) -> Flow[Keyspace]:
        """Returns the prefix's keys; raises `InvalidArgument` for an unused prefix."""
        keyspace = yield from self.opened()
        if keyspace is None:
            raise InvalidArgument(
                f"Nothing was written under prefix {self.prefix!r} yet. Check the prefix and the database."
            )
        return keyspace

    def load(self, activity: Activity) -> Recorded:
        """Loads the whole event, checked as `Activity.load` describes. One round trip.

        Raises `EventGone`, `CorruptEntry` or `SignatureInvalid`.
        """
        return self.runner.run(self._load(activity), f"thread {activity.thread_id!r}")

    async def aload(self, activity: Activity) -> Recorded:
        """Async form of `load`."""
        return await self.runner.arun(self._load(activity), f"thread {activity.thread_id!r}")

    def _load(self, activity: Activity) -> Flow[Recorded]:
        keyspace = yield from self.used()
        return (yield from load_event(keyspace, activity))

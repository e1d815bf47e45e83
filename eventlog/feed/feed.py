"""ActivityFeed: what all agents do, live, for other systems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any

from typing_extensions import Self

from eventlog.connect.connections import Connections
from eventlog.errors import EventLogError, InvalidArgument
from eventlog.feed.activity import Filters
from eventlog.feed.groups import Group, GroupInfo, drop_group, list_groups
from eventlog.feed.options import batch_of, seconds_of
from eventlog.feed.position import ORIGIN, Position
from eventlog.feed.reading import Start, check_start, ends_of, offsets_of, read_on
from eventlog.feed.source import SUBJECT, FeedSource
from eventlog.feed.tail import Tail
from eventlog.feed.trimming import Retention, Trimmed, trim_feed
from eventlog.flow import Flow, Pause, Wait
from eventlog.keys import PREFIX

__all__ = ["ActivityFeed"]

PATIENCE = 60.0
"""Seconds for which a reader waits for a server that cannot be reached."""


class ActivityFeed(FeedSource, AbstractContextManager, AbstractAsyncContextManager):  # type: ignore[type-arg]
    """The activity of all agents under one prefix: to tail it, or to work it off in consumer groups.

    Sync and async on one object. It reads pointers, not values: what is in an agent's state is loaded only where asked for.

    Args:
        sync_connection, async_connection: as for `RedisStreamSaver`; at least one.
        prefix: that of the savers whose agents are followed.
        partitions: leave it out: a feed takes what the prefix was laid out with.

    What was given is never closed; what `from_conn_string` opened is, by `close`, `aclose` or `with`.

    """

    def __init__(
        self,
        sync_connection: Any = None,
        async_connection: Any = None,
        *,
        prefix: str = PREFIX,
        partitions: int | None = None,
    ) -> None:
        self._open(Connections(sync_connection, async_connection), prefix, partitions, owns=False)

    def _open(self, connections: Connections, prefix: str, partitions: int | None, *, owns: bool) -> None:
        super().__init__(connections, prefix, partitions)
        self._connections = connections
        self._owns = owns

    @classmethod
    def from_conn_string(
        cls, conn_string: str, *, prefix: str = PREFIX, partitions: int | None = None, **client_options: Any
    ) -> Self:
        """A feed that opens its own connections, both colours, at first use. URLs and options are those of `RedisStreamSaver`."""
        made = cls.__new__(cls)
        made._open(Connections.from_url(conn_string, **client_options), prefix, partitions, owns=True)
        return made

    def tail(
        self,
        start: Start = "now",
        *,
        kinds: str | Iterable[str] | None = None,
        thread: str | Iterable[str] | None = None,
        namespace: str | Iterable[str] | None = None,
        node: str | Iterable[str] | None = None,
        follow: bool = True,
        batch: int = 100,
        patience: float = PATIENCE,
    ) -> Tail:
        """Activities from `start` on, for `for` or `async for`; without end, unless `follow` is False.

        Args:
            start: "now", "beginning" (the oldest that was not trimmed), a datetime with a time zone, or a position that was saved.
            kinds: one or several of `KINDS`; what is wanted is decided at the server.
            thread: one or several thread ids.
            namespace: one or several checkpoint namespaces, whole ("risk:1f0c...") or as nodes alone ("risk", "risk|inner").
            node: one or several nodes, of which one is to have run or written.
            follow: whether to wait for more at the end.
            batch: most pointers read in a round trip.
            patience: seconds to wait for a server that cannot be reached before its error is raised.

        Iterating raises `PositionLost` where the server lost what had been read, `PositionTrimmed` where what came
        next was trimmed.
        A round trip per batch and partition that has something, at the end one a second.

        """
        check_start(start)
        filters = Filters.of(kinds, thread, namespace, node)
        return Tail(
            self, start, filters, follow=follow, batch=batch_of(batch), patience=seconds_of("patience", patience)
        )

    def group(
        self,
        name: str,
        *,
        start: Start = "beginning",
        kinds: str | Iterable[str] | None = None,
        thread: str | Iterable[str] | None = None,
        namespace: str | Iterable[str] | None = None,
        node: str | Iterable[str] | None = None,
    ) -> Group:
        """The consumer group `name`, which is registered when its first member joins, or by `Group.register`.

        `start` and the filters belong to the group and count when it is registered; later they may be left out, and must not
        differ. No round trips.
        """
        check_start(start)
        return Group(self, name, start, Filters.of(kinds, thread, namespace, node))

    def groups(self) -> list[GroupInfo]:
        """The registered groups. Two round trips."""
        return self.runner.run(list_groups(self), "groups of the feed")

    async def agroups(self) -> list[GroupInfo]:
        """Async twin of `groups`."""
        return await self.runner.arun(list_groups(self), "groups of the feed")

    def drop_group(self, name: str) -> None:
        """Takes a group out for good: its position, what waits and what is parked, but not the keys of effects.

        A round trip per partition.

        Raises `GroupNotFound`.
        """
        self.runner.run(drop_group(self, name), f"group {name!r}")

    async def adrop_group(self, name: str) -> None:
        """Async twin of `drop_group`."""
        await self.runner.arun(drop_group(self, name), f"group {name!r}")

    def now(self) -> Position:
        """The position behind the last activity there is. A round trip per partition."""
        return self.runner.run(self._now(), SUBJECT)

    async def anow(self) -> Position:
        """Async twin of `now`."""
        return await self.runner.arun(self._now(), SUBJECT)

    def wait_beyond(self, position: Position, seconds: float = 1.0) -> bool:
        """Waits until the feed has something beyond a position, a second at most. Whether it has, or may have. One round trip."""
        return self.runner.run(self._wait_beyond(position, seconds), SUBJECT)

    async def await_beyond(self, position: Position, seconds: float = 1.0) -> bool:
        """Async twin of `wait_beyond`."""
        return await self.runner.arun(self._wait_beyond(position, seconds), SUBJECT)

    def check(self, position: Position | str) -> None:
        """Whether a reader can go on from a saved position. A round trip per partition.

        Raises `PositionLost` where the feed does not have what was read up to there, `PositionTrimmed` where what follows is gone.
        """
        self.runner.run(self._check(position), SUBJECT)

    async def acheck(self, position: Position | str) -> None:
        """Async twin of `check`."""
        await self.runner.arun(self._check(position), SUBJECT)

    def trim(self, retention: timedelta | int | Mapping[str, Any]) -> Trimmed:
        """Takes the oldest pointers out of the feed, beyond an age or a number, as far as no group needs them any more.

        `retention`: a timedelta, a number of events, or {"age": ..., "count": ...}. Logs of threads are left alone. Round
        trips: one per partition and thousand pointers taken.
        """
        return self.runner.run(self._trim(retention), SUBJECT)

    async def atrim(self, retention: timedelta | int | Mapping[str, Any]) -> Trimmed:
        """Async twin of `trim`."""
        return await self.runner.arun(self._trim(retention), SUBJECT)

    def close(self) -> None:
        """Closes what this feed opened, after which its calls raise `FeedClosed`."""
        self.runner.closed = self._owns
        self._connections.close()

    async def aclose(self) -> None:
        """Async twin of `close`."""
        self.runner.closed = self._owns
        await self._connections.aclose()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Closes."""
        self.close()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Closes."""
        await self.aclose()

    def _now(self) -> Flow[Position]:
        keyspace = yield from self.used()
        ends = yield from ends_of(keyspace, list(range(keyspace.partitions)))
        return Position({number: last for number, (_, last) in ends.items()})

    def _wait_beyond(self, position: Position, seconds: float) -> Flow[bool]:
        keyspace = yield from self.opened()
        if keyspace is None:
            yield Pause(min(seconds, 0.25))
            return False
        streams = [
            (keyspace.partition(number).feed, position.get(number, ORIGIN).id.encode())
            for number in range(keyspace.partitions)
        ]
        try:
            return bool((yield Wait(streams, max(1, int(seconds * 1000)))))
        except EventLogError:  # what is wrong shows in the reads that follow
            yield Pause(0.05)
            return True

    def _check(self, position: Position | str) -> Flow[None]:
        keyspace = yield from self.used()
        offsets = yield from offsets_of(keyspace, position, list(range(keyspace.partitions)))
        for number, offset in offsets.items():
            yield from read_on(keyspace, number, offset, Filters(), 1)

    def _trim(self, retention: timedelta | int | Mapping[str, Any]) -> Flow[Trimmed]:
        wanted = Retention.of(retention)
        if wanted is None:
            raise InvalidArgument('trim needs a bound: a timedelta, a number of events, or {"age": ..., "count": ...}.')
        keyspace = yield from self.used()
        return (yield from trim_feed(keyspace, wanted))

"""`ActivityFeed`: the activity of all agents, live, for other systems."""

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
from eventlog.signing import Signer, SigningKey

__all__ = ["ActivityFeed"]

PATIENCE = 60.0
"""The seconds for which a reader waits for a server that cannot be reached."""


class ActivityFeed(FeedSource, AbstractContextManager, AbstractAsyncContextManager):  # type: ignore[type-arg]
    """The activity of all agents under one prefix, for tails and consumer groups.

    Sync and async methods are on one object. The feed has pointers, not values: `load` reads the whole event.

    Args:
        sync_connection, async_connection: as for `RedisStreamSaver`; at least one.
        prefix: the prefix of the savers whose agents are followed.
        partitions: leave this out: a feed uses the number that the prefix was laid out with.
        signing_key: a `SigningKey`, also a public half. `load` then checks the signature of each event.
        accepted_keys: further keys whose signatures are accepted.

    `close`, `aclose` and `with` close connections that `from_conn_string` opened, but no connections passed here.

    """

    def __init__(
        self,
        sync_connection: Any = None,
        async_connection: Any = None,
        *,
        prefix: str = PREFIX,
        partitions: int | None = None,
        signing_key: SigningKey | None = None,
        accepted_keys: Iterable[SigningKey] = (),
    ) -> None:
        signer = _signer_of(signing_key, accepted_keys)
        self._open(Connections(sync_connection, async_connection), prefix, partitions, signer, owns=False)

    def _open(
        self, connections: Connections, prefix: str, partitions: int | None, signer: Signer | None, *, owns: bool
    ) -> None:
        super().__init__(connections, prefix, partitions, signer)
        self._connections = connections
        self._owns = owns

    @classmethod
    def from_conn_string(
        cls,
        conn_string: str,
        *,
        prefix: str = PREFIX,
        partitions: int | None = None,
        signing_key: SigningKey | None = None,
        accepted_keys: Iterable[SigningKey] = (),
        **client_options: Any,
    ) -> Self:
        """Makes a feed that opens its own connections, sync and async, at first use.

        URLs and options are those of `RedisStreamSaver.from_conn_string`.
        """
        made = cls.__new__(cls)
        signer = _signer_of(signing_key, accepted_keys)
        made._open(Connections.from_url(conn_string, **client_options), prefix, partitions, signer, owns=True)
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
        """Makes an iterator over the feed from `start` on, for `for` or `async for`.

        Args:
            start: "now", "beginning" (the oldest activity that was not trimmed), a datetime with a time zone, or a position.
            kinds: one or several of `KINDS`. The server applies all filters.
            thread: one or several thread ids.
            namespace: one or several checkpoint namespaces, whole ("risk:1f0c...") or as nodes alone ("risk", "risk|inner").
            node: one or several nodes, of which one has to have run or written.
            follow: whether to wait for more at the end, so that iterating has no end.
            batch: the most pointers read in a round trip.
            patience: the seconds to wait for a server that cannot be reached before its error is raised.

        Iterating raises `PositionLost` if the server lost entries that were read, and `PositionTrimmed` if the entries
        that follow were trimmed. It takes a round trip per batch and partition with activity; at the end one a second.

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
        """Returns the consumer group `name`. No round trips.

        It is registered when its first member joins, or by `Group.register`. `start` and the filters count at registration.
        Later they may be left out, and filters must not differ.
        """
        check_start(start)
        return Group(self, name, start, Filters.of(kinds, thread, namespace, node))

    def groups(self) -> list[GroupInfo]:
        """Lists the registered groups. One round trip, and two per group."""
        return self.runner.run(list_groups(self), "groups of the feed")

    async def agroups(self) -> list[GroupInfo]:
        """Async form of `groups`."""
        return await self.runner.arun(list_groups(self), "groups of the feed")

    def drop_group(self, name: str) -> None:
        """Removes a group for good, with its position, waiting and parked events.

        The keys of effects stay. One round trip per partition. Raises `GroupNotFound`.
        """
        self.runner.run(drop_group(self, name), f"group {name!r}")

    async def adrop_group(self, name: str) -> None:
        """Async form of `drop_group`."""
        await self.runner.arun(drop_group(self, name), f"group {name!r}")

    def now(self) -> Position:
        """Returns the position after the last activity. One round trip per partition."""
        return self.runner.run(self._now(), SUBJECT)

    async def anow(self) -> Position:
        """Async form of `now`."""
        return await self.runner.arun(self._now(), SUBJECT)

    def wait_beyond(self, position: Position, seconds: float = 1.0) -> bool:
        """Waits until the feed has activity after a position, or the seconds are over.

        One round trip. Returns whether it has, or may have.
        """
        return self.runner.run(self._wait_beyond(position, seconds), SUBJECT)

    async def await_beyond(self, position: Position, seconds: float = 1.0) -> bool:
        """Async form of `wait_beyond`."""
        return await self.runner.arun(self._wait_beyond(position, seconds), SUBJECT)

    def check(self, position: Position | str) -> None:
        """Checks that a reader can go on from a position. One round trip per partition.

        Raises `PositionLost` if the feed does not have the entries of the position, and `PositionTrimmed` if the entries
        that follow them were trimmed.
        """
        self.runner.run(self._check(position), SUBJECT)

    async def acheck(self, position: Position | str) -> None:
        """Async form of `check`."""
        await self.runner.arun(self._check(position), SUBJECT)

    def trim(self, retention: timedelta | int | Mapping[str, Any]) -> Trimmed:
        """Removes pointers beyond an age or a number that no group needs any more.

        `retention`: a timedelta, a number of events, or {"age": ..., "count": ...}. The logs of threads stay as they are.
        One round trip per partition, and one more per thousand pointers removed.
        """
        return self.runner.run(self._trim(retention), SUBJECT)

    async def atrim(self, retention: timedelta | int | Mapping[str, Any]) -> Trimmed:
        """Async form of `trim`."""
        return await self.runner.arun(self._trim(retention), SUBJECT)

    def close(self) -> None:
        """Closes the connections that this feed opened.

        After that its calls raise `FeedClosed`.
        """
        self.runner.closed = self._owns
        self._connections.close()

    async def aclose(self) -> None:
        """Async form of `close`."""
        self.runner.closed = self._owns
        await self._connections.aclose()

    def __enter__(self) -> Self:
        """Returns the feed itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Closes the feed."""
        self.close()

    async def __aenter__(self) -> Self:
        """Returns the feed itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Closes the feed."""
        await self.aclose()

    def _now(self) -> Flow[Position]:
        keyspace = yield from self.used()
        ends = yield from ends_of(keyspace, list(range(keyspace.partitions)))
        return Position({number: one.last for number, one in ends.items()})

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
        except EventLogError:  # the reads that follow raise it if it lasts
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


def _signer_of(key: SigningKey | None, accepted: Iterable[SigningKey]) -> Signer | None:
    """The signer that checks loaded events, None without a key. Raises `TypeError` or `InvalidArgument`."""
    keys = ([] if key is None else [key]) + list(accepted)
    if wrong := next((one for one in keys if not isinstance(one, SigningKey)), None):
        raise TypeError(f"A key of a feed must be a SigningKey, not {type(wrong).__name__}.")
    if key is None and keys:
        raise InvalidArgument("accepted_keys go with a signing_key; an auditor passes a public half as signing_key.")
    return None if key is None else Signer(key, keys[1:])

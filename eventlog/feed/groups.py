"""Consumer groups, whose members handle each event of the feed at least once.

Any number of members on any machines share the work. Redis has the state of a group beside the feed, by partition:

1. The *position*: all events up to it are handled, or are waiting events. Trimming never passes it.
2. The *lease*: one member at a time reads a partition, so that each thread's events are handled in order. Each step of a
   member names the fencing token of its lease. Once another member has the lease, the script refuses the step.
3. The *waiting events*: an event whose handler failed, and the later events of its thread, in order. The first of them is
   due at a time (retry with backoff), or is parked until `retry` or `skip`. The other threads go on.

These are not the consumer groups of Redis. Those hand events of one thread to any member, write each delivery to the
append-only file, and count trimmed entries as pending. Here acknowledging a batch is one small write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from eventlog.errors import CorruptEntry, GroupNotFound, InvalidArgument
from eventlog.feed.activity import Activity, Filters, unpack_pointer
from eventlog.feed.failures import Failure
from eventlog.feed.member import Member
from eventlog.feed.options import attempts_of, batch_of, name_of, seconds_of
from eventlog.feed.position import Offset
from eventlog.feed.reading import Start, waiting_events
from eventlog.feed.registration import drop_in, filters_in, register, register_in, registration, state_damaged
from eventlog.feed.replies import OK, LagReply, member_name
from eventlog.feed.source import FeedSource
from eventlog.flow import Call, Command, Flow, load_script
from eventlog.framing import ordered
from eventlog.keys import GroupKeys, Keyspace, text

__all__ = ["Group", "GroupInfo", "Lag", "Parked", "PartitionLag", "drop_group", "list_groups"]

LAG = load_script("eventlog/feed/lag")
UNPARK = load_script("eventlog/feed/unpark")
ALIVE = load_script("eventlog/feed/alive")


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """A registered group."""

    name: str
    created: datetime
    start: str
    filters: dict[str, list[str]]
    members: tuple[str, ...]
    """The names of the live members."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """The progress of a group in one partition."""

    partition: int
    member: str | None
    """The member that leases it, None without one."""
    position: str
    """The entry id of the feed up to which all events are handled or wait."""
    pending: int
    """The number of entries after the position, entries that the group's filters leave out included."""
    age: float | None
    """The seconds since the first of them was appended; None without entries."""
    waiting: int
    """The number of events that failed, and of later ones of their threads."""
    held: int
    """The number of threads with waiting events."""
    parked: int
    """The number of threads whose first event is parked: they wait for retry or skip."""
    handled: int
    """The number of events handled since the group was registered."""
    throughput: float
    """The events handled a second, over about the last minute."""

    @classmethod
    def of(cls, partition: int, reply: LagReply) -> PartitionLag:
        """Takes the values from a script's reply."""
        member, age = member_name(reply.member) or None, None if reply.age < 0 else reply.age / 1000
        counts = reply.waiting, reply.threads, reply.parked, reply.handled
        return cls(partition, member, reply.position.decode(), reply.pending, age, *counts, float(reply.throughput))


@dataclass(frozen=True, slots=True)
class Lag:
    """The progress of a group."""

    group: str
    partitions: tuple[PartitionLag, ...]
    members: tuple[str, ...]

    @property
    def pending(self) -> int:
        """The number of entries that no member has handled."""
        return sum(one.pending for one in self.partitions)

    @property
    def age(self) -> float | None:
        """The seconds since the oldest of them was appended; None without entries."""
        return max((one.age for one in self.partitions if one.age is not None), default=None)

    @property
    def waiting(self) -> int:
        """The number of events that failed, and of later ones of their threads."""
        return sum(one.waiting for one in self.partitions)

    @property
    def parked(self) -> int:
        """The number of threads whose first event is parked."""
        return sum(one.parked for one in self.partitions)

    @property
    def handled(self) -> int:
        """The number of events handled since the group was registered."""
        return sum(one.handled for one in self.partitions)

    @property
    def throughput(self) -> float:
        """The events handled a second, over about the last minute."""
        return sum(one.throughput for one in self.partitions)


@dataclass(frozen=True, slots=True)
class Parked:
    """An event whose handler failed too often.

    Its thread waits for `Group.retry` or `Group.skip`.
    """

    activity: Activity
    attempts: int
    error: str
    traceback: str
    since: datetime
    """The time of the last failure."""
    member: str
    waiting: int
    """The number of later events of the thread that wait."""

    @property
    def thread_id(self) -> str:
        """The thread of the event."""
        return self.activity.thread_id


class Group:
    """One consumer group.

    `member` makes members; the other methods are for operations.
    """

    def __init__(self, source: FeedSource, name: str, start: Start, filters: Filters) -> None:
        self.name = name_of("group", name)
        self._source = source
        self._start: Start = start
        self._filters = filters
        self._subject = f"group {name!r}"

    def member(
        self,
        name: str,
        *,
        batch: int = 100,
        lease: float = 10.0,
        max_attempts: int = 5,
        backoff: float | Callable[[int], float] = 1.0,
        acknowledge_within: float = 0.05,
        stop_on_sigterm: bool = True,
        patience: float = 60.0,
    ) -> Member:
        """Makes a member: a context manager and an iterator, sync and async.

        Args:
            name: for people; each member made counts as another, even with the same name.
            batch: the most events read in a round trip.
            lease: the seconds after which other members may take the partitions of a member that died. Members renew
                their leases at every third of it.
            max_attempts: the number of attempts before an event is parked.
            backoff: the seconds before the first retry, twice as many before each further one, an hour at most; or a
                function of the number of attempts made.
            acknowledge_within: the seconds within which the acknowledgement of a handled event is written. Until then a
                member that is killed leaves the event to be handled again. With 0 each takes a round trip.
            stop_on_sigterm: whether SIGTERM ends the iteration after the event in hand. It needs the main thread, and a
                process without another handler of SIGTERM.
            patience: the seconds to wait for a server that cannot be reached before its error is raised.

        """
        return Member(
            self._source,
            self.name,
            name,
            self.registered,
            batch=batch_of(batch),
            lease=seconds_of("lease", lease, least=0.1),
            max_attempts=attempts_of(max_attempts),
            backoff=backoff if callable(backoff) else seconds_of("backoff", backoff),
            acknowledge_within=seconds_of("acknowledge_within", acknowledge_within),
            stop_on_sigterm=stop_on_sigterm,
            patience=seconds_of("patience", patience),
        )

    def register(self) -> None:
        """Registers the group, so that trimming keeps the feed for it.

        Two round trips, and one per partition. Raises `InvalidArgument` if it is registered with other filters, or if
        nothing was written under the prefix yet.
        """
        self._source.runner.run(self._registered_now(), self._subject)

    async def aregister(self) -> None:
        """Async form of `register`."""
        await self._source.runner.arun(self._registered_now(), self._subject)

    def lag(self) -> Lag:
        """Reads the progress of the group.

        One round trip per partition. Raises `GroupNotFound`.
        """
        return self._source.runner.run(self._lag(), self._subject)

    async def alag(self) -> Lag:
        """Async form of `lag`."""
        return await self._source.runner.arun(self._lag(), self._subject)

    def parked(self) -> list[Parked]:
        """Lists the parked events, oldest failure first. Raises `GroupNotFound`.

        One round trip per partition, and one per parked event.
        """
        return self._source.runner.run(self._parked(), self._subject)

    async def aparked(self) -> list[Parked]:
        """Async form of `parked`."""
        return await self._source.runner.arun(self._parked(), self._subject)

    def retry(self, thread_id: str | None = None) -> int:
        """Has parked events tried again, `max_attempts` times: that of a thread, or all.

        Returns their number. Raises `GroupNotFound`.
        """
        return self._source.runner.run(self._unpark(thread_id, b"retry"), self._subject)

    async def aretry(self, thread_id: str | None = None) -> int:
        """Async form of `retry`."""
        return await self._source.runner.arun(self._unpark(thread_id, b"retry"), self._subject)

    def skip(self, thread_id: str | None = None) -> int:
        """Drops parked events: that of a thread, or all. Returns their number.

        Their threads go on with the next event. Raises `GroupNotFound`.
        """
        return self._source.runner.run(self._unpark(thread_id, b"skip"), self._subject)

    async def askip(self, thread_id: str | None = None) -> int:
        """Async form of `skip`."""
        return await self._source.runner.arun(self._unpark(thread_id, b"skip"), self._subject)

    def effect_keys(self, name: str) -> list[bytes]:
        """Returns the key of each partition that `Member.effect` writes to under a name.

        Raises `GroupNotFound`.
        """
        return self._source.runner.run(self._effect_keys(name), self._subject)

    async def aeffect_keys(self, name: str) -> list[bytes]:
        """Async form of `effect_keys`."""
        return await self._source.runner.arun(self._effect_keys(name), self._subject)

    def registered(self) -> Flow[tuple[Keyspace, Filters] | None]:
        """Registers the group if necessary. Returns None while the prefix is unused."""
        keyspace = yield from self._source.opened()
        if keyspace is None:
            return None
        found = yield from registration(keyspace, self.name)
        if found is None:
            yield from register(keyspace, self.name, self._start, self._filters)
            found = yield from registration(keyspace, self.name)
            if found is None:
                raise self.not_found()
        filters = filters_in(found)
        if self._filters != Filters() and self._filters != filters:
            raise InvalidArgument(
                f"Group {self.name!r} is registered with filters {filters.as_dict()}, not {self._filters.as_dict()}. Leave them "
                "out, use another name, or drop the group and register it again."
            )
        return keyspace, filters

    def _registered_now(self) -> Flow[None]:
        found = yield from self.registered()
        if found is None:
            raise InvalidArgument(
                f"Nothing was written under prefix {self._source.prefix!r} yet, so there is no feed to register group "
                f"{self.name!r} with. Call setup() of a saver with this prefix first, or check the prefix and the database."
            )
        keyspace, _ = found
        for number in range(keyspace.partitions):  # a failover, or a drop that was cut short, may have lost some
            yield from register_in(keyspace, self.name, number, Offset("beginning"))

    def _known(self) -> Flow[Keyspace]:
        keyspace = yield from self._source.opened()
        if keyspace is None or (yield from registration(keyspace, self.name)) is None:
            raise self.not_found()
        return keyspace

    def not_found(self) -> GroupNotFound:
        """Makes the error for a group that is not registered."""
        return GroupNotFound(
            f"There is no group {self.name!r} under prefix {self._source.prefix!r}. Register it, or choose one that "
            "feed.groups() lists."
        )

    def _lag(self) -> Flow[Lag]:
        keyspace = yield from self._known()
        found = []
        for number in range(keyspace.partitions):
            keys = self._keys(keyspace, number)
            shared = keys.shared
            wanted = [shared.feed, shared.trimmed, shared.positions, keys.state, keys.held, keys.due]
            reply = LagReply(*(yield Call(LAG, wanted, [self.name.encode()])))
            if reply.status != OK:
                raise self.not_found()
            try:
                found.append(PartitionLag.of(number, reply))
            except ValueError as error:
                raise state_damaged(self.name, keys, error) from error
        members = yield from members_of(keyspace, self.name)
        return Lag(self.name, tuple(found), members)

    def _keys(self, keyspace: Keyspace, number: int) -> GroupKeys:
        return keyspace.partition(number).group(self.name.encode())

    def _parked(self) -> Flow[list[Parked]]:
        keyspace = yield from self._known()
        found: list[Parked] = []
        for number in range(keyspace.partitions):
            keys = self._keys(keyspace, number)
            for thread in (yield from parked_threads(keys)):
                one = yield from self._parked_in(keys, number, thread)
                if one is not None:
                    found.append(one)
        return sorted(found, key=lambda one: one.since)

    def _parked_in(self, keys: GroupKeys, number: int, thread: bytes) -> Flow[Parked | None]:
        found = yield from waiting_events(keys, thread, 1)
        if not found.is_parked or not found.failure:
            return None
        failure = Failure.decode(self.name, thread, found.failure)
        packed = found.events[0][len(ordered(thread)) :]
        return Parked(
            unpack_pointer(number, packed, loader=self._source, attempt=failure.attempts),
            failure.attempts,
            failure.error,
            failure.traceback,
            datetime.fromtimestamp(failure.last / 1000, timezone.utc),
            failure.member,
            found.total - 1,
        )

    def _unpark(self, thread_id: str | None, action: bytes) -> Flow[int]:
        keyspace = yield from self._known()
        if thread_id is not None:
            thread = text("thread_id", str(thread_id))
            keys = self._keys(keyspace, keyspace.partition_of(thread))
            return (yield from self._unpark_in(keys, thread, action))
        done = 0
        for number in range(keyspace.partitions):
            keys = self._keys(keyspace, number)
            for thread in (yield from parked_threads(keys)):
                done += yield from self._unpark_in(keys, thread, action)
        return done

    def _unpark_in(self, keys: GroupKeys, thread: bytes, action: bytes) -> Flow[int]:
        found = yield from waiting_events(keys, thread, 1)
        if not found.is_parked:
            return 0
        record = b""
        if action == b"retry" and found.failure:
            record = Failure.decode(self.name, thread, found.failure).renewed().encode()
        done = yield Call(UNPARK, [keys.held, keys.failures, keys.due], [thread, found.events[0], action, record])
        return int(done)

    def _effect_keys(self, name: str) -> Flow[list[bytes]]:
        keyspace = yield from self._known()
        encoded = text("effect key", name)
        return [self._keys(keyspace, number).effects + encoded for number in range(keyspace.partitions)]


def parked_threads(keys: GroupKeys) -> Flow[list[bytes]]:
    """Lists the threads with a parked event in a partition. One round trip."""
    return (yield Command("ZRANGEBYSCORE", keys.due, ["inf", "inf"]))  # type: ignore[no-any-return]


def members_of(keyspace: Keyspace, group: str) -> Flow[tuple[str, ...]]:
    """Lists the names of a group's live members. One round trip."""
    found = yield Call(ALIVE, [keyspace.members(group.encode())], [])
    return tuple(sorted(member_name(one) for one in found))


def list_groups(source: FeedSource) -> Flow[list[GroupInfo]]:
    """Lists the registered groups by name."""
    keyspace = yield from source.opened()
    if keyspace is None:
        return []
    names = yield Command("HKEYS", keyspace.groups)
    found = []
    for name in sorted(_text(keyspace, one) for one in names):
        record = yield from registration(keyspace, name)
        if record is not None:
            created = datetime.fromtimestamp(record["created"] / 1000, timezone.utc)
            members = yield from members_of(keyspace, name)
            found.append(GroupInfo(name, created, record["start"], record["filters"], members))
    return found


def _text(keyspace: Keyspace, name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise CorruptEntry(
            f"{keyspace.groups.decode()!r} has the name {name!r:.100}, which this package does not write. Remove it with HDEL."
        ) from error


def drop_group(source: FeedSource, name: str) -> Flow[None]:
    """Removes a group from the partitions, and then from the list.

    A group whose registration was cut short is removed as well. Raises `GroupNotFound`.
    """
    group = Group(source, name, "beginning", Filters())
    keyspace = yield from source.opened()
    if keyspace is None:
        raise group.not_found()
    dropped = 0
    for number in range(keyspace.partitions):
        dropped += yield from drop_in(keyspace, name, number)
    dropped += yield Command("HDEL", keyspace.groups, [name.encode()])
    if not dropped:
        raise group.not_found()

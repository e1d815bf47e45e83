"""Consumer groups: registered once, worked off by any number of members on any machines, each event handled at least once.

What a group knows lies in Redis, beside the feed it reads, partition by partition:

1. A *position* in the feed: everything up to it is done, or waits below. Trimming never passes it.
2. A *lease*: one member at a time reads a partition, so each thread's order holds. Every step names the lease's token, and is
   refused once the lease is another's (fencing).
3. What *waits*: an event whose handler failed, and behind it what its thread did since, in order. The first of them is due at a
   time (retry with backoff) or is parked, until someone says retry or skip. Other threads go on.

It is not Redis' own consumer groups that are used: they hand events of one thread to whoever asks, note every delivery in the
append-only file, and count what is trimmed as pending for ever. Here acknowledging a batch is one small write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from eventlog.errors import GroupNotFound, InvalidArgument
from eventlog.feed.activity import Activity, Filters, unpack_pointer
from eventlog.feed.failures import Failure
from eventlog.feed.member import Member
from eventlog.feed.options import attempts_of, batch_of, seconds_of
from eventlog.feed.position import Offset
from eventlog.feed.reading import Start
from eventlog.feed.registration import decoded, drop_in, filters_in, register, register_in, registration
from eventlog.feed.replies import OK, LagReply, Waiting, member_name
from eventlog.feed.source import FeedSource
from eventlog.flow import Call, Command, Flow, load_script
from eventlog.framing import ordered
from eventlog.keys import Keyspace, text

__all__ = ["Group", "GroupInfo", "Lag", "Parked", "PartitionLag", "drop_group", "list_groups"]

LAG = load_script("eventlog/feed/lag")
WAITING = load_script("eventlog/feed/waiting")
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
    """Names of the members alive."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far a group is in one partition."""

    partition: int
    member: str | None
    """Who leases it; None for nobody."""
    position: str
    """Entry id in the feed up to which everything is done or waits."""
    pending: int
    """Entries of the feed behind the position; those that the group's filters will leave out are counted."""
    age: float | None
    """Seconds since the first of them came; None if there is none."""
    waiting: int
    """Events that wait behind one that failed, and those that failed."""
    held: int
    """Threads that wait."""
    parked: int
    """Threads whose first event is parked: they wait for retry or skip."""
    handled: int
    """Events handled since the group was registered."""
    throughput: float
    """Events handled a second, over about the last minute."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a group is."""

    group: str
    partitions: tuple[PartitionLag, ...]
    members: tuple[str, ...]

    def _sum(self, name: str) -> Any:
        return sum(getattr(one, name) for one in self.partitions)

    @property
    def pending(self) -> int:
        """Entries of the feed that no member has worked off."""
        return int(self._sum("pending"))

    @property
    def age(self) -> float | None:
        """Seconds since the oldest of them came; None if there is none."""
        return max((one.age for one in self.partitions if one.age is not None), default=None)

    @property
    def waiting(self) -> int:
        """Events that wait behind one that failed, and those that failed."""
        return int(self._sum("waiting"))

    @property
    def parked(self) -> int:
        """Threads whose first event is parked."""
        return int(self._sum("parked"))

    @property
    def handled(self) -> int:
        """Events handled since the group was registered."""
        return int(self._sum("handled"))

    @property
    def throughput(self) -> float:
        """Events handled a second, over about the last minute."""
        return float(self._sum("throughput"))


@dataclass(frozen=True, slots=True)
class Parked:
    """An event whose handler failed too often; its thread waits for `Group.retry` or `Group.skip`."""

    activity: Activity
    attempts: int
    error: str
    traceback: str
    since: datetime
    """When it failed last."""
    member: str
    waiting: int
    """Later events of the thread that wait behind it."""

    @property
    def thread_id(self) -> str:
        """The thread that waits."""
        return self.activity.thread_id


class Group:
    """One consumer group. Its members are made by `member`; the rest looks after it."""

    def __init__(self, source: FeedSource, name: str, start: Start, filters: Filters) -> None:
        if not isinstance(name, str):
            raise TypeError(f"A group's name must be a string, not {type(name).__name__}.")
        if not name:
            raise InvalidArgument("A group needs a name.")
        text("group", name)
        self._source = source
        self.name = name
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
        """A member, to be used as a context manager and iterated over, in either colour.

        Args:
            name: for people to tell members by; each member made counts as another, even under one name.
            batch: most events read in a round trip.
            lease: seconds after which the partitions of a member that died are others'. Members renew theirs at every
                third of it.
            max_attempts: how many times an event is tried before it is parked.
            backoff: seconds before the first retry, twice as many before each further one, an hour at most; or a
                function of the number of attempts made.
            acknowledge_within: seconds within which the acknowledgement of a handled event is written; until then a
                member that is killed leaves the event to be handled again. 0: at once, a round trip each.
            stop_on_sigterm: whether SIGTERM ends the iteration after the event in hand. Only where SIGTERM has no
                handler yet, and in the main thread.
            patience: seconds to wait for a server that cannot be reached before its error is raised.

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
        """Registers the group, so that the feed is kept for it from now on. A round trip per partition; if it is there, two in all.

        Raises `InvalidArgument` if it is there with other filters, or if nothing was written under the prefix yet.
        """
        self._source.runner.run(self._registered_now(), self._subject)

    async def aregister(self) -> None:
        """Async twin of `register`."""
        await self._source.runner.arun(self._registered_now(), self._subject)

    def lag(self) -> Lag:
        """How far the group is, by partition. A round trip per partition. Raises `GroupNotFound`."""
        return self._source.runner.run(self._lag(), self._subject)

    async def alag(self) -> Lag:
        """Async twin of `lag`."""
        return await self._source.runner.arun(self._lag(), self._subject)

    def parked(self) -> list[Parked]:
        """What is parked, oldest failure first. A round trip per partition, and one per thread parked. Raises `GroupNotFound`."""
        return self._source.runner.run(self._parked(), self._subject)

    async def aparked(self) -> list[Parked]:
        """Async twin of `parked`."""
        return await self._source.runner.arun(self._parked(), self._subject)

    def retry(self, thread_id: str | None = None) -> int:
        """Has parked events tried again, `max_attempts` times anew: that of a thread, or all. How many there were.

        Raises `GroupNotFound`.
        """
        return self._source.runner.run(self._unpark(thread_id, b"retry"), self._subject)

    async def aretry(self, thread_id: str | None = None) -> int:
        """Async twin of `retry`."""
        return await self._source.runner.arun(self._unpark(thread_id, b"retry"), self._subject)

    def skip(self, thread_id: str | None = None) -> int:
        """Gives parked events up: that of a thread, or all; their threads go on with what comes next. How many there were.

        Raises `GroupNotFound`.
        """
        return self._source.runner.run(self._unpark(thread_id, b"skip"), self._subject)

    async def askip(self, thread_id: str | None = None) -> int:
        """Async twin of `skip`."""
        return await self._source.runner.arun(self._unpark(thread_id, b"skip"), self._subject)

    def effect_keys(self, name: str) -> list[bytes]:
        """The keys, one per partition, that `Member.effect` writes to under a name. One round trip, if the feed was
        not used yet.
        """
        return self._source.runner.run(self._effect_keys(name), self._subject)

    async def aeffect_keys(self, name: str) -> list[bytes]:
        """Async twin of `effect_keys`."""
        return await self._source.runner.arun(self._effect_keys(name), self._subject)

    def registered(self) -> Flow[tuple[Keyspace, Filters] | None]:
        """The keys and the group's filters, registered if it was not; None while nothing was written under the prefix."""
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
                "out, use another name, or drop the group and register it anew."
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
        for number in range(keyspace.partitions):  # where it was lost, in a failover or by a drop that was cut short
            yield from register_in(keyspace, self.name, number, Offset("beginning"))

    def _known(self) -> Flow[Keyspace]:
        keyspace = yield from self._source.opened()
        if keyspace is None or (yield from registration(keyspace, self.name)) is None:
            raise self.not_found()
        return keyspace

    def not_found(self) -> GroupNotFound:
        """The error for a group that is not registered."""
        return GroupNotFound(
            f"There is no group {self.name!r} under prefix {self._source.prefix!r}. Register it, or choose one that "
            "feed.groups() lists."
        )

    def _lag(self) -> Flow[Lag]:
        keyspace = yield from self._known()
        found = []
        for number in range(keyspace.partitions):
            shared = keyspace.partition(number)
            keys = shared.group(self.name.encode())
            wanted = [shared.feed, shared.trimmed, shared.positions, keys.state, keys.held, keys.due]
            reply = LagReply.of((yield Call(LAG, wanted, [self.name.encode()])))
            if reply.status != OK:
                raise self.not_found()
            found.append(_lag_of(number, reply))
        members = yield from members_of(keyspace, self.name)
        return Lag(self.name, tuple(found), members)

    def _parked(self) -> Flow[list[Parked]]:
        keyspace = yield from self._known()
        found: list[Parked] = []
        for number in range(keyspace.partitions):
            threads = yield from self._parked_threads(keyspace, number)
            for thread in threads:
                one = yield from self._parked_in(keyspace, number, thread)
                if one is not None:
                    found.append(one)
        return sorted(found, key=lambda one: one.since)

    def _parked_threads(self, keyspace: Keyspace, number: int) -> Flow[list[bytes]]:
        due = keyspace.partition(number).group(self.name.encode()).due
        return (yield Command("ZRANGEBYSCORE", due, ["inf", "inf"]))  # type: ignore[no-any-return]

    def _parked_in(self, keyspace: Keyspace, number: int, thread: bytes) -> Flow[Parked | None]:
        keys = keyspace.partition(number).group(self.name.encode())
        found = Waiting(*(yield Call(WAITING, [keys.held, keys.failures, keys.due], [thread, 1])))
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

    def _unpark(self, thread_id: str | None, what: bytes) -> Flow[int]:
        keyspace = yield from self._known()
        if thread_id is not None:
            thread = text("thread_id", str(thread_id))
            return (yield from self._unpark_in(keyspace, keyspace.partition_of(thread), thread, what))
        done = 0
        for number in range(keyspace.partitions):
            threads = yield from self._parked_threads(keyspace, number)
            for thread in threads:
                done += yield from self._unpark_in(keyspace, number, thread, what)
        return done

    def _unpark_in(self, keyspace: Keyspace, number: int, thread: bytes, what: bytes) -> Flow[int]:
        keys = keyspace.partition(number).group(self.name.encode())
        names = [keys.held, keys.failures, keys.due]
        found = Waiting(*(yield Call(WAITING, names, [thread, 1])))
        if not found.is_parked:
            return 0
        record = b""
        if what == b"retry" and found.failure:
            record = Failure.decode(self.name, thread, found.failure).renewed().encode()
        done = yield Call(UNPARK, names, [thread, found.events[0], what, record])
        return int(done)

    def _effect_keys(self, name: str) -> Flow[list[bytes]]:
        keyspace = yield from self._known()
        encoded = text("effect key", name)
        return [
            keyspace.partition(number).group(self.name.encode()).effects + encoded
            for number in range(keyspace.partitions)
        ]


def _lag_of(number: int, reply: LagReply) -> PartitionLag:
    return PartitionLag(
        number,
        reply.member,
        reply.position,
        reply.pending,
        reply.age,
        reply.waiting,
        reply.threads,
        reply.parked,
        reply.handled,
        reply.throughput,
    )


def members_of(keyspace: Keyspace, group: str) -> Flow[tuple[str, ...]]:
    """Names of a group's members that are alive. One round trip."""
    found = yield Call(ALIVE, [keyspace.members(group.encode())], [])
    return tuple(sorted(member_name(one) for one in found))


def list_groups(source: FeedSource) -> Flow[list[GroupInfo]]:
    """The registered groups, by name."""
    keyspace = yield from source.opened()
    if keyspace is None:
        return []
    names = yield Command("HKEYS", keyspace.groups)
    found = []
    for name in sorted(names):
        told = yield Command("HGET", keyspace.groups, [name])
        if told is not None:
            known = decoded(name.decode(), told)
            created = datetime.fromtimestamp(known["created"] / 1000, timezone.utc)
            members = yield from members_of(keyspace, name.decode())
            found.append(GroupInfo(name.decode(), created, known["start"], known["filters"], members))
    return found


def drop_group(source: FeedSource, name: str) -> Flow[None]:
    """Takes a group out: first where it holds the feed, then from the list. One whose registration was cut short goes as well."""
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

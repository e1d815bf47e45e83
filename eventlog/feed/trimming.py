"""Trimming the feed: bounds on what is kept of it, and the flows that take out what is beyond them.

Entries that a consumer group still needs stay whatever the bounds say. Of those that go, what they say of threads and runs is
kept (`PartitionKeys.past_threads`, `past_runs`), so that the registry can be rebuilt from what is left. Logs of threads are not
touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from eventlog.errors import CorruptEntry, InvalidArgument, LogLost
from eventlog.feed.replies import TrimReply
from eventlog.flow import Call, Flow, load_script
from eventlog.keys import Keyspace, PartitionKeys

__all__ = ["HeldBack", "Retention", "Trimmed", "trim_feed", "trim_partition"]

TRIM = load_script("eventlog/feed/trim")
FORMS = 'a timedelta, a number of entries, or {"age": timedelta or seconds, "count": entries}'
MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of the feed is kept. An entry that is beyond either bound may go."""

    age: timedelta | None = None
    """How long an entry is kept, by the server's clock."""
    count: int | None = None
    """How many entries are kept of the whole feed; each partition keeps its share, rounded up."""

    @classmethod
    def of(cls, value: Any) -> Retention | None:
        """From a timedelta, a number of entries, or a mapping of `age` (a timedelta or seconds) and `count`; None for no bounds.

        Raises `InvalidArgument` for impossible values and unknown keys, `TypeError` for other types.
        """
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, timedelta):
            return cls(age=_age_of(value))
        if not isinstance(value, Mapping):
            return cls(count=_count_of(value))
        unknown = set(value) - {"age", "count"}
        if unknown:
            raise InvalidArgument(f"feed_retention has unknown keys {sorted(unknown, key=repr)}; it is {FORMS}.")
        age, count = value.get("age"), value.get("count")
        if age is None and count is None:
            raise InvalidArgument("feed_retention names neither age nor count; pass None to keep all of the feed.")
        return cls(None if age is None else _age_of(age), None if count is None else _count_of(count))


def _age_of(value: Any) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, (timedelta, int, float)):
        raise TypeError(f"The age of feed_retention must be a timedelta or seconds, not {type(value).__name__}.")
    try:
        age = value if isinstance(value, timedelta) else timedelta(seconds=value)
    except (OverflowError, ValueError):  # too many seconds, nan
        raise InvalidArgument(
            f"The age of feed_retention must be a time, not {value!r} seconds; leave it out to keep entries of any age."
        ) from None
    if age < MILLISECOND:
        raise InvalidArgument(
            f"The age of feed_retention must be a millisecond or more, not {value!r}; to keep no entries pass a count of 0."
        )
    return age


def _count_of(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"feed_retention must be {FORMS}, not {type(value).__name__}.")
    if not 0 <= value < 2**53:
        raise InvalidArgument(f"feed_retention must keep 0 entries or more, not {value}; pass None to keep all.")
    return value


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Entries beyond the bounds that stay because a consumer group is not done with them."""

    group: str
    partition: int
    entries: int
    """How many, of those at the front of the feed that one call looks at, and of those beyond the count."""
    age: float
    """Seconds since the oldest was appended."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What trimming did."""

    entries: int
    """How many were taken out."""
    held_back: tuple[HeldBack, ...]


def trim_feed(keyspace: Keyspace, retention: Retention, *, page: int = 1000) -> Flow[Trimmed]:
    """Takes all that is beyond the bounds out of the feeds of all partitions, but for what groups need.

    One round trip per partition, and one more per `page` entries taken of it. Raises `LogLost` if what was kept of entries taken
    before is gone, `CorruptEntry` if an entry of a feed is none of this project's.
    """
    entries = 0
    held_back: list[HeldBack] = []
    for partition in range(keyspace.partitions):
        more = True
        while more:
            done, more = yield from _trim(keyspace, partition, retention, page)
            entries += done.entries
        held_back += done.held_back
    return Trimmed(entries, tuple(held_back))


def trim_partition(keyspace: Keyspace, partition: int, retention: Retention, *, most: int = 500) -> Flow[Trimmed]:
    """Takes up to `most` entries beyond the bounds out of the feed of a partition. One round trip. Errors as `trim_feed`."""
    done, _ = yield from _trim(keyspace, partition, retention, most)
    return done


def _trim(keyspace: Keyspace, partition: int, retention: Retention, most: int) -> Flow[tuple[Trimmed, bool]]:
    """One call; whether another would take more."""
    keys = keyspace.partition(partition)
    age = b"" if retention.age is None else b"%d" % (retention.age // MILLISECOND)
    count = b"" if retention.count is None else b"%d" % -(-retention.count // keyspace.partitions)
    names = [keys.feed, keys.trimmed, keys.positions, keys.past_threads, keys.past_runs, keys.threads]
    reply = TrimReply.of((yield Call(TRIM, names, [age, count, most])))
    if reply.status == b"lost":
        raise past_lost(keys)
    if reply.status == b"foreign":
        raise CorruptEntry(
            f"Feed {keys.feed.decode()!r}: entry {reply.foreign} is no pointer to an event; nothing was trimmed. Something "
            "else wrote there: delete the entry with XDEL, and give the saver a prefix of its own."
        )
    held_back = tuple(HeldBack(group, partition, entries, age) for group, entries, age in reply.groups)
    return Trimmed(reply.taken, held_back), reply.more


def past_lost(keys: PartitionKeys) -> LogLost:
    """The error for a feed that was trimmed, and what was kept of the trimmed part is gone."""
    gone = f"{keys.past_threads.decode()!r} or {keys.past_runs.decode()!r}"
    return LogLost(
        f"Feed {keys.feed.decode()!r} was trimmed, and {gone}, which tell of the threads that it spoke of, are gone. Restore them "
        "from a backup, and see that the server does not evict keys; or, to go on with the threads that the rest of the feed "
        "names, run ZADD <key> 0 '' for both."
    )

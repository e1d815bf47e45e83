"""Trims the feed: removes entries beyond an age or a number.

Entries that a consumer group still needs stay, whatever the bounds are. The threads and runs that removed entries name are
kept (`PartitionKeys.past_threads`, `past_runs`), so that the registry can be rebuilt. The logs of threads stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from eventlog.errors import CorruptEntry, InvalidArgument, LogLost, ServerFailedCommand, is_of_contents
from eventlog.feed.replies import TrimReply
from eventlog.flow import Call, Flow, load_script
from eventlog.keys import Keyspace, PartitionKeys

__all__ = ["HeldBack", "Retention", "Trimmed", "past_lost", "record_damaged", "trim_feed", "trim_partition"]

TRIM = load_script("eventlog/feed/trim")
FORMS = 'a timedelta, a number of entries, or {"age": timedelta or seconds, "count": entries}'
MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Retention:
    """The bounds of the feed. An entry beyond one of them may be removed."""

    age: timedelta | None = None
    """The age to which entries are kept, by the server's clock."""
    count: int | None = None
    """The number of entries kept of the whole feed; each partition keeps its share, rounded up."""

    @classmethod
    def of(cls, value: Any) -> Retention | None:
        """Makes the bounds from a timedelta, a number of entries, or a mapping.

        The mapping has `age` or `count` or both; its age is a timedelta or a number of seconds. None stands for no
        bounds. Raises `InvalidArgument` for impossible values and unknown keys, and `TypeError` for other types.
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
    """Entries beyond the bounds that stay because a consumer group still needs them."""

    group: str
    partition: int
    entries: int
    """The number of these entries, among those that one call looks at and those beyond the count."""
    age: float
    """The seconds since the oldest of them was appended."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The outcome of a trimming."""

    entries: int
    """The number of entries removed."""
    held_back: tuple[HeldBack, ...]


def trim_feed(keyspace: Keyspace, retention: Retention, *, page: int = 1000) -> Flow[Trimmed]:
    """Removes the entries beyond the bounds that no group needs any more.

    One round trip per partition, and one more per `page` entries removed from it. Raises `LogLost` if the threads and runs
    of entries removed before are gone, and `CorruptEntry` if an entry of a feed is no pointer.
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
    """Removes up to `most` such entries from one partition, in one round trip."""
    done, _ = yield from _trim(keyspace, partition, retention, most)
    return done


def _trim(keyspace: Keyspace, partition: int, retention: Retention, most: int) -> Flow[tuple[Trimmed, bool]]:
    """Makes one call; the second result is whether another would remove more."""
    keys = keyspace.partition(partition)
    age = b"" if retention.age is None else b"%d" % (retention.age // MILLISECOND)
    count = b"" if retention.count is None else b"%d" % -(-retention.count // keyspace.partitions)
    names = [keys.feed, keys.trimmed, keys.positions, keys.past_threads, keys.past_runs, keys.threads]
    try:
        reply = TrimReply(*(yield Call(TRIM, names, [age, count, most])))
    except ServerFailedCommand as error:
        if is_of_contents(error):
            raise record_damaged(keys, error) from error
        raise
    if reply.status == b"lost":
        raise past_lost(keys)
    if reply.status == b"damaged":
        raise record_damaged(keys)
    if isinstance(reply.taken, bytes):
        raise CorruptEntry(
            f"Feed {keys.feed.decode()!r}: entry {reply.taken.decode()} is no pointer to an event; nothing was trimmed. Another "
            "program wrote there: delete the entry with XDEL, and give the saver a prefix of its own."
        )
    holders = reply.holders
    held_back = tuple(
        HeldBack(name.decode(errors="replace"), partition, entries, ms / 1000)
        for name, entries, ms in zip(holders[::3], holders[1::3], holders[2::3], strict=True)
    )
    return Trimmed(reply.taken, held_back), bool(reply.more)


def record_damaged(keys: PartitionKeys, error: object = "it is malformed") -> CorruptEntry:
    """Makes the error for a record of what was trimmed, or of groups' positions, that this package did not write."""
    return CorruptEntry(
        f"{keys.trimmed.decode()!r}, {keys.positions.decode()!r} or an entry of {keys.feed.decode()!r} was not written by this "
        f"package ({error}). Nothing was changed. Drop a group whose position is wrong, or restore the keys from a backup."
    )


def past_lost(keys: PartitionKeys) -> LogLost:
    """Makes the error for a trimmed feed whose kept threads and runs are gone."""
    gone = f"{keys.past_threads.decode()!r} or {keys.past_runs.decode()!r}"
    return LogLost(
        f"Feed {keys.feed.decode()!r} was trimmed, and {gone}, which have the threads of the trimmed part, are gone. Restore them "
        "from a backup, and configure the server not to evict keys. Or, to go on with the threads that the rest of the feed "
        "names, run ZADD <key> 0 '' for both."
    )

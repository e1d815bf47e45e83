"""Names of keys, index fields and order members.

The keys of a thread and of its partition share a hash tag, so that a script may use them together on a cluster. Ids are
arbitrary text and never part of a pattern. In a name an id comes last, follows its length, or has an encoding that keeps
the order (`ordered`). So names of different ids always differ.
"""

from __future__ import annotations

from binascii import crc_hqx
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from eventlog.errors import CorruptEntry, InvalidArgument
from eventlog.framing import counted, ordered, unordered
from eventlog.limits import Limits, brief

if TYPE_CHECKING:
    from eventlog.signing import Known, Signer

PREFIX = "langgraph"
"""The default prefix of keys."""
PARTITIONS = 16
"""The default number of partitions."""
LAYOUT = 1
"""Version of the layout of keys, which is in the meta key; every saver compares it."""
NOT_IN_PREFIXES = frozenset(":{}*?[]\\^")
"""Characters that would let the key patterns of one prefix match keys of another, or change the hash tag."""


def text(field: str, value: str) -> bytes:
    """The UTF-8 bytes of an id.

    Raises `InvalidArgument`, which names the `field`, for text without a UTF-8 form (lone surrogates).
    """
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(
            f"{field} {brief(value)} is not valid Unicode text; pass text that can be encoded as UTF-8."
        ) from None


def check_prefix(prefix: object) -> bytes:
    """The UTF-8 bytes of a prefix that an access rule for keys can name.

    Raises `InvalidArgument` for an empty prefix, and for characters that have a meaning in hash tags, in names of keys or
    in the key patterns of `ACL SETUSER`: `NOT_IN_PREFIXES`, blanks and control characters.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, not {type(prefix).__name__}.")
    if not prefix:
        raise InvalidArgument("prefix must not be empty. Pass another one.")
    encoded = text("prefix", prefix)
    refused = sorted({one for one in prefix if one in NOT_IN_PREFIXES or one.isspace() or not one.isprintable()})
    if refused:
        raise InvalidArgument(
            f"prefix {prefix!r} has {', '.join(map(repr, refused))}. The key patterns of access rights could then match keys of "
            "another prefix. Pass one of letters, digits, '-', '_' and '.'. Data that an older version stored under this prefix "
            "moves by an export with that version and an import under another prefix."
        )
    return encoded


def checkpoint_sort_key(namespace: bytes, checkpoint_id: bytes) -> bytes:
    """The sort key of a checkpoint in the order key: its namespace, then its id."""
    return ordered(namespace) + ordered(checkpoint_id)


def split_sort_key(member: bytes) -> tuple[str, str, bytes]:
    """Namespace and checkpoint id of a sort key, and the entry id after it."""
    namespace, rest = unordered(member)
    checkpoint_id, entry_id = unordered(rest)
    return namespace.decode(), checkpoint_id.decode(), entry_id


def version_key(version: str | float) -> str:
    """The text of a version; equal versions, and only those, have equal texts.

    1 and 1.0 are equal; "1" differs from both.
    """
    if isinstance(version, str):
        return "s" + version
    if isinstance(version, float) and not version.is_integer():
        return f"f{version!r}"
    return f"i{int(version)}"


def value_name(channel: bytes, version: bytes) -> bytes:
    """The name of one version of a channel in fields of the log and of the index."""
    return counted(version) + channel


def split_value_name(name: bytes) -> tuple[bytes, bytes]:
    """Channel and version key of a `value_name`."""
    length, _, rest = name.partition(b":")
    size = int(length)
    return rest[size:], rest[:size]


@dataclass(frozen=True, slots=True)
class GroupKeys:
    """The keys of one consumer group in one partition."""

    state: bytes
    """Hash: the lease of the partition, and the offset of the group."""
    held: bytes
    """Sorted set by name: events of a thread that failed, and its waiting events after it."""
    failures: bytes
    """Hash by thread: the state of the event that failed."""
    due: bytes
    """Sorted set: threads with a failed event, by the time of its next attempt; inf if it is parked."""
    effects: bytes
    """The prefix of keys that handlers write together with their acknowledgement."""
    shared: PartitionKeys


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """The keys that the threads of a partition share; times are ms since 1970."""

    threads: bytes
    """Sorted set: thread ids by last activity. A view."""
    feed: bytes
    """Stream: one small pointer per append, in commit order."""
    runs: bytes
    """Sorted set by name: the threads of each run and the runs of each thread. A view."""
    expiries: bytes
    """Sorted set: threads with a ttl, by the time of their expiry. A view."""
    trimmed: bytes
    """Hash: `id` and `check` (fingerprint) of the last trimmed entry, and the number `n` of all."""
    past_threads: bytes
    """Sorted set: `threads` according to the trimmed part of the feed."""
    past_runs: bytes
    """Sorted set: `runs` according to the trimmed part of the feed."""
    positions: bytes
    """Hash by consumer group: the id of the last feed entry that the group has finished."""

    @classmethod
    def of(cls, tag: bytes) -> PartitionKeys:
        """The keys under a hash tag."""
        names = b"threads feed runs expiries trimmed trimmed:threads trimmed:runs positions"
        return cls(*(tag + b":" + name for name in names.split()))

    def group(self, name: bytes) -> GroupKeys:
        """The keys of a consumer group in this partition."""
        tag = self.feed[: -len(b"feed")]
        kinds = (b"group:", b"held:", b"failures:", b"due:")
        state, held, failures, due = (tag + kind + name for kind in kinds)
        return GroupKeys(state, held, failures, due, tag + b"effect:" + counted(name), self)

    def stage(self, stage_id: bytes, part: bytes) -> bytes:
        """A key for data that is staged before a script puts it in place."""
        return self.feed[: -len(b"feed")] + b"stage:" + stage_id + b":" + part


@dataclass(frozen=True, slots=True)
class ThreadKeys:
    """The keys of one thread."""

    thread: bytes
    log: bytes
    """Stream: all events of the thread, in all namespaces."""
    index: bytes
    """Hash: sequence number, digest, and the log entry of each (channel, version). A view."""
    order: bytes
    """Sorted set by name: checkpoints and entries of writes, by sort key. A view."""
    heads: bytes
    """The prefix of the keys of the thread's heads."""
    shared: PartitionKeys
    all: tuple[bytes, ...]
    """The keys for every script that uses log.lua, in its order."""
    keyspace: Keyspace
    signer: Signer | None
    """It signs appended events and verifies those that are read."""

    @property
    def limits(self) -> Limits:
        """The limits on what is read, and on ids."""
        return self.keyspace.limits

    def known(self) -> Known | None:
        """The signer's knowledge of the log, to sign with; None without a signer."""
        return None if self.signer is None else self.signer.known(self.thread)

    def signed(self, fields: list[bytes], known: Known | None) -> list[bytes]:
        """The fields of an event, signed if there is a signer."""
        return fields if self.signer is None else self.signer.sign(self.thread, fields, known)

    def note(self, entry_id: bytes | None, digest: bytes | None, known: Known | None) -> None:
        """Note for the signer that a reply named the last entry of the log, in the life of `known`."""
        if self.signer is not None and known is not None:
            self.signer.note(self.thread, entry_id, digest, known.life)

    def forget(self) -> None:
        """Note for the signer that the thread was deleted or replaced."""
        if self.signer is not None:
            self.signer.forget(self.thread)

    def split_sort_key(self, member: bytes) -> tuple[str, str, bytes]:
        """Namespace, checkpoint id and entry id in a sort key of the order. Raises `CorruptEntry`."""
        try:
            return split_sort_key(member)
        except ValueError as error:
            raise CorruptEntry(
                f"Thread {self.thread.decode()!r}: {self.order.decode()!r} has {member!r:.100}, which this package does not write. "
                "Rebuild the thread's views: saver.rebuild, or agentlog rebuild."
            ) from error

    def head(self, namespace: bytes) -> bytes:
        """The hash of a namespace's latest checkpoint, with values and pending writes."""
        return self.heads + namespace


class Keyspace:
    """The keys under one prefix.

    Args:
        prefix: the beginning of every key, as `check_prefix` allows it.
        partitions: the number of hash tags for threads; the first use of the prefix fixes it.
        signer: the signer of appended events, None for none.
        limits: the limits on what is read, and on ids.

    """

    def __init__(
        self, prefix: str, partitions: int, signer: Signer | None = None, limits: Limits | None = None
    ) -> None:
        encoded = check_prefix(prefix)
        if isinstance(partitions, bool) or not isinstance(partitions, int):
            raise TypeError(f"partitions must be an int, not {type(partitions).__name__}.")
        if not 1 <= partitions <= 16384:
            raise InvalidArgument(f"partitions must be between 1 and 16384 (the slots of a cluster), not {partitions}.")
        self.prefix = prefix
        self.signer = signer
        self.limits = limits or Limits()
        self.partitions = partitions
        self.limits.check_ids([("prefix", encoded)])
        self.meta = encoded + b":meta"
        self._tags = [b"{%b:%d}" % (encoded, number) for number in range(partitions)]
        self.thread = lru_cache(1024)(self._thread)
        """The keys of a thread, cached. Raises `OverLimit` for a longer id than the limits allow."""
        self._shared = [PartitionKeys.of(tag) for tag in self._tags]
        self.groups = encoded + b":groups"
        """Hash: the options of each consumer group of the feed."""

    def partition(self, number: int) -> PartitionKeys:
        """The shared keys of a partition."""
        return self._shared[number]

    def members(self, group: bytes) -> bytes:
        """The sorted set of a group's live members, by the ms at which they expire."""
        return b"%b:members:{%b}" % (self.prefix.encode(), group)

    def partition_of(self, thread: bytes) -> int:
        """The partition of a thread.

        It is the CRC16 (XMODEM, as for slots of Redis Cluster) modulo the number of partitions.
        """
        return crc_hqx(thread, 0) % self.partitions

    def _thread(self, thread: bytes) -> ThreadKeys:
        self.limits.check_ids([("thread_id", thread)])
        number = self.partition_of(thread)
        tag, shared = self._tags[number], self._shared[number]
        log, index, order = (tag + name + thread for name in (b":log:", b":index:", b":order:"))
        keys = log, index, order, shared.threads, shared.feed, shared.runs, shared.expiries
        return ThreadKeys(thread, log, index, order, tag + b":head:" + counted(thread), shared, keys, self, self.signer)

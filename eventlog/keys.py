"""Names: keys, index fields and order members.

All keys of a thread, and those its partition shares, carry one hash tag, so that a script may touch them together on a
cluster. Ids are arbitrary text. They are never pasted into a pattern: inside a name they stand last, behind a length, or in an
encoding that keeps their order (`ordered`), so that no id can be mistaken for another, whatever characters it has.
"""

from __future__ import annotations

from binascii import crc_hqx
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from eventlog.errors import InvalidArgument
from eventlog.framing import counted, ordered, unordered

if TYPE_CHECKING:
    from eventlog.signing import Signer

__all__ = [
    "GroupKeys",
    "Keyspace",
    "PartitionKeys",
    "ThreadKeys",
    "checkpoint_sort_key",
    "split_sort_key",
    "text",
    "value_name",
]

PREFIX = "langgraph"
"""What keys begin with unless another prefix is given."""
PARTITIONS = 16
"""Over how many hash tags threads are spread unless another number is given."""
LAYOUT = 1
"""Version of the layout of keys; kept in the meta key and checked by every saver."""


def text(field: str, value: str) -> bytes:
    """UTF-8 bytes of an id. Raises `InvalidArgument` naming `field` for text that has no UTF-8 form (lone surrogates)."""
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(
            f"{field} {value!r} is not valid Unicode text; pass text that can be encoded as UTF-8."
        ) from None


def checkpoint_sort_key(namespace: bytes, checkpoint_id: bytes) -> bytes:
    """Where a checkpoint stands in the order key: by namespace, then by checkpoint id."""
    return ordered(namespace) + ordered(checkpoint_id)


def split_sort_key(place: bytes) -> tuple[str, str, bytes]:
    """Namespace, checkpoint id, and the entry id that follows them in an order member."""
    namespace, rest = unordered(place)
    checkpoint_id, entry_id = unordered(rest)
    return namespace.decode(), checkpoint_id.decode(), entry_id


def version_key(version: str | float) -> str:
    """Text that equals another's exactly where the versions are equal (1 and 1.0 are, "1" is neither)."""
    if isinstance(version, str):
        return "s" + version
    if isinstance(version, float) and not version.is_integer():
        return f"f{version!r}"
    return f"i{int(version)}"


def value_name(channel: bytes, token: bytes) -> bytes:
    """Name of one version of a channel: part of a log field's and of an index field's name."""
    return counted(token) + channel


def split_value_name(name: bytes) -> tuple[bytes, bytes]:
    """Channel and version token of a `value_name`."""
    length, _, rest = name.partition(b":")
    size = int(length)
    return rest[size:], rest[:size]


@dataclass(frozen=True, slots=True)
class GroupKeys:
    """Keys of one consumer group in one partition, with those of the partition."""

    state: bytes
    """Hash: who leases the partition, and how far the group is."""
    held: bytes
    """Sorted set, by name: events of threads that wait behind one that failed, that one first."""
    failures: bytes
    """Hash: by thread, what is known of the event that failed."""
    due: bytes
    """Sorted set: such threads, by when their first event is to be tried again, in ms since 1970; inf where it is parked."""
    effects: bytes
    """What the names of keys begin with that the group's handlers write to together with their acknowledgement."""
    shared: PartitionKeys


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """Keys that the threads of a partition share."""

    threads: bytes
    """Sorted set: thread ids by last activity, in ms since 1970. Derived."""
    feed: bytes
    """Stream: one small pointer per event, in commit order."""
    runs: bytes
    """Sorted set, by name: which threads a run wrote to, and which runs wrote to a thread. Derived."""
    expiries: bytes
    """Sorted set: threads with a ttl, by the ms since 1970 at which they expire. Derived."""
    trimmed: bytes
    """Hash: how far the feed was trimmed: `id` and `check` of the last entry taken, `n` of them in all."""
    past_threads: bytes
    """Sorted set: what the trimmed part of the feed says of `threads`."""
    past_runs: bytes
    """Sorted set: what the trimmed part of the feed says of `runs`."""
    positions: bytes
    """Hash: by consumer group, the id of the last entry of the feed that it is done with."""

    @classmethod
    def of(cls, tag: bytes) -> PartitionKeys:
        """The keys under a hash tag."""
        names = (
            b"threads",
            b"feed",
            b"runs",
            b"expiries",
            b"trimmed",
            b"trimmed:threads",
            b"trimmed:runs",
            b"positions",
        )
        return cls(*(tag + b":" + name for name in names))

    def group(self, name: bytes) -> GroupKeys:
        """Keys of a consumer group in this partition."""
        tag = self.feed[: -len(b"feed")]
        kinds = (b"group:", b"held:", b"failures:", b"due:")
        state, held, failures, due = (tag + kind + name for kind in kinds)
        return GroupKeys(state, held, failures, due, tag + b"effect:" + counted(name), self)

    def stage(self, token: bytes, part: bytes) -> bytes:
        """A key in which something is laid ready before it is put in place whole."""
        return self.feed[: -len(b"feed")] + b"stage:" + token + b":" + part


@dataclass(frozen=True, slots=True)
class ThreadKeys:
    """Keys of one thread, with those of its partition."""

    thread: bytes
    log: bytes
    """Stream: every event of the thread, all namespaces."""
    index: bytes
    """Hash: sequence number, digest, and where each (channel, version) lies in the log. Derived."""
    order: bytes
    """Sorted set, by name: checkpoints by namespace and id, and their writes' entries. Derived."""
    heads: bytes
    """What the name of every head of the thread begins with."""
    shared: PartitionKeys
    all: tuple[bytes, ...]
    """The keys that every script on a thread is given, as log.lua expects them."""
    keyspace: Keyspace
    signer: Signer | None
    """Who signs what is appended to the thread, and checks what is read of it."""

    def signed(self, fields: list[bytes]) -> list[bytes]:
        """The fields of an event as they are to be appended."""
        return fields if self.signer is None else self.signer.sign(self.thread, fields)

    def note(self, entry_id: bytes | None, digest: bytes | None) -> None:
        """That the thread's log ended with this entry, as a reply said."""
        if self.signer is not None:
            self.signer.note(self.thread, entry_id, digest)

    def forget(self) -> None:
        """That the thread was deleted."""
        if self.signer is not None:
            self.signer.forget(self.thread)

    def head(self, namespace: bytes) -> bytes:
        """Hash: the latest checkpoint of a namespace, its values and pending writes. Derived."""
        return self.heads + namespace


class Keyspace:
    """The keys under one prefix.

    Args:
        prefix: what every key begins with; no braces, since they would change the hash tag.
        partitions: over how many hash tags the threads are spread; fixed when the prefix is first used.
        signer: who signs what is appended, None for nobody.

    """

    def __init__(self, prefix: str, partitions: int, signer: Signer | None = None) -> None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a string, not {type(prefix).__name__}.")
        if not prefix or "{" in prefix or "}" in prefix:
            raise InvalidArgument(
                f"prefix {prefix!r} must be non-empty and without braces, which mark a cluster's hash tag."
            )
        if isinstance(partitions, bool) or not isinstance(partitions, int):
            raise TypeError(f"partitions must be an int, not {type(partitions).__name__}.")
        if not 1 <= partitions <= 16384:
            raise InvalidArgument(f"partitions must be between 1 and 16384 (a cluster's slots), not {partitions}.")
        self.prefix = prefix
        self.signer = signer
        self.partitions = partitions
        encoded = text("prefix", prefix)
        self.meta = encoded + b":meta"
        self._tags = [b"{%b:%d}" % (encoded, number) for number in range(partitions)]
        self.thread = lru_cache(1024)(self._thread)
        """Keys of a thread."""
        self._shared = [PartitionKeys.of(tag) for tag in self._tags]
        self.groups = encoded + b":groups"
        """Hash: the consumer groups of the feed, each with what it was registered with."""

    def partition(self, number: int) -> PartitionKeys:
        """Shared keys of partition `number`."""
        return self._shared[number]

    def members(self, group: bytes) -> bytes:
        """Sorted set: the live members of a consumer group, by when they count as dead, in ms since 1970."""
        return b"%b:members:{%b}" % (self.prefix.encode(), group)

    def partition_of(self, thread: bytes) -> int:
        """Partition of a thread: CRC16 (XMODEM, as Redis Cluster's slots) modulo the number of partitions."""
        return crc_hqx(thread, 0) % self.partitions

    def _thread(self, thread: bytes) -> ThreadKeys:
        number = self.partition_of(thread)
        tag, shared = self._tags[number], self._shared[number]
        log, index, order = (tag + name + thread for name in (b":log:", b":index:", b":order:"))
        keys = log, index, order, shared.threads, shared.feed, shared.runs, shared.expiries
        return ThreadKeys(thread, log, index, order, tag + b":head:" + counted(thread), shared, keys, self, self.signer)

"""Caches the value of each channel that was last read or written.

It is the base of the next delta. All threads of a saver share a bound in bytes, and the values that were noted longest ago are
dropped first. The cache costs no round trip: without a cached value, a value is stored whole. The script that appends checks that
the log holds what the cache holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple, Union

from eventlog.codec import EMPTY, Keyframe, checksum_of, compressed, encode_delta, encode_keyframe
from eventlog.forks import renew_after_fork
from projections.values.delta import make_delta
from projections.values.pieces import SMALLEST, StoredValue
from projections.values.versions import Versions

__all__ = ["CACHE_BYTES", "COMPRESS_ABOVE", "KnownVersions", "Prepared", "ValueCache"]

CACHE_BYTES = 64 * 1024 * 1024
COMPRESS_ABOVE = 4096
"""Bytes of a piece above which it is compressed for the log. These are mostly keyframes; the cost does not show in a put."""

MOST_DELTAS = 64
"""Deltas on one keyframe at least. A large value may have one more per KiB, so that a keyframe costs at most a KiB per step."""
LONGEST_CHAIN = 2000
"""Deltas on one keyframe at most, however large the value is: a script that reads it takes about 13 microseconds for each."""
MOST_BESIDE = 4 * 1024 * 1024
"""Bytes of other values between the pieces of a chain after which a keyframe is due, plus four times the last keyframe's bytes."""
LONGEST_VERSION_KEY = 60000
"""Bytes of a version key that a delta can name."""
DEEPEST = 8
"""Checkpoints with changes of versions after one with whole versions."""
_OVERHEAD = 500
"""Bytes that an entry of the cache takes besides its value."""
_EACH = 300
"""Bytes that the versions of a channel or a node take."""

_Name = tuple[bytes, str, Union[str, None]]
"""Thread, namespace and channel; None for the versions."""


@dataclass(slots=True)
class _Known:
    """A cached value, and how it is stored."""

    type: str
    data: bytes
    checksum: bytes
    """Empty until it is needed."""
    version_key: bytes
    entry_id: bytes
    deltas: int
    """Number of deltas since the keyframe."""
    weight: int
    """Bytes of these deltas."""
    keyframe: int
    """Bytes of the keyframe."""
    misses: int = 0
    """Times in a row that no short delta was found."""
    dense: int = 0
    """Times in a row that compressing a keyframe did not make it shorter."""
    span: int = 0
    """Bytes beside the pieces in the entries since the keyframe: a reader of the value reads over them."""

    def may_follow(self, size: int) -> bool:
        """Whether a value of so many bytes may be a delta; else a keyframe is due."""
        return (
            self.weight < self.keyframe
            and self.deltas < min(MOST_DELTAS + size // 1024, LONGEST_CHAIN)
            and self.span < MOST_BESIDE + 4 * self.keyframe
            and len(self.version_key) < LONGEST_VERSION_KEY
        )


_NOTHING = _Known("", b"", b"", b"", b"", 0, 0, 0)


class KnownVersions(NamedTuple):
    """The versions of a namespace's checkpoint that was last read or written."""

    versions: Versions
    entry_id: bytes
    checksum: bytes
    """The checksum of the versions, empty if they are few."""
    depth: int
    """Number of checkpoints with changes of versions after one with whole versions."""


class Prepared(NamedTuple):
    """A piece that is about to be stored, and what the cache will know of its value."""

    piece: bytes
    """The piece for the log."""
    checksum: bytes
    """The checksum of the value."""
    known: _Known | None = None
    plain: bytes | None = None
    """The piece for the head if the log's is compressed, so that the latest state is read without decompressing it."""


class ValueCache:
    """Makes pieces of values: deltas where it knows an earlier value of the channel.

    Threads may share it.

    Args:
        limit: most bytes that it may take; with 0 every value is stored whole.
        compress_above: bytes above which pieces are compressed for the log.

    """

    def __init__(self, limit: int, compress_above: int) -> None:
        self.limit = limit
        self.compress_above = compress_above
        self._begin_process()
        renew_after_fork(self)

    def _begin_process(self) -> None:
        self._known: OrderedDict[_Name, _Known | KnownVersions] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def prepare(
        self,
        thread: bytes,
        namespace: str,
        channel: str,
        version: bytes,
        value: Keyframe | None,
        *,
        whole: bool = False,
    ) -> Prepared:
        """The piece to store for a value; with `whole` a keyframe in any case."""
        if value is None:
            return Prepared(EMPTY, b"")
        type_, data = value
        checksum = checksum_of(data)
        if len(data) < SMALLEST or not self.limit:
            return self._prepared(encode_keyframe(type_, data, checksum), checksum, None)
        base = self._known.get((thread, namespace, channel))
        if not isinstance(base, _Known) or base.type != type_:
            base = _NOTHING
        misses, dense = 0, base.dense
        if not whole and base.may_follow(len(data)):
            checksums = base.checksum or checksum_of(base.data), checksum
            delta = make_delta(base.data, data, checksums=checksums, search=_worth_trying(base.misses))
            if delta is not None:
                piece = encode_delta(base.entry_id, base.version_key, delta)
                weight = base.weight + len(delta)
                known = _Known(
                    type_, data, checksum, version, b"", base.deltas + 1, weight, base.keyframe, 0, dense, base.span
                )
                return self._prepared(piece, checksum, known)
            misses = base.misses + 1
        piece = encode_keyframe(type_, data, checksum)
        known = _Known(type_, data, checksum, version, b"", 0, 0, len(data), misses, dense)
        if not _worth_trying(dense):
            known.dense += 1
            return Prepared(piece, checksum, known)
        prepared = self._prepared(piece, checksum, known)
        if len(piece) > self.compress_above:
            known.dense = 0 if prepared.plain else dense + 1
        return prepared

    def _prepared(self, piece: bytes, checksum: bytes, known: _Known | None) -> Prepared:
        shorter = compressed(piece, self.compress_above)
        return Prepared(piece, checksum, known) if shorter is None else Prepared(shorter, checksum, known, piece)

    def versions(self, thread: bytes, namespace: str) -> KnownVersions | None:
        """The cached versions of a namespace, if changes from them may be stored."""
        known = self._known.get((thread, namespace, None))
        return known if isinstance(known, KnownVersions) and known.depth < DEEPEST else None

    def know_versions(self, thread: bytes, namespace: str, known: KnownVersions) -> None:
        """Notes the versions of a checkpoint that was read or stored, if they are many."""
        if self.limit and known.checksum:
            self._set((thread, namespace, None), known)

    def stored(  # noqa: PLR0917
        self, thread: bytes, namespace: str, channel: str, prepared: Prepared, entry_id: bytes, size: int = 0
    ) -> None:
        """Notes that a prepared value was stored in an entry of `size` bytes."""
        name = thread, namespace, channel
        known = prepared.known
        if known is not None:
            known.entry_id = entry_id
            known.span += max(0, size - len(prepared.piece))
            self._set(name, known)
        elif name in self._known:
            with self._lock:
                self._drop(name)

    def read(self, thread: bytes, namespace: str, values: Mapping[str, StoredValue]) -> None:
        """Notes values that were read."""
        for channel, value in values.items():
            type_, data, version, entry_id, deltas, weight, keyframe = value
            if len(data) < SMALLEST or not self.limit or not entry_id:
                continue
            name = thread, namespace, channel
            known, misses = self._known.get(name), 0
            if isinstance(known, _Known):
                if known.entry_id == entry_id and known.version_key == version:
                    continue
                misses = known.misses
            self._set(name, _Known(type_, data, b"", version, entry_id, deltas, weight, keyframe, misses))

    def _set(self, name: _Name, known: _Known | KnownVersions) -> None:
        size = _size(known)
        with self._lock:
            self._drop(name)
            if size > self.limit:
                return
            self._known[name] = known
            self._bytes += size
            while self._bytes > self.limit:
                self._drop(next(iter(self._known)))

    def _drop(self, name: _Name) -> None:
        known = self._known.pop(name, None)
        if known is not None:
            self._bytes -= _size(known)


def _size(known: _Known | KnownVersions) -> int:
    """Bytes that something takes in the cache."""
    return _OVERHEAD + (len(known.data) if isinstance(known, _Known) else _EACH * known.versions.size)


def _worth_trying(failures: int) -> bool:
    """Whether to try again after failures in a row: twice, then every 16th time."""
    return failures < 2 or failures % 16 == 0

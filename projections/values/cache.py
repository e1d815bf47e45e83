"""What was last read or written of each channel, to make deltas against.

One value a channel, the newest that passed by; all threads of a saver share a bound in bytes, and what was noted longest ago goes
first. It never costs a round trip: without it values are stored whole. That what it holds is what the log holds is checked
by the script that appends.
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
"""Bytes of a piece above which the log gets it compressed: mostly keyframes, at no cost that shows in a put."""

MOST_DELTAS = 64
"""Deltas on one keyframe, at least: a large value may have one more for each KiB it has, so that a keyframe costs no more than
a KiB a step."""
_OVERHEAD = 500
"""Bytes an entry of the cache takes beside its value."""
_EACH = 300
"""Bytes that the versions of a channel or a node take."""

MOST_BESIDE = 4 * 1024 * 1024
"""Bytes beside a chain's pieces, and four times its keyframe's more, after which a keyframe is due: other channels may be long."""
LONGEST_TOKEN = 60000
"""Bytes of a version token that a delta can name."""
DEEPEST = 8
"""Checkpoints with changes of versions only, behind one that has them whole."""

_Name = tuple[bytes, str, Union[str, None]]
"""Thread, namespace, channel; None for the versions."""


@dataclass(slots=True)
class _Known:
    type: str
    data: bytes
    check: bytes
    """Empty until it is needed."""
    token: bytes
    entry_id: bytes
    deltas: int
    weight: int
    keyframe: int
    """Bytes of the keyframe."""
    misses: int = 0
    """Times in a row that searching for what is shared was for nothing."""
    dense: int = 0
    """Times in a row that compressing a keyframe was for nothing."""
    span: int = 0
    """Bytes that lie beside the pieces in the entries since the keyframe: who reads the value reads over them."""

    def may_follow(self, size: int) -> bool:
        """Whether a delta may follow, rather than a keyframe be due, for a value of so many bytes."""
        return (
            self.weight < self.keyframe
            and self.deltas < MOST_DELTAS + size // 1024
            and self.span < MOST_BESIDE + 4 * self.keyframe
            and len(self.token) < LONGEST_TOKEN
        )


_NOTHING = _Known("", b"", b"", b"", b"", 0, 0, 0)


class KnownVersions(NamedTuple):
    """The versions of the checkpoint of a namespace that was last read or written, and where they lie."""

    versions: Versions
    entry_id: bytes
    check: bytes
    depth: int
    """Number of checkpoints with changes only, behind one that has them whole."""


class Prepared(NamedTuple):
    """The piece of a value that is about to be stored, the value's check, and what is to be known of it then."""

    piece: bytes
    """As the log gets it."""
    check: bytes
    known: _Known | None = None
    plain: bytes | None = None
    """As the head gets it, where the log gets it compressed: so that the latest state is read without decompressing it."""


class ValueCache:
    """Makes pieces of values, deltas where it knows an earlier value of the channel. Usable from many threads at once.

    Args:
        limit: most bytes that it may take; with 0 every value is stored whole.
        compress_above: bytes above which the log gets pieces compressed.

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
        self, thread: bytes, namespace: str, channel: str, token: bytes, value: Keyframe | None, *, whole: bool = False
    ) -> Prepared:
        """The piece to store for a value: with `whole` a keyframe, whatever is known."""
        if value is None:
            return Prepared(EMPTY, b"")
        type_, data = value
        check = checksum_of(data)
        if len(data) < SMALLEST or not self.limit:
            return self._prepared(encode_keyframe(type_, data, check), check, None)
        base = self._known.get((thread, namespace, channel))
        if not isinstance(base, _Known) or base.type != type_:
            base = _NOTHING
        misses, dense = 0, base.dense
        if not whole and base.may_follow(len(data)):
            checks = base.check or checksum_of(base.data), check
            delta = make_delta(base.data, data, checks=checks, search=_worth_trying(base.misses))
            if delta is not None:
                piece = encode_delta(base.entry_id, base.token, delta)
                weight = base.weight + len(delta)
                known = _Known(
                    type_, data, check, token, b"", base.deltas + 1, weight, base.keyframe, 0, dense, base.span
                )
                return self._prepared(piece, check, known)
            misses = base.misses + 1
        piece = encode_keyframe(type_, data, check)
        known = _Known(type_, data, check, token, b"", 0, 0, len(data), misses, dense)
        if not _worth_trying(dense):
            known.dense += 1
            return Prepared(piece, check, known)
        prepared = self._prepared(piece, check, known)
        if len(piece) > self.compress_above:
            known.dense = 0 if prepared.plain else dense + 1
        return prepared

    def _prepared(self, piece: bytes, check: bytes, known: _Known | None) -> Prepared:
        shorter = compressed(piece, self.compress_above)
        return Prepared(piece, check, known) if shorter is None else Prepared(shorter, check, known, piece)

    def versions(self, thread: bytes, namespace: str) -> KnownVersions | None:
        """The versions last known of a namespace, if changes from them may be stored."""
        known = self._known.get((thread, namespace, None))
        return known if isinstance(known, KnownVersions) and known.depth < DEEPEST else None

    def know_versions(self, thread: bytes, namespace: str, known: KnownVersions) -> None:
        """Notes the versions of a checkpoint that was read or stored, if they are many."""
        if self.limit and known.check:
            self._set((thread, namespace, None), known)

    def stored(  # noqa: PLR0917
        self, thread: bytes, namespace: str, channel: str, prepared: Prepared, entry_id: bytes, size: int = 0
    ) -> None:
        """Notes that a value that was prepared lies in an entry now, of `size` bytes."""
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
            if len(value.data) < SMALLEST or not self.limit or not value.entry_id:
                continue
            name = thread, namespace, channel
            held = self._known.get(name)
            if isinstance(held, _Known) and held.entry_id == value.entry_id and held.token == value.token:
                continue
            known = _Known(
                value.type,
                value.data,
                b"",
                value.token,
                value.entry_id,
                value.deltas,
                value.weight,
                value.keyframe,
                held.misses if isinstance(held, _Known) else 0,
            )
            self._set(name, known)

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
        held = self._known.pop(name, None)
        if held is not None:
            self._bytes -= _size(held)


def _size(known: _Known | KnownVersions) -> int:
    """Bytes that something takes in the cache."""
    return _OVERHEAD + (len(known.data) if isinstance(known, _Known) else _EACH * known.versions.size)


def _worth_trying(failures: int) -> bool:
    """Whether to try again what was for nothing so many times in a row: twice, then every sixteenth time."""
    return failures < 2 or failures % 16 == 0

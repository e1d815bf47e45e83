"""Turns one byte string into the next by a few edits.

Pure. A delta is

    8 bytes   checksum of the base, the bytes that it is applied to
    8 bytes   checksum of the result
    edits     in the order of their starts in the base: three 32-bit big-endian numbers (start, bytes removed, bytes added), then
              the bytes added

The checksums are XXH3-64. They find damage and mix-ups; tampering is found by the log's chain of SHA digests. A delta that does not
fit its base, or whose result has another checksum, is refused.

How edits are found. A msgpack list begins with its length, in one, three or five bytes. This header is an edit of its own, and the
bodies after it are compared, so that appending to a list costs one comparison. Equal bytes at both ends are left alone. Between
them, where the two differ, some of the new bytes are searched for further on in the old bytes. This finds items that were removed
(a sliding window of messages), inserted, or changed in several positions. The length of the bytes bounds the effort of searching.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from struct import Struct

from eventlog.codec import Malformed, checksum_of

__all__ = ["apply_deltas", "make_delta"]

_EDIT = Struct(">III")
_CHECKSUMS = 16
"""Bytes of both checksums."""
_LARGEST = 2**32 - 1

_PROBE = 24
"""Bytes that are searched for where two byte strings differ."""
_REACHES = (0, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
"""Distances from where they differ, in the new bytes, at which the bytes to search for are taken."""
_NEAR = 16384
"""Bytes of the old bytes that are searched first."""
_EFFORT = 2
"""Times that the old bytes may be searched through without success."""
_MOST_EDITS = 200
_FEW = 16
"""Edits that are made in place."""

Edit = tuple[int, int, bytes]
"""Where an edit starts in the base, the number of bytes it removes, and the bytes it adds."""


def make_delta(
    previous: bytes, current: bytes, *, checksums: tuple[bytes, bytes] | None = None, search: bool = True
) -> bytes | None:
    """The delta from `previous` to `current`, None if it is not at most half as long.

    `checksums` are those of both, if they are known. `search=False` only compares both ends, which costs next to nothing if they
    share nothing.
    """
    most = len(current) // 2
    if most < _CHECKSUMS or len(previous) > _LARGEST or len(current) > _LARGEST:
        return None
    if not search and not _share_an_end(previous, current):
        return None
    parts = list(checksums or (checksum_of(previous), checksum_of(current)))
    size = _CHECKSUMS
    for start, removed, added in _edits(previous, current, search=search):
        size += _EDIT.size + len(added)
        if size > most:
            return None
        parts += (_EDIT.pack(start, removed, len(added)), added)
    return b"".join(parts)


def apply_deltas(
    base: bytes | memoryview, deltas: Sequence[tuple[bytes, int]], check: Callable[[int], object] = int
) -> bytes:
    """The result of some deltas on a base, each applied to the result before.

    Each delta is given as bytes, and where in them it starts. `check` receives the size of the last result before it is made.
    Raises `Malformed` if a delta was made for other bytes, or the last result is not the one that it was made for.
    """
    check(len(base) + sum(_growth(delta, start + _CHECKSUMS) for delta, start in deltas))
    checksum = checksum_of(base)
    result = bytearray(base)
    for delta, start in deltas:
        if delta[start : start + 8] != checksum or len(delta) < start + _CHECKSUMS:
            raise Malformed("holds a delta that was made for other bytes")
        checksum = delta[start + 8 : start + _CHECKSUMS]
        result = _apply(result, delta, start + _CHECKSUMS)
    made = bytes(result)
    if checksum_of(made) != checksum:
        raise Malformed("holds a delta whose result is not the one it was made for")
    return made


def _parsed(delta: bytes, at: int) -> Iterator[tuple[int, int, int, int]]:
    """Each edit of a delta: start, bytes removed, and where the bytes added begin and end."""
    end, numbers = len(delta), _EDIT.size
    while at < end:
        added_at = at + numbers
        if added_at > end:
            raise Malformed("holds a delta that is cut off")
        start, removed, added = _EDIT.unpack_from(delta, at)
        at = added_at + added
        if at > end:
            raise Malformed("holds a delta with an edit out of bounds")
        yield start, removed, added_at, at


def _growth(delta: bytes, at: int) -> int:
    """Bytes that a delta adds, less those that it removes."""
    return sum(end - begin - removed for _, removed, begin, end in _parsed(delta, at))


def _apply(result: bytearray, delta: bytes, at: int) -> bytearray:
    """The result of one delta, perhaps the bytes given, changed."""
    edits = list(islice(_parsed(delta, at), _FEW + 1))
    if len(edits) > _FEW:  # each edit in place moves all bytes after it
        return bytearray().join(_rewritten(result, delta, at))
    length, shift, last = len(result), 0, 0
    for start, removed, begin, end in edits:
        if start < last or start + removed > length:
            raise Malformed("holds a delta with an edit out of bounds")
        last = start + removed
        result[start + shift : last + shift] = delta[begin:end]
        shift += end - begin - removed
    return result


def _rewritten(base: bytearray, delta: bytes, at: int) -> Iterator[memoryview]:
    """The parts of the result: those of the base that stay, and those that the delta adds."""
    kept, added, last = memoryview(base), memoryview(delta), 0
    for start, removed, begin, end in _parsed(delta, at):
        if start < last or start + removed > len(base):
            raise Malformed("holds a delta with an edit out of bounds")
        yield kept[last:start]
        yield added[begin:end]
        last = start + removed
    yield kept[last:]


def _header(data: bytes) -> int:
    """Length of the header of a msgpack list or map, 0 for anything else."""
    first = data[0] if data else 0
    if 0x80 <= first <= 0x9F:
        return 1
    return {0xDC: 3, 0xDD: 5, 0xDE: 3, 0xDF: 5}.get(first, 0)


def _share_an_end(previous: bytes, current: bytes) -> bool:
    at, to = _header(previous), _header(current)
    return previous[at : at + 8] == current[to : to + 8] or previous[-8:] == current[-8:]


def _edits(previous: bytes, current: bytes, *, search: bool) -> Iterator[Edit]:
    at, to = _header(previous), _header(current)
    if not at or not to:
        at = to = 0
    elif previous[:at] != current[:to]:
        yield 0, at, current[:to]
    if current[to : to + 32] == previous[at : at + 32] and current.startswith(previous[at:], to):
        if len(current) - to > len(previous) - at:
            yield len(previous), 0, current[to + len(previous) - at :]
        return
    tail = _common_suffix(previous, at, current, to)
    yield from _between(previous, at, len(previous) - tail, current, to, len(current) - tail, search=search)


def _between(  # noqa: PLR0917
    previous: bytes, at: int, end: int, current: bytes, to: int, until: int, *, search: bool
) -> Iterator[Edit]:
    """Edits from `previous[at:end]` to `current[to:until]`."""
    effort = _EFFORT * (end - at) if search else 0
    for _ in range(_MOST_EDITS):
        run = _common_prefix(previous, at, end, current, to, until)
        at, to = at + run, to + run
        effort += run
        if at == end or to == until:
            break
        old, new, spent = _meet(previous, at, min(at + _NEAR, end), current, to, until)
        if old < 0 and effort > end - at:
            old, new, spent = _meet(previous, at, end, current, to, until)
        effort -= spent
        if old < 0:
            break
        while old > at and new > to and previous[old - 1] == current[new - 1]:
            old, new = old - 1, new - 1
        yield at, old - at, current[to:new]
        at, to = old, new
    if at < end or to < until:
        yield at, end - at, current[to:until]


def _meet(  # noqa: PLR0917
    previous: bytes, at: int, end: int, current: bytes, to: int, until: int
) -> tuple[int, int, int]:
    """The nearest positions from which both go on alike, and the bytes searched.

    The first position is -1 if none was found.
    """
    nearest, old, new, spent = end - at + until - to, -1, -1, 0
    for reach in _REACHES:
        within = min(at + nearest - reach, end)
        if to + reach + _PROBE > until or within < at + _PROBE or spent > _EFFORT * (end - at):
            break
        found = previous.find(current[to + reach : to + reach + _PROBE], at, within)
        spent += (within if found < 0 else found) - at
        if found >= 0:
            nearest, old, new = found - at + reach, found, to + reach
    return old, new, spent


def _common_prefix(previous: bytes, at: int, end: int, current: bytes, to: int, until: int) -> int:  # noqa: PLR0917
    """Number of equal bytes from `at` in one and `to` in the other."""
    most = min(end - at, until - to)
    if not most or previous[at] != current[to]:
        return 0
    return _run(most, lambda same, more: previous[at + same : at + more] == current[to + same : to + more])


def _common_suffix(previous: bytes, at: int, current: bytes, to: int) -> int:
    """Number of equal bytes at both ends, without the bytes before `at` and `to`."""
    end, until = len(previous), len(current)
    most = min(end - at, until - to)
    if not most or previous[-1] != current[-1]:
        return 0
    return _run(most, lambda same, more: previous[end - more : end - same] == current[until - more : until - same])


def _run(most: int, alike: Callable[[int, int], bool]) -> int:
    """Number of equal bytes, `most` at most, in strides that grow and then shrink.

    `alike` compares the bytes between two positions.
    """
    same, step = 0, 64
    while same < most:
        step = min(step, most - same)
        if alike(same, same + step):
            same += step
            step *= 4
        elif step == 1:
            break
        else:
            most = same + step
            step = (step + 1) // 2
    return same

"""Deltas: how one byte string becomes the next, in a few edits.

Pure. A delta is

    8 bytes   check of the base, the bytes it is applied to
    8 bytes   check of the result
    edits     in the order of their places in the base: three 32-bit big-endian numbers (place, bytes removed, bytes put there
              instead), then the bytes put there

A check is XXH3-64, which finds damage and mix-ups; tampering is what the log's chain of SHA digests is for. A delta that does not
fit its base, or whose result is not the one that was meant, is refused.

Finding edits: a list as msgpack lays it out begins with its length, in one, three or five bytes. That header is an edit of its own
and the bodies are compared behind it, so that appending to a list costs one comparison. What is equal at both ends is left
alone. Between them, where the two part, some bytes of the new are looked for further on in the old: that finds what was
removed (a window of messages that slides), inserted or changed in several places. How much is searched is bounded by the
length of the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from struct import Struct

from eventlog.codec import Malformed, checksum_of

__all__ = ["apply_delta", "apply_deltas", "make_delta"]

_EDIT = Struct(">III")
_CHECKS = 16
_LARGEST = 2**32 - 1

_PROBE = 24
"""Bytes that are looked for where two byte strings part."""
_REACHES = (0, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
"""How far behind the place where they part, in the new bytes, what is looked for is taken from."""
_NEAR = 16384
"""How far on is looked first."""
_EFFORT = 2
"""How often the old bytes may be searched through without finding anything."""
_MOST_EDITS = 200

Edit = tuple[int, int, bytes]


def make_delta(
    previous: bytes, current: bytes, *, checks: tuple[bytes, bytes] | None = None, search: bool = True
) -> bytes | None:
    """What turns `previous` into `current`; None if that takes more than half of `current`'s length.

    `checks` are those of both, where they are known. `search=False` compares both ends only, which costs next to nothing where
    nothing is shared.
    """
    most = len(current) // 2
    if most < _CHECKS or len(previous) > _LARGEST or len(current) > _LARGEST:
        return None
    if not search and not _share_an_end(previous, current):
        return None
    parts = list(checks or (checksum_of(previous), checksum_of(current)))
    size = _CHECKS
    for place, removed, put in _edits(previous, current, search=search):
        size += _EDIT.size + len(put)
        if size > most:
            return None
        parts += (_EDIT.pack(place, removed, len(put)), put)
    return b"".join(parts)


def apply_delta(base: bytes, delta: bytes) -> bytes:
    """The bytes that a delta makes of its base. Raises `Malformed`."""
    return apply_deltas(base, [(delta, 0)])


def apply_deltas(base: bytes | memoryview, deltas: Sequence[tuple[bytes, int]]) -> bytes:
    """The bytes that some deltas make of a base, each made for the result of the one before: bytes, and where in them it begins.

    Raises `Malformed` unless the first was made for this base, each for the result of the one before, and the result is that of the
    last.
    """
    check = checksum_of(base)
    result = bytearray(base)
    for delta, start in deltas:
        if delta[start : start + 8] != check or len(delta) < start + _CHECKS:
            raise Malformed("holds a delta that was made for other bytes")
        check = delta[start + 8 : start + _CHECKS]
        _apply(result, delta, start + _CHECKS)
    made = bytes(result)
    if checksum_of(made) != check:
        raise Malformed("holds a delta whose result is not the one it was made for")
    return made


def _apply(result: bytearray, delta: bytes, at: int) -> None:
    length, shift, last = len(result), 0, 0
    end = len(delta)
    while at < end:
        start = at + 12
        if start > end:
            raise Malformed("holds a delta that is cut off")
        place, removed, put = _EDIT.unpack_from(delta, at)
        at = start + put
        if at > end or place < last or place + removed > length:
            raise Malformed("holds a delta with an edit out of bounds")
        last = place + removed
        place += shift
        result[place : place + removed] = delta[start:at]
        shift += put - removed


def _header(data: bytes) -> int:
    """Length of the header of the msgpack list or map that `data` begins with, 0 for anything else."""
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
    """Edits that make `previous[at:end]` into `current[to:until]`."""
    effort = _EFFORT * (end - at) if search else 0
    for _ in range(_MOST_EDITS):
        run = _common_prefix(previous, at, end, current, to, until)
        at, to = at + run, to + run
        effort += run
        if at == end or to == until:
            break
        place, probe, spent = _meet(previous, at, min(at + _NEAR, end), current, to, until)
        if place < 0 and effort > end - at:
            place, probe, spent = _meet(previous, at, end, current, to, until)
        effort -= spent
        if place < 0:
            break
        while place > at and probe > to and previous[place - 1] == current[probe - 1]:
            place, probe = place - 1, probe - 1
        yield at, place - at, current[to:probe]
        at, to = place, probe
    if at < end or to < until:
        yield at, end - at, current[to:until]


def _meet(  # noqa: PLR0917
    previous: bytes, at: int, end: int, current: bytes, to: int, until: int
) -> tuple[int, int, int]:
    """The nearest places in both where they go on alike, -1 for none, and how many bytes were searched to find out."""
    nearest, place, probe, spent = end - at + until - to, -1, -1, 0
    for reach in _REACHES:
        within = min(at + nearest - reach, end)
        if to + reach + _PROBE > until or within < at + _PROBE or spent > _EFFORT * (end - at):
            break
        found = previous.find(current[to + reach : to + reach + _PROBE], at, within)
        spent += (within if found < 0 else found) - at
        if found >= 0:
            nearest, place, probe = found - at + reach, found, to + reach
    return place, probe, spent


def _common_prefix(previous: bytes, at: int, end: int, current: bytes, to: int, until: int) -> int:  # noqa: PLR0917
    """Number of bytes that are the same from `at` in one and `to` in the other on."""
    most = min(end - at, until - to)
    if not most or previous[at] != current[to]:
        return 0
    return _run(most, lambda same, more: previous[at + same : at + more] == current[to + same : to + more])


def _common_suffix(previous: bytes, at: int, current: bytes, to: int) -> int:
    """Number of bytes that are the same at both ends, those before `at` and `to` left out."""
    end, until = len(previous), len(current)
    most = min(end - at, until - to)
    if not most or previous[-1] != current[-1]:
        return 0
    return _run(most, lambda same, more: previous[end - more : end - same] == current[until - more : until - same])


def _run(most: int, alike: Callable[[int, int], bool]) -> int:
    """How many of `most` bytes are the same, given whether those between two places are: in growing strides, then shrinking."""
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

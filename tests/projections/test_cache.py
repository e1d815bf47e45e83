"""The cache of what was last read and written: bounded, safe, and sparing with effort."""

from __future__ import annotations

import os
import random
import threading

import pytest

from eventlog.codec import (
    Keyframe,
    base_of,
    checksum_of,
    decompressed,
    delta_start,
    encode_keyframe,
    is_delta,
    split_keyframe,
)
from projections.values.cache import LONGEST_CHAIN, MOST_DELTAS, Prepared, ValueCache, _Known, _size
from projections.values.pieces import StoredValue, assemble
from tests.forks import in_child

PLAIN = 2**63


def text(count: int) -> bytes:
    """Bytes that grow with `count`."""
    return b"".join(b"message %d with some words in it; " % number for number in range(count))


def store(cache: ValueCache, channel: str, number: int, data: bytes | None, thread: bytes = b"t") -> Prepared:
    """One version of a channel, prepared and then stored."""
    value = None if data is None else Keyframe("msgpack", data)
    prepared = cache.prepare(thread, "", channel, b"v%d" % number, value)
    cache.stored(thread, "", channel, prepared, b"%d-0" % number)
    return prepared


def test_a_known_value_makes_a_delta() -> None:
    """Which names the entry and version that the other lies in; thread, namespace and channel keep values apart."""
    cache = ValueCache(10**6, PLAIN)
    first = store(cache, "messages", 1, text(20))
    second = store(cache, "messages", 2, text(21))
    assert first.piece == encode_keyframe("msgpack", text(20), checksum_of(text(20)))
    assert base_of(second.piece) == (b"1-0", b"v1")
    value = assemble([first.piece, second.piece])
    assert value is not None
    assert value.data == text(21)
    assert not is_delta(store(cache, "other", 3, text(22)).piece)
    assert not is_delta(store(cache, "messages", 3, text(22), b"another").piece)
    assert not is_delta(cache.prepare(b"t", "sub", "messages", b"v3", Keyframe("msgpack", text(22))).piece)
    assert not is_delta(cache.prepare(b"t", "", "messages", b"v3", Keyframe("json", text(22))).piece)
    assert not is_delta(cache.prepare(b"t", "", "messages", b"v3", Keyframe("msgpack", text(22)), whole=True).piece)


def test_what_was_not_stored_is_not_known() -> None:
    """A value that was prepared only is no base."""
    cache = ValueCache(10**6, PLAIN)
    cache.prepare(b"t", "", "messages", b"v1", Keyframe("msgpack", text(20)))
    assert not is_delta(store(cache, "messages", 2, text(21)).piece)


def test_what_was_read_is_known() -> None:
    """A value that was read makes deltas as one that was written does; one whose entry is not known does not."""
    cache = ValueCache(10**6, PLAIN)
    cache.read(b"t", "", {"messages": StoredValue("msgpack", text(20), b"v1", b"1-0", keyframe=900)})
    cache.read(b"t", "", {"other": StoredValue("msgpack", text(20), b"v1")})
    assert is_delta(store(cache, "messages", 2, text(21)).piece)
    assert not is_delta(store(cache, "other", 2, text(21)).piece)


def test_an_absent_value_ends_a_chain() -> None:
    """After a version without a value comes a keyframe."""
    cache = ValueCache(10**6, PLAIN)
    store(cache, "messages", 1, text(20))
    store(cache, "messages", 2, None)
    assert not is_delta(store(cache, "messages", 3, text(21)).piece)


def test_the_bound_holds_and_the_oldest_go_first() -> None:
    """All threads share it; a value over it is not kept; 0 keeps none."""
    cache = ValueCache(20_000, PLAIN)
    for number in range(1, 50):
        store(cache, "messages", number, text(100), b"thread %d" % number)
        assert cache._bytes <= 20_000
    assert is_delta(store(cache, "messages", 50, text(101), b"thread 49").piece)
    assert not is_delta(store(cache, "messages", 51, text(101), b"thread 1").piece)
    store(cache, "huge", 52, text(1000))
    assert not is_delta(store(cache, "huge", 53, text(1000)).piece)
    off = ValueCache(0, PLAIN)
    store(off, "messages", 1, text(20))
    assert not is_delta(store(off, "messages", 2, text(21)).piece)


def test_a_keyframe_is_due_when_deltas_add_up() -> None:
    """Deltas since a keyframe never come to much more than it; of tiny deltas there are a bounded number, more for a large value."""
    cache = ValueCache(10**7, PLAIN)
    weight = keyframe = total = 0
    for number in range(1, 400):
        piece = store(cache, "messages", number, text(number)).piece
        total += len(piece)
        size = len(piece) - (delta_start(piece) if is_delta(piece) else split_keyframe(piece)[1])
        if is_delta(piece):
            weight += size
            assert weight <= keyframe + size
        else:
            weight, keyframe = 0, size
    assert total < 10 * len(text(400))
    large, run, longest = bytearray(text(10_000)), 0, 0
    for number in range(1, 1000):
        large[number * 7] ^= 1
        run = run + 1 if is_delta(store(cache, "large", number, bytes(large)).piece) else 0
        longest = max(longest, run)
    assert MOST_DELTAS < longest <= MOST_DELTAS + len(large) // 1024
    known = _Known("bytes", b"", b"", b"", b"", LONGEST_CHAIN - 1, 0, 2**30)
    assert known.may_follow(2**30)
    known.deltas += 1
    assert not known.may_follow(2**30)


def test_values_that_share_nothing_are_searched_seldom() -> None:
    """A channel whose values never share is stored whole, and made a delta of again as soon as they do."""
    cache, drawn = ValueCache(10**6, PLAIN), random.Random(1)
    for number in range(1, 40):
        assert not is_delta(store(cache, "noise", number, drawn.randbytes(3000)).piece)
    data = drawn.randbytes(3000)
    store(cache, "noise", 40, data)
    assert is_delta(store(cache, "noise", 41, data + b"more").piece)


def test_pieces_are_compressed_above_a_size() -> None:
    """Keyframes and deltas alike, where it helps; what does not get shorter is left as it is."""
    cache = ValueCache(10**7, 1000)
    small, large = store(cache, "small", 1, text(20)), store(cache, "large", 1, text(200))
    delta = store(cache, "large", 2, text(290))
    noise = store(cache, "noise", 1, random.Random(1).randbytes(100_000))
    assert [one.piece[:1] for one in (small, large, delta, noise)] == [b"K", b"k", b"d", b"K"]
    assert decompressed(large.piece) == large.plain == encode_keyframe("msgpack", text(200), checksum_of(text(200)))
    value = assemble([decompressed(large.piece), decompressed(delta.piece)])
    assert value is not None
    assert value.data == text(290)


def test_many_threads_use_one_cache() -> None:
    """Values come back whole, and the bound holds, whatever is evicted meanwhile."""
    cache, wrong = ValueCache(30_000, 500), []

    def work(thread: bytes) -> None:
        stored: dict[bytes, bytes] = {}
        for number in range(1, 300):
            prepared = cache.prepare(thread, "", "messages", b"v%d" % number, Keyframe("msgpack", text(number % 50)))
            stored[b"%d-0" % number] = prepared.piece
            chain = [prepared.piece]
            while is_delta(chain[0]):
                chain.insert(0, stored[base_of(chain[0])[0]])
            value = assemble([decompressed(piece) for piece in chain])
            if value is None or value.data != text(number % 50):
                wrong.append(number)
            cache.stored(thread, "", "messages", prepared, b"%d-0" % number)

    workers = [threading.Thread(target=work, args=(b"%d" % number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert cache._bytes == sum(map(_size, cache._known.values())) <= 30_000


@pytest.mark.server
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_fork_begins_anew() -> None:
    """A lock that another thread held at the fork is not held in the child, whose cache is empty."""
    cache = ValueCache(10**6, PLAIN)
    store(cache, "messages", 1, text(20))

    def work() -> None:
        assert cache._lock.acquire(timeout=5)
        assert not cache._known

    with cache._lock:
        in_child(work)

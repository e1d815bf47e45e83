"""What an attacker may do to bytes, to the entries of a log, and to texts."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from tests.fuzz.conftest import EXAMPLES
from tests.projections.tampering import Entry, chained
from tests.saver.strategies import Draw

MOST_MEMORY = 128 * 2**20
"""Bytes of Python's memory that one example may take: a few times what it reads."""
ODD = [
    b"",
    b"\0",
    b"-1",
    b"0",
    b"1e9",
    b"9" * 30,
    b"9" * 5000,
    b" 1",
    b"1_0",
    "\u0661".encode(),  # a digit to `int`
    b"\xff\xfe",
    b"\xed\xa0\x80",  # a lone surrogate
    b"nan",
    b"15:1-1",
    b"99999999:x",
    b"-5:x",
    b"\xa0",
    b"\x80",
    b"\xf6",
    b"\x9b" + b"\xff" * 8,  # CBOR: an array of 2**64 - 1 items
    b"\x9a\x7f\xff\xff\xff",
    b"\x5b" + b"\x00\x00\x00\x0f" * 2,  # a byte string of many GiB
    b"\xbb\x00\x00\x00\x10" + b"\x00" * 4,
    b"\x81" * 3000 + b"\x01",
    b"\xa1\x01" * 3000 + b"\x01",
    b"\x9f\x01\xff",
    b"\xc2\x58\x20" + b"\xff" * 32,  # tags
    b"\xd8\x23\x61(",
    b"\xd9\x01\x02\x81\x01",
    b"\xf9\x7e\x00",
    b"\xdd\xff\xff\xff\xff",  # msgpack: an array of 2**32 - 1 items
    b"\xc7\xff\x05" + b"\x81" * 255,
    b"\x91" * 2000 + b"\x01",
    b"\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00hello",  # Zstandard
]
"""Values that parsers of numbers, counted texts, CBOR, msgpack and Zstandard may fail on."""


def bounded(usual: int) -> settings:
    """The settings of a fuzzer with this number of examples in a usual run."""
    profile = settings.get_profile("fuzz")
    return profile if EXAMPLES else settings(profile, max_examples=usual)


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Fails if the block takes more of Python's memory than an example may."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY, f"{peak:,} bytes"


@st.composite
def mutated(draw: Draw, data: bytes) -> Any:
    """Some bytes with one change."""
    at = draw(st.integers(0, max(0, len(data) - 1)))
    end = draw(st.integers(at, min(len(data), at + 40)))
    kind = draw(st.sampled_from(["bit", "cut", "drop", "insert", "odd", "repeat", "random"]))
    if kind == "bit" and data:
        return data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "drop":
        return data[:at] + data[end:]
    if kind == "insert":
        return data[:at] + draw(st.sampled_from(ODD)) + data[at:]
    if kind == "repeat":
        return data[:end] + data[at:end] * draw(st.integers(1, 3)) + data[end:]
    if kind == "random":
        return data[:at] + draw(st.binary(min_size=1, max_size=12)) + data[end:]
    return draw(st.sampled_from(ODD))


@st.composite
def mutated_entry(draw: Draw, entries: Sequence[Entry]) -> Entry:
    """An entry of a log with one change."""
    entry_id, flat = draw(st.sampled_from(entries))
    flat = list(flat)
    at = draw(st.integers(0, len(flat) // 2 - 1)) * 2
    kind = draw(
        st.sampled_from(["value", "value", "value", "name", "drop", "twice", "other", "swap", "add", "version"])
    )
    if kind == "value":
        flat[at + 1] = draw(mutated(flat[at + 1]))
    elif kind == "name":
        flat[at] = draw(mutated(flat[at]))
    elif kind == "drop" and len(flat) > 2:
        del flat[at : at + 2]
    elif kind == "twice":
        flat[at:at] = flat[at : at + 2]
    elif kind == "other":
        _, others = draw(st.sampled_from(entries))
        other = draw(st.integers(0, len(others) // 2 - 1)) * 2
        same = [there for there in range(0, len(others), 2) if others[there] == flat[at]]
        flat[at + 1] = others[(same[0] if same and draw(st.booleans()) else other) + 1]
    elif kind == "swap":
        flat = [*flat[at:], *flat[:at]]
    elif kind == "add":
        flat += [draw(st.sampled_from(ODD)), draw(st.sampled_from(ODD))]
    elif kind == "version":
        flat = [
            part if flat[max(0, number - 1)] != b"v" else draw(st.sampled_from(ODD)) for number, part in enumerate(flat)
        ]
    return entry_id, flat


@st.composite
def mutated_log(draw: Draw, entries: Sequence[Entry]) -> list[Entry]:
    """A log with some changes, in an order of entry ids that a server takes, and with new digests in some cases."""
    log = list(entries)
    for _ in range(draw(st.integers(1, 3))):
        if not log:
            break
        at = draw(st.integers(0, len(log) - 1))
        kind = draw(st.sampled_from(["entry", "entry", "entry", "drop", "twice", "swap", "cut", "begin", "id"]))
        if kind == "entry":
            log[at] = log[at][0], draw(mutated_entry([log[at]] if draw(st.booleans()) else log))[1]
        elif kind == "drop":
            del log[at]
        elif kind == "twice":
            log.insert(at, log[at])
        elif kind == "swap":
            other = draw(st.integers(0, len(log) - 1))
            log[at], log[other] = log[other], log[at]
        elif kind == "cut":
            del log[max(1, at) :]
        elif kind == "begin":
            del log[: min(at, len(log) - 1)]
        else:
            ms, _, number = log[at][0].partition(b"-")
            log[at] = b"%d-%s" % (max(1, int(ms) + draw(st.integers(-3, 3))), number), log[at][1]
    if draw(st.booleans()):
        with contextlib.suppress(ValueError, OverflowError):
            log = chained(log, renumbered=draw(st.booleans()))
    return list(ascending(log))


def ascending(log: Sequence[Entry]) -> Iterator[Entry]:
    """The entries with ids that rise: an id that does not becomes the next one."""
    last = 0
    for entry_id, flat in log:
        ms = int(entry_id.partition(b"-")[0])
        last = ms if ms > last else last + 1
        yield (entry_id if last == ms else b"%d-0" % last), flat


class Snapshot:
    """All keys of a prefix, to put back as they were."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._client = client
        self._pattern = f"*{prefix}*"
        self._dumps = {key: client.dump(key) for key in self.present()}

    def present(self) -> set[bytes]:
        """The keys that are there now."""
        return set(self._client.scan_iter(self._pattern, count=1000))

    def clear(self) -> None:
        """Deletes every key."""
        for key in self.present():
            self._client.delete(key)

    def restore(self) -> None:
        """Puts every key back."""
        with self._client.pipeline(transaction=False) as pipeline:
            for key in self.present() | {*self._dumps}:
                pipeline.delete(key)
            for key, dump in self._dumps.items():
                pipeline.restore(key, 0, dump)
            pipeline.execute()

"""Exports read back as they were written; truncated and changed files are refused."""

from __future__ import annotations

import io
import random
from hashlib import sha256
from typing import Any

import cbor2
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog.errors import ExportUnreadable
from projections.transfer import frames
from projections.transfer.encoder import Encoder
from projections.transfer.format import SEAL, VERSION, Entry, Header, Item, ThreadEnd, ThreadHead, Trailer
from projections.transfer.reader import Reader

Thread = tuple[str, list[list[bytes]], list[str]]
HEADER = Header(1_767_225_600_000, "langgraph", "0.1.0")

fields = st.lists(st.binary(max_size=40), max_size=6).map(lambda parts: parts[: len(parts) // 2 * 2])
ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
threads = st.lists(st.tuples(ids, st.lists(fields, max_size=5), st.lists(ids, max_size=2)), max_size=4)
SMALL: list[Thread] = [("a", [[b"n", b"1", b"d", b"x" * 40], [b"n", b"2"]], ["run"]), ("\x00é", [[b"n", b"1"]], [])]


def items_of(some: list[Thread]) -> list[Item]:
    items: list[Item] = [HEADER]
    for thread, entries, runs in some:
        items.append(ThreadHead(thread, len(entries), "d" * 40, len(entries), tuple(runs)))
        items += [Entry(b"%d-0" % number, flat) for number, flat in enumerate(entries, 1)]
        items.append(ThreadEnd(thread, len(entries)))
    return [*items, Trailer(len(some))]


def encoded(some: list[Thread], encoder: Encoder | None = None) -> bytes:
    return written(encoder or Encoder(), items_of(some))


def written(encoder: Encoder, items: list[Item]) -> bytes:
    made = b""
    for item in items:
        match item:
            case Header():
                made += encoder.header(item)
            case ThreadHead():
                made += encoder.begin(item)
            case Entry():
                made += encoder.entry(item)
            case ThreadEnd():
                made += encoder.end()
            case Trailer():
                made += encoder.trailer()
    return made


def read(data: bytes) -> list[Item]:
    return list(Reader(io.BytesIO(data)))


def refused(data: bytes) -> str:
    with pytest.raises(ExportUnreadable) as caught:
        read(data)
    return caught.value.reason


@given(threads)
@settings(deadline=None)
def test_what_is_written_reads_back(some: list[Thread]) -> None:
    """Threads with any ids, entries and runs read back."""
    assert read(encoded(some)) == items_of(some)


def test_every_truncation_is_refused() -> None:
    """A file that is cut off anywhere is refused as truncated."""
    data = encoded(SMALL)
    assert {refused(data[:size]) for size in range(len(data))} == {"truncated"}


def test_a_truncation_within_a_large_value_is_one_too() -> None:
    """A file that ends within a value is truncated, and not damaged."""
    data = encoded([("a", [[b"n", b"1", b"d", random.Random(0).randbytes(100_000)]], [])])
    for size in (60_000, 90_000):
        with pytest.raises(ExportUnreadable) as found:
            read(data[:size])
        assert found.value.reason == "truncated"


def test_an_error_of_the_file_is_raised_as_it_is() -> None:
    """A disk that fails within a large value does not look like a damaged export."""
    data = encoded([("a", [[b"n", b"1", b"d", random.Random(0).randbytes(100_000)]], [])])

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 60_000:
                raise OSError("the disk failed")
            return super().read(size)

    with pytest.raises(OSError, match="the disk failed"):
        list(Reader(Failing(data)))


def test_every_changed_bit_is_refused() -> None:
    """A file with any changed bit is refused, also where decompression does not look."""
    data = bytearray(encoded(SMALL))
    for place in range(len(data) * 8):
        data[place // 8] ^= 1 << place % 8
        refused(bytes(data))
        data[place // 8] ^= 1 << place % 8
    assert read(bytes(data)) == items_of(SMALL)


@given(st.data())
@settings(deadline=None)
def test_every_changed_byte_is_refused(data: Any) -> None:
    """A file with a byte that was changed, removed or inserted is refused."""
    whole = encoded(SMALL)
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[place]))
    refused(whole[:place] + bytes([other]) + whole[place + 1 :])
    refused(whole[:place] + whole[place + 1 :])
    refused(whole + bytes([other]))


@given(st.binary(max_size=200))
def test_other_files_are_refused(data: bytes) -> None:
    """Files of any other bytes are refused."""
    assert refused(data) in {"foreign", "truncated"}


def sealed(*frames: list[Any]) -> bytes:
    """A file of these items, frame by frame, with a right seal."""
    made = b""
    for items in frames:
        made += zstandard.ZstdCompressor(write_checksum=True).compress(b"".join(map(cbor2.dumps, items)))
    return b"".join((made, SEAL, sha256(made).digest()))


NAMED = {"format": "agentlog-export", "version": VERSION, "created": 1, "prefix": "p", "package": "1"}
HEAD = {"thread": "t", "ends": 1, "digest": "d", "entries": 1, "runs": []}


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([[{"format": "other"}]], "foreign"),
        ([["agentlog-export"]], "foreign"),
        ([[{**NAMED, "version": VERSION + 1}]], "newer"),
        ([[{**NAMED, "version": "1"}]], "damaged"),
        ([[{**NAMED, "created": -1}]], "damaged"),
        ([[NAMED, NAMED]], "damaged"),
        ([[NAMED], [{"trailer": 1, "sha256": bytes(32)}]], "damaged"),
        ([[NAMED], [HEAD, ["1-0", [b"n", b"1"]], {"end": "t", "entries": 1, "sha256": bytes(32)}]], "damaged"),
        ([[NAMED], [HEAD, {"end": "t", "entries": 0, "sha256": bytes(32)}]], "damaged"),
        ([[NAMED], [HEAD, ["1-1", [b"n", b"1"]]]], "damaged"),
        ([[NAMED], [HEAD, ["1-0", [b"n"]]]], "damaged"),
        ([[NAMED], [HEAD, ["1-0", ["n", b"1"]]]], "damaged"),
        ([[NAMED], [HEAD, cbor2.CBORTag(4, [1, 2])]], "damaged"),
        ([[NAMED], [{**HEAD, "runs": [1]}]], "damaged"),
        ([[NAMED], [HEAD]], "damaged"),
    ],
)
def test_items_out_of_place_are_refused(frames: list[list[Any]], reason: str) -> None:
    """Items out of order, or of another shape, are refused, though seal and checksums are right."""
    assert refused(sealed(*frames)) == reason


def test_keys_of_later_writers_are_ignored() -> None:
    """A map of this version may have more than this package writes."""
    first = cbor2.dumps({**NAMED, "more": [1]})
    digest = sha256(first).digest()
    found = read(sealed([{**NAMED, "more": [1]}], [{"trailer": 0, "sha256": digest}]))
    assert found == [Header(1, "p", "1"), Trailer(0)]


def test_a_thread_is_undone() -> None:
    """A thread that is undone leaves no trace in the file."""
    encoder = Encoder()
    made = encoder.header(HEADER)
    made += encoder.begin(ThreadHead("gone", 9, "d", 9)) + encoder.entry(Entry(b"1-0", [b"n", b"1" * 100_000]))
    made = made[: encoder.undo()]
    for head, entry in ((ThreadHead("t", 1, "d", 1), Entry(b"1-0", [b"n", b"1"])),):
        made += encoder.begin(head) + encoder.entry(entry) + encoder.end()
    found = read(made + encoder.trailer())
    assert [type(item) for item in found] == [Header, ThreadHead, Entry, ThreadEnd, Trailer]


def test_a_file_is_continued() -> None:
    """A file that is continued after its last whole thread equals one that was written at once."""
    whole = encoded(SMALL)
    for size in range(len(whole)):
        reader = Reader(io.BytesIO(whole[:size]))
        done = []
        with pytest.raises(ExportUnreadable):
            for item in reader:
                if isinstance(item, ThreadEnd):
                    done.append(item.thread)
        if not reader.state.offset:
            continue
        encoder = Encoder(reader.state)
        rest = items_of(SMALL)[1:]
        made = whole[: reader.state.offset]
        skip = False
        for item in rest:
            match item:
                case ThreadHead():
                    skip = item.thread in done
                    made += b"" if skip else encoder.begin(item)
                case Entry():
                    made += b"" if skip else encoder.entry(item)
                case ThreadEnd():
                    made += b"" if skip else encoder.end()
                case Trailer():
                    made += encoder.trailer()
        assert made == whole


def test_any_reader_of_zstandard_reads_it() -> None:
    """Any reader of Zstandard finds one CBOR sequence, whatever the frames."""
    stream = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(encoded(SMALL)), read_across_frames=True)
    content = io.BytesIO(stream.read())
    decoder = cbor2.CBORDecoder(content)
    found = [decoder.decode() for _ in range(1 + 4 + 3 + 1)]
    assert found[0]["format"] == "agentlog-export"
    assert found[-1]["trailer"] == 2
    assert found[2] == ["1-0", SMALL[0][1][0]]


def test_large_entries() -> None:
    """Large entries read back, whether or not they compress well."""
    some: list[Thread] = [("t", [[b"a", bytes(5_000_000)], [b"b", b"\x01" * 300_000] * 3], [])]
    assert read(encoded(some)) == items_of(some)


REPEATED: dict[str, list[list[bytes]]] = {
    "zeros": [[b"a", bytes(2**20)]] * 20,
    "one value of zeros": [[b"a", bytes(20 * 2**20)]],
    "a text": [[b"a", random.Random(1).randbytes(10_000)]] * 1_200,
    "a text in one entry": [[b"a", random.Random(1).randbytes(10_000)] * 1_200],
    "short entries": [[b"a", b"b" * 1_000]] * 12_000,
}


@pytest.mark.parametrize("entries", REPEATED.values(), ids=REPEATED)
def test_content_that_repeats_itself_is_no_bomb(monkeypatch: pytest.MonkeyPatch, entries: list[list[bytes]]) -> None:
    """A reader with the usual limits takes every export, also one that was undone and continued, and it is still short."""
    monkeypatch.setattr(frames, "SPARE", 2 * 2**20)
    some: list[Thread] = [("t", entries, []), ("other", entries, [])]
    items = items_of(some)
    second = next(number for number, item in enumerate(items) if isinstance(item, ThreadHead) and item.thread != "t")
    encoder = Encoder()
    begun = written(encoder, items[:second])
    undone = written(encoder, items[second:-2])
    data = begun + undone
    data = data[: encoder.undo()]
    reader = Reader(io.BytesIO(data))
    for item in reader:
        if isinstance(item, ThreadEnd):
            break
    for continued in (encoder, Encoder(reader.state)):
        whole = data + written(continued, items[second:])
        assert read(whole) == items
        assert len(whole) * 40 < 2 * sum(len(part) for entry in entries for part in entry)

"""Events and stream entries: what is written is read back, what is not ours is refused with thread and entry id."""

from __future__ import annotations

import datetime
import decimal
import random
import uuid
from typing import Any

import cbor2
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from eventlog import codec
from eventlog.codec import Malformed
from eventlog.errors import CorruptEntry, NewerSchema
from eventlog.events import (
    UPCASTERS,
    CheckpointSaved,
    Event,
    HistoryPruned,
    Removed,
    RunsDeleted,
    ThreadCopied,
    ValuesSaved,
    Write,
    WritesSaved,
    decode_entry,
    encode_event,
)

texts = st.text(max_size=8)
plain: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
pieces = st.one_of(
    st.just(codec.EMPTY),
    st.builds(codec.encode_keyframe, texts, st.binary(max_size=12), st.binary(min_size=8, max_size=8)),
    st.builds(codec.encode_delta, st.just(b"0-0"), texts.map(str.encode), st.binary(min_size=16, max_size=30)),
)
values = st.dictionaries(st.tuples(texts, texts), pieces, max_size=4)
names = st.lists(st.tuples(texts, texts), max_size=3).map(tuple)
removed = st.builds(
    Removed,
    names,
    names,
    st.lists(st.tuples(st.integers(1, 2**63), st.integers(1, 2**63), texts), max_size=3).map(tuple),
)
writes = st.lists(
    st.builds(Write, st.integers(-4, 2000), texts, texts, st.binary(max_size=8)),
    max_size=4,
    unique_by=lambda write: write.idx,
).map(tuple)
bodies = st.fixed_dictionaries({"checkpoint": plain, "metadata": plain})
events = st.one_of(
    st.builds(
        CheckpointSaved,
        texts,
        texts,
        st.none() | texts,
        st.dictionaries(texts, texts, max_size=4),
        bodies,
        values,
        idempotency_key=st.sampled_from([b"", b"mark"]),
    ),
    st.builds(ValuesSaved, texts, texts, values),
    st.builds(WritesSaved, texts, texts, texts, texts, writes),
    st.builds(ThreadCopied, texts, st.integers(0, 2**40), texts, st.none(), st.none() | texts),
    st.builds(
        ThreadCopied,
        texts,
        st.integers(0, 2**40),
        texts,
        life=texts,
        seals=st.dictionaries(texts, st.lists(st.integers(0, 2**40), max_size=3), max_size=3),
    ),
    st.builds(HistoryPruned, texts, removed),
    st.builds(RunsDeleted, st.lists(texts, max_size=3).map(tuple), removed),
)


def entry(fields: list[bytes]) -> list[bytes]:
    """Fields as they lie in the log, numbered and chained."""
    return [b"n", b"7", b"d", b"digest", *fields]


@given(events)
def test_events_come_back_from_their_fields(event: Event) -> None:
    """Every kind of event is read as it was written."""
    recorded = decode_entry("t", b"1-0", entry(encode_event(event)))
    assert (b"1-0", 7, b"digest", event) == (recorded.entry_id, recorded.sequence, recorded.digest, recorded.event)


@given(plain)
def test_plain_data_comes_back_exactly(value: Any) -> None:
    """What is_plain accepts CBOR brings back, types and order included."""
    assert codec.is_plain(value)
    assert repr(value) == repr(codec.decode(codec.encode(value)))


@pytest.mark.parametrize(
    "value", [(1,), {1: 2}, {1}, 2**64, decimal.Decimal(1), "\ud800", {"\ud800": 1}, bytearray(b"x"), True + 0j]
)
def test_other_data_is_not_plain(value: Any) -> None:
    """What CBOR would change, or could not write, is left to the serializer."""
    assert not codec.is_plain(value)


@pytest.mark.parametrize(
    "data",
    [
        *(
            cbor2.dumps(value)
            for value in (uuid.UUID(int=7), decimal.Decimal(1), 2**70, {1, 2}, datetime.date(2026, 1, 2))
        ),
        cbor2.dumps(cbor2.CBORTag(4242, 1)),
        b"",
        b"\x58\x11",
        b"\x81",
        b"\x82\x01",
        b"\xff",
        b"%b",
        b"\x9f\xff",
        b"\x01\x01",
        b"\xd8\x23\x61(",
    ],
)
def test_tags_and_rubbish_are_refused(data: bytes) -> None:
    """No tag is acted upon, nothing is guessed, nothing after the end is overlooked."""
    with pytest.raises(Malformed):
        codec.decode(data)


@pytest.mark.parametrize("end", [b"%" * 16, b"%b" * 8, bytes(16), b"\xff" * 16])
def test_decoding_works_with_any_random_end(monkeypatch: pytest.MonkeyPatch, end: bytes) -> None:
    """Each process draws the bytes that follow data while it is decoded."""
    monkeypatch.setattr(codec, "_END", end)
    monkeypatch.setattr(codec, "_ENCODED_END", cbor2.dumps(end))
    for value in ({"a": [1, None, b"%"]}, b"", end, [end, end]):
        assert codec.decode(codec.encode(value)) == value
        for wrong in (codec.encode(value) + b"\x00", codec.encode(value)[:-1]):
            with pytest.raises(Malformed):
                codec.decode(wrong)


@given(st.binary(max_size=64))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    """Decoding raises nothing but Malformed."""
    for decode in (codec.decode, codec.decompressed, codec.split_keyframe, codec.base_of, codec.decode_write):
        try:
            decode(data)
        except Malformed:
            pass


@given(st.text(max_size=20), st.binary(max_size=300), st.sampled_from([0, 64, codec.NEVER]))
def test_pieces_come_back(word: str, data: bytes, above: int) -> None:
    """A keyframe holds type and bytes, a delta what it was made against and its bytes, compressed or not."""
    keyframe, delta = (
        codec.encode_keyframe(word, data, b"checksum"),
        codec.encode_delta(b"12-0", word.encode(), bytes(16) + data),
    )
    for piece in (
        keyframe,
        delta,
        codec.compressed(keyframe, above) or keyframe,
        codec.compressed(delta, above) or delta,
    ):
        plain = codec.decompressed(piece)
        assert plain == (delta if codec.is_delta(piece) else keyframe)
        assert codec.check_in(piece) == codec.check_in(plain)
    assert delta[codec.delta_start(delta) :] == bytes(16) + data
    type_, start = codec.split_keyframe(keyframe)
    assert (type_, keyframe[start:], codec.check_in(keyframe)) == (word, data, b"checksum")
    assert codec.base_of(delta) == (b"12-0", word.encode())


@given(st.lists(st.binary(max_size=6), min_size=1, max_size=6), st.data())
def test_the_content_digest_covers_every_byte(fields: list[bytes], data: st.DataObject) -> None:
    """Moving a byte over a border between fields changes the digest."""
    other = data.draw(st.lists(st.binary(max_size=6), min_size=1, max_size=6))
    assert (fields == other) == (codec.content_digest(fields) == codec.content_digest(other))


DEEP: Any = None
for _ in range(codec.DEEPEST + 3):
    DEEP = [DEEP]


@pytest.mark.parametrize("bad", [(1,), {1: 2}, 2**64, -(2**64) - 1, "\ud800", {"\ud800": 1}, DEEP])
@pytest.mark.parametrize(
    "wrapped", [lambda bad: [1, bad], lambda bad: {"a": "\xe9", "b": bad}, lambda bad: [[{"a": [bad]}]]]
)
def test_one_part_that_is_not_plain(bad: Any, wrapped: Any) -> None:
    """It is found inside lists and dicts, at any depth."""
    assert codec.is_plain(wrapped("\xe9")) is True
    assert codec.is_plain(wrapped(bad)) is False


def test_the_deepest_envelope() -> None:
    """It is plain, and can be read back; a level more is left to the serializer."""
    assert not codec.is_plain(DEEP[0])
    assert codec.is_plain(DEEP[0][0])
    assert codec.decode(codec.encode(DEEP[0][0])) == DEEP[0][0]


def ends_at(data: bytes, most: int = 100) -> int:
    """Where the first item ends, of which no byte too many is asked for."""

    def upto(end: int) -> bytes:
        if end > len(data):
            raise Malformed("is cut off")
        return data[:end]

    return codec.end_of_item(upto, most)


@pytest.mark.parametrize(
    "item",
    [0, -1, 2**40, 1.5, None, True, "", "a" * 300, b"b" * 70_000, [], {}, [1, ["a", {"b": b"c"}], []], {"k": [{}]}],
)
def test_the_end_of_an_item(item: object) -> None:
    """It is found before the item is decoded, and before the bytes after it are there."""
    encoded = codec.encode(item)
    assert ends_at(encoded) == ends_at(encoded + b"rest") == len(encoded)
    with pytest.raises(Malformed, match="cut off"):
        ends_at(encoded[:-1])


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (b"", "cut off"),
        (b"\x9f\xff", "is not CBOR"),
        (b"\x1c", "is not CBOR"),
        (cbor2.dumps(uuid.UUID(int=7)), "tag"),
        (cbor2.dumps(cbor2.CBORTag(4242, 1)), "tag"),
        (b"\x9b" + b"\xff" * 8, "parts"),
        (b"\xbb" + b"\xff" * 8, "parts"),
        (codec.encode([[]] * 100), "parts"),
        (b"\x5b" + b"\xff" * 8, "cut off"),
    ],
)
def test_an_item_that_no_export_has(wrong: bytes, problem: str) -> None:
    """It is refused before memory is taken for what it claims to have."""
    with pytest.raises(Malformed, match=problem):
        ends_at(wrong)


@pytest.mark.parametrize("size", [0, 9, 10, 2047, 2048, 2049, 100_000])
def test_the_form_of_framed_fields(size: int) -> None:
    """The digests of all logs depend on it."""
    field = b"x" * size
    assert codec.framed([b"ab", field]) == b"2,%d,;ab%b" % (size, field)
    assert codec.framed([]) == b";"


def test_the_forms_of_pieces() -> None:
    """The forms that logs have, byte by byte."""
    assert codec.encode_keyframe("msgpack", b"data", b"checksum") == b"K7:msgpackchecksumdata"
    assert codec.encode_delta(b"12-0", b"v1", b"checksumCHECKSUMedits") == b"D\x00\x084:12-0v1checksumCHECKSUMedits"
    assert codec.encode_write("n\xe9", "json", b"data") == b"3:n\xc3\xa94:jsondata"
    assert codec.decode_write(b"3:n\xc3\xa94:jsondata") == ("n\xe9", "json", b"data")
    assert codec.check_in(b"K7:msgpackchecksumdata") == b"checksum"
    assert codec.check_in(b"D\x00\x084:12-0v1checksumCHECKSUMedits") == b"CHECKSUM"
    assert codec.check_in(b"E") == bytes(8)
    assert codec.checksum_of(b"") == bytes.fromhex("2d06800538d394c2")
    assert codec.base_of(b"D\x00\x064:12-0") == (b"12-0", b"")
    long = codec.encode_delta(b"12-0", b"v" * 300, b"checksumCHECKSUM")
    assert (codec.delta_start(long), codec.base_of(long)) == (309, (b"12-0", b"v" * 300))


@pytest.mark.parametrize(
    ("read", "piece", "problem"),
    [
        (codec.check_in, b"K1:abcdefgh", "ends before its checksum"),
        (codec.check_in, b"D\x00\x00" + bytes(15), "ends before its checksum"),
        (codec.split_keyframe, b"K1:abcdefgh", "ends before its checksum"),
        (codec.split_keyframe, b"K1:\xff12345678", "not UTF-8"),
        (codec.split_keyframe, b"K5:ab", "ends inside"),
        (codec.split_keyframe, b"Kab", "lacks the length"),
        (codec.split_keyframe, b"K-1:ab12345678", "ends inside"),
        (codec.split_keyframe, b"K000000000001:a12345678", "lacks the length"),
        (codec.base_of, b"D\x00\x054:12-0", "without a base"),
        (codec.base_of, b"D\x00\x074:12-0", "without a base"),
        (codec.decode_write, b"1:a1:", "ends inside"),
        (codec.decode_write, b"1:\xff1:a", "not UTF-8"),
        (codec.decode_texts, b"\xa0", "not a list of texts"),
        (codec.decode_texts, b"\x82\x61a\x01", "not a list of texts"),
        (codec.decompressed, b"k1:a12345678no zstd", "cannot be read|without a size"),
        (codec.decompressed, b"k1:a12345678" + zstandard.ZstdCompressor().compress(b"x" * 99)[:-1], "cannot be read"),
        (
            codec.size_of,
            b"k1:a12345678" + zstandard.ZstdCompressor(write_content_size=False).compress(b"x"),
            "without a size",
        ),
        (codec.size_of, b"k1:a12345678no zstd", "cannot be read|without a size"),
        (
            codec.decompressed,
            b"k1:a12345678\x28\xb5\x2f\xfd\xa0" + (9).to_bytes(4, "little") + b"\x01\x00\x00",
            "cannot be read",
        ),
        (codec.decompressed, b"k1:a12345678" + zstandard.ZstdCompressor().compress(b"x" * 99) * 2, "cannot be read"),
    ],
)  # fmt: skip
def test_pieces_that_are_damaged(read: Any, piece: bytes, problem: str) -> None:
    """The error says where they end or differ."""
    with pytest.raises(Malformed, match=problem):
        read(piece)


def test_the_shortest_pieces() -> None:
    """Parts may be empty, and lengths have as many as eleven digits."""
    assert codec.split_keyframe(b"K0:12345678") == ("", 11)
    assert codec.split_keyframe(b"K00000000001:a12345678") == ("a", 22)
    assert codec.check_in(b"K0:12345678") == b"12345678"
    assert codec.check_in(b"D\x00\x00" + bytes(8) + b"12345678") == b"12345678"
    assert codec.decode_texts(codec.encode(["a", "b"])) == ["a", "b"]
    assert codec.paired([b"a", b"b", b"c", b"d"]) == {b"a": b"b", b"c": b"d"}
    with pytest.raises(ValueError, match="zip"):
        codec.paired([b"a", b"b", b"c"])


def test_the_integers_that_cbor_restores() -> None:
    """Those of 64 bits and a sign; others are bignums, which are tags."""
    for number in (-(2**64), 2**64 - 1):
        assert codec.is_plain(number)
        assert codec.is_plain([number])
        assert codec.decode(codec.encode(number)) == number
    assert not codec.is_plain(2**64)
    assert not codec.is_plain(-(2**64) - 1)


NOISE = random.Random(1).randbytes(40_000)


def test_what_is_compressed() -> None:
    """A piece is compressed if it is longer than the threshold and shrinks by a tenth."""
    short = codec.encode_keyframe("x", b"a" * 100, b"checksum")
    assert codec.compressed(short, len(short)) is None
    made = codec.compressed(short, len(short) - 1)
    assert made is not None
    assert (made[:12], codec.decompressed(made)) == (b"k1:xchecksum", short)
    delta = codec.encode_delta(b"1-0", b"v", b"c" * 16 + b"a" * 100)
    made = codec.compressed(delta, 0)
    assert made is not None
    assert (made[: codec.delta_start(delta) + 16], codec.decompressed(made)) == (b"d" + delta[1:25], delta)
    for data, worth in (
        (NOISE[:100], False),
        (NOISE, False),
        (NOISE[:1000] + b"a" * 80, False),
        (NOISE[:1000] + b"a" * 200, True),
        (b"a" * 20_000 + NOISE[:16_000], True),
        (b"a" * 16_000 + NOISE[:8_000] + b"a" * 8_000, False),
    ):
        piece = codec.encode_keyframe("x", data, b"checksum")
        assert (codec.compressed(piece, 0) is not None) == worth


GOOD = entry(encode_event(WritesSaved("", "c", "t", "", (Write(0, "ch", "msgpack", b"\x01"),))))


@pytest.mark.parametrize("name", [b"k", b"v", b"n", b"d", b"e", b"t", b"a"])
def test_entries_that_lack_a_field_are_refused(name: bytes) -> None:
    """The error names thread and entry."""
    at = GOOD.index(name)
    with pytest.raises(CorruptEntry, match=r"1-0.*'thread 1'"):
        decode_entry("thread 1", b"1-0", GOOD[:at] + GOOD[at + 2 :])


@pytest.mark.parametrize("entry_id", [b"253402300800000-0", b"18446744073709551615-0", b"1-1", b"1", b"-0", b"1x-0"])
def test_ids_that_no_entry_gets_are_refused(entry_id: bytes) -> None:
    """Python has no time for the first of them, so that each reader would end with an error of its own."""
    with pytest.raises(CorruptEntry, match="'thread 1' has an id that this package never gives"):
        decode_entry("thread 1", entry_id, GOOD)
    assert decode_entry("thread 1", b"253402300799999-0", GOOD).entry_id


@given(
    st.lists(
        st.tuples(st.sampled_from([b"k", b"v", b"n", b"d", b"e", b"s", b"=1:ab", b"!0", b"!x"]), st.binary(max_size=9))
    )
)
def test_rubbish_entries_are_refused(pairs: list[tuple[bytes, bytes]]) -> None:
    """Whatever an entry holds, it is an event or a typed error."""
    flat = [part for pair in pairs for part in pair]
    try:
        decode_entry("t", b"1-0", flat)
    except CorruptEntry:
        pass


def test_newer_entries_say_so() -> None:
    """An entry of a newer schema asks for an upgrade."""
    at = GOOD.index(b"v")
    with pytest.raises(NewerSchema, match="Upgrade"):
        decode_entry("t", b"1-0", [*GOOD[:at], b"v", b"2", *GOOD[at + 2 :]])


def test_older_entries_pass_through_upcasters(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of an older schema is lifted version by version."""
    at = GOOD.index(b"v")
    old = [*GOOD[:at], b"v", b"0", *GOOD[at + 2 :]]
    with pytest.raises(CorruptEntry):
        decode_entry("t", b"1-0", old)
    monkeypatch.setitem(UPCASTERS, (b"writes", b"0"), lambda fields: fields | {b"v": b"1", b"a": b"lifted"})
    event = decode_entry("t", b"1-0", old).event
    assert isinstance(event, WritesSaved)
    assert event.task_path == "lifted"

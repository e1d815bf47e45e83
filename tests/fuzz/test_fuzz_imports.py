"""Fuzzers of exports: a mutated file is refused and changes nothing, or is imported as a whole and sound log.

Some mutations are of bytes. Others are by someone who knows the format, and computes every checksum again.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import cbor2
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from eventlog.errors import EventLogError
from projections.transfer.format import SEAL
from saver import RedisStreamSaver
from tests.fuzz.conftest import EXAMPLES
from tests.fuzz.mutations import Snapshot, bounded, bounded_memory, mutated, mutated_log
from tests.projections.tampering import Entry
from tests.saver.audit import config, put_of
from tests.saver.cli.commands import Agentlog
from tests.saver.strategies import Draw
from tests.servers import Server

pytestmark = pytest.mark.timeout(0 if EXAMPLES else 120)
WRONG: list[Any] = [
    None,
    True,
    -1,
    0,
    2**63,
    2**64 - 1,
    1.5,
    float("nan"),
    "",
    "\x1b]0;x\x07",
    "../../x",
    "x" * 100_000,
    b"",
    b"\xff",
    [],
    [[]] * 1000,
    {},
    {"a": 1},
    cbor2.CBORTag(35, "("),
    cbor2.undefined,
]
"""Values of other types and sizes than a field of an export has."""
Frame = list[Any]


class Files:
    """An export of three threads, and an empty prefix to import into."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.url = server.url
        self.prefix = "t" + uuid.uuid4().hex[:8]
        self.path = directory / "mutated"
        whole = directory / "whole"
        with RedisStreamSaver.from_conn_string(server.url, prefix=self.prefix + "x", partitions=1) as saver:
            for thread in ("a", "b\nc", "d"):
                for number in range(1, 4):
                    saver.put(*put_of(thread, number, number - 1 or None, shared=True))
                    saver.put_writes(config(thread, number), [("n", number)], f"task {number}")
            saver.prune(["a"], keep_last=2)
            saver.copy_thread("a", "copy")
            saver.export_threads(whole)
            saver.delete_thread("a")
        self.data = whole.read_bytes()
        self.frames = frames_of(self.data)
        with self.saver() as saver:
            saver.setup()
        self.snapshot = Snapshot(server.client(), self.prefix + ":")

    def saver(self) -> RedisStreamSaver:
        """A saver of the prefix to import into."""
        return RedisStreamSaver.from_conn_string(self.url, prefix=self.prefix, partitions=1)


def frames_of(data: bytes) -> list[Frame]:
    """The items of an export, by frame."""
    frames = []
    data = data[: -len(SEAL) - 32]
    while data:
        decompressor = zstandard.ZstdDecompressor().decompressobj()
        content = io.BytesIO(decompressor.decompress(data))
        data = decompressor.unused_data
        items = []
        while content.tell() < len(content.getvalue()):
            items.append(cbor2.load(content))
        frames.append(items)
    return frames


def file_of(frames: Sequence[Frame]) -> bytes:
    """An export with these items, its checksums right."""
    everything, data = sha256(), b""
    for frame in frames:
        own, content = sha256(), b""
        for item in frame:
            if isinstance(item, dict) and "sha256" in item and item["sha256"] is not None:
                item = {**item, "sha256": everything.digest() if "trailer" in item else own.digest()}  # noqa: PLW2901
            raw = cbor2.dumps(item)
            content += raw
            own.update(raw)
            everything.update(raw)
        data += zstandard.ZstdCompressor().compress(content)
    return data + SEAL + sha256(data).digest()


@st.composite
def mutated_item(draw: Draw, item: Any) -> Any:
    """An item of an export with one change."""
    if isinstance(item, dict):
        name = draw(st.sampled_from([*item, "new"]))
        kind = draw(st.sampled_from(["wrong", "drop", "near"]))
        if kind == "drop":
            return {key: value for key, value in item.items() if key != name}
        value = item.get(name)
        if kind == "near" and isinstance(value, int):
            return {**item, name: value + draw(st.integers(-2, 2))}
        if kind == "near" and isinstance(value, str):
            return {**item, name: draw(mutated(value.encode())).decode(errors="replace")}
        return {**item, name: draw(st.sampled_from(WRONG))}
    if isinstance(item, list) and item and draw(st.booleans()):
        at = draw(st.integers(0, len(item) - 1))
        return [*item[:at], draw(st.sampled_from(WRONG)), *item[at + 1 :]]
    return draw(st.sampled_from(WRONG))


@st.composite
def mutated_file(draw: Draw, files: Files) -> Any:
    """An export with a change of bytes, of items, or of a log in it."""
    kind = draw(st.sampled_from(["bytes", "items", "items", "log", "log", "frames"]))
    if kind == "bytes":
        return draw(mutated(files.data))
    frames = [list(frame) for frame in files.frames]
    at = draw(st.integers(0, len(frames) - 1))
    if kind == "frames":
        other = draw(st.integers(0, len(frames) - 1))
        frames[at], frames[other] = frames[other], frames[at]
        if draw(st.booleans()):
            frames.insert(at, frames[other])
    elif kind == "items":
        place = draw(st.integers(0, len(frames[at]) - 1))
        frames[at][place] = draw(mutated_item(frames[at][place]))
    else:
        at = draw(st.integers(1, len(frames) - 2))
        head, *entries, end = frames[at]
        log: list[Entry] = [(entry_id.encode(), flat) for entry_id, flat in entries]
        log = draw(mutated_log(log))
        if log:
            number = log[-1][1][1] if len(log[-1][1]) > 3 else b""
            ends = int(number) if number.isdigit() and len(number) < 19 else 0
            head = {
                **head,
                "entries": len(log),
                "ends": ends,
                "digest": log[-1][1][3].decode(errors="replace") if ends else "",
            }
            frames[at] = [head, *([one.decode(), flat] for one, flat in log), {**end, "entries": len(log)}]
    return file_of(frames)


@pytest.fixture(scope="module")
def files(any_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A whole export, and a place for mutated ones."""
    return Files(any_server, tmp_path_factory.mktemp("fuzz"))


def test_the_format_is_the_same(files: Files) -> None:
    """Without a mutation, the file that these tests make is imported."""
    files.snapshot.restore()
    files.path.write_bytes(file_of(files.frames))
    with files.saver() as saver:
        assert saver.import_threads(files.path).threads == 4


@given(data=st.data())
@bounded(50)
def test_a_mutated_export(files: Files, data: st.DataObject) -> None:
    """A file is refused and nothing is changed, or every thread of it is there, its log chained without a gap."""
    files.snapshot.restore()
    files.path.write_bytes(data.draw(mutated_file(files)))
    before = files.snapshot.present()
    with files.saver() as saver, bounded_memory():
        try:
            done = saver.import_threads(files.path)
        except EventLogError as error:
            assert str(error)
            assert files.snapshot.present() == before
            return
        threads = [one.thread_id for one in saver.threads()]
        assert len(threads) == done.threads
        for thread in threads:
            assert saver.verify(thread).sound
            try:
                saver.check(thread)
                saver.get_tuple(config(thread))
            except EventLogError as error:  # the file's maker chained what nobody can read
                assert repr(thread) in str(error)
            saver.delete_thread(thread)


@given(data=st.data())
@bounded(10)
def test_what_agentlog_says_of_a_mutated_export(
    files: Files, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    """The command ends with a line and an exit code, and steers no terminal."""
    files.snapshot.restore()
    files.path.write_bytes(data.draw(mutated_file(files)))
    done = Agentlog(files.url, files.prefix, capsys)("import", str(files.path))
    assert done.code in {0, 1, 2, 3}
    assert (done.out + done.err).replace("\n", "").isprintable()

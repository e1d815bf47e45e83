"""Short data that would take much memory when they are read, as an attacker makes them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

import cbor2
import redis
import zstandard
from xxhash import xxh3_64

from eventlog.codec import Keyframe, encode_delta
from eventlog.connect.connections import Connections
from eventlog.connect.server import check_server
from eventlog.events import CheckpointSaved
from eventlog.keys import PARTITIONS, Keyspace
from eventlog.transport.drivers import Runner
from projections.checkpoints.save import About, save_checkpoint
from projections.transfer.format import FORMAT, SEAL, VERSION
from projections.values.cache import Prepared, ValueCache

MIB = 1024 * 1024
_BLOCK = 128 * 1024


def frame(size: int, *, byte: bytes = b"\0", claimed: int | None = None) -> bytes:
    """A Zstandard frame of `size` equal bytes, a whole number of 128 KiB, which takes four bytes for each block.

    It says that it has `claimed` bytes.
    """
    count = size // _BLOCK
    blocks = [((_BLOCK << 3) | 2 | (number == count - 1)).to_bytes(3, "little") + byte for number in range(count)]
    content_size = (size if claimed is None else claimed).to_bytes(8, "little")
    window = b"\x58"  # 2 MiB; a frame without it would need a window of its whole size
    return b"\x28\xb5\x2f\xfd\xc0" + window + content_size + b"".join(blocks)


def checksum(size: int, byte: bytes = b"\0") -> bytes:
    """The checksum of `size` equal bytes."""
    found = xxh3_64()
    for _ in range(size // MIB):
        found.update(byte * MIB)
    found.update(byte * (size % MIB))
    return found.digest()


def keyframe(size: int, *, byte: bytes = b"\0", claimed: int | None = None) -> bytes:
    """The piece of a value of `size` equal bytes, of type bytes."""
    return b"k5:bytes" + checksum(size, byte) + frame(size, byte=byte, claimed=claimed)


def delta(base_id: bytes, version: str, checksums: bytes, edits: bytes) -> bytes:
    """The piece of a delta against an entry's value."""
    return encode_delta(base_id, version.encode(), checksums + edits)


class _Planting(ValueCache):
    """Stores given pieces in place of values."""

    def __init__(self, pieces: Mapping[str, bytes]) -> None:
        super().__init__(0, 0)
        self._pieces = pieces

    def prepare(self, thread: bytes, namespace: str, channel: str, *_: object, **__: object) -> Prepared:
        piece = self._pieces[channel]
        return Prepared(piece, b"checksum", None, b"K4:null" + bytes(8))


def plant(url: str, prefix: str, thread: str, number: int, pieces: Mapping[str, bytes]) -> str:
    """Append a checkpoint whose channels have these pieces, and delete the head. Return its entry id."""
    keyspace = Keyspace(prefix, PARTITIONS)
    keys = keyspace.thread(thread.encode())
    parent = f"{number - 1:03}" if number > 1 else None
    body = {"checkpoint": {"v": 4, "ts": "", "versions_seen": {}}, "metadata": {"source": "loop", "step": number}}
    channels = dict.fromkeys(pieces, f"s{number}")
    event = CheckpointSaved("", f"{number:03}", parent, channels, body)
    values = {name: Keyframe("null", b"") for name in channels.items()}
    connections = Connections.from_url(url)
    try:
        runner = Runner(connections)
        runner.run(check_server(keyspace, connections, expires=False), "planting")
        flow = save_checkpoint(keys, event, values, cache=_Planting(pieces), ttl=0, about=About())
        runner.run(flow, "planting")
    finally:
        connections.close()
    with redis.Redis.from_url(url) as client:
        client.delete(keys.head(b""))
        (entry,) = client.xrevrange(keys.log, count=1)
        return str(entry[0].decode())


def export(path: Path, frames: Iterable[bytes]) -> None:
    """Write a file with the seal of an export around frames that no export has."""
    header = {"format": FORMAT, "version": VERSION, "created": 1, "prefix": "p", "package": "1"}
    data = b"".join([zstandard.ZstdCompressor().compress(cbor2.dumps(header)), *frames])
    path.write_bytes(data + SEAL + sha256(data).digest())


def compress(begin: bytes, zeros: int = 0, byte: bytes = b"\0") -> bytes:
    """A frame of some bytes, and so many MiB of one byte after them."""
    made = io.BytesIO()
    with zstandard.ZstdCompressor(level=3).stream_writer(made, closefd=False) as writer:
        writer.write(begin)
        for _ in range(zeros):
            writer.write(byte * MIB)
    return made.getvalue()


def thread_frame(begin: bytes, *, zeros: int, byte: bytes = b"\x40") -> bytes:
    """The frame of a thread: its head, some bytes, and so many MiB of one byte."""
    head = {"thread": "t", "ends": 1, "digest": "", "entries": 1, "runs": []}
    return compress(cbor2.dumps(head) + begin, zeros, byte)

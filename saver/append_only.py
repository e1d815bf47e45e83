"""Checks what an append-only file holds before a server loads it.

A server runs what it loads: `MODULE LOAD` in an append-only file is native code, and so may be a library of functions. The
settings of a server do not forbid this, since they concern clients only. So each file that the manifest names is walked first. Only
commands that change data are allowed, and only snapshots without modules and functions.

The walk accepts the form in which servers write, to the byte, and nothing else that a server would read. Sources: Valkey's `aof.c`
and `rdb.c`.
"""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path
from typing import NoReturn

from eventlog.errors import InvalidArgument, ServerUnavailable

__all__ = ["ALLOWED", "FOLDER", "check_append_only"]

FOLDER = "appendonlydir"
MANIFEST = "appendonly.aof.manifest"
LONGEST_MANIFEST = 65536
"""Bytes of a manifest, at most: it has a line per file, and usually two."""

ALLOWED = frozenset(
    b"""
    MULTI EXEC SELECT FLUSHALL FLUSHDB SWAPDB
    COPY DEL EXPIRE EXPIREAT MOVE PERSIST PEXPIRE PEXPIREAT RENAME RENAMENX RESTORE SORT UNLINK
    APPEND BITFIELD BITOP DECR DECRBY DELIFEQ GETDEL GETEX GETSET INCR INCRBY INCRBYFLOAT MSET MSETEX MSETNX PFADD PFMERGE PSETEX
    SET SETBIT SETEX SETNX SETRANGE
    HDEL HEXPIRE HEXPIREAT HGETDEL HGETEX HINCRBY HINCRBYFLOAT HMSET HPERSIST HPEXPIRE HPEXPIREAT HSET HSETEX HSETNX
    BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH LINSERT LMOVE LMPOP LPOP LPUSH LPUSHX LREM LSET LTRIM RPOP RPOPLPUSH RPUSH RPUSHX
    SADD SDIFFSTORE SINTERSTORE SMOVE SPOP SREM SUNIONSTORE
    BZMPOP BZPOPMAX BZPOPMIN GEOADD GEORADIUS GEORADIUSBYMEMBER GEOSEARCHSTORE ZADD ZDIFFSTORE ZINCRBY ZINTERSTORE ZMPOP ZPOPMAX
    ZPOPMIN ZRANGESTORE ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE ZUNIONSTORE
    XACK XADD XAUTOCLAIM XCLAIM XDEL XGROUP XREADGROUP XSETID XTRIM
    """.split()
)
"""Commands that change data and do nothing else. Scripts are not among them: servers write their effects."""

_FILE = re.compile(rb"file (appendonly\.aof\.\d{1,19}\.(?:base|incr)\.(?:rdb|aof)) seq \d{1,19} type ([bhi])")
_HEADER = re.compile(rb"REDIS00(?:0[5-9]|1[01])|VALKEY\d{3}")
_CUT_SHORT = re.compile(rb"[*$]?\d{0,10}\r?")
_LONGEST_NAME = max(map(len, ALLOWED))
_LINE = 13
"""Most bytes of a line with a number, with its end."""


def check_append_only(folder: int, path: Path) -> None:
    """Checks the files that the manifest in a folder names.

    Args:
        folder: a descriptor of the folder.
        path: its path, for errors.

    Raises `InvalidArgument` for contents that the embedded server never writes, and `ServerUnavailable` for damaged ones.

    """
    try:
        manifest = _read(folder, MANIFEST)
    except FileNotFoundError:  # the server begins without data
        return
    if len(manifest) > LONGEST_MANIFEST:  # the server would read on where the checks end
        raise InvalidArgument(
            f"File {str(path / MANIFEST)!r} is longer than {LONGEST_MANIFEST:,} bytes, which the embedded server never "
            f"writes. {_REMEDY}"
        )
    for line in manifest.splitlines():
        found = _FILE.fullmatch(line)
        if found is None or b"\r" in manifest:
            raise InvalidArgument(
                f"File {str(path / MANIFEST)!r} has a line that the embedded server never writes: {line!r:.100}. {_REMEDY}"
            )
        name, kind = found[1].decode(), found[2]
        if kind != b"h":  # the server removes these, and does not load them
            _check_file(folder, path / name)


def _check_file(folder: int, path: Path) -> None:
    try:
        descriptor = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:  # the server says so
        return
    try:
        if not os.fstat(descriptor).st_size:
            return
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
            at = _Snapshot(data, path).end() if data[:5] in (b"REDIS", b"VALKE") else 0
            _check_commands(data, at, path)
    finally:
        os.close(descriptor)


def _read(folder: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(LONGEST_MANIFEST + 1)


_REMEDY = (
    "Nothing was loaded. To fix it: find out where the directory comes from, and choose another path, or restore the "
    "directory from a copy."
)


def _refuse(path: Path, at: int, what: str) -> NoReturn:
    raise InvalidArgument(
        f"File {str(path)!r} has {what} at byte {at:,}, which the embedded server never writes. {_REMEDY}"
    )


def _damaged(path: Path, at: int) -> NoReturn:
    raise ServerUnavailable(
        f"File {str(path)!r} of the embedded server is damaged at byte {at:,}. Nothing was loaded. To fix it: restore the "
        "directory from a copy, move its contents away, or choose another path."
    )


def _check_commands(data: mmap.mmap, at: int, path: Path) -> None:
    """Checks the commands from a byte on. The last one may be cut short, since the server leaves it out."""
    size, find = len(data), data.find
    while at < size:
        start = at
        end = find(b"\r\n", at, at + _LINE)
        if end < 0 or data[at] != 0x2A or not (count := data[at + 1 : end]).isdigit():  # an asterisk
            return _check_cut(data, start, at, path)
        at = end + 2
        for number in range(int(count)):
            end = find(b"\r\n", at, at + _LINE)
            if end < 0 or data[at] != 0x24 or not (length := data[at + 1 : end]).isdigit():  # a dollar sign
                return _check_cut(data, start, at, path)
            at, stop = end + 2, end + 2 + int(length)
            if not number:
                name = data[at : min(stop, at + _LONGEST_NAME + 1)]
                if stop <= size and name.upper() not in ALLOWED:
                    _refuse(path, start, f"the command {name.decode(errors='backslashreplace')!r}")
            at = stop + 2
            if data[stop:at] != b"\r\n" and at <= size:
                _damaged(path, start)
    return None


def _check_cut(data: mmap.mmap, start: int, at: int, path: Path) -> None:
    """Refuses what is no number at a byte, unless the file ends within it."""
    rest = data[at : at + _LINE]
    if at + len(rest) < len(data) or not _CUT_SHORT.fullmatch(rest):
        _damaged(path, start)


class _Snapshot:
    """Walks a snapshot (RDB) at the beginning of a file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self._at = 0

    def end(self) -> int:
        """The byte after the snapshot."""
        header = self._data[:9]
        if not _HEADER.fullmatch(header):
            _refuse(self._path, 0, f"a snapshot of another version, {header!r},")
        self._at = 9
        try:
            self._walk()
        except IndexError:
            _damaged(self._path, self._at)
        if self._at > len(self._data):
            _damaged(self._path, len(self._data))
        return self._at

    def _walk(self) -> None:
        while True:
            start, opcode = self._at, self._data[self._at]
            self._at += 1
            if opcode in _OPCODES:
                lengths, strings, size = _OPCODES[opcode]
                for _ in range(lengths):
                    self._length()
                for _ in range(strings):
                    self._string()
                self._at += size
                if opcode == _END:
                    return
            elif opcode in _FORBIDDEN:
                _refuse(self._path, start, _FORBIDDEN[opcode])
            else:
                self._string()
                self._object(opcode, start)

    def _object(self, kind: int, start: int) -> None:
        if kind in _BLOBS:
            self._string()
        elif kind in _LISTS:
            lengths, strings, size = _LISTS[kind]
            for _ in range(self._length()):
                for _ in range(lengths):
                    self._length()
                for _ in range(strings):
                    self._string()
                self._at += size
        elif kind in _STREAMS:
            self._stream(_STREAMS[kind])
        else:
            _refuse(self._path, start, f"a value of the unknown type {kind}")

    def _stream(self, version: int) -> None:
        for _ in range(2 * self._length()):  # entries by the id of the first
            self._string()
        self._lengths(3 if version == 1 else 8)
        for _ in range(self._length()):  # consumer groups
            self._string()
            self._lengths(2 if version == 1 else 3)
            for _ in range(self._length()):  # pending entries
                self._at += 16 + 8
                self._length()
            for _ in range(self._length()):  # consumers
                self._string()
                self._at += 8 if version < 3 else 16
                pending = self._length()
                self._at += 16 * pending

    def _lengths(self, count: int) -> None:
        for _ in range(count):
            self._length()

    def _length(self) -> int:
        first = self._data[self._at]
        kind = first >> 6
        size = 1 if kind == 0 else 2 if kind == 1 else {0x80: 5, 0x81: 9}.get(first, 0)
        if not size:
            _damaged(self._path, self._at)
        self._at += size
        if size < 3:
            return first if size == 1 else (first & 0x3F) << 8 | self._data[self._at - 1]
        return int.from_bytes(self._data[self._at - size + 1 : self._at], "big")

    def _string(self) -> None:
        first = self._data[self._at]
        if first < 0xC0:
            size = self._length()
            self._at += size
        elif first < 0xC3:  # a number of 1, 2 or 4 bytes
            self._at += 1 + (1 << (first & 3))
        elif first == 0xC3:  # compressed
            self._at += 1
            size = self._length()
            self._length()
            self._at += size
        else:
            _damaged(self._path, self._at)


_END = 255
_OPCODES = {
    # By opcode: lengths, strings and bytes that follow.
    244: (3, 0, 0),  # sizes of a slot
    248: (1, 0, 0),  # idle time
    249: (0, 0, 1),  # frequency
    250: (0, 2, 0),  # a field about the file
    251: (2, 0, 0),  # sizes of a database
    252: (0, 0, 8),  # expiry in ms
    253: (0, 0, 4),  # expiry in seconds
    254: (1, 0, 0),  # a database
    _END: (0, 0, 8),
}
_FORBIDDEN = {245: "functions", 246: "functions", 247: "data of a module", 6: "data of a module", 7: "data of a module"}
_BLOBS = frozenset({0, 9, 10, 11, 12, 13, 16, 17, 20})
"""Types of values that are one string."""
_LISTS = {
    # By type: lengths, strings and bytes of each element.
    1: (0, 1, 0),  # list
    2: (0, 1, 0),  # set
    4: (0, 2, 0),  # hash
    5: (0, 1, 8),  # sorted set
    14: (0, 1, 0),  # list of blobs
    18: (1, 1, 0),  # list of blobs, each with its kind
    22: (0, 2, 8),  # hash whose fields expire
}
_STREAMS = {15: 1, 19: 2, 21: 3}

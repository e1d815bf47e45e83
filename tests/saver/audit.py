"""Checkpoints to save, and a look behind a saver: its log, and whether the stored views are what a fold of it gives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from typing_extensions import Self

from eventlog import Connections, HistoryPruned, Keyspace, Recorded, Runner, RunsDeleted
from eventlog.keys import split_value_name
from projections.log.index import scan

WORDS = tuple(f"{number} and what all versions of a value share, stored as deltas" for number in range(9))
Put = tuple[Any, Any, Any, Any]
"""The arguments of `put`."""


def checkpoint_id(number: int) -> str:
    """An id that sorts by its number."""
    return f"1f0{number:05x}-0000-6000-8000-000000000000"


def config(thread: str, number: int | None = None, namespace: str = "") -> Any:
    """The config that names a thread's latest checkpoint, or the one with this number."""
    named: dict[str, Any] = {"thread_id": thread, "checkpoint_ns": namespace}
    if number is not None:
        named["checkpoint_id"] = checkpoint_id(number)
    return {"configurable": named}


def put_of(
    thread: str,
    number: int,
    parent: int | None = None,
    *,
    namespace: str = "",
    channels: Sequence[str] = ("n",),
    run: str = "r",
    shared: bool = False,
) -> Put:
    """A checkpoint of which every channel holds what `value_of` makes of the number, or `shared_value_of` if `shared`."""
    value = shared_value_of(number) if shared else value_of(number)
    versions = dict.fromkeys(channels, f"v{number}")
    checkpoint = {
        "v": 4,
        "id": checkpoint_id(number),
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": dict.fromkeys(channels, value),
        "channel_versions": versions,
        "versions_seen": {},
        "updated_channels": None,
    }
    metadata = {"source": "loop", "step": number, "parents": {}, "run_id": run}
    return config(thread, parent, namespace), checkpoint, metadata, versions


def value_of(number: int) -> list[Any]:
    """What a checkpoint with this number holds."""
    return [number, f"value {number}"]


def shared_value_of(number: int) -> list[Any]:
    """The same with much that values of other numbers have as well: they are stored as deltas against each other."""
    return [*value_of(number), *WORDS[: 5 + number % 4]]


def number_of(found: Any) -> int:
    """The number of a checkpoint that was read, once it is seen to hold what it should."""
    number = int(found.checkpoint["id"][3:8], 16)
    assert found.checkpoint["id"] == checkpoint_id(number)
    assert found.metadata["step"] == number
    found_values = set(map(tuple, found.checkpoint["channel_values"].values()))
    assert found_values in ({tuple(value_of(number))}, {tuple(shared_value_of(number))})
    return number


class Audit:
    """Looks at the keys under a prefix over a connection of its own."""

    def __init__(self, url: str, prefix: str, partitions: int = 16) -> None:
        self.keyspace = Keyspace(prefix, partitions)
        self._connections = Connections.from_url(url)
        self._runner = Runner(self._connections)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connections.close()

    @property
    def client(self) -> Any:
        """A raw client."""
        return self._connections.sync_client()

    def views(self, thread: str, *namespaces: str) -> list[bytes]:
        """Keys of a thread that may be deleted at any time: index, order and heads."""
        keys = self.keyspace.thread(thread.encode())
        return [keys.index, keys.order, *(keys.head(namespace.encode()) for namespace in namespaces or ("",))]

    def forget_views(self, thread: str, *namespaces: str) -> None:
        """Delete them."""
        self.client.delete(*self.views(thread, *namespaces))

    def check(self, thread: str) -> list[Recorded]:
        """The events of a thread, values left out, once their numbers are seen to be gapless, but for what was removed, and the
        views to be their fold.
        """
        keys = self.keyspace.thread(thread.encode())
        events: list[Recorded] = []
        index = self._runner.run(scan(keys, events), thread)
        numbers = [event.sequence for event in events]
        for event in events:
            for first, last, _ in (
                event.event.removed.gone if isinstance(event.event, (HistoryPruned, RunsDeleted)) else ()
            ):
                numbers += range(first, last + 1)
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
        if events:
            assert self.client.hgetall(keys.index) == index.hash()
            assert set(self.client.zrange(keys.order, 0, -1)) == set(index.members())
        return events

    def outline(self, *threads: str) -> list[str]:
        """The events of some threads, and what the feeds tell of them, without what differs from time to time."""
        events = [(event.sequence, event.event) for thread in threads for event in self.check(thread)]
        told = map(repr, (*events, *self.feed(*threads)))
        return [re.sub(r"15:\d{13}-0", "entry id", re.sub("[0-9a-f]{40}", "digest", one)) for one in told]

    def kinds(self, thread: str) -> list[str]:
        """The kinds of a thread's events."""
        return [event.event.kind.decode() for event in self.check(thread)]

    def pieces(self, thread: str) -> list[tuple[str, bytes]]:
        """Channel and piece of every value in the log of a thread, in its order."""
        entries = self.client.xrange(self.keyspace.thread(thread.encode()).log)
        return [
            (split_value_name(name[1:])[0].decode(), piece)
            for _, fields in entries
            for name, piece in fields.items()
            if name[:1] == b"="
        ]

    def forms(self, thread: str, channel: str | None = None) -> str:
        """The forms of these pieces, of one channel or of all: a letter each."""
        return "".join(piece[:1].decode() for name, piece in self.pieces(thread) if channel in (None, name))

    def changed_versions(self, thread: str) -> int:
        """In how many entries of a log versions are stored as what changed."""
        return sum(b"b" in fields for _, fields in self.client.xrange(self.keyspace.thread(thread.encode()).log))

    def feed(self, *threads: str) -> list[tuple[bytes, ...]]:
        """What the feeds tell of some threads, entry ids and digests left out."""
        told = []
        for thread in threads:
            for _, fields in self.client.xrange(self.keyspace.thread(thread.encode()).shared.feed):
                if fields[b"thread"] == thread.encode():
                    told.append(
                        tuple(fields[name] for name in (b"thread", b"seq", b"kind", b"ns", b"checkpoint", b"run"))
                    )
        return told

    def everything(self) -> set[bytes]:
        """Every key under the prefix."""
        return set(self.client.scan_iter(b"*" + self.keyspace.prefix.encode() + b"*", count=1000))

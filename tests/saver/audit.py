"""Checkpoints to save, and a look behind a saver: its log, and whether the stored views are what a fold of it gives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from typing_extensions import Self

from eventlog import Connections, HistoryPruned, Keyspace, Recorded, Runner, RunsDeleted
from projections.thread import scan

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
) -> Put:
    """A checkpoint of which every channel holds the number, and the text that `value_of` makes of it."""
    versions = dict.fromkeys(channels, f"v{number}")
    checkpoint = {
        "v": 4,
        "id": checkpoint_id(number),
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": {channel: value_of(number) for channel in channels},
        "channel_versions": versions,
        "versions_seen": {},
        "updated_channels": None,
    }
    metadata = {"source": "loop", "step": number, "parents": {}, "run_id": run}
    return config(thread, parent, namespace), checkpoint, metadata, versions


def value_of(number: int) -> list[Any]:
    """What a checkpoint with this number holds."""
    return [number, f"value {number}"]


def number_of(found: Any) -> int:
    """The number of a checkpoint that was read, once it is seen to hold what it should."""
    number = int(found.checkpoint["id"][3:8], 16)
    assert found.checkpoint["id"] == checkpoint_id(number)
    assert found.metadata["step"] == number
    assert set(map(tuple, found.checkpoint["channel_values"].values())) == {tuple(value_of(number))}
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
        return [re.sub("[0-9a-f]{40}", "digest", repr(one)) for one in (*events, *self.feed(*threads))]

    def kinds(self, thread: str) -> list[str]:
        """The kinds of a thread's events."""
        return [event.event.kind.decode() for event in self.check(thread)]

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

"""Random traffic on a few threads: what hypothesis draws, and how savers carry it out.

Values share much with those before them, and so do versions: both are stored as what changed wherever that is less.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from eventlog.errors import ThreadExists, ThreadNotFound
from saver import RedisStreamSaver

THREADS = ("a", "b", "a\0b")
NAMESPACES = ("", "sub", "sub|x:1", "s\0")
CHANNELS = ("messages", "count", "branch:to:n", "é\0")
RUNS = ("run-1", "run-2")


@dataclass(frozen=True)
class Put:
    """A checkpoint: `rank` places its id, so that ids do not follow arrival; equal ranks overwrite."""

    thread: str
    namespace: str
    rank: int
    parent: int | None
    changed: tuple[str, ...]
    emptied: tuple[str, ...]
    stale: tuple[str, ...]
    run: str


@dataclass(frozen=True)
class Writes:
    """Writes of a task to the checkpoint of a rank, there or not yet."""

    thread: str
    namespace: str
    rank: int
    task: str
    channels: tuple[str, ...]
    value: int


@dataclass(frozen=True)
class Upkeep:
    """prune, delete_for_runs, copy_thread, delete_thread, or a read, by name."""

    name: str
    thread: str
    other: str
    keep: int
    run: str


Operation = Put | Writes | Upkeep

_threads = st.sampled_from(THREADS)
_namespaces = st.sampled_from(NAMESPACES)
_ranks = st.integers(0, 12)
_channels = st.lists(st.sampled_from(CHANNELS), max_size=3, unique=True).map(tuple)

puts = st.builds(
    Put,
    _threads,
    _namespaces,
    _ranks,
    st.none() | _ranks,
    _channels,
    _channels,
    st.just(()) | _channels,
    st.sampled_from(RUNS),
)
writes = st.builds(
    Writes,
    _threads,
    _namespaces,
    _ranks,
    st.sampled_from(("t1", "t2")),
    st.lists(st.sampled_from((*CHANNELS, "__interrupt__", "__error__")), min_size=1, max_size=3).map(tuple),
    st.integers(0, 3),
)
upkeep = st.builds(
    Upkeep,
    st.sampled_from(("prune", "delete_for_runs", "copy_thread", "delete_thread", "read", "read", "read")),
    _threads,
    _threads,
    st.integers(1, 3),
    st.sampled_from(RUNS),
)
traffic = st.lists(st.one_of(puts, puts, puts, writes, upkeep), min_size=1, max_size=30)


def checkpoint_id(rank: int) -> str:
    """An id whose order is that of the ranks."""
    return f"1f0{rank:04x}-0000-6000-8000-000000000000"


NODES = [f"node {number} with a name that takes some space" for number in range(20)]


def successor(value: list[str], number: int) -> Any:
    """The next value of a channel, given the last list that it had: that grew, slid, was edited, or something else altogether."""
    new = f"message {number} {'of some length ' * 2}{number * number}"
    match number % 8:
        case 0:
            return [*value[2:], new]
        case 1 if value:
            return [*value[: number % len(value)], new, *value[number % len(value) + 1 :]]
        case 2:
            return value
        case 3 if number % 3 == 0:
            return (None, "", b"x" * 200, new, [])[number % 5]
        case _:
            return [*value, new]


class Player:
    """Carries traffic out on savers, each with a cache of its own: mostly on the first, whose cache the others make stale. Two players
    given the same traffic make the same calls, versions included.
    """

    def __init__(self, *savers: RedisStreamSaver) -> None:
        self._savers = savers
        self._values: dict[tuple[str, str, str], list[str]] = {}
        self._versions: dict[tuple[str, str], dict[str, str]] = {}
        self._calls = 0

    @property
    def saver(self) -> RedisStreamSaver:
        """Whose turn it is."""
        return self._savers[self._calls % 4 // 3 % len(self._savers)]

    def play(self, operation: Operation) -> Any:
        """Carries one operation out; what a read returned."""
        self._calls += 1
        if isinstance(operation, Put):
            return self._put(operation)
        if isinstance(operation, Writes):
            config = self._config(operation.thread, operation.namespace, operation.rank)
            values = [(channel, [operation.value, channel]) for channel in operation.channels]
            return self.saver.put_writes(config, values, operation.task, f"path-{operation.task}")
        return self._keep_up(operation)

    def _put(self, put: Put) -> Any:
        versions = self._versions.setdefault((put.thread, put.namespace), {})
        new: dict[str, str | int | float] = {}
        for channel in (*put.changed, *put.emptied, *put.stale):
            versions[channel] = f"v{self._calls}"
            if channel not in put.stale:
                new[channel] = versions[channel]
        checkpoint: Any = {
            "v": 4,
            "id": checkpoint_id(put.rank),
            "ts": "2026-01-01T00:00:00+00:00",
            "channel_values": {
                channel: self._value(put, channel) for channel in put.changed if channel not in put.emptied
            },
            "channel_versions": dict(versions),
            "versions_seen": {node: dict(versions) for node in NODES[: 19 + self._calls % 11 // 10]},
            "updated_channels": sorted(put.changed),
        }
        metadata: Any = {"source": "loop", "step": self._calls, "parents": {}, "run_id": put.run}
        return self.saver.put(self._config(put.thread, put.namespace, put.parent), checkpoint, metadata, new)

    def _value(self, put: Put, channel: str) -> Any:
        place = put.thread, put.namespace, channel
        value = self._values.get(place, [f"{channel} begins {number} {'so and so ' * 2}" for number in range(6)])
        following = successor(value, self._calls)
        if isinstance(following, list):
            self._values[place] = following
        return following

    def _keep_up(self, upkeep: Upkeep) -> Any:
        saver = self.saver
        if upkeep.name == "prune":
            return saver.prune([upkeep.thread], keep_last=upkeep.keep)
        if upkeep.name == "delete_for_runs":
            return saver.delete_for_runs([upkeep.run])
        if upkeep.name == "delete_thread":
            self._forget(upkeep.thread)
            return saver.delete_thread(upkeep.thread)
        if upkeep.name == "copy_thread":
            if upkeep.thread != upkeep.other:
                with contextlib.suppress(ThreadExists, ThreadNotFound):
                    saver.copy_thread(upkeep.thread, upkeep.other)
            return None
        return self.everything()

    def _forget(self, thread: str) -> None:
        for key in [key for key in self._versions if key[0] == thread]:
            del self._versions[key]

    @staticmethod
    def _config(thread: str, namespace: str, rank: int | None) -> Any:
        configurable: dict[str, Any] = {"thread_id": thread, "checkpoint_ns": namespace}
        if rank is not None:
            configurable["checkpoint_id"] = checkpoint_id(rank)
        return {"configurable": configurable}

    def everything(self) -> list[Any]:
        """All that can be read: the latest of each namespace, every checkpoint by id, and the list of all threads."""
        latest = [
            self.saver.get_tuple(self._config(thread, namespace, None))
            for thread in THREADS
            for namespace in NAMESPACES
        ]
        listed = list(self.saver.list(None))
        by_id = [self.saver.get_tuple(found.config) for found in listed]
        assert by_id == listed
        return [*latest, *listed]

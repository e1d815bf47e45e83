"""Savers that threads come from: which threads and checkpoints each has, and how its pending writes are placed.

What every saver answers (`get_tuple`, `list`) does not tell all of that: `list(None)` is empty or capped in some, and none tells
task paths and the indexes of writes. So the savers that are known here are asked by their own means, any other by what all have.

A question is a generator that yields requests, which a driver answers in either colour (`saver.migration.ask`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from langgraph.checkpoint.base import WRITES_IDX_MAP, BaseCheckpointSaver, CheckpointTuple, writes_sort_key
from langgraph.checkpoint.memory import InMemorySaver

from eventlog.errors import InvalidArgument
from eventlog.flow import Command, Flow
from eventlog.keys import split_sort_key
from projections.checkpoints.read import read_checkpoint
from projections.log.index import check_log
from projections.registry.rebuild import threads_of
from saver.migration.ask import Execute, Listing, Query, RunFlow, Work
from saver.saver import RedisStreamSaver

__all__ = ["Name", "Placed", "Source", "source_of"]

PAGE = 1000


class Name(NamedTuple):
    """A checkpoint of a thread."""

    checkpoint_id: str
    namespace: str


class Placed(NamedTuple):
    """A pending write: who wrote it, and which of the task's it is. `path` is None where the saver does not keep it."""

    path: str | None
    task_id: str
    idx: int
    channel: str
    value: Any


class Source:
    """Any saver, by what all have."""

    def __init__(self, saver: BaseCheckpointSaver[Any]) -> None:
        self.saver = saver

    def threads(self) -> Work[Iterable[Any]]:
        """Ids of all threads, as the saver has them. Raises `InvalidArgument` where it cannot tell."""
        found = yield Listing(self.saver, None, names_only=True)
        threads = dict.fromkeys(config["configurable"]["thread_id"] for config in found)
        if not threads or type(self.saver).__module__.startswith("langgraph.checkpoint.redis"):
            raise InvalidArgument(
                f"{type(self.saver).__name__} does not tell which threads it has; name them: threads=[...], on the command line "
                "--thread."
            )
        return list(threads)

    def checkpoints(self, thread: Any) -> Work[Iterable[Name]]:
        """All checkpoints of a thread."""
        found = yield Listing(self.saver, {"configurable": {"thread_id": thread}}, names_only=True)
        return [
            Name(config["configurable"]["checkpoint_id"], config["configurable"].get("checkpoint_ns", ""))
            for config in found
        ]

    def placed(self, thread: Any, name: Name, found: CheckpointTuple) -> Work[list[Placed]]:
        """The pending writes of a checkpoint that was read, in its order."""
        if not found.pending_writes:
            return []
        places = yield from self._places(thread, name)
        if places is not None and [place[1] for place in places] == [write[0] for write in found.pending_writes]:
            return [
                Placed(*place, channel, value)
                for place, (_, channel, value) in zip(places, found.pending_writes, strict=True)
            ]
        counts: dict[str, int] = {}
        placed = []
        for task_id, channel, value in found.pending_writes:
            idx = WRITES_IDX_MAP.get(channel)
            if idx is None:
                idx = counts.get(task_id, 0)
                counts[task_id] = idx + 1
            placed.append(Placed(None, task_id, idx, channel, value))
        return placed

    def _places(self, thread: Any, name: Name) -> Work[list[tuple[str | None, str, int]] | None]:  # noqa: ARG002
        """Path, task and index of each pending write; None where the saver does not tell."""
        yield from ()
        return None


class MemorySource(Source):
    """InMemorySaver."""

    saver: InMemorySaver

    def threads(self) -> Work[Iterable[Any]]:
        """Ids of all threads."""
        yield from ()
        return [thread for thread, namespaces in self.saver.storage.items() if any(namespaces.values())]

    def checkpoints(self, thread: Any) -> Work[Iterable[Name]]:
        """All checkpoints of a thread."""
        yield from ()
        namespaces: Mapping[str, Any] = self.saver.storage.get(thread, {})
        return [Name(checkpoint_id, namespace) for namespace, some in namespaces.items() for checkpoint_id in some]

    def _places(self, thread: Any, name: Name) -> Work[list[tuple[str | None, str, int]] | None]:
        yield from ()
        stored = self.saver.writes.get((thread, name.namespace, name.checkpoint_id), {})
        places = [(written[3], task_id, idx) for (task_id, idx), written in stored.items()]
        return _sorted(places)


class SqlSource(Source):
    """SqliteSaver and PostgresSaver, and their async twins."""

    def __init__(self, saver: BaseCheckpointSaver[Any], writes: str, sign: str) -> None:
        super().__init__(saver)
        self._writes = writes
        self._sign = sign

    def threads(self) -> Work[Iterable[Any]]:
        """Ids of all threads."""
        found: list[Any] = []
        bound, least = "", ">="
        while True:
            rows = yield self._query(
                f"SELECT DISTINCT thread_id FROM checkpoints WHERE thread_id {least} ? ORDER BY thread_id LIMIT {PAGE}",  # noqa: S608 - values are bound
                bound,
            )
            found += [row[0] for row in rows]
            if len(rows) < PAGE:
                return found
            bound, least = rows[-1][0], ">"

    def checkpoints(self, thread: Any) -> Work[Iterable[Name]]:
        """All checkpoints of a thread."""
        rows = yield self._query(
            "SELECT checkpoint_id, checkpoint_ns FROM checkpoints WHERE thread_id = ?", str(thread)
        )
        return [Name(*row) for row in rows]

    def _places(self, thread: Any, name: Name) -> Work[list[tuple[str | None, str, int]] | None]:
        path = "task_path" if getattr(self.saver, "_has_task_path", True) else "''"
        rows = yield self._query(
            f"SELECT {path}, task_id, idx FROM {self._writes} "  # noqa: S608 - as above
            "WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?",
            str(thread),
            name.namespace,
            name.checkpoint_id,
        )
        return _sorted((row[0], row[1], row[2]) for row in rows)

    def _query(self, sql: str, *values: str) -> Query:
        return Query(self.saver, sql.replace("?", self._sign), values)


class PlainRedisSource(Source):
    """`langgraph_checkpoint_plainredis`: which orders writes by task, and keeps no paths."""

    saver: Any

    def _registered(self) -> Work[list[tuple[str, str]]]:
        entries = yield Execute(self.saver.client, ("HVALS", self.saver._key_threads()))
        found = [json.loads(entry) for entry in entries]
        return [(one["thread"], one["ns"]) for one in found]

    def threads(self) -> Work[Iterable[Any]]:
        """Ids of all threads."""
        return list(dict.fromkeys(thread for thread, _ in (yield from self._registered())))

    def checkpoints(self, thread: Any) -> Work[Iterable[Name]]:
        """All checkpoints of a thread."""
        found = []
        for known, namespace in (yield from self._registered()):
            if known == thread:
                ids = yield Execute(self.saver.client, ("ZRANGE", self.saver._key_index(thread, namespace), 0, -1))
                found += [Name(_text(one), namespace) for one in ids]
        return found

    def _places(self, thread: Any, name: Name) -> Work[list[tuple[str | None, str, int]] | None]:
        key = self.saver._key_writes(thread, name.namespace, name.checkpoint_id)
        fields = yield Execute(self.saver.client, ("HKEYS", key))
        parts = (_text(one).rpartition(":") for one in fields)
        return [(None, task_id, idx) for task_id, idx in sorted((task_id, int(idx)) for task_id, _, idx in parts)]


class ValkeySource(Source):
    """`langgraph_checkpoint_aws`: which lists the root namespace alone, has writes in the order they came, and keeps no paths."""

    saver: Any
    _known: dict[str, list[str]] | None = None

    def _namespaces(self) -> Work[dict[str, list[str]]]:
        if self._known is None:
            known: dict[str, list[str]] = {}
            cursor: Any = 0
            while True:
                cursor, keys = yield Execute(self.saver.client, ("SCAN", cursor, "MATCH", "thread:{*", "COUNT", PAGE))
                for key in keys:
                    thread, _, namespace = _text(key)[len("thread:{") :].rpartition("}:")
                    if namespace not in known.setdefault(thread, []):
                        known[thread].append(namespace)
                if int(cursor) == 0:
                    break
            self._known = known
        return self._known

    def threads(self) -> Work[Iterable[Any]]:
        """Ids of all threads."""
        return list((yield from self._namespaces()))

    def checkpoints(self, thread: Any) -> Work[Iterable[Name]]:
        """All checkpoints of a thread."""
        found: dict[Name, None] = {}
        for namespace in (yield from self._namespaces()).get(str(thread), []):
            key = self.saver._make_thread_key(str(thread), namespace)
            ids = yield Execute(self.saver.client, ("LRANGE", key, 0, -1))
            found.update((Name(_text(one), namespace), None) for one in ids)
        return list(found)

    def _places(self, thread: Any, name: Name) -> Work[list[tuple[str | None, str, int]] | None]:
        stored = yield Execute(
            self.saver.client, ("GET", self.saver._make_writes_key(str(thread), name.namespace, name.checkpoint_id))
        )
        return [(None, write["task_id"], int(write["idx"])) for write in json.loads(stored or "[]")]


class StreamSource(Source):
    """Another `RedisStreamSaver`, on another prefix or server."""

    saver: RedisStreamSaver

    def threads(self) -> Work[Iterable[Any]]:
        """Ids of all threads."""
        operations = self.saver._operations
        found = yield RunFlow(self.saver, operations.checked(threads_of(operations.keyspace)))
        return [thread.decode() for thread in found]

    def checkpoints(self, thread: Any) -> Work[Iterable[Name]]:
        """All checkpoints of a thread."""
        operations = self.saver._operations
        return (yield RunFlow(self.saver, operations.checked(_listed(operations.keys_of(str(thread))))))  # type: ignore[no-any-return]

    def _places(self, thread: Any, name: Name) -> Work[list[tuple[str | None, str, int]] | None]:
        operations = self.saver._operations
        reading = read_checkpoint(operations.keys_of(str(thread)), name.namespace, name.checkpoint_id)
        stored = yield RunFlow(self.saver, operations.checked(reading))
        return [(one.task_path, one.task_id, one.write.idx) for one in stored.writes] if stored else None


def _listed(keys: Any) -> Flow[list[Name]]:
    if not (yield from check_log(keys)):
        return []
    found: list[Name] = []
    bound = b"[c"
    while True:
        members = yield Command("ZRANGEBYLEX", keys.order, [bound, b"(d", b"LIMIT", 0, PAGE])
        for member in members:
            namespace, checkpoint_id, _ = split_sort_key(member[1:])
            found.append(Name(checkpoint_id, namespace))
        if len(members) < PAGE:
            return found
        bound = b"(" + members[-1]


def _sorted(places: Iterable[tuple[str, str, int]]) -> list[tuple[str | None, str, int]]:
    in_order: list[tuple[str, str, int]] = sorted(places, key=lambda place: writes_sort_key(*place))
    return [*in_order]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


_SQL: Mapping[str, Sequence[str]] = {
    "langgraph.checkpoint.sqlite": ("writes", "?"),
    "langgraph.checkpoint.sqlite.aio": ("writes", "?"),
    "langgraph.checkpoint.postgres": ("checkpoint_writes", "%s"),
    "langgraph.checkpoint.postgres.aio": ("checkpoint_writes", "%s"),
}


def source_of(saver: BaseCheckpointSaver[Any]) -> Source:
    """How a saver is asked. Classes are known by their names: their packages need not be installed."""
    if isinstance(saver, RedisStreamSaver):
        return StreamSource(saver)
    if isinstance(saver, InMemorySaver):
        return MemorySource(saver)
    for kind in type(saver).__mro__:
        if kind.__name__ in ("SqliteSaver", "AsyncSqliteSaver", "PostgresSaver", "AsyncPostgresSaver"):
            if kind.__module__ in _SQL:
                return SqlSource(saver, *_SQL[kind.__module__])
        elif kind.__module__.startswith("langgraph_checkpoint_plainredis"):
            return PlainRedisSource(saver)
        elif kind.__name__ == "BaseValkeySaver":
            return ValkeySource(saver)
    return Source(saver)

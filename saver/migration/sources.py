"""The savers that threads come from, and how a migration reads each of them.

`get_tuple` and `list` are not enough for that. `list(None)` is empty or capped in some savers, and no saver returns task paths and
the indexes of writes. So this module reads the storage of the savers that it knows, and any other saver through its methods.
"""

from __future__ import annotations

import json
from asyncio import AbstractEventLoop
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from langgraph.checkpoint.base import WRITES_IDX_MAP, BaseCheckpointSaver, CheckpointTuple, writes_sort_key
from langgraph.checkpoint.memory import InMemorySaver

from eventlog.errors import InvalidArgument
from eventlog.flow import Command, Flow
from eventlog.keys import ThreadKeys, split_sort_key
from projections.checkpoints.read import read_checkpoint
from projections.log.index import check_log
from projections.registry.rebuild import threads_of
from saver.migration.calls import SaverCalls
from saver.saver import RedisStreamSaver

__all__ = ["Name", "Placed", "Source", "names_in", "source_of"]

PAGE = 1000


class Name(NamedTuple):
    """A checkpoint of a thread."""

    checkpoint_id: str
    namespace: str


class Writer(NamedTuple):
    """The task of a pending write, and the write's index among those of the task."""

    path: str | None
    """The task's path; None if the saver does not keep it."""
    task_id: str
    idx: int


class Placed(NamedTuple):
    """A pending write and its writer."""

    path: str | None
    task_id: str
    idx: int
    channel: str
    value: Any


class Source(SaverCalls):
    """Any saver, read through the methods that all savers have."""

    def threads(self) -> Iterable[Any]:
        """Returns the ids of all threads.

        Raises `InvalidArgument` if the saver does not list them.
        """
        found = self.listed(None, keep=lambda found: found.config["configurable"]["thread_id"])
        if not found or type(self.saver).__module__.startswith("langgraph.checkpoint.redis"):
            raise InvalidArgument(
                f"{type(self.saver).__name__} does not list its threads. Name them: threads=[...], on the command line --thread."
            )
        return dict.fromkeys(found)

    def checkpoints(self, thread: Any) -> Iterable[Name]:
        """Returns the names of all checkpoints of a thread."""
        configs = self.listed({"configurable": {"thread_id": thread}}, keep=lambda found: found.config["configurable"])
        return [Name(config["checkpoint_id"], config.get("checkpoint_ns", "")) for config in configs]

    def placed(self, thread: Any, name: Name, found: CheckpointTuple) -> list[Placed]:
        """Returns the pending writes of a checkpoint in the saver's order."""
        if not found.pending_writes:
            return []
        writers = self._writers(thread, name)
        if writers is None or [writer.task_id for writer in writers] != [write[0] for write in found.pending_writes]:
            writers = _counted(found.pending_writes)
        return [
            Placed(*writer, channel, value)
            for writer, (_, channel, value) in zip(writers, found.pending_writes, strict=True)
        ]

    def _writers(self, thread: Any, name: Name) -> list[Writer] | None:  # noqa: ARG002
        """Returns the writer of each pending write; None if the saver does not keep them."""
        return None


def _counted(writes: Sequence[tuple[str, str, Any]]) -> list[Writer]:
    """Returns writers with the indexes that LangGraph gives the writes of each task."""
    counts: dict[str, int] = {}
    writers = []
    for task_id, channel, _ in writes:
        idx = WRITES_IDX_MAP.get(channel)
        if idx is None:
            idx = counts.get(task_id, 0)
            counts[task_id] = idx + 1
        writers.append(Writer(None, task_id, idx))
    return writers


class MemorySource(Source):
    """InMemorySaver."""

    def threads(self) -> Iterable[Any]:
        """Returns the ids of all threads."""
        return [thread for thread, namespaces in list(self.saver.storage.items()) if any(namespaces.values())]

    def checkpoints(self, thread: Any) -> Iterable[Name]:
        """Returns the names of all checkpoints of a thread."""
        namespaces: Mapping[str, Any] = self.saver.storage.get(thread, {})
        return [Name(one, namespace) for namespace, some in list(namespaces.items()) for one in list(some)]

    def _writers(self, thread: Any, name: Name) -> list[Writer] | None:
        stored = self.saver.writes.get((thread, name.namespace, name.checkpoint_id), {})
        return _sorted(Writer(write[3], task_id, idx) for (task_id, idx), write in list(stored.items()))


class SqlSource(Source):
    """SqliteSaver, PostgresSaver, and their async forms."""

    def __init__(
        self, saver: BaseCheckpointSaver[Any], loop: AbstractEventLoop | None, writes: str, placeholder: str
    ) -> None:
        super().__init__(saver, loop)
        self._writes = writes
        self._placeholder = placeholder

    def threads(self) -> Iterable[Any]:
        """Returns the ids of all threads."""
        found: list[Any] = []
        bound, comparison = "", ">="
        while True:
            rows = self._query(
                f"SELECT DISTINCT thread_id FROM checkpoints WHERE thread_id {comparison} ? ORDER BY thread_id LIMIT {PAGE}",  # noqa: S608 - values are bound # nosec B608
                bound,
            )
            found += [row[0] for row in rows]
            if len(rows) < PAGE:
                return found
            bound, comparison = rows[-1][0], ">"

    def checkpoints(self, thread: Any) -> Iterable[Name]:
        """Returns the names of all checkpoints of a thread."""
        rows = self._query("SELECT checkpoint_id, checkpoint_ns FROM checkpoints WHERE thread_id = ?", str(thread))
        return [Name(*row) for row in rows]

    def _writers(self, thread: Any, name: Name) -> list[Writer] | None:
        path = "task_path" if getattr(self.saver, "_has_task_path", True) else "''"
        rows = self._query(
            f"SELECT {path}, task_id, idx FROM {self._writes} "  # noqa: S608 - as above # nosec B608
            "WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?",
            str(thread),
            name.namespace,
            name.checkpoint_id,
        )
        return _sorted(Writer(*row) for row in rows)

    def _query(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        return self.rows(sql.replace("?", self._placeholder), values)


class PlainRedisSource(Source):
    """The saver of `langgraph_checkpoint_plainredis`.

    It orders writes by task and keeps no paths.
    """

    def _registered(self) -> list[tuple[str, str]]:
        found = [json.loads(entry) for entry in self.command("HVALS", self.saver._key_threads())]
        return [(one["thread"], one["ns"]) for one in found]

    def threads(self) -> Iterable[Any]:
        """Returns the ids of all threads."""
        return dict.fromkeys(thread for thread, _ in self._registered())

    def checkpoints(self, thread: Any) -> Iterable[Name]:
        """Returns the names of all checkpoints of a thread."""
        return [
            Name(_text(checkpoint_id), namespace)
            for known, namespace in self._registered()
            if known == thread
            for checkpoint_id in self.command("ZRANGE", self.saver._key_index(thread, namespace), 0, -1)
        ]

    def _writers(self, thread: Any, name: Name) -> list[Writer] | None:
        key = self.saver._key_writes(thread, name.namespace, name.checkpoint_id)
        parts = (_text(field).rpartition(":") for field in self.command("HKEYS", key))
        return [Writer(None, *part) for part in sorted((task_id, int(idx)) for task_id, _, idx in parts)]


class ValkeySource(Source):
    """The ValkeySaver of `langgraph_checkpoint_aws`.

    It keeps writes in the order of their arrival, and no paths. Its `list` returns the root namespace alone.
    """

    _known: dict[str, list[str]] | None = None

    def _namespaces(self) -> dict[str, list[str]]:
        if self._known is None:
            known: dict[str, list[str]] = {}
            cursor: Any = 0
            while True:
                cursor, keys = self.command("SCAN", cursor, "MATCH", "thread:{*", "COUNT", PAGE)
                for key in keys:
                    thread, _, namespace = _text(key)[len("thread:{") :].rpartition("}:")
                    if namespace not in known.setdefault(thread, []):
                        known[thread].append(namespace)
                if int(cursor) == 0:
                    break
            self._known = known
        return self._known

    def threads(self) -> Iterable[Any]:
        """Returns the ids of all threads."""
        return self._namespaces()

    def checkpoints(self, thread: Any) -> Iterable[Name]:
        """Returns the names of all checkpoints of a thread."""
        found: dict[Name, None] = {}
        for namespace in self._namespaces().get(str(thread), []):
            ids = self.command("LRANGE", self.saver._make_thread_key(str(thread), namespace), 0, -1)
            found.update((Name(_text(one), namespace), None) for one in ids)
        return found

    def _writers(self, thread: Any, name: Name) -> list[Writer] | None:
        key = self.saver._make_writes_key(str(thread), name.namespace, name.checkpoint_id)
        stored = json.loads(self.command("GET", key) or "[]")
        return [Writer(None, write["task_id"], int(write["idx"])) for write in stored]


class StreamSource(Source):
    """Another `RedisStreamSaver`, on another prefix or server."""

    def threads(self) -> Iterable[Any]:
        """Returns the ids of all threads."""
        found: Iterable[bytes] = self._run(threads_of(self.saver._operations.keyspace, too_long=True))
        return [thread.decode() for thread in found]

    def checkpoints(self, thread: Any) -> Iterable[Name]:
        """Returns the names of all checkpoints of a thread."""
        found: list[Name] = self._run(names_in(self.saver._operations.keys_of(str(thread))))
        return found

    def _writers(self, thread: Any, name: Name) -> list[Writer] | None:
        keys = self.saver._operations.keys_of(str(thread))
        stored = self._run(read_checkpoint(keys, name.namespace, name.checkpoint_id))
        return [Writer(one.task_path, one.task_id, one.write.idx) for one in stored.writes] if stored else None

    def _run(self, flow: Flow[Any]) -> Any:
        return self.saver._runner.run(self.saver._operations.checked(flow), "the source")


def names_in(keys: ThreadKeys) -> Flow[list[Name]]:
    """Returns the names of all checkpoints of a thread of a `RedisStreamSaver`."""
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


def _sorted(writers: Iterable[Writer]) -> list[Writer]:
    """Returns writers in LangGraph's order of writes."""
    return sorted(writers, key=lambda writer: writes_sort_key(*writer))  # type: ignore[arg-type]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


_SQL: Mapping[str, Sequence[str]] = {
    "langgraph.checkpoint.sqlite": ("writes", "?"),
    "langgraph.checkpoint.sqlite.aio": ("writes", "?"),
    "langgraph.checkpoint.postgres": ("checkpoint_writes", "%s"),
    "langgraph.checkpoint.postgres.aio": ("checkpoint_writes", "%s"),
}
"""The table of writes and the placeholder of values, by the module of the saver."""


def source_of(saver: BaseCheckpointSaver[Any], loop: AbstractEventLoop | None = None) -> Source:
    """Returns the source that reads a saver.

    Savers are recognized by the names of their classes, since their packages may not be installed. `loop` is the event loop on
    which async methods are called.
    """
    if isinstance(saver, RedisStreamSaver):
        return StreamSource(saver, loop)
    if isinstance(saver, InMemorySaver):
        return MemorySource(saver, loop)
    for kind in type(saver).__mro__:
        if kind.__name__ in ("SqliteSaver", "AsyncSqliteSaver", "PostgresSaver", "AsyncPostgresSaver"):
            if kind.__module__ in _SQL:
                return SqlSource(saver, loop, *_SQL[kind.__module__])
        elif kind.__module__.startswith("langgraph_checkpoint_plainredis"):
            return PlainRedisSource(saver, loop)
        elif kind.__name__ == "BaseValkeySaver":
            return ValkeySource(saver, loop)
    return Source(saver, loop)

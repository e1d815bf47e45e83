"""Copies threads from another saver, then compares both sides.

A migration copies every checkpoint with its values, versions, metadata and pending writes. Checkpoints go one at a time, parents
first, so that the target stores only the values that each one changed. A checkpoint that the target has already, the same, is left
alone. So running a migration again completes one that was interrupted, or brings the checkpoints that came since.

A migration is a flow on the target's connections. Calls on the source are blocking work of the flow (see `saver.migration.calls`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from eventlog.attribution import audit
from eventlog.errors import EventLogError, InvalidArgument
from eventlog.flow import Emit, Flow, blocking, collected
from eventlog.transport.drivers import in_own_thread
from saver.configs import thread_id_of
from saver.migration.sources import Name, Placed, names_in, source_of
from saver.saver import RedisStreamSaver
from saver.translation import config_of

__all__ = ["Difference", "Migrated", "Progress", "acompare", "amigrate", "compare", "migrate"]

T = TypeVar("T")

PAGE = 20
"""Checkpoints that are compared at once."""
MOST_DIFFERENCES = 1000
"""Differences that a result lists."""
MOST_KNOWN = 256
"""Checkpoints whose versions are cached for the checkpoints after them."""


class Difference(NamedTuple):
    """A part of a thread that the target does not have as the source does."""

    thread_id: str
    namespace: str
    checkpoint_id: str
    """Empty if the difference does not concern one checkpoint."""
    what: str


class Progress(NamedTuple):
    """The progress of a migration."""

    phase: str
    """"copy" or "compare"."""
    thread_id: str
    threads: int
    """Threads done."""
    of: int
    """Threads in all."""
    checkpoints: int
    """Checkpoints of this thread done."""
    of_checkpoints: int
    """Checkpoints of this thread in all."""


@dataclass(slots=True)
class Migrated:
    """The result of a migration."""

    threads: int = 0
    checkpoints: int = 0
    """Checkpoints that were put."""
    writes: int = 0
    """Pending writes that were put."""
    present: int = 0
    """Checkpoints that the target had already, the same."""
    compared: int = 0
    """Checkpoints that were compared."""
    differing: int = 0
    """The number of differences."""
    differences: list[Difference] = field(default_factory=list)
    """The first thousand of them."""

    @property
    def ok(self) -> bool:
        """Whether no difference was found."""
        return not self.differing

    def _differ(self, thread: str, name: Name, what: str) -> None:
        self.differing += 1
        if len(self.differences) < MOST_DIFFERENCES:
            self.differences.append(Difference(thread, name.namespace, name.checkpoint_id, what))


ProgressCallback = Callable[[Progress], object]


def migrate(
    source: BaseCheckpointSaver[Any],
    target: RedisStreamSaver,
    *,
    threads: Sequence[str] | None = None,
    progress: ProgressCallback | None = None,
    verify: bool = True,
) -> Migrated:
    """Copies threads of any saver to a `RedisStreamSaver`.

    Without `threads`, all threads are copied. With `verify`, both sides are compared afterwards. `progress` is called after
    each checkpoint. Pending writes keep their tasks, indexes and, if the source has them, task paths. Two things cannot be
    copied: writes whose checkpoint never came, and values that the source has under no version.

    Round trips: two to four per checkpoint, and two per 20 for the comparison. Memory: twenty checkpoints, and the ids of a thread.

    Raises:
        InvalidArgument: the source does not list its threads, lacks a named thread, or is the target.
        TypeError: the source has async methods only; see `amigrate`.
        EventLogError: an error of the target. Errors of the source are raised as they are.

    """
    with audit(migrated_from=type(source).__name__):
        return _run(_Migration(source, target, threads, copy=True, verify=verify), progress)


async def amigrate(
    source: BaseCheckpointSaver[Any],
    target: RedisStreamSaver,
    *,
    threads: Sequence[str] | None = None,
    progress: ProgressCallback | None = None,
    verify: bool = True,
) -> Migrated:
    """Async form of `migrate`, for sync and async sources.

    Sync methods of the source are called in threads, async ones and `progress` on the event loop.
    """
    async with audit(migrated_from=type(source).__name__):
        loop = asyncio.get_running_loop()
        return await _arun(_Migration(source, target, threads, copy=True, verify=verify, loop=loop), progress)


def compare(
    source: BaseCheckpointSaver[Any],
    target: RedisStreamSaver,
    *,
    threads: Sequence[str] | None = None,
    progress: ProgressCallback | None = None,
) -> Migrated:
    """Compares threads of both sides, and writes nothing.

    Without `threads`, all threads of the source are compared. For every checkpoint: values, versions, versions seen by nodes,
    metadata, parent, and pending writes in their order. For every namespace: the order of `list`, and the latest checkpoint.
    Raises as `migrate`.
    """
    return _run(_Migration(source, target, threads, copy=False, verify=True), progress)


async def acompare(
    source: BaseCheckpointSaver[Any],
    target: RedisStreamSaver,
    *,
    threads: Sequence[str] | None = None,
    progress: ProgressCallback | None = None,
) -> Migrated:
    """Async form of `compare`."""
    loop = asyncio.get_running_loop()
    return await _arun(_Migration(source, target, threads, copy=False, verify=True, loop=loop), progress)


def _run(migration: _Migration, progress: ProgressCallback | None) -> Migrated:
    for thread in migration.find_threads():
        flow = migration.migrate_thread(thread)
        migration.target._runner.run(flow, f"thread {thread!r}", progress or _ignore)
    return migration.done


async def _arun(migration: _Migration, progress: ProgressCallback | None) -> Migrated:
    for thread in await in_own_thread(migration.find_threads):
        flow = migration.migrate_thread(thread)
        await migration.target._runner.arun(flow, f"thread {thread!r}", progress or _ignore)
    return migration.done


def _ignore(_: Progress) -> None:
    pass


class _Migration:
    """A migration of some threads."""

    def __init__(
        self,
        source: BaseCheckpointSaver[Any],
        target: RedisStreamSaver,
        threads: Sequence[str] | None,
        *,
        copy: bool,
        verify: bool,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not isinstance(target, RedisStreamSaver):
            raise TypeError(f"target must be a RedisStreamSaver, not {type(target).__name__}.")
        if target is source:
            raise InvalidArgument("Source and target are the same saver; name another target.")
        if isinstance(threads, (str, bytes)):
            raise TypeError(f"threads must be a list of ids, not {type(threads).__name__}; pass [{threads!r}].")
        self.source = source_of(source, loop)
        self.target = target
        self.done = Migrated()
        self.of = 0
        """The number of threads."""
        self._named = threads
        self._copy = copy
        self._verify = verify

    def find_threads(self) -> list[Any]:
        """Returns the ids of the threads, as the source has them. Blocks."""
        found = list(self.source.threads() if self._named is None else dict.fromkeys(self._named))
        self.of = len(found)
        return found

    def migrate_thread(self, thread: Any) -> Flow[None]:
        """Migrates one thread; emits the work on the source, and `Progress`."""
        names = sorted((yield from blocking(self.source.checkpoints, thread)))
        if self._named is not None and not names:
            raise InvalidArgument(f"The source has no thread {thread!r}. Check the id.")
        self.done.threads += 1
        move = _ThreadMigration(self, thread, names)
        if self._copy and not (yield from move.copy()):
            return
        if self._verify:
            yield from move.compare()


class _Known(NamedTuple):
    """The part of a checkpoint from which the changes of the next one are found."""

    versions: dict[str, Any]
    valued: frozenset[str]


class _ThreadMigration:
    """The migration of one thread."""

    def __init__(self, migration: _Migration, thread: Any, names: Sequence[Name]) -> None:
        self.source = migration.source
        self.target = migration.target
        self.done = migration.done
        self.of = migration.of
        self.thread = thread
        self.thread_id = thread_id_of(thread)
        self.names = names
        self.known: dict[Name, _Known] = {}

    def copy(self) -> Flow[bool]:
        """Puts the checkpoints that the target lacks, parents first.

        If the target has checkpoints that the source lacks, it reports that as a difference, copies nothing, and returns False.
        """
        there = yield from self._names_in_target()
        if extra := there.difference(self.names):
            self._differ(
                Name("", ""),
                f"has {len(extra)} checkpoints in the target that are not in the source, so nothing was copied. Either the "
                "target has another thread of the same id, or its thread went on. Copy to another prefix, or delete the thread "
                "in the target first",
            )
            return False
        known, done = set(self.names), set[Name]()
        for name in self.names:
            waiting = [name]
            while waiting:
                at = waiting[-1]
                if at in done:
                    waiting.pop()
                    continue
                found = yield from self._in_source(at)
                parent = found and _parent_of(found)
                if parent in known and parent not in done and parent not in waiting:
                    waiting.append(parent)
                    continue
                if found is not None:
                    yield from self._put(at, found, there=at in there)
                done.add(waiting.pop())
                yield self._progress("copy", len(done))
        return True

    def _names_in_target(self) -> Flow[set[Name]]:
        operations = self.target._operations
        return set((yield from operations.checked(names_in(operations.keys_of(self.thread_id)))))

    def _in_source(self, name: Name) -> Flow[CheckpointTuple | None]:
        config = config_of(self.thread, name.namespace, name.checkpoint_id)
        return (yield from blocking(self.source.get_tuple, config))

    def _in_target(self, name: Name) -> Flow[CheckpointTuple | None]:
        config = config_of(self.thread_id, name.namespace, name.checkpoint_id)
        return (yield from self.target._operations.get_tuple(self.target.serde, config))

    def _progress(self, phase: str, checkpoints: int) -> Emit:
        of_checkpoints = len(self.names)
        threads = self.done.threads - (checkpoints < of_checkpoints)
        return Emit(Progress(phase, self.thread_id, threads, self.of, checkpoints, of_checkpoints))

    def _differ(self, name: Name, what: str) -> None:
        self.done._differ(self.thread_id, name, what)

    def _put(self, name: Name, found: CheckpointTuple, *, there: bool) -> Flow[None]:
        present = (yield from self._in_target(name)) if there else None
        differences = list(differences_of(self.target, found, present)) if present is not None else [""]
        if differences not in ([], ["pending writes"]):
            parent = _parent_of(found)
            config = _config(self.thread_id, name.namespace)
            if parent is not None:
                config = config_of(self.thread_id, name.namespace, parent.checkpoint_id)
            changed = yield from self._changed(found)
            yield from self.target._operations.put(
                self.target.serde, config, found.checkpoint, found.metadata or {}, changed
            )
            self.done.checkpoints += 1
        if not differences:
            self.done.present += 1
        elif found.pending_writes:
            yield from self._put_writes(name, found)
        self._note(name, found)

    def _changed(self, found: CheckpointTuple) -> Flow[dict[str, Any]]:
        """Returns the versions of the channels whose values the parent does not have."""
        versions = found.checkpoint["channel_versions"]
        parent = _parent_of(found)
        if parent is None:
            return dict(versions)
        if parent not in self.known:
            before = yield from self._in_source(parent)
            if before is None:
                return dict(versions)
            self._note(parent, before)
        known = self.known[parent]
        values = found.checkpoint["channel_values"]
        return {
            channel: version
            for channel, version in versions.items()
            if channel not in known.versions
            or known.versions[channel] != version
            or (channel in values and channel not in known.valued)
        }

    def _note(self, name: Name, found: CheckpointTuple) -> None:
        self.known.pop(name, None)
        while len(self.known) >= MOST_KNOWN:
            del self.known[next(iter(self.known))]
        checkpoint = found.checkpoint
        self.known[name] = _Known(dict(checkpoint["channel_versions"]), frozenset(checkpoint["channel_values"]))

    def _put_writes(self, name: Name, found: CheckpointTuple) -> Flow[None]:
        placed = yield from blocking(self.source.placed, self.thread, name, found)
        config = config_of(self.thread_id, name.namespace, name.checkpoint_id)
        for (task_id, path), some in _in_calls(placed):
            writes, indexes = [(one.channel, one.value) for one in some], [one.idx for one in some]
            yield from self.target._operations.put_writes(
                self.target.serde, config, writes, task_id, path, indexes=indexes
            )
            self.done.writes += len(writes)

    def compare(self) -> Flow[None]:
        """Compares the thread on both sides."""
        there = yield from self._names_in_target()
        extra = there.difference(self.names)
        for name in sorted(extra):
            self._differ(name, "is not in the source")
        left = set(self.names)
        for namespace in sorted({name.namespace for name in self.names}):
            yield from self._compare_lists(namespace, left, there)
            for name in sorted(name for name in left if name.namespace == namespace):
                yield from self._compare(name, (yield from self._in_source(name)), None, left)
            if not any(name.namespace == namespace for name in extra):
                yield from self._compare_latest(namespace)

    def _compare_lists(self, namespace: str, left: set[Name], there: set[Name]) -> Flow[None]:
        """Compares the lists of a namespace and their order, page by page."""
        ordered = not any(name.namespace == namespace for name in there.difference(self.names))
        before: Any = None
        while any(name.namespace == namespace for name in left):
            page = yield from self._page_of_source(namespace, before)
            found = {name: one for one in page if (name := _name_of(one)) in left}
            if not found:
                return
            there_too = yield from self._page_of_target(namespace, before, len(found))
            if list(there_too) != list(found):
                if ordered and there.issuperset(found):
                    self._differ(Name("", namespace), "list: checkpoints come in another order")
                ordered = False
            for name, one in found.items():
                yield from self._compare(name, one, there_too.get(name), left)
            before = page[-1].config

    def _page_of_source(self, namespace: str, before: Any) -> Flow[list[CheckpointTuple]]:
        config = _config(self.thread, namespace)
        return (yield from blocking(self.source.listed, config, keep=lambda one: one, before=before, limit=PAGE))

    def _page_of_target(self, namespace: str, before: Any, limit: int) -> Flow[dict[Name, CheckpointTuple]]:
        config = _config(self.thread_id, namespace)
        found = yield from collected(self.target._operations.list(self.target.serde, config, None, before, limit))
        return {_name_of(item): item for item in found}

    def _compare(
        self, name: Name, found: CheckpointTuple | None, other: CheckpointTuple | None, left: set[Name]
    ) -> Flow[None]:
        """Compares a checkpoint, which is read from the target if `other` is None."""
        if other is None:
            other = yield from self._in_target(name)
        left.discard(name)
        self.done.compared += 1
        if found is None:
            self._differ(name, "is in the source's list, but the source does not return it")
        elif other is None:
            self._differ(name, "is missing")
        else:
            for what in differences_of(self.target, found, other):
                self._differ(name, what)
        yield self._progress("compare", len(self.names) - len(left))

    def _compare_latest(self, namespace: str) -> Flow[None]:
        config = _config(self.thread, namespace)
        latest = yield from blocking(self.source.get_tuple, config)
        other = yield from self.target._operations.get_tuple(self.target.serde, _config(self.thread_id, namespace))
        if latest is None:
            return
        name = _name_of(latest)
        if other is None or _name_of(other) != name:
            instead = "nothing" if other is None else f"checkpoint {_name_of(other).checkpoint_id!r}"
            self._differ(name, f"is the latest in the source; the target has {instead}")
        else:
            for what in differences_of(self.target, latest, other):
                self._differ(name, f"read as the latest: {what}")


def _config(thread: Any, namespace: str) -> Any:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace}}


def _name_of(found: CheckpointTuple) -> Name:
    configurable = found.config["configurable"]
    return Name(configurable["checkpoint_id"], configurable.get("checkpoint_ns", ""))


def _parent_of(found: CheckpointTuple) -> Name | None:
    configurable = found.parent_config["configurable"] if found.parent_config else {}
    parent = configurable.get("checkpoint_id")
    return Name(parent, _name_of(found).namespace) if parent else None


def _in_calls(placed: Sequence[Placed]) -> Iterator[tuple[tuple[str, str], list[Placed]]]:
    """Yields the task and path of each call that puts writes, with its writes.

    Writes are read by path, task and index. If the source has another order and no paths, made-up paths keep its order.
    """
    by_task = sorted(placed, key=lambda one: (one.path or "", one.task_id, one.idx))
    if by_task == list(placed) or all(one.path is not None for one in placed):
        for (path, task_id), some in groupby(by_task, key=lambda one: (one.path or "", one.task_id)):
            yield (task_id, path), list(some)
        return
    number = 0
    run: list[Placed] = []
    for one in placed:
        if run and (one.task_id != run[-1].task_id or one.idx <= run[-1].idx):
            yield (run[0].task_id, f"~order, {number:010d}"), run
            number, run = number + 1, []
        run.append(one)
    yield (run[0].task_id, f"~order, {number:010d}"), run


def differences_of(target: RedisStreamSaver, found: CheckpointTuple, other: CheckpointTuple) -> Iterator[str]:
    """Yields the parts in which a checkpoint of the target differs from the source's."""
    mine, theirs = other.checkpoint, found.checkpoint
    yield from _values(target, theirs["channel_values"], mine["channel_values"], theirs["channel_versions"])
    for part, name in (("channel_versions", "versions"), ("versions_seen", "versions seen")):
        if not _same(target, theirs.get(part), mine.get(part)):
            yield name
    rest = {*theirs, *mine} - {"channel_values", "channel_versions", "versions_seen"}
    yield from (key for key in sorted(rest) if not _same(target, theirs.get(key), mine.get(key)))
    if not _same(target, dict(found.metadata or {}), dict(other.metadata)):
        yield "metadata"
    if _parent_of(found) != _parent_of(other):
        yield "parent"
    if not _same(target, *([list(one) for one in side.pending_writes or ()] for side in (found, other))):
        yield "pending writes"


def _values(target: RedisStreamSaver, theirs: Any, mine: Any, versions: Any) -> Iterable[str]:
    for channel in sorted({*theirs, *mine}):
        subject = f"value of channel {channel!r}"
        if channel not in theirs:
            # A saver that stores whole states has a delta channel's snapshot only in the checkpoint that made it. Other savers
            # return it while the channel's version stays. LangGraph reads the same state from both.
            if type(mine[channel]).__name__ != "_DeltaSnapshot":
                yield f"{subject}: the source has none"
        elif channel not in versions and channel not in mine:
            yield f"{subject}: the source has it under no version, so it cannot be stored"
        elif channel not in mine:
            yield f"{subject}: is missing"
        elif not _same(target, theirs[channel], mine[channel]):
            yield subject


def _same(target: RedisStreamSaver, one: Any, other: Any) -> bool:
    """Whether two values are equal, or the serializer writes them alike."""
    try:
        if bool(one == other):
            return True
    except Exception:  # noqa: BLE001, S110 - arrays, and others that do not compare # nosec B110
        pass
    try:
        return bool(target.serde.dumps_typed(one) == target.serde.dumps_typed(other))
    except EventLogError:
        raise
    except Exception:  # noqa: BLE001 - a value that cannot be written was not copied
        return False

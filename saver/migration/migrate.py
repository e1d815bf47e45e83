"""Threads from another saver: every checkpoint with its values, versions, metadata and pending writes; then both sides compared.

Checkpoints go oldest first and parents before children, one at a time, so that what is kept of each is what it changed. What is
there already and is the same is passed over: a migration that was cut short, or whose source went on, is
completed by running it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from eventlog.attribution import audit
from eventlog.errors import EventLogError, InvalidArgument
from saver.configs import thread_id_of
from saver.migration.ask import Ask, Listing, RunFlow, Work, aperform, perform
from saver.migration.sources import Name, Placed, Source, source_of
from saver.saver import RedisStreamSaver
from saver.translation import config_of

__all__ = ["Difference", "Migrated", "Progress", "acompare", "amigrate", "compare", "migrate"]

PAGE = 20
"""Checkpoints that are compared at once."""
MOST = 1000
"""Differences that are told one by one."""
REMEMBERED = 256
"""Checkpoints whose versions are kept, for those that come after them."""


class Difference(NamedTuple):
    """Something that the target answers otherwise than the source."""

    thread_id: str
    namespace: str
    checkpoint_id: str
    """Empty where it is not of one checkpoint."""
    what: str


class Progress(NamedTuple):
    """How far a migration is."""

    phase: str
    """"copy" or "compare"."""
    thread_id: str
    threads: int
    """Threads done, and of how many."""
    of: int
    checkpoints: int
    """Checkpoints of this thread done, and of how many."""
    of_checkpoints: int


@dataclass(slots=True)
class Migrated:
    """What a migration did and found."""

    threads: int = 0
    checkpoints: int = 0
    """Checkpoints that were put."""
    writes: int = 0
    """Pending writes that were put."""
    present: int = 0
    """Checkpoints that were there already, the same."""
    compared: int = 0
    """Checkpoints that were compared."""
    differing: int = 0
    """How many differences there are."""
    differences: list[Difference] = field(default_factory=list)
    """The first thousand of them."""

    @property
    def ok(self) -> bool:
        """Whether no difference was found."""
        return not self.differing

    def _differ(self, thread: str, name: Name, what: str) -> None:
        self.differing += 1
        if len(self.differences) < MOST:
            self.differences.append(Difference(thread, name.namespace, name.checkpoint_id, what))


Tell = Callable[[Progress], object]


def migrate(
    source: BaseCheckpointSaver[Any],
    target: RedisStreamSaver,
    *,
    threads: Sequence[str] | None = None,
    progress: Tell | None = None,
    verify: bool = True,
) -> Migrated:
    """Copies threads (None: all) of any saver into this project's, and with `verify` compares both sides afterwards.

    Run again, it completes what was cut short and brings what has come since; what is there and the same is left alone. Pending
    writes keep their tasks, indexes and, where the source has them, task paths. Of what a source does not keep nothing can come:
    writes whose checkpoint never came, and values it has under no version. `progress` is called after each checkpoint.

    Round trips: two to four per checkpoint, and two per 20 for the comparison. Memory: twenty checkpoints, and the ids of a thread.

    Raises:
        InvalidArgument: the source does not tell which threads it has, or the target is the source; name the threads.
        TypeError: the source has async methods only, see `amigrate`.
        EventLogError: what the target raises; and whatever the source raises.

    """
    with audit(migrated_from=type(source).__name__):
        return perform(_migrate(source, target, threads, progress or _nobody, copy=True, verify=verify))


async def amigrate(
    source: BaseCheckpointSaver[Any],
    target: RedisStreamSaver,
    *,
    threads: Sequence[str] | None = None,
    progress: Tell | None = None,
    verify: bool = True,
) -> Migrated:
    """Async twin of `migrate`, for sources of either colour."""
    async with audit(migrated_from=type(source).__name__):
        return await aperform(_migrate(source, target, threads, progress or _nobody, copy=True, verify=verify))


def compare(
    source: BaseCheckpointSaver[Any],
    target: RedisStreamSaver,
    *,
    threads: Sequence[str] | None = None,
    progress: Tell | None = None,
) -> Migrated:
    """Compares threads (None: all of the source) on both sides, and writes nothing. Raises as `migrate`.

    Of every checkpoint: values, versions and what nodes have seen, metadata, parent, pending writes in their order; of every
    namespace the order of `list` and the latest.
    """
    return perform(_migrate(source, target, threads, progress or _nobody, copy=False, verify=True))


async def acompare(
    source: BaseCheckpointSaver[Any],
    target: RedisStreamSaver,
    *,
    threads: Sequence[str] | None = None,
    progress: Tell | None = None,
) -> Migrated:
    """Async twin of `compare`."""
    return await aperform(_migrate(source, target, threads, progress or _nobody, copy=False, verify=True))


def _nobody(_: Progress) -> None:
    pass


def _migrate(
    source: BaseCheckpointSaver[Any],
    target: RedisStreamSaver,
    threads: Sequence[str] | None,
    progress: Tell,
    *,
    copy: bool,
    verify: bool,
) -> Work[Migrated]:
    if not isinstance(target, RedisStreamSaver):
        raise TypeError(f"target must be a RedisStreamSaver, not {type(target).__name__}.")
    if target is source:
        raise InvalidArgument("Source and target are the same saver; name another target.")
    if isinstance(threads, (str, bytes)):
        raise TypeError(f"threads must be a list of ids, not {type(threads).__name__}; pass [{threads!r}].")
    known = source_of(source)
    named = list((yield from known.threads()) if threads is None else dict.fromkeys(threads))
    done = Migrated()
    for number, thread in enumerate(named):
        move = _Move(known, target, thread, done, _Steps(progress, number, len(named)))
        names = yield from known.checkpoints(thread)
        names = sorted(names)
        if threads is not None and not names:
            raise InvalidArgument(f"The source has no thread {thread!r}. Check the id.")
        done.threads += 1
        if copy and (yield from move.is_other(names)):
            continue
        if copy:
            yield from move.copy(names)
        if verify:
            yield from move.compare(names)
    return done


class _Steps(NamedTuple):
    tell: Tell
    thread: int
    of: int

    def done(self, phase: str, thread_id: str, checkpoints: int, of: int) -> None:
        self.tell(Progress(phase, thread_id, self.thread + (checkpoints == of), self.of, checkpoints, of))


class _Held(NamedTuple):
    """What later checkpoints are compared with to tell what they changed."""

    versions: dict[str, Any]
    valued: frozenset[str]


class _Move:
    """One thread."""

    def __init__(self, source: Source, target: RedisStreamSaver, thread: Any, done: Migrated, steps: _Steps) -> None:
        self.source = source
        self.target = target
        self.thread = thread
        self.thread_id = thread_id_of(thread)
        self.done = done
        self.steps = steps
        self.held: dict[Name, _Held] = {}

    def is_other(self, names: Sequence[Name]) -> Work[bool]:
        """Whether the target has checkpoints of the thread that the source has not, which is told: two histories are not mixed."""
        there = set((yield from source_of(self.target).checkpoints(self.thread_id)))
        extra = there.difference(names)
        if extra:
            told = (
                f"has {len(extra)} checkpoints in the target that are not in the source, so nothing was copied to it: either it is "
                "another thread of the same id, or it went on there. Copy to another prefix, or delete it in the target first"
            )
            self.done._differ(self.thread_id, Name("", ""), told)
        return bool(extra)

    def copy(self, names: Sequence[Name]) -> Work[None]:
        """Puts what the target lacks, parents first."""
        there = set((yield from source_of(self.target).checkpoints(self.thread_id)))
        known, done = set(names), set[Name]()
        for name in names:
            waiting = [name]
            while waiting:
                at = waiting[-1]
                if at in done:
                    waiting.pop()
                    continue
                found = yield from self._read(self.source.saver, self.thread, at)
                parent = found and _parent_of(found)
                if parent in known and parent not in done and parent not in waiting:
                    waiting.append(parent)
                    continue
                if found is not None:
                    yield from self._put(at, found, there=at in there)
                done.add(waiting.pop())
                self.steps.done("copy", self.thread_id, len(done), len(names))

    def _read(self, saver: BaseCheckpointSaver[Any], thread: Any, name: Name) -> Work[CheckpointTuple | None]:
        found = yield Ask(saver, "get_tuple", [config_of(thread, name.namespace, name.checkpoint_id)])
        return found  # type: ignore[no-any-return]

    def _put(self, name: Name, found: CheckpointTuple, *, there: bool) -> Work[None]:
        present = (yield from self._read(self.target, self.thread_id, name)) if there else None
        differences = list(differences_of(self.target, found, present)) if present is not None else [""]
        if differences not in ([], ["pending writes"]):
            parent = _parent_of(found)
            config = _config(self.thread_id, name.namespace)
            if parent is not None:
                config = config_of(self.thread_id, name.namespace, parent.checkpoint_id)
            changed = yield from self._changed(found)
            yield Ask(self.target, "put", [config, found.checkpoint, found.metadata or {}, changed])
            self.done.checkpoints += 1
        if not differences:
            self.done.present += 1
        elif found.pending_writes:
            yield from self._put_writes(name, found)
        self._hold(name, found)

    def _changed(self, found: CheckpointTuple) -> Work[dict[str, Any]]:
        """Versions of the channels whose values are to be stored with a checkpoint: those that its parent did not bring."""
        versions = found.checkpoint["channel_versions"]
        parent = _parent_of(found)
        if parent is None:
            return dict(versions)
        if parent not in self.held:
            before = yield from self._read(self.source.saver, self.thread, parent)
            if before is None:
                return dict(versions)
            self._hold(parent, before)
        held = self.held[parent]
        values = found.checkpoint["channel_values"]
        return {
            channel: version
            for channel, version in versions.items()
            if channel not in held.versions
            or held.versions[channel] != version
            or (channel in values and channel not in held.valued)
        }

    def _hold(self, name: Name, found: CheckpointTuple) -> None:
        self.held.pop(name, None)
        while len(self.held) >= REMEMBERED:
            del self.held[next(iter(self.held))]
        checkpoint = found.checkpoint
        self.held[name] = _Held(dict(checkpoint["channel_versions"]), frozenset(checkpoint["channel_values"]))

    def _put_writes(self, name: Name, found: CheckpointTuple) -> Work[None]:
        placed = yield from self.source.placed(self.thread, name, found)
        config = config_of(self.thread_id, name.namespace, name.checkpoint_id)
        for (task_id, path), writes in _in_calls(placed):
            indexed, indexes = [(one.channel, one.value) for one in writes], [one.idx for one in writes]
            flow = self.target._operations.put_writes(
                self.target.serde, config, indexed, task_id, path, indexes=indexes
            )
            yield RunFlow(self.target, flow)
            self.done.writes += len(indexed)

    def compare(self, names: Sequence[Name]) -> Work[None]:
        """Holds what both sides answer against each other."""
        there = set((yield from source_of(self.target).checkpoints(self.thread_id)))
        for extra in sorted(there.difference(names)):
            self.done._differ(self.thread_id, extra, "is not in the source")
        for namespace in sorted({name.namespace for name in names}):
            yield from self._compare_namespace(
                namespace, [name for name in names if name.namespace == namespace], there
            )

    def _compare_namespace(self, namespace: str, names: Sequence[Name], there: set[Name]) -> Work[None]:
        left = set(names)
        extra = {name for name in there if name.namespace == namespace} - left
        ordered = not extra
        before: Any = None
        while left:
            page = yield Listing(self.source.saver, _config(self.thread, namespace), before, PAGE)
            fresh = [found for found in page if _name_of(found) in left]
            if not fresh:
                break
            mine = yield Listing(self.target, _config(self.thread_id, namespace), before, len(fresh))
            if [_name_of(found) for found in mine] != [_name_of(found) for found in fresh]:
                if ordered and not {*map(_name_of, fresh)} - there:
                    self.done._differ(self.thread_id, Name("", namespace), "list: checkpoints come in another order")
                ordered = False
            by_name = {_name_of(found): found for found in mine}
            for found in fresh:
                name = _name_of(found)
                other = by_name.get(name) or (yield from self._read(self.target, self.thread_id, name))
                self._hold_against(name, found, other, len(names), left)
            before = page[-1].config
        for name in sorted(left):
            found = yield from self._read(self.source.saver, self.thread, name)
            other = yield from self._read(self.target, self.thread_id, name)
            self._hold_against(name, found, other, len(names), left)
        latest = yield Ask(self.source.saver, "get_tuple", [_config(self.thread, namespace)])
        other = yield Ask(self.target, "get_tuple", [_config(self.thread_id, namespace)])
        if latest is not None and not extra:
            if other is None or _name_of(other) != _name_of(latest):
                told = "nothing" if other is None else f"checkpoint {_name_of(other).checkpoint_id!r}"
                self.done._differ(self.thread_id, _name_of(latest), f"is the latest in the source, here {told}")
            else:
                for what in differences_of(self.target, latest, other):
                    self.done._differ(self.thread_id, _name_of(latest), f"read as the latest: {what}")

    def _hold_against(
        self, name: Name, found: CheckpointTuple | None, other: CheckpointTuple | None, of: int, left: set[Name]
    ) -> None:
        left.discard(name)
        self.done.compared += 1
        if found is None:
            self.done._differ(self.thread_id, name, "the source lists it, and does not give it")
        elif other is None:
            self.done._differ(self.thread_id, name, "is missing")
        else:
            for what in differences_of(self.target, found, other):
                self.done._differ(self.thread_id, name, what)
        self.steps.done("compare", self.thread_id, of - len(left), of)


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
    """Task and path of each call that puts writes, so that they are read in the order given.

    Writes are read by path, task and index. Where the source keeps no paths and has them in another order, paths that say nothing
    but the order stand in for theirs.
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
    """In what a checkpoint of the target is otherwise than the source's."""
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
    if not _same(
        target, [list(one) for one in found.pending_writes or ()], [list(one) for one in other.pending_writes or ()]
    ):
        yield "pending writes"


def _values(target: RedisStreamSaver, theirs: Any, mine: Any, versions: Any) -> Iterable[str]:
    for channel in sorted({*theirs, *mine}):
        if channel not in theirs:
            # A saver that stores states whole has the snapshot of a delta channel where it was made alone; others have it as long
            # as the channel's version stays. Both are read as the same state.
            if type(mine[channel]).__name__ != "_DeltaSnapshot":
                yield f"value of channel {channel!r}: the source has none"
        elif channel not in versions and channel not in mine:
            yield f"value of channel {channel!r}: it has no version in the source, under which it could be stored"
        elif channel not in mine:
            yield f"value of channel {channel!r}: is missing"
        elif not _same(target, theirs[channel], mine[channel]):
            yield f"value of channel {channel!r}"


def _same(target: RedisStreamSaver, one: Any, other: Any) -> bool:
    """Whether two values are equal, or written in the same way where they cannot be compared."""
    try:
        if bool(one == other):
            return True
    except Exception:  # noqa: BLE001, S110 - arrays, and whatever else does not compare
        pass
    try:
        return bool(target.serde.dumps_typed(one) == target.serde.dumps_typed(other))
    except EventLogError:
        raise
    except Exception:  # noqa: BLE001 - what cannot be written was not brought over
        return False

"""A thread's events, one line each, with what each changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich.text import Text

from eventlog.codec import EMPTY, Keyframe, Malformed, decompressed, is_delta
from eventlog.events import (
    CheckpointSaved,
    HistoryPruned,
    Recorded,
    RunsDeleted,
    ThreadCopied,
    ValuesSaved,
    WritesSaved,
)
from projections.checkpoints.read import damaged
from projections.time_travel.moment import Moment, time_of
from projections.time_travel.past import Past, State
from projections.time_travel.replay import replay
from projections.values.pieces import assemble
from projections.values.stored import StoredCheckpoint
from saver.cli import output
from saver.cli.app import Options
from saver.cli.lines import Field, Lines
from saver.cli.shown import brief, change_line, change_object, plain_data
from saver.cli.tail import STYLES
from saver.cli.thread_log import ThreadLog
from saver.differences import Change, differences
from saver.nodes import NOTHING, SENDS, Known, nodes_of, targets, writer_of

__all__ = ["KINDS", "Row", "Shown", "rows_of"]

KINDS = ("checkpoint", "writes", "copied", "pruned", "runs_deleted")
INTERRUPT, ERROR = "__interrupt__", "__error__"
KEPT = 64
"""Checkpoints of which is remembered what their nodes had seen, and states to compare with."""
_WHO = ("actor", "reason", "trace_id", "span_id")
SIGN_STYLES = {"+": "green", "-": "red", "~": "yellow"}


@dataclass
class Row:
    """An event as it is shown."""

    recorded: Recorded
    namespace: str | None = None
    checkpoint_id: str | None = None
    parent_id: str | None = None
    step: Any = None
    source: Any = None
    nodes: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    interrupts: list[Any] = field(default_factory=list)
    errors: list[Any] = field(default_factory=list)
    told: str = ""
    """Of a removal or a copy: what it did."""
    audit: Mapping[str, Any] = field(default_factory=dict)
    changes: list[Change] | None = None
    """None where they are not asked for, or what was before is not there."""

    @property
    def kind(self) -> str:
        """What kind of event it is."""
        return self.recorded.event.kind.decode()

    def object(self) -> dict[str, Any]:
        """For programs."""
        told: dict[str, Any] = {
            "time": output.time_text(time_of(self.recorded.entry_id), local=False),
            "sequence": self.recorded.sequence,
            "id": self.recorded.entry_id.decode(),
            "kind": self.kind,
            "namespace": self.namespace,
            "checkpoint_id": self.checkpoint_id,
            "parent_id": self.parent_id,
            "step": plain_data(self.step),
            "source": plain_data(self.source),
            "nodes": self.nodes,
            "channels": self.channels,
            "marks": self.marks,
            "interrupts": plain_data(self.interrupts),
            "errors": plain_data(self.errors),
            "audit": plain_data(self.audit),
        }
        if self.told:
            told["what"] = self.told
        if self.changes is not None:
            told["changes"] = [change_object(one) for one in self.changes]
        return told

    def notes(self) -> str:
        """What is special about it, in a line."""
        parts = [f"fork of {self.parent_id}" if one == "fork" else one for one in self.marks]
        parts += [f"{name}={brief(self.audit[name], 60)}" for name in _WHO if name in self.audit]
        parts += [f"interrupt: {brief(_asked(one), 80)}" for one in self.interrupts]
        parts += [f"error: {brief(one, 80)}" for one in self.errors]
        parts += [f"{name}={brief(one, 60)}" for name, one in self.audit.items() if name not in _WHO]
        return "; ".join(part for part in (self.told, *parts) if part)


def _asked(interrupts: Any) -> Any:
    """What interrupts ask."""
    asked = (
        [getattr(one, "value", one) for one in interrupts] if isinstance(interrupts, (list, tuple)) else [interrupts]
    )
    return asked[0] if len(asked) == 1 else asked


def rows_of(
    log: ThreadLog,
    after: Moment | None,
    until: Moment | None,
    *,
    namespace: str | None = None,
    patch: bool = False,
    values: bool = True,
) -> Iterator[Row]:
    """The events of a thread. `patch`: with what each checkpoint changed of its parent. `values`: interrupts and errors too."""
    maker = _Rows(log, patch=patch, values=values)
    flow = replay(log.keys, after=after, until=until, namespace=namespace, states=patch, passed=maker.passed)
    for recorded, state in log.iterate(flow):
        row = maker.row(recorded, state)
        if not isinstance(recorded.event, ValuesSaved):
            yield row


class _Rows:
    """Makes rows of events in turn; remembers the last checkpoints."""

    def __init__(self, log: ThreadLog, *, patch: bool, values: bool) -> None:
        self._log = log
        self._patch = patch
        self._values = values
        self._known: OrderedDict[tuple[str, str], tuple[Known, str | None]] = OrderedDict()
        """By namespace and id of a checkpoint, without what its `Send`s start, and the version of these."""
        self._sent: OrderedDict[tuple[str, str], Callable[[], Sequence[str]]] = OrderedDict()
        """By namespace and that version, what finds out which nodes they start."""
        self._states: OrderedDict[tuple[str, str], StoredCheckpoint] = OrderedDict()
        self._latest: dict[str, tuple[str, str]] = {}
        """By namespace, the greatest id and the one put last."""
        self._past: Past | None = None
        self._sequence = 0
        self._all_seen = True
        """Whether every event so far was: else what is no fork may look like one."""

    def passed(self, recorded: Recorded) -> None:
        """Notes an event that is not shown, whose values were left out."""
        self._notice(recorded)
        event = recorded.event
        if isinstance(event, CheckpointSaved):
            self._note(recorded, event, self._log.values.metadata(event), whole=False)
            greatest, _ = self._latest.get(event.namespace, ("", ""))
            self._latest[event.namespace] = max(greatest, event.checkpoint_id), event.checkpoint_id

    def _notice(self, recorded: Recorded) -> None:
        self._all_seen = self._all_seen and recorded.sequence == self._sequence + 1
        self._sequence = recorded.sequence

    def row(self, recorded: Recorded, state: State) -> Row:
        event = recorded.event
        self._notice(recorded)
        row = Row(recorded)
        if not isinstance(event, ValuesSaved):
            row.audit = event.audit or {}
        if isinstance(event, CheckpointSaved):
            self._checkpoint(row, event, state)
        elif isinstance(event, WritesSaved):
            self._writes(row, event)
        elif isinstance(event, ThreadCopied):
            row.told = f"copied from {event.source!r}, up to its event {event.sequence}"
        elif isinstance(event, (HistoryPruned, RunsDeleted)):
            why = ", ".join(event.runs) if isinstance(event, RunsDeleted) else event.strategy
            row.told = f"{why}: {len(event.removed.dropped)} checkpoints"
        return row

    def _checkpoint(self, row: Row, event: CheckpointSaved, state: State) -> None:
        recorded = row.recorded
        metadata = self._log.values.metadata(event)
        row.namespace, row.checkpoint_id, row.parent_id = event.namespace, event.checkpoint_id, event.parent_id
        row.step, row.source = metadata.get("step"), metadata.get("source")
        row.channels = list(dict.fromkeys(channel for channel, _ in event.values))
        known = self._note(recorded, event, metadata, whole=True)
        before = NOTHING if event.parent_id is None else self._known_of(event.namespace, event.parent_id)
        row.nodes = nodes_of(known, row.source, before)
        greatest, last = self._latest.get(event.namespace, ("", ""))
        if event.checkpoint_id in (greatest, last):
            row.marks.append("overwrite")
        elif event.checkpoint_id < greatest:
            row.marks.append("late")
        is_other = last and event.parent_id not in (None, last) and "overwrite" not in row.marks
        if is_other and (self._all_seen or before is not None):
            row.marks.append("fork")
        self._latest[event.namespace] = max(greatest, event.checkpoint_id), event.checkpoint_id
        if self._patch:
            row.changes = self._changes(event, state)

    def _note(self, recorded: Recorded, event: CheckpointSaved, metadata: Mapping[str, Any], *, whole: bool) -> Known:
        """What is known of a checkpoint, from now on. `whole`: its values were not left out."""
        body, step = event.body.get("checkpoint"), metadata.get("step")
        seen = event.seen if event.seen is not None else body.get("versions_seen") if isinstance(body, dict) else None
        known = Known(seen if isinstance(seen, dict) else {}, step if type(step) is int else None, ())
        token = event.versions.get(SENDS)
        if token is not None and (piece := event.values.get((SENDS, token))) is not None:
            _remember(self._sent, (event.namespace, token), partial(self._sent_by, recorded, event, piece, whole=whole))
        _remember(self._known, (event.namespace, event.checkpoint_id), (known, token))
        return known

    def _known_of(self, namespace: str, checkpoint_id: str) -> Known | None:
        """What is known of a checkpoint. A fork may have the `Send`s of an earlier one."""
        known, token = self._known.get((namespace, checkpoint_id), (None, None))
        if known is None or token is None or not self._values:
            return known
        find = self._sent.get((namespace, token))
        if find is None:
            return known
        sends = find()
        _remember(self._sent, (namespace, token), lambda: sends)
        return known._replace(sends=sends)

    def _sent_by(self, recorded: Recorded, event: CheckpointSaved, piece: bytes, *, whole: bool) -> Sequence[str]:
        """The nodes that a checkpoint has `Send`s start, by number."""
        if piece == EMPTY:
            return ()
        if is_delta(piece) or not whole:
            found = self._read(event.namespace, event.checkpoint_id)
            value = None if found is None else found.values.get(SENDS)
        else:
            try:
                value = assemble([decompressed(piece)])
            except Malformed as error:
                raise damaged(self._log.keys, error, recorded.entry_id) from error
        return () if value is None else targets(self._log.values.one(SENDS, value))

    def _writes(self, row: Row, event: WritesSaved) -> None:
        row.namespace, row.checkpoint_id = event.namespace, event.checkpoint_id
        known = self._known_of(event.namespace, event.checkpoint_id)
        row.step = None if known is None or known.step is None else known.step + 1
        row.nodes = writer_of(event.task_path, known)
        row.channels = list(dict.fromkeys(write.channel for write in event.writes))
        for write in event.writes:
            kind = {INTERRUPT: row.interrupts, ERROR: row.errors}.get(write.channel)
            if kind is not None:
                kind.append(
                    self._log.values.one(write.channel, Keyframe(write.type, write.data)) if self._values else "..."
                )

    def _changes(self, event: CheckpointSaved, state: State) -> list[Change] | None:
        name = event.namespace, event.checkpoint_id
        after = state if isinstance(state, StoredCheckpoint) and state.checkpoint_id == name[1] else self._read(*name)
        if after is None:
            return None
        before = None
        if event.parent_id is not None:
            before = self._states.get((event.namespace, event.parent_id)) or self._read(
                event.namespace, event.parent_id
            )
            if before is None:
                _remember(self._states, name, after, 4)
                return None
        _remember(self._states, name, after, 4)
        return differences(*self._log.values.changed(before, after))

    def _read(self, namespace: str, checkpoint_id: str) -> StoredCheckpoint | None:
        """A checkpoint that is not at hand, as it is at the log's end."""
        if self._past is None:
            self._past = self._log.standing(tell=False)
        found = self._log.run(self._past.checkpoint(namespace, checkpoint_id))
        return found if isinstance(found, StoredCheckpoint) else None


def _remember(kept: OrderedDict[Any, Any], name: Any, what: Any, most: int = KEPT) -> None:
    kept[name] = what
    kept.move_to_end(name)
    if len(kept) > most:
        kept.popitem(last=False)


class Shown:
    """Writes rows."""

    def __init__(self, options: Options, *, full: bool = False) -> None:
        self._options = options
        self._full = full
        self._lines = Lines(
            [
                Field("time", 24),
                Field("number", 4, right=True),
                Field("kind", 10),
                Field("step", 2, right=True),
                Field("source", 6),
                Field("checkpoint", 36, cut=4, least=19),
                Field("nodes", 8, cut=3),
                Field("channels", 8, cut=1),
                Field("namespace", 8, cut=2),
                Field("notes", 8, cut=5),
            ]
        )

    def write(self, row: Row) -> None:
        """A line, and one for each change. Raises `ClosedPipe`."""
        if self._options.json:
            output.json_line(row.object())
            return
        time = output.time_text(time_of(row.recorded.entry_id), self._options.local)
        step = "" if row.step is None else str(row.step)
        source = "" if row.source is None else str(row.source)
        cells = [time, str(row.recorded.sequence), row.kind, step, source, row.checkpoint_id or ""]
        cells += [", ".join(row.nodes), ", ".join(row.channels), row.namespace or "", row.notes()]
        style = "red" if row.errors else "magenta" if row.interrupts else ""
        self._lines.write(cells, ["dim", "", STYLES.get(row.kind, ""), "", "", "dim", "bold", "", "dim", style])
        write_changes(row.changes or (), full=self._full)


def write_changes(changes: Any, *, full: bool, indent: str = "    ") -> None:
    """Differences, a line each, with a sign. Raises `ClosedPipe`."""
    for change in changes:
        told = output.plain(change_line(change, full=full))
        if output.has_colours():
            output.write(output.rendered(Text(indent + told, SIGN_STYLES[told[0]])))
        else:
            output.write(indent + told + "\n")

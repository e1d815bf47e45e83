"""The events of a thread, one row each, with the changes of each checkpoint."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

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
from eventlog.printable import word
from projections.checkpoints.read import damaged
from projections.time_travel.moment import Moment, time_of
from projections.time_travel.past import Past, State
from projections.time_travel.replay import replay
from projections.values.pieces import assemble
from projections.values.stored import StoredCheckpoint
from saver.cli import display, output
from saver.cli.app import Options
from saver.cli.display import Field, Lines, in_a_field, names_of
from saver.cli.output import plain_data, time_text
from saver.cli.thread_log import RIGHT, ThreadLog
from saver.differences import Change, differences
from saver.nodes import NOTHING, SENDS, Known, nodes_of, targets, writer_of

__all__ = ["KINDS", "Row", "RowWriter", "rows_of", "stamps_object"]

KINDS = ("checkpoint", "writes", "copied", "pruned", "runs_deleted")
INTERRUPT, ERROR = "__interrupt__", "__error__"
KEPT = 64
"""Checkpoints whose nodes' versions are remembered."""
STATES_KEPT = 4
"""States that are remembered to compare the next ones with."""
_STAMPS = ("actor", "actor_source", "reason", "reason_source", "trace_id", "span_id")
"""Stamps that are shown first."""


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
    effect: str = ""
    """The effect of a removal or a copy."""
    audit: Mapping[str, Any] = field(default_factory=dict)
    changes: list[Change] | None = None
    """None where they are not asked for, or the state before is missing."""
    signature: str = ""
    """With a key, RIGHT or the problem with the event's signature."""

    @property
    def kind(self) -> str:
        """The kind of the event."""
        return self.recorded.event.kind.decode()

    def object(self) -> dict[str, Any]:
        """The row as JSON has it."""
        found: dict[str, Any] = {
            "time": time_of(self.recorded.entry_id),
            "sequence": self.recorded.sequence,
            "id": self.recorded.entry_id.decode(),
            "kind": self.kind,
            "namespace": self.namespace,
            "checkpoint_id": self.checkpoint_id,
            "parent_id": self.parent_id,
        }
        for name in ("step", "source", "nodes", "channels", "marks", "interrupts", "errors"):
            found[name] = plain_data(getattr(self, name))
        found["audit"] = stamps_object(self.audit)
        if self.effect:
            found["what"] = self.effect
        if self.signature:
            found["signature"] = self.signature
        if self.changes is not None:
            found["changes"] = [output.change_object(one) for one in self.changes]
        return found

    def notes(self) -> str:
        """Marks, stamps, interrupts and errors in a line."""
        parts = [f"fork of {word(self.parent_id or '', ';')}" if one == "fork" else one for one in self.marks]
        parts += [_stamp(name, self.audit[name]) for name in _STAMPS if name in self.audit]
        parts += [f"interrupt: {in_a_field(_questions(one), 80)}" for one in self.interrupts]
        parts += [f"error: {in_a_field(one, 80)}" for one in self.errors]
        parts += [_stamp(name, one) for name, one in self.audit.items() if name not in _STAMPS]
        wrong = f"signature: {self.signature}" if self.signature not in ("", RIGHT) else ""
        return "; ".join(part for part in (wrong, self.effect, *parts) if part)


def _stamp(name: str, value: Any) -> str:
    return f"{word(name, '=;')}={in_a_field(value, 60)}"


def stamps_object(stamps: Mapping[str, Any]) -> Any:
    """Stamps as JSON has them, with the source of the actor: "audit" for a block, or "metadata"."""
    source = {"actor_source": stamps.get("actor_source", "audit")} if "actor" in stamps else {}
    return plain_data({**stamps, **source})


def _questions(interrupts: Any) -> Any:
    """The values of interrupts: of a single one, or a list."""
    if not isinstance(interrupts, (list, tuple)):
        return interrupts
    found = [getattr(one, "value", one) for one in interrupts]
    return found[0] if len(found) == 1 else found


def rows_of(
    log: ThreadLog,
    after: Moment | None,
    until: Moment | None,
    *,
    namespace: str | None = None,
    patch: bool = False,
    values: bool = True,
) -> Iterator[Row]:
    """The events of a thread between two moments.

    With `patch`, a checkpoint has its changes against its parent. Without `values`, no value is deserialized.
    """
    maker = _Rows(log, patch=patch, values=values)
    flow = replay(log.keys, after=after, until=until, namespace=namespace, states=patch, passed=maker.passed)
    for recorded, state in log.iterate(flow):
        row = maker.row(recorded, state)
        if not isinstance(recorded.event, ValuesSaved):
            yield row


class _Rows:
    """Makes rows of events in turn, and remembers the last checkpoints."""

    def __init__(self, log: ThreadLog, *, patch: bool, values: bool) -> None:
        self._log = log
        self._patch = patch
        self._values = values
        self._known: OrderedDict[tuple[str, str], tuple[Known, str | None]] = OrderedDict()
        """By namespace and id: what is known of a checkpoint, and its sends' version key."""
        self._sent: OrderedDict[tuple[str, str], Callable[[], Sequence[str]]] = OrderedDict()
        """By namespace and that version key: a function that finds the nodes they start."""
        self._states: OrderedDict[tuple[str, str], StoredCheckpoint] = OrderedDict()
        self._latest: dict[str, tuple[str, str]] = {}
        """By namespace: the greatest id, and the id that was put last."""
        self._past: Past | None = None
        self._sequence = 0
        self._all_seen = True
        """Whether no event was missing; after one, any checkpoint may look like a fork."""

    def passed(self, recorded: Recorded) -> None:
        """Note an event that is not shown, whose values were left out."""
        self._notice(recorded)
        event = recorded.event
        if isinstance(event, CheckpointSaved):
            self._note(recorded, event, self._log.values.metadata(event), whole=False)

    def row(self, recorded: Recorded, state: State) -> Row:
        """The row of the next event, and of the state after it if changes are wanted."""
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
            row.effect = f"copied from {event.source!r}, up to its event {event.sequence}"
        elif isinstance(event, (HistoryPruned, RunsDeleted)):
            why = ", ".join(
                word(one, ",:;") for one in (event.runs if isinstance(event, RunsDeleted) else [event.strategy])
            )
            row.effect = f"{why}: {len(event.removed.dropped)} checkpoints"
        return row

    def _notice(self, recorded: Recorded) -> None:
        self._all_seen = self._all_seen and recorded.sequence == self._sequence + 1
        self._sequence = recorded.sequence

    def _checkpoint(self, row: Row, event: CheckpointSaved, state: State) -> None:
        metadata = self._log.values.metadata(event)
        row.namespace, row.checkpoint_id, row.parent_id = event.namespace, event.checkpoint_id, event.parent_id
        row.step, row.source = metadata.get("step"), metadata.get("source")
        row.channels = list(dict.fromkeys(channel for channel, _ in event.values))
        greatest, last = self._latest.get(event.namespace, ("", ""))
        known = self._note(row.recorded, event, metadata, whole=True)
        before = NOTHING if event.parent_id is None else self._known_of(event.namespace, event.parent_id)
        row.nodes = nodes_of(known, row.source, before)
        if event.checkpoint_id in (greatest, last):
            row.marks.append("overwrite")
        elif event.checkpoint_id < greatest:
            row.marks.append("late")
        is_other = last and event.parent_id not in (None, last) and "overwrite" not in row.marks
        if is_other and (self._all_seen or before is not None):
            row.marks.append("fork")
        if self._patch:
            row.changes = self._changes(event, state)

    def _note(self, recorded: Recorded, event: CheckpointSaved, metadata: Mapping[str, Any], *, whole: bool) -> Known:
        """Remember a checkpoint; `whole` says whether its values are there."""
        body, step = event.body.get("checkpoint"), metadata.get("step")
        seen = event.seen if event.seen is not None else body.get("versions_seen") if isinstance(body, dict) else None
        known = Known(seen if isinstance(seen, dict) else {}, step if type(step) is int else None, ())
        version_key = event.versions.get(SENDS)
        if version_key is not None and (piece := event.values.get((SENDS, version_key))) is not None:
            find = partial(self._sent_by, recorded, event, piece, whole=whole)
            _remember(self._sent, (event.namespace, version_key), find)
        _remember(self._known, (event.namespace, event.checkpoint_id), (known, version_key))
        greatest, _ = self._latest.get(event.namespace, ("", ""))
        self._latest[event.namespace] = max(greatest, event.checkpoint_id), event.checkpoint_id
        return known

    def _known_of(self, namespace: str, checkpoint_id: str) -> Known | None:
        """What is known of a checkpoint; a fork may have the sends of an earlier one."""
        known, version_key = self._known.get((namespace, checkpoint_id), (None, None))
        if known is None or version_key is None or not self._values:
            return known
        find = self._sent.get((namespace, version_key))
        if find is None:
            return known
        sends = find()
        _remember(self._sent, (namespace, version_key), lambda: sends)
        return known._replace(sends=sends)

    def _sent_by(self, recorded: Recorded, event: CheckpointSaved, piece: bytes, *, whole: bool) -> Sequence[str]:
        """The nodes that the sends of a checkpoint start, by number."""
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
            shown = {INTERRUPT: row.interrupts, ERROR: row.errors}.get(write.channel)
            if shown is not None:
                value = Keyframe(write.type, write.data)
                shown.append(self._log.values.one(write.channel, value) if self._values else "...")

    def _changes(self, event: CheckpointSaved, state: State) -> list[Change] | None:
        name = event.namespace, event.checkpoint_id
        after = state if isinstance(state, StoredCheckpoint) and state.checkpoint_id == name[1] else self._read(*name)
        if after is None:
            return None
        before = None
        if event.parent_id is not None:
            parent = event.namespace, event.parent_id
            before = self._states.get(parent) or self._read(*parent)
        _remember(self._states, name, after, STATES_KEPT)
        if before is None and event.parent_id is not None:
            return None
        return differences(*self._log.values.changed(before, after))

    def _read(self, namespace: str, checkpoint_id: str) -> StoredCheckpoint | None:
        """A checkpoint as it is at the end of the log."""
        if self._past is None:
            self._past = self._log.readable_past(report=False)
        found = self._log.run(self._past.checkpoint(namespace, checkpoint_id))
        return found if isinstance(found, StoredCheckpoint) else None


def _remember(kept: OrderedDict[Any, Any], name: Any, what: Any, most: int = KEPT) -> None:
    kept[name] = what
    kept.move_to_end(name)
    if len(kept) > most:
        kept.popitem(last=False)


class RowWriter:
    """Writes rows in columns, or as JSON."""

    def __init__(self, options: Options, *, full: bool = False) -> None:
        self._options = options
        self._full = full
        self._lines = Lines(
            [
                Field("time", 24, style="dim"),
                Field("number", 4, right=True),
                Field("kind", 10),
                Field("step", 2, right=True),
                Field("source", 6),
                Field("checkpoint", 36, cut=4, least=19, style="dim"),
                Field("nodes", 8, cut=3, style="bold"),
                Field("channels", 8, cut=1),
                Field("namespace", 8, cut=2, style="dim"),
                Field("notes", 8, cut=5),
            ]
        )

    def write(self, row: Row) -> None:
        """Write a line, and one for each change."""
        if self._options.json:
            output.json_line(row.object())
            return
        time = time_text(time_of(row.recorded.entry_id), local=self._options.local)
        step = "" if row.step is None else word(str(row.step))
        source = "" if row.source is None else word(str(row.source))
        cells = [time, str(row.recorded.sequence), row.kind, step, source, word(row.checkpoint_id or "")]
        cells += [names_of(row.nodes), names_of(row.channels), word(row.namespace or ""), row.notes()]
        wrong = row.errors or row.signature not in ("", RIGHT)
        notes = "red" if wrong else "magenta" if row.interrupts else ""
        self._lines.write(cells, kind=display.KIND_STYLES.get(row.kind, ""), notes=notes)
        display.write_changes(row.changes or (), full=self._full)

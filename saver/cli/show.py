"""`agentlog show`: the state of a thread, now, as of a moment, or of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from eventlog.codec import Keyframe
from eventlog.errors import EventGone
from eventlog.events import CheckpointSaved
from projections.time_travel.cursor import Cursor
from projections.time_travel.moment import FORMS, Moment, time_of
from projections.time_travel.past import Unavailable
from projections.values.stored import StoredCheckpoint
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.output import BadInput
from saver.cli.shown import brief, lines_of, plain_data
from saver.cli.thread_log import STATE, Full, Namespace, NoValues, ThreadLog, ThreadName, opened, typed_moment

__all__ = ["show"]


@command(
    "agentlog show 42",
    "agentlog show 42 1f0c8a2e --full",
    "agentlog show 42 --at 2026-01-31T12:00:00Z",
    "agentlog show 42 --at 17 --json | jq .values",
)
def show(
    options: Options,
    thread: ThreadName,
    checkpoint: Annotated[
        str | None,
        typer.Argument(metavar="[CHECKPOINT]", help=STATE, show_default=False),
    ] = None,
    *,
    namespace: Namespace = "",
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="MOMENT", help=f"As of here: {FORMS}."),
    ] = None,
    full: Full = False,
    no_values: NoValues = False,
) -> int:
    """Shows a thread's state.

    Values, pending writes, metadata and who saved it: of the latest checkpoint, of the one named, or of the one that was the
    latest at a moment. Exit code 1 if there is none, 3 if the log was altered up to there. Writes nothing.
    """
    if checkpoint is not None and at is not None:
        raise BadInput("which state? Pass either CHECKPOINT or --at.")
    when = None if at is None else typed_moment(at, options, "--at", thread)
    with opened(options, thread) as log:
        stored = _stored(log, namespace or "", checkpoint, when)
        if stored is None:
            output.complain(
                f"thread {thread!r} has no checkpoint" + (f" in namespace {namespace!r}" if namespace else "")
            )
            return 1
        audit = _audit(log, stored)
        if options.json:
            output.json_line(_object(log, stored, audit, values=not no_values))
        else:
            for line in _lines(log, stored, audit, options, full=full, values=not no_values):
                output.line(line)
        latest = checkpoint is None and when is None
        return 0 if log.is_whole(None if latest else stored.entry_id) else 3


def _stored(log: ThreadLog, namespace: str, checkpoint: str | None, when: Moment | None) -> StoredCheckpoint | None:
    if when is not None:
        return log.as_of(namespace, when)
    if checkpoint is not None:
        return log.named(log.standing(), namespace, checkpoint)
    past = log.now()
    found = log.run(past.state(namespace))
    if isinstance(found, Unavailable):
        raise EventGone(found.message, found.reason)
    return found


def _audit(log: ThreadLog, stored: StoredCheckpoint) -> dict[str, Any]:
    """Who saved a checkpoint."""
    (entry,) = log.run(_entry(log, stored.entry_id))
    event = entry.event
    return dict(event.audit or {}) if isinstance(event, CheckpointSaved) else {}


def _entry(log: ThreadLog, entry_id: bytes) -> Any:
    before = b"%d-0" % (int(entry_id.partition(b"-")[0]) - 1)
    events, _ = yield from Cursor(log.keys).page(before, 1)
    return events


def _metadata(log: ThreadLog, stored: StoredCheckpoint) -> Any:
    event = CheckpointSaved(stored.namespace, stored.checkpoint_id, stored.parent_id, {}, stored.body)
    return log.values.metadata(event)


def _writes(log: ThreadLog, stored: StoredCheckpoint, *, values: bool) -> Iterator[tuple[str, str, str, Any]]:
    for path, task, write in stored.writes:
        value = log.values.one(write.channel, Keyframe(write.type, write.data)) if values else None
        yield task, path, write.channel, value


def _object(log: ThreadLog, stored: StoredCheckpoint, audit: dict[str, Any], *, values: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "thread_id": log.thread,
        "namespace": stored.namespace,
        "checkpoint_id": stored.checkpoint_id,
        "parent_id": stored.parent_id,
        "id": stored.entry_id.decode(),
        "time": output.time_text(time_of(stored.entry_id), local=False),
        "metadata": plain_data(_metadata(log, stored)),
        "audit": plain_data(audit),
    }
    if values:
        told["values"] = plain_data(log.values.all(stored))
    writes = []
    for task, path, channel, value in _writes(log, stored, values=values):
        write = {"task_id": task, "task_path": path, "channel": channel}
        writes.append({**write, "value": plain_data(value)} if values else write)
    return {**told, "writes": writes}


def _lines(
    log: ThreadLog, stored: StoredCheckpoint, audit: dict[str, Any], options: Options, *, full: bool, values: bool
) -> Iterator[str]:
    yield f"checkpoint  {stored.checkpoint_id}"
    if stored.namespace:
        yield f"namespace   {stored.namespace}"
    yield f"parent      {stored.parent_id or '-'}"
    yield f"saved       {output.time_text(time_of(stored.entry_id), options.local)}  entry {stored.entry_id.decode()}"
    for name, value in _metadata(log, stored).items():
        if value not in (None, {}, []):
            yield f"{name:<11} {brief(value)}"
    for name, value in audit.items():
        yield f"{name:<11} {brief(value)}"
    yield ""
    for channel, held in stored.values.items():
        if values:
            yield from lines_of(channel, log.values.one(channel, held), full=full)
        else:
            yield f"{channel}: <{held.type}, {len(held.data)} B>"
    if stored.writes:
        yield ""
        yield f"pending writes ({len(stored.writes)})"
        for task, _, channel, value in _writes(log, stored, values=values):
            told = f": {brief(value, None if full else 160)}" if values else ""
            yield f"  {task[:8]} {channel}{told}"

"""`agentlog show` shows a state of a thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from eventlog.codec import Keyframe
from eventlog.errors import EventGone
from eventlog.events import CheckpointSaved
from eventlog.printable import word
from projections.time_travel.cursor import Cursor
from projections.time_travel.moment import FORMS, Moment, time_of
from projections.time_travel.past import Unavailable
from projections.values.stored import StoredCheckpoint
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.arguments import STATE, AcceptPlaintext, Full, Namespace, NoValues, ThreadName, typed_moment
from saver.cli.display import MOST, brief, value_lines
from saver.cli.key_files import KeyFiles, signer_of
from saver.cli.output import BadInput, plain_data, time_text
from saver.cli.thread_log import ThreadLog, opened
from saver.cli.timeline import stamps_object

__all__ = ["show"]

LINES = {"checkpoint", "namespace", "parent", "saved", "stamps"}
"""Lines that are not of the metadata."""


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
        typer.Option("--at", metavar="MOMENT", help=f"The state as of this moment: {FORMS}."),
    ] = None,
    full: Full = False,
    no_values: NoValues = False,
    accept_plaintext: AcceptPlaintext = False,
    key_file: KeyFiles = None,
) -> int:
    """Shows a state of a thread.

    It shows values, pending writes, metadata and stamps: of the latest checkpoint, of the named one, or of the latest
    one as of a moment. Exit code 1 if there is none, 3 if the log was altered up to there, with the checkpoint's pending
    writes. It writes nothing.

    With a key it refuses a state if anything up to there is not signed as it should be: exit code 1.
    """
    if checkpoint is not None and at is not None:
        raise BadInput("which state? Pass either CHECKPOINT or --at.")
    when = typed_moment(options, at, "--at", thread)
    with opened(options, thread, signer_of(key_file), accept_plaintext=accept_plaintext) as log:
        stored = _stored(log, namespace or "", checkpoint, when)
        if stored is None:
            output.complain(
                f"thread {thread!r} has no checkpoint" + (f" in namespace {namespace!r}" if namespace else "")
            )
            return 1
        latest = checkpoint is None and when is None
        if checkpoint is not None and not stored.checkpoint_id.startswith(checkpoint):
            when = typed_moment(options, checkpoint, "CHECKPOINT", thread)  # its pending writes may be later than it
        end = None if latest else when or log.end_of_writes(stored)
        log.require_signed(end)
        shown = _Shown(log, stored, values=not no_values)
        if options.json:
            output.json_line(shown.object())
        else:
            for line in shown.lines(local=options.local, full=full):
                output.line(line)
        return 0 if log.is_whole(end) else 3


def _stored(log: ThreadLog, namespace: str, checkpoint: str | None, when: Moment | None) -> StoredCheckpoint | None:
    if when is not None:
        return log.as_of(namespace, when)
    if checkpoint is not None:
        return log.named(log.readable_past(), namespace, checkpoint)
    found = log.run(log.past().state(namespace))
    if isinstance(found, Unavailable):
        raise EventGone(found.message, found.reason)
    return found


class _Shown:
    """A checkpoint with its metadata, stamps and pending writes."""

    def __init__(self, log: ThreadLog, stored: StoredCheckpoint, *, values: bool) -> None:
        self._log = log
        self._stored = stored
        self._values = values
        self._time = time_of(stored.entry_id)
        event = CheckpointSaved(stored.namespace, stored.checkpoint_id, stored.parent_id, {}, stored.body)
        self._metadata = log.values.metadata(event)
        (entry,) = log.run(_entry(log, stored.entry_id))
        saved = entry.event
        self._stamps = dict(saved.audit or {}) if isinstance(saved, CheckpointSaved) else {}

    def object(self) -> dict[str, Any]:
        """The checkpoint as JSON has it."""
        stored = self._stored
        found: dict[str, Any] = {
            "thread_id": self._log.thread,
            "namespace": stored.namespace,
            "checkpoint_id": stored.checkpoint_id,
            "parent_id": stored.parent_id,
            "id": stored.entry_id.decode(),
            "time": self._time,
            "metadata": plain_data(self._metadata),
            "audit": stamps_object(self._stamps),
            **self._log.mark(),
        }
        if self._values:
            found["values"] = plain_data(self._log.values.all(stored))
        writes = []
        for task, path, channel, value in self._writes():
            write = {"task_id": task, "task_path": path, "channel": channel}
            writes.append({**write, "value": plain_data(value)} if self._values else write)
        return {**found, "writes": writes}

    def lines(self, *, local: bool, full: bool) -> Iterator[str]:
        """The checkpoint for people."""
        stored = self._stored
        yield f"checkpoint  {word(stored.checkpoint_id)}"
        if stored.namespace:
            yield f"namespace   {word(stored.namespace)}"
        yield f"parent      {word(stored.parent_id or '') or '-'}"
        yield f"saved       {time_text(self._time, local=local)}  entry {stored.entry_id.decode()}"
        for name, value in self._metadata.items():
            if value not in (None, {}, []):
                yield f"{word(f'metadata.{name}' if name in LINES else name):<11} {brief(value)}"
        if self._stamps:
            yield "stamps"
        for name, value in self._stamps.items():
            yield f"  {word(name):<9} {brief(value)}"
        yield ""
        for channel, kept in stored.values.items():
            if self._values:
                yield from value_lines(channel, self._log.values.one(channel, kept), full=full)
            else:
                yield f"{word(channel)}: <{kept.type}, {len(kept.data)} B>"
        if stored.writes:
            yield ""
            yield f"pending writes ({len(stored.writes)})"
            for task, _, channel, value in self._writes():
                text = f": {brief(value, None if full else MOST)}" if self._values else ""
                yield f"  {word(task[:8])} {word(channel)}{text}"

    def _writes(self) -> Iterator[tuple[str, str, str, Any]]:
        """Task, path, channel and value of each pending write."""
        for path, task, write in self._stored.writes:
            value = Keyframe(write.type, write.data)
            yield task, path, write.channel, self._log.values.one(write.channel, value) if self._values else None


def _entry(log: ThreadLog, entry_id: bytes) -> Any:
    """The flow that reads one entry."""
    before = b"%d-0" % (int(entry_id.partition(b"-")[0]) - 1)
    events, _ = yield from Cursor(log.keys).page(before, 1)
    return events

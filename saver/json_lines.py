"""Writes the log of a thread as one JSON object a line, with whole values.

    thread, id, sequence, digest, time, kind     of every event
    namespace, checkpoint_id, parent_id, ...     the fields of the event; its envelope is `envelope`
    values    by channel: version, type, bytes (base64), or instead of the last two `value`, deserialized
    writes    a list: index, channel, and the same
    damaged   for an entry that is not an event: the reason; `fields` has its names and values (base64)

This is a view of a log, which cannot be imported. `projections.transfer.export` writes files that can.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timezone
from math import isfinite
from typing import Any

from eventlog.codec import Keyframe
from eventlog.errors import CorruptEntry, ValueUnreadable
from eventlog.events import CheckpointSaved, Recorded, ValuesSaved, WritesSaved, decode_entry, entry_ms
from eventlog.flow import Flow, blocking
from eventlog.keys import Keyspace
from projections.time_travel.states import States
from projections.transfer.export import Exported, export_to
from projections.transfer.files import Name, PartFile, WrittenThread
from projections.transfer.format import Entry, ThreadHead
from projections.values.pieces import StoredValue
from saver.translation import Translator

__all__ = ["export_lines", "plain_data"]

_BESIDE = ("values", "writes", "body", "idempotency_key", "check", "base", "parts", "seals")


def export_lines(
    keyspace: Keyspace,
    threads: Sequence[str] | None,
    path: Name,
    *,
    translator: Translator | None,
    overwrite: bool,
    damaged: bool = False,
) -> Flow[Exported]:
    """Writes the events of threads, or of all threads, to a file.

    Emits the work on the file, and `Progress`. `translator` deserializes values; None leaves them as they are.

    A damaged log is an error if its thread is named, and is otherwise left out and reported. With `damaged` such
    logs are written as they are: an entry that is not an event has `damaged`, the reason, and its `fields`.

    Reads only. Memory: a page, and 32 MiB of values. Raises `ValueUnreadable`, and as
    `projections.transfer.export.export_to`.
    """
    file = _LinesFile(keyspace, translator, path, overwrite=overwrite, damaged=damaged)
    return (yield from export_to(file, keyspace, threads, damaged=damaged))


class _LinesFile(PartFile):
    """A file of lines that is being written."""

    def __init__(
        self, keyspace: Keyspace, translator: Translator | None, path: Name, *, overwrite: bool, damaged: bool
    ) -> None:
        super().__init__(path, overwrite=overwrite, resume=False)
        self._keyspace = keyspace
        self._translator = translator
        self._damaged = damaged
        self._size = self._whole = 0
        """Bytes of the file, and of its whole threads."""
        self._thread = ""
        self._states: States

    def open_written(self) -> list[WrittenThread]:
        self.open_part()
        return []

    def resume(self, kept: Sequence[WrittenThread]) -> None:  # noqa: ARG002
        self.cut(0)

    def begin(self, head: ThreadHead) -> None:
        self._thread = head.thread
        self._states = States(self._keyspace.thread(head.thread.encode()))

    def entries(self, entries: Sequence[Entry]) -> Flow[None]:
        lines = []
        for entry in entries:
            shown = yield from self._entry(entry)
            lines.append(json.dumps(shown, allow_nan=False).encode() + b"\n")
        data = b"".join(lines)
        yield from blocking(self.write, data)
        self._size += len(data)

    def end(self) -> None:
        self._whole = self._size

    def undo(self) -> None:
        self._size = self._whole
        self.cut(self._size)

    def _entry(self, entry: Entry) -> Flow[dict[str, Any]]:
        try:
            return (yield from self._object(decode_entry(self._thread, *entry)))
        except RecursionError as error:
            entry_id = entry.entry_id.decode(errors="replace")
            raise ValueUnreadable(
                f"Thread {self._thread!r}, entry {entry_id}: it holds values that are nested too deep for lines of JSON. Export "
                "it without --jsonl."
            ) from error
        except CorruptEntry as error:
            if not self._damaged:
                raise
            pairs = zip(entry.fields[::2], entry.fields[1::2], strict=False)
            found = [[name.decode(errors="backslashreplace"), b64encode(value).decode()] for name, value in pairs]
            entry_id = entry.entry_id.decode(errors="backslashreplace")
            return {"thread": self._thread, "id": entry_id, "damaged": str(error), "fields": found}

    def _object(self, recorded: Recorded) -> Flow[dict[str, Any]]:
        entry_id, event = recorded.entry_id, recorded.event
        when = datetime.fromtimestamp(entry_ms(entry_id) / 1000, timezone.utc)
        shown: dict[str, Any] = {
            "thread": self._thread,
            "id": entry_id.decode(),
            "sequence": recorded.sequence,
            "digest": recorded.digest.decode(),
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "kind": event.kind.decode(),
        }
        for one in fields(event):
            if one.name not in _BESIDE and getattr(event, one.name) is not None:
                shown[one.name] = plain_data(getattr(event, one.name))
        if isinstance(event, CheckpointSaved):
            shown["envelope"] = plain_data(self._envelope(event))
            if event.base is not None:
                shown["versions_since"] = event.base[0].decode()
        if isinstance(event, (CheckpointSaved, ValuesSaved)):
            shown["values"] = {}
            self._states.offer(recorded)
            for channel, version in event.values:
                value = yield from self._states.value((entry_id, channel, version))
                shown["values"][channel] = {"version": version, **self._shown(channel, value)}
        if isinstance(event, WritesSaved):
            shown["writes"] = [
                {"index": idx, "channel": channel, **self._shown(channel, Keyframe(type_, data))}
                for idx, channel, type_, data in event.writes
            ]
        return shown

    def _envelope(self, event: CheckpointSaved) -> Mapping[str, Any]:
        if self._translator is None:
            return event.body
        return {
            **event.body,
            "metadata": self._translator.stored_metadata(self._thread, event.checkpoint_id, event.body),
        }

    def _shown(self, channel: str, value: StoredValue | Keyframe | None) -> dict[str, Any]:
        if value is None:
            return {"type": None}
        if self._translator is None:
            return {"type": value.type, "bytes": b64encode(value.data).decode()}
        return {"type": value.type, "value": plain_data(self._translator.value(self._thread, channel, value))}


def plain_data(value: Any) -> Any:
    """Returns a value as data that JSON can hold.

    Bytes become base64, and an object of any other type its fields or its `repr`.
    """
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else repr(value)
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else repr(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_data(item) for item in value]
    if callable(as_plain := getattr(value, "as_plain", None)):
        return plain_data(as_plain())
    if callable(dump := getattr(value, "model_dump", None)):
        return plain_data(dump())
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain_data(getattr(value, one.name)) for one in fields(value)}
    return repr(value)

"""The log as scripts/demo reads and shows it: the raw stream of one thread, decoded entry by entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from eventlog import CheckpointSaved, Connections, Keyspace, Recorded, Runner, ValuesSaved, WritesSaved
from eventlog.events import decode_entry
from eventlog.flow import Command, Flow
from eventlog.keys import PARTITIONS, PREFIX

__all__ = ["Entry", "ThreadLog", "entry_table", "finished_tasks"]


@dataclass(frozen=True)
class Entry:
    """An entry of the stream: its bytes, and the event they hold."""

    fields: tuple[bytes, ...]
    recorded: Recorded

    @property
    def size(self) -> int:
        """Bytes of all fields."""
        return sum(map(len, self.fields))

    @property
    def place(self) -> tuple[str, str] | None:
        """Namespace and id of the checkpoint it is about."""
        event = self.recorded.event
        if isinstance(event, (CheckpointSaved, ValuesSaved, WritesSaved)):
            return event.namespace, event.checkpoint_id
        return None


class ThreadLog:
    """Reads one thread's log, on connections of its own."""

    def __init__(self, url: str, thread: str) -> None:
        self.thread = thread
        self._connections = Connections.from_url(url)
        self._runner = Runner(self._connections)
        self._keys = Keyspace(PREFIX, PARTITIONS).thread(thread.encode())

    def read(self, after: Sequence[Entry] = ()) -> list[Entry]:
        """The entries that follow the given ones. One round trip."""
        start = b"(" + after[-1].recorded.entry_id if after else b"-"
        return self._runner.run(self._read(start), self.thread)

    def _read(self, start: bytes) -> Flow[list[Entry]]:
        reply = yield Command("XRANGE", self._keys.log, [start, b"+"])
        entries = []
        for entry_id, fields in reply:
            flat = [part for item in fields.items() for part in item]
            entries.append(Entry(tuple(flat), decode_entry(self.thread, entry_id, flat)))
        return entries

    def delete_views(self, entries: Iterable[Entry]) -> int:
        """Delete every key that is derived from the log; how many there were."""
        namespaces = {entry.place[0] for entry in entries if entry.place}
        views = [self._keys.index, self._keys.order, *(self._keys.head(one.encode()) for one in namespaces)]
        return self._runner.run(self._delete(views), self.thread)

    def _delete(self, views: Iterable[bytes]) -> Flow[int]:
        deleted = 0
        for key in views:
            deleted += yield Command("DEL", key)
        return deleted

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()


def finished_tasks(entries: Iterable[Entry], channel: str) -> set[str]:
    """Ids of the tasks whose writes to a channel are in the log."""
    return {
        event.task_id
        for entry in entries
        if isinstance(event := entry.recorded.event, WritesSaved)
        for write in event.writes
        if write.channel == channel
    }


def entry_table(entries: Sequence[Entry], known: Sequence[Entry], width: int) -> Table:
    """One row per entry. `known` is the whole log, in which parents are looked up."""
    numbers = {
        entry.place: entry.recorded.sequence
        for entry in known
        if isinstance(entry.recorded.event, CheckpointSaved) and entry.place
    }
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    rows = [list(_row(entry, numbers)) for entry in entries]
    if width < WIDE:
        return _narrow(table, rows)
    for name, style in COLUMNS.items():
        folds = name in {"namespace", "what", "channels"}
        table.add_column(
            name, style=style, no_wrap=not folds, overflow="fold", justify="right" if name in NUMBERS else "left"
        )
    for row in rows:
        table.add_row(*row)
    return table


COLUMNS = {
    "time": "dim",
    "seq": "",
    "entry id": "dim",
    "kind": "",
    "on": "",
    "namespace": "",
    "what": "",
    "channels": "",
    "bytes": "dim",
}
NUMBERS = {"seq", "on", "bytes"}
WIDE = 100
"""Characters below which an entry takes two lines."""


def _narrow(table: Table, rows: Sequence[Sequence[Text]]) -> Table:
    table.add_column("seq", justify="right", no_wrap=True)
    table.add_column("entry", overflow="fold")
    for time, sequence, entry_id, kind, on, namespace, what, channels, size in rows:
        lines = [[time, entry_id, kind, on, what, Text(f"{size}B")], [namespace, channels]]
        table.add_row(sequence, Text("\n").join(Text(" ").join(filter(None, line)) for line in lines if any(line)))
    return table


def _row(entry: Entry, numbers: dict[tuple[str, str], int]) -> Iterator[Text]:
    recorded = entry.recorded
    kind = recorded.event.kind.decode()
    yield Text(_time(recorded.entry_id))
    yield Text(str(recorded.sequence))
    yield Text(recorded.entry_id.decode())
    yield Text(kind, style="green" if kind == "checkpoint" else "yellow")
    yield Text(_reference(entry, numbers))
    yield Text(_short_namespace(entry))
    yield Text(_what(recorded.event))
    yield Text(", ".join(dict.fromkeys(map(_short_channel, _channels(recorded.event)))))
    yield Text(f"{entry.size:,}")


def _time(entry_id: bytes) -> str:
    milliseconds = int(entry_id.partition(b"-")[0])
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().strftime("%H:%M:%S.%f")[:-3]


def _reference(entry: Entry, numbers: dict[tuple[str, str], int]) -> str:
    """Sequence number of the parent of a checkpoint, or of the checkpoint that writes belong to."""
    event = entry.recorded.event
    place = entry.place
    if isinstance(event, CheckpointSaved):
        place = (event.namespace, event.parent_id) if event.parent_id else None
    return f"#{numbers[place]}" if place in numbers else ""


def _short_namespace(entry: Entry) -> str:
    if not entry.place or not entry.place[0]:
        return ""
    return "|".join(node.partition(":")[0] + ":" + node.partition(":")[2][:4] for node in entry.place[0].split("|"))


def _what(event: Any) -> str:
    if isinstance(event, CheckpointSaved):
        metadata = event.body.get("metadata")
        return f"{metadata.get('source')} {metadata.get('step')}" if isinstance(metadata, dict) else "(encrypted)"
    if isinstance(event, WritesSaved):
        return f"{_node(event)} {event.task_id[:4]}"
    return ""


def _node(event: WritesSaved) -> str:
    """What a task is called: its node, or its number in a fan-out."""
    kind, _, rest = event.task_path.partition(", ")
    if kind == "~__pregel_push":
        return f"send {int(rest.partition(',')[0])}"
    return rest or "resume"


def _channels(event: Any) -> list[str]:
    if isinstance(event, WritesSaved):
        return [write.channel for write in event.writes]
    return [channel for channel, _ in getattr(event, "values", ())]


def _short_channel(channel: str) -> str:
    """LangGraph's own channels by what they are for: `branch:to:risk` makes risk run next."""
    if channel.startswith("branch:to:"):
        return ">" + channel.removeprefix("branch:to:")
    return {"__pregel_tasks": "(sends)"}.get(channel, channel)

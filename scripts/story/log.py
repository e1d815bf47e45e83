"""Reads the log of the demo's thread through the saver, and shows it as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from eventlog import CheckpointSaved, Connections, Keyspace, Runner, ThreadNotFound, ValuesSaved, WritesSaved
from eventlog.flow import Command, Flow
from eventlog.keys import PARTITIONS, PREFIX
from saver import RedisStreamSaver
from saver.history import Replayed

__all__ = ["delete_views", "digests", "event_table", "events_after", "finished_tasks"]


def events_after(saver: RedisStreamSaver, thread: str, events: Sequence[Replayed]) -> list[Replayed]:
    """The events of a thread that follow those given."""
    try:
        return [event for event in saver.replay(thread) if event.sequence > len(events)]
    except ThreadNotFound:
        return []


def digests(events: Iterable[Replayed]) -> list[bytes]:
    """The digest of each event; each covers all events before it."""
    return [event.recorded.digest for event in events]


def finished_tasks(events: Iterable[Replayed], channel: str) -> set[str]:
    """Ids of the tasks whose writes to a channel are in the log."""
    saved = (event.event for event in events if isinstance(event.event, WritesSaved))
    return {one.task_id for one in saved if channel in {write.channel for write in one.writes}}


def delete_views(url: str, thread: str, events: Iterable[Replayed]) -> int:
    """Delete every key that is derived from the log of a thread; how many there were."""
    keys = Keyspace(PREFIX, PARTITIONS).thread(thread.encode())
    namespaces = {event.namespace for event in events if event.namespace is not None}
    connections = Connections.from_url(url)

    def delete() -> Flow[int]:
        deleted = 0
        for key in (keys.index, keys.order, *(keys.head(one.encode()) for one in namespaces)):
            deleted += yield Command("DEL", key)
        return deleted

    try:
        return Runner(connections).run(delete(), thread)
    finally:
        connections.close()


def event_table(events: Sequence[Replayed], known: Sequence[Replayed]) -> Table:
    """One row per event. `known` is the whole log, in which parents are looked up."""
    saved = ((one.event, one.sequence) for one in known if isinstance(one.event, CheckpointSaved))
    numbers: dict[tuple[str, str | None], int] = {(event.namespace, event.checkpoint_id): n for event, n in saved}
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("seq", justify="right", no_wrap=True)
    for name, style in (("time", "dim"), ("kind", ""), ("on", ""), ("what", ""), ("channels", ""), ("who", "dim")):
        table.add_column(name, style=style, overflow="fold")
    for one in events:
        parent = numbers.get(_parent(one.event))
        cells = [f"{one.time.astimezone():%H:%M:%S}", one.kind, f"#{parent}" if parent else "", _what(one)]
        channels = ", ".join(dict.fromkeys(map(_short_channel, _channels(one.event))))
        table.add_row(str(one.sequence), *map(Text, [*cells, channels, one.audit.get("actor", "")]))
    return table


def _parent(event: Any) -> tuple[str, str | None]:
    """The parent of a checkpoint, or the checkpoint that writes belong to."""
    return event.namespace, event.parent_id if isinstance(event, CheckpointSaved) else event.checkpoint_id


def _what(one: Replayed) -> str:
    event, where = one.event, (one.namespace or "").partition(":")[0]
    if isinstance(event, CheckpointSaved):
        what = f"{event.body['metadata']['source']} {event.body['metadata']['step']}"
    elif isinstance(event, WritesSaved):
        kind, _, rest = event.task_path.partition(", ")
        what = f"send {int(rest.partition(',')[0])}" if kind == "~__pregel_push" else rest or "resume"
    else:
        what = ""
    return f"{where}: {what}" if where else what


def _channels(event: Any) -> list[str]:
    if isinstance(event, WritesSaved):
        return [write.channel for write in event.writes]
    return [channel for channel, _ in event.values] if isinstance(event, (CheckpointSaved, ValuesSaved)) else []


def _short_channel(channel: str) -> str:
    """LangGraph's own channels in short: `branch:to:risk` makes the node risk run next."""
    if channel.startswith("branch:to:"):
        return ">" + channel.removeprefix("branch:to:")
    return {"__pregel_tasks": "(sends)"}.get(channel, channel)

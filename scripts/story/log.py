"""Read the log of the demo's thread, show it as a table, and delete its views."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from eventlog import CheckpointSaved, Connections, Keyspace, Runner, WritesSaved
from eventlog.flow import Command, Flow
from eventlog.keys import PARTITIONS, PREFIX
from saver.history import Replayed
from scripts.terminal import table

__all__ = ["delete_views", "event_table", "finished_tasks"]


def finished_tasks(events: Iterable[Replayed], channel: str) -> set[str]:
    """Return the ids of the tasks whose writes to a channel are in the log."""
    saved = (event.event for event in events if isinstance(event.event, WritesSaved))
    return {one.task_id for one in saved if channel in {write.channel for write in one.writes}}


def delete_views(url: str, thread: str, namespaces: Iterable[str]) -> int:
    """Delete all keys derived from the log of a thread, and return their number."""
    keys = Keyspace(PREFIX, PARTITIONS).thread(thread.encode())
    views = [keys.index, keys.order, *(keys.head(one.encode()) for one in namespaces)]
    with contextlib.closing(Connections.from_url(url)) as connections:
        return sum(Runner(connections).run(_delete(key), thread) for key in views)


def _delete(key: bytes) -> Flow[int]:
    deleted: int = yield Command("DEL", key)
    return deleted


def event_table(events: Sequence[Replayed], known: Sequence[Replayed]) -> Table:
    """Return a table with one row per event, with parents from `known`, the whole log."""
    saved = ((one.event, one.sequence) for one in known if isinstance(one.event, CheckpointSaved))
    numbers: dict[tuple[str, str | None], int] = {(event.namespace, event.checkpoint_id): n for event, n in saved}
    made = table("seq", "time", "kind", "on", "what", "channels", "who")
    made.columns[0].justify, made.columns[0].no_wrap = "right", True
    made.columns[1].style = made.columns[-1].style = "dim"
    for one in events:
        event: Any = one.event
        saves = isinstance(event, CheckpointSaved)
        parent = numbers.get((event.namespace, event.parent_id if saves else event.checkpoint_id))
        channels = [name for name, _ in event.values] if saves else [write.channel for write in event.writes]
        texts = (
            str(one.sequence),
            f"{one.time.astimezone():%H:%M:%S}",
            one.kind,
            f"#{parent}" if parent else "",
            _what(event),
            ", ".join(dict.fromkeys(map(_short, channels))),
            one.audit.get("actor", ""),
        )
        made.add_row(*map(Text, texts))
    return made


def _what(event: Any) -> str:
    """Return the source and step of a checkpoint, or the task of writes."""
    if isinstance(event, CheckpointSaved):
        what = f"{event.body['metadata']['source']} {event.body['metadata']['step']}"
    else:
        kind, _, rest = event.task_path.partition(", ")
        what = f"send {int(rest.partition(',')[0])}" if kind == "~__pregel_push" else rest or "resume"
    subgraph = event.namespace.partition(":")[0]
    return f"{subgraph}: {what}" if subgraph else what


def _short(channel: str) -> str:
    """Shorten LangGraph's channels: `branch:to:risk` makes the node risk run next."""
    if channel.startswith("branch:to:"):
        return ">" + channel.removeprefix("branch:to:")
    return {"__pregel_tasks": "(sends)"}.get(channel, channel)

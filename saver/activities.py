"""Loads the values of an event that the feed reported."""

from __future__ import annotations

from typing import Any

from eventlog.codec import Keyframe
from eventlog.errors import EventGone
from eventlog.events import CheckpointSaved, ValuesSaved, WritesSaved, decode_entry
from eventlog.feed.activity import Activity
from eventlog.feed.reading import flattened, load_event
from eventlog.flow import Call, Flow, load_script
from eventlog.keys import Keyspace
from projections.checkpoints.read import read_checkpoint
from saver.translation import Translator

__all__ = ["values_of"]

COMMAND = load_script("eventlog/transport/command")


def values_of(translator: Translator, keyspace: Keyspace, activity: Activity) -> Flow[list[tuple[str, Any]]]:
    """Returns the channels and values of an event, in its order.

    Empty for kinds of events without values. One round trip for writes, two for a checkpoint. Raises `EventGone`, also if the
    checkpoint was saved again since.
    """
    event = (yield from load_event(keyspace, activity)).event
    if activity.kind == "imported":  # its event is the last one of the imported log
        return []
    keys = keyspace.thread(activity.thread_id.encode())
    if isinstance(event, WritesSaved):
        return [
            (write.channel, translator.value(activity.thread_id, write.channel, Keyframe(write.type, write.data)))
            for write in event.writes
        ]
    if not isinstance(event, CheckpointSaved):
        return []
    channels = [channel for channel, _ in event.values]
    if event.parts:
        channels = [*(yield from _channels_before(keyspace, activity, len(event.parts))), *channels]
    stored = yield from read_checkpoint(keys, event.namespace, event.checkpoint_id)
    if stored is None or stored.entry_id != activity.event_id.encode():
        raise EventGone(
            f"The values of event {activity.event_id} of thread {activity.thread_id!r} are gone: checkpoint "
            f"{event.checkpoint_id!r} was pruned or saved again since.",
            "pruned",
            thread_id=activity.thread_id,
            event_id=activity.event_id,
        )
    values = stored.values
    return [
        (channel, translator.value(activity.thread_id, channel, values[channel]))
        for channel in channels
        if channel in values
    ]


def _channels_before(keyspace: Keyspace, activity: Activity, parts: int) -> Flow[list[str]]:
    """Returns the channels of the entries before the one of a wide checkpoint."""
    keys = keyspace.thread(activity.thread_id.encode())
    entries = yield Call(COMMAND, [keys.log], ["XREVRANGE", "(" + activity.event_id, "-", "COUNT", parts])
    channels: list[str] = []
    for entry_id, flat in reversed(flattened(entries) if entries else []):
        event = decode_entry(activity.thread_id, entry_id, flat).event
        if isinstance(event, ValuesSaved):
            channels += [channel for channel, _ in event.values]
    return channels

"""The history of a thread as LangGraph's checkpoints, event by event."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from langgraph.checkpoint.base import CheckpointTuple

from eventlog.events import CheckpointSaved, Event, Recorded, ValuesSaved, WritesSaved
from eventlog.flow import Flow
from eventlog.keys import ThreadKeys
from projections.time_travel.moment import Moment, time_of
from projections.time_travel.past import State, Unavailable
from projections.time_travel.replay import replay
from saver.translation import Translator

__all__ = ["Replayed", "replayed"]


class Replayed:
    """An event of a thread and the state after it.

    Metadata and state are deserialized when they are first asked for.
    """

    def __init__(self, translator: Translator, thread_id: str, recorded: Recorded, stored: State) -> None:
        self.thread_id = thread_id
        self.recorded = recorded
        """The event with its sequence number, entry id and digest; its values are serialized."""
        self._translator = translator
        self.stored = stored
        """The state after the event as it is stored, with serialized values."""

    def __repr__(self) -> str:
        return f"<Replayed {self.kind} {self.sequence} of thread {self.thread_id!r}>"

    @property
    def event(self) -> Event:
        """The event."""
        return self.recorded.event

    @property
    def kind(self) -> str:
        """The kind of event: checkpoint, writes, copied, pruned or runs_deleted."""
        return self.event.kind.decode()

    @property
    def sequence(self) -> int:
        """The event's number in the thread, from 1."""
        return self.recorded.sequence

    @property
    def id(self) -> str:
        """The id of the event's entry in the log."""
        return self.recorded.entry_id.decode()

    @property
    def time(self) -> datetime:
        """The time when the event was appended, by the server's clock, in UTC."""
        return time_of(self.recorded.entry_id)

    @property
    def namespace(self) -> str | None:
        """The checkpoint namespace, None for an event of the whole thread."""
        return self.event.namespace if isinstance(self.event, (CheckpointSaved, ValuesSaved, WritesSaved)) else None

    @property
    def audit(self) -> Mapping[str, Any]:
        """The audit stamp: actor, reason and trace.

        Empty if they are not known.
        """
        return {} if isinstance(self.event, ValuesSaved) else self.event.audit or {}

    @cached_property
    def metadata(self) -> Mapping[str, Any] | None:
        """The metadata of a checkpoint that was saved, None for other events.

        Raises `ValueUnreadable`.
        """
        if not isinstance(self.event, CheckpointSaved):
            return None
        return self._translator.metadata(self.thread_id, self.event.checkpoint_id, self.event.body)

    @cached_property
    def state(self) -> CheckpointTuple | Unavailable | None:
        """The answer that `get_tuple` would have given right after the event.

        The latest checkpoint of the event's namespace, or of the root for an event of the whole thread. None if
        there was none, `Unavailable` if the log no longer has it. Raises `ValueUnreadable`.
        """
        if self.stored is None or isinstance(self.stored, Unavailable):
            return self.stored
        return self._translator.checkpoint_tuple(self.thread_id, self.stored)


def replayed(
    translator: Translator,
    keys: ThreadKeys,
    *,
    namespace: str | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    states: bool = True,
) -> Flow[None]:
    """Emits a `Replayed` for each event, oldest first.

    A put that was appended as several events is one, with its checkpoint. Round trips, memory and errors are those
    of `projections.time_travel.replay.replay`.
    """
    after = None if since is None else since.before()
    thread_id = keys.thread.decode()

    def present(recorded: Recorded, state: State) -> Replayed | None:
        return None if isinstance(recorded.event, ValuesSaved) else Replayed(translator, thread_id, recorded, state)

    yield from replay(keys, after=after, until=until, namespace=namespace, states=states, present=present)

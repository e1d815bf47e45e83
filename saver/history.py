"""A thread's history as LangGraph's checkpoints: replayed event by event, or as of a moment."""

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
    """An event of a thread, and what could be read right after it. Nothing is deserialized before it is asked for."""

    def __init__(self, translator: Translator, thread_id: str, recorded: Recorded, stored: State) -> None:
        self.thread_id = thread_id
        self.recorded = recorded
        """The event in its place in the log, its values as they are stored."""
        self._translator = translator
        self._stored = stored

    def __repr__(self) -> str:
        return f"<Replayed {self.kind} {self.sequence} of thread {self.thread_id!r}>"

    @property
    def event(self) -> Event:
        """What happened."""
        return self.recorded.event

    @property
    def kind(self) -> str:
        """What kind of event it is: checkpoint, writes, copied, pruned, runs_deleted."""
        return self.event.kind.decode()

    @property
    def sequence(self) -> int:
        """Its number in the thread, from 1."""
        return self.recorded.sequence

    @property
    def id(self) -> str:
        """The id of its entry in the log."""
        return self.recorded.entry_id.decode()

    @property
    def time(self) -> datetime:
        """When it was appended, by the server's clock, in UTC."""
        return time_of(self.recorded.entry_id)

    @property
    def namespace(self) -> str | None:
        """Checkpoint namespace, None for what concerns the whole thread."""
        return self.event.namespace if isinstance(self.event, (CheckpointSaved, ValuesSaved, WritesSaved)) else None

    @property
    def audit(self) -> Mapping[str, Any]:
        """Who did it and why, and in which trace; empty where that is not known."""
        return {} if isinstance(self.event, ValuesSaved) else self.event.audit or {}

    @cached_property
    def metadata(self) -> Mapping[str, Any] | None:
        """The metadata of a checkpoint that was saved, None for other events. Raises `ValueUnreadable`."""
        if not isinstance(self.event, CheckpointSaved):
            return None
        return self._translator.metadata(self.thread_id, self.event.checkpoint_id, self.event.body)

    @property
    def stored(self) -> State:
        """The state below, as it is stored: values as they were serialized."""
        return self._stored

    @cached_property
    def state(self) -> CheckpointTuple | Unavailable | None:
        """What `get_tuple` would have answered right after it, for its namespace (for the root where it concerns the whole thread):
        the latest checkpoint, None where there was none, `Unavailable` where the log no longer tells.

        Deserialized when it is first asked for. Raises `ValueUnreadable`.
        """
        stored = self._stored
        if stored is None or isinstance(stored, Unavailable):
            return stored
        return self._translator.checkpoint_tuple(self.thread_id, stored)


def replayed(
    translator: Translator,
    keys: ThreadKeys,
    *,
    namespace: str | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    states: bool = True,
) -> Flow[None]:
    """Emits `Replayed` for each event, oldest first. Round trips, memory and errors as of `projections.time_travel.replay.replay`.

    What a put appended as several events comes as one: with its checkpoint.
    """
    after = None if since is None else since.before()
    thread_id = keys.thread.decode()

    def present(recorded: Recorded, state: State) -> Replayed | None:
        return None if isinstance(recorded.event, ValuesSaved) else Replayed(translator, thread_id, recorded, state)

    yield from replay(keys, after=after, until=until, namespace=namespace, states=states, present=present)

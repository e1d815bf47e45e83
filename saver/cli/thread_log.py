"""The log of a thread, which the commands on its history only read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from eventlog.errors import CorruptEntry, SignatureInvalid
from eventlog.flow import Flow
from eventlog.keys import ThreadKeys, text
from eventlog.transport.drivers import Runner
from projections.integrity.verify import verify_thread
from projections.log.pages import entry_order
from projections.time_travel.moment import Moment, moment_of
from projections.time_travel.past import Past, Unavailable
from projections.time_travel.replay import state_as_of
from projections.values.stored import StoredCheckpoint
from saver.cli.app import Options
from saver.cli.output import BadInput, complain
from saver.cli.with_langgraph import values_of

if TYPE_CHECKING:
    from saver.cli.values import Values

__all__ = ["ThreadLog", "opened"]

T = TypeVar("T")


@dataclass(frozen=True)
class ThreadLog:
    """The log of a thread, and the reader of its values."""

    thread: str
    keys: ThreadKeys
    values: Values
    _runner: Runner
    _options: Options

    def run(self, flow: Flow[T]) -> T:
        """The result of a flow."""
        return self._runner.run(flow, f"thread {self.thread!r}")

    def iterate(self, flow: Flow[None]) -> Iterator[Any]:
        """The items that a flow emits."""
        return self._runner.iterate(flow, f"thread {self.thread!r}")

    def past(self, until: Moment | None = None) -> Past:
        """The thread as of a moment, or as it is now."""
        past = Past(self.keys)
        self.run(past.begin())
        self.run(past.go_to(until))
        return past

    def readable_past(self, *, report: bool = True) -> Past:
        """The thread as it is now, or before the damage of its log, which is reported."""
        past = Past(self.keys)
        self.run(past.begin())
        try:
            self.run(past.go_to())
        except (CorruptEntry, SignatureInvalid) as error:
            if not past.whole_to:
                raise
            if report:
                complain(str(error), self._options.url)
            return self.past(moment_of(past.whole_to))
        return past

    def is_whole(self, upto: bytes | None) -> bool:
        """Whether the log is unaltered up to an entry (None: all of it); reports findings."""
        found = self.run(verify_thread(self.keys)).findings
        if upto is not None:  # the missing end of a log comes after it
            end = entry_order(upto)
            found = tuple(one for one in found if one.kind != "truncated" and entry_order(one.entry_id.encode()) <= end)
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            complain(f"the log of thread {self.thread!r} was altered: {found[0].message}{more}. See agentlog verify.")
        return not found

    def as_of(self, namespace: str, when: Moment) -> StoredCheckpoint | None:
        """The latest checkpoint as of a moment."""
        return self.run(state_as_of(self.keys, namespace, when))

    def named(self, past: Past, namespace: str, text: str) -> StoredCheckpoint:
        """The checkpoint that a text names by its id, the id's beginning, or a moment.

        Raises `BadInput`.
        """
        moment = moment_of(text, "the state", thread=self.thread, zone=self._options.zone, checkpoints=True)
        name = moment.checkpoint
        if name is not None:
            ids = self.run(past.ids(namespace))
            if moment.is_checkpoint or any(one.startswith(name) for one in ids):
                return self._with_id(past, namespace, ids, name)
        found = self.as_of(namespace, moment)
        if found is None:
            raise BadInput(f"thread {self.thread!r} had no checkpoint as of {text!r:.100}.")
        return found

    def _with_id(self, past: Past, namespace: str, ids: list[str], prefix: str) -> StoredCheckpoint:
        found = [prefix] if prefix in ids else [one for one in ids if one.startswith(prefix)]
        where = f"thread {self.thread!r}" + (f", namespace {namespace!r}" if namespace else "")
        if not found:
            raise BadInput(f"{where} has no checkpoint whose id begins with {prefix!r:.100}. agentlog log lists them.")
        if len(found) > 1:
            raise BadInput(
                f"{where} has {len(found)} checkpoints whose ids begin with {prefix!r:.100}: write more of it, or "
                "@NUMBER for the state after an event."
            )
        state = self.run(past.checkpoint(namespace, found[0]))
        if isinstance(state, Unavailable):
            raise BadInput(state.message)
        if state is None:
            raise BadInput(f"there is no checkpoint {prefix!r:.100} any more.")
        return state


@contextmanager
def opened(options: Options, thread: str) -> Iterator[ThreadLog]:
    """The log of a thread; raises `ThreadNotFound` for an empty prefix."""
    text("THREAD", thread)
    with options.open_prefix() as (runner, keyspace):
        yield ThreadLog(thread, keyspace.thread(thread.encode()), values_of(thread), runner, options)

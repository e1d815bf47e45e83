"""What the commands on a thread's history share: its log, opened for reading alone, and places in it as they are typed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from eventlog.errors import CorruptEntry, InvalidArgument, SignatureInvalid
from eventlog.flow import Flow
from eventlog.keys import ThreadKeys, text
from eventlog.transport.drivers import Runner
from projections.integrity.findings import Finding
from projections.integrity.verify import verify_thread
from projections.log.pages import entry_order
from projections.time_travel.moment import FORMS, Moment, Zone, moment_of
from projections.time_travel.past import Past, State, Unavailable
from projections.time_travel.replay import state_as_of
from projections.values.stored import StoredCheckpoint
from saver.cli.app import Options
from saver.cli.output import BadInput, complain, plain

if TYPE_CHECKING:
    from saver.cli.values import Values

__all__ = ["STATE", "Full", "Namespace", "NoValues", "ThreadLog", "ThreadName", "bounds", "opened", "typed_moment"]

T = TypeVar("T")

ThreadName = Annotated[str, typer.Argument(metavar="THREAD", help="The thread's id.", show_default=False)]
Namespace = Annotated[
    str | None, typer.Option(metavar="TEXT", help='Of this checkpoint namespace; "" is the graph\'s own.')
]
NoValues = Annotated[bool, typer.Option("--no-values", help="Nothing is deserialized but metadata.")]
STATE = f"A checkpoint id or its beginning, or {FORMS}."
Full = Annotated[bool, typer.Option("--full", help="Long values whole.")]


@dataclass(frozen=True)
class ThreadLog:
    """The log of a thread."""

    thread: str
    keys: ThreadKeys
    values: Values
    _runner: Runner
    _options: Options

    def run(self, flow: Flow[T]) -> T:
        """Result of a flow."""
        return self._runner.run(flow, f"thread {self.thread!r}")

    def iterate(self, flow: Flow[None]) -> Iterator[Any]:
        """What a flow emits."""
        return self._runner.iterate(flow, f"thread {self.thread!r}")

    def now(self) -> Past:
        """The thread at its end."""
        past = Past(self.keys)
        self.run(past.begin())
        self.run(past.go_to())
        return past

    def standing(self, *, tell: bool = True) -> Past:
        """The thread at its end, or, where its log is damaged, before that; the damage is told unless `tell` is False."""
        past = Past(self.keys)
        self.run(past.begin())
        try:
            self.run(past.go_to())
        except (CorruptEntry, SignatureInvalid) as error:
            if not past.whole_to:
                raise
            if tell:
                complain(str(error), self._options.url)
            last = past.whole_to
            past = Past(self.keys)
            self.run(past.begin())
            self.run(past.go_to(moment_of(last)))
        return past

    def is_whole(self, upto: bytes | None) -> bool:
        """Whether the log is as it was written, up to an entry (None: all of it); what is wrong is told."""
        found = self.run(verify_thread(self.keys))
        wrong = [one for one in found.findings if upto is None or _is_upto(one, upto)]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            complain(f"the log of thread {self.thread!r} was altered: {wrong[0].told}{more}. See agentlog verify.")
        return not wrong

    def as_of(self, namespace: str, when: Moment) -> StoredCheckpoint | None:
        """The latest checkpoint as of a moment."""
        return self.run(state_as_of(self.keys, namespace, when))

    def checkpoint(self, past: Past, namespace: str, prefix: str) -> StoredCheckpoint:
        """The checkpoint whose id begins so. Raises `BadInput` where there is none, or more than one."""
        ids = self.run(past.ids(namespace))
        found = [prefix] if prefix in ids else [one for one in ids if one.startswith(prefix)]
        where = f"thread {self.thread!r}" + (f", namespace {namespace!r}" if namespace else "")
        if not found:
            raise BadInput(f"{where} has no checkpoint whose id begins with {prefix!r:.100}. agentlog log lists them.")
        if len(found) > 1:
            raise BadInput(
                f"{where} has {len(found)} checkpoints whose ids begin with {prefix!r:.100}: write more of it, or @NUMBER for the "
                "state after an event."
            )
        return _there(self.run(past.checkpoint(namespace, found[0])), prefix)

    def named(self, past: Past, namespace: str, text: str) -> StoredCheckpoint:
        """The checkpoint that a text names: by its id or the beginning of it, or the latest as of a moment. Raises `BadInput`."""
        moment = typed_moment(text, self._options, "the state", self.thread, checkpoints=True)
        name = moment.checkpoint
        if name is not None and (
            moment.is_checkpoint or any(one.startswith(name) for one in self.run(past.ids(namespace)))
        ):
            return self.checkpoint(past, namespace, name)
        found = self.as_of(namespace, moment)
        if found is None:
            raise BadInput(f"thread {self.thread!r} had no checkpoint as of {text!r:.100}.")
        return found


def _there(state: State, name: str) -> StoredCheckpoint:
    if isinstance(state, Unavailable):
        raise BadInput(state.message)
    if state is None:
        raise BadInput(f"there is no checkpoint {name!r:.100} any more.")
    return state


def _is_upto(finding: Finding, entry_id: bytes) -> bool:
    """Whether a finding is of a log up to an entry: the end that was cut off comes behind."""
    return finding.kind != "truncated" and entry_order(finding.entry_id.encode()) <= entry_order(entry_id)


@contextmanager
def opened(options: Options, thread: str) -> Iterator[ThreadLog]:
    """A thread's log. Raises `ThreadNotFound` where nothing was written under the prefix. Nothing is written."""
    text("THREAD", thread)
    with options.open_prefix() as (runner, keyspace):
        values = import_module("saver.cli.values").Values(thread)  # it loads LangGraph
        yield ThreadLog(thread, keyspace.thread(thread.encode()), values, runner, options)


def typed_moment(text: str, options: Options, option: str, thread: str, *, checkpoints: bool = False) -> Moment:
    """A moment as it is typed; times are in UTC, or with --local in the local zone, unless they name theirs. Raises `BadInput`."""
    zone: Zone = "local" if options.local else "utc"
    try:
        return moment_of(text, option, thread=thread, zone=zone, checkpoints=checkpoints)
    except InvalidArgument as error:
        raise BadInput(plain(str(error))) from None


def bounds(since: str | None, until: str | None, options: Options, thread: str) -> tuple[Moment | None, Moment | None]:
    """Where reading begins behind, and where it ends. Raises `BadInput`."""
    return (
        None if since is None else typed_moment(since, options, "--since", thread).before(),
        None if until is None else typed_moment(until, options, "--until", thread),
    )

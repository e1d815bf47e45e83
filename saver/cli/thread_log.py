"""The log of a thread, which the commands on its history only read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from eventlog.errors import CorruptEntry, EventLogError, SignatureInvalid
from eventlog.events import CheckpointSaved, WritesSaved, decode_entry, entry_ms
from eventlog.flow import Flow
from eventlog.keys import ThreadKeys, text
from eventlog.signing import Signer
from eventlog.transport.drivers import Runner
from projections.integrity.findings import Finding
from projections.integrity.verify import verify_thread
from projections.log.pages import READ_ENTRIES, entry_order, pages_of
from projections.time_travel.moment import Moment, moment_of
from projections.time_travel.past import Past, Unavailable
from projections.time_travel.replay import state_as_of
from projections.values.stored import StoredCheckpoint
from saver.cli.app import Options
from saver.cli.key_files import signed
from saver.cli.output import BadInput, complain
from saver.cli.with_langgraph import values_of

if TYPE_CHECKING:
    from saver.cli.values import Values

__all__ = ["RIGHT", "ThreadLog", "opened"]

T = TypeVar("T")
RIGHT = "right"
"""The mark of an event whose signature is right."""
PAGE, PAGE_BYTES = 500, 1024 * 1024


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

    def checked_with(self, signer: Signer) -> ThreadLog:
        """The same log, whose signatures are checked as it is read."""
        return replace(self, keys=signed(self.keys.keyspace, signer).thread(self.keys.thread))

    def past(self, until: Moment | None = None) -> Past:
        """The thread as of a moment, or as it is now."""
        past = Past(self.keys)
        self.run(past.begin())
        self.run(past.go_to(until))
        return past

    def readable_past(self, *, report: bool = True) -> Past:
        """The thread as it is now, or before the damage of its log, which is reported.

        With a key it may end before an event that is refused. `require_signed` reports that if the event counts.
        """
        past = Past(self.keys)
        self.run(past.begin())
        try:
            self.run(past.go_to())
        except (CorruptEntry, SignatureInvalid) as error:
            if not past.whole_to:
                raise
            if report and isinstance(error, CorruptEntry):
                complain(str(error), self._options.url)
            return self.past(moment_of(past.whole_to))
        return past

    def end_of_writes(self, stored: StoredCheckpoint) -> Moment | None:
        """The moment up to which a checkpoint may have pending writes; None if that is the end of the log.

        Tasks write to a checkpoint before the next one of its namespace is saved. Later writes count if they name it.
        """
        return self.run(_end_of_writes(self.keys, stored))

    def is_whole(self, upto: bytes | Moment | None) -> bool:
        """Whether the log is unaltered up to an entry or a moment (None: all of it); reports findings.

        With a key, `require_signed` has found out.
        """
        found = [] if self.keys.signer is not None else self._findings(_up_to(upto))
        if found:
            complain(f"the log of thread {self.thread!r} was altered: {_first(found)}. See agentlog verify.")
        return not found

    def require_signed(self, upto: bytes | Moment | None) -> None:
        """With a key, refuses a log that is altered or not signed up to an entry or a moment (None: all of it).

        Raises `SignatureInvalid`.
        """
        if self.keys.signer is None:
            return
        found = self._findings(_up_to(upto))
        if found:
            raise SignatureInvalid(f"Thread {self.thread!r}: {_first(found)}. Nothing of it was deserialized.")

    def mark(self) -> dict[str, str]:
        """The mark of output whose signatures `require_signed` found right; nothing without a key."""
        return {} if self.keys.signer is None else {"signature": RIGHT}

    def _findings(self, upto: Moment | None) -> list[Finding]:
        verified = self.run(verify_thread(self.keys))
        # with a key, a forged pointer says nothing of the signed events
        found = list(verified.findings if self.keys.signer is None else verified.of_log)
        if upto is None:
            return found
        return [one for one in found if one.kind != "truncated" and _covers(upto, one)]  # an end is after it

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
            self.require_signed(None)  # it may be after an event that was refused
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


def _end_of_writes(keys: ThreadKeys, stored: StoredCheckpoint) -> Flow[Moment | None]:
    thread, ms, is_latest = keys.thread.decode(), entry_ms(stored.entry_id), True
    named = stored.namespace, stored.checkpoint_id
    pages = pages_of(keys, READ_ENTRIES, stored.entry_id, PAGE, PAGE_BYTES)
    while pages.more:
        entries, *_ = yield from pages.next()
        for entry_id, flat in entries:
            try:
                event = decode_entry(thread, entry_id, flat).event
            except EventLogError:  # it names no checkpoint; verifying finds it
                continue
            if isinstance(event, WritesSaved) and (event.namespace, event.checkpoint_id) == named:
                ms = entry_ms(entry_id)
            elif is_latest and isinstance(event, CheckpointSaved) and event.namespace == stored.namespace:
                ms, is_latest = entry_ms(entry_id) - 1, False
    return None if is_latest else Moment(ms)


def _up_to(end: bytes | Moment | None) -> Moment | None:
    return moment_of(end.decode()) if isinstance(end, bytes) else end


def _covers(moment: Moment, finding: Finding) -> bool:
    """Whether a finding is of an entry up to a moment; one of an entry with an odd id or number is."""
    is_before = finding.kind == "missing"  # it names the entry after those that are missing
    ms, number = entry_order(finding.entry_id.encode())[0] - is_before, finding.sequence - is_before
    return number <= moment.sequence if moment.sequence is not None else ms <= (moment.ms or 0)


def _first(findings: Sequence[Finding]) -> str:
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return f"{findings[0].message}{more}"


@contextmanager
def opened(
    options: Options, thread: str, signer: Signer | None = None, *, accept_plaintext: bool
) -> Iterator[ThreadLog]:
    """The log of a thread, whose signatures are checked if there is a signer.

    With a key to decrypt, values that are not encrypted are refused, or accepted with `accept_plaintext`.

    Raises `ThreadNotFound` for an empty prefix.
    """
    text("THREAD", thread)
    with options.open_prefix() as (runner, keyspace):
        keys = signed(keyspace, signer).thread(thread.encode())
        yield ThreadLog(thread, keys, values_of(thread, accept_plaintext=accept_plaintext), runner, options)

"""Replay: a thread's events once more, each with the state that could be read right after it; and the state as of a moment.

Both read the log alone, and write nothing: they work for users who may only read, and on replicas.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from eventlog.errors import BeforeFirstEvent, EventGone, InvalidArgument
from eventlog.events import (
    CheckpointSaved,
    Recorded,
    ValuesSaved,
    WritesSaved,
    entry_ms,
)
from eventlog.flow import Emit, Flow
from eventlog.keys import ThreadKeys
from projections.log.pages import SCAN
from projections.time_travel.moment import Moment, When, moment_of, time_of
from projections.time_travel.past import Past, State, Unavailable
from projections.values.stored import StoredCheckpoint

__all__ = ["replay", "state_as_of"]

PAGE = 500
PAGE_BYTES = 1024 * 1024


def replay(
    keys: ThreadKeys,
    *,
    after: Moment | None = None,
    until: Moment | None = None,
    namespace: str | None = None,
    states: bool = True,
    present: Callable[[Recorded, State], Any] = lambda recorded, state: (recorded, state),
    passed: Callable[[Recorded], object] = lambda _: None,
) -> Flow[None]:
    """Emits each event in turn, `(Recorded, State)`, or what `present` makes of both unless that is None: its pieces as they are
    stored, its versions whole; and what could be read of its namespace right after it, as `get_tuple` would have answered then.
    Ends with the last event there was when it began.

    `after`: only events after this moment; `passed` is called with those before, their values left out. `until`: only those up to
    this one. `namespace`: only events of this one, and those that concern the whole thread, whose state is that of this namespace,
    else of the root. With `states=False` states are None, and nothing is put together. Values that lie in events of their own are
    not there before their checkpoint is.

    Round trips: one per 500 events or 1 MiB, per 1000 or 4 MiB where they are left out; those of `Past`.
    Memory: a page, and that of `Past`: it does not grow with the thread, but for what is said there.
    Raises `ThreadNotFound`, `EventGone` where the thread is deleted meanwhile, `LogLost`; `CorruptEntry` or `SignatureInvalid` once
    it has come to where a log is damaged, after what stands before.
    """
    past = Past(keys)
    yield from past.begin()
    if after is not None:
        yield from _pass(past, after, passed)
    while past.sequence == 0 or entry_ms(past.last) < past.end:
        events = yield from _page(past)
        if not events:
            raise past.gone()
        while events:
            recorded = events.popleft()
            if entry_ms(recorded.entry_id) > past.end or (until is not None and not until.covers(recorded)):
                return
            if states and past.keys.signer is None:
                past.offer(recorded)
            whole = yield from past.add(recorded)
            own = _namespace_of(recorded)
            if own is None or namespace in (None, own):
                state: State = None
                if states:
                    state = yield from past.state(own if own is not None else namespace or "")
                item = present(whole, state)
                if item is not None:
                    yield Emit(item)
    past.check_end()


def _pass(past: Past, after: Moment, passed: Callable[[Recorded], object]) -> Flow[None]:
    """Goes to the last event at or before a moment, event by event, so that nothing has to be looked up later."""
    more = 1
    while more:
        events, more = yield from past.page(past.last, SCAN)
        for recorded in events:
            if not after.covers(recorded) or entry_ms(recorded.entry_id) > past.end:
                return
            passed((yield from past.add(recorded)))


def _page(past: Past) -> Flow[deque[Recorded]]:
    return deque((yield from past.whole_page(past.last, PAGE, PAGE_BYTES)))


def _namespace_of(recorded: Recorded) -> str | None:
    """The namespace of an event, None for one that concerns the whole thread."""
    event = recorded.event
    return event.namespace if isinstance(event, (CheckpointSaved, ValuesSaved, WritesSaved)) else None


def state_as_of(keys: ThreadKeys, namespace: str, when: When | Moment) -> Flow[StoredCheckpoint | None]:
    """The checkpoint that could be read of a namespace after the last event at or before a moment.

    `projections.time_travel.moment` lists the forms of a moment; times are by the server's clock. None if there was none yet.

    One round trip per 1000 entries or 4 MiB up to the moment, and three more; of a pruned thread those of its whole log as well.
    Memory: a page, the index up to the moment, and the state.

    Raises:
        BeforeFirstEvent: the thread had not begun.
        EventGone: what is needed was pruned since (`reason` "pruned").
        ThreadNotFound: there is no such thread.
        InvalidArgument: no moment.
        LogLost, CorruptEntry: see `projections.log.index.call`.

    """
    moment = moment_of(when, thread=keys.thread.decode())
    past = Past(keys)
    yield from past.begin()
    ahead = yield from past.go_to(moment)
    if not past.sequence:
        if ahead is None:
            raise past.gone()
        raise _too_early(past.thread, moment, ahead)
    if ahead is None and moment.sequence is not None and moment.sequence > past.sequence:
        raise InvalidArgument(
            f"Thread {past.thread!r} has no event {moment.sequence} yet; the last is {past.sequence}. Pass one that is there."
        )
    state = yield from past.state(namespace)
    if isinstance(state, Unavailable):
        raise EventGone(state.message, state.reason)
    return state


def _too_early(thread: str, moment: Moment, first: Recorded) -> BeforeFirstEvent | EventGone:
    """The error for a moment before the first event that is there."""
    began = time_of(first.entry_id).isoformat(timespec="milliseconds")
    if first.sequence == 1:
        return BeforeFirstEvent(
            f"Thread {thread!r} began at {began} with entry {first.entry_id.decode()}, after {moment.words}. Ask for a moment from "
            "there on."
        )
    return EventGone(
        f"Of thread {thread!r} the first event that was not pruned is number {first.sequence}, of {began}: its state as of "
        f"{moment.words} is no longer known. Ask for a later moment; an export from before it was pruned has this one.",
        "pruned",
    )

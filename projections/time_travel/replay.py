"""Replay a thread's events with their states, and find the state as of a moment.

Both read the log alone and write nothing, so they work on replicas, and for users who may only read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from eventlog.errors import BeforeFirstEvent, EventGone, InvalidArgument
from eventlog.events import CheckpointSaved, Recorded, ValuesSaved, WritesSaved
from eventlog.flow import Emit, Flow
from eventlog.keys import ThreadKeys
from projections.integrity.signed_reads import until_steady
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
    """Emit `present(event, state)` for each event in turn, except where that is None.

    An event has its pieces as they are stored, and its versions whole. The state is the answer that `get_tuple` would have given
    for the event's namespace right after it. Values in entries of their own are not there before their checkpoint is. The replay
    ends with the last event that existed when it began.

    Args:
        keys: the thread.
        after: emit only events after this moment. `passed` is called with each event before, its values left out.
        until: emit only events up to this moment.
        namespace: emit only events of this namespace, and those of the whole thread. The latter come with the state of this
            namespace, by default of the root.
        states: whether to put states together; without them, every state is None.
        present: makes the item of an event.
        passed: see `after`.

    Takes one round trip per 500 events or 1 MiB (1000 events or 4 MiB up to `after`), and those of `Past`.
    Memory: a page, and that of `Past`.

    Raises:
        ThreadNotFound: there is no such thread.
        EventGone: the thread was deleted meanwhile.
        LogLost: see `projections.log.index.call`.
        CorruptEntry, SignatureInvalid: the replay has come to damage; the events before it were emitted.

    """
    past = Past(keys)
    cursor = past.cursor
    yield from past.begin()
    if after is not None:
        yield from _pass(past, after, passed)
    while not cursor.has_ended:
        events = deque((yield from cursor.whole_page(PAGE, PAGE_BYTES)))
        if not events:
            raise cursor.gone()
        while events:
            recorded = events.popleft()
            if cursor.is_beyond(recorded) or (until is not None and not until.covers(recorded)):
                return
            if states and keys.signer is None:
                past.offer(recorded)
            whole = yield from past.add(recorded)
            own = _namespace_of(recorded)
            if own is None or namespace in {None, own}:
                state = (yield from past.state(own if own is not None else namespace or "")) if states else None
                item = present(whole, state)
                if item is not None:
                    yield Emit(item)
    past.check_end()


def _pass(past: Past, after: Moment, passed: Callable[[Recorded], object]) -> Flow[None]:
    """Go to the last event at or before a moment.

    It goes event by event, so that nothing has to be looked up later.
    """
    more = 1
    while more:
        events, more = yield from past.cursor.page(past.cursor.last, SCAN)
        for recorded in events:
            if not after.covers(recorded) or past.cursor.is_beyond(recorded):
                return
            passed((yield from past.add(recorded)))


def _namespace_of(recorded: Recorded) -> str | None:
    """The namespace of an event, None for an event of the whole thread."""
    event = recorded.event
    return event.namespace if isinstance(event, (CheckpointSaved, ValuesSaved, WritesSaved)) else None


def state_as_of(keys: ThreadKeys, namespace: str, when: When | Moment) -> Flow[StoredCheckpoint | None]:
    """The latest checkpoint of a namespace as of a moment; None if there was none.

    `projections.time_travel.moment` lists the forms of a moment; times are by the server's clock.
    Takes one round trip per 1000 entries or 4 MiB up to the moment, and three more; of a pruned thread also those of its whole
    log. Memory: a page, the index up to the moment, and the state.

    Raises:
        BeforeFirstEvent: the thread had not begun.
        EventGone: entries that the state needs were pruned since (`reason` "pruned").
        ThreadNotFound: there is no such thread.
        InvalidArgument: `when` is not a moment.
        LogLost, CorruptEntry: see `projections.log.index.call`.

    """
    moment = moment_of(when, thread=keys.thread.decode())
    return (yield from until_steady(keys, partial(_state_as_of, keys, namespace, moment), 3))


def _state_as_of(keys: ThreadKeys, namespace: str, moment: Moment) -> Flow[StoredCheckpoint | None]:
    thread = keys.thread.decode()
    past = Past(keys)
    yield from past.begin()
    ahead = yield from past.go_to(moment)
    last = past.cursor.sequence
    if not last and ahead is None:
        raise past.cursor.gone()
    if not last and ahead is not None:
        raise _too_early(thread, moment, ahead)
    if ahead is None and moment.sequence is not None and moment.sequence > last:
        raise InvalidArgument(
            f"Thread {thread!r} has no event {moment.sequence} yet; the last is {last}. Pass an existing one."
        )
    state = yield from past.state(namespace)
    if isinstance(state, Unavailable):
        raise EventGone(state.message, state.reason)
    return state


def _too_early(thread: str, moment: Moment, first: Recorded) -> BeforeFirstEvent | EventGone:
    """The error for a moment before the first event in the log."""
    began = time_of(first.entry_id).isoformat(timespec="milliseconds")
    if first.sequence == 1:
        return BeforeFirstEvent(
            f"Thread {thread!r} began at {began} with entry {first.entry_id.decode()}, after {moment.words}. Ask for a moment from "
            "there on."
        )
    return EventGone(
        f"The first event of thread {thread!r} that was not pruned is number {first.sequence}, of {began}: its state as of "
        f"{moment.words} is no longer known. Ask for a later moment; an export from before it was pruned has this one.",
        "pruned",
    )

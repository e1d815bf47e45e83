"""The work of a group's member, without I/O: partitions are read, and events handed out and settled.

Theory of operation:

1. A *lane* is a partition that the member leases. It is read in batches; the events of a batch are handed out in order.
2. An event is *in hand* from the moment it is handed out until it is finished or has failed. There is one at a time.
3. Finishing an event moves the lane's position in memory. The position is *settled*, which means written to the server,
   at the end of the batch, with any other write, or when it has been open for `acknowledge_within`.
4. An event that fails is laid aside with its thread. Later events of that thread join it instead of being handed out,
   until the waiting events have been handed out in order. The lane goes on meanwhile.
5. Every read and every settling names the lease's token and the entry last read. If another member has the lease, the
   lane is dropped as it is. If the server does not have that entry (it failed over and lost it), the lane goes back to
   the server's position, and `PositionLost` is raised once.

Warts: an event that was handled and not settled when its member died, or lost its lease, is handed out again.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import isfinite
from typing import Any

from eventlog.errors import (
    CorruptEntry,
    EffectRefused,
    EventGone,
    EventLogError,
    InvalidArgument,
    PositionLost,
    PositionTrimmed,
)
from eventlog.feed.activity import Activity, ActivityLoader, Filters, pack_pointer, read_pointer, unpack_pointer
from eventlog.feed.failures import Failure
from eventlog.feed.lane import STAY, Again, InHand, Lane
from eventlog.feed.leases import Gained, Leases, Lost
from eventlog.feed.position import Offset
from eventlog.feed.reading import SCAN, after, as_page, astray
from eventlog.flow import Argument, Call, Command, Flow, Pause, Wait, load_script
from eventlog.framing import ordered
from eventlog.keys import Keyspace, text

__all__ = ["Lanes"]

log = logging.getLogger("eventlog.feed")

LANE = load_script("eventlog/feed/lane")
SETTLE = load_script("eventlog/feed/settle")
WAITING = load_script("eventlog/feed/waiting")
IDLE = 1.0
"""Seconds after which a lane is read though nothing came: what was retried from outside is noticed by that."""
LEASELESS = 0.05
"""Seconds between looks for a lease of a member that has none."""
AGAIN = 50
"""Events that wait of one thread which are fetched at once."""
LONGEST_BACKOFF = 3600.0
MOST_ARGUMENTS = 1000


class Lanes:
    """A member's work. Not to be used by two tasks or threads at once, but for `leases`."""

    def __init__(
        self,
        keyspace: Keyspace,
        group: str,
        filters: Filters,
        leases: Leases,
        *,
        loader: ActivityLoader,
        batch: int,
        max_attempts: int,
        backoff: Callable[[int], float],
        acknowledge_within: float,
    ) -> None:
        self._keyspace = keyspace
        self._group = group
        self._encoded = group.encode()
        self._filters = filters.arguments()
        self._filtered = filters != Filters()
        self.leases = leases
        self._loader = loader
        self._batch = batch
        self._max_attempts = max_attempts
        self._backoff = backoff
        self._within = acknowledge_within
        self.lanes: dict[int, Lane] = {}
        self._turn: deque[Lane] = deque()
        """Lanes that have events to hand out."""
        self._again: Again | None = None
        self.in_hand: InHand | None = None
        self._open_since: float | None = None
        """When the oldest event was finished that is not settled."""
        self._astray: list[tuple[int, bytes]] = []
        """Leases that are to be asked anew where they are, since the server lost what they had led to."""
        self._others = 0
        """Events handed out since those of a thread that waited were fetched last."""
        self._effects: list[list[Argument]] = []
        self._effect_keys: list[bytes] = []

    # What a member's face calls without a round trip.

    def finish_and_ready(self) -> Activity | None:
        """The next event, the one in hand taken for handled, if that needs no round trip and nothing else is to be done first."""
        if self.leases.news or self._again is not None:
            return None
        hand = self.in_hand
        if hand is not None:  # as finish_quietly, without its calls: this runs for each event
            if hand.again is not None or self._effects or self._within == 0:
                return None
            self.in_hand = None
            lane = hand.lane
            lane.open, lane.done, lane.done_n = False, hand.activity, hand.n
            lane.handled += 1
            if self._open_since is None:
                self._open_since = time.monotonic()
        if self._open_since is not None and time.monotonic() - self._open_since >= self._within:
            return None
        return self._buffered()

    def finish_quietly(self) -> bool:
        """Takes the event in hand for handled, if that needs no round trip."""
        hand = self.in_hand
        if hand is None:
            return True
        if hand.again is not None or self._effects or self._within == 0:
            return False
        self.in_hand = None
        hand.lane.take_for_done(hand)
        hand.lane.handled += 1
        if self._open_since is None:
            self._open_since = time.monotonic()
        return True

    def effect(self, command: str, name: str, arguments: Sequence[Argument | float]) -> None:
        """Adds an effect to those that are carried out together with the acknowledgement of the event in hand."""
        if self.in_hand is None:
            raise InvalidArgument("An effect belongs to the event in hand; there is none.")
        if len(arguments) > MOST_ARGUMENTS:
            raise InvalidArgument(
                f"An effect takes {MOST_ARGUMENTS} arguments at most, not {len(arguments)}; use several effects."
            )
        for one in arguments:
            if isinstance(one, bool) or not isinstance(one, (bytes, str, int, float)):
                raise TypeError(f"An effect's arguments are bytes, texts and numbers, not {type(one).__name__}.")
            if isinstance(one, str):
                text("effect argument", one)
        key = self.in_hand.lane.keys.effects + text("effect key", name)
        if key not in self._effect_keys:
            self._effect_keys.append(key)
        words = [repr(one) if isinstance(one, float) else one for one in arguments]
        self._effects.append([command, self._effect_keys.index(key) + 1, *words])

    # Flows.

    def next(self) -> Flow[Activity | None]:
        """The next event; None after a while without any, so that whoever asks can stop."""
        self._hear()
        yield from self._give_up_excess()
        if self._open_since is not None and time.monotonic() - self._open_since >= self._within:
            yield from self._settle_all()
        activity = self._next_again()
        if activity is None and not self._turn:
            yield from self._read()
        if activity is None and self._others >= self._batch:  # a thread with a backlog must not delay the others
            activity = yield from self._fetched()
        if activity is None:
            activity = self._buffered() or (yield from self._fetched())
        if activity is None:
            yield from self._wait()
        return activity

    def finish(self) -> Flow[None]:
        """Takes the event in hand for handled. No round trip, but for one that has effects, or that waited.

        Raises `EffectRefused`; the event is in hand still then.
        """
        if self.finish_quietly():
            return
        hand = self.in_hand
        assert hand is not None
        lane = hand.lane
        if self.lanes.get(lane.number) is not lane:  # the lease is another's: so is the event
            self._let_go()
            return
        if hand.again is not None:
            yield from self._settle(lane)
            reply = yield from self._write(lane, again=[hand.activity.thread_id.encode(), hand.again], handled=1)
        else:
            reply = yield from self._settle_with(hand, handled=1, effects=True)
        self._let_go()
        if reply is not None and hand.again is not None:
            self._after_again(lane, hand.activity.thread_id, reply[1])

    def settle(self) -> Flow[None]:
        """Writes down what is done. A round trip per partition that something was done in."""
        yield from self._settle_all()

    def fail(self, error: BaseException) -> Flow[None]:
        """Lays the event in hand aside, to be tried again, or parks it. One round trip."""
        hand = self.in_hand
        if hand is None:
            return
        lane, activity = hand.lane, hand.activity
        self._effects, self._effect_keys = [], []
        if self.lanes.get(lane.number) is not lane:
            self._let_go()
            return
        if isinstance(error, EventGone):
            yield from self.finish()
            log.warning(
                "Group %r: %s What is gone is not tried again: event %s counts as handled",
                self._group, error, activity.event_id,
            )  # fmt: skip
            return
        attempts = activity.attempt
        park = attempts >= self._max_attempts or (isinstance(error, EffectRefused) and error.halfway)
        thread = activity.thread_id.encode()
        packed = hand.again or ordered(thread) + pack_pointer(activity)
        if hand.failure is None:
            hand.failure = Failure.of(error, attempts, self.leases.member.rpartition("/")[0])
            hand.delay = 0.0 if park else self._delay(attempts)
        failure, delay = hand.failure, hand.delay
        yield from self._settle_with(
            hand, failed=[thread, packed, b"inf" if park else b"%d" % int(delay * 1000), failure.encode()]
        )
        lane.held.add(activity.thread_id)
        lane.due = [other for other in lane.due if other != thread]
        if not park:
            due = time.monotonic() + delay
            lane.next_due = due if lane.next_due is None else min(due, lane.next_due)
        if self._again is not None and self._again.lane is lane and self._again.thread == thread:
            self._again = None
        self._let_go()
        outcome = "parked" if park else f"to be tried again in {delay:.1f} s"
        log.warning(
            "Group %r: handling event %s of thread %r failed (attempt %d of %d): %s; %s",
            self._group, activity.event_id, activity.thread_id, attempts, self._max_attempts, failure.error, outcome,
        )  # fmt: skip

    def leave(self) -> Flow[None]:
        """Settles everything, and gives the leases back. The event in hand is left to others."""
        self._let_go()
        self._hear()
        failed: EventLogError | None = None
        for lane in list(self.lanes.values()):
            try:
                yield from self._settle(lane)
            except EventLogError as error:
                failed = failed or error
        self.lanes, self._again = {}, None
        self._turn.clear()
        yield from self.leases.leave()
        if failed is not None:
            raise failed

    # Parts of these.

    def _let_go(self) -> None:
        self.in_hand = None
        self._effects, self._effect_keys = [], []

    def _hear(self) -> None:
        """What the leases' upkeep found out."""
        while self.leases.news:
            news = self.leases.news.popleft()
            if isinstance(news, Lost):
                lane = self.lanes.get(news.number)
                if lane is not None and lane.token == news.token:
                    self._drop(lane)
            else:
                self._gain(news)

    def _gain(self, news: Gained) -> None:
        if self.leases.tokens.get(news.number) != news.token:
            return
        if news.number in self.lanes:
            self._forget(self.lanes[news.number])
        keys = self._keyspace.partition(news.number).group(self._encoded)
        self.lanes[news.number] = Lane(
            news.number, news.token, keys, news.offset, news.n, set(news.held), news.stamp, settled=news.offset.id
        )

    def _drop(self, lane: Lane) -> None:
        """The lease is another's: what is not settled is handed out again there."""
        log.info("Group %r: partition %d went to another member", self._group, lane.number)
        self.leases.drop(lane.number, lane.token)
        self._forget(lane)

    def _forget(self, lane: Lane) -> None:
        self.lanes.pop(lane.number, None)
        if lane in self._turn:
            self._turn.remove(lane)
        if self._again is not None and self._again.lane is lane:
            self._again = None

    def _give_up_excess(self) -> Flow[None]:
        while self._astray:
            yield from self.leases.take_again(*self._astray[-1])
            self._astray.pop()
            self._hear()
        while len(self.lanes) > self.leases.share:
            lane = self.lanes[next(reversed(self.lanes))]
            yield from self._settle(lane)
            if self.lanes.get(lane.number) is lane:
                self._drop(lane)
                yield from self.leases.release(lane.number, lane.token)

    def _buffered(self) -> Activity | None:
        while self._turn:
            lane = self._turn[0]
            while lane.next < len(lane.pointers):
                entry = lane.pointers[lane.next]
                try:
                    activity = read_pointer(lane.number, entry[0], entry[1], loader=self._loader)
                except CorruptEntry:
                    lane.read_again()
                    self._turn.popleft()
                    raise
                lane.next += 1
                looked = entry[2] if len(entry) > 2 else lane.next
                if lane.held and activity.thread_id in lane.held:
                    thread = activity.thread_id.encode()
                    lane.waits += (thread, ordered(thread) + pack_pointer(activity))
                    lane.done, lane.done_n = activity, lane.base + looked
                    if self._open_since is None:
                        self._open_since = time.monotonic()
                    continue
                lane.open = True
                self._others += 1
                self.in_hand = InHand(lane, activity, lane.base + looked, None)
                return activity
            self._turn.popleft()
        return None

    def _next_again(self) -> Activity | None:
        """The next of the events of a thread that waited, of those that were fetched."""
        again = self._again
        if again is None:
            return None
        if not again.events:
            self._again = None
            return None
        packed = again.events.popleft()
        attempt, again.attempt = again.attempt, 1
        activity = unpack_pointer(
            again.lane.number, packed[len(ordered(again.thread)) :], loader=self._loader, attempt=attempt
        )
        self.in_hand = InHand(again.lane, activity, 0, packed)
        return activity

    def _fetched(self) -> Flow[Activity | None]:
        """The first event of the next thread whose turn has come again."""
        self._others = 0
        while self._again is None:
            lane = next((lane for lane in self.lanes.values() if lane.due), None)
            if lane is None:
                return None
            yield from self._fetch(lane, lane.due.pop(0))
        return self._next_again()

    def _fetch(self, lane: Lane, thread: bytes) -> Flow[None]:
        yield from self._settle(lane)
        if self.lanes.get(lane.number) is not lane:
            return
        events, told, due, _ = yield Call(WAITING, [lane.keys.held, lane.keys.failures, lane.keys.due], [thread, AGAIN])
        if due in (b"", b"inf"):
            return
        if not events:
            reply = yield from self._write(lane, again=[thread, b""])
            if reply is not None:
                lane.held.discard(thread.decode())
            return
        attempts = Failure.decode(self._group, thread, told).attempts if told else 0
        lane.held.add(thread.decode())
        self._again = Again(lane, thread, deque(events), attempts + 1)

    def _after_again(self, lane: Lane, thread_id: str, free: list[bytes]) -> None:
        thread = thread_id.encode()
        if thread in free:
            lane.held.discard(thread_id)
        elif self._again is None or not self._again.events:
            lane.due.append(thread)

    def _read(self) -> Flow[bool]:
        """Reads on where more may be, what is done settled first. Whether there is something to hand out."""
        now = time.monotonic()
        for lane in list(self.lanes.values()):
            if lane.next_due is not None and lane.next_due <= now:
                lane.more = True
            if (lane.more or now - lane.read_at >= IDLE) and lane.next >= len(lane.pointers):
                yield from self._read_lane(lane)
        return bool(self._turn) or any(lane.due for lane in self.lanes.values())

    def _read_lane(self, lane: Lane) -> Flow[None]:
        """Settles a lane and reads it on: one round trip; two if there is a filter and something to settle."""
        then = None if self._filtered else after(lane.keys.shared.feed, lane.offset, self._batch)
        if lane.is_unsettled():
            reply = yield from self._settle(lane, then=then)
            if reply is None:
                return
            if then is not None:
                _, _, due, left, entries = reply
                self._take_in(lane, as_page(entries, lane.offset, self._batch), due, left)
                return
        shared = lane.keys.shared
        count = 0 if then else self._batch
        words = [
            lane.token,
            lane.offset.id,
            lane.offset.check,
            count,
            lane.stamp,
            max(SCAN, self._batch),
            *self._filters,
        ]
        keys = [shared.feed, shared.trimmed, lane.keys.state, lane.keys.due]
        reply = yield Call(LANE, keys, words, then=then)
        told, entries = (reply, None) if then is None else reply
        if told[0] == b"fenced":
            self._drop(lane)
            return
        if told[0] != b"ok":
            raise self._gone_astray(lane, told[0])
        _, *page, due, left = told
        self._take_in(lane, page if then is None else as_page(entries, lane.offset, self._batch), due, left)

    def _take_in(self, lane: Lane, page: Sequence[Any], due: list[bytes], left: int) -> None:
        """What was read of a lane, and what is due there."""
        pointers, entry_id, check, looked, more = page
        lane.pointers, lane.next, lane.base, lane.before = pointers, 0, lane.n, lane.offset
        lane.offset, lane.n, lane.more = Offset(entry_id.decode(), check.decode()), lane.n + looked, bool(more)
        lane.due, lane.read_at = list(due), time.monotonic()
        lane.next_due = None if left < 0 else lane.read_at + left / 1000
        if pointers:
            self._turn.append(lane)

    def _gone_astray(self, lane: Lane, what: bytes) -> EventLogError:
        """The error for a lane whose server lost something. Its lease is asked anew where it is, to go on from there."""
        self._forget(lane)
        self._astray.append((lane.number, lane.token))
        return astray(what, lane.number, lane.offset)

    def _wait(self) -> Flow[None]:
        yield from self._settle_all()
        if not self.lanes:
            yield Pause(LEASELESS)
            return
        now = time.monotonic()
        dues = [lane.next_due for lane in self.lanes.values() if lane.next_due is not None]
        seconds = min([IDLE, *(max(0.0, due - now) for due in dues)])
        streams = {lane.keys.shared.feed: lane for lane in self.lanes.values()}
        asked = [(key, (lane.offset.id or "0-0").encode()) for key, lane in streams.items()]
        news = yield Wait(asked, max(1, int(seconds * 1000)))
        for key in news:
            if key in streams:
                streams[key].more = True

    def _settle_all(self) -> Flow[None]:
        for lane in list(self.lanes.values()):
            yield from self._settle(lane)
        self._open_since = None

    def _delay(self, attempts: int) -> float:
        """Seconds until an event is tried again."""
        try:
            delay = float(self._backoff(attempts))
        except Exception:
            log.exception("Group %r: backoff(%d) raised; the event is tried again in an hour", self._group, attempts)
            return LONGEST_BACKOFF
        return min(max(delay, 0.0), LONGEST_BACKOFF) if isfinite(delay) else LONGEST_BACKOFF

    def _settle_with(
        self, hand: InHand, *, handled: int = 0, effects: bool = False, failed: Sequence[bytes] = ()
    ) -> Flow[list[Any] | None]:
        """Settles a lane, the event in hand done with; if that fails it is not."""
        lane = hand.lane
        before = lane.open, lane.done, lane.done_n, lane.handled
        if hand.again is None:
            lane.take_for_done(hand)
        lane.handled += handled
        try:
            return (yield from self._settle(lane, effects=effects, failed=failed))
        except (PositionLost, PositionTrimmed):  # the lane began anew
            self._let_go()
            raise
        except BaseException:
            lane.open, lane.done, lane.done_n, lane.handled = before
            raise

    def _settle(
        self, lane: Lane, *, effects: bool = False, failed: Sequence[bytes] = (), then: Command | None = None
    ) -> Flow[list[Any] | None]:
        """Writes down how far a lane is. A round trip, if there is something to write down. None if there was not, or if the lease
        is another's. With `then`, its reply is the last item.
        """
        position, n = lane.reached()
        if not (position.id or lane.waits or failed or effects):
            return None
        reply = yield from self._write(
            lane, position, n, waits=lane.waits, failed=failed, handled=lane.handled, effects=effects, then=then
        )
        if reply is not None:
            lane.waits, lane.handled, lane.done = [], 0, None
            if position.id:
                lane.settled = position.id
        return reply

    def _write(
        self,
        lane: Lane,
        position: Offset = STAY,
        n: int = 0,
        *,
        waits: Sequence[bytes] = (),
        again: Sequence[bytes] = (),
        failed: Sequence[bytes] = (),
        handled: int = 0,
        effects: bool | None = None,
        then: Command | None = None,
    ) -> Flow[list[Any] | None]:
        shared = lane.keys.shared
        keys = [
            shared.positions,
            lane.keys.state,
            lane.keys.held,
            lane.keys.failures,
            lane.keys.due,
            shared.feed,
            shared.trimmed,
        ]
        words: list[Argument] = [position.id, position.check, n, handled]
        words += [len(waits) // 2, *waits, len(again) // 2, *again, len(failed) // 4, *failed]
        carried = self._effects if effects or (again and effects is None) else []
        words.append(len(carried))
        for effect in carried:
            words += [len(effect), *effect]
        stamp = _stamp(lane.stamp, words)
        words = [self._encoded, lane.token, lane.stamp, stamp, *words]
        reply = yield Call(SETTLE, [*keys, *(self._effect_keys if carried else ())], words, then=then)
        if then is not None:
            reply = [*reply[0], reply[1]] if reply[0][0] == b"ok" else reply[0]
        if reply[0] == b"ok":
            lane.stamp = stamp
            return reply  # type: ignore[no-any-return]
        if reply[0] == b"fenced":
            self._drop(lane)
            return None
        if reply[0] in (b"refused", b"halfway"):
            _, number, error = reply
            command = carried[number - 1][0]
            raise EffectRefused(
                f"Group {self._group!r}: the server refused effect {number} ({command}) of the event in hand: {error.decode()}. "
                + ("Those before it were carried out." if reply[0] == b"halfway" else "Nothing was written."),
                halfway=reply[0] == b"halfway",
            )
        raise self._gone_astray(lane, reply[0])


def _stamp(before: bytes, words: Sequence[Argument]) -> bytes:
    """What tells a call to write something down from any other: it names the one before."""
    digest = blake2b(before, digest_size=8)
    for word in words:
        part = word if isinstance(word, bytes) else str(word).encode()
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest().encode()

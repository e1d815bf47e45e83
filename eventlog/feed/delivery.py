"""A member's round trips: it reads its partitions, and settles its progress.

`assignment.py` has the state, and `states.py` the theory of operation. The flows here make the calls, and pass the replies on.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import inf, isfinite

from eventlog.errors import EffectRefused, EventGone, EventLogError, PositionLost, PositionTrimmed
from eventlog.feed.activity import Activity, ActivityLoader, Filters
from eventlog.feed.assignment import STAY, AssignedPartition, Assignment, Backlog, InHand, Retry
from eventlog.feed.failures import Failure
from eventlog.feed.leases import Leases
from eventlog.feed.reading import SCAN, after, astray, waiting_events
from eventlog.feed.registration import state_damaged
from eventlog.feed.replies import FENCED, OK, Page, PageReply, Settled
from eventlog.feed.states import Happened, Outcome, PartitionState, Write
from eventlog.flow import Argument, Call, Command, Flow, Pause, Wait, load_script
from eventlog.keys import Keyspace
from eventlog.printable import printable

__all__ = ["Delivery"]

log = logging.getLogger("eventlog.feed")

READ_LEASED = load_script("eventlog/feed/read_leased")
SETTLE = load_script("eventlog/feed/settle")
IDLE = 1.0
"""The seconds after which all partitions are read without news, so that a retry by an operator is noticed."""
LEASELESS = 0.05
"""The seconds between looks of a member without leases."""
MOST_FETCHED = 50
"""The number of waiting events of a thread that are fetched at once."""
LONGEST_BACKOFF = 3600.0
NOTHING = Write()
"""No change to the event in hand."""


class Delivery:
    """The delivery of events to one member, for one thread or task at a time."""

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
        self.leases = leases
        self.assignment = Assignment(keyspace, group, leases, loader, acknowledge_within)
        self._group = group
        self._encoded = group.encode()
        self._filters = filters.arguments()
        self._filtered = filters != Filters()
        self._batch = batch
        self._max_attempts = max_attempts
        self._backoff = backoff
        self._looked_at = -inf
        """The time, by the monotonic clock, when all partitions were read last without news."""

    def next(self) -> Flow[Activity | None]:
        """Hands out the next event, or None, so that the caller can stop."""
        work = self.assignment
        work.hear()
        yield from self._ask_where_astray()
        yield from self._give_up_excess()
        if time.monotonic() >= work.settle_at:
            yield from self.settle()
        activity = work.next_waiting()
        if activity is None and not work.is_ready:
            yield from self._read()
        if activity is None and work.since_backlog >= self._batch:  # a long backlog must not delay other threads
            activity = yield from self._fetched()
        if activity is None:
            activity = work.next_ready() or (yield from self._fetched())
        if activity is None:
            yield from self._wait()
        return activity

    def finish(self) -> Flow[None]:
        """Counts the event in hand as handled.

        One round trip if it has effects or waited, else none. Raises `EffectRefused`; the event stays in hand then.
        """
        work, hand = self.assignment, self.assignment.in_hand
        if hand is None or work.finish_in_memory():
            return
        settled = yield from self._conclude(hand, Outcome.HANDLED)
        if settled is not None:
            work.note_handled(hand, settled.free)

    def fail(self, error: BaseException) -> Flow[None]:
        """Makes the event in hand a waiting event, to be tried again or parked.

        One round trip. An event that is gone counts as handled; another event that is gone is a failure like any other.
        """
        work, hand = self.assignment, self.assignment.in_hand
        if hand is None:
            return
        activity = hand.activity
        work.effects = []
        if hand.partition.is_assigned and _is_gone(activity, error):
            yield from self.finish()
            log.warning(
                "Group %r: %s Event %s counts as handled, since another attempt cannot load it either",
                self._group, printable(str(error)), printable(activity.event_id),
            )  # fmt: skip
            return
        if hand.retry is None:
            hand.retry = self._retry(activity, error)
        failure, delay = hand.retry
        settled = yield from self._conclude(hand, Outcome.FAILED)
        if settled is None:
            following = "left to the member that has the lease now"
        else:
            work.note_failed(hand, delay)
            following = "parked" if delay == inf else f"to be tried again in {delay:.1f} s"
        log.warning(
            "Group %r: handling event %s of thread %r failed (attempt %d of %d): %s; %s",
            self._group, printable(activity.event_id), activity.thread_id, activity.attempt, self._max_attempts,
            printable(failure.error), following,
        )  # fmt: skip

    def settle(self) -> Flow[None]:
        """Settles the progress. One round trip per partition with progress."""
        for partition in self.assignment.assigned():
            yield from self._settle(partition)
        self.assignment.settle_at = inf

    def leave(self) -> Flow[None]:
        """Settles everything, and leaves leases and the event in hand to others."""
        work = self.assignment
        work.hear()
        failed: EventLogError | None = None
        for partition in work.assigned():
            try:
                yield from self._settle(partition)
            except EventLogError as error:
                failed = failed or error
        work.let_go()
        yield from self.leases.leave()
        if failed is not None:
            raise failed

    # Leases.

    def _ask_where_astray(self) -> Flow[None]:
        """Asks for the group's position where the server lost the entry read last."""
        work = self.assignment
        for partition in list(work.partitions.values()):
            if partition.state is PartitionState.ASTRAY:
                yield from self.leases.take_again(partition.number, partition.token)
        work.hear()

    def _give_up_excess(self) -> Flow[None]:
        work = self.assignment
        while len(work.partitions) > self.leases.share:
            partition = work.partitions[next(reversed(work.partitions))]
            yield from self._settle(partition)
            if partition.state is not PartitionState.GONE:
                work.drop(partition)
                yield from self.leases.release(partition.number, partition.token)

    # Reading.

    def _read(self) -> Flow[None]:
        """Reads the partitions where more may follow, and settles their progress."""
        now = time.monotonic()
        look = now - self._looked_at >= IDLE
        if look:
            self._looked_at = now
        for partition in self.assignment.assigned():
            if look or partition.next_due <= now:
                partition.became(Happened.RUNG)
            if partition.state is PartitionState.BEHIND:
                yield from self._read_on(partition)

    def _read_on(self, partition: AssignedPartition) -> Flow[None]:
        """Settles a partition and reads on.

        One round trip; two if there are filters and progress to settle. Without filters a plain `XRANGE` after the
        script, in the same write, reads the feed: a script's reply costs more.
        """
        work, shared, offset = self.assignment, partition.keys.shared, partition.stretch.end.offset
        then = None if self._filtered else after(shared.feed, offset, self._batch)
        if work.is_unsettled(partition):
            settled = yield from self._settle(partition, then=then)
            if settled is None:
                return
            if then is not None:
                work.take_in(partition, Page.of_entries(settled.entries, offset, self._batch), settled.schedule)
                return
        words: list[Argument] = [
            partition.token,
            offset.id,
            offset.fingerprint,
            self._batch if then is None else 0,
            partition.stamp,
            max(SCAN, self._batch),
            *self._filters,
        ]
        keys = [shared.feed, shared.trimmed, partition.keys.state, partition.keys.due]
        raw = yield Call(READ_LEASED, keys, words, then=then)
        reply = PageReply.of(raw) if then is None else PageReply.of(*raw)
        if self._has(partition, reply.status):
            page = reply.page if then is None else Page.of_entries(reply.entries, offset, self._batch)
            work.take_in(partition, page, reply.schedule)

    def _has(self, partition: AssignedPartition, status: bytes) -> bool:
        """Whether the member still has a partition, by the status of a reply.

        Raises `PositionLost` or `PositionTrimmed` if the server does not have the entry that was read last.
        """
        if status == OK:
            return True
        if status == FENCED:
            self.assignment.drop(partition)
            return False
        self.assignment.go_astray(partition)
        raise astray(status, partition.number, partition.stretch.end.offset)

    def _wait(self) -> Flow[None]:
        """Settles everything, then waits until an entry comes or a thread is due."""
        yield from self.settle()
        partitions = list(self.assignment.assigned())
        if not partitions:
            yield Pause(LEASELESS)
            return
        seconds = min(IDLE, *(max(0.0, one.next_due - time.monotonic()) for one in partitions))
        streams = {one.keys.shared.feed: one for one in partitions}
        asked = [(feed, one.stretch.end.offset.id.encode()) for feed, one in streams.items()]
        news = yield Wait(asked, max(1, int(seconds * 1000)))
        for feed in news:
            streams[feed].became(Happened.RUNG)

    # Waiting events.

    def _fetched(self) -> Flow[Activity | None]:
        """Hands out the first waiting event of the next thread that is due."""
        work = self.assignment
        work.since_backlog = 0
        while work.backlog is None:
            partition = next((one for one in work.assigned() if one.due), None)
            if partition is None:
                return None
            yield from self._fetch(partition, partition.due.popleft())
        return work.next_waiting()

    def _fetch(self, partition: AssignedPartition, thread: bytes) -> Flow[None]:
        try:
            name = thread.decode()
        except UnicodeDecodeError as error:
            raise state_damaged(self._group, partition.keys, error) from error
        yield from self._settle(partition)
        if not partition.is_assigned:
            return
        found = yield from waiting_events(partition.keys, thread, MOST_FETCHED)
        if found.due in {b"", b"inf"}:
            return
        if not found.events:
            if (yield from self._settle(partition, again=[thread, b""])) is not None:
                partition.waiting.discard(name)
            return
        attempts = Failure.decode(self._group, thread, found.failure).attempts if found.failure else 0
        partition.waiting.add(name)
        self.assignment.backlog = Backlog(partition, thread, deque(found.events), attempts + 1)

    def _retry(self, activity: Activity, error: BaseException) -> Retry:
        """Decides when an event whose handler raised is tried again."""
        attempts = activity.attempt
        parked = attempts >= self._max_attempts or (isinstance(error, EffectRefused) and error.halfway)
        failure = Failure.of(error, attempts, self.leases.name)
        return Retry(failure, inf if parked else self._delay(attempts))

    def _delay(self, attempts: int) -> float:
        """The seconds until an event is tried again."""
        try:
            delay = float(self._backoff(attempts))
        except Exception:
            log.exception("Group %r: backoff(%d) raised; the event is tried again in an hour", self._group, attempts)
            return LONGEST_BACKOFF
        return min(max(delay, 0.0), LONGEST_BACKOFF) if isfinite(delay) else LONGEST_BACKOFF

    # Settling.

    def _conclude(self, hand: InHand, outcome: Outcome) -> Flow[Settled | None]:
        """Writes the outcome of the event in hand; None if the lease was lost."""
        work, partition = self.assignment, hand.partition
        settled = None
        if partition.is_assigned:
            try:
                settled = yield from self._settle(partition, hand, hand.step(outcome).write or NOTHING)
            except (PositionLost, PositionTrimmed):
                work.let_go()
                raise
        if settled is None:
            work.let_go()
        return settled

    def _settle(
        self,
        partition: AssignedPartition,
        hand: InHand | None = None,
        write: Write = NOTHING,
        *,
        again: Sequence[bytes] = (),
        then: Command | None = None,
    ) -> Flow[Settled | None]:
        """Writes the progress of a partition, and the event in hand as `write` says.

        One round trip if there is something to write. Returns None if there is not, or if the member lost the lease.
        `again`: a thread and a waiting event that is done with. `then`: a command to be sent after the script.
        """
        work, unsettled = self.assignment, partition.unsettled
        position = work.reached(partition, hand if write.advances else None)
        joined, failed = unsettled.joined, []
        if hand is not None and write.takes_out:
            again = [hand.thread, hand.packed]
        if hand is not None and write.lays_aside and hand.retry is not None:
            failure, delay = hand.retry
            due = b"inf" if delay == inf else b"%d" % int(delay * 1000)
            failed = [hand.thread, hand.as_waiting(), due, failure.encode()]
        if not partition.is_assigned or not (position is not STAY or joined or again or failed or write.effects):
            return None
        words: list[Argument] = [position.offset.id, position.offset.fingerprint, position.n]
        words.append(unsettled.handled + (hand is not None and not failed))
        words += [len(joined) // 2, *joined, len(again) // 2, *again, len(failed) // 4, *failed]
        effects = work.effects if write.effects else []
        effect_keys = list(dict.fromkeys(effect.key for effect in effects))
        words.append(len(effects))
        for command, key, arguments in effects:
            words += [len(arguments) + 2, command, effect_keys.index(key) + 1, *arguments]
        stamp = _stamp(partition.stamp, words)
        words = [self._encoded, partition.token, partition.stamp, stamp, *words]
        shared, own = partition.keys.shared, partition.keys
        keys = [shared.positions, own.state, own.held, own.failures, own.due, shared.feed, shared.trimmed]
        try:
            raw = yield Call(SETTLE, [*keys, *effect_keys], words, then=then)
        except BaseException:  # the server may have carried it out, so it is sent again before anything is handed out
            work.settle_at = -inf
            raise
        reply = Settled.of(raw) if then is None else Settled.of(*raw)
        if reply.refused:
            raise self._refused(reply)
        if not self._has(partition, reply.status):
            return None
        work.note_settled(partition, position, stamp)
        return reply

    def _refused(self, reply: Settled) -> EffectRefused:
        halfway = reply.status == b"halfway"
        command = self.assignment.effects[reply.refused - 1].command
        return EffectRefused(
            f"Group {self._group!r}: the server refused effect {reply.refused} ({command}) of the event in hand: {reply.error}. "
            + ("Those before it were carried out." if halfway else "Nothing was written."),
            halfway=halfway,
        )


def _is_gone(activity: Activity, error: BaseException) -> bool:
    """Whether an error says that this event is gone, not another one that its handler loaded."""
    return isinstance(error, EventGone) and (error.thread_id, error.event_id) == (activity.thread_id, activity.event_id)


def _stamp(before: bytes, words: Sequence[Argument]) -> bytes:
    """The stamp of a settlement, which covers the stamp of the one before."""
    digest = blake2b(before, digest_size=8)
    for word in words:
        part = word if isinstance(word, bytes) else str(word).encode()
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest().encode()

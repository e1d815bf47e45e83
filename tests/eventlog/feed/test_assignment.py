"""A member's assignment without a server: both tables, and the state that follows from them."""

from __future__ import annotations

import itertools
import random
import time
from collections import deque
from math import inf
from typing import Any

import pytest

from eventlog import CorruptEntry, InvalidArgument, Keyspace, ServerUnavailable
from eventlog.feed.activity import Filters, fingerprint_of
from eventlog.feed.assignment import STAY, AssignedPartition, Assignment, Backlog, InHand
from eventlog.feed.delivery import Delivery
from eventlog.feed.leases import Gained, Leases, Lost
from eventlog.feed.position import Offset
from eventlog.feed.replies import Leased, Page, Schedule
from eventlog.feed.states import EVENTS, PARTITIONS, EventState, Happened, Outcome, PartitionState
from eventlog.flow import Flow

READS = {Happened.MORE, Happened.LAST, Happened.SKIPPED, Happened.END}


def pointer(number: int, thread: str = "a") -> tuple[bytes, list[bytes]]:
    """An entry of a feed."""
    fields = {"thread": thread, "id": f"{number}-0", "seq": str(number), "kind": "checkpoint"}
    return b"%d-0" % number, [part.encode() for pair in fields.items() for part in pair]


class Bench:
    """An assignment whose replies a test makes up."""

    def __init__(self, *numbers: int, within: float = 1e6) -> None:
        keyspace = Keyspace("p", 4)
        self.leases = Leases(keyspace, "g", "m", 10.0)
        self.assignment = Assignment(keyspace, "g", self.leases, None, within)  # type: ignore[arg-type]
        for number in numbers:
            self.gain(number)

    def gain(self, number: int, token: bytes = b"t", at: Leased | None = None) -> AssignedPartition:
        """A partition that was just leased."""
        self.leases.tokens[number] = token
        self.leases.news.append(Gained(number, token, at or Leased(b"ok")))
        self.assignment.hear()
        return self.assignment.partitions[number]

    def read(self, number: int, *pointers: Any, more: bool = False, schedule: Schedule | None = None) -> None:
        """Takes in some pointers."""
        page = Page(list(pointers), Offset(pointers[-1][0].decode(), "print"), len(pointers), more)
        self.assignment.take_in(self.assignment.partitions[number], page, schedule or Schedule())

    def in_hand(self) -> InHand:
        """The event in hand."""
        assert self.assignment.in_hand is not None
        return self.assignment.in_hand

    def handed(self) -> list[tuple[str, int]]:
        """Thread and number of all that is handed out without a round trip."""
        found = []
        while (activity := self.assignment.finish_and_ready()) is not None:
            found.append((activity.thread_id, activity.sequence))
        return found


def partition(state: PartitionState) -> AssignedPartition:
    """A partition in some state."""
    found = Bench(0).assignment.partitions[0]
    found.state = state
    return found


@pytest.mark.parametrize(("state", "happened"), list(itertools.product(PartitionState, Happened)))
def test_every_pair_of_partitions(state: PartitionState, happened: Happened) -> None:
    """What can happen leads to the table's state; the rest is an error that names both."""
    one = partition(state)
    following = PARTITIONS[state].get(happened)
    if following is None:
        with pytest.raises(RuntimeError, match="impossible"):
            one.became(happened)
        assert one.state is state
    else:
        one.became(happened)
        assert one.state is following


@pytest.mark.parametrize(("state", "outcome"), list(itertools.product(EventState, Outcome)))
def test_every_pair_of_events(state: EventState, outcome: Outcome) -> None:
    """What can happen has a step in the table; the rest is an error that names both."""
    bench = Bench(0)
    bench.read(0, pointer(1))
    bench.assignment.next_ready()
    hand = bench.in_hand()
    hand.state = state
    step = EVENTS[state].get(outcome)
    if step is None:
        with pytest.raises(RuntimeError, match="impossible"):
            hand.step(outcome)
    else:
        assert hand.step(outcome) == step


def test_the_tables_are_whole() -> None:
    """Each state has a row, is reached from another, and only the last states lead nowhere."""
    assert set(PARTITIONS) == set(PartitionState)
    assert set(EVENTS) == set(EventState)
    reached = {following for row in PARTITIONS.values() for following in row.values()}
    assert reached == set(PartitionState)
    assert [state for state, row in PARTITIONS.items() if not row] == [PartitionState.GONE]
    assert [state for state, row in EVENTS.items() if not row] == [EventState.DONE]
    assert all(Happened.LEFT in row for row in PARTITIONS.values() if row)


def test_only_a_partition_that_is_behind_is_read() -> None:
    """A read's outcome is impossible in every other state, so that nothing read is lost."""
    for state, row in PARTITIONS.items():
        assert set(row) & READS == (READS if state is PartitionState.BEHIND else set())


def test_what_is_done_with_is_written_whole() -> None:
    """Each outcome moves the position, or takes the event out or puts it back; effects run only with a success."""
    for state, row in EVENTS.items():
        for outcome, step in row.items():
            if step.write is None:
                continue
            assert step.state is EventState.DONE
            assert step.write.lays_aside == (outcome is Outcome.FAILED)
            assert step.write.effects == (outcome is Outcome.HANDLED)
            assert step.write.advances == (state is not EventState.WAITED)
            assert step.write.takes_out == (state is EventState.WAITED and outcome is Outcome.HANDLED)


@pytest.mark.parametrize(("more", "after"), [(True, PartitionState.BEHIND), (False, PartitionState.CAUGHT_UP)])
def test_a_batch_from_read_to_drained(more: bool, after: PartitionState) -> None:
    """Events come out in order, the position moves as they are finished, and the end is the last entry read."""
    bench = Bench(0)
    one = bench.assignment.partitions[0]
    bench.read(0, pointer(1), pointer(2), more=more)
    assert one.state is (PartitionState.READY if more else PartitionState.LAST_READY)
    assert bench.assignment.reached(one) is STAY
    bench.assignment.finish_and_ready()
    assert bench.assignment.reached(one) is STAY
    bench.assignment.finish_and_ready()
    assert (bench.assignment.reached(one).offset.id, bench.assignment.reached(one).n) == ("1-0", 1)
    assert bench.assignment.finish_and_ready() is None
    assert one.state is after
    assert bench.assignment.reached(one) == (Offset("2-0", "print"), 2)
    assert one.unsettled.handled == 2
    bench.assignment.note_settled(one, bench.assignment.reached(one), b"stamp")
    assert bench.assignment.reached(one) is STAY
    assert (one.unsettled.handled, one.settled, one.stamp) == (0, "2-0", b"stamp")


def test_partitions_take_turns_by_batch() -> None:
    """The batch that was read first is handed out first, and whole."""
    bench = Bench(0, 1)
    bench.read(1, pointer(1, "b"), pointer(2, "b"))
    bench.read(0, pointer(1), pointer(2))
    assert bench.handed() == [("b", 1), ("b", 2), ("a", 1), ("a", 2)]


def test_an_event_joins_its_thread() -> None:
    """Events of a thread that waits are noted instead of handed out; the position moves past them."""
    bench = Bench()
    one = bench.gain(0, at=Leased(b"ok", waiting=frozenset({"a"})))
    bench.read(0, pointer(1), pointer(2, "b"), pointer(3))
    assert bench.handed() == [("b", 2)]
    assert one.unsettled.joined[::2] == [b"a", b"a"]
    assert bench.assignment.reached(one).offset.id == "3-0"


def test_settling_is_due_after_a_while() -> None:
    """The fast path ends when the oldest finished event has to be settled; at once, if each has to."""
    bench = Bench(0)
    bench.read(0, pointer(1), pointer(2))
    bench.assignment.finish_and_ready()
    bench.assignment.settle_at = 0.0
    assert bench.assignment.finish_and_ready() is None
    at_once = Bench(0, within=0)
    at_once.read(0, pointer(1), pointer(2))
    at_once.assignment.finish_and_ready()
    assert at_once.in_hand().state is EventState.BOUND
    assert at_once.assignment.finish_and_ready() is None
    assert not at_once.assignment.finish_in_memory()


def test_an_effect_binds_its_event() -> None:
    """An event with effects is finished by a round trip only; letting it go drops them."""
    bench = Bench(0)
    bench.read(0, pointer(1))
    bench.assignment.next_ready()
    bench.assignment.add_effect("set", "k", ["v"])
    assert bench.in_hand().state is EventState.BOUND
    assert not bench.assignment.finish_in_memory()
    keys = bench.assignment.partitions[0].keys
    assert bench.assignment.effects == [("SET", keys.effects + b"k", ["v"])]
    bench.assignment.let_go()
    assert bench.assignment.effects == []


def test_an_entry_that_cannot_be_decoded() -> None:
    """What was handed out before it counts; the rest is read again from there."""
    bench = Bench(0)
    one = bench.assignment.partitions[0]
    bench.read(0, pointer(1), (b"2-0", [b"what", b"ever"]), pointer(3))
    bench.assignment.finish_and_ready()
    with pytest.raises(CorruptEntry, match="2-0"):
        bench.assignment.finish_and_ready()
    assert one.state is PartitionState.BEHIND
    assert (one.stretch.end.offset.id, one.stretch.end.n) == ("1-0", 1)
    assert bench.assignment.reached(one).offset.id == "1-0"


def test_an_entry_after_filtered_ones_that_cannot_be_decoded() -> None:
    """The position counts the entries that the filters left out, and names the last pointer that was handed out."""
    bench = Bench()
    one = bench.gain(0, at=Leased(b"ok", Offset("3-0", "print"), 3))
    first, filtered, wrong = pointer(4), pointer(7), (b"9-0", [b"what", b"ever"])
    bench.read(0, (*first, 1), (*filtered, 4), (*wrong, 6))
    for _ in range(2):
        bench.assignment.finish_and_ready()
    assert bench.in_hand().n == 7
    start = one.stretch.start
    with pytest.raises(CorruptEntry, match="9-0"):
        bench.assignment.finish_and_ready()
    assert one.stretch.start == start
    assert one.stretch.end == (Offset("7-0", fingerprint_of(filtered[1]).decode()), 7)
    assert one.stretch.is_drained()
    assert bench.assignment.reached(one) == one.stretch.end


def test_a_first_entry_that_cannot_be_decoded() -> None:
    """The position stays where the batch began."""
    bench = Bench()
    one = bench.gain(0, at=Leased(b"ok", Offset("3-0", "print"), 3))
    bench.read(0, (b"4-0", [b"what", b"ever"]), pointer(5))
    with pytest.raises(CorruptEntry, match="4-0"):
        bench.assignment.finish_and_ready()
    assert one.stretch.start == one.stretch.end == (Offset("3-0", "print"), 3)
    assert one.stretch.is_drained()
    assert not bench.assignment.is_ready
    assert bench.assignment.reached(one) is STAY


def test_finishing_in_memory() -> None:
    """A fresh event is counted without a round trip, and is due to be settled within the given time."""
    bench = Bench(0)
    one = bench.assignment.partitions[0]
    assert bench.assignment.finish_in_memory()
    bench.read(0, pointer(1), pointer(2))
    before = time.monotonic()
    for number in (1, 2):
        bench.assignment.next_ready()
        hand = bench.in_hand()
        assert bench.assignment.finish_in_memory()
        assert (hand.state, bench.assignment.in_hand) == (EventState.DONE, None)
        assert (one.unsettled.handled, one.unsettled.last) == (number, hand)
    assert before + 1e6 <= bench.assignment.settle_at <= time.monotonic() + 1e6
    assert bench.assignment.is_unsettled(one)
    first = bench.assignment.settle_at
    bench.assignment.finish_and_ready()
    assert bench.assignment.settle_at == first


def test_the_fast_path_notes_when_to_settle() -> None:
    """The oldest event that is finished sets the time."""
    bench = Bench(0)
    bench.read(0, pointer(1), pointer(2), pointer(3))
    bench.assignment.finish_and_ready()
    assert bench.assignment.settle_at == inf
    before = time.monotonic()
    bench.assignment.finish_and_ready()
    first = bench.assignment.settle_at
    assert before + 1e6 <= first <= time.monotonic() + 1e6
    bench.assignment.finish_and_ready()
    assert bench.assignment.settle_at == first
    assert bench.assignment.since_backlog == 3


def test_news_and_a_backlog_end_the_fast_path() -> None:
    """Each alone leads to the round trips, and the event stays in hand until then."""
    bench = Bench(0)
    bench.read(0, pointer(1), pointer(2))
    bench.assignment.finish_and_ready()
    hand = bench.in_hand()
    bench.leases.news.append(Lost(1, b"t"))
    assert bench.assignment.finish_and_ready() is None
    bench.assignment.hear()
    bench.assignment.backlog = Backlog(hand.partition, b"a", deque(), 1)
    assert bench.assignment.finish_and_ready() is None
    assert bench.in_hand() is hand
    assert bench.assignment.next_waiting() is None
    assert bench.assignment.finish_and_ready() is not None


def test_an_effect_needs_an_event_in_hand() -> None:
    """Without one it is refused."""
    with pytest.raises(InvalidArgument, match="event in hand"):
        Bench(0).assignment.add_effect("set", "k", ["v"])


def test_an_event_that_joins_moves_the_position() -> None:
    """At once, and it has to be settled in time, although it is not handed out."""
    bench = Bench()
    one = bench.gain(0, at=Leased(b"ok", waiting=frozenset({"a"})))
    bench.read(0, pointer(1), pointer(2, "b"))
    before = time.monotonic()
    bench.assignment.next_ready()
    assert bench.assignment.reached(one).offset.id == "1-0"
    assert before + 1e6 <= bench.assignment.settle_at <= time.monotonic() + 1e6
    assert (one.unsettled.handled, bench.assignment.since_backlog) == (0, 1)


def test_a_lease_that_was_taken_again() -> None:
    """News of an earlier lease changes nothing."""
    bench = Bench()
    bench.leases.tokens[0] = b"later"
    bench.leases.news.append(Gained(0, b"earlier", Leased(b"ok")))
    bench.assignment.hear()
    assert not bench.assignment.partitions


@pytest.mark.parametrize(("more", "after"), [(True, PartitionState.BEHIND), (False, PartitionState.CAUGHT_UP)])
def test_a_page_without_events(more: bool, after: PartitionState) -> None:
    """The position moves to its end, and the partition is read on only if more may follow."""
    bench = Bench(0)
    one = bench.assignment.partitions[0]
    before = time.monotonic()
    page = Page([], Offset("5-0", "print"), 4, more)
    bench.assignment.take_in(one, page, Schedule([b"a"], 7.0))
    assert (one.state, bench.assignment.is_ready) == (after, False)
    assert bench.assignment.reached(one) == (Offset("5-0", "print"), 4)
    assert list(one.due) == [b"a"]
    assert before + 7 <= one.next_due <= time.monotonic() + 7


def test_an_event_in_hand_that_waited_holds_no_position_back() -> None:
    """Its entry of the feed was passed when it began to wait."""
    bench = Bench()
    one = bench.gain(0, at=Leased(b"ok", waiting=frozenset({"a"})))
    bench.read(0, pointer(1), pointer(2))
    assert bench.handed() == []
    bench.assignment.backlog = Backlog(one, b"a", deque(one.unsettled.joined[1:2]), 1)
    bench.assignment.next_waiting()
    assert bench.in_hand().n == 0
    assert bench.assignment.reached(one).offset.id == "2-0"


def test_an_event_in_hand_holds_back_its_own_partition_only() -> None:
    """The position of another partition moves to the end of its batch."""
    bench = Bench(0, 1)
    first, second = bench.assignment.partitions.values()
    bench.read(0, pointer(1))
    bench.read(1, pointer(1))
    bench.assignment.finish_and_ready()
    bench.assignment.finish_and_ready()
    assert bench.in_hand().partition is second
    assert bench.assignment.reached(first).offset == Offset("1-0", "print")
    assert bench.assignment.reached(second) is STAY


@pytest.mark.parametrize(("partition", "thread", "dropped"), [(0, b"a", True), (0, b"b", False), (1, b"a", False)])
def test_a_failure_drops_the_backlog_of_its_thread(partition: int, thread: bytes, dropped: bool) -> None:
    """What was fetched of other threads is still handed out; the failed thread is due after the delay."""
    bench = Bench(0, 1)
    one = bench.assignment.partitions[0]
    bench.read(0, pointer(1))
    bench.assignment.next_ready()
    backlog = Backlog(bench.assignment.partitions[partition], thread, deque([b"x"]), 1)
    bench.assignment.backlog = backlog
    before = time.monotonic()
    bench.assignment.note_failed(bench.in_hand(), 3.0)
    assert bench.assignment.backlog is (None if dropped else backlog)
    assert before + 3 <= one.next_due <= time.monotonic() + 3


@pytest.mark.parametrize("pointers", [[pointer(1), pointer(2)], [pointer(1)]])
def test_a_lease_that_is_lost(pointers: list[Any]) -> None:
    """The partition is gone with what was read and fetched of it, and its event in hand has nothing to be written to."""
    bench = Bench(0)
    one = bench.assignment.partitions[0]
    bench.read(0, *pointers)
    bench.assignment.next_ready()
    bench.assignment.backlog = Backlog(one, b"a", Any, 1)  # type: ignore[arg-type]
    bench.leases.news.append(Lost(0, b"another"))
    bench.assignment.hear()
    assert one.is_assigned
    bench.leases.news.append(Lost(0, b"t"))
    assert bench.assignment.finish_and_ready() is None
    bench.assignment.hear()
    assert (one.state, one.is_assigned) == (PartitionState.GONE, False)
    assert not bench.assignment.partitions
    assert not bench.leases.tokens
    assert bench.assignment.next_waiting() is None
    assert not bench.assignment.is_ready
    assert not bench.in_hand().partition.is_assigned


def test_a_partition_that_went_astray() -> None:
    """It is neither read nor settled until its lease was asked for the position; then it begins there."""
    bench = Bench(0)
    one = bench.assignment.partitions[0]
    bench.read(0, pointer(1), pointer(2))
    bench.assignment.go_astray(one)
    assert list(bench.assignment.assigned()) == []
    assert not bench.assignment.is_ready
    again = bench.gain(0, at=Leased(b"ok", Offset("1-0", "print"), 1))
    assert one.state is PartitionState.GONE
    assert (again.state, again.stretch.end, again.settled) == (
        PartitionState.BEHIND,
        (Offset("1-0", "print"), 1),
        "1-0",
    )


def test_an_event_that_failed() -> None:
    """Its thread waits, is due later, and its backlog is dropped; the position may move past it."""
    bench = Bench(0)
    one = bench.assignment.partitions[0]
    bench.read(0, pointer(1), schedule=Schedule([b"a", b"b"], 5.0))
    due_before = one.next_due
    bench.assignment.next_ready()
    hand = bench.in_hand()
    assert bench.assignment.reached(one, hand).offset.id == "1-0"
    bench.assignment.note_failed(hand, 1.0)
    assert bench.assignment.in_hand is None
    assert (one.waiting, list(one.due)) == ({"a"}, [b"b"])
    assert one.next_due < due_before


@pytest.mark.parametrize(("free", "left", "due"), [(True, False, False), (False, True, False), (False, False, True)])
def test_an_event_that_waited_is_handled(free: bool, left: bool, due: bool) -> None:
    """Its thread is free once nothing waits; if more waits than was fetched, it is due again."""
    bench = Bench()
    one = bench.gain(0, at=Leased(b"ok", waiting=frozenset({"a"})))
    bench.read(0, pointer(1), pointer(2))
    assert bench.handed() == []
    packed = one.unsettled.joined[1::2]
    bench.assignment.backlog = Backlog(one, b"a", type(one.due)(packed if left else packed[:1]), 3)
    activity = bench.assignment.next_waiting()
    assert activity is not None
    assert (activity.sequence, activity.attempt) == (1, 3)
    hand = bench.in_hand()
    assert hand.state is EventState.WAITED
    bench.assignment.note_handled(hand, [b"a"] if free else [])
    assert ("a" in one.waiting, list(one.due)) == (not free, [b"a"] if due else [])
    if left:
        following = bench.assignment.next_waiting()
        assert following is not None
        assert (following.sequence, following.attempt) == (2, 1)


@pytest.mark.parametrize("outcome", [Outcome.HANDLED, Outcome.FAILED])
def test_a_settlement_is_repeated_word_for_word(outcome: Outcome) -> None:
    """After a reply that was lost the event is still in hand, and the same call is sent again."""
    bench = Bench()
    filters, loader = Filters(), bench.assignment._loader
    delivery = Delivery(
        Keyspace("p", 4), "g", filters, bench.leases, loader=loader, batch=10, max_attempts=3,
        backoff=random.expovariate, acknowledge_within=0,
    )  # fmt: skip
    bench.assignment = delivery.assignment
    bench.gain(0)
    bench.read(0, pointer(1))
    bench.assignment.next_ready()

    def settle() -> Flow[None]:
        return delivery.finish() if outcome is Outcome.HANDLED else delivery.fail(ValueError("x"))

    lost = settle()
    sent = next(lost)
    with pytest.raises(ServerUnavailable):
        lost.throw(ServerUnavailable("the connection was cut"))
    hand = bench.in_hand()
    repeated = settle()
    assert next(repeated) == sent
    with pytest.raises(StopIteration):
        repeated.send([b"ok", [], [], -1])
    assert (hand.state, bench.assignment.in_hand) == (EventState.DONE, None)
    assert hand.partition.settled == "1-0"


def test_a_settlement_before_a_fetch_is_repeated_too() -> None:
    """After a reply that was lost nothing is handed out until the same call is sent again."""
    bench = Bench()
    delivery = Delivery(
        Keyspace("p", 4), "g", Filters(), bench.leases, loader=bench.assignment._loader, batch=1, max_attempts=3,
        backoff=random.expovariate, acknowledge_within=1e6,
    )  # fmt: skip
    bench.assignment = delivery.assignment
    bench.gain(0, at=Leased(b"ok", waiting=frozenset({"w"})))
    bench.read(0, pointer(1), pointer(2), pointer(3), schedule=Schedule([b"w"]))
    assert bench.assignment.finish_and_ready() is not None
    assert bench.assignment.finish_in_memory()
    lost = delivery.next()
    sent = next(lost)
    with pytest.raises(ServerUnavailable):
        lost.throw(ServerUnavailable("the connection was cut"))
    assert bench.assignment.finish_and_ready() is None
    assert next(delivery.next()) == sent

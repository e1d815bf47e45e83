"""The claims of scripts/soak, checked on its evidence, and the figures of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from scripts.soaking.chaos import Chaos, Disturbance, Move
from scripts.soaking.evidence import Evidence, Repeat
from scripts.soaking.plan import RECORD, SINK, Plan

__all__ = ["Claim", "claims", "numbers"]

GRACE = 5.0
"""Seconds that a busy machine gets in addition to the time of a lease."""


class Claim(NamedTuple):
    """A claim, whether it holds, and a detail for the case that it does not."""

    text: str
    holds: bool
    detail: str = ""


def claims(plan: Plan, chaos: Chaos, found: Evidence) -> Iterator[Claim]:
    """Yield every claim."""
    made = plan.made()
    yield from _written(plan, made, chaos, found)
    yield from _recorded(plan, made, chaos, found)
    yield from _applied(made, found)
    yield from _processes(plan, chaos)


def _written(plan: Plan, made: dict[str, int], chaos: Chaos, found: Evidence) -> Iterator[Claim]:
    retries = sum(one["retries"] for one in found.writers)
    written = sum(one["events"] for one in found.writers)
    yield Claim(
        f"no writer failed; {retries} calls were repeated after redis-py had given up",
        written == plan.events,
        f"{written} written",
    )
    numbers = {thread: [sequence for sequence, _ in entries] for thread, entries in found.logs.items()}
    yield Claim(f"the {plan.threads} logs have each of the {plan.events:,} events once", *_from_one(numbers, made))
    wrong = [thread for thread in made if found.feed.get(thread, []) != found.logs[thread]]
    yield Claim(
        "the feed announces each of them, those of a thread in the order of its log", not wrong, f"wrong: {wrong[:3]}"
    )
    if outages := [one.ended - one.began for one in chaos.disturbances if one.kind == "server"]:
        yield Claim(f"the server was killed in the middle, and restarted after {max(outages):.1f} s", len(outages) == 1)


def _recorded(plan: Plan, made: dict[str, int], chaos: Chaos, found: Evidence) -> Iterator[Claim]:
    missing = {thread: set(range(1, count + 1)) - set(found.handled[thread]) for thread, count in made.items()}
    lost = sum(map(len, missing.values()))
    yield Claim(f"group {RECORD!r} handled every event at least once", lost == 0, f"{lost} never")
    yield Claim(
        "it handled the events of a thread, the first time, in the order of the log", *_from_one(found.handled, made)
    )
    within = move_time(plan.lease) + GRACE
    unexplained = [one for one in found.repeats if not explained(one, chaos.disturbances, within)]
    yield Claim(
        f"it handled events again ({len(found.repeats)}), each within {within:.1f} s after a kill or pause of its member, or after "
        "the restart of the server",
        not unexplained,
        f"not so {len(unexplained)}: {unexplained[:2]}",
    )
    stopped = {one.whom for one in chaos.disturbances if one.kind == "stop"}
    again = [one for one in unexplained if one.before.member in stopped]
    yield Claim(f"no event of the {len(stopped)} members that got SIGTERM was handled again", not again, f"{again[:2]}")


def explained(repeat: Repeat, disturbances: list[Disturbance], within: float) -> bool:
    """Return whether a disturbance explains a repeat.

    Either of the two members that handled the event may be the one that was paused.
    """
    both = {repeat.before.member, repeat.after.member}
    for one in disturbances:
        concerned = {
            "kill": one.whom == repeat.before.member,
            "pause": one.whom in both,
            "server": True,
            "stop": False,
        }[one.kind]
        if concerned and one.began <= repeat.after.at <= one.ended + within:
            return True
    return False


def _applied(made: dict[str, int], found: Evidence) -> Iterator[Claim]:
    yield Claim(
        f"group {SINK!r} applied every event once, those of a thread in the order of its log",
        *_from_one(found.applied, made),
    )
    yield Claim("its counts are those of the logs", found.counts == made, "they differ")
    yield Claim("its positions are the last events of the feed", found.positions == found.orders, "they differ")


def _processes(plan: Plan, chaos: Chaos) -> Iterator[Claim]:
    stops = sum(one.kind == "stop" for one in chaos.disturbances) + 2 * plan.members
    yield Claim(
        f"no member ended by itself, and all {stops} that got SIGTERM ended in order",
        not chaos.failures,
        "; ".join(chaos.failures[:2]),
    )
    longest = max((moved_after(move, chaos) for move in chaos.moves), default=0.0)
    stayed = [(move.member, sorted(move.waiting)) for move in chaos.moves if move.waiting]
    yield Claim(
        f"others had taken over the partitions of a killed member after {longest:.1f} s at most, counted from the last kill, "
        f"pause or restart; {move_time(plan.lease):.1f} s are allowed, and {GRACE:.0f} s for a busy machine",
        longest <= move_time(plan.lease) + GRACE and not stayed,
        f"not taken over: {stayed[:3]}",
    )


def move_time(lease: float) -> float:
    """Return the seconds within which others take over: 4/3 of a lease."""
    return lease * 4 / 3


def moved_after(move: Move, chaos: Chaos) -> float:
    """Return the seconds until the last partition had moved.

    They count from the kill, or from the last disturbance of the same group after it.
    """
    return move.ended - max([move.began, *_on_top(move, chaos, move.began)])


def _on_top(move: Move, chaos: Chaos, since: float) -> list[float]:
    """Return the times of other disturbances of the group while partitions moved.

    They delay the move, because a dead member keeps its share until its lease is over.
    """
    times = [
        one.ended if one.kind == "server" else one.began
        for one in chaos.disturbances
        if one.kind == "server"
        or (one.kind in {"kill", "pause"} and one.whom.startswith(move.group) and one.whom != move.member)
    ]
    return [at for at in times if since < at < move.ended]


def _from_one(found: dict[str, list[int]], made: dict[str, int]) -> tuple[bool, str]:
    """Return whether each thread has 1, 2, 3, ... up to its number.

    The text describes the first thread that does not.
    """
    for thread, count in made.items():
        sequence = found.get(thread, [])
        if sequence != list(range(1, count + 1)):
            at = next((n for n, number in enumerate(sequence, 1) if number != n), len(sequence) + 1)
            near = f"{sequence[max(0, at - 3) : at + 3]} from number {max(1, at - 2)} on"
            return False, f"{thread}: {len(sequence)} of {count}, {near}"
    return True, ""


def numbers(plan: Plan, chaos: Chaos, found: Evidence, seconds: float) -> dict[str, Any]:
    """Return the figures of the run."""
    writing = max(one["ended"] for one in found.writers) - min(one["began"] for one in found.writers)
    kinds = [one.kind for one in chaos.disturbances]
    kills = {one.whom: one.began for one in chaos.disturbances if one.kind == "kill"}
    ages = [
        kills[one.before.member] - one.before.at
        for one in found.repeats
        if kills.get(one.before.member, one.after.at) < one.after.at
    ]
    moves = [one.ended - one.began for one in chaos.moves]
    alone = [one.ended - one.began for one in chaos.moves if not _on_top(one, chaos, one.began - 2 * plan.lease)]
    return {
        "events": plan.events,
        "seconds in all": seconds,
        "seconds of writing": writing,
        "events written per second": plan.events / max(writing, 0.001),
        f"events handled per second, {RECORD}": _rate(plan.events, found.handled_between),
        f"events handled per second, {SINK}": _rate(plan.events, found.applied_between),
        "members killed": kinds.count("kill"),
        "members stopped": kinds.count("stop"),
        "members paused": kinds.count("pause"),
        "server restarts": kinds.count("server"),
        "calls that writers repeated after redis-py had given up": sum(one["retries"] for one in found.writers),
        f"events handled again, {RECORD}": len(found.repeats),
        f"events handled again and left out, {SINK}": found.left_out,
        f"age at the kill of events handled again (s), max, {RECORD}": max(ages, default=0.0),
        "seconds for partitions to move after a kill, max": max(moves, default=0.0),
        "the same without other disturbances of the group": max(alone, default=0.0),
        **{f"lag, max, {name} (events)": count for name, count in chaos.most_pending.items()},
        **{f"lag, max, {name} (s)": age for name, age in chaos.oldest_pending.items()},
        **{f"events handled, by the count of {name}": count for name, count in found.counted.items()},
    }


def _rate(events: int, between: tuple[float, float]) -> float:
    return events / max(between[1] - between[0], 0.001)

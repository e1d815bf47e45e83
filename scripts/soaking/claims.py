"""What scripts/soak claims, and whether it held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from scripts.soaking.chaos import Chaos, Disturbance, Move
from scripts.soaking.evidence import Evidence, Repeat
from scripts.soaking.plan import RECORD, SINK, Plan

__all__ = ["Claim", "claims", "numbers"]

GRACE = 5.0
"""Seconds beyond what a lease lasts, for a machine that is busy."""


class Claim(NamedTuple):
    """Something that is to hold, and what is known where it does not."""

    text: str
    holds: bool
    detail: str = ""


def claims(plan: Plan, chaos: Chaos, found: Evidence) -> Iterator[Claim]:
    """All of them."""
    made = plan.made()
    yield from _written(plan, made, chaos, found)
    yield from _recorded(plan, made, chaos, found)
    yield from _sunk(made, found)
    yield from _processes(plan, chaos)


def _written(plan: Plan, made: dict[str, int], chaos: Chaos, found: Evidence) -> Iterator[Claim]:
    retries = sum(one["retries"] for one in found.writers)
    said = sum(one["events"] for one in found.writers)
    yield Claim(
        f"no writer had an error that it did not survive; beyond redis-py's retries {retries} calls were made again",
        said == plan.events,
        f"{said} written",
    )
    numbers = {thread: [sequence for sequence, _ in entries] for thread, entries in found.logs.items()}
    yield Claim(f"the {plan.threads} logs have each of the {plan.events:,} events once", *_from_one(numbers, made))
    wrong = [thread for thread in made if found.feed.get(thread, []) != found.logs[thread]]
    yield Claim("the feed announces each of them, a thread's in the order of its log", not wrong, f"not of {wrong[:3]}")
    if outages := chaos.outages():
        held = [one.ended - one.began for one in outages]
        yield Claim(
            f"the server was killed and restarted in the middle, and was gone for {max(held):.1f} s", len(outages) == 1
        )


def _recorded(plan: Plan, made: dict[str, int], chaos: Chaos, found: Evidence) -> Iterator[Claim]:
    missing = {thread: set(range(1, count + 1)) - set(found.handled[thread]) for thread, count in made.items()}
    lost = sum(map(len, missing.values()))
    yield Claim(f"group {RECORD!r} handled every event at least once", lost == 0, f"{lost} never")
    yield Claim("and the events of a thread, the first time, in the order of its log", *_from_one(found.handled, made))
    within = move_time(plan.lease) + GRACE
    unexplained = [one for one in found.repeats if not explained(one, chaos.disturbances, within)]
    yield Claim(
        f"what it handled again ({len(found.repeats)}) had been a member's that was killed or paused, or the server's restart "
        f"lay between; and it came within {within:.1f} s",
        not unexplained,
        f"not so {len(unexplained)}: {unexplained[:2]}",
    )
    stopped = {one.whom for one in chaos.disturbances if one.kind == "stop"}
    again = [
        one for one in found.repeats if one.before.member in stopped and not explained(one, chaos.disturbances, within)
    ]
    yield Claim(f"after SIGTERM ({len(stopped)} members) nothing was handled again", not again, f"{again[:2]}")


def explained(repeat: Repeat, disturbances: list[Disturbance], within: float) -> bool:
    """Whether a disturbance lies behind it. A member that was paused may be either of the two that handled it."""
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


def _sunk(made: dict[str, int], found: Evidence) -> Iterator[Claim]:
    yield Claim(
        f"group {SINK!r} had the effect of every event once, a thread's in the order of its log",
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
        f"what a killed member leased was others' after {longest:.1f} s at most from the last kill, pause or restart before that, "
        f"of {move_time(plan.lease):.1f} and {GRACE:.0f} for a busy machine",
        longest <= move_time(plan.lease) + GRACE and not stayed,
        f"nobody else's: {stayed[:3]}",
    )


def move_time(lease: float) -> float:
    """Seconds after which the partitions of a member that was killed are others': a lease and a third."""
    return lease * 4 / 3


def moved_after(move: Move, chaos: Chaos) -> float:
    """Seconds until the last of the partitions was another's: from the kill, or from what came on top of it in the same group."""
    return move.ended - max([move.began, *_on_top(move, chaos, move.began)])


def _on_top(move: Move, chaos: Chaos, since: float) -> list[float]:
    """Times of what else happened to the group while partitions moved: until a lease is over a dead member has its share."""
    times = [
        one.ended if one.kind == "server" else one.began
        for one in chaos.disturbances
        if one.kind == "server"
        or (one.kind in {"kill", "pause"} and one.whom.startswith(move.group) and one.whom != move.member)
    ]
    return [at for at in times if since < at < move.ended]


def _from_one(found: dict[str, list[int]], made: dict[str, int]) -> tuple[bool, str]:
    """Whether each thread has 1, 2, 3, ... up to its number; the first that has not."""
    for thread, count in made.items():
        sequence = found.get(thread, [])
        if sequence != list(range(1, count + 1)):
            at = next((place for place, number in enumerate(sequence, 1) if number != place), len(sequence) + 1)
            return (
                False,
                f"{thread}: {len(sequence)} of {count}, {sequence[max(0, at - 3) : at + 3]} from place {max(1, at - 2)} on",
            )
    return True, ""


def numbers(plan: Plan, chaos: Chaos, found: Evidence, seconds: float) -> dict[str, Any]:
    """Figures of the run."""
    writing = max(one["ended"] for one in found.writers) - min(one["began"] for one in found.writers)
    kinds = [one.kind for one in chaos.disturbances]
    kills = {one.whom: one.began for one in chaos.disturbances if one.kind == "kill"}
    ages = [
        kills[one.before.member] - one.before.at
        for one in found.repeats
        if kills.get(one.before.member, one.after.at) < one.after.at
    ]
    alone = [move for move in chaos.moves if not _on_top(move, chaos, move.began - 2 * plan.lease)]
    return {
        "events": plan.events,
        "seconds, all in": seconds,
        "seconds of writing": writing,
        "events written a second": plan.events / max(writing, 0.001),
        f"events handled a second, {RECORD}": _rate(plan.events, found.handled_between),
        f"events handled a second, {SINK}": _rate(plan.events, found.applied_between),
        "members killed": kinds.count("kill"),
        "members stopped": kinds.count("stop"),
        "members paused": kinds.count("pause"),
        "server restarts": kinds.count("server"),
        "calls of writers made again, beyond redis-py's": sum(one["retries"] for one in found.writers),
        f"handled again, {RECORD}": len(found.repeats),
        f"handled again and left out, {SINK}": found.left_out,
        f"handled before the kill by (s), {RECORD}": max(ages, default=0.0),
        "seconds for partitions to move after a kill, max": max(
            (one.ended - one.began for one in chaos.moves), default=0.0
        ),
        "the same where nothing else happened to the group": max((one.ended - one.began for one in alone), default=0.0),
        **{f"lag, max, {name} (events)": count for name, count in chaos.most_pending.items()},
        **{f"lag, max, {name} (s)": age for name, age in chaos.oldest_pending.items()},
        **{f"handled, as {name} counts": count for name, count in found.counted.items()},
    }


def _rate(events: int, between: tuple[float, float]) -> float:
    return events / max(between[1] - between[0], 0.001)

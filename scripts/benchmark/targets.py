"""The targets of this saver and their outcomes: ratios of figures of the same run."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from scripts.benchmark.book import Book, p99, size_text
from scripts.benchmark.plan import Plan
from scripts.benchmark.savers import FLOOR, MEMORY, PLAINREDIS, THIS

__all__ = ["Outcome", "outcomes"]

EARLY = range(6, 16)
"""The early steps, around the tenth, over which the appended bytes are averaged."""


@dataclass(frozen=True)
class Outcome:
    """One target, the measured value, and the figures that it comes from."""

    name: str
    target: str
    measured: float | None
    unit: str
    met: bool | None
    """None if it was not measured."""
    detail: str = ""

    @property
    def shown(self) -> str:
        """The measured value as text."""
        return "not measured" if self.measured is None else f"{self.measured:.3g}{self.unit}"

    @property
    def verdict(self) -> str:
        """Whether the target was reached, in one word."""
        return {True: "ok", False: "over", None: "-"}[self.met]


def outcomes(book: Book, plan: Plan) -> list[Outcome]:
    """Return every target, measured or not."""
    small = f"small-state thread, {plan.events:,} events against 10"
    return [
        _ratio(book, "put, median over the run", "chat.put", FLOOR, 0.95),
        _ratio(book, "put, median over the last ten steps", "chat.put_last", FLOOR, 0.85),
        _ratio(book, "put_writes (2 writes)", "chat.put_writes", FLOOR, 1.5),
        _ratio(book, "get_tuple latest", "chat.latest_last", FLOOR, 1.15),
        _ratio(book, "get_tuple by id", "chat.by_id", MEMORY, 1.6),
        _ratio(book, "list, limit 10", "chat.list_10", MEMORY, 1.25),
        _ratio(book, f"list, all {plan.steps}", "chat.list_all", MEMORY, 1.2),
        _beyond_matches(book),
        _against(
            book, "delete_thread", ("chat.delete", THIS), ("chat.del", THIS), ("one bare DEL of the same keys", 3)
        ),
        _memory(book, plan),
        _linear(book, plan),
        *_appended(book, plan),
        _against(book, f"{small}: put", ("small.put_many", THIS), ("small.put_few", THIS), ("at 10", 1.1)),
        _against(book, f"{small}: get_tuple", ("small.latest_many", THIS), ("small.latest_few", THIS), ("at 10", 1.1)),
        _ratio(book, "compiled LangGraph turn", "loop.turn", MEMORY, 1.35),
        _throughput(book, plan.conversations[0]),
        _tail(book, plan.conversations[0]),
        _nothing_lost(book, plan.conversations[1]),
    ]


def _outcome(
    name: str, target: str, measured: float | None, limit: float, detail: str, *, unit: str = " x", least: bool = False
) -> Outcome:
    """Return an outcome, whose limit is a maximum, or with `least` a minimum."""
    met = None if measured is None else (measured >= limit if least else measured <= limit)
    return Outcome(name, target, measured, unit, met, detail if measured is not None else "")


def _ratio(book: Book, name: str, figure: str, saver: str, limit: float) -> Outcome:
    label = {FLOOR: "the floor", MEMORY: "InMemorySaver"}[saver]
    return _against(book, name, (figure, THIS), (figure, saver), (label, limit))


def _against(book: Book, name: str, one: tuple[str, str], other: tuple[str, str], bound: tuple[str, float]) -> Outcome:
    label, limit = bound
    target = f"<= {limit:g} x {label}"
    return _outcome(name, target, book.compared(one, other), limit, _both(book, one, other))


def _both(book: Book, one: tuple[str, str], other: tuple[str, str]) -> str:
    over, under = book.median(*one), book.median(*other)
    return "" if over is None or under is None else f"{over:.3g} ms / {under:.3g} ms"


def _beyond_matches(book: Book) -> Outcome:
    one, other = ("chat.list_filtered", THIS), ("chat.matches", THIS)
    measured = book.compared(one, other, operator.sub)
    detail = _both(book, one, other).replace(" / ", " - ")
    return _outcome("list filtered to 2 %", "<= 4 ms beyond its matches", measured, 4, detail, unit=" ms")


def _memory(book: Book, plan: Plan) -> Outcome:
    ours, theirs = (book.by_step("storage.stored", saver).get(plan.steps) for saver in (THIS, PLAINREDIS))
    measured = ours / theirs if ours is not None and theirs else None
    detail = f"{_size(ours)} / {_size(theirs)}"
    return _outcome(f"server memory, {plan.steps} steps", "<= 1/40 (0.025) x plainredis", measured, 1 / 40, detail)


def _linear(book: Book, plan: Plan) -> Outcome:
    by_step, half = book.by_step("storage.stored", THIS), plan.steps // 2
    whole, part = by_step.get(plan.steps), by_step.get(half)
    measured = whole / part if whole is not None and part else None
    name = f"server memory, {plan.steps} steps against {half}"
    return _outcome(name, "linear: <= 2.2 x", measured, 2.2, f"{_size(whole)} / {_size(part)}")


def _appended(book: Book, plan: Plan) -> list[Outcome]:
    """Compare late steps with early ones, alone and in sum, since keyframes are rare."""
    by_step, steps = book.by_step("storage.aof", THIS), plan.long_steps
    late = range(steps - steps // 10 + 1, steps + 1)
    return [
        _grown(by_step, f"steps {late[0]}-{late[-1]}", late, f"{EARLY[0]}-{EARLY[-1]}", EARLY),
        _grown(by_step, f"all steps up to {steps:,}", range(1, steps + 1), "up to 10", range(1, 11)),
    ]


def _grown(by_step: dict[int, float], name: str, late: range, early_name: str, early: range) -> Outcome:
    after, before = _mean(by_step, late), _mean(by_step, early)
    measured = after / before if after is not None and before else None
    name = f"append-only file, bytes per step: {name} against {early_name}"
    return _outcome(name, "<= 1.2 x", measured, 1.2, f"{_size(after)} / {_size(before)}")


def _mean(by_step: dict[int, float], steps: Iterable[int]) -> float | None:
    found = [by_step[step] for step in steps if step in by_step]
    return statistics.mean(found) if found else None


def _throughput(book: Book, count: int) -> Outcome:
    one, other = ("few.throughput", THIS), ("few.throughput", FLOOR)
    detail = _both(book, one, other).replace(" ms", " ops/s")
    name = f"{count} concurrent conversations: operations per second"
    return _outcome(name, ">= 1.4 x the floor", book.compared(one, other), 1.4, detail, least=True)


def _tail(book: Book, count: int) -> Outcome:
    one, other = ("few.operation", THIS), ("few.operation", FLOOR)
    detail = " / ".join(_tails(book, *side) for side in (one, other))
    measured = book.compared_tails(one, other)
    return _outcome(f"{count} concurrent conversations: p99", "below the floor's", measured, 1, detail)


def _tails(book: Book, figure: str, saver: str) -> str:
    rounds = book.by_round(figure, saver, p99).values()
    return f"{statistics.median(rounds):.3g} ms" if rounds else "-"


def _nothing_lost(book: Book, count: int) -> Outcome:
    errors, lost = book.values("many.errors", THIS), book.values("many.lost", THIS)
    measured = sum(errors) + sum(lost) if errors else None
    detail = f"{sum(errors):.0f} errors, {sum(lost):.0f} lost, in {len(errors)} rounds"
    if (reason := book.reason("many.operation", THIS)) is not None:
        detail += f"; {reason}"
    name = f"{count} concurrent conversations"
    return _outcome(name, "no error, nothing lost", measured, 0, detail, unit="")


def _size(size: float | None) -> str:
    return "-" if size is None else size_text(size)

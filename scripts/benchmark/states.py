"""States of other shapes: many channels, a large value, many tasks, long history."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from scripts.benchmark.book import figure
from scripts.benchmark.chat import latest, step
from scripts.benchmark.clock import quiet, tidy
from scripts.benchmark.plan import Run, Runner, rotated
from scripts.benchmark.savers import FLOOR, THIS, WHOLE
from scripts.benchmark.traffic import Replay, Traffic, chat, counter, document, wide

__all__ = ["FEW", "fan_out", "large_value", "small_state", "wide_state"]

WIDE = [
    figure("wide.put", "put"),
    figure("wide.put_writes", "put_writes, 3 writes"),
    figure("wide.latest", "get_tuple, latest"),
]
DOCUMENT = [
    figure("document.put", "put"),
    figure("document.put_writes", "put_writes, 2 writes"),
    figure("document.latest", "get_tuple, latest"),
]
TASK = figure("fanout.put_writes", "put_writes, one write by each task")
PENDING = figure("fanout.latest", "get_tuple, latest, with all of them pending")
PUT_FEW = figure("small.put_few", "put at 10 events")
PUT_MANY = figure("small.put_many", "put on a long history")
LATEST_FEW = figure("small.latest_few", "get_tuple, latest, at 10 events")
LATEST_MANY = figure("small.latest_many", "get_tuple, latest, on a long history")

FEW = 10
"""The number of events of a short history."""
BATCH = 50
"""The number of samples of the small state that count as one round."""


def wide_state(run: Run) -> None:
    """Measure fifty channels, of which two change per step."""
    plan = run.plan
    _grow(run, wide(plan.seed, plan.wide_steps), WIDE, f"wide state, {plan.wide_steps} steps", 0.06)


def large_value(run: Run) -> None:
    """Measure a document of which one field changes per step."""
    plan = run.plan
    traffic = document(plan.seed, plan.document_steps, plan.document_bytes)
    _grow(run, traffic, DOCUMENT, f"large value, {plan.document_steps} steps", 0.08)


def _grow(run: Run, traffic: Traffic, figures: Sequence[str], title: str, share: float) -> None:
    put, writes, read = figures
    run.stage(title, len(traffic) * run.plan.state_rounds, share)
    for round in run.rounds(run.plan.state_rounds):
        with (
            run.runners(put.partition(".")[0], run.peers(round, without=[WHOLE]), traffic, f"state-{round}") as runners,
            quiet(),
        ):
            for n in range(len(traffic)):
                order = rotated(runners, round + n)
                for runner in order:
                    step(run, runner, n, round, put=put, writes=writes)
                if n + 10 >= len(traffic):
                    for runner in order:
                        latest(run, runner, n, round, figure=read)
                    tidy()
                run.tick()
    run.done()


def fan_out(run: Run) -> None:
    """Measure many tasks of one step that write one value each."""
    plan = run.plan
    traffic = chat(plan.seed, 3)
    (channel, value), *_ = traffic.steps[2].before[0].writes
    run.stage(f"fan-out, {plan.tasks} tasks", plan.tasks * plan.state_rounds, 0.04)
    for round in run.rounds(plan.state_rounds):
        with run.runners("fanout", run.peers(round, without=[WHOLE]), traffic, f"fan-{round}") as runners, quiet():
            for runner in runners:
                _begin(run, runner)
            for n in range(plan.tasks):
                task = str(uuid.UUID(int=n))
                for runner in rotated(runners, round + n):
                    config = runner.replay.config(traffic.steps[-1].id)
                    path = f"~__pregel_push, {n}"
                    call = partial(runner.saver.put_writes, config, [(channel, value)], task, path)
                    run.measure(TASK, runner.name, round, n + 1, call, vital=True)
                run.tick()
            tidy()
            for n in range(plan.reads):
                for runner in rotated(runners, round + n):
                    _read_pending(run, runner, round)
    run.done()


def _begin(run: Run, runner: Runner) -> None:
    with run.reported("fanout.*", runner.name):
        for n in range(len(runner.replay.traffic)):
            put = runner.replay.put(n)
            runner.saver.put(*put)
        if runner.is_floor:
            runner.saver.prepare(runner.replay.config(), put[1])


def _read_pending(run: Run, runner: Runner, round: int) -> None:
    config = runner.replay.config()
    found = run.measure(PENDING, runner.name, round, run.plan.tasks, partial(runner.saver.get_tuple, config))
    if not runner.is_floor and found is not None:
        pending = f"{len(found.pending_writes or ())} pending writes"
        run.expect(PENDING, runner.name, pending, f"{run.plan.tasks} pending writes")


def small_state(run: Run) -> None:
    """Measure a thread of many events and threads of few events, in turn.

    Each step has two events: a put and a put_writes.
    """
    plan = run.plan
    long_steps, short_steps = plan.events // 2, FEW // 2
    traffic = counter(long_steps + plan.small_samples)
    kinds = [run.kinds[name] for name in (THIS, FLOOR) if name in run.kinds]
    run.stage(f"small state, {plan.events:,} events", len(traffic), 0.1)
    with run.runners("small", kinds, traffic, "long-history") as runners, quiet():
        for n in range(long_steps - 1):
            for runner in runners:
                _store(run, runner, runner.replay, n)
            run.tick()
        for sample in range(plan.small_samples):
            short = [
                _Thread(one, Replay(one.saver, traffic, f"short-{sample}"), PUT_FEW, LATEST_FEW) for one in runners
            ]
            long = [_Thread(one, one.replay, PUT_MANY, LATEST_MANY) for one in runners]
            for thread in short:
                for n in range(short_steps - 1):
                    _store(run, thread.runner, thread.replay, n)
            cases = [
                *((thread, short_steps - 1) for thread in short),
                *((thread, long_steps - 1 + sample) for thread in long),
            ]
            for thread, n in rotated(cases, sample):
                _sample(run, thread, n, round=sample // BATCH)
            if sample % 10 == 0:
                tidy()
            run.tick()
    run.done()


class _Thread(NamedTuple):
    """A thread of a saver, and the figures of its next step."""

    runner: Runner
    replay: Replay
    put: str
    latest: str


def _store(run: Run, runner: Runner, replay: Replay, n: int) -> None:
    if run.failed("small.*", runner.name):
        return
    with run.reported("small.*", runner.name):
        replay.store(n)


def _sample(run: Run, thread: _Thread, n: int, *, round: int) -> None:
    runner, replay, put, read = thread
    if run.failed(put, runner.name):
        return
    for writes in replay.writes(n):
        runner.saver.put_writes(*writes)
    arguments = replay.put(n)
    events = 2 * (n + 1)
    run.measure(put, runner.name, round, events, partial(runner.saver.put, *arguments), vital=True)
    config = replay.config()
    if runner.is_floor:
        runner.saver.prepare(config, arguments[1])
    found = run.measure(read, runner.name, round, events, partial(runner.saver.get_tuple, config))
    if not runner.is_floor and found is not None:
        run.expect(read, runner.name, found.checkpoint["id"], arguments[1]["id"])

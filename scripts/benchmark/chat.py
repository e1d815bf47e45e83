"""The growing chat: every call of a checkpointer, with one more message per step.

All savers take a step before any takes the next step, each time beginning with another saver.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from scripts.benchmark.book import figure
from scripts.benchmark.clock import quiet, tidy
from scripts.benchmark.plan import Plan, Run, Runner, rotated
from scripts.benchmark.savers import FLOOR, PLAINREDIS, THIS, WHOLE
from scripts.benchmark.traffic import FLAG, Replay, Traffic, chat

__all__ = ["FLAGGED", "LAST", "growing_chat", "long_chat", "step"]

LAST = 10
"""The number of last steps that have figures of their own."""
FLAGGED = 4
"""The number of checkpoints with the metadata to filter by: 2 % of 200."""
EVERY = 10
"""The latest state is read at every tenth step, for the curve."""

PUT = figure("chat.put", "put, all steps")
PUT_LAST = figure("chat.put_last", f"put, last {LAST} steps")
WRITES = figure("chat.put_writes", "put_writes, 2 writes")
LATEST = figure("chat.latest", "get_tuple, latest, as the chat grows")
LATEST_LAST = figure("chat.latest_last", f"get_tuple, latest, last {LAST} steps")
FRESH = figure("chat.fresh", "get_tuple, latest, by a saver that has not seen the thread")
BY_ID = figure("chat.by_id", "get_tuple by id, random steps")
BEFORE = figure("chat.before", "list before a checkpoint, limit 1")
TEN = figure("chat.list_10", "list, limit 10")
ALL = figure("chat.list_all", "list, all")
FILTERED = figure("chat.list_filtered", f"list by metadata that {FLAGGED} checkpoints have")
MATCHES = figure("chat.matches", f"get_tuple by id of those {FLAGGED}, one by one")
DELETE = figure("chat.delete", "delete_thread")
DEL = figure("chat.del", "one bare DEL of the same keys")
LONG_PUT = figure("long.put", "put")
LONG_WRITES = figure("long.put_writes", "put_writes, 2 writes")
LONG_LATEST = figure("long.latest", "get_tuple, latest")


def growing_chat(run: Run) -> None:
    """Measure writes, reads, lists and deletion at `plan.steps` steps."""
    traffic = chat(run.plan.seed, run.plan.steps).flagged(FLAGGED)
    run.stage(f"growing chat, {len(traffic)} steps", _ticks(run.plan), 0.4)
    for round in run.rounds(run.plan.rounds):
        with run.runners("chat", run.peers(round), traffic, f"chat-{round}") as runners, quiet():
            if not runners:
                break
            _grow(run, runners, round)
            # Only writes differ without deltas, so the saver without deltas does not read.
            readers = [runner for runner in runners if runner.name != WHOLE]
            _read(run, readers, round)
            _delete(run, readers, round)
    _delete_pairs(run, traffic)
    run.book.derive(PUT_LAST, PUT, lambda sample: sample.at > len(traffic) - LAST)
    run.book.derive(LATEST_LAST, LATEST, lambda sample: sample.at > len(traffic) - LAST)
    run.done()


def _ticks(plan: Plan) -> int:
    return plan.rounds * (plan.steps + 9 * plan.reads + plan.whole_lists) + 2 * plan.deletions


def step(run: Run, runner: Runner, n: int, round: int, *, put: str, writes: str) -> None:
    """Measure one step of one saver: the writes that led to it, then the checkpoint."""
    for arguments in runner.replay.writes(n):
        run.measure(writes, runner.name, round, n + 1, partial(runner.saver.put_writes, *arguments), vital=True)
    arguments = runner.replay.put(n)
    run.measure(put, runner.name, round, n + 1, partial(runner.saver.put, *arguments), vital=True)


def latest(run: Run, runner: Runner, n: int, round: int, *, figure: str) -> None:
    """Measure reading the latest state after a step, repeatedly after the last steps."""
    wanted = runner.replay.traffic.steps[n]
    config = runner.replay.config()
    if runner.is_floor:
        runner.saver.prepare(config, wanted.checkpoint)
    for _ in range(run.plan.reads if n + LAST >= len(runner.replay.traffic) else 1):
        found = run.measure(figure, runner.name, round, n + 1, partial(runner.saver.get_tuple, config))
        if not runner.is_floor:
            run.expect(figure, runner.name, _ids([found]), [wanted.id])


def _grow(run: Run, runners: Sequence[Runner], round: int) -> None:
    steps = len(runners[0].replay.traffic)
    for n in range(steps):
        order = rotated(runners, round + n)
        for runner in order:
            step(run, runner, n, round, put=PUT, writes=WRITES)
        if n + LAST >= steps or (n + 1) % EVERY == 0:
            for runner in order:
                if runner.name != WHOLE:
                    latest(run, runner, n, round, figure=LATEST)
            tidy()
        run.tick()


def _read(run: Run, runners: Sequence[Runner], round: int) -> None:
    savers = [runner for runner in runners if not runner.is_floor]
    steps = len(runners[0].replay.traffic)
    dice = random.Random(run.plan.seed + round)
    chosen = [dice.randrange(steps) for _ in range(4 * run.plan.reads)]
    several = range(run.plan.reads)
    _in_turn(run, [runner for runner in savers if runner.kind.shares], round, several, _fresh)
    _in_turn(run, savers, round, chosen, _by_id)
    _in_turn(run, savers, round, chosen[: 2 * run.plan.reads], _before)
    _in_turn(run, savers, round, several, _ten)
    _in_turn(run, savers, round, several, _filtered)
    _in_turn(run, savers, round, range(run.plan.whole_lists), _all)


def _in_turn(
    run: Run,
    runners: Sequence[Runner],
    round: int,
    numbers: Sequence[int],
    read: Callable[[Run, Runner, int, int], None],
) -> None:
    """Let all savers take each read before the next read."""
    for turn, n in enumerate(numbers):
        for runner in rotated(runners, round + turn):
            read(run, runner, n, round)
        tidy()
        run.tick()


def _fresh(run: Run, runner: Runner, _n: int, round: int) -> None:
    traffic = runner.replay.traffic
    with run.reported(FRESH, runner.name), runner.kind.open(run.servers) as saver:
        saver.get_tuple({"configurable": {"thread_id": "warm", "checkpoint_ns": ""}})
        config = runner.replay.config()
        found = run.measure(FRESH, runner.name, round, len(traffic), partial(saver.get_tuple, config))
        run.expect(FRESH, runner.name, _ids([found]), [traffic.steps[-1].id])


def _by_id(run: Run, runner: Runner, n: int, round: int) -> None:
    wanted = runner.replay.traffic.steps[n].id
    config = runner.replay.config(wanted)
    found = run.measure(BY_ID, runner.name, round, n + 1, partial(runner.saver.get_tuple, config))
    run.expect(BY_ID, runner.name, _ids([found]), [wanted])


def _before(run: Run, runner: Runner, n: int, round: int) -> None:
    steps = runner.replay.traffic.steps
    before = runner.replay.config(steps[n].id)
    _list(run, runner, BEFORE, round, [one.id for one in steps[n - 1 : n]], before=before, limit=1)


def _ten(run: Run, runner: Runner, _n: int, round: int) -> None:
    newest = runner.replay.traffic.steps[-10:]
    _list(run, runner, TEN, round, [one.id for one in reversed(newest)], limit=10)


def _all(run: Run, runner: Runner, _n: int, round: int) -> None:
    _list(run, runner, ALL, round, [one.id for one in reversed(runner.replay.traffic.steps)])


def _filtered(run: Run, runner: Runner, _n: int, round: int) -> None:
    traffic = runner.replay.traffic
    flagged = [one.id for one in traffic.with_flag()]
    _list(run, runner, FILTERED, round, flagged, filter={FLAG: "wanted"})
    configs = [runner.replay.config(one) for one in flagged]
    run.measure(MATCHES, runner.name, round, len(traffic), lambda: [runner.saver.get_tuple(one) for one in configs])


def _list(run: Run, runner: Runner, figure: str, round: int, expected: list[str], **options: Any) -> None:
    config = runner.replay.config()
    steps = len(runner.replay.traffic)
    found = run.measure(figure, runner.name, round, steps, lambda: list(runner.saver.list(config, **options)))
    if found is not None and _ids(found) != expected:
        wrong = f"{len(set(_ids(found)) & set(expected))} of {len(expected)} checkpoints, among {len(found)}"
        run.expect(figure, runner.name, wrong, f"those {len(expected)}, newest first")


def _delete(run: Run, runners: Sequence[Runner], round: int) -> None:
    for runner in runners:
        if runner.name not in {THIS, FLOOR}:
            call = partial(runner.saver.delete_thread, runner.replay.thread)
            run.measure(DELETE, runner.name, round, len(runner.replay.traffic), call)


def _delete_pairs(run: Run, traffic: Traffic) -> None:
    """Store a thread twice, and delete one with the saver, the other with one `DEL`."""
    if THIS not in run.kinds:
        return
    with run.runners("chat", [run.kinds[THIS]], traffic, "unused") as runners, quiet():
        for n in range(run.plan.deletions):
            for runner in runners:
                by_saver, by_del = f"twin-{n:03}-a", f"twin-{n:03}-b"
                for thread in (by_saver, by_del):
                    replay = Replay(runner.saver, traffic, thread)
                    for step_number in range(len(traffic)):
                        replay.store(step_number)
                    run.tick()
                keys = sorted(run.servers.redis.scan_iter(match=f"*{by_del}*", count=1000))
                pair = [
                    (DELETE, partial(runner.saver.delete_thread, by_saver)),
                    (DEL, partial(run.servers.redis.delete, *keys)),
                ]
                for name, call in rotated(pair, n):
                    run.measure(name, runner.name, n, len(traffic), call)
                tidy()


def long_chat(run: Run) -> None:
    """Measure writes and the latest read up to `plan.long_steps`, for the curves.

    Savers other than this one and the floor stop early.
    """
    traffic = chat(run.plan.seed, run.plan.long_steps)
    kinds = [kind for name, kind in run.kinds.items() if name in {THIS, FLOOR, PLAINREDIS}]
    stops = {THIS: len(traffic), FLOOR: len(traffic), PLAINREDIS: min(len(traffic), 2 * run.plan.steps)}
    run.stage(f"growing chat, {len(traffic)} steps", len(traffic), 0.1)
    with run.runners("long", kinds, traffic, "long") as runners, quiet():
        for n in range(len(traffic)):
            reads = (n + 1) % EVERY == 0
            for runner in rotated(runners, n):
                # The floor has no history, so its times do not depend on earlier steps.
                if n < stops[runner.name] and (reads or not runner.is_floor):
                    step(run, runner, n, 0, put=LONG_PUT, writes=LONG_WRITES)
                    if reads:
                        latest(run, runner, n, 0, figure=LONG_LATEST)
            if reads:
                tidy()
            run.tick()
    run.done()


def _ids(found: Sequence[Any]) -> list[Any]:
    return [one and one.checkpoint["id"] for one in found]

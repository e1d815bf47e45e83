"""Disturb the processes of scripts/soak while they work, and watch the groups.

One loop does all of it. At every turn it looks at the groups, disturbs one member if it is time, and starts members again.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle

from scripts.soaking.stage import Seat, SoakFailure, Stage

__all__ = ["Chaos", "Disturbance", "Move"]

ORDER = ("kill", "kill", "stop", "kill", "pause")
"""Disturbances of members, in turn: SIGKILL, SIGTERM, or SIGSTOP for longer than a lease. The member is chosen by chance."""
STOPPING = 15.0
"""Seconds within which a member ends after SIGTERM."""
STUCK = 90.0
"""Seconds without any progress after which the soak gives up."""
DOWN = 1.0
"""Seconds between the server's end and its restart."""


@dataclass
class Disturbance:
    """A disturbance of a member or of the server, with times of the machine's clock."""

    kind: str
    whom: str
    began: float
    ended: float


@dataclass
class Move:
    """Partitions of a killed member, and the time when others had all of them."""

    member: str
    group: str
    began: float
    waiting: set[int]
    ended: float = 0.0


@dataclass
class Chaos:
    """Disturbs the stage, and watches it."""

    stage: Stage
    disturbances: list[Disturbance] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Things that processes did and should not do."""
    most_pending: dict[str, int] = field(default_factory=dict)
    oldest_pending: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plan = self.stage.plan
        self._dice = random.Random(plan.seed)
        self._kinds = cycle(ORDER)
        self._next = time.monotonic() + self._pause()
        self._back: list[tuple[float, Seat]] = []
        self._paused: list[tuple[float, Seat, Disturbance]] = []
        self._leased: dict[str, set[int]] = {}
        """The partitions of each member at the last look."""
        self._settled: set[str] = set()
        """Members that had partitions at the look before, too. They have joined, and react to SIGTERM."""
        self._pending: dict[str, int] = dict.fromkeys(self.stage.groups, 0)
        self._waiting = 0
        self._restarted = self.stage.server is None
        self._progress = (time.monotonic(), (0, 0))

    def run(self) -> Iterator[int]:
        """Run until everything is written and handled.

        Yields the number of written events now and then.
        """
        total = self.stage.plan.events
        while True:
            written = self.stage.written()
            self._look()
            yield written
            self._check_processes()
            if not self._restarted and written >= total // 2:
                self._restart_server()
            done = all(writer.code is not None for writer in self.stage.writers)
            backlog = max(self._pending.values())
            if not done or backlog > total // 20:
                self._disturb()
            self._bring_back()
            if done and not (backlog or self._waiting or self._back or self._paused or self._moving()):
                return
            self._give_up_if_stuck(written, backlog)
            time.sleep(0.15)

    def stop_members(self) -> None:
        """End all members in order."""
        for seat in self.stage.seats:
            if seat.child is not None:
                seat.child.send(signal.SIGTERM)
        for seat in self.stage.seats:
            self._await_end(seat)

    def _pause(self) -> float:
        return self.stage.plan.seconds_between_kills * self._dice.uniform(0.6, 1.4)

    def _look(self) -> None:
        self._settled = set(self._leased)
        now, self._waiting, self._leased = time.monotonic(), 0, {}
        for name, group in self.stage.groups.items():
            lag = group.lag()
            self._pending[name] = lag.pending
            self._waiting += lag.waiting
            self.most_pending[name] = max(self.most_pending.get(name, 0), lag.pending)
            self.oldest_pending[name] = max(self.oldest_pending.get(name, 0.0), lag.age or 0.0)
            owners = {one.partition: one.member for one in lag.partitions if one.member is not None}
            for number, member in owners.items():
                self._leased.setdefault(member, set()).add(number)
            for move in self.moves:
                if move.group == name and move.waiting:
                    move.waiting -= {number for number, member in owners.items() if member != move.member}
                    move.ended = now

    def _disturb(self) -> None:
        if time.monotonic() < self._next:
            return
        paused = [seat for _, seat, _ in self._paused]
        candidates = [seat for seat in self.stage.seats if seat not in paused and self._is_settled(seat)]
        if not candidates:
            return
        self._next = time.monotonic() + self._pause()
        seat, kind = self._dice.choice(candidates), next(self._kinds)
        assert seat.child is not None
        now, name = time.monotonic(), seat.child.name
        disturbance = Disturbance(kind, name, now, now)
        self.disturbances.append(disturbance)
        if kind == "pause":
            seat.child.send(signal.SIGSTOP)
            self._paused.append((now + 1.5 * self.stage.plan.lease, seat, disturbance))
            return
        if kind == "kill":
            seat.child.kill()
            self.moves.append(Move(name, seat.group, now, set(self._leased[name])))
            seat.child = None
        else:
            seat.child.send(signal.SIGTERM)
            self._await_end(seat)
        disturbance.ended = time.monotonic()
        self._back.append((disturbance.ended + self._dice.uniform(0.1, 1.0), seat))

    def _moving(self) -> bool:
        """Return whether partitions of a killed member still have to move.

        After a while the loop stops waiting for them.
        """
        return any(move.waiting and time.monotonic() - move.began < STUCK / 2 for move in self.moves)

    def _is_settled(self, seat: Seat) -> bool:
        return seat.child is not None and seat.child.name in self._settled and seat.child.name in self._leased

    def _await_end(self, seat: Seat) -> None:
        """Wait until a member has ended after SIGTERM."""
        child, seat.child = seat.child, None
        if child is None:
            return
        if not child.ended_within(STOPPING):
            self.failures.append(f"{child.name} did not end within {STOPPING:g} s of SIGTERM")
            child.kill()
        elif child.code != 0:
            self.failures.append(f"{child.name} ended with {child.code} after SIGTERM: {child.complaint}")

    def _bring_back(self) -> None:
        now = time.monotonic()
        for due in [one for one in self._paused if one[0] <= now]:
            self._paused.remove(due)
            _, seat, disturbance = due
            if seat.child is not None:
                seat.child.send(signal.SIGCONT)
            disturbance.ended = time.monotonic()
        for back in [one for one in self._back if one[0] <= now]:
            self._back.remove(back)
            self.stage.seat(back[1])

    def _restart_server(self) -> None:
        server = self.stage.server
        assert server is not None
        began = time.monotonic()
        server.kill()
        time.sleep(DOWN)
        server.start()
        self.disturbances.append(Disturbance("server", "server", began, time.monotonic()))
        self._restarted = True

    def _check_processes(self) -> None:
        for seat in self.stage.seats:
            if seat.child is not None and seat.child.code is not None:
                self.failures.append(
                    f"{seat.child.name} ended by itself with {seat.child.code}: {seat.child.complaint}"
                )
                seat.child = None
                self._back.append((time.monotonic(), seat))
        for writer in self.stage.writers:
            if writer.code not in {None, 0}:
                raise SoakFailure(f"{writer.name} ended with {writer.code}:\n{writer.complaint}")

    def _give_up_if_stuck(self, written: int, backlog: int) -> None:
        now, (since, last) = time.monotonic(), self._progress
        if (written, backlog + self._waiting) != last:
            self._progress = now, (written, backlog + self._waiting)
        elif now - since > STUCK:
            raise SoakFailure(
                f"There was no progress for {STUCK:g} s: {written} events are written, pending are {self._pending}, "
                f"{self._waiting} wait.{self.stage.complaints()}"
            )

"""The stage of scripts/soak: a server, the processes that work on it, and the feed as the one who watches sees it."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from eventlog import ActivityFeed, Keyspace
from eventlog.errors import ServerUnavailable
from eventlog.keys import PARTITIONS
from saver import RedisStreamSaver
from saver.embedded import _binary as embedded_binary
from scripts.soaking.child import Child
from scripts.soaking.plan import RECORD, SINK, Plan
from scripts.soaking.sink import open_database
from tests.servers import RunningServer, connect, free_ports, launch

__all__ = ["Seat", "SoakFailure", "Stage", "private_server"]

SERVER = ("--appendonly", "yes", "--appendfsync", "always")
"""Every acknowledged write survives a kill: with `everysec` the server may acknowledge while a sync keeps it from writing."""


class SoakFailure(Exception):
    """The soak cannot go on."""


def private_server(folder: Path) -> RunningServer:
    """A server on a port of its own, its data in a folder: redis-server from PATH, else the embedded one's binary."""
    found = shutil.which("redis-server")
    folder.mkdir()
    return launch(Path(found or embedded_binary()), *SERVER, dir=folder, port=free_ports(1)[0])


@dataclass
class Seat:
    """A place in a group, taken by one process after the other."""

    group: str
    number: int
    taken: int = 0
    child: Child | None = None

    @property
    def colour(self) -> str:
        """One member in three is async."""
        return "async" if self.number % 3 == 2 else "sync"


class Stage:
    """All that runs. Ended by `close`, whatever state it is in."""

    def __init__(self, plan: Plan, url: str, folder: Path, server: RunningServer | None) -> None:
        self.plan = plan
        self.url = url
        self.folder = folder
        self.server = server
        self.writers: list[Child] = []
        self.seats = [Seat(group, number) for group in (RECORD, SINK) for number in range(plan.members)]
        self.members: list[Child] = []
        """All there ever were."""
        self.redis: Any = connect(url)
        self.feed = ActivityFeed.from_conn_string(url, prefix=plan.prefix)
        self.groups = {name: self.feed.group(name) for name in (RECORD, SINK)}
        self.keyspace = Keyspace(plan.prefix, PARTITIONS)

    def set_up(self) -> None:
        """Lays out the prefix, registers the groups, makes the database."""
        with RedisStreamSaver.from_conn_string(self.url, prefix=self.plan.prefix) as saver:
            saver.setup()
        for group in self.groups.values():
            group.register()
        open_database(self.database).close()

    @property
    def database(self) -> Path:
        """Where the group `sink` has its effects."""
        return self.folder / "sink.sqlite"

    def noted_by(self, member: str) -> Path:
        """Where a member of the group `record` notes what it handled."""
        return self.folder / f"{member}.handled"

    def write(self) -> None:
        """Starts the writers."""
        for number in range(self.plan.writers):
            words = [self.url, self.plan.dump(), str(number)]
            self.writers.append(Child(f"writer-{number}", "scripts.soaking.writer", words, self.folder))

    def seat(self, seat: Seat) -> None:
        """Starts a member."""
        name = f"{seat.group}-{seat.number}-{seat.taken}"
        seat.taken += 1
        path = self.noted_by(name) if seat.group == RECORD else self.database
        words = [self.url, self.plan.dump(), seat.group, name, seat.colour, str(path)]
        seat.child = Child(name, "scripts.soaking.member", words, self.folder)
        self.members.append(seat.child)

    def written(self) -> int:
        """How many events the feed has."""
        with self.redis.pipeline(transaction=False) as pipeline:
            for number in range(self.keyspace.partitions):
                pipeline.xlen(self.keyspace.partition(number).feed)
            return sum(pipeline.execute())

    def await_members(self, seconds: float) -> None:
        """Until each that was started has joined, and each partition is someone's."""
        deadline = time.monotonic() + seconds
        while not all(self._complete(group) for group in self.groups):
            if time.monotonic() > deadline:
                raise SoakFailure(f"The members did not join within {seconds:g} s.{self.complaints()}")
            time.sleep(0.1)

    def _complete(self, group: str) -> bool:
        """Whether all of its members are there, and no dead one counts as alive any more."""
        lag = self.groups[group].lag()
        holders = {one.member for one in lag.partitions}
        names = {seat.child.name for seat in self.seats if seat.group == group and seat.child is not None}
        return None not in holders and set(lag.members) == names

    def complaints(self) -> str:
        """What processes said that ended with an error."""
        said = [f"\n{child.name} ended with {child.code}:\n{child.complaint}" for child in self._ended_badly()]
        return "".join(said[:3])

    def _ended_badly(self) -> list[Child]:
        return [
            child
            for child in itertools.chain(self.writers, self.members)
            if child.code not in {None, 0} and child.complaint
        ]

    def close(self) -> None:
        """Ends every process, and the server if it is its own; what was written to a server of someone else's is deleted."""
        for child in (*self.writers, *self.members):
            child.kill()
        if self.server is None:
            with contextlib.suppress(redis.RedisError, ServerUnavailable):
                self._delete()
        self.feed.close()
        self.redis.close()

    def _delete(self) -> None:
        for pattern in (f"{{{self.plan.prefix}:*", f"{self.plan.prefix}:*"):
            for key in self.redis.scan_iter(pattern, count=1000):
                self.redis.unlink(key)

"""The stage of scripts/soak: a server, its processes, and the watched feed."""

from __future__ import annotations

import contextlib
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
"""Every acknowledged write survives a kill.

With `everysec` the server may acknowledge a write while a sync still prevents it from reaching the file.
"""


class SoakFailure(Exception):
    """The soak cannot continue."""


def private_server(folder: Path) -> RunningServer:
    """Start redis-server from PATH, else the embedded server, with data in a folder."""
    found = shutil.which("redis-server")
    folder.mkdir()
    return launch(Path(found or embedded_binary()), *SERVER, dir=folder, port=free_ports(1)[0])


@dataclass
class Seat:
    """A seat in a group, which one process after the other takes."""

    group: str
    number: int
    taken: int = 0
    child: Child | None = None

    @property
    def driver(self) -> str:
        """One member in three is async."""
        return "async" if self.number % 3 == 2 else "sync"


class Stage:
    """Everything that runs, until `close` ends it."""

    def __init__(self, plan: Plan, url: str, folder: Path, server: RunningServer | None) -> None:
        self.plan = plan
        self.url = url
        self.folder = folder
        self.server = server
        self.writers: list[Child] = []
        self.seats = [Seat(group, number) for group in (RECORD, SINK) for number in range(plan.members)]
        self.members: list[Child] = []
        """All members since the start, also those that have ended."""
        self.redis: Any = connect(url)
        self.feed = ActivityFeed.from_conn_string(url, prefix=plan.prefix)
        self.groups = {name: self.feed.group(name) for name in (RECORD, SINK)}
        self.keyspace = Keyspace(plan.prefix, PARTITIONS)

    def set_up(self) -> None:
        """Set up the prefix, register the groups, and make the database."""
        with RedisStreamSaver.from_conn_string(self.url, prefix=self.plan.prefix) as saver:
            saver.setup()
        for group in self.groups.values():
            group.register()
        open_database(self.database).close()

    @property
    def database(self) -> Path:
        """The database of the group `sink`."""
        return self.folder / "sink.sqlite"

    def noted_by(self, member: str) -> Path:
        """Return the file in which a member of the group `record` notes its handlings."""
        return self.folder / f"{member}.handled"

    def write(self) -> None:
        """Start the writers."""
        for number in range(self.plan.writers):
            words = [self.url, self.plan.dump(), str(number)]
            self.writers.append(Child(f"writer-{number}", "scripts.soaking.writer", words, self.folder))

    def seat(self, seat: Seat) -> None:
        """Start a member."""
        name = f"{seat.group}-{seat.number}-{seat.taken}"
        seat.taken += 1
        path = self.noted_by(name) if seat.group == RECORD else self.database
        words = [self.url, self.plan.dump(), seat.group, name, seat.driver, str(path)]
        seat.child = Child(name, "scripts.soaking.member", words, self.folder)
        self.members.append(seat.child)

    def written(self) -> int:
        """Return the number of events in the feed."""
        with self.redis.pipeline(transaction=False) as pipeline:
            for number in range(self.keyspace.partitions):
                pipeline.xlen(self.keyspace.partition(number).feed)
            return sum(pipeline.execute())

    def await_members(self, seconds: float) -> None:
        """Wait until each running member has joined, and each partition has a member."""
        deadline = time.monotonic() + seconds
        while not all(self._complete(group) for group in self.groups):
            if time.monotonic() > deadline:
                raise SoakFailure(f"The members did not join within {seconds:g} s.{self.complaints()}")
            time.sleep(0.1)

    def _complete(self, group: str) -> bool:
        """Return whether exactly the running members of a group have joined."""
        lag = self.groups[group].lag()
        owners = {one.member for one in lag.partitions}
        names = {seat.child.name for seat in self.seats if seat.group == group and seat.child is not None}
        return None not in owners and set(lag.members) == names

    def complaints(self) -> str:
        """Return the last output of processes that ended with an error."""
        failed = [one for one in (*self.writers, *self.members) if one.code not in {None, 0} and one.complaint]
        return "".join(f"\n{one.name} ended with {one.code}:\n{one.complaint}" for one in failed[:3])

    def close(self) -> None:
        """End every process, and delete the keys on a server that the soak did not start."""
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

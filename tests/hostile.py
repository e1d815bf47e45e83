"""A hostile data set, built quickly, and every operation on it: what an agent or an attacker can make a server hold.

`scripts/bench --longest` and `tests/projections/test_bounds.py` run the operations. They measure the time and the work of each command.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import redis

from eventlog.codec import content_digest
from eventlog.feed.feed import ActivityFeed
from eventlog.flow import Begin, Call, Command, Emit, Finish, Flow, Request
from eventlog.keys import Keyspace, ThreadKeys
from eventlog.transport.drivers import Runner
from projections.maintenance.check_registry import check_registry
from projections.registry.rebuild import rebuild_registry
from projections.transfer.encoder import Encoder
from projections.transfer.files import read_file
from projections.transfer.format import Entry, Header, ThreadEnd, ThreadHead
from saver import RedisStreamSaver
from tests.saver.threads import config, follow, step

MARK = "x0000000"
"""A text in the template of a put; each put has another of this length in its place."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything there is."""

    threads: int = 500
    namespaces: int = 2_000
    """Namespaces of each of these threads, as subgraph calls make them."""
    large: int = 20_000
    """Namespaces, and runs, of one more thread."""
    runs: int = 500_000
    """Runs that an import claims for its thread."""
    history: int = 2_000
    """Checkpoints of a thread with one namespace."""
    channels: int = 50
    """Channels that each of these changes."""
    id_bytes: int = 60_000
    """Bytes of the id of one more thread."""


Operation = Callable[[], object]
Probe = Callable[[], float]
"""Something that grows while the server works, such as its CPU time."""


@dataclass
class Work:
    """The work that one request of an operation made."""

    request: Request
    reply: Any
    amount: float

    @property
    def name(self) -> str:
        """The script, or the command."""
        if isinstance(self.request, Call):
            return self.request.script.name
        return self.request.name if isinstance(self.request, Command) else type(self.request).__name__


class Watched:
    """A runner whose requests are watched one by one; calls that are begun are carried out at once."""

    def __init__(self, runner: Runner, probe: Probe, works: list[Work]) -> None:
        self._runner, self._probe, self._works = runner, probe, works

    def run(self, flow: Flow[Any], *others: Any) -> Any:
        """See `Runner`."""
        return self._runner.run(self._watched(flow), *others)

    def iterate(self, flow: Flow[None], subject: str) -> Iterator[Any]:
        """See `Runner`."""
        return self._runner.iterate(self._watched(flow), subject)

    def __getattr__(self, name: str) -> Any:
        """The rest of `Runner`."""
        return getattr(self._runner, name)

    def _watched(self, flow: Flow[Any]) -> Flow[Any]:
        try:
            request = next(flow)
            while True:
                if isinstance(request, (Emit, Finish)):
                    reply = request.begun if isinstance(request, Finish) else (yield request)
                    request = flow.send(reply)
                    continue
                begun = request.call if isinstance(request, Begin) else request
                before = self._probe()
                try:
                    reply = yield begun
                except Exception as error:
                    request = flow.throw(error)
                else:
                    self._works.append(Work(begun, reply, self._probe() - before))
                    request = flow.send(reply)
        except StopIteration as stop:
            return stop.value


class Hostile:
    """A prefix of one partition with the data set, on an empty server."""

    def __init__(self, url: str, folder: Path, sizes: Sizes, prefix: str = "hostile") -> None:
        self.url = url
        self.sizes = sizes
        self.folder = folder
        self.client: Any = redis.Redis.from_url(url)
        self.saver = RedisStreamSaver.from_conn_string(url, prefix=prefix, partitions=1)
        self.feed = ActivityFeed.from_conn_string(url, prefix=prefix)
        self.keyspace = Keyspace(prefix, 1)
        self.shared = self.keyspace.partition(0)

    def watch(self, probe: Probe) -> list[Work]:
        """Watch every request from here on, and return the list to which each is added."""
        works: list[Work] = []
        opened: Any = self.saver
        opened._runner = Watched(opened._runner, probe, works)
        opened = self.feed
        opened.runner = Watched(opened.runner, probe, works)
        return works

    def close(self) -> None:
        """Close the connections."""
        self.saver.close()
        self.feed.close()
        self.client.close()

    def keys(self, thread: str) -> ThreadKeys:
        """The keys of a thread."""
        return self.keyspace.thread(thread.encode())

    def build(self) -> None:
        """Fill the server."""
        sizes = self.sizes
        self.put_many("wide0", sizes.namespaces)
        for number in range(1, sizes.threads):
            self.duplicate("wide0", f"wide{number}")
        self.put_many("large", sizes.large)
        self.duplicate("large", "cleared")
        before = None
        for number in range(sizes.history):
            values = {f"channel{name}": number for name in range(sizes.channels)}
            run = f"run{number % 2}"
            before = step(values, run_id=run) if before is None else follow(before, values, run_id=run)
            self.saver.put(config("long"), *before)
        self.saver.put(config("made up"), *step({"a": 1}))
        self.saver.put(config("i" * sizes.id_bytes), *step({"a": 1}, run_id="r" * 30_000))
        self.write_export("made up")
        self.saver.delete_thread("made up")

    def put_many(self, thread: str, count: int) -> None:
        """Put a checkpoint in each of many namespaces, each by a run of its own."""
        self.saver.setup()
        flow = self.saver._operations.put(
            self.saver.serde, config(thread, f"{MARK}:1"), *step({}, checkpoint_id="c", run_id=f"run-{MARK}")
        )
        template = first_call(flow)
        sha = self.client.script_load(template.script.source)
        with self.client.pipeline(transaction=False) as pipeline:
            for number in range(count):
                self._put_like(pipeline, sha, template, b"x%07d" % (number + 1))
                if number % 500 == 499:
                    pipeline.execute()
            pipeline.execute()

    def _put_like(self, pipeline: Any, sha: str, template: Call, name: bytes) -> None:
        mark = MARK.encode()
        keys = [key.replace(mark, name) for key in template.keys]
        arguments = [part.replace(mark, name) if isinstance(part, bytes) else part for part in template.arguments]
        first = arguments.index(b"k")  # the event's first field, after its digest and its number of fields
        size: Any = arguments[first - 1]
        arguments[first - 2] = content_digest(
            [part for part in arguments[first : first + size] if isinstance(part, bytes)]
        )
        pipeline.evalsha(sha, len(keys), *keys, *arguments)

    def duplicate(self, thread: str, other: str) -> None:
        """Give a thread's log to another thread, as an import of it would."""
        source, target = self.keys(thread), self.keys(other)
        entries = self.client.xrevrange(source.log, count=1)
        ((last, fields),) = entries
        with self.client.pipeline(transaction=False) as pipeline:
            for name in ("log", "index", "order"):
                pipeline.copy(getattr(source, name), getattr(target, name))
            pointer = {"thread": other, "id": last, "seq": fields[b"n"], "kind": "imported"}
            rest = dict.fromkeys(("ns", "checkpoint", "source", "step", "run", "channels", "nodes"), "")
            pipeline.xadd(self.shared.feed, {**pointer, **rest})
            pipeline.zadd(self.shared.threads, {b"t" + other.encode(): int(self.client.time()[0]) * 1000})
            pipeline.execute()

    def write_export(self, thread: str) -> None:
        """Export a thread, with runs in the file that never were."""
        self.saver.export_threads(self.folder / "true", [thread])
        encoder, made = Encoder(), io.BytesIO()
        made.write(encoder.header(Header(0, "hostile", "0")))
        for item in read_file(self.folder / "true"):
            if isinstance(item, ThreadHead):
                runs = tuple(f"made-up-run-{number:024}" for number in range(self.sizes.runs))
                made.write(encoder.begin(item._replace(runs=runs)))
            elif isinstance(item, Entry):
                made.write(encoder.entry(item))
            elif isinstance(item, ThreadEnd):
                made.write(encoder.end())
        made.write(encoder.trailer())
        (self.folder / "made up").write_bytes(made.getvalue())

    def operations(self) -> Iterator[tuple[str, Operation]]:
        """Every operation by name, in an order that they need; those that destroy data come last."""
        yield from self._reads()
        yield from self._checks()
        yield from self._transfers()
        yield from self._feed()
        yield from self._removals()

    def _reads(self) -> Iterator[tuple[str, Operation]]:
        saver = self.saver
        any_namespace: Any = {"configurable": {"thread_id": "large"}}
        one: Any = {"configurable": {"thread_id": "large", "checkpoint_id": "c"}}
        yield "list(None, limit=1)", lambda: list(saver.list(None, limit=1))
        yield "list(thread, limit=1)", lambda: list(saver.list(any_namespace, limit=1))
        yield "list(thread, checkpoint_id)", lambda: list(saver.list(one, limit=1))
        yield "list(long)", lambda: list(saver.list(config("long"), limit=300))
        yield "list(long, filter)", lambda: list(saver.list(config("long"), filter={"run_id": "none"}))
        yield "threads()", lambda: list(saver.threads(limit=64))
        yield "get_tuple(latest)", lambda: saver.get_tuple(config("long"))
        yield "get_tuple(namespace)", lambda: saver.get_tuple(config("large", "x0000009:1"))
        yield "get_tuple(long id)", lambda: saver.get_tuple(config("i" * self.sizes.id_bytes))
        yield (
            "get_delta_channel_history",
            lambda: saver.get_delta_channel_history(config=config("long"), channels=["channel0", "other"]),
        )
        yield "replay", lambda: list(saver.replay("long"))

    def _checks(self) -> Iterator[tuple[str, Operation]]:
        saver = self.saver
        for thread in ("large", "long"):
            yield f"check({thread})", partial(saver.check, thread)
            yield f"verify({thread})", partial(saver.verify, thread)
            yield f"rebuild({thread})", partial(saver.rebuild, thread)
        yield "check(registry)", lambda: self.run(check_registry(self.keyspace, 0))
        yield "rebuild(registry)", lambda: self.run(rebuild_registry(self.keyspace, self.shared))

    def _transfers(self) -> Iterator[tuple[str, Operation]]:
        saver, folder = self.saver, self.folder
        yield "import", lambda: saver.import_threads(folder / "made up")
        yield "import again", lambda: saver.import_threads(folder / "made up")
        yield "export", lambda: saver.export_threads(folder / "again", ["made up", "large", "long"])
        yield "copy_thread(runs)", lambda: saver.copy_thread("made up", "copy of made up")
        yield "copy_thread(namespaces)", lambda: saver.copy_thread("large", "copy of large")
        yield "copy_thread(long)", lambda: saver.copy_thread("long", "copy of long")
        yield "check(runs)", lambda: saver.check("made up")

    def _feed(self) -> Iterator[tuple[str, Operation]]:
        feed = self.feed
        group = feed.group("g")
        yield "tail", lambda: [None for _ in feed.tail("beginning", follow=False)]
        yield "tail(filters)", lambda: [None for _ in feed.tail("beginning", thread="none", follow=False)]
        yield "group.register", group.register
        yield "group member", self._consume
        yield "group.lag", group.lag
        yield "groups()", feed.groups
        yield "drop_group", lambda: feed.drop_group("g")
        yield "trim", lambda: feed.trim(10)
        yield "check(registry), trimmed", lambda: self.run(check_registry(self.keyspace, 0))
        yield "rebuild(registry), trimmed", lambda: self.run(rebuild_registry(self.keyspace, self.shared))

    def _consume(self) -> None:
        most = min(300, self.client.xlen(self.shared.feed))  # after the last one it would wait
        with self.feed.group("g").member("m") as member:
            for number, _ in enumerate(member, 1):
                if number == most:
                    return

    def _removals(self) -> Iterator[tuple[str, Operation]]:
        saver, sizes = self.saver, self.sizes
        yield "delete_for_runs(long)", lambda: saver.delete_for_runs(["run0"])
        yield "prune(long)", lambda: saver.prune(["long"], keep_last=1)
        yield "delete_for_runs(namespace)", lambda: saver.delete_for_runs(["run-x0000001"])
        yield "delete_thread(namespaces)", lambda: saver.delete_thread("large")
        yield "put after it", lambda: saver.put(config("large"), *step({"a": 1}, run_id="new"))
        yield "delete_thread(runs)", lambda: saver.delete_thread("made up")
        yield "delete_thread(runs), again", lambda: saver.delete_thread("made up")
        yield "put after that", lambda: saver.put(config("made up"), *step({"a": 1}, run_id="new"))
        yield "delete_thread(no index)", self._delete_without_index
        yield "delete_thread(long id)", lambda: saver.delete_thread("i" * sizes.id_bytes)
        yield "trim(deleted runs)", lambda: self.feed.trim(0)

    def _delete_without_index(self) -> None:
        self.client.unlink(self.keys("cleared").index)
        self.saver.delete_thread("cleared")

    def run(self, flow: Flow[Any]) -> Any:
        """The result of a flow on the saver's connections."""
        return self.saver._runner.run(flow, "hostile")


def first_call(flow: Flow[Any]) -> Call:
    """The call that a flow begins with."""
    request = next(flow)
    assert isinstance(request, Call), request
    flow.close()
    return request

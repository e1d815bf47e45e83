"""Damage to every key of a prefix, and every public operation on what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

from eventlog import ActivityFeed, EventLogError, Keyspace, Runner
from eventlog.connect.connections import Connections
from eventlog.signing import SigningKey
from projections.integrity.feed_evidence import announced
from projections.maintenance.check_registry import check_registry
from projections.registry.rebuild import rebuild_registry
from saver import RedisStreamSaver
from tests.saver.audit import config, put_of
from tests.servers import Server, connect

KEY = SigningKey.hmac(b"k" * 32)
RUN = "run"
BAD = (b"", b"\xff\xfe", b"x", b"-1", b"9" * 400, b"1.5", b"9223372036854775808")
"""Values that no field of a hash or a stream has."""
MEMBERS = (
    b"\xff\xfe",
    b"x",
    b"t",
    b"t\xff",
    b"t9:\xff",
    b"r9:x",
    b"r1:x\xff",
    b"c",
    b"c\xff\0\xff\0\xff",
    b"w\0",
    b"h\0\0x",
    b"\0",
    b"t" * 70_000,
)
SCORES = (b"inf", b"-inf", b"-1", b"1e300", b"1.5")

Damage = Callable[[], object]


class Patient:
    """A prefix with all kinds of keys, which can be damaged and made whole again."""

    def __init__(self, server: Server, prefix: str, *, signed: bool = False) -> None:
        self.url, self.prefix = server.url, prefix
        self.options: dict[str, Any] = {"signing_key": KEY} if signed else {}
        self.client: Any = connect(server.url)
        self.keyspace = Keyspace(prefix, 1)
        self._live()
        self.whole = {key: (self.client.dump(key), max(0, self.client.pttl(key))) for key in self.keys()}

    def keys(self) -> list[bytes]:
        """All keys of the prefix."""
        patterns = (f"{{{self.prefix}:*", f"{self.prefix}:*")
        return sorted(key for pattern in patterns for key in self.client.scan_iter(pattern, count=1000))

    def saver(self, **options: Any) -> RedisStreamSaver:
        """A saver with nothing in its caches."""
        return RedisStreamSaver(self.client, prefix=self.prefix, partitions=1, **{**self.options, **options})

    def feed(self) -> ActivityFeed:
        """A feed that knows nothing yet."""
        return ActivityFeed(self.client, prefix=self.prefix, **self.options)

    def heal(self) -> None:
        """Makes all keys as they were."""
        with self.client.pipeline(transaction=False) as pipe:
            for key in self.keys():
                pipe.delete(key)
            for key, (value, ttl) in self.whole.items():
                pipe.restore(key, ttl, value)
            pipe.execute()

    def _live(self) -> None:
        with self.saver(ttl={"default_ttl": 1000}) as saver:
            saver.put(*put_of("e", 1))
        with self.saver() as saver:
            for number in range(1, 4):
                saver.put(*put_of("t", number, number - 1 or None, channels=("n", "m"), run=RUN, shared=True))
            saver.put_writes(config("t", 3), [("n", 1), ("m", [2])], "task")
            saver.put(*put_of("t", 4, namespace="sub", channels=("n",), run=RUN))
            saver.put(*put_of("u", 1, run="other"))
        with self.feed() as feed:
            group = feed.group("g")
            with suppress(ValueError), group.member("m", max_attempts=1, stop_on_sigterm=False) as member:
                for activity in member:
                    if activity.thread_id == "t":
                        raise ValueError("no")
                    member.effect("HSET", "seen", activity.thread_id, 1)
            feed.trim(2)
            with group.member("m", max_attempts=1, stop_on_sigterm=False) as member:
                for _ in member:
                    member.stop()
            feed.trim(4)


def damages(patient: Patient, key: bytes) -> Iterator[tuple[str, Damage]]:
    """What can be done to a key, each with a name."""
    client = patient.client
    kind = client.type(key).decode()
    yield "gone", partial(client.delete, key)
    yield "a text", partial(_replace, client, key, "SET", b"\xff")
    yield "a list", partial(_replace, client, key, "RPUSH", b"\xff")
    if kind == "hash":
        yield from _of_a_hash(client, key)
    elif kind == "zset":
        yield from _of_a_sorted_set(client, key)
    elif kind == "stream":
        yield from _of_a_stream(client, key)


def _replace(client: Any, key: bytes, command: str, *arguments: bytes) -> None:
    client.delete(key)
    client.execute_command(command, key, *arguments)


def _of_a_hash(client: Any, key: bytes) -> Iterator[tuple[str, Damage]]:
    for field, value in client.hgetall(key).items():
        yield f"without {field!r}", partial(client.hdel, key, field)
        for bad in _bad(value):
            yield f"{field!r} = {bad!r:.30}", partial(client.hset, key, field, bad)
    for field in (b"", b"\xff", b"v", b"v\xff\xff", b"=\xff", b"!x", b"!1", b"+1:n", b"#n", b"x" * 70_000):
        yield f"more {field!r:.30}", partial(client.hset, key, field, b"\xff")


def _bad(value: bytes) -> tuple[bytes, ...]:
    return (*BAD, value[: len(value) // 2], value + b"x", value[:-1] + b"\xff")


def _of_a_sorted_set(client: Any, key: bytes) -> Iterator[tuple[str, Damage]]:
    for member, _ in client.zrange(key, 0, -1, withscores=True):
        yield f"without {member!r}", partial(client.zrem, key, member)
        for made in sorted({member[: len(member) // 2], member + b"\xff", member[:-1]} - {member}):
            yield f"{member!r} -> {made!r}", partial(_rename, client, key, member, made)
        for score in SCORES:
            yield f"{member!r} at {score!r}", partial(client.execute_command, "ZADD", key, score, member)
    for member in MEMBERS:
        for score in (b"0", b"1e300"):
            yield f"more {member!r:.30} at {score!r}", partial(client.execute_command, "ZADD", key, score, member)


def _rename(client: Any, key: bytes, member: bytes, made: bytes) -> None:
    client.zrem(key, member)
    client.zadd(key, {made: 0})


def _of_a_stream(client: Any, key: bytes) -> Iterator[tuple[str, Damage]]:
    entries = client.xrange(key)
    for entry_id, fields in entries:
        yield f"without {entry_id!r}", partial(client.xdel, key, entry_id)
        for field, value in fields.items():
            for bad in _bad(value):
                name = f"{entry_id!r} {field!r:.20} = {bad!r:.20}"
                yield name, partial(_rewrite, client, key, entries, entry_id, {**fields, field: bad})
            less = {name: one for name, one in fields.items() if name != field}
            yield f"{entry_id!r} without {field!r:.20}", partial(_rewrite, client, key, entries, entry_id, less)
    for more in ({b"\xff": b"\xff"}, {b"n": b"x"}, {b"n": b"9", b"d": b"\xff"}, {b"thread": b"\xff"}, {b"": b""}):
        yield f"more {more!r}", partial(client.xadd, key, more)
    yield "a late entry", partial(client.xadd, key, {b"n": b"9"}, id="18446744073709551615-1")
    yield "an odd id", partial(client.xadd, key, entries[-1][1], id=entries[-1][0].partition(b"-")[0] + b"-7")


def _rewrite(client: Any, key: bytes, entries: Any, changed: bytes, fields: Mapping[bytes, bytes]) -> None:
    client.delete(key)
    for entry_id, own in entries:
        client.xadd(key, dict(fields) if entry_id == changed else own, id=entry_id)


Operation = Callable[[Patient, RedisStreamSaver, ActivityFeed, Path], Any]


def _flow(make: Callable[[Keyspace], Any]) -> Operation:
    def run(patient: Patient, _: Any, __: Any, ___: Any) -> Any:
        return list(Runner(Connections(patient.client), "test").run(make(patient.keyspace), "test") or ())

    return run


def _until_idle(_: Patient, __: Any, feed: ActivityFeed, ___: Any) -> None:
    with feed.group("g").member("m", max_attempts=1, patience=0, stop_on_sigterm=False) as member:
        timer = Timer(0.2, member.stop)
        timer.start()
        for number, _activity in enumerate(member):
            if number == 1:
                member.stop()
        timer.cancel()


def _loaded(_: Patient, saver: RedisStreamSaver, feed: ActivityFeed, __: Path) -> None:
    for activity in feed.tail("beginning", follow=False):
        for load in (activity.load, partial(saver.load_values, activity)):
            with suppress(EventLogError):
                load()


READS: dict[str, Operation] = {
    "get_tuple": lambda _, saver, __, ___: saver.get_tuple(config("t")),
    "get_tuple of a namespace": lambda _, saver, __, ___: saver.get_tuple(config("t", namespace="sub")),
    "get_tuple by id": lambda _, saver, __, ___: saver.get_tuple(config("t", 2)),
    "as of": lambda _, saver, __, ___: saver.get_tuple_as_of(config("t"), "2"),
    "replay": lambda _, saver, __, ___: [one.state for one in saver.replay("t")],
    "list": lambda _, saver, __, ___: list(saver.list(config("t"))),
    "list all": lambda _, saver, __, ___: list(saver.list(None)),
    "filtered list": lambda _, saver, __, ___: list(saver.list(None, filter={"run_id": RUN})),
    "limited list": lambda _, saver, __, ___: list(saver.list(config("t"), limit=2, before=config("t", 3))),
    "delta history": lambda _, saver, __, ___: saver.get_delta_channel_history(config=config("t", 3), channels=["n"]),
    "verify": lambda _, saver, __, ___: saver.verify("t"),
    "threads": lambda _, saver, __, ___: list(saver.threads()),
    "check": lambda _, saver, __, ___: saver.check("t"),
    "check registry": _flow(lambda keyspace: check_registry(keyspace, 0)),
    "announced": _flow(lambda keyspace: announced(keyspace, None)),
    "export": lambda _, saver, __, path: saver.export_threads(path / "all", overwrite=True),
    "export one": lambda _, saver, __, path: saver.export_threads(path / "one", ["t"], overwrite=True),
    "export damaged": lambda _, saver, __, path: saver.export_threads(
        path / "bad", ["t"], overwrite=True, damaged=True
    ),
    "tail": lambda _, __, feed, ___: list(feed.tail("beginning", follow=False)),
    "filtered tail": lambda _, __, feed, ___: list(feed.tail("beginning", follow=False, node="n", kinds="writes")),
    "load": _loaded,
    "now": lambda _, __, feed, ___: feed.check(feed.now()),
    "groups": lambda _, __, feed, ___: feed.groups(),
    "lag": lambda _, __, feed, ___: feed.group("g").lag(),
    "parked": lambda _, __, feed, ___: feed.group("g").parked(),
}
WRITES: dict[str, Operation] = {
    "put": lambda _, saver, __, ___: saver.put(*put_of("t", 9, 3, channels=("n", "m"), run=RUN)),
    "put new": lambda _, saver, __, ___: saver.put(*put_of("new", 1)),
    "put_writes": lambda _, saver, __, ___: saver.put_writes(config("t", 3), [("n", 5)], "task2"),
    "prune": lambda _, saver, __, ___: saver.prune(["t"]),
    "delete_for_runs": lambda _, saver, __, ___: saver.delete_for_runs([RUN]),
    "copy": lambda _, saver, __, ___: saver.copy_thread("t", "copy"),
    "copy until": lambda _, saver, __, ___: saver.copy_thread("t", "copy", until="2"),
    "archive": lambda _, saver, __, path: saver.archive_thread("t", path / "archive", delete=True),
    "delete": lambda _, saver, __, ___: saver.delete_thread("t"),
    "rebuild": lambda _, saver, __, ___: saver.rebuild("t"),
    "rebuild registry": _flow(lambda keyspace: rebuild_registry(keyspace, keyspace.partition(0))),
    "trim": lambda _, __, feed, ___: feed.trim(1),
    "member": _until_idle,
    "register": lambda _, __, feed, ___: feed.group("h", start="beginning").register(),
    "retry": lambda _, __, feed, ___: feed.group("g").retry(),
    "retry one": lambda _, __, feed, ___: feed.group("g").retry("t"),
    "skip": lambda _, __, feed, ___: feed.group("g").skip(),
    "drop": lambda _, __, feed, ___: feed.drop_group("g"),
}

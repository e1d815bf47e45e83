"""Threads that are exported, deleted and imported are the same, key by key; damaged logs and files are refused."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import tracemalloc
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from redis.backoff import NoBackoff
from redis.retry import Retry
from typing_extensions import Self

from eventlog import ActivityFeed, Connections, Runner
from eventlog.errors import (
    CorruptEntry,
    ExportUnreadable,
    FileTaken,
    LogLost,
    ThreadBusy,
    ThreadExists,
    ThreadNotFound,
)
from eventlog.feed.trimming import Retention, trim_partition
from eventlog.flow import Call, Flow
from eventlog.keys import Keyspace
from projections.registry.read import known_runs, known_threads
from projections.transfer.encoder import Encoder
from projections.transfer.export import export_file, export_thread
from projections.transfer.files import ExportFile, read_file
from projections.transfer.format import Entry, Header, ThreadHead
from projections.transfer.import_ import IMPORT
from saver import RedisStreamSaver
from tests.projections.conftest import Open
from tests.projections.steps import Steps, is_call
from tests.projections.traffic import NAMESPACES, THREADS, Operation, Player, traffic
from tests.proxy import Cut, Proxy
from tests.saver.audit import Audit, config, number_of, put_of
from tests.saver.drivers import Call as Driver
from tests.saver.drivers import call_async, call_sync
from tests.saver.threads import following
from tests.servers import Server

ODD = ("", "a*b:[c]{d}", "\x00\x01", "é\N{SNOWMAN}", "../../etc", "a\nb", "x" * 300)
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=[call_sync, call_async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Driver:
    """The sync and the async driver."""
    chosen: Driver = request.param
    return chosen


class Bench:
    """A saver on its own prefix, with access to its keys."""

    def __init__(self, server: Server, **options: Any) -> None:
        prefix = options.pop("prefix", "t" + uuid.uuid4().hex[:8])
        self.url = server.url
        self.partitions = options.setdefault("partitions", 2)
        self.saver = RedisStreamSaver.from_conn_string(server.url, prefix=prefix, **options)
        self.keyspace = Keyspace(prefix, self.partitions)
        self.connections = Connections.from_url(server.url)
        self.runner = Runner(self.connections)
        self.client: Any = self.connections.sync_client()

    def close(self) -> None:
        self.connections.close()
        self.saver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, flow: Any) -> Any:
        return self.runner.run(flow, "test")

    def contents(self, thread: str) -> dict[bytes, Any]:
        """All keys of a thread with their contents, heads rebuilt from the log."""
        keys = self.keyspace.thread(thread.encode())
        heads = [keys.head(namespace.encode()) for namespace in (*NAMESPACES, "sub|1")]
        if self.client.exists(keys.log):
            for head in heads:
                self.client.delete(head)
            for namespace in (*NAMESPACES, "sub|1"):
                self.saver.get_tuple(config(thread, namespace=namespace))
        return {
            keys.log: self.client.xrange(keys.log),
            keys.index: self.client.hgetall(keys.index),
            keys.order: set(self.client.zrange(keys.order, 0, -1)),
            **{head: self.client.hgetall(head) for head in heads},
        }

    def registry(self) -> list[set[bytes]]:
        """Members of the partitions' views."""
        self.saver.delete_for_runs(["nobody"])  # completes them
        shared = [self.keyspace.partition(number) for number in range(self.partitions)]
        return [set(self.client.zrange(key, 0, -1)) for keys in shared for key in (keys.threads, keys.runs)]


relaxed = settings(
    deadline=None,
    max_examples=8,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    print_blob=True,
)
options = st.sampled_from([{}, {"compress_above": 64}, {"cache_bytes": 0}])


@given(operations=traffic, options=options)
@relaxed
def test_random_traffic_comes_back_as_it_was(
    any_server: Server, tmp_path: Path, operations: list[Operation], options: dict[str, Any]
) -> None:
    """After any traffic (prunes, copies, deltas, forks), exporting, deleting and importing leaves every key as it was."""
    path = tmp_path / uuid.uuid4().hex
    with Bench(any_server, **options) as bench:
        player = Player(bench.saver)
        for operation in operations:
            player.play(operation)
        there = {one.config["configurable"]["thread_id"] for one in bench.saver.list(None)}
        before = {thread: bench.contents(thread) for thread in there}
        registry = bench.registry()
        done = bench.saver.export_threads(path)
        assert done.threads == len(there)
        for thread in there:
            bench.saver.delete_thread(thread)
        assert bench.saver.import_threads(path)[:2] == done[:2]
        assert {thread: bench.contents(thread) for thread in there} == before
        assert bench.registry() == registry
        shared = [bench.keyspace.partition(number) for number in range(2)]
        for keys in shared:
            bench.client.delete(keys.threads)
            bench.client.delete(keys.runs)
        assert bench.registry() == registry, "the feed reports imported threads"
        for thread in THREADS:
            bench.saver.delete_thread(thread)


def fill(saver: RedisStreamSaver, thread: str, *, last: int = 12, namespace: str = "", **more: Any) -> None:
    for number in range(1, last + 1):
        run = f"run-{number % 2}"
        saver.put(*put_of(thread, number, number - 1 or None, namespace=namespace, run=run, shared=True, **more))
        saver.put_writes(config(thread, number, namespace), [("n", number), ("__interrupt__", "x")], f"task {number}")


async def test_round_trip(server: Server, prefix: str, tmp_path: Path, call: Driver) -> None:
    """Odd ids, namespaces, wide events and copies come back on every server, sync and async.

    They also do under another prefix and number of partitions. The feed has one pointer for each thread.
    """
    with Bench(server, prefix=prefix, partitions=16) as bench:
        for thread in ODD:
            fill(bench.saver, thread, last=3)
            fill(bench.saver, thread, last=2, namespace="sub|1")
        wide = [f"channel {number}" for number in range(2500)]
        bench.saver.put(*put_of("wide", 1, channels=wide))
        bench.saver.put_writes(config("wide", 1), [("n", number) for number in range(2100)], "task")
        bench.saver.copy_thread(ODD[1], "copy")
        bench.saver.prune([ODD[2]], keep_last=1)
        bench.saver.delete_for_runs(["run-0"])
        threads = (*ODD, "wide", "copy")
        before = {thread: bench.contents(thread) for thread in threads}
        reported: list[tuple[str, int, int]] = []
        done = await call(bench.saver, "export_threads", tmp_path / "all", progress=lambda *one: reported.append(one))
        assert done.threads == len(threads)
        assert {thread for thread, count, of in reported if count == of} == set(threads)
        for thread in threads:
            bench.saver.delete_thread(thread)
        reported.clear()
        found = await call(bench.saver, "import_threads", tmp_path / "all", progress=lambda *one: reported.append(one))
        assert found == (done.threads, done.entries, 0)
        assert {thread for thread, count, of in reported if count == of} == set(threads)
        assert {thread: bench.contents(thread) for thread in threads} == before
        assert (await call(bench.saver, "import_threads", tmp_path / "all")) == (0, 0, len(threads))
        with ActivityFeed.from_conn_string(server.url, prefix=prefix) as feed:
            pointers = list(feed.tail("beginning", follow=False, kinds="imported"))
        assert sorted(one.thread_id for one in pointers) == sorted(threads)
        for one in pointers:
            last = before[one.thread_id][bench.keyspace.thread(one.thread_id.encode()).log][-1]
            assert (one.event_id.encode(), b"%d" % one.sequence) == (last[0], last[1][b"n"])
            assert one.run_id is None
            assert bench.saver.load_values(one) == []
    with Bench(server, prefix=prefix + "o", partitions=3) as other:
        assert (await call(other.saver, "import_threads", tmp_path / "all", ["wide", ""])).threads == 2
        for thread in ("wide", ""):
            assert list(other.contents(thread).values()) == list(before[thread].values())
        fill(other.saver, "", last=5)
        other.saver.delete_for_runs(["run-1"])
        assert [number_of(one) for one in other.saver.list(config(""))] == [4, 2]


def test_encrypted_threads_stay_encrypted(on: Open, tmp_path: Path, audit: Audit) -> None:
    """The file has no readable value, and needs no key to be exported or imported."""
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"k" * 32)
    locked, plain = on(serde=serde), on()
    locked.put(config("t"), *put_of("t", 1)[1:])
    locked.put(*put_of("t", 2, 1, run="secret run"))
    before = list(locked.list(config("t")))
    plain.export_threads(tmp_path / "e")
    content = b"".join(b"".join(item.fields) for item in read_file(tmp_path / "e") if isinstance(item, Entry))
    assert b"value 2" not in content
    plain.delete_thread("t")
    plain.import_threads(tmp_path / "e")
    assert list(locked.list(config("t"))) == before
    plain_runs = audit.client.zrange(audit.keyspace.partition(0).runs, 0, -1)
    assert b"r10:secret runt" in plain_runs, "runs come along though their names are encrypted in the log"


def test_agents_go_on_after_an_import(saver: RedisStreamSaver, tmp_path: Path, audit: Audit) -> None:
    """A saver that still caches bases of deltas appends to an imported thread; another import leaves it alone."""
    fill(saver, "t")
    saver.export_threads(tmp_path / "e")
    saver.delete_thread("t")
    saver.import_threads(tmp_path / "e")
    fill(saver, "t", last=14)
    assert [number_of(one) for one in saver.list(config("t"))] == list(range(14, 0, -1))
    audit.check("t")
    assert saver.import_threads(tmp_path / "e") == (0, 0, 1)
    assert [number_of(one) for one in saver.list(config("t"))] == list(range(14, 0, -1))
    saver.delete_thread("t")
    fill(saver, "t", last=20)
    with pytest.raises(ThreadExists, match="'t'"):
        saver.import_threads(tmp_path / "e")
    audit.check("t")


@pytest.mark.parametrize("missing", ["index", "order", "threads", "runs", "head"])
def test_views_are_neither_needed_nor_mended(
    saver: RedisStreamSaver, tmp_path: Path, audit: Audit, missing: str
) -> None:
    """An export is the same without views, and writes none; an import that finds the thread rebuilds its index."""
    fill(saver, "t")
    saver.export_threads(tmp_path / "whole")
    keys = audit.keyspace.thread(b"t")
    named = {"index": keys.index, "order": keys.order, "head": keys.head(b"")}
    key = named.get(missing) or getattr(keys.shared, missing)
    audit.client.delete(key)
    saver.export_threads(tmp_path / "torn")
    assert not audit.client.exists(key)
    assert list(read_file(tmp_path / "torn"))[1:] == list(read_file(tmp_path / "whole"))[1:]
    assert saver.import_threads(tmp_path / "torn").present == 1


def test_the_registry_is_read_as_it_is_rebuilt(saver: RedisStreamSaver, tmp_path: Path, audit: Audit) -> None:
    """With views deleted and the feed trimmed, a reader without write access finds the same threads and runs."""
    for thread in "abc":
        fill(saver, thread, last=3)
    saver.copy_thread("a", "copy")
    saver.export_threads(tmp_path / "e", ["b"])
    saver.delete_thread("b")
    saver.delete_thread("c")
    saver.import_threads(tmp_path / "e")
    shared = audit.keyspace.partition(0)

    def read() -> Any:
        threads = sorted(audit._runner.run(known_threads(audit.keyspace), "test"))
        return [
            (one, audit._runner.run(known_runs(audit.keyspace.thread(one)), "test"))
            for one in (*threads, b"c", b"nobody")
        ]

    expected = [(one, [b"run-0", b"run-1"]) for one in (b"a", b"b", b"copy")] + [(b"c", []), (b"nobody", [])]
    assert read() == expected
    for count in (1000, 2, 0):
        audit.client.delete(shared.threads, shared.runs)
        assert read() == expected, count
        assert not audit.client.exists(shared.threads, shared.runs)
        list(saver.list(None, limit=1))
        trim(saver, count)


def trim(saver: RedisStreamSaver, count: int) -> None:
    saver._runner.run(trim_partition(saver._operations.keyspace, 0, Retention(count=count), most=1000), "test")


def test_a_user_who_may_only_read_can_export(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """A user who may only read exports all threads, also if views are missing."""
    with Bench(any_server, prefix=prefix) as bench:
        fill(bench.saver, "t")
        fill(bench.saver, "u")
        name = "reader" + prefix
        bench.client.execute_command(
            "ACL",
            "SETUSER",
            name,
            "on",
            ">pw",
            f"~{{{prefix}:*",
            f"~{prefix}:meta",
            "+@read",
            "+@connection",
            "+eval",
            "+evalsha",
        )
        try:
            connections = Connections.from_url(any_server.url, username=name, password="pw")
            for attempt in range(2):
                path = tmp_path / str(attempt)
                runner = Runner(connections)
                done = runner.run(export_file(bench.keyspace, None, path, overwrite=False), "test", id)
                assert done.threads == 2
                for number in range(2):
                    shared = bench.keyspace.partition(number)
                    bench.client.delete(shared.threads, shared.runs, bench.keyspace.thread(b"t").index)
            connections.close()
        finally:
            bench.client.execute_command("ACL", "DELUSER", name)


class Written(ExportFile):
    """A file that tells what is done to it."""

    def __init__(self) -> None:
        super().__init__("nowhere", Header(0, "", ""), overwrite=False, resume=False)
        self.calls: list[str] = []
        self.entry_ids: list[bytes] = []

    def begin(self, head: ThreadHead) -> None:
        self.calls.append("begin")

    def entries(self, entries: Sequence[Entry]) -> Flow[None]:
        self.calls.append("entries")
        self.entry_ids += [entry.entry_id for entry in entries]
        yield from ()

    def end(self) -> None:
        self.calls.append("end")

    def undo(self) -> None:
        self.calls.append("undo")


def test_what_is_appended_meanwhile_is_not_in_it(saver: RedisStreamSaver, steps: Steps, audit: Audit) -> None:
    """An event is added before each request: the export has the log as it was when it began."""
    for number in range(1, 501):
        saver.put(*put_of("t", number))
    keys = audit.keyspace.thread(b"t")
    before = [entry_id for entry_id, _ in audit.client.xrange(keys.log)]
    started = False
    added = iter(range(501, 1000))

    def meddle(request: Any) -> None:
        nonlocal started
        if started:
            saver.put(*put_of("t", next(added)))
        started = started or is_call(request, "log_end")

    written = Written()
    assert steps.run(export_thread(keys, written), meddle) == len(written.entry_ids)
    assert written.entry_ids[: len(before)] == before
    assert len(written.entry_ids) <= len(before) + 1
    assert written.calls[-1] == "end"


@pytest.mark.parametrize("how", ["pruned", "deleted", "replaced", "pruned again and again"])
def test_a_thread_changed_while_it_is_exported(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, tmp_path: Path, how: str
) -> None:
    """A thread that is pruned or replaced starts over, one that is deleted is reported; nothing of the old log remains."""
    for moment in range(1, 7):
        for number in range(1, 451):
            saver.put(*put_of("t", number))
        fill(saver, "other", last=3)
        at = 0

        def meddle(request: Any, moment: int = moment) -> None:
            nonlocal at
            at += isinstance(request, Call)
            if isinstance(request, Call) and (at == moment or (how.endswith("again") and at >= moment)):
                if how.startswith("pruned"):
                    for number in range(451, 453):
                        saver.put(*put_of("t", number + 2 * at))
                    saver.prune(["t"], keep_last=300 if at == moment else 2)
                else:
                    saver.delete_thread("t")
                if how == "replaced":
                    saver.copy_thread("other", "t")

        path = tmp_path / f"{how} {moment}"
        flow = export_file(audit.keyspace, ["t"], path, overwrite=False)
        try:
            done = steps.run(flow, meddle)
        except (ThreadNotFound, ThreadBusy) as error:
            assert not path.exists()
            assert how in ("deleted", "pruned again and again"), error
        else:
            saver.delete_thread("t")
            saver.import_threads(path)
            events = audit.check("t")
            assert len(events) == done.entries
            numbers = [number_of(one) for one in saver.list(config("t"))]
            assert len(numbers) in (450, 452, 300, 2, 3)
        saver.delete_thread("t")
        saver.delete_thread("other")


def test_damage_is_found_by_an_export(saver: RedisStreamSaver, tmp_path: Path, audit: Audit) -> None:
    """A log that was changed, cut or lost is not exported, and the error names the thread."""
    for what in ("changed", "removed", "first removed", "last removed", "lost", "foreign"):
        fill(saver, what, last=4)
        keys = audit.keyspace.thread(what.encode())
        entries = audit.client.xrange(keys.log)
        if what == "changed":
            flat = {**entries[2][1], b"a": b"another path"} if b"a" in entries[2][1] else {**entries[2][1], b"x": b"y"}
            tail = entries[2:]
            audit.client.xtrim(keys.log, 0)
            audit.client.delete(keys.log)
            for entry_id, one in (*entries[:2], (tail[0][0], flat), *tail[1:]):
                audit.client.xadd(keys.log, one, id=entry_id)
        elif what == "lost":
            audit.client.delete(keys.log)
        elif what == "foreign":
            audit.client.xadd(keys.log, {"a": "b"}, id=following(entries[-1][0]))
        else:
            place = {"removed": 3, "first removed": 0, "last removed": -1}[what]
            audit.client.xdel(keys.log, entries[place][0])
        with pytest.raises((CorruptEntry, LogLost), match=f"'{what}'"):
            saver.export_threads(tmp_path / what, [what])
        assert not (tmp_path / what).exists()


def made_up(path: Path, head: ThreadHead, entries: list[Entry]) -> Path:
    """Writes an export whose checksums are right."""
    header, *_ = read_file(path)
    encoder = Encoder()
    made = encoder.header(header) + encoder.begin(head)  # type: ignore[arg-type]
    made += b"".join(map(encoder.entry, entries)) + encoder.end() + encoder.trailer()
    other = path.with_name(uuid.uuid4().hex)
    other.write_bytes(made)
    return other


def test_a_made_up_log_is_refused(saver: RedisStreamSaver, tmp_path: Path, audit: Audit) -> None:
    """Checksums that are right are not enough: entries must be chained, numbered, readable, and end as the file says."""
    fill(saver, "t", last=4)
    saver.export_threads(tmp_path / "e")
    _, head, *rest = read_file(tmp_path / "e")
    entries: list[Any] = [item for item in rest if isinstance(item, Entry)]
    assert isinstance(head, ThreadHead)
    saver.delete_thread("t")
    keys = audit.everything()
    changed = Entry(entries[1].entry_id, [*entries[1].fields[:-1], entries[1].fields[-1] + b"!"])
    cases = {
        "changed": (head, [entries[0], changed, *entries[2:]]),
        "lacks": (head._replace(entries=head.entries - 1), [*entries[:3], *entries[4:]]),
        "end": (head._replace(entries=head.entries - 1), entries[:-1]),
        "begin": (head, [Entry(entries[0].entry_id, entries[0].fields[2:]), *entries[1:]]),
        "follow": (head, [entries[1], entries[0], *entries[2:]]),
        "kind": (head, [Entry(entries[0].entry_id, [*entries[0].fields[:4], b"k", b"?"]), *entries[1:]]),
        "end as": (head._replace(digest="0" * 40), entries),
        "no checkpoints": (head._replace(sequence=0, digest="", entries=0), []),
    }
    for word, (named, some) in cases.items():
        with pytest.raises(ExportUnreadable, match="'t'"):
            saver.import_threads(made_up(tmp_path / "e", named, some))
        assert audit.everything() == keys, word
    assert saver.import_threads(made_up(tmp_path / "e", head, entries)).threads == 1


@pytest.mark.parametrize("size", range(0, 100, 7))
def test_a_file_that_is_not_whole_changes_nothing(
    saver: RedisStreamSaver, tmp_path: Path, audit: Audit, size: int
) -> None:
    """A file that is cut off anywhere puts no thread in place, and creates no prefix."""
    for thread in "ab":
        fill(saver, thread, last=3)
    saver.export_threads(tmp_path / "e")
    whole = (tmp_path / "e").read_bytes()
    (tmp_path / "e").write_bytes(whole[: len(whole) * size // 100])
    for thread in "ab":
        saver.delete_thread(thread)
    keys = audit.everything()
    with pytest.raises(ExportUnreadable):
        saver.import_threads(tmp_path / "e")
    assert audit.everything() == keys


def test_names_that_are_not_there(saver: RedisStreamSaver, tmp_path: Path) -> None:
    """A missing thread, an existing file and a missing file are reported."""
    fill(saver, "t", last=1)
    with pytest.raises(ThreadNotFound, match="'nobody'"):
        saver.export_threads(tmp_path / "e", ["t", "nobody"])
    assert list(tmp_path.iterdir()) == []
    saver.export_threads(tmp_path / "e")
    with pytest.raises(FileTaken, match="exists"):
        saver.export_threads(tmp_path / "e")
    saver.export_threads(tmp_path / "e", overwrite=True)
    with pytest.raises(ThreadNotFound, match="'nobody'"):
        saver.import_threads(tmp_path / "e", ["nobody"])
    with pytest.raises(FileNotFoundError):
        saver.import_threads(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="thread_ids"):
        saver.export_threads(tmp_path / "f", "t")
    (tmp_path / "g.part").write_text("notes")
    with pytest.raises(FileTaken, match="something else"):
        saver.export_threads(tmp_path / "g")
    assert (tmp_path / "g.part").read_text() == "notes"


def test_an_export_that_was_cut_short_goes_on(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, tmp_path: Path
) -> None:
    """After a failure at any request, the same call writes the missing threads only."""
    for thread in "abc":
        fill(saver, thread, last=6)
    saver.export_threads(tmp_path / "whole")
    calls = 0

    def count(request: Any) -> None:
        nonlocal calls
        calls += is_call(request, "read_entries")

    exporting = export_file(audit.keyspace, None, tmp_path / "counted", overwrite=False)
    steps.run(exporting, count)
    for moment in range(1, calls + 1):
        path = tmp_path / f"cut {moment}"
        calls = 0

        def fail(request: Any, moment: int = moment) -> None:
            count(request)
            if calls == moment:  # noqa: B023 - that of the test, which `count` counts
                raise KeyboardInterrupt

        for meddle in (fail, count):
            with contextlib.suppress(KeyboardInterrupt):
                steps.run(export_file(audit.keyspace, None, path, overwrite=False), meddle)
        assert calls == moment + 3 - (moment - 1), "threads that were written are not read again"
        assert list(read_file(path))[1:] == list(read_file(tmp_path / "whole"))[1:]
        assert not path.with_name(path.name + ".part").exists()


def test_a_part_whose_threads_moved_on_is_written_again(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, tmp_path: Path
) -> None:
    """An export writes again from the first thread of the part that has moved on."""
    for thread in "ab":
        fill(saver, thread, last=3)
    path = tmp_path / "e"

    def fail(request: Any) -> None:
        if is_call(request, "read_entries") and request.keys[0].endswith(b":b"):
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        steps.run(export_file(audit.keyspace, None, path, overwrite=False), fail)
    saver.put(*put_of("a", 50))
    saver.export_threads(path)
    heads = [item for item in read_file(path) if isinstance(item, ThreadHead)]
    assert [head.entries for head in heads] == [7, 6]


def test_an_import_that_was_cut_short_is_made_again(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, tmp_path: Path
) -> None:
    """An import that ends before any of its requests leaves whole threads or none, and the same call does the rest."""
    for thread in "ab":
        fill(saver, thread, last=30)
    saver.export_threads(tmp_path / "e")
    saver.delete_thread("a")
    saver.delete_thread("b")
    for moment in range(1, 14):
        at = 0

        def fail(request: Any, moment: int = moment) -> None:
            nonlocal at
            at += isinstance(request, Call)
            if at == moment:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            steps.run(saver._operations.import_threads(tmp_path / "e", None), fail)
        lengths = {len(audit.check(thread)) for thread in "ab"}
        assert lengths <= {0, 60}
        done = saver.import_threads(tmp_path / "e")
        assert done.threads + done.present == 2
        for thread in "ab":
            assert len(audit.check(thread)) == 60
            saver.delete_thread(thread)


def test_a_killed_import_is_made_again(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """A process is killed while it imports; another does the rest."""
    with Bench(any_server, prefix=prefix) as bench:
        names = [f"t{number}" for number in range(20)]
        for thread in names:
            fill(bench.saver, thread, last=20)
        before = {thread: bench.contents(thread) for thread in names}
        bench.saver.export_threads(tmp_path / "e")
        for thread in names:
            bench.saver.delete_thread(thread)
        code = (
            "import sys; from saver import RedisStreamSaver\n"
            "def show(*one): print(*one, flush=True); one[0] == 't7' and sys.stdin.read()\n"
            f"with RedisStreamSaver.from_conn_string({any_server.url!r}, prefix={prefix!r}, partitions=2) as saver:\n"
            f"    saver.import_threads({str(tmp_path / 'e')!r}, progress=show)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert any(line.startswith("t7 ") for line in process.stdout)
            process.kill()
        done = bench.saver.import_threads(tmp_path / "e")
        assert done.threads + done.present == 20
        assert done.threads > 0
        assert {thread: bench.contents(thread) for thread in names} == before


def test_a_lost_log_is_restored(saver: RedisStreamSaver, tmp_path: Path, audit: Audit) -> None:
    """An import restores a log that a server lost, over the views that are left."""
    fill(saver, "t")
    before = [(one.checkpoint, one.pending_writes) for one in saver.list(config("t"))]
    saver.export_threads(tmp_path / "e")
    audit.client.delete(audit.keyspace.thread(b"t").log)
    with pytest.raises(LogLost):
        saver.get_tuple(config("t"))
    assert saver.import_threads(tmp_path / "e").threads == 1
    assert [(one.checkpoint, one.pending_writes) for one in saver.list(config("t"))] == before
    audit.check("t")


def test_the_savers_ttl_begins_with_an_import(on: Open, tmp_path: Path, audit: Audit) -> None:
    """With a ttl all keys expire together; without one no key expires, though the thread had a ttl before."""
    lasting, brief = on(), on(ttl=5)
    fill(brief, "t", last=2)
    lasting.export_threads(tmp_path / "e")
    keys = audit.keyspace.thread(b"t")
    for saver, lives in ((lasting, False), (brief, True)):
        lasting.delete_thread("t")
        saver.import_threads(tmp_path / "e")
        for key in (keys.log, keys.index, keys.order):
            left = audit.client.pttl(key)
            assert (0 < left <= 300_000) if lives else left == -1
        assert (audit.client.zscore(keys.shared.expiries, b"tt") is not None) == lives


def test_writers_go_on_while_all_is_exported(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """Agents write, prune and delete meanwhile, and every thread in the file is whole."""
    with Bench(any_server, prefix=prefix) as bench:
        names = [f"t{number}" for number in range(8)]
        for thread in names:
            fill(bench.saver, thread, last=10)
        stop = threading.Event()

        def write() -> None:
            dice = random.Random(1)
            with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=2) as saver:
                for number in range(100, 10**6):
                    if stop.is_set():
                        return
                    thread = dice.choice(names)
                    saver.put(*put_of(thread, number))
                    if number % 11 == 0:
                        saver.prune([thread], keep_last=3)
                    if number % 29 == 0:
                        saver.delete_thread(thread)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for attempt in range(15):
                bench.saver.export_threads(tmp_path / f"{attempt}")
        finally:
            stop.set()
            writer.join()
        for attempt in range(15):
            with Bench(any_server, prefix=f"{prefix}x{attempt}") as other:
                assert other.saver.import_threads(tmp_path / f"{attempt}").threads <= len(names)
                with Audit(any_server.url, f"{prefix}x{attempt}", 2) as audit:
                    for thread in names:
                        audit.check(thread)


def test_memory_stays_the_same_however_long_a_log_is(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """Exporting 5,000 events of a KiB takes the memory of a page, and so does importing them."""
    saver = RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1, compress_above=None)
    with saver:
        for number in range(1, 5_001):
            writes = [("n", os.urandom(1000))]
            if number == 1:
                saver.put(*put_of("t", 1))
            else:
                saver.put_writes(config("t", number % 9), writes, f"task {number}")

        def peak(method: str) -> int:
            tracemalloc.start()
            try:
                getattr(saver, method)(tmp_path / "e")
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        exporting = peak("export_threads")
        assert (tmp_path / "e").stat().st_size > 5_000_000
        assert exporting < 4_500_000
        saver.delete_thread("t")
        assert peak("import_threads") < 8_000_000
        assert saver.import_threads(tmp_path / "e").present == 1


def test_damaged_threads(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """An export of all leaves out and names threads whose logs are damaged or gone; with `damaged` it has them unchecked."""
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as saver,
        any_server.client() as client,
    ):
        for thread in ("cut", "gone", "hole", "odd", "other", "sound"):
            for number in range(1, 4):
                saver.put(*put_of(thread, number, shared=True))
        logs = {thread: f"{{{prefix}:0}}:log:{thread}" for thread in ("cut", "gone", "hole", "odd", "other")}
        for thread, number in (("cut", 2), ("hole", 1)):
            client.xdel(logs[thread], client.xrange(logs[thread])[number][0])
        client.delete(logs["gone"])
        client.xadd(logs["odd"], {b"what": b"\xff"}, id="9999999999999-0")
        client.xadd(logs["other"], {b"what": b"\xfe"}, id="9999999999999-7")
        done = saver.export_threads(tmp_path / "all")
        assert (done.threads, done.entries) == (1, 3)
        assert [one.thread for one in done.left_out] == ["cut", "gone", "hole", "odd", "other"]
        assert all(f"'{one.thread}'" in one.why for one in done.left_out)
        for thread in ("cut", "hole", "odd", "other"):
            with pytest.raises(CorruptEntry, match=f"'{thread}'"):
                saver.export_threads(tmp_path / "one", [thread])
        evidence = tmp_path / "evidence"
        done = saver.export_threads(evidence, damaged=True)
        assert (done.threads, done.entries, [one.thread for one in done.left_out]) == (5, 2 + 2 + 4 + 4 + 3, ["gone"])
        items = [item for item in read_file(evidence) if isinstance(item, Entry)]
        assert [item.fields for item in items].count([b"what", b"\xff"]) == 1
        assert Entry(b"9999999999999-7", [b"what", b"\xfe"]) in items
        saver.delete_thread("sound")
        for wanted in (None, ["other"]):
            with pytest.raises(ExportUnreadable, match="damaged, or made up"):
                saver.import_threads(evidence, wanted)
        assert saver.import_threads(tmp_path / "all").threads == 1


def test_an_altered_log_is_not_taken_for_the_one_in_the_file(
    saver: RedisStreamSaver, tmp_path: Path, audit: Audit
) -> None:
    """An import refuses a thread whose log lacks or alters an entry; after a deletion the file restores it."""
    fill(saver, "t")
    saver.export_threads(tmp_path / "e")
    keys = audit.keyspace.thread(b"t")
    entries = audit.client.xrange(keys.log)
    for damage in ("missing", "altered"):
        audit.client.delete(keys.log)
        for at, (entry_id, fields) in enumerate(entries):
            if at != 2 or damage == "altered":
                audit.client.xadd(keys.log, {**fields, **({b"e": fields[b"e"] + b"x"} if at == 2 else {})}, id=entry_id)
        with pytest.raises(ThreadExists, match="damaged, pruned since, or another"):
            saver.import_threads(tmp_path / "e")
    saver.delete_thread("t")
    assert saver.import_threads(tmp_path / "e").threads == 1
    audit.check("t")


def test_a_part_of_evidence_is_not_continued(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """An export that checks logs does not continue the part of one that does not."""
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as saver,
        Audit(any_server.url, prefix, 1) as audit,
    ):
        for thread in "ab":
            saver.put(*put_of(thread, 1))
            saver.put(*put_of(thread, 2, 1))
        log = audit.keyspace.thread(b"a").log
        audit.client.xdel(log, audit.client.xrange(log)[0][0])

        def end_at_b(thread: str, *_: int) -> None:
            if thread == "b":
                raise RuntimeError(thread)

        with pytest.raises(RuntimeError):
            saver.export_threads(tmp_path / "e", damaged=True, progress=end_at_b)
        assert [one.thread for one in saver.export_threads(tmp_path / "e").left_out] == ["a"]


def test_a_damaged_feed_is_no_damaged_log(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """If the registry has to be folded from a damaged feed, an export of all is an error, not an empty export."""
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as saver,
        Audit(any_server.url, prefix, 1) as audit,
    ):
        saver.put(*put_of("t", 1))
        shared = audit.keyspace.partition(0)
        audit.client.xadd(shared.feed, {b"what": b"is this"})
        audit.client.delete(shared.runs)
        with pytest.raises(CorruptEntry, match="feed"):
            saver.export_threads(tmp_path / "e")


def test_an_undo_comes_before_a_new_beginning(saver: RedisStreamSaver, steps: Steps, audit: Audit) -> None:
    """A log that is pruned while it is exported is undone, and written from its beginning."""
    for number in range(1, 451):
        saver.put(*put_of("t", number))
    at = 0

    def meddle(request: Any) -> None:
        nonlocal at
        at += is_call(request, "read_entries")
        if at == 2:
            at += 1
            saver.prune(["t"], keep_last=5)

    written = Written()
    steps.run(export_thread(audit.keyspace.thread(b"t"), written), meddle)
    undo = written.calls.index("undo")
    assert written.calls[:2] == ["begin", "entries"]
    assert written.calls[:undo].count("begin") == 1
    assert written.calls[undo + 1] == "begin"
    assert written.calls[-1] == "end"


def test_signed_threads_stay_signed(on: Open, tmp_path: Path, audit: Audit) -> None:
    """Signatures come back with their threads, and a saver with the key reads and continues these."""
    signing = on(signing_key=b"k" * 32)
    for number in range(1, 8):
        signing.put(*put_of("t", number, number - 1 or None, shared=True))
    signing.prune(["t"], keep_last=4)
    signing.export_threads(tmp_path / "e")
    signing.delete_thread("t")
    again = on(signing_key=b"k" * 32)
    again.import_threads(tmp_path / "e")
    again.put(*put_of("t", 8, 7, shared=True))
    assert [number_of(one) for one in again.list(config("t"))] == [8, 7, 6, 5, 4]
    assert again.verify("t").sound
    again.copy_thread("t", "copy", until=audit.check("t")[-1].sequence - 1)
    assert [number_of(one) for one in again.list(config("copy"))] == [7, 6, 5, 4]


def test_an_export_that_has_a_thread_twice(saver: RedisStreamSaver, tmp_path: Path, audit: Audit) -> None:
    """It is refused: the second would be reported as there already, or stop the import halfway."""
    for thread, last in (("a", 3), ("b", 2)):
        fill(saver, thread, last=last)
    saver.export_threads(tmp_path / "e")
    encoder, parts = Encoder(), []
    found = list(read_file(tmp_path / "e"))
    assert isinstance(found[0], Header)
    parts.append(encoder.header(found[0]))
    for item in [*found[1:-1], *found[1:-1]]:
        if isinstance(item, ThreadHead):
            parts.append(encoder.begin(item))
        elif isinstance(item, Entry):
            parts.append(encoder.entry(item))
        else:
            parts.append(encoder.end())
    (tmp_path / "twice").write_bytes(b"".join([*parts, encoder.trailer()]))
    for thread in "ab":
        saver.delete_thread(thread)
    with pytest.raises(ExportUnreadable, match="has thread 'a' twice"):
        saver.import_threads(tmp_path / "twice")
    assert list(saver.list(None)) == []
    assert saver.import_threads(tmp_path / "e") == (2, 10, 0)
    assert saver.import_threads(tmp_path / "e") == (0, 0, 2)
    saver.delete_thread("a")
    assert saver.import_threads(tmp_path / "e") == (1, 6, 1)
    assert len(audit.check("a")) == 6


@pytest.mark.parametrize("how", ["the same", "the same, reply lost", "continued", "another", "other history"])
def test_an_import_that_another_one_overtook(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, tmp_path: Path, how: str
) -> None:
    """A thread that came meanwhile counts as there already if it has the entries of the file, and is an error otherwise."""
    fill(saver, "t")
    saver.export_threads(tmp_path / "e")
    saver.delete_thread("t")

    def overtake(request: Any) -> None:
        if (
            isinstance(request, Call)
            and request.script is IMPORT
            and not audit.client.exists(audit.keyspace.thread(b"t").log)
        ):
            if how == "another":
                fill(saver, "t", last=2)
                return
            saver.import_threads(tmp_path / "e")
            if how == "the same, reply lost":
                saver._runner.run(only(request), "a command whose reply is lost")
            elif how != "the same":
                fill(saver, "t", last=14)
            if how == "other history":
                saver.prune(["t"])

    def only(request: Call) -> Flow[Any]:
        return (yield request)

    flow = saver._operations.import_threads(tmp_path / "e", None)
    if how in {"the same", "the same, reply lost", "continued"}:
        assert steps.run(flow, overtake) == (0, 0, 1)
        assert [key for key in audit.everything() if b":stage:" in key] == []
        return
    with pytest.raises(ThreadExists, match="'t' exists with another log"):
        steps.run(flow, overtake)


def test_an_import_whose_replies_are_lost(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """A thread that this very import put in place does not count as there already, though its command was sent twice."""
    with Proxy(any_server.url) as proxy, redis.Redis.from_url(proxy.url, retry=Retry(NoBackoff(), 3)) as through:
        saver = RedisStreamSaver(through, prefix=prefix, partitions=2)
        for thread in "ab":
            fill(saver, thread, last=2)
        saver.export_threads(tmp_path / "e")
        for number in range(1, 40):
            for thread in "ab":
                saver.delete_thread(thread)
            proxy.cut(number, Cut.AFTER)
            assert saver.import_threads(tmp_path / "e") == (2, 8, 0), number
            cut = proxy.cuts > 0
            proxy.plan()
            if not cut:
                break
        assert 5 < number < 39

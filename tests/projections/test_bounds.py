"""No request makes the server look at more than a bounded number of things, however many namespaces and runs there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest

from eventlog.errors import CorruptEntry, ServerOutOfMemory
from eventlog.flow import Call, Command, Flow, Script
from eventlog.keys import Keyspace
from projections.checkpoints.deletion import delete_thread
from projections.log import namespaces
from projections.maintenance.check_registry import check_registry
from projections.registry import read as registry_read
from projections.registry import rebuild as registry_rebuild
from projections.registry.read import known_runs
from projections.registry.rebuild import rebuild_registry
from projections.time_travel import parts
from projections.transfer import runs as transfer_runs
from projections.transfer.import_ import check_file, import_file
from projections.values import cache
from saver import RedisStreamSaver
from tests.hostile import Hostile, Sizes
from tests.projections.conftest import Open
from tests.projections.steps import Steps, is_call
from tests.saver.audit import WORDS, Audit, put_of
from tests.saver.threads import config, follow, step
from tests.servers import RunningServer, Server, binaries, preferred_binary

SMALL = Sizes(threads=12, namespaces=1_500, large=2_600, runs=8_000, history=150, channels=30)
COMMANDS = 6_000
"""Most commands that a script may run: it takes some 2 to 4 microseconds for each."""
ITEMS = 60_000
"""Most words in a request, and in its reply."""


def items_in(reply: Any) -> int:
    """The number of words in a reply."""
    return sum(map(items_in, reply)) if isinstance(reply, (list, tuple)) else 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["quick", "redis-6.2"])
def test_no_request_looks_at_much(private_server: Callable[..., RunningServer], tmp_path: Path, kind: str) -> None:
    """Each operation on a hostile data set is made of requests that run few commands, and carry few words."""
    binary = preferred_binary() if kind == "quick" else binaries().get(kind)
    if binary is None:
        pytest.skip(f"{kind} is not installed")
    hostile = Hostile(private_server(binary=binary).url, tmp_path, SMALL)
    try:
        hostile.build()

        def commands() -> float:
            return float(sum(one["calls"] for one in hostile.client.info("commandstats").values()))

        works = hostile.watch(commands)
        over = []
        for name, operation in hostile.operations():
            works.clear()
            operation()
            for work in works:
                sent = work.request.arguments if isinstance(work.request, (Call, Command)) else ()
                if work.amount > COMMANDS or max(len(sent), items_in(work.reply)) > ITEMS:
                    over.append((name, work.name, work.amount, len(sent), items_in(work.reply)))
        assert over == []
        hostile.client.unlink(hostile.shared.runs)
        before = hostile.run(check_registry(hostile.keyspace, 0))
        assert [problem.what for problem in before] == [
            "partition 0: runs: missing; the next list of all threads rebuilds it"
        ]
        hostile.run(rebuild_registry(hostile.keyspace, hostile.shared))
        assert hostile.run(check_registry(hostile.keyspace, 0)) == []
    finally:
        hostile.close()


@pytest.fixture
def hostile(any_server: Server, prefix: str, tmp_path: Path) -> Iterator[Hostile]:
    """A builder of threads with many namespaces and runs, on the quick server."""
    made = Hostile(any_server.url, tmp_path, Sizes(), prefix)
    yield made
    made.close()


class CutShort(Exception):
    """The process ends here."""


def cut_at(script: str, number: int = 1) -> Callable[[Any], None]:
    """Ends a flow before a script runs for the given time."""
    left = number

    def before(request: Any) -> None:
        nonlocal left
        left -= isinstance(request, Call) and is_call(request, script)
        if not left:
            raise CutShort

    return before


def runs_in(hostile: Hostile, thread: str) -> list[str]:
    """The runs that a thread has."""
    return [run.decode() for run in hostile.run(known_runs(hostile.keys(thread)))]


def registry_problems(hostile: Hostile) -> list[str]:
    """The differences of the registry from the feed."""
    return [problem.what for problem in hostile.run(check_registry(hostile.keyspace, 0))]


@pytest.mark.parametrize("finish", ["put", "delete", "delete_for_runs", "import", "copy", "rebuild"])
def test_a_deletion_that_was_cut_short_is_completed(hostile: Hostile, tmp_path: Path, finish: str) -> None:
    """The thread is gone at once, with its runs; a later call removes what is left of them."""
    saver, client = hostile.saver, hostile.client
    saver.put(config("source"), *step({"a": 1}, run_id="source run"))
    hostile.put_many("t", 2_300)
    with pytest.raises(CutShort):
        Steps(saver).run(delete_thread(hostile.keys("t")), cut_at("forget_runs", 2))
    left = client.zlexcount(hostile.shared.runs, b"[t1:t", b"(t1:t\xff")
    assert 200 < left < 1_400
    assert runs_in(hostile, "t") == []
    assert registry_problems(hostile) == []
    assert list(saver.list(None, limit=2))
    assert [info.thread_id for info in saver.threads()] == ["source"]
    if finish == "put":
        saver.put(config("t"), *step({"a": 1}, run_id="new"))
        assert runs_in(hostile, "t") == ["new"]
    elif finish == "import":
        saver.put(config("t"), *step({"a": 1}))  # a put without a run removes them, too
        saver.export_threads(tmp_path / "e", ["source"])
        saver.delete_thread("t")
    elif finish == "copy":
        saver.copy_thread("source", "t")
        assert runs_in(hostile, "t") == ["source run"]
    elif finish == "delete":
        saver.delete_thread("t")
    elif finish == "rebuild":
        hostile.run(rebuild_registry(hostile.keyspace, hostile.shared))
    else:
        saver.delete_for_runs(["run-x0002299"])
    assert client.zlexcount(hostile.shared.runs, b"[d", b"(e") == 0
    assert client.zlexcount(hostile.shared.runs, b"[t1:t", b"(t1:t\xff") == (finish in ("put", "copy"))
    assert registry_problems(hostile) == []
    client.unlink(hostile.shared.runs)
    hostile.run(rebuild_registry(hostile.keyspace, hostile.shared))
    assert registry_problems(hostile) == []


def test_replaced_views_are_removed(single_server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps if the server uses libc's allocator, which else holds up a later command; nothing of them is left."""
    monkeypatch.setattr(registry_rebuild, "PAGE", 5)
    with (
        RedisStreamSaver.from_conn_string(single_server.url, prefix=prefix, partitions=1) as saver,
        Audit(single_server.url, prefix, 1) as audit,
    ):
        for number in range(12):
            saver.put(*put_of(f"t{number}", number, run=f"run{number}"))
        steps, keyspace = Steps(saver), saver._operations.keyspace
        before = audit.everything()
        client: Any = audit.client
        steps.run(rebuild_registry(keyspace, keyspace.partition(0)))
        assert audit.everything() == before
        is_libc = client.info("memory")["mem_allocator"] == "libc"
        assert len(steps.calls("remove_members")) == (4 + 6 if is_libc else 2)
        client.unlink(keyspace.partition(0).runs)
        steps.run(rebuild_registry(keyspace, keyspace.partition(0)))
        assert audit.everything() == before


def test_an_import_over_old_runs(hostile: Hostile, tmp_path: Path) -> None:
    """Runs of a deleted thread are removed before an import of that name notes its own."""
    saver = hostile.saver
    saver.put(config("t"), *step({"a": 1}, run_id="first"))
    saver.export_threads(tmp_path / "e", ["t"])
    saver.delete_thread("t")
    hostile.put_many("t", 2_300)
    with pytest.raises(CutShort):
        Steps(saver).run(delete_thread(hostile.keys("t")), cut_at("forget_runs"))
    assert saver.import_threads(tmp_path / "e").threads == 1
    assert runs_in(hostile, "t") == ["first"]
    assert registry_problems(hostile) == []


@pytest.mark.parametrize("first", ["checkpoint", "writes", "import"])
def test_a_new_thread_without_a_run_has_none_of_the_old_ones(hostile: Hostile, tmp_path: Path, first: str) -> None:
    """The call that begins a thread removes the runs that a deleted one has left, so that later puts need not look for them."""
    saver = hostile.saver
    saver.put(config("t"), *step({"a": 1}))
    saver.export_threads(tmp_path / "e", ["t"])
    saver.delete_thread("t")
    hostile.put_many("t", 2_300)
    with pytest.raises(CutShort):
        Steps(saver).run(delete_thread(hostile.keys("t")), cut_at("forget_runs"))
    if first == "writes":
        saver.put_writes(config("t", checkpoint_id="c"), [("a", 1)], "task")
    elif first == "import":
        saver.import_threads(tmp_path / "e")
    saver.put(config("t"), *step({"a": 1}))
    assert hostile.client.zlexcount(hostile.shared.runs, b"[t1:t", b"(t1:t\xff") == 0
    assert runs_in(hostile, "t") == []
    assert saver.check("t").ok
    assert registry_problems(hostile) == []
    saver.delete_for_runs(["run-x0002299", "run-x0000001"])
    assert saver.get_tuple(config("t"))


def test_a_deletion_of_many_namespaces_that_was_cut_short(hostile: Hostile, prefix: str, any_server: Server) -> None:
    """Before the one script that deletes, the thread is whole and lacks heads only; a put between is deleted with it."""
    saver = hostile.saver
    hostile.put_many("t", 1_200)
    steps, keys = Steps(saver), hostile.keys("t")

    def before(request: Any) -> None:
        if isinstance(request, Call) and is_call(request, "delete_thread") and request.arguments[4] == 1:
            raise CutShort

    with pytest.raises(CutShort):
        steps.run(delete_thread(keys), before)
    assert not hostile.client.exists(keys.head(b"x0000007:1"))
    assert len(list(saver.list({"configurable": {"thread_id": "t"}}))) == 1_200
    assert saver.get_tuple(config("t", "x0000007:1")) is not None
    assert saver.check("t").ok

    def put_between(request: Any) -> None:
        if isinstance(request, Command) and request.name == "UNLINK":
            saver.put(config("t", "between"), *step({"a": 1}))

    assert steps.run(delete_thread(keys), put_between) is True
    with Audit(any_server.url, prefix, 1) as audit:
        names = {b"feed", b"threads", b"runs", b"expiries", b"meta"}
        left = [key for key in audit.everything() if key.rpartition(b":")[2] not in names]
        assert all(0 < hostile.client.ttl(key) <= 3_600 for key in left), (
            left
        )  # the head of a namespace that came between
        assert len(left) <= 1
    assert saver.get_tuple(config("t")) is None
    assert list(saver.list({"configurable": {"thread_id": "t"}})) == []


@pytest.mark.parametrize("count", [3, 1_200])
@pytest.mark.parametrize("planted", [b"cab", b"cy\0", b"cy\xff\xfe\0y\0" + b"1-0"])
@pytest.mark.parametrize("only", [False, True], ids=["any", "only this log"])
def test_a_thread_with_a_damaged_order_is_deleted(hostile: Hostile, planted: bytes, count: int, only: bool) -> None:
    """The order is a view: a member that is none keeps nobody from deleting the thread, with all of its heads."""
    hostile.put_many("t", count)
    keys, client = hostile.keys("t"), hostile.client
    digest = client.hget(keys.index, "d")
    client.zadd(keys.order, {planted: 0})
    assert Steps(hostile.saver).run(delete_thread(keys, only=digest if only else None)) is True
    assert [key for key in client.keys("*") if key.startswith(keys.heads)] == []
    assert not client.exists(keys.log, keys.index, keys.order)
    assert client.xrevrange(keys.shared.feed, count=1)[0][1][b"kind"] == b"deleted"


def test_a_root_that_begins_while_many_namespaces_are_deleted(hostile: Hostile) -> None:
    """Its head has no expiry of its own, and is deleted with the thread."""
    saver, keys, modes = hostile.saver, hostile.keys("t"), []
    hostile.put_many("t", 1_000)

    def put_between(request: Any) -> None:
        if isinstance(request, Call) and is_call(request, "delete_thread"):
            modes.append((request.arguments[4], len(request.keys) > 1_000))
            if modes == [(0, False), (0, True)]:
                saver.put(config("t", "between"), *step({"a": 1}))
            elif request.arguments[4] == 1:
                saver.put(config("t"), *step({"a": 1}))

    assert Steps(saver).run(delete_thread(keys), put_between) is True
    assert [mode for mode, _ in modes] == [0, 0, 1]
    assert not hostile.client.exists(keys.head(b""))


def test_namespaces_in_steps(on: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are the same however few namespaces, threads and bytes of keys one call may have."""
    saver = on()
    for thread in ("a", "b", "c"):
        for number, name in enumerate(("", "n:1", "n:2", "m|x:1", "z" * 600)[: 5 - (thread == "b")]):
            saver.put(*put_of(thread, 10 + number, namespace=name))

    def seen() -> list[Any]:
        listed = [found.config["configurable"] for found in saver.list(None)]
        of_one = [found.config["configurable"] for found in saver.list({"configurable": {"thread_id": "b"}})]
        sizes = [(info.thread_id, info.namespaces, info.events) for info in saver.threads()]
        return [listed, of_one, sizes, saver.rebuild("a").heads]

    expected = seen()
    assert len(expected[0]) == 14
    for name in ("NAMESPACES", "THREADS", "KEY_BYTES"):
        for most in (1, 2, 3):
            monkeypatch.setattr(namespaces, name, most)
            assert seen() == expected, (name, most)


def of_list(found: Iterable[Any]) -> list[tuple[str, ...]]:
    """Thread, namespace and id of some checkpoints."""
    return [tuple(one.config["configurable"].values()) for one in found]


def test_a_list_with_a_limit_begins_the_whole_list(on: Open, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same as the beginning of the list without one, with equal ids too, and begins no more walks than it needs."""
    saver = on()
    places = [(thread, name, number) for thread in "abcd" for name in ("", "n:1", "n:2") for number in (1, 2, 4)]
    for at, (thread, name, number) in enumerate(places):
        saver.put(*put_of(thread, number if name == "n:2" else (at * 7) % 36, namespace=name))
    saver.put(config("late"), *step({}, checkpoint_id="zzzz"))
    monkeypatch.setattr(namespaces, "NAMESPACES", 2)
    ids = sorted({found.config["configurable"]["checkpoint_id"] for found in saver.list(None)})
    places_in: list[Any] = [None, {"configurable": {"thread_id": "b"}}, config("b", "n:2")]
    for chosen in places_in:
        for before in (None, ids[0], ids[3], ids[20], "zzzz", "zzzzz"):
            given: Any = None if before is None else config("a", checkpoint_id=before)
            whole = of_list(saver.list(chosen, before=given))
            assert whole == sorted(whole, key=lambda place: place[::-1][:1], reverse=True)
            for limit in (1, 2, 3, 7, 40):
                assert of_list(saver.list(chosen, before=given, limit=limit)) == whole[:limit], (chosen, before, limit)
                filtered = saver.list(chosen, filter={"source": "loop"}, before=given, limit=limit)
                assert of_list(filtered) == whole[:limit]
    steps.items(saver._operations.list(saver.serde, None, None, None, 1))
    assert len(steps.calls("read_page")) == 1
    steps.items(saver._operations.list(saver.serde, None, None, config("a", checkpoint_id=ids[1]), 3))
    assert len(steps.calls("read_page")) <= 3


def test_the_server_leaves_out_what_is_above_a_limit(hostile: Hostile) -> None:
    """Of 1,500 namespaces, later steps reply with those only that may contribute to the list."""
    for thread in ("a", "b"):
        hostile.put_many(thread, 1_500)
    saver = hostile.saver
    saver.put(config("c"), *step({"a": 1}, checkpoint_id="d"))
    works = hostile.watch(lambda: 0.0)
    assert of_list(saver.list(None, limit=1)) == [("c", "", "d")]
    words = [items_in(work.reply) for work in works if work.name.endswith("newest")]
    assert len(words) == 4
    assert sum(words) < 1_100


def test_checkpoints_that_are_deleted_during_a_list(on: Open) -> None:
    """A list with a limit goes on with other namespaces if the newest ones are gone by the time they are read."""
    saver = on()
    for number, thread in enumerate("abcdef"):
        saver.put(*put_of(thread, number))
    whole = of_list(saver.list(None))
    assert [thread for thread, _, _ in whole] == list("fedcba")
    steps = Steps(saver)

    def delete(request: Any) -> None:
        if isinstance(request, Call) and is_call(request, "read_page") and len(steps.calls("read_page")) < 2:
            saver.delete_thread("fd"[len(steps.calls("read_page"))])

    found = steps.items(saver._operations.list(saver.serde, None, None, None, 3), delete)
    assert [one.config["configurable"]["thread_id"] for one in found] == ["e", "c", "b"]


def test_a_list_goes_on_with_equal_ids_after_a_deletion(on: Open) -> None:
    """A copy has the ids of its source: a list with a limit finds it though another thread is deleted meanwhile."""
    saver = on()
    saver.put(*put_of("a", 1))
    for name in ("b", "c"):
        saver.copy_thread("a", name)
    found = saver.list(None, limit=2)
    first = next(found).config["configurable"]["thread_id"]
    saver.delete_thread("b")
    assert [first, *(one.config["configurable"]["thread_id"] for one in found)] == ["c", "a"]


def test_versions_of_many_entries(saver: RedisStreamSaver, any_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions that change those of a hundred checkpoints are refused, before the server has read more of them."""
    monkeypatch.setattr(cache, "DEEPEST", 1_000)
    before = step({f"channel{number}": 0 for number in range(20)})
    ids = [before[0]["id"]]
    saver.put(config("t"), *before)
    for number in range(300):
        before = follow(before, {"channel0": number})
        saver.put(config("t", checkpoint_id=ids[-1]), *before)
        ids.append(before[0]["id"])
    found = saver.get_tuple(config("t", checkpoint_id=ids[99]))
    assert found is not None
    assert found.checkpoint["channel_values"]["channel0"] == 98
    assert len(list(saver.list(config("t"), limit=5, before=config("t", checkpoint_id=ids[90])))) == 5

    def entries() -> int:
        with any_server.client() as client:
            return int(client.info("commandstats")["cmdstat_xrange"]["calls"])

    was = entries()
    reads: list[Callable[[], object]] = [
        lambda: saver.get_tuple(config("t", checkpoint_id=ids[100])),
        lambda: saver.get_tuple(config("t", checkpoint_id=ids[300])),
        lambda: list(saver.list(config("t"), limit=5)),
        lambda: saver.get_delta_channel_history(config=config("t"), channels=["channel0"]),
    ]
    for read in reads:
        with pytest.raises(CorruptEntry, match=r"thread 't'.*more entries than this package builds on.*backup"):
            read()
    assert entries() - was < 4 * 110
    for at in (101, 301):  # sequence numbers
        with pytest.raises(CorruptEntry, match=r"thread 't'.*more entries than this package builds on.*backup"):
            saver.get_tuple_as_of(config("t"), at)
    assert saver.get_tuple_as_of(config("t"), 100) is not None


def test_values_of_many_entries_in_the_past(saver: RedisStreamSaver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A past state whose value changes those of too many entries is refused by that name, not as deleted or damaged."""
    source = parts.READ_PARTS.source.replace(b"LONGEST = 4000", b"LONGEST = 3")
    bounded = Script("read_parts", source, sha1(source).hexdigest())
    monkeypatch.setattr(parts, "READ_PARTS", bounded)
    before = step({"n": list(WORDS)})
    saver.put(config("t"), *before)
    for number in range(6):
        parent, before = before[0]["id"], follow(before, {"n": [*WORDS, number]})
        saver.put(config("t", checkpoint_id=parent), *before)
    assert saver.get_tuple_as_of(config("t"), 2) is not None
    with pytest.raises(CorruptEntry, match=r"thread 't'.*more entries than this package builds on.*backup"):
        saver.get_tuple_as_of(config("t"), 7)


def test_threads_in_pages(saver: RedisStreamSaver, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition with more threads than a page has is listed whole, the last active first."""
    for number in range(7):
        saver.put(*put_of(f"t{number}", number))
    listed = steps.run(registry_read.known_threads(saver._operations.keyspace))
    monkeypatch.setattr(registry_read, "PAGE", 2)
    assert steps.run(registry_read.known_threads(saver._operations.keyspace)) == listed
    assert sorted(listed) == [b"t%d" % number for number in range(7)]


def many_runs(hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Delete a thread of 12 runs after an export of it; pointers and pages are to name few runs."""
    names = sorted(f"run{number}" for number in range(12))
    for number, run in enumerate(names):
        hostile.saver.put(*put_of("t", number, run=run))
    hostile.saver.export_threads(tmp_path / "e", ["t"])
    monkeypatch.setattr(transfer_runs, "AT_ONCE", 5)
    monkeypatch.setattr(registry_read, "PAGE", 4)
    return names


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_runs_of_an_import_come_in_steps(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """All runs are noted; an import that was cut short between its steps is completed by another one."""
    names = many_runs(hostile, tmp_path, monkeypatch)
    saver, steps = hostile.saver, Steps(hostile.saver)
    saver.delete_thread("t")
    wanted = steps.run(check_file(tmp_path / "e", None, hostile.keyspace.limits))
    if cut:
        with pytest.raises(CutShort):
            steps.run(import_file(hostile.keyspace, tmp_path / "e", wanted, ttl=0), cut_at("announce_runs", cut))
        assert runs_in(hostile, "t") == names[: 5 * cut]
        assert registry_problems(hostile) == []
    done = saver.import_threads(tmp_path / "e")
    assert (done.threads, done.present) == ((0, 1) if cut else (1, 0))
    assert runs_in(hostile, "t") == names
    pointers = [fields for _, fields in hostile.client.xrange(hostile.shared.feed) if fields[b"kind"] == b"imported"]
    assert [fields[b"run"].count(b":") for fields in pointers] == [5, 5, 2]
    assert saver.import_threads(tmp_path / "e").present == 1
    assert hostile.client.xlen(hostile.shared.feed) == 12 + 1 + 3
    hostile.client.unlink(hostile.shared.runs, hostile.shared.threads)
    assert len(list(saver.list(None))) == 12
    assert runs_in(hostile, "t") == names
    assert saver.verify("t").sound


def test_a_thread_that_was_replaced_gets_no_runs(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later runs of an import are not noted for another thread of that name."""
    many_runs(hostile, tmp_path, monkeypatch)
    saver, steps = hostile.saver, Steps(hostile.saver)
    saver.delete_thread("t")
    wanted = steps.run(check_file(tmp_path / "e", None, hostile.keyspace.limits))

    def replace(request: Any) -> None:
        if (
            isinstance(request, Call)
            and is_call(request, "announce_runs")
            and saver.get_tuple(config("t", "new")) is None
        ):
            saver.delete_thread("t")
            saver.put(*put_of("t", 1, namespace="new", run="other"))

    steps.run(import_file(hostile.keyspace, tmp_path / "e", wanted, ttl=0), replace)
    assert runs_in(hostile, "t") == ["other"]
    assert registry_problems(hostile) == []


def test_runs_of_a_copy_come_in_steps(hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy has all runs of its source, also when it is repeated after it was cut short."""
    names = many_runs(hostile, tmp_path, monkeypatch)
    saver, steps = hostile.saver, Steps(hostile.saver)
    with pytest.raises(CutShort):
        steps.run(saver._operations.copy_thread("t", "copy", None), cut_at("announce_runs"))
    assert runs_in(hostile, "copy") == names[:5]
    saver.copy_thread("t", "copy")
    assert runs_in(hostile, "copy") == names
    assert registry_problems(hostile) == []


def test_long_names_make_short_steps() -> None:
    """A pointer names as many runs as their bytes, and those of the thread, allow: one at least."""
    assert list(transfer_runs.first_runs(b"t", [])) == []
    assert len(transfer_runs.first_runs(b"t", [b"r"] * 2_000)) == 500
    assert len(transfer_runs.first_runs(b"t" * 60_000, [b"r" * 60_000] * 50)) == 2
    assert len(transfer_runs.first_runs(b"t" * 600_000, [b"r"] * 50)) == 1


def test_a_registry_of_a_trimmed_feed_is_rebuilt_in_steps(hostile: Hostile, any_server: Server) -> None:
    """A trimmed part with many runs is copied in steps, also if the feed is trimmed meanwhile; ended threads go with all runs."""
    saver = hostile.saver
    hostile.put_many("gone", 1_500)
    hostile.put_many("t", 1_500)
    hostile.feed.trim(10)
    saver.delete_thread("gone")
    saver.put(config("other"), *step({"a": 1}, run_id="r"))
    steps = Steps(saver)
    trimmed: list[int] = []

    def trim(request: Any) -> None:
        if isinstance(request, Call) and is_call(request, "rebuild_registry") and request.arguments[0] and not trimmed:
            trimmed.append(hostile.feed.trim(1).entries)

    for before in (None, trim):
        hostile.client.unlink(hostile.shared.runs, hostile.shared.threads)
        steps.run(rebuild_registry(hostile.keyspace, hostile.shared), before)
        assert len(steps.calls("rebuild_registry")) >= 5
        assert len(runs_in(hostile, "t")) == 1_500
        assert runs_in(hostile, "gone") == []
        assert registry_problems(hostile) == []
    assert trimmed[0] > 0
    hostile.feed.trim(0)
    assert not hostile.client.zlexcount(hostile.shared.past_runs, b"[t4:gone", b"(t4:gone\xff")
    assert registry_problems(hostile) == []


def test_threads_that_expired_with_many_runs(hostile: Hostile) -> None:
    """A put that notes the end of a thread removes some of its runs, and hides the rest; a rebuild drops them all."""
    saver, client = hostile.saver, hostile.client
    hostile.put_many("t", 1_500)
    keys = hostile.keys("t")
    client.zadd(hostile.shared.expiries, {b"tt": 1})
    client.unlink(keys.log, keys.index, keys.order)
    with RedisStreamSaver.from_conn_string(
        hostile.url, prefix=hostile.keyspace.prefix, partitions=1, ttl={"default_ttl": 10}
    ) as expiring:
        expiring.put(config("other"), *step({"a": 1}, run_id="r"))
    assert runs_in(hostile, "t") == []
    assert client.zlexcount(hostile.shared.runs, b"[t1:t", b"(t1:t\xff") > 1_000
    assert registry_problems(hostile) == []
    client.unlink(hostile.shared.threads)
    assert [found.config["configurable"]["thread_id"] for found in saver.list(None)] == ["other"]
    assert client.zlexcount(hostile.shared.runs, b"[t1:t", b"(t1:t\xff") == 0


def test_threads_that_expired_unnoted(hostile: Hostile) -> None:
    """A rebuild of the registry drops threads with many runs whose logs have expired, in steps."""
    hostile.put_many("t", 2_500)
    keys = hostile.keys("t")
    hostile.client.unlink(keys.log, keys.index, keys.order, hostile.shared.expiries)
    steps = Steps(hostile.saver)
    steps.run(rebuild_registry(hostile.keyspace, hostile.shared))
    assert len(steps.calls("note_expiries")) == 3
    assert hostile.client.zrange(hostile.shared.runs, 0, -1) == [b""]
    assert hostile.client.zrange(hostile.shared.threads, 0, -1) == [b""]


def test_room_is_made_in_steps() -> None:
    """On a full server the log is trimmed step by step before the tombstone is tried again."""
    flow: Flow[bool] = delete_thread(Keyspace("p", 1).thread(b"t"))
    modes = []
    replies: list[Any] = [[b"room", 1], [b"room", 0], [b"ok", 0]]
    request = next(flow)
    request = flow.throw(ServerOutOfMemory("full"))
    with pytest.raises(StopIteration) as ended:
        for reply in replies:
            assert isinstance(request, Call)
            modes.append(request.arguments[2])
            request = flow.send(reply)
    assert ended.value.value is True
    assert modes == [b"make room", b"make room", b"anyway"]

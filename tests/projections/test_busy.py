"""Operations on threads that others change each time give up with a remedy, and leave the thread whole."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from eventlog.errors import ThreadBusy, ThreadExists
from eventlog.feed.trimming import Retention, trim_feed
from eventlog.flow import Call, Flow, Request
from projections.checkpoints import pruning
from projections.checkpoints.read import read_checkpoint
from projections.log import index
from projections.maintenance import check_head, rebuild
from projections.maintenance.check import check_thread
from projections.registry import fold
from projections.transfer import archive, copy, import_
from projections.transfer.export import export_file
from saver import RedisStreamSaver
from tests.projections.conftest import Open
from tests.projections.steps import Steps, is_call
from tests.saver.audit import Audit, checkpoint_id, config, number_of, put_of


@pytest.fixture(autouse=True)
def _few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three attempts show the same as a hundred."""
    for module in (index, pruning, rebuild, check_head, fold, copy, import_, archive):
        monkeypatch.setattr(module, "ATTEMPTS", 3)
    monkeypatch.setattr(index, "FRESH", 3)


@pytest.fixture
def other(on: Open) -> Callable[[], object]:
    """Another writer, who puts one more checkpoint on thread t with each call."""
    saver, numbers = on(), count(1)
    for _ in range(4):
        saver.put(*put_of("t", next(numbers)))
    return lambda: saver.put(*put_of("t", next(numbers)))


def before(script: str, act: Callable[[], object]) -> Callable[[Request], object]:
    """Acts before each call of a script."""
    return lambda request: act() if is_call(request, script) else None


def newest(saver: RedisStreamSaver) -> int:
    """The number of the newest checkpoint of thread t."""
    return number_of(saver.get_tuple(config("t")))


def test_pruning(saver: RedisStreamSaver, steps: Steps, other: Callable[[], object]) -> None:
    """A removal whose plan is outdated each time removes nothing."""
    with pytest.raises(ThreadBusy, match="'t' was written to each time"):
        steps.run(steps.pruning("t"), before("remove_checkpoints", other))
    assert len(list(saver.list(config("t")))) == 7


def test_an_index_that_is_deleted_each_time(steps: Steps, audit: Audit, other: Callable[[], object]) -> None:
    """A read that has to rebuild the index each time gives up."""
    keys = audit.keyspace.thread(b"t")
    flow = read_checkpoint(keys, "", checkpoint_id(1))
    with pytest.raises(ThreadBusy, match="index of thread 't'"):
        steps.run(flow, before("read_checkpoint", lambda: audit.client.delete(keys.index)))


def test_a_log_that_is_pruned_each_time(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, other: Callable[[], object]
) -> None:
    """A rebuild whose log is pruned each time leaves the index as it is, and nothing staged."""

    def prune() -> None:
        other()
        saver.prune(["t"], keep_last=2)

    with pytest.raises(ThreadBusy, match="log of thread 't' was pruned"):
        steps.run(rebuild.rebuild_thread(audit.keyspace.thread(b"t")), before("store_index", prune))
    assert not [key for key in audit.everything() if b":stage:" in key]
    assert saver.check("t").ok


@pytest.mark.parametrize("script", ["newest", "store_head"])
def test_views_that_change_each_time(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, other: Callable[[], object], script: str
) -> None:
    """A rebuild whose order is deleted, or whose head is outdated each time, gives up."""
    keys = audit.keyspace.thread(b"t")
    act = other if script == "store_head" else lambda: audit.client.delete(keys.order)
    with pytest.raises(ThreadBusy, match="'t' was written to each time before its views"):
        steps.run(rebuild.rebuild_thread(keys), before(script, act))
    saver.rebuild("t")
    assert saver.check("t").ok


def test_a_head_that_is_outdated_each_time(steps: Steps, audit: Audit, other: Callable[[], object]) -> None:
    """A check does not report a difference of a head that it could not read twice."""
    keys = audit.keyspace.thread(b"t")

    def spoil() -> None:
        other()
        audit.client.hset(keys.head(b""), "p", "wrong")

    with pytest.raises(ThreadBusy, match="head"):
        steps.run(check_thread(keys), before("read_checkpoint", spoil))


def test_a_copy(
    saver: RedisStreamSaver,
    steps: Steps,
    audit: Audit,
    other: Callable[[], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A copy of a thread that is pruned each time stores nothing."""

    def prune() -> None:
        other()
        other()
        saver.prune(["t"], keep_last=2)

    monkeypatch.setattr(copy, "PAGE", 1)
    source, target = (audit.keyspace.thread(name) for name in (b"t", b"copy"))
    with pytest.raises(ThreadBusy, match="pruned again and again"):
        steps.run(copy.copy_thread(audit.keyspace, source, target, ttl=0), before("read_entries", prune))
    assert saver.get_tuple(config("copy")) is None


def test_a_copy_to_a_thread_without_index(saver: RedisStreamSaver, audit: Audit, other: Callable[[], object]) -> None:
    """The target exists although its index is gone, which is rebuilt to find out."""
    saver.put(*put_of("copy", 9))
    audit.client.delete(audit.keyspace.thread(b"copy").index)
    with pytest.raises(ThreadExists):
        saver.copy_thread("t", "copy")
    assert saver.check("copy").ok


def test_a_feed_that_is_trimmed_each_time(steps: Steps, audit: Audit, other: Callable[[], object]) -> None:
    """A fold of a feed that is trimmed each time it was read gives up."""

    def trim(request: Request) -> None:
        if isinstance(request, Call) and is_call(request, "read_entries"):
            other()
            steps.saver._runner.run(trim_feed(audit.keyspace, Retention(count=1)), "feed")

    with pytest.raises(ThreadBusy, match="trimmed each time"):
        steps.run(fold.fold_feed(audit.keyspace.partition(0)), trim)


def exported(steps: Steps, audit: Audit, path: Path) -> Path:
    """Thread t in a file."""
    steps.run(export_file(audit.keyspace, ["t"], path, overwrite=False))
    return path


def importing(audit: Audit, path: Path) -> Flow[Any]:
    """Imports a file."""
    wanted = yield from import_.check_file(path, None, audit.keyspace.limits)
    yield from import_.import_file(audit.keyspace, path, wanted, ttl=0)


@pytest.mark.parametrize("how", ["views", "stage"])
def test_an_import(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, other: Callable[[], object], tmp_path: Path, how: str
) -> None:
    """An import gives up if the index of its target is deleted each time, or if its staged keys have expired."""
    path = exported(steps, audit, tmp_path / "file")
    keys = audit.keyspace.thread(b"t")
    saver.delete_thread("t")
    meanwhile: list[Any] = []

    def act() -> None:
        if how == "stage":
            audit.client.delete(*[key for key in audit.everything() if b":stage:" in key])
            return
        if not meanwhile:
            meanwhile.append(saver.put(*put_of("t", 1)))
        audit.client.delete(keys.index)

    message = "within ten minutes" if how == "stage" else "again and again"
    with pytest.raises(ThreadBusy, match=message):
        steps.run(importing(audit, path), before("import_log", act))


def test_an_archive(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, other: Callable[[], object], tmp_path: Path, monkeypatch: Any
) -> None:
    """A thread that is written to between the steps of its removal says how far it got."""
    monkeypatch.setattr(pruning, "AT_ONCE", 1)
    turns = count()

    def write() -> None:
        if next(turns):
            other()

    with pytest.raises(ThreadBusy, match="1 checkpoints were removed"):
        flow = saver._operations.archive_thread(saver.serde, "t", tmp_path / "file", keep_last=1, delete=False)
        steps.run(flow, before("remove_checkpoints", write))
    assert newest(saver) == 5

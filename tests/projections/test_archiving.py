"""An archive removes nothing from a thread that the file lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventlog.errors import ExportUnreadable, FileTaken, InvalidArgument, ThreadBusy, ThreadNotFound
from eventlog.flow import Call
from projections.checkpoints import pruning
from projections.transfer.files import read_file
from projections.transfer.format import ThreadHead
from saver import RedisStreamSaver
from tests.projections.steps import Steps, is_call
from tests.saver.audit import Audit, config, number_of, put_of
from tests.servers import Server


def fill(saver: RedisStreamSaver, last: int, first: int = 1) -> None:
    for number in range(first, last + 1):
        saver.put(*put_of("t", number, number - 1 or None, shared=True))
        saver.put_writes(config("t", number), [("n", number)], "task")


def numbers(saver: RedisStreamSaver) -> list[int]:
    return [number_of(one) for one in saver.list(config("t"))]


@pytest.mark.parametrize(
    ("given", "left"), [({}, 1), ({"keep_last": 4}, 4), ({"delete": True}, 0), ({"keep_last": 99}, 12)]
)
async def test_archive_then_prune(
    saver: RedisStreamSaver, audit: Audit, tmp_path: Path, given: dict[str, Any], left: int
) -> None:
    """The thread keeps what prune would keep, and the file has all of it, sync and async."""
    for driver in ("sync", "async"):
        fill(saver, 12)
        log = audit.client.xrange(audit.keyspace.thread(b"t").log)
        path = tmp_path / driver
        if driver == "sync":
            done = saver.archive_thread("t", path, **given)
        else:
            done = await saver.aarchive_thread("t", path, **given)
        assert done == (24, 12 - left)
        assert numbers(saver) == list(range(12, 12 - left, -1))
        audit.check("t")
        saver.delete_thread("t")
        saver.import_threads(path)
        assert audit.client.xrange(audit.keyspace.thread(b"t").log) == log
        saver.delete_thread("t")


@pytest.mark.parametrize("given", [{"keep_last": 2}, {"delete": True}], ids=["pruned", "deleted"])
def test_nothing_is_removed_that_the_archive_lacks(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, tmp_path: Path, given: dict[str, Any]
) -> None:
    """Whenever the thread is written to meanwhile, every event is in the file or in the log."""
    options: dict[str, Any] = {"keep_last": None, "delete": False, **given}
    for moment in range(1, 16):
        fill(saver, 10)
        path = tmp_path / str(moment)
        at = 0

        def write(request: Any, moment: int = moment) -> None:
            nonlocal at
            at += isinstance(request, Call)
            if isinstance(request, Call) and at == moment:
                fill(saver, 12, 11)

        flow = saver._operations.archive_thread(saver.serde, "t", path, **options)
        steps.run(flow, write)
        there = set(numbers(saver))
        saver.delete_thread("t")
        saver.import_threads(path)
        archived = set(numbers(saver))
        assert archived >= set(range(1, 11))
        assert there | archived >= set(range(1, 13 if at >= moment else 11)), moment
        saver.delete_thread("t")


def test_a_thread_that_never_rests_is_left_alone(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, tmp_path: Path
) -> None:
    """A thread that is written to before each request is archived and not pruned, and an error says so."""
    fill(saver, 3)
    added = iter(range(4, 1000))

    def write(request: Any) -> None:
        if isinstance(request, Call):
            saver.put(*put_of("t", next(added)))

    options: dict[str, Any] = {"keep_last": 1, "delete": False}
    flow = saver._operations.archive_thread(saver.serde, "t", tmp_path / "a", **options)
    with pytest.raises(ThreadBusy, match="Nothing was removed"):
        steps.run(flow, write)
    assert numbers(saver) == list(range(next(added) - 1, 0, -1))
    assert any(isinstance(item, ThreadHead) for item in read_file(tmp_path / "a"))


@pytest.mark.parametrize("how", ["changed", "cut", "another's"])
def test_a_file_that_is_not_what_was_written_prunes_nothing(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, tmp_path: Path, how: str
) -> None:
    """A disk that returns other data is noticed before anything is removed."""
    fill(saver, 6)
    saver.copy_thread("t", "u")
    saver.export_threads(tmp_path / "u", ["u"])
    path = tmp_path / "a"
    spoilt = False

    def spoil(request: Any) -> None:
        nonlocal spoilt
        if path.exists() and not spoilt:
            spoilt = True
            whole = path.read_bytes()
            other = {
                "changed": whole[:100] + b"!" + whole[101:],
                "cut": whole[:-9],
                "another's": (tmp_path / "u").read_bytes(),
            }
            path.write_bytes(other[how])

    options: dict[str, Any] = {"keep_last": 1, "delete": False}
    flow = saver._operations.archive_thread(saver.serde, "t", path, **options)
    with pytest.raises(ExportUnreadable):
        steps.run(flow, spoil)
    assert spoilt
    assert len(numbers(saver)) == 6


def test_more_than_is_removed_at_once(saver: RedisStreamSaver, audit: Audit, tmp_path: Path) -> None:
    """Thousands of checkpoints are removed in several steps."""
    for number in range(1, 2203):
        saver.put(*put_of("t", number))
    assert saver.archive_thread("t", tmp_path / "a", keep_last=2) == (2202, 2200)
    assert numbers(saver) == [2202, 2201]
    audit.check("t")


def test_wide_checkpoints_are_removed_in_short_steps(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step removes a bounded number of values and writes, as in a prune."""
    fill(saver, 12)
    monkeypatch.setattr(pruning, "PARTS", 10)
    flow = saver._operations.archive_thread(saver.serde, "t", tmp_path / "a", keep_last=2, delete=False)
    assert steps.run(flow).removed == 10
    assert len(steps.calls("remove_checkpoints")) > 2
    audit.check("t")


def test_refusals(saver: RedisStreamSaver, tmp_path: Path) -> None:
    """A missing thread, an existing file, and arguments that exclude each other are refused."""
    fill(saver, 3)
    with pytest.raises(ThreadNotFound, match="'nobody'"):
        saver.archive_thread("nobody", tmp_path / "a")
    with pytest.raises(InvalidArgument, match="keep_last"):
        saver.archive_thread("t", tmp_path / "a", keep_last=0)
    with pytest.raises(InvalidArgument, match="keep_last"):
        saver.archive_thread("t", tmp_path / "a", keep_last=1, delete=True)
    (tmp_path / "a").write_text("notes")
    with pytest.raises(FileTaken):
        saver.archive_thread("t", tmp_path / "a")
    assert (tmp_path / "a").read_text() == "notes"
    assert numbers(saver) == [3, 2, 1]
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_a_lost_answer_leaves_the_archive_whole(
    saver: RedisStreamSaver, steps: Steps, audit: Audit, tmp_path: Path
) -> None:
    """If the reply of a pruning is lost, the file is left alone, and the error names the possible causes."""
    fill(saver, 10)
    path = tmp_path / "lost"
    options: dict[str, Any] = {"keep_last": 2, "delete": False}
    pruned = False

    def lose(request: Any) -> None:
        nonlocal pruned
        if not pruned and is_call(request, "remove_checkpoints"):
            pruned = True
            saver.prune(["t"], keep_last=2)

    flow = saver._operations.archive_thread(saver.serde, "t", path, **options)
    with pytest.raises(ThreadBusy, match="left alone"):
        steps.run(flow, lose)
    saver.delete_thread("t")
    saver.import_threads(path)
    assert set(numbers(saver)) == set(range(1, 11))
    saver.delete_thread("t")


def test_a_signed_thread_is_not_pruned_without_its_key(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """An unsigned removal from a signed thread is refused, and the thread is unchanged."""
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver,
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, signing_key=b"k" * 16) as signed,
    ):
        fill(signed, 4)
        with pytest.raises(InvalidArgument, match="signed"):
            saver.archive_thread("t", tmp_path / "signed", keep_last=1)
        assert signed.verify("t").sound

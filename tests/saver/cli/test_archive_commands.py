"""Outputs, files and exit codes of `agentlog export`, `import` and `archive`."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import cbor2
import pytest
import zstandard

from projections.transfer.files import read_file
from projections.transfer.format import Entry, Header, ThreadHead
from saver import RedisStreamSaver
from saver.cli import main
from tests.saver.audit import Audit
from tests.saver.cli.commands import STEERING, Agentlog, on_terminal, put
from tests.saver.threads import config, following, step, values_of, writes_of


def seen(agentlog: Agentlog, thread: str, prefix: str | None = None) -> list[Any]:
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=prefix or agentlog.prefix) as saver:
        return [(one.checkpoint, one.metadata, one.pending_writes) for one in saver.list(config(thread))]


def delete(agentlog: Agentlog, *threads: str) -> None:
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        for thread in threads:
            saver.delete_thread(thread)


def test_export_and_import(everywhere: Agentlog, tmp_path: Path) -> None:
    """On every server, imported threads read as before; a second import finds them."""
    put(everywhere.url, everywhere.prefix, "1", "2", STEERING, count=3)
    file = str(tmp_path / "all.agentlog")
    done = everywhere("export", "--all", file)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"3 threads with 18 events in {file}.\n"
    before = {thread: seen(everywhere, thread) for thread in ("1", "2", STEERING)}
    delete(everywhere, *before)
    done = everywhere("import", file)
    assert (done.code, done.out) == (0, "3 threads with 18 events put in place.\n")
    assert {thread: seen(everywhere, thread) for thread in before} == before
    done = everywhere("import", file, "--json")
    assert done.objects == [{"file": file, "threads": 0, "entries": 0, "present": 3}]


def test_some_threads(agentlog: Agentlog, tmp_path: Path) -> None:
    """Named for the export, and for the import; into another prefix with a ttl."""
    put(agentlog.url, agentlog.prefix, "1", "2", "3", count=2)
    file = str(tmp_path / "e")
    done = agentlog("export", "1", "3", "1", file, "--json")
    assert done.objects == [{"file": file, "threads": 2, "entries": 8, "left_out": []}]
    assert [item.thread for item in read_file(file) if isinstance(item, ThreadHead)] == ["1", "3"]
    other = agentlog.prefix + "o"
    words = ["import", file, "--thread", "3", "--ttl", "5", "--url", agentlog.url, "--prefix", other]
    assert main(words) == 0
    assert seen(agentlog, "3", other) == seen(agentlog, "3")
    assert seen(agentlog, "1", other) == []
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=other) as saver:
        client: Any = saver._connections.sync_client()
        assert 0 < client.pttl(saver._operations.keyspace.thread(b"3").log) <= 300_000


def test_files_name_no_server(agentlog: Agentlog, tmp_path: Path) -> None:
    """The header has the prefix and no more of where it came from."""
    put(agentlog.url, agentlog.prefix, "1")
    agentlog("export", "--all", str(tmp_path / "e"))
    header = next(read_file(tmp_path / "e"))
    assert isinstance(header, Header)
    assert header.prefix == agentlog.prefix
    assert abs(header.created - time.time() * 1000) < 60_000
    assert agentlog.url not in repr(header)


def test_json_lines_of_a_copy(agentlog: Agentlog, tmp_path: Path) -> None:
    """Lines show what the log has: the metadata of a copy names its source."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        saver.put(config("t"), *step({"n": 1}, thread_id="t"))
        saver.copy_thread("t", "copy")
    lines = tmp_path / "lines"
    assert agentlog("export", "copy", str(lines), "--jsonl", "--values").code == 0
    (told,) = [one for one in map(json.loads, lines.read_text().splitlines()) if one["kind"] == "checkpoint"]
    assert told["thread"] == "copy"
    assert told["envelope"]["metadata"]["thread_id"] == "t"


def test_json_lines(agentlog: Agentlog, tmp_path: Path) -> None:
    """A line has an event's envelope and its whole values, as bytes or deserialized."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        latest: Any = config("t")
        for number in range(1, 30):
            messages = [f"message {one} of some length, so that it is stored as a delta" for one in range(number)]
            latest = saver.put(latest, *step({"messages": messages, "raw": b"\x00\x01"}, step=number, run_id="r"))
            saver.put_writes(latest, [("messages", {"n": number})], "task", "path")
        serde = saver.serde
        saver.prune(["t"], keep_last=20)
    plain, deserialized = str(tmp_path / "plain"), str(tmp_path / "values")
    assert agentlog("export", "t", plain, "--jsonl").code == 0
    assert agentlog("export", "--all", deserialized, "--jsonl", "--values").code == 0
    both = [[json.loads(line) for line in Path(name).read_text().splitlines()] for name in (plain, deserialized)]
    assert [one["sequence"] for one in both[0]] == [one["sequence"] for one in both[1]]
    checkpoints = [0, 0]
    for told, one in zip(*both, strict=True):
        assert told["thread"] == "t"
        assert told["time"].endswith("Z")
        if told["kind"] == "checkpoint":
            number = one["envelope"]["metadata"]["step"]
            value = told["values"]["messages"]
            loaded = serde.loads_typed((value["type"], base64.b64decode(value["bytes"])))
            assert loaded == one["values"]["messages"]["value"]
            assert len(loaded) == number
            assert one["values"]["raw"]["value"] == {"bytes": "AAE="}
            checkpoints[0] += 1
        elif told["kind"] == "writes":
            assert one["writes"][0]["value"] == {"n": one["writes"][0]["value"]["n"]}
            assert (one["task_id"], one["task_path"]) == ("task", "path")
            assert told["writes"][0]["channel"] == "messages"
            checkpoints[1] += 1
        else:
            assert told["kind"] == "pruned"
            assert told["strategy"] == "keep_latest"
    assert checkpoints[0] >= 20
    assert agentlog("import", plain).code == 2


def test_archive(everywhere: Agentlog, tmp_path: Path) -> None:
    """On every server, the file has everything; the thread keeps the rest, or nothing."""
    put(everywhere.url, everywhere.prefix, "1", count=5)
    before = seen(everywhere, "1")
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    done = everywhere("archive", "1", first, "--keep-last", "2")
    assert (done.code, done.out) == (0, f"10 events in {first}; 3 checkpoints removed from thread 1.\n")
    assert seen(everywhere, "1") == before[:2]
    done = everywhere("archive", "1", second, "--delete", "--json")
    assert done.objects == [{"thread": "1", "file": second, "entries": 5, "removed": 2}]
    assert seen(everywhere, "1") == []
    assert everywhere("import", first).code == 0
    assert seen(everywhere, "1") == before


@pytest.mark.parametrize(
    "words",
    [
        ["export", "nobody", "{new}"],
        ["export", "1", "nobody", "{new}"],
        ["export", "{new}"],
        ["export", "1", "--all", "{new}"],
        ["export", "1", "{new}", "--values"],
        ["export", "1", "{there}"],
        ["export", "1", "{there}", "--jsonl"],
        ["export", "1", "{nowhere}/e"],
        ["export", "1", "{dir}", "--force"],
        ["import", "{new}"],
        ["import", "{dir}"],
        ["import", "{foreign}"],
        ["import", "{empty}"],
        ["import", "{truncated}"],
        ["import", "{newer}"],
        ["import", "{there}", "--thread", "nobody"],
        ["import", "{other}"],
        ["import", "{there}", "--ttl", "-3"],
        ["archive", "nobody", "{new}"],
        ["archive", "1", "{there}"],
        ["archive", "1", "{new}", "--keep-last", "0"],
        ["archive", "1", "{new}", "--keep-last", "1", "--delete"],
        ["archive", "1"],
    ],
    ids=" ".join,
)
def test_bad_input(agentlog: Agentlog, tmp_path: Path, words: list[str]) -> None:
    """Bad input is exit code 2 and one line, and changes no thread and no file."""
    put(agentlog.url, agentlog.prefix, "1", "2")
    names = {name: tmp_path / name for name in ("new", "there", "foreign", "empty", "truncated", "newer", "other")}
    agentlog("export", "1", str(names["other"]))
    delete(agentlog, "1")
    put(agentlog.url, agentlog.prefix, "1", count=2)
    agentlog("export", "1", str(names["there"]))
    whole = names["there"].read_bytes()
    names["foreign"].write_text("notes")
    names["empty"].write_bytes(b"")
    names["truncated"].write_bytes(whole[:-1])
    newer = {"format": "agentlog-export", "version": 99}

    names["newer"].write_bytes(zstandard.compress(cbor2.dumps(newer)))
    (tmp_path / "dir").mkdir()
    places = {**names, "dir": tmp_path / "dir", "nowhere": tmp_path / "nowhere"}
    files = {one: one.read_bytes() for one in tmp_path.iterdir() if one.is_file()}
    before = [seen(agentlog, thread) for thread in "12"]
    done = agentlog(*(word.format(**places) for word in words))
    assert done.code == 2
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert {one: one.read_bytes() for one in tmp_path.iterdir() if one.is_file()} == files
    assert [seen(agentlog, thread) for thread in "12"] == before


def test_force_replaces(agentlog: Agentlog, tmp_path: Path) -> None:
    """The file that was there, and only once the new one is whole."""
    put(agentlog.url, agentlog.prefix, "1")
    file = tmp_path / "e"
    file.write_text("notes")
    assert agentlog("export", "1", str(file), "--force").code == 0
    assert agentlog("archive", "1", str(file)).code == 2
    assert sum(isinstance(item, Entry) for item in read_file(file)) == 2
    assert [one.name for one in tmp_path.iterdir()] == ["e"]


def test_nothing_under_the_prefix(agentlog: Agentlog, tmp_path: Path) -> None:
    """An empty prefix is reported and stays empty, also if the file is no export."""
    (tmp_path / "foreign").write_text("notes")
    assert agentlog("export", "--all", str(tmp_path / "e")).code == 2
    assert agentlog("archive", "1", str(tmp_path / "e")).code == 2
    assert agentlog("import", str(tmp_path / "foreign")).code == 2
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        client: Any = saver._connections.sync_client()
        assert not client.exists(saver._operations.keyspace.meta)


@pytest.mark.server
def test_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 3, and no file."""
    for words in (["export", "--all"], ["archive", "1"]):
        assert main([*words, str(tmp_path / "e"), "--url", "redis://127.0.0.1:1"]) == 3
    assert capsys.readouterr().err.count("\n") == 2
    assert list(tmp_path.iterdir()) == []


def test_names_steer_no_terminal(agentlog: Agentlog, tmp_path: Path) -> None:
    """Neither a thread's nor a file's."""
    put(agentlog.url, agentlog.prefix, STEERING)
    steering = str(tmp_path / "a\x1b[31mb")
    for words in (["export", STEERING, steering], ["archive", STEERING, str(tmp_path / "\x07")], ["import", steering]):
        done = agentlog(*words)
        assert done.code in (0, 2)
        assert (done.out + done.err).replace("\n", "").isprintable()


def test_progress_on_a_terminal(agentlog: Agentlog, tmp_path: Path) -> None:
    """A bar on a terminal; elsewhere nothing."""
    put(agentlog.url, agentlog.prefix, "thread-a", "thread-b", count=200)
    with on_terminal(agentlog.words("export", "--all", str(tmp_path / "e"))) as terminal:
        assert terminal.end() == 0
        assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in terminal.text
        assert "2 threads with 800 events" in terminal.text
    done = subprocess.run(agentlog.words("import", str(tmp_path / "e")), capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_an_export_that_is_broken_off_goes_on(agentlog: Agentlog, tmp_path: Path) -> None:
    """Ctrl-C ends an export with 130; the same command completes its part."""
    names = [f"{number:02}" for number in range(30)]
    put(agentlog.url, agentlog.prefix, *names, count=40)
    file = tmp_path / "e"
    process = subprocess.Popen(agentlog.words("export", "--all", str(file)), stderr=subprocess.PIPE)
    part = tmp_path / "e.part"
    deadline = time.monotonic() + 20
    while process.poll() is None and not (part.exists() and part.stat().st_size > 1):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode in (0, 130)
    if process.returncode == 130:
        assert told == b""
        assert part.exists()
        assert not file.exists()
        assert agentlog("export", "--all", str(file)).code == 0
    assert not part.exists()
    assert [item.thread for item in read_file(file) if isinstance(item, ThreadHead)] == names


@pytest.mark.parametrize("name", ["export", "import", "archive"])
def test_help_has_an_example(agentlog: Agentlog, name: str) -> None:
    """One that can be copied."""
    done = agentlog(name, "--help")
    assert done.code == 0
    assert f"  agentlog {name} " in done.out


def test_what_is_imported_goes_on(agentlog: Agentlog, tmp_path: Path) -> None:
    """A graph's next step finds the latest state and its writes."""
    put(agentlog.url, agentlog.prefix, "1", count=2)
    agentlog("archive", "1", str(tmp_path / "e"), "--delete")
    agentlog("import", str(tmp_path / "e"))
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        found = saver.get_tuple(config("1"))
        assert (values_of(found), writes_of(found)) == ({"messages": ["x"]}, [("task-1", "messages", "y")])
        assert found is not None
        saver.put(found.config, *step({"messages": ["x", "z"]}))
        assert len(list(saver.list(config("1")))) == 3


def test_damaged_threads(agentlog: Agentlog, tmp_path: Path) -> None:
    """With --all, damaged threads are left out and reported; --damaged exports them."""
    put(agentlog.url, agentlog.prefix, "1", "2", count=2)
    with Audit(agentlog.url, agentlog.prefix) as audit:
        log = audit.keyspace.thread(b"1").log
        audit.client.xadd(log, {b"what": b"is this"}, id=following(audit.client.xrevrange(log, count=1)[0][0]))
    done = agentlog("export", "--all", str(tmp_path / "e"))
    assert (done.code, done.err.count("left out: "), done.out.split()[0]) == (1, 1, "1")
    done = agentlog("export", "--all", str(tmp_path / "e"), "--json", "--force")
    assert [one["thread"] for one in done.objects[0]["left_out"]] == ["1"]
    done = agentlog("export", "1", str(tmp_path / "one"))
    assert (done.code, len(done.err.splitlines())) == (3, 1)
    done = agentlog("export", "--all", "--damaged", str(tmp_path / "evidence"), "--json")
    assert (done.code, done.objects[0]["threads"]) == (0, 2)
    assert agentlog("import", str(tmp_path / "evidence")).code == 2
    lines = tmp_path / "lines"
    assert agentlog("export", "1", str(lines), "--jsonl", "--damaged").code == 0
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [("damaged" in one) for one in told] == [False] * 4 + [True]
    assert told[-1]["fields"] == [["what", "aXMgdGhpcw=="]]


def test_a_damaged_thread_is_restored(everywhere: Agentlog, tmp_path: Path) -> None:
    """On every server, a damaged thread is deleted and imported, and reads as before."""
    put(everywhere.url, everywhere.prefix, "1", "2", count=3)
    file = str(tmp_path / "e")
    everywhere("export", "--all", file)
    before = seen(everywhere, "1")
    with Audit(everywhere.url, everywhere.prefix) as audit:
        log = audit.keyspace.thread(b"1").log
        audit.client.xdel(log, audit.client.xrange(log)[1][0])
    assert everywhere("import", file).code == 2
    assert everywhere("export", "1", str(tmp_path / "evidence"), "--damaged").code == 0
    assert everywhere("delete", "1").code == 2, "nobody to ask"
    assert everywhere("delete", "1", "nobody", "--yes").code == 2
    assert everywhere("delete", "1", "--yes", "--json").objects == [{"deleted": "1"}]
    assert everywhere("delete", "1", "--yes").code == 2
    assert everywhere("import", file, "--thread", "1").code == 0
    assert seen(everywhere, "1") == before
    assert everywhere("verify", "--all").code == 0

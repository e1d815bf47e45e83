"""Exports into directories that other users write to: nothing is disclosed, destroyed, or taken from a planted file."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from eventlog.errors import ExportUnreadable, FileTaken, InvalidArgument
from projections.transfer.encoder import Encoder
from projections.transfer.files import ExportFile, PartFile, read_file
from projections.transfer.format import Entry, Header, ThreadHead
from projections.transfer.import_ import check_file, import_file
from saver import RedisStreamSaver
from saver.json_lines import export_lines
from tests.projections.steps import Steps, is_call
from tests.saver.audit import Audit, put_of

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@pytest.fixture
def threads(saver: RedisStreamSaver) -> RedisStreamSaver:
    """A saver with two threads."""
    for thread in "ab":
        for number in range(1, 4):
            saver.put(*put_of(thread, number))
    return saver


@pytest.fixture
def open_umask() -> Iterator[None]:
    """No permission is taken from new files."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    """The permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def lines_of(saver: RedisStreamSaver, path: Path) -> Any:
    """Export JSON lines."""
    return saver._runner.run(
        export_lines(saver._operations.keyspace, None, path, translator=None, overwrite=False), "export", lambda _: None
    )


def interrupted(saver: RedisStreamSaver, path: Path, at: str = "b") -> None:
    """Export until a thread's turn."""

    def end(thread: str, *_: int) -> None:
        if thread == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        saver.export_threads(path, progress=end)


def planted(saver: RedisStreamSaver, path: Path, change: Callable[[ThreadHead, list[Entry]], ThreadHead]) -> Path:
    """Write a part whose first thread was changed, with right checksums."""
    saver.export_threads(path.with_name("whole"))
    header, head, *items = read_file(path.with_name("whole"))
    assert isinstance(header, Header)
    assert isinstance(head, ThreadHead)
    entries = [item for item in items if isinstance(item, Entry)][: head.entries]
    head = change(head, entries)
    encoder = Encoder()
    made = [encoder.header(header), encoder.begin(head), *map(encoder.entry, entries), encoder.end()]
    part = path.with_name(path.name + ".part")
    part.write_bytes(b"".join(made))
    return part


@pytest.mark.usefixtures("open_umask")
def test_only_the_owner_reads_what_was_exported(threads: RedisStreamSaver, tmp_path: Path) -> None:
    """Parts, exports and JSON lines have mode 0600 from the beginning, also where a file with another mode was."""
    tmp_path.chmod(0o777)
    interrupted(threads, tmp_path / "e")
    assert mode(tmp_path / "e.part") == 0o600
    (tmp_path / "e.part").chmod(0o666)
    interrupted(threads, tmp_path / "e")
    assert mode(tmp_path / "e.part") == 0o600
    (tmp_path / "e").touch(0o666)
    threads.export_threads(tmp_path / "e", overwrite=True)
    lines_of(threads, tmp_path / "l")
    threads.archive_thread("a", tmp_path / "a")
    assert {one.name: mode(one) for one in tmp_path.iterdir()} == dict.fromkeys(("e", "l", "a"), 0o600)


def _symlink(part: Path, other: Path) -> None:
    part.symlink_to(other)


def _dangling(part: Path, other: Path) -> None:
    part.symlink_to(other.with_name("new"))


def _hard_link(part: Path, other: Path) -> None:
    part.hardlink_to(other)


def _pipe(part: Path, _: Path) -> None:
    os.mkfifo(part)


def _folder(part: Path, _: Path) -> None:
    part.mkdir()


def _socket(part: Path, _: Path) -> None:
    os.mknod(part, stat.S_IFSOCK | 0o600)


@pytest.mark.parametrize("plant", [_symlink, _dangling, _hard_link, _pipe, _folder, _socket])
def test_a_planted_part_is_refused(
    threads: RedisStreamSaver, tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    """A link, a pipe, a socket or a directory with the name of the part is refused at once; its target stays."""
    interrupted(threads, tmp_path / "other")
    other = tmp_path / "other.part"
    before = other.read_bytes()
    plant(tmp_path / "e.part", other)
    with pytest.raises(FileTaken, match=r"e\.part'.*exists and .*Move it away, or name another file"):
        threads.export_threads(tmp_path / "e")
    assert other.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["e.part", "other.part"]


@as_root
def test_a_part_of_another_user_is_refused(threads: RedisStreamSaver, tmp_path: Path) -> None:
    """Root does not continue what another user wrote."""
    interrupted(threads, tmp_path / "e")
    os.chown(tmp_path / "e.part", NOBODY, NOBODY)
    before = (tmp_path / "e.part").read_bytes()
    with pytest.raises(FileTaken, match="belongs to another user"):
        threads.export_threads(tmp_path / "e")
    assert (tmp_path / "e.part").read_bytes() == before


@pytest.mark.parametrize("what", ["text", "compressed", "damaged", "whole", "another prefix"])
def test_an_unrelated_part_is_not_destroyed(threads: RedisStreamSaver, tmp_path: Path, what: str) -> None:
    """A file that only has the name of a part stays as it is, and so does the part of an export of another prefix."""
    threads.export_threads(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    data = {
        "text": b"notes",
        "compressed": zstandard.compress(b"notes" * 100),
        "damaged": whole[:4] + b"!" + whole[5:],
        "whole": whole,
        "another prefix": Encoder().header(Header(0, "other", "")),
    }[what]
    (tmp_path / "e.part").write_bytes(data)
    with pytest.raises(FileTaken, match=r"e\.part'.*Move it away, or name another file"):
        threads.export_threads(tmp_path / "e")
    lines_of(threads, tmp_path / "e")
    threads.archive_thread("a", tmp_path / "e2")
    assert (tmp_path / "e.part").read_bytes() == data


def _forge(head: ThreadHead, entries: list[Entry]) -> ThreadHead:
    entries[0] = Entry(entries[0].entry_id, [*entries[0].fields[:-1], b"forged"])
    return head


def _cut(head: ThreadHead, entries: list[Entry]) -> ThreadHead:
    entries.pop()
    fields = entries[-1].fields
    digest = fields[fields.index(b"d") + 1].decode()
    return head._replace(sequence=head.sequence - 1, entries=head.entries - 1, digest=digest)


def _name_another_end(head: ThreadHead, entries: list[Entry]) -> ThreadHead:
    return head._replace(digest="0" * 40)


def _make_up_runs(head: ThreadHead, entries: list[Entry]) -> ThreadHead:
    return head._replace(runs=("made-up",))


@pytest.mark.parametrize("change", [_forge, _cut, _name_another_end, _make_up_runs])
def test_threads_of_a_part_are_checked_again(
    threads: RedisStreamSaver, tmp_path: Path, change: Callable[[ThreadHead, list[Entry]], ThreadHead]
) -> None:
    """A part with another log than the server's is not continued, though its checksums are right."""
    planted(threads, tmp_path / "e", change)
    threads.export_threads(tmp_path / "e")
    assert list(read_file(tmp_path / "e"))[1:] == list(read_file(tmp_path / "whole"))[1:]
    assert threads.import_threads(tmp_path / "e").present == 2


def test_an_empty_part_is_continued(threads: RedisStreamSaver, tmp_path: Path) -> None:
    """An export that was killed before its first byte does not stand in the way."""
    (tmp_path / "e.part").touch()
    assert threads.export_threads(tmp_path / "e").threads == 2


def test_a_link_is_replaced_not_followed(threads: RedisStreamSaver, tmp_path: Path) -> None:
    """A link with the name of the file is refused; with `overwrite` it is replaced, and its target stays."""
    (tmp_path / "notes").write_text("notes")
    (tmp_path / "e").symlink_to(tmp_path / "notes")
    with pytest.raises(FileTaken, match="exists already"):
        threads.export_threads(tmp_path / "e")
    threads.export_threads(tmp_path / "e", overwrite=True)
    assert not (tmp_path / "e").is_symlink()
    assert (tmp_path / "notes").read_text() == "notes"


def test_what_is_no_file_is_not_replaced(threads: RedisStreamSaver, tmp_path: Path) -> None:
    """With `overwrite`, neither a device nor a pipe nor a directory becomes an export."""
    os.mkfifo(tmp_path / "pipe")
    for path, problem in ((tmp_path / "pipe", "no file"), (tmp_path, "directory"), (tmp_path / "..", "directory")):
        with pytest.raises(FileTaken, match=problem):
            threads.export_threads(path, overwrite=True)
    with pytest.raises(FileTaken, match="directory"):
        threads.export_threads("/", overwrite=True)
    with pytest.raises(InvalidArgument, match="null"):
        threads.export_threads("a\0b")
    assert [one.name for one in tmp_path.iterdir()] == ["pipe"]


def test_an_error_names_the_whole_path(threads: RedisStreamSaver, tmp_path: Path) -> None:
    """Errors of the system have the path of the file, though it was looked up in an open directory."""
    path = tmp_path / ("x" * 253)
    with pytest.raises(OSError, match="too long") as caught:
        threads.export_threads(path)
    assert caught.value.filename == f"{path}.part"


def test_a_file_that_appears_meanwhile_stays(
    threads: RedisStreamSaver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No moment is left between the last check and the new name."""
    path, check = tmp_path / "e", PartFile.check

    def appear(self: PartFile) -> None:
        check(self)
        if self._file is not None:
            path.write_text("notes")

    monkeypatch.setattr(PartFile, "check", appear)
    with pytest.raises(FileTaken, match="exists already"):
        threads.export_threads(path)
    assert path.read_text() == "notes"


@pytest.mark.parametrize("with_links", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_directory_that_appears_meanwhile_stays(
    threads: RedisStreamSaver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, overwrite: bool, with_links: bool
) -> None:
    """A directory that takes the name after the last check is named, with what to do; the part is whole."""
    path, check = tmp_path / "e", PartFile.check

    def appear(self: PartFile) -> None:
        check(self)
        if self._file is not None:
            path.mkdir()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(PartFile, "check", appear)
    if not with_links:
        monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(FileTaken, match=r"e' is a directory. Name a file"):
        threads.export_threads(path, overwrite=overwrite)
    assert [*path.iterdir()] == []
    assert sum(isinstance(item, ThreadHead) for item in read_file(tmp_path / "e.part")) == 2


def test_a_file_system_without_hard_links(
    threads: RedisStreamSaver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is renamed where a link cannot be made."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "link", refuse)
    threads.export_threads(tmp_path / "e")
    assert [one.name for one in tmp_path.iterdir()] == ["e"]


def test_a_lost_reply_of_a_network_file_system(
    threads: RedisStreamSaver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was given, though the reply says otherwise, counts."""
    link = os.link

    def lose(*names: Any, **options: Any) -> None:
        link(*names, **options)
        raise FileExistsError

    monkeypatch.setattr(os, "link", lose)
    threads.export_threads(tmp_path / "e")
    assert [one.name for one in tmp_path.iterdir()] == ["e"]


def test_a_part_that_is_replaced_meanwhile(threads: RedisStreamSaver, tmp_path: Path) -> None:
    """If another user puts a file in the place of the part, the export fails and says so."""

    def replace(thread: str, *_: int) -> None:
        if thread == "b":
            (tmp_path / "e.part").unlink(missing_ok=True)
            (tmp_path / "e.part").write_text("forged")

    with pytest.raises(FileTaken, match="renamed or replaced by another process.*only you can write to"):
        threads.export_threads(tmp_path / "e", progress=replace)
    assert not (tmp_path / "e").exists()


def test_a_part_that_another_process_finishes(
    threads: RedisStreamSaver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that gets its name between being opened and being locked is left alone."""
    interrupted(threads, tmp_path / "e")
    flock = fcntl.flock
    moved: list[Path] = []

    def finish(descriptor: int, operation: int) -> None:
        if not moved:
            moved.append((tmp_path / "e.part").rename(tmp_path / "other"))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", finish)
    before = (tmp_path / "e.part").read_bytes()
    assert threads.export_threads(tmp_path / "e").threads == 2
    assert moved[0].read_bytes() == before


def test_a_part_that_another_process_writes(tmp_path: Path) -> None:
    """Two exports to one file at once would mix their threads, so the second is refused."""
    first, second = (ExportFile(tmp_path / "e", Header(0, "", ""), overwrite=False, resume=True) for _ in range(2))
    for one in (first, second):
        one.check()
    first.open_part()
    with pytest.raises(FileTaken, match=r"e\.part' is being written by another process.*name another file"):
        second.open_part()
    second.close()
    first.close()


def test_a_thread_of_a_part_that_is_lost_since(threads: RedisStreamSaver, audit: Audit, tmp_path: Path) -> None:
    """A thread that only the part still has is not taken for one of the server: the export names it."""
    interrupted(threads, tmp_path / "e")
    audit.client.delete(audit.keyspace.thread(b"a").log)
    assert [one.thread for one in threads.export_threads(tmp_path / "e").left_out] == ["a"]
    assert [item.thread for item in read_file(tmp_path / "e") if isinstance(item, ThreadHead)] == ["b"]


def test_a_part_that_never_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that others create and remove all the time is given up."""
    file = ExportFile(tmp_path / "e", Header(0, "", ""), overwrite=False, resume=True)
    opened = os.open

    def meddle(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if path == "e.part" and flags & os.O_EXCL:
            raise FileExistsError
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", meddle)
    file.check()
    with pytest.raises(FileTaken, match="again and again"):
        file.open_part()
    file.close()


def test_failed_lines_leave_nothing(threads: RedisStreamSaver, tmp_path: Path) -> None:
    """JSON lines are never continued, so their part is removed after a failure."""

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    flow = export_lines(threads._operations.keyspace, None, tmp_path / "l", translator=None, overwrite=False)
    with pytest.raises(KeyboardInterrupt):
        threads._runner.run(flow, "export", end)
    assert list(tmp_path.iterdir()) == []
    lines_of(threads, tmp_path / "l")
    assert {json.loads(line)["thread"] for line in (tmp_path / "l").read_text().splitlines()} == {"a", "b"}


@as_root
@pytest.mark.server  # it starts a process
def test_a_directory_that_may_only_be_written_to(tmp_path: Path) -> None:
    """A user who may put files into a directory, and not read it, can export to it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o1733)  # a drop box
        child = os.fork()
        if not child:
            code = 1
            try:
                os.setuid(NOBODY)
                file = ExportFile(Path(folder) / "e", Header(0, "", ""), overwrite=False, resume=True)
                file.check()
                file.open_written()
                file.resume([])
                file.finish()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert [one.name for one in Path(folder).iterdir()] == ["e"]


def test_a_pipe_is_not_imported(saver: RedisStreamSaver, tmp_path: Path) -> None:
    """An import of a pipe or a device is refused at once."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(ExportUnreadable, match="no regular file") as caught:
            saver.import_threads(path)
        assert caught.value.reason == "foreign"
    with pytest.raises(InvalidArgument, match="null"):
        saver.import_threads("a\0b")


def test_a_file_that_is_exchanged_after_its_check(
    threads: RedisStreamSaver, steps: Steps, audit: Audit, tmp_path: Path
) -> None:
    """A thread of a file that another one replaced after the check is not put in place."""
    path = tmp_path / "e"
    threads.export_threads(path, ["a"])
    threads.put(*put_of("a", 4))
    threads.export_threads(tmp_path / "later", ["a"])
    threads.delete_thread("a")
    keyspace = threads._operations.keyspace
    wanted = threads._runner.run(check_file(path, None, keyspace.limits), "check")

    def exchange(request: Any) -> None:
        if (tmp_path / "later").exists() and is_call(request, "log_end"):
            (tmp_path / "later").replace(path)

    with pytest.raises(ExportUnreadable, match="changed after the file was checked"):
        steps.run(import_file(keyspace, path, wanted, ttl=0), exchange)
    assert [one.thread_id for one in threads.threads()] == ["b"]

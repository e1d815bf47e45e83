"""`agentlog export`, `import` and `archive`: threads in files, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventlog.errors import ThreadNotFound
from eventlog.flow import Flow
from eventlog.keys import PARTITIONS, Keyspace
from eventlog.signing import Signer
from eventlog.transport.drivers import Runner
from projections.transfer.blocking import ProgressCallback, carry_out
from projections.transfer.export import Exported, export_file
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.keys import KeyFiles, signer_of
from saver.cli.output import BadInput, counted
from saver.cli.progress import showing_progress

if TYPE_CHECKING:
    from saver.saver import RedisStreamSaver

__all__ = ["archive", "export", "import_"]

Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]
_UNUSABLE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


@command(
    "agentlog export 42 43 threads.agentlog",
    "agentlog export --all backup.agentlog",
    "agentlog export 42 thread.jsonl --jsonl --values",
)
def export(
    options: Options,
    names: Annotated[list[str], typer.Argument(metavar="[THREAD]... FILE", show_default=False)],
    *,
    every: Annotated[bool, typer.Option("--all", help="All threads.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="JSON lines to read, which cannot be imported.")] = False,
    values: Annotated[bool, typer.Option("--values", help="With --jsonl: values deserialized, not as bytes.")] = False,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Damaged logs too, as they are: evidence, which cannot be imported.")
    ] = False,
    force: Force = False,
) -> int:
    """Writes threads to a file.

    Their logs, whole and checked, as they stand. Reads only. Run again after a break, it goes on behind the threads it had
    written. Encrypted values stay encrypted. With --all, exit code 1 if some were left out because their logs are damaged.
    """
    *threads, file = names
    if every == bool(threads):
        raise BadInput("which threads? Pass their ids before the file, or --all.")
    if values and not jsonl:
        raise BadInput("--values goes with --jsonl.")
    with options.open_prefix() as (runner, keyspace), _usable(file):
        wanted = None if every else threads
        if jsonl:
            flow = _lines(keyspace, wanted, file, values=values, overwrite=force, damaged=damaged)
        else:
            flow = export_file(keyspace, wanted, file, overwrite=force, damaged=damaged)
        with showing_progress() as progress:
            done = _run(runner, flow, f"export to {file!r}", progress)
    if options.json:
        left_out = [one._asdict() for one in done.left_out]
        output.json_line({"file": file, **done._asdict(), "left_out": left_out})
    else:
        output.line(f"{counted(done.threads, 'thread')} with {counted(done.entries, 'event')} in {file}.")
        for one in done.left_out:
            output.complain(f"left out: {one.why}", options.url)
    return 1 if done.left_out else 0


def _lines(
    keyspace: Keyspace, threads: list[str] | None, file: str, *, values: bool, overwrite: bool, damaged: bool
) -> Flow[None]:
    from saver.cli.values import careful_serializer  # noqa: PLC0415 - these load LangGraph
    from saver.json_lines import export_lines  # noqa: PLC0415
    from saver.translation import Translator  # noqa: PLC0415

    translator = Translator(careful_serializer()) if values else None
    return export_lines(keyspace, threads, file, translator=translator, overwrite=overwrite, damaged=damaged)


def _run(runner: Runner, flow: Flow[None], subject: str, progress: ProgressCallback | None) -> Exported:
    *_, done = carry_out(runner, flow, subject, progress)
    assert isinstance(done, Exported)
    return done


@command(
    "agentlog import backup.agentlog",
    "agentlog import backup.agentlog --thread 42 --prefix restored",
    name="import",
)
def import_(
    options: Options,
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False)],
    *,
    thread: Annotated[list[str] | None, typer.Option(metavar="T", help="This thread only. Repeatable.")] = None,
    ttl: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="How long they live; for ever unless told.")
    ] = None,
) -> None:
    """Puts the threads of an export back.

    Exactly as they were: ids, numbers, digests. The file is checked first; one that is not whole changes nothing. Threads that are
    there already as the file has them are passed over; one that is there otherwise is left alone, and nothing is imported.
    """
    with _saver(options, ttl=ttl) as saver, _usable(file), showing_progress() as progress:
        done = saver.import_threads(file, thread, progress=progress)
    if options.json:
        output.json_line({"file": file, **done._asdict()})
    else:
        present = f"; there already: {done.present}" if done.present else ""
        output.line(f"{counted(done.threads, 'thread')} with {counted(done.entries, 'event')} put in place{present}.")


@command(
    "agentlog archive 42 42.agentlog --keep-last 10",
    "agentlog archive 42 42.agentlog --delete",
)
def archive(
    options: Options,
    thread: Annotated[str, typer.Argument(metavar="THREAD", show_default=False)],
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False)],
    *,
    keep_last: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Checkpoints of each namespace that stay; 1 unless told.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the thread rather than prune it.")] = False,
    key_file: KeyFiles = None,
) -> None:
    """Exports a thread, then prunes it.

    The file is read back and held against the log before anything is removed. Nothing goes that the file lacks: what is written
    meanwhile is exported too.
    """
    if delete and keep_last is not None:
        raise BadInput("pass either --keep-last or --delete.")
    with (
        _saver(options, must_exist=True, signer=signer_of(key_file)) as saver,
        _usable(file),
        showing_progress() as progress,
    ):
        done = saver.archive_thread(thread, file, keep_last=keep_last, delete=delete, progress=progress)
    if options.json:
        output.json_line({"thread": thread, "file": file, **done._asdict()})
    else:
        output.line(
            f"{counted(done.entries, 'event')} in {file}; {counted(done.removed, 'checkpoint')} removed from thread {thread}."
        )


@contextmanager
def _saver(
    options: Options, *, ttl: float | None = None, must_exist: bool = False, signer: Signer | None = None
) -> Iterator[RedisStreamSaver]:
    """A saver with as many partitions as the prefix has."""
    from saver.saver import RedisStreamSaver  # noqa: PLC0415 - it loads LangGraph

    partitions = PARTITIONS
    try:
        with options.open_prefix() as (_, keyspace):
            partitions = keyspace.partitions
    except ThreadNotFound:
        if must_exist:
            raise
    keys: Any = {} if signer is None else {"signing_key": signer.key, "accepted_keys": tuple(signer.keys.values())}
    with RedisStreamSaver.from_conn_string(
        options.server(), prefix=options.prefix, partitions=partitions, ttl=ttl, **keys
    ) as saver:
        yield saver


@contextmanager
def _usable(file: str) -> Iterator[None]:
    """Files that cannot be used are the caller's to mend."""
    try:
        yield
    except _UNUSABLE as error:
        raise BadInput(f"file {str(Path(file))!r}: {error.strerror or error}.") from error

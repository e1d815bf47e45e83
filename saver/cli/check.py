"""`agentlog check` compares the views with the logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from eventlog.errors import CorruptEntry, ThreadNotFound
from eventlog.flow import Flow
from eventlog.keys import Keyspace, ThreadKeys
from eventlog.printable import word
from eventlog.transport.drivers import Runner
from projections.integrity.findings import folded
from projections.integrity.verify import verify_thread
from projections.maintenance.check import Checked, Difference, check_thread
from projections.maintenance.check_registry import check_registry
from projections.registry.listing import list_threads
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.arguments import AllThreads, ThreadNames, chosen
from saver.cli.display import ShowProgress, counted, showing_progress
from saver.cli.key_files import KeyFiles, signed, signer_of

__all__ = ["check", "of_each_thread"]

T = TypeVar("T")


@command("agentlog check 42", "agentlog check --all --json", "agentlog check --all || page-someone")
def check(options: Options, thread: ThreadNames = None, *, every: AllThreads = False, key_file: KeyFiles = None) -> int:
    """Compares indexes, heads and the registry with the logs.

    It only reads, and agents may go on meanwhile. With --all it checks the registry, too. Exit code 1 if something
    differs; agentlog rebuild repairs it, unless a log is damaged, or a feed has a foreign entry.

    With a key, what agentlog verify finds is a difference, too.
    """
    names = chosen(thread, every=every)
    signer = signer_of(key_file)
    wrong = count = 0
    with options.open_prefix(may_be_empty=every) as (runner, keyspace), showing_progress() as show:
        for number in range(keyspace.partitions if every else 0):
            show("registry", number, keyspace.partitions)
            found = list(runner.run(check_registry(keyspace, number), "the registry"))
            wrong += len(found)
            _report(options, None, found)
        work = check_thread if signer is None else partial(_checked, signed(keyspace, signer))
        for checked in of_each_thread(runner, keyspace, names, work, show):
            count += 1
            wrong += len(checked.differences)
            _report(options, checked, checked.differences)
    if not options.json:
        output.line(
            f"{counted(count, 'thread')} checked: {counted(wrong, 'difference') if wrong else 'no differences'}."
        )
    return 1 if wrong else 0


def _checked(keyspace: Keyspace, keys: ThreadKeys) -> Flow[Checked]:
    """A thread's check, with the findings of its signatures; `keyspace` has the signer."""
    checked = yield from check_thread(keys)
    try:
        findings = (yield from verify_thread(keyspace.thread(keys.thread))).findings
        found = [Difference("log", f"{one.kind}: {one.message}") for one in folded(findings)]
    except CorruptEntry as error:  # the feed has a pointer to the thread that cannot be read
        found = [Difference("feed", str(error))]
    return replace(checked, differences=(*checked.differences, *found))


def of_each_thread(
    runner: Runner,
    keyspace: Keyspace,
    threads: Sequence[str] | None,
    work: Callable[[ThreadKeys], Flow[T]],
    show: ShowProgress,
) -> Iterator[T]:
    """The results of a flow for the named threads, or for all (None).

    Of all threads the last active comes first. Foreign entries of a feed are left out.
    Raises `ThreadNotFound` for a named thread that does not exist.
    """
    if threads is not None:
        names = threads
    else:
        flow = list_threads(keyspace, ask_memory=False, lost_too=True, lenient=True)
        names = [info.thread_id for info in runner.iterate(flow, "threads")]
    done = 0
    for name in names:
        show(f"thread {name}", done, len(names))
        try:
            result = runner.run(work(keyspace.thread(name.encode())), f"thread {name!r}")
        except ThreadNotFound:
            if threads is not None:
                raise
            continue  # deleted since it was listed
        done += 1
        yield result


def _report(options: Options, checked: Checked | None, differences: Sequence[Difference]) -> None:
    """Write the differences of a thread, or of the registry (None)."""
    if not options.json:
        for one in differences:
            where = "registry" if checked is None else f"thread {word(checked.thread_id)}: {one.view}"
            output.line(f"{where}: {one.what}")
    elif checked is not None or differences:
        output.json_line(_object(checked, differences))


def _object(checked: Checked | None, differences: Sequence[Difference]) -> dict[str, Any]:
    found = [one._asdict() for one in differences]
    if checked is None:
        return {"registry": True, "ok": not found, "differences": found}
    counts = {name: getattr(checked, name) for name in ("events", "checkpoints", "namespaces", "heads")}
    return {"thread_id": checked.thread_id, "ok": checked.ok, **counts, "differences": found}

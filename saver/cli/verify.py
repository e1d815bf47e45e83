"""`agentlog verify` finds alterations of logs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

import typer

from eventlog.errors import CallerError, CorruptEntry, OverLimit
from eventlog.flow import Flow
from eventlog.keys import Keyspace, text
from eventlog.printable import as_argument, word
from eventlog.transport.drivers import Runner
from projections.integrity.feed_evidence import announced
from projections.integrity.findings import Verified, folded
from projections.integrity.verify import verify_thread
from projections.log.signatures import OLDER
from projections.registry.foreign import is_long
from projections.registry.read import known_threads
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.arguments import AllThreads, ThreadNames, chosen
from saver.cli.display import Field, Lines, counted
from saver.cli.key_files import KeyFiles, signer_of
from saver.cli.output import BadInput

__all__ = ["verify"]

Digests = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SEQ:DIGEST",
        help="A digest that you kept: the thread must be unchanged up to there. Repeatable, with one thread.",
    ),
]
COLUMNS = [
    Field("thread", 12),
    Field("verdict", 9),
    *(Field(name, len(name), right=True) for name in ("entries", "removed", "signed", "sequence")),
    Field("digest", 40),
]


@command(
    "agentlog verify 42",
    "agentlog verify --all --json",
    "agentlog verify 42 --key-file auditor.pem",
    "agentlog verify 42 --digest 118:6f1ed002ab5595859014ebf0951522d9a4b3c1e0",
)
def verify(
    options: Options,
    thread: ThreadNames = None,
    *,
    every: AllThreads = False,
    key_file: KeyFiles = None,
    digest: Digests = None,
) -> int:
    """Checks that logs are as they were written.

    It checks the number of each entry, its digest, which covers the one before, and, with a key, its signature. An
    altered, missing, reordered, inserted or cut-off entry is reported with its id; equal findings in a row are one
    line, and with --json each is there. Keep the digest that it prints:
    with --digest it proves later that nothing up to there has changed. Exit code 1 if there is a finding.

    With --all, foreign entries of a feed are named, and the threads are verified all the same: exit code 1.
    """
    names = chosen(thread, every=every)
    expected = _expected(digest)
    if expected and (every or len(thread or ()) != 1):
        raise BadInput("--digest goes with one thread.")
    sound = True
    signer = signer_of(key_file)
    with options.open_prefix() as (runner, found):
        lines = Lines(COLUMNS, headed=True)
        for one in _verified(
            runner, Keyspace(options.prefix, found.partitions, signer, options.limits), names, expected
        ):
            if isinstance(one, Verified):
                sound = sound and one.sound
                _show(options, one, lines)
            else:
                sound = False
                output.complain(str(one), options.url)
    return 0 if sound else 1


def _verified(
    runner: Runner, keyspace: Keyspace, names: list[str] | None, expected: dict[int, str]
) -> Iterator[Verified | CorruptEntry]:
    """The named threads, verified; or all that the feed or the registry knows (None).

    Of all threads, entries of the feed that cannot be read come too.
    """
    for one in names or ():
        text("thread", one)
    foreign_entries: list[CorruptEntry] | None = [] if names is None else None
    known = runner.run(announced(keyspace, names, foreign_entries), "the feed")
    yield from foreign_entries or ()
    if names is None:
        present = {thread for thread, last in known.items() if not last.ended}
        try:
            present.update(runner.run(_registered(keyspace), "threads"))
        except CorruptEntry as error:  # a view is missing, and the feed that it is folded from has a foreign entry
            yield error
        threads = sorted(present)
        threads.sort(key=lambda one: is_long(one.encode(), keyspace.limits))  # such a thread ends the command
    else:
        threads = names
    for one in threads:
        keys = keyspace.thread(text("thread", one))
        try:
            yield runner.run(verify_thread(keys, expected=expected, known=known.get(one)), f"thread {one!r}")
        except OverLimit:
            raise
        except CorruptEntry as error:
            if names is not None:
                raise
            yield error
        except CallerError:
            if names is not None:
                raise  # a thread that was not named may have ended meanwhile


def _registered(keyspace: Keyspace) -> Flow[list[str]]:
    return [thread.decode() for thread in (yield from known_threads(keyspace, too_long=True))]


def _show(options: Options, one: Verified, lines: Lines) -> None:
    if options.json:
        output.json_line(one.as_dict())
        return
    verdict = "unchanged" if one.sound else counted(len(one.findings), "finding")
    numbers = [str(number) for number in (one.entries, one.removed, one.signed, one.sequence)]
    lines.write([word(one.thread_id), verdict, *numbers, word(one.digest)], verdict="" if one.sound else "red")
    if one.unchecked:
        output.note(f"{one.unchecked} signatures of thread {one.thread_id!r} were not checked: pass --key-file.")
    if one.unmarked:
        output.note(f"{counted(one.unmarked, 'signature')} of thread {one.thread_id!r}: the thread {OLDER}.")
    for finding in folded(one.findings):
        output.line(f"    {finding.kind}: {finding.message}")
    if one.findings:
        thread = as_argument(one.thread_id)
        words = f"--damaged -- {thread} FILE" if thread.startswith("-") else f"{thread} FILE --damaged"
        output.note(f"Keep the evidence before anything else: agentlog export {words}")


def _expected(given: list[str] | None) -> dict[int, str]:
    """Digests by sequence number; raises `BadInput`."""
    found = {}
    for one in given or ():
        sequence, _, digest = one.partition(":")
        if not re.fullmatch(r"[1-9][0-9]{0,15}", sequence) or not re.fullmatch(r"[0-9a-f]{40}", digest):
            raise BadInput(f"{one!r} is no SEQ:DIGEST, as 118:6f1e... with 40 digits")
        found[int(sequence)] = digest
    return found

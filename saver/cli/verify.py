"""`agentlog verify`: was a log altered?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

import typer

from eventlog.errors import CallerError
from eventlog.flow import Flow
from eventlog.keys import Keyspace, text
from eventlog.transport.drivers import Runner
from projections.integrity.feed_evidence import announced
from projections.integrity.findings import Verified
from projections.integrity.verify import verify_thread
from projections.registry.read import known_threads
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.keys import KeyFiles, signer_of
from saver.cli.lines import Field, Lines
from saver.cli.output import BadInput

__all__ = ["verify"]

Threads = Annotated[list[str] | None, typer.Argument(metavar="THREAD...", help="The threads.")]
Every = Annotated[bool, typer.Option("--all", help="All threads.")]
Digests = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SEQ:DIGEST", help="What was kept of the thread: it has to be unchanged up to there. Repeatable."
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
    thread: Threads = None,
    *,
    every: Every = False,
    key_file: KeyFiles = None,
    digest: Digests = None,
) -> int:
    """Checks that logs are as they were written.

    Every entry's number, its digest, which covers the one before, and, with a key, its signature. What is altered, missing,
    reordered, inserted or cut off is named with its entry id. Keep the digest it prints: with --digest it proves later that
    nothing up to there has changed. Exit code 1 if something is found.
    """
    if every == bool(thread):
        raise BadInput("which threads? Name them, or pass --all.")
    expected = _expected(digest)
    if expected and (every or len(thread or ()) != 1):
        raise BadInput("--digest goes with one thread.")
    sound = True
    signer = signer_of(key_file)
    with options.open_prefix() as (runner, found):
        keyspace = Keyspace(options.prefix, found.partitions, signer)
        wanted = None if every else list(dict.fromkeys(thread or ()))
        lines = Lines(COLUMNS, headed=True)
        for one in _each(runner, keyspace, wanted, expected):
            sound = sound and one.sound
            _show(options, one, lines)
    return 0 if sound else 1


def _each(runner: Runner, keyspace: Keyspace, wanted: list[str] | None, expected: dict[int, str]) -> Iterator[Verified]:
    for one in wanted or ():
        text("thread", one)
    known = runner.run(announced(keyspace, wanted), "the feed")
    told = [thread for thread, last in known.items() if not last.ended]
    threads = wanted if wanted is not None else sorted({*told, *runner.run(_registered(keyspace), "threads")})
    for one in threads:
        keys = keyspace.thread(text("thread", one))
        flow = verify_thread(keys, expected=expected, known=known.get(one))
        try:
            yield runner.run(flow, f"thread {one!r}")
        except CallerError:
            if wanted is not None:
                raise  # of all, those that ended meanwhile are left out


def _registered(keyspace: Keyspace) -> Flow[list[str]]:
    return [thread.decode() for thread in (yield from known_threads(keyspace))]


def _show(options: Options, one: Verified, lines: Lines) -> None:
    if options.json:
        output.json_line(one.as_dict())
        return
    verdict = "unchanged" if one.sound else output.counted(len(one.findings), "finding")
    numbers = [str(number) for number in (one.entries, one.removed, one.signed, one.sequence)]
    lines.write([one.thread_id, verdict, *numbers, one.digest], ["", "" if one.sound else "red", *[""] * 5])
    if one.unchecked:
        output.note(f"{one.unchecked} signatures of thread {one.thread_id!r} were not checked: pass --key-file.")
    for finding in one.findings:
        output.line(f"    {finding.kind}: {finding.told}")
    if one.findings:
        output.note(f"Keep the evidence before anything else: agentlog export {one.thread_id} FILE --damaged")


def _expected(given: list[str] | None) -> dict[int, str]:
    found = {}
    for one in given or ():
        sequence, _, digest = one.partition(":")
        if not re.fullmatch(r"[1-9][0-9]{0,15}", sequence) or not re.fullmatch(r"[0-9a-f]{40}", digest):
            raise BadInput(f"{one!r} is no SEQ:DIGEST, as 118:6f1e... with 40 digits")
        found[int(sequence)] = digest
    return found

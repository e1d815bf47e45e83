"""`agentlog replay` plays the history of a thread at the pace of its events."""

from __future__ import annotations

import re
import sys
from time import sleep
from typing import Annotated

import typer

from projections.time_travel.moment import time_of
from saver.cli import output
from saver.cli.app import Options, command
from saver.cli.arguments import AcceptPlaintext, Full, Namespace, Since, ThreadName, Until, bounds
from saver.cli.key_files import KeyFiles, signer_of
from saver.cli.output import BadInput
from saver.cli.thread_log import opened
from saver.cli.timeline import RowWriter, rows_of

__all__ = ["replay"]

LONGEST = 86400.0
"""Most seconds to wait for one event."""


@command("agentlog replay 42 --speed 10x", "agentlog replay 42 --step --since 2026-01-31T12:00:00Z")
def replay(
    options: Options,
    thread: ThreadName,
    *,
    speed: Annotated[str, typer.Option(metavar="FACTOR", help="So many times as fast: 10x, 0.5x.")] = "1x",
    step: Annotated[bool, typer.Option("--step", help="Wait for Enter before each further event.")] = False,
    since: Since = None,
    until: Until = None,
    namespace: Namespace = None,
    full: Full = False,
    accept_plaintext: AcceptPlaintext = False,
    key_file: KeyFiles = None,
) -> None:
    """Plays the history of a thread.

    It prints each event with its changes, at the pace of the events, faster, slower, or step by step. It only reads
    the log.

    With a key it refuses a log if anything up to the end is not signed as it should be: exit code 1.
    """
    factor = _factor(speed)
    after, last = bounds(options, since, until, thread)
    if step and (sys.stdin is None or not sys.stdin.readable()):
        raise BadInput("--step needs a terminal, or lines, on stdin.")
    with opened(options, thread, signer_of(key_file), accept_plaintext=accept_plaintext) as log:
        log.require_signed(last)
        writer = RowWriter(options, full=full)
        before = None
        for row in rows_of(log, after, last, namespace=namespace, patch=True):
            came = time_of(row.recorded.entry_id)
            if before is not None and step:
                if not sys.stdin.readline():
                    return
            elif before is not None:
                sleep(min((came - before).total_seconds() / factor, LONGEST))
            before = came
            row.signature = log.mark().get("signature", "")
            writer.write(row)
            output.flush()


def _factor(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?x?", text) or not float(text.rstrip("x")):
        raise BadInput(f"--speed {text!r:.100} is no factor; write it as 10x, 2x, or 0.5x.")
    return float(text.rstrip("x"))

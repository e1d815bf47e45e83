"""`agentlog diff` shows the changes between two states of a thread."""

from __future__ import annotations

from typing import Annotated

import typer

from eventlog.printable import word
from projections.log.pages import entry_order
from saver.cli import display, output
from saver.cli.app import Options, command
from saver.cli.arguments import STATE, AcceptPlaintext, Full, Namespace, ThreadName
from saver.cli.key_files import KeyFiles, signer_of
from saver.cli.thread_log import opened
from saver.differences import differences

__all__ = ["diff"]


@command(
    "agentlog diff 42 1f0c8a2e 1f0c8a31",
    "agentlog diff 42 @3 @17",
    "agentlog diff 42 2026-01-31T12:00:00Z 2026-01-31T13:00:00Z --json",
)
def diff(
    options: Options,
    thread: ThreadName,
    before: Annotated[str, typer.Argument(metavar="A", help=STATE, show_default=False)],
    after: Annotated[str, typer.Argument(metavar="B", help="The same.", show_default=False)],
    *,
    namespace: Namespace = "",
    full: Full = False,
    accept_plaintext: AcceptPlaintext = False,
    key_file: KeyFiles = None,
) -> int:
    """Shows the changes from one state to another.

    It goes channel by channel, and through lists by the ids of their items. Exit code 3 if the log was altered up to
    there. It writes nothing.

    With a key it refuses states if anything up to there is not signed as it should be: exit code 1.
    """
    with opened(options, thread, signer_of(key_file), accept_plaintext=accept_plaintext) as log:
        past = log.readable_past()
        first, last = (log.named(past, namespace or "", one) for one in (before, after))
        end = max(first.entry_id, last.entry_id, key=entry_order)
        log.require_signed(end)
        changes = differences(*log.values.changed(first, last))
        code = 0 if log.is_whole(end) else 3
        mark = log.mark()
    if options.json:
        states = {"before": first.checkpoint_id, "after": last.checkpoint_id, **mark}
        output.json_line({**states, "changes": [output.change_object(one) for one in changes]})
        return code
    output.note(f"From {word(first.checkpoint_id)} to {word(last.checkpoint_id)}:")
    display.write_changes(changes, full=full, indent="")
    if not changes:
        output.note("There is no difference.")
    return code

"""Notes the runs of a thread that is copied or imported, some at a time.

The script that puts a thread in place notes the first runs. If there are more, further pointers of the same kind name them. A copy
or an import that was cut short before that is completed by its repetition.
"""

from __future__ import annotations

from collections.abc import Sequence

from eventlog.flow import Argument, Flow, load_script
from eventlog.keys import ThreadKeys
from projections.log.index import call
from projections.registry.read import known_runs

__all__ = ["announce_rest", "first_runs"]

ANNOUNCE_RUNS = load_script("projections/transfer/announce_runs")
AT_ONCE = 500
"""Most runs in one pointer."""
BYTES = 2**18
"""Most bytes of these, and of the thread ids that are noted with them."""


def first_runs(thread: bytes, runs: Sequence[bytes]) -> Sequence[bytes]:
    """The runs that one pointer names: at least one, if there are any."""
    size = 0
    for number, run in enumerate(runs[:AT_ONCE]):
        size += len(thread) + len(run)
        if size > BYTES and number:
            return runs[:number]
    return runs[:AT_ONCE]


def announce_rest(keys: ThreadKeys, kind: bytes, last: tuple[bytes, bytes], runs: Sequence[bytes]) -> Flow[None]:
    """Notes those of a thread's runs that are not noted yet, if one pointer cannot name all.

    `last` is the id and the digest of an entry that came with the thread. If the thread was deleted since, nothing is noted.
    One round trip per 500 runs, and one per 1,000 runs that are noted.
    """
    if len(first_runs(keys.thread, runs)) == len(runs):
        return
    known = set((yield from known_runs(keys)))
    rest: Sequence[bytes] = [run for run in runs if run not in known]
    while rest:
        some = first_runs(keys.thread, rest)
        rest = rest[len(some) :]
        arguments: list[Argument] = [kind, *last, *some]
        (status,) = yield from call(keys, ANNOUNCE_RUNS, arguments)
        if status == b"moved":
            return

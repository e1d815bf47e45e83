"""Stages a thread's log and index under keys that expire.

Both are staged a page at a time, so that a long thread takes no more memory than a short one, and then put in place whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from eventlog.errors import EventLogError
from eventlog.flow import Argument, Begin, Call, Command, Finish, Flow, load_script
from eventlog.framing import ordered
from eventlog.keys import ThreadKeys
from projections.log.fold import Fold
from projections.log.pages import Entry

__all__ = ["STAGED_FOR", "StagedIndex", "stage_entries", "staged_keys"]

STAGED_FOR = 600
"""Seconds after which staged keys expire."""
STAGE = load_script("projections/log/stage")
FOLD_PAGE = load_script("projections/log/fold_page")


def staged_keys(keys: ThreadKeys, *parts: bytes) -> list[bytes]:
    """Key names for staged parts of a thread, with a new stage id."""
    stage_id = token_hex(8).encode()
    return [keys.shared.stage(stage_id, part) for part in parts]


@dataclass(slots=True)
class StagedIndex(Fold):
    """Folds events into an index and an order on the server: `add` some, then `flush`.

    Memory: the events since the last flush, and the gaps.
    """

    keys: Sequence[bytes] = ()
    """The staged keys of index and order."""
    checkpoints: int = 0
    """Number of listed checkpoints at the last flush that was settled; -1 if the staged keys had expired."""
    _begun: Any = None
    """The last flush, if it is in flight."""
    _flushed: bytes = b""
    """The last entry at the last flush."""
    _new_values: dict[bytes, bytes] = field(default_factory=dict)
    _new_members: list[bytes] = field(default_factory=list)
    _new_changes: list[bytes] = field(default_factory=list)

    def flush(self) -> Flow[bool]:
        """Sends what was added to the server, which folds it while the caller goes on.

        False if the staged keys have expired: then the caller has to start over. One round trip, which overlaps with the caller's
        work until the next flush.
        """
        if not (yield from self.settled()):
            return False
        fields = {**self._new_values, **self.state()}
        arguments: list[Argument] = [STAGED_FOR, self._flushed, self.last, len(fields), len(self._new_members)]
        arguments += [part for item in fields.items() for part in item]
        self._begun = yield Begin(Call(FOLD_PAGE, self.keys, [*arguments, *self._new_members, *self._new_changes]))
        self._new_values, self._new_members, self._new_changes = {}, [], []
        self._flushed = self.last
        return True

    def settled(self) -> Flow[bool]:
        """Waits until all that was flushed is folded. False as of `flush`."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            self.checkpoints = yield Finish(begun)
        return self.checkpoints >= 0

    def discard(self) -> Flow[None]:
        """Deletes the staged keys, or lets them expire if that fails. One round trip."""
        with suppress(EventLogError):  # the flush may have failed; the keys have to go in any case
            yield from self.settled()
        with suppress(EventLogError):
            yield Command("UNLINK", self.keys[0], list(self.keys[1:]))

    def locate(self, name: bytes, location: bytes) -> None:
        """See `Fold`."""
        self._new_values[name] = location

    def write(self, sort_key: bytes, task_id: bytes, entry_id: bytes) -> None:
        """See `Fold`."""
        self._new_members.append(b"w" + sort_key + ordered(task_id) + entry_id)

    def change(self, letter: bytes, sort_key: bytes, entry_id: bytes = b"") -> None:
        """See `Fold`."""
        self._new_changes += (letter, sort_key, entry_id) if letter == b"c" else (letter, sort_key)


def stage_entries(key: bytes, entries: Sequence[Entry]) -> Flow[None]:
    """Adds entries to a staged stream. One round trip."""
    arguments: list[Argument] = [STAGED_FOR]
    for entry_id, fields in entries:
        arguments += (entry_id, len(fields), *fields)
    yield Call(STAGE, [key], arguments)

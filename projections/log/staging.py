"""Laying a thread ready under keys that drop themselves: its log, and what that folds to, a stretch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
"""Seconds after which what was laid ready and not put in place is dropped."""
STAGE = load_script("projections/log/stage")
FOLD_PAGE = load_script("projections/log/fold_page")


def staged_keys(keys: ThreadKeys, *parts: bytes) -> list[bytes]:
    """Names for what is laid ready of a thread."""
    token = token_hex(8).encode()
    return [keys.shared.stage(token, part) for part in parts]


@dataclass(slots=True)
class StagedIndex(Fold):
    """Folds events into an index and an order on the server: `add` some, then `flush`.

    Memory: what was added since the last flush, and the gaps.
    """

    keys: Sequence[bytes] = ()
    """Those of index and order."""
    checkpoints: int = 0
    """How many were listed at the last flush that was settled."""
    _begun: Any = None
    """The last flush, where it is under way."""
    _flushed: bytes = b""
    """The last entry there was then."""
    _new_values: dict[bytes, bytes] = field(default_factory=dict)
    _new_members: list[bytes] = field(default_factory=list)
    _new_moves: list[bytes] = field(default_factory=list)

    def flush(self) -> Flow[bool]:
        """Has what was added folded, while the caller goes on; False if what was folded before has dropped itself: then all has to
        begin anew. One round trip, which goes by until the next flush.
        """
        if not (yield from self.settled()):
            return False
        fields = {**self._new_values, **self.state()}
        arguments: list[Argument] = [STAGED_FOR, self._flushed, self.last, len(fields), len(self._new_members)]
        arguments += [part for item in fields.items() for part in item]
        self._begun = yield Begin(Call(FOLD_PAGE, self.keys, [*arguments, *self._new_members, *self._new_moves]))
        self._new_values, self._new_members, self._new_moves = {}, [], []
        self._flushed = self.last
        return True

    def settled(self) -> Flow[bool]:
        """Waits until all that was flushed is folded; False as of `flush`."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            self.checkpoints = yield Finish(begun)
        return self.checkpoints >= 0

    def discard(self) -> Flow[None]:
        """Drops what was folded, or leaves it to drop itself where that fails. One round trip."""
        with suppress(EventLogError):  # whatever it was that failed, what is there is to go
            yield from self.settled()
        with suppress(EventLogError):
            yield Command("UNLINK", self.keys[0], list(self.keys[1:]))

    def hold(self, name: bytes, place: bytes) -> None:
        """See `Fold`."""
        self._new_values[name] = place

    def put(self, place: bytes, entry_id: bytes) -> None:
        """See `Fold`."""
        self._new_moves += (b"c", place, entry_id)

    def write(self, place: bytes, task_id: bytes, entry_id: bytes) -> None:
        """See `Fold`."""
        self._new_members.append(b"w" + place + ordered(task_id) + entry_id)

    def drop(self, place: bytes) -> None:
        """See `Fold`."""
        self._new_moves += (b"d", place)

    def hide(self, place: bytes) -> None:
        """See `Fold`."""
        self._new_moves += (b"h", place)


def stage_entries(key: bytes, entries: Sequence[Entry]) -> Flow[None]:
    """Adds entries, ids and fields, to a stream laid ready under a key that drops itself. One round trip."""
    yield Call(STAGE, [key], [STAGED_FOR, *_flat(entries)])


def _flat(entries: Sequence[Entry]) -> Iterator[Argument]:
    for entry_id, fields in entries:
        yield entry_id
        yield len(fields)
        yield from fields

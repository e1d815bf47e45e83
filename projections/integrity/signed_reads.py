"""Compares replies with the signed entries they come from.

A saver with a key does not trust views: anyone with write access to the server can alter heads and indexes, and so the replies of
scripts. Before it deserializes a reply, the saver fetches the entries of the reply and checks their signatures. Then it checks that
both agree on thread, namespace, checkpoint, and version of each channel. If a checkpoint lacks a value, the log must lack it too.

Views may still leave out writes, or lead to older entries than the newest. Verifying a thread and checking its views find that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from eventlog import codec
from eventlog.codec import EMPTY, Malformed, base_of, counted_part, is_delta, paired
from eventlog.errors import CorruptEntry, SignatureInvalid
from eventlog.events import decode_versions
from eventlog.flow import Call, Flow, load_script
from eventlog.keys import ThreadKeys, value_name
from eventlog.printable import printable
from eventlog.signing import Known
from projections.integrity.log_end import log_state
from projections.integrity.verify import verify_thread
from projections.log.pages import scan_log
from projections.log.signatures import Names
from projections.values.pieces import Pieces
from projections.values.stored import Ancestor, View

__all__ = ["check_ancestors", "check_bare", "check_views", "until_steady"]

T = TypeVar("T")

READ_NAMED = load_script("projections/integrity/read_named")
AT_ONCE = 50
"""Entries that are fetched in one round trip."""
ATTEMPTS = 20
"""Attempts to check a reply before the log moves on."""


def until_steady(keys: ThreadKeys, read: Callable[[], Flow[T]], most: int = ATTEMPTS) -> Flow[T]:
    """The result of a flow that reads from the log and checks the reply.

    If it raises `CorruptEntry` or `SignatureInvalid`, it is run again if the log has moved on, since entries may have been
    removed before they were checked. An error so costs two more round trips, and the flow a second time.
    """
    before, left = None, most
    while True:
        left -= 1
        try:
            return (yield from read())
        except (CorruptEntry, SignatureInvalid):
            state = yield from log_state(keys)
            if state == before or not left:
                raise
            before = state


class _Entries:
    """Entries whose signatures were checked, to compare a reply with."""

    def __init__(self, keys: ThreadKeys) -> None:
        self.keys = keys
        self.flat: dict[bytes, list[bytes]] = {}
        self._fields: dict[bytes, dict[bytes, bytes]] = {}
        self.names = Names(keys)

    def fetch(self, wanted: Iterable[bytes]) -> Flow[None]:
        """Fetches entries that were not fetched yet."""
        missing = [entry_id for entry_id in dict.fromkeys(wanted) if entry_id not in self.flat]
        for first in range(0, len(missing), AT_ONCE):
            some = missing[first : first + AT_ONCE]
            asked = b"" if self.names.ends is not None else b"ends"
            ends, replies = yield Call(READ_NAMED, [self.keys.log], [asked, *some])
            self.names.ends = ends if asked else self.names.ends
            for entry_id, flat in zip(some, replies, strict=True):
                if not flat:
                    named = printable(entry_id.decode(errors="replace"))[:99]
                    raise CorruptEntry(
                        f"The log of thread {self.keys.thread.decode()!r} lacks entry {named}. Restore the log from a backup, or "
                        "delete the thread."
                    )
                yield from self.names.check(entry_id, flat)
                self.flat[entry_id] = flat
                self._fields[entry_id] = paired(flat[4:])

    def fetch_bases(self, entry_ids: Iterable[bytes]) -> Flow[None]:
        """Fetches checkpoints' entries, and those that their versions changed from."""
        wanted = list(entry_ids)
        while wanted:
            yield from self.fetch(wanted)
            wanted = [base for entry_id in wanted if (base := self._base(entry_id)) is not None]

    def field(self, entry_id: bytes, name: bytes) -> bytes | None:
        return self._fields[entry_id].get(name)

    def named(self, entry_id: bytes) -> tuple[str, str]:
        """Namespace and checkpoint id of an entry."""
        return _named(self.keys, entry_id, self.field(entry_id, b"e") or b"")

    def versions(self, entry_id: bytes) -> dict[str, str]:
        """The version key of each channel of a checkpoint, whose bases were fetched."""
        vectors = [decode_versions(self.field(at, b"s") or b"") for at in self._with_bases(entry_id)]
        return {channel: version for vector in reversed(vectors) for channel, version in vector.items()}

    def _base(self, entry_id: bytes) -> bytes | None:
        base = self.field(entry_id, b"b")
        return None if base is None else counted_part(base, 0)[0]

    def _with_bases(self, entry_id: bytes) -> Iterator[bytes]:
        at: bytes | None = entry_id
        while at is not None:
            yield at
            at = self._base(at)

    def require(self, entry_id: bytes, holds: bool) -> None:  # noqa: FBT001
        """Raises `SignatureInvalid` unless a reply agrees with an entry."""
        if not holds:
            raise _differs(self.keys, entry_id)

    def check_envelope(self, sort_key: bytes, envelope: bytes) -> None:
        """Checks that an envelope is that of an entry, and agrees with its sort key."""
        namespace, checkpoint_id, entry_id = self.keys.split_sort_key(sort_key)
        self.require(entry_id, envelope == self.field(entry_id, b"e"))
        self.require(entry_id, (namespace, checkpoint_id) == self.named(entry_id))

    def check_versions(self, entry_id: bytes, vectors: Sequence[tuple[bytes, bytes, bytes]]) -> None:
        """Checks that versions are those of an entry and its bases."""
        signed = [
            (self.field(at, b"s"), self.field(at, b"q") or b"", self.field(at, b"y") or b"")
            for at in self._with_bases(entry_id)
        ]
        self.require(entry_id, signed[::-1] == list(vectors))

    def check_chain(self, namespace: str, channel: bytes, version: bytes, pieces: Pieces, number: int) -> None:
        """Checks that the entries have a piece and its bases under the channel's versions."""
        while number:
            entry_id, piece = pieces.entry_id(number), pieces.stored(number)
            self.require(entry_id, self.field(entry_id, b"=" + value_name(channel, version)) == piece)
            self.require(entry_id, self.named(entry_id)[0] == namespace)
            number = pieces.base_number(number)
            self.require(entry_id, is_delta(piece) == bool(number))
            if number:
                base, version = base_of(piece)
                self.require(entry_id, pieces.entry_id(number) == base)

    def check_writes(self, writes: Sequence[bytes], checkpoint: tuple[str, str]) -> None:
        """Checks that writes are those of an entry of this checkpoint."""
        entry_id, *found = writes
        signed = self._fields[entry_id]
        own = [part for name, value in signed.items() if name[:1] == b"!" for part in (name, value)]
        self.require(entry_id, [signed.get(b"t"), signed.get(b"a"), *own] == found)
        self.require(entry_id, self.named(entry_id) == checkpoint)


def read_signed(keys: ThreadKeys, entry_ids: Sequence[bytes]) -> Flow[list[list[bytes]]]:
    """The fields of some entries, their signatures checked.

    A round trip per 50 entries. Raises `SignatureInvalid`, or `CorruptEntry` if the log lacks an entry.
    """
    entries = _Entries(keys)
    yield from entries.fetch(entry_ids)
    return [entries.flat[entry_id] for entry_id in entry_ids]


def check_views(keys: ThreadKeys, views: Sequence[View], pieces: Pieces) -> Flow[Known | None]:
    """Checks checkpoints that a script read from the log, and returns the life for `ThreadKeys.note`.

    A round trip per 50 entries that they come from, and one per base of their versions. None if the thread has no signer.
    Raises `SignatureInvalid` or `CorruptEntry`.
    """
    if keys.signer is None or not views:
        return None
    entries = _Entries(keys)
    yield from entries.fetch_bases([keys.split_sort_key(view.sort_key)[2] for view in views])
    yield from entries.fetch([*pieces.entry_ids(), *(writes[0] for view in views for writes in view.writes)])
    absent: set[tuple[str, bytes]] = set()
    for view in views:
        entry_id = view.entry_id
        entries.check_envelope(view.sort_key, view.envelope)
        entries.require(entry_id, (view.parent or None) == entries.field(entry_id, b"p"))
        entries.check_versions(entry_id, pieces.encoded_versions(view.versions))
        namespace, checkpoint_id = entries.named(entry_id)
        try:
            versions, _ = pieces.versions(view.versions)
        except (Malformed, ValueError) as error:
            raise _differs(keys, entry_id) from error
        for (channel, version), number in zip(versions.channels.items(), view.values, strict=True):
            entries.check_chain(namespace, channel.encode(), version.encode(), pieces, number)
            if not number:
                absent.add((namespace, b"=" + value_name(channel.encode(), version.encode())))
        for writes in view.writes:
            entries.check_writes(writes, (namespace, checkpoint_id))
    if absent:
        yield from _check_absent(keys, absent)
    return entries.names.known


def _check_absent(keys: ThreadKeys, absent: set[tuple[str, bytes]]) -> Flow[None]:
    """Checks that the log is whole, and has no value where the index led to none.

    This is rare and expensive: the log is read twice.
    """
    found = yield from verify_thread(keys)
    if found.of_log:
        raise SignatureInvalid(f"Thread {keys.thread.decode()!r}: {found.of_log[0].message}. {_REMEDY}")
    after, more = b"", 1
    while more:
        entries, more, _ = yield from scan_log(keys, after)
        for after, flat in entries:
            fields = paired(flat[4:])
            for namespace, name in absent:
                if name in fields and _named(keys, after, fields.get(b"e") or b"")[0] == namespace:
                    raise _differs(keys, after)


def check_bare(keys: ThreadKeys, views: Sequence[Sequence[bytes]]) -> Flow[None]:
    """Checks envelopes of checkpoints, each with its sort key."""
    if keys.signer is None or not views:
        return
    entries = _Entries(keys)
    yield from entries.fetch([keys.split_sort_key(sort_key)[2] for _, sort_key in views])
    for envelope, sort_key in views:
        entries.check_envelope(sort_key, envelope)


def check_ancestors(  # noqa: PLR0917
    keys: ThreadKeys,
    place: tuple[str, str | None],
    origin: bytes,
    channels: Sequence[str],
    ancestors: Sequence[Ancestor],
    pieces: Pieces,
) -> Flow[None]:
    """Checks the checkpoints on a way up the ancestors.

    Their values and writes must be those of signed entries, and each must be the parent of the one before.
    `place` is the namespace and id of the checkpoint where the way begins; the id is None if there is none. `origin` is the entry
    of that checkpoint if it is not one of the steps.
    """
    if keys.signer is None:
        return
    entries = _Entries(keys)
    way = [*([origin] if origin else []), *(ancestor.entry_id for ancestor in ancestors)]
    yield from entries.fetch_bases(way)
    yield from entries.fetch(
        [*pieces.entry_ids(), *(writes[0] for ancestor in ancestors for writes in ancestor.writes)]
    )
    namespace, wanted = place
    for entry_id in way:
        named, checkpoint_id = entries.named(entry_id)
        entries.require(entry_id, named == namespace and wanted in (None, checkpoint_id))
        parent = entries.field(entry_id, b"p")
        wanted = "" if parent is None else parent.decode()
    seeded: set[str] = set()
    for entry_id, values, writes in ancestors:
        versions = entries.versions(entry_id)
        for channel in versions.keys() & set(channels) - seeded - values.keys():
            piece = entries.field(entry_id, b"=" + value_name(channel.encode(), versions[channel].encode()))
            entries.require(entry_id, piece in (None, EMPTY))  # else a nearer value was left out
        seeded |= values.keys()
        for channel, number in values.items():
            entries.require(entry_id, channel in versions)
            entries.check_chain(namespace, channel.encode(), versions[channel].encode(), pieces, number)
        for written in writes:
            entries.check_writes(written, entries.named(entry_id))


def _named(keys: ThreadKeys, entry_id: bytes, envelope: bytes) -> tuple[str, str]:
    """Namespace and checkpoint id in a signed envelope."""
    try:
        found = codec.decode(envelope)
        return found["ns"], found["id"]
    except (Malformed, TypeError, KeyError) as error:
        raise _differs(keys, entry_id) from error


def _differs(keys: ThreadKeys, entry_id: bytes) -> SignatureInvalid:
    return SignatureInvalid(
        f"Thread {keys.thread.decode()!r}: the reply differs from the signed entry {entry_id.decode(errors='replace')}, since an "
        "index was altered. Nothing of it was deserialized. Rebuild the thread's views and verify it."
    )


_REMEDY = "Nothing of it was deserialized. Verify the thread, and restore its log from an export or a backup."

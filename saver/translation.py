"""Translates between LangGraph's checkpoints and events.

Values pass through the serializer and nothing else. The envelope holds the metadata, and the parts of a checkpoint
other than its values. It holds them as plain data if CBOR brings that back exactly, and otherwise as the serializer
wrote them. If the serializer may encrypt, only ids, channel names, versions, node names, source, step and times are
readable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from secrets import token_bytes
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from eventlog.attribution import stamp
from eventlog.codec import Keyframe, is_plain
from eventlog.errors import (
    CorruptEntry,
    InvalidArgument,
    TypeNotAllowed,
    ValueNotEncrypted,
    ValueUnreadable,
    ValueUnwritable,
)
from eventlog.events import CheckpointSaved, Write, WritesSaved
from eventlog.keys import text, version_key
from projections.checkpoints.ancestry import Ancestry
from projections.checkpoints.save import Values
from projections.values.pieces import StoredValue
from projections.values.stored import PendingWrite, StoredCheckpoint
from projections.values.versions import MANY, Versions, checksum_of_versions
from saver.binding import bound
from saver.configs import Address
from saver.serializer import StrictSerializer

__all__ = ["Translator", "config_of", "copied", "metadata_text"]

_CLEAR = ("v", "ts", "versions_seen", "updated_channels")
"""Keys of a checkpoint that stay readable when values are encrypted."""
_ELSEWHERE = ("id", "channel_values", "channel_versions")
"""Keys of a checkpoint that are stored outside the envelope, and that every checkpoint needs."""
_PROCESS_KEY = token_bytes(32)
_DELTA_COUNTERS = "counters_since_delta_snapshot"
_FOREIGN = "foreign"
"""Key of an envelope whose metadata named another thread when it was put, so that it is read as it was put."""


class Translator:
    """Translates with one serializer.

    If the serializer encrypts, values that are not encrypted are refused, or accepted with `accept_plaintext`. What LangGraph's
    `EncryptedSerializer` encrypts is bound to its form.
    """

    def __init__(self, serde: SerializerProtocol, *, accept_plaintext: bool = False) -> None:
        self.serde = bound(serde)
        self._plain = type(serde) in (JsonPlusSerializer, StrictSerializer)
        """Whether the serializer is known not to encrypt."""
        self._refuses_plaintext = not accept_plaintext and _encrypts(serde)

    def checkpoint_saved(
        self,
        address: Address,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> tuple[CheckpointSaved, Values, Mapping[str, Any]]:
        """Returns the event of a put, the values that go with it, and its whole metadata.

        Raises `ValueUnwritable`, `InvalidArgument` or `TypeError`.
        """
        if missing := set(_ELSEWHERE) - checkpoint.keys():
            raise InvalidArgument(
                f"{address.subject}: the checkpoint lacks {sorted(missing)}; pass a whole Checkpoint."
            )
        values = checkpoint["channel_values"]
        changed: dict[tuple[str, str], Keyframe | None] = {}
        for channel, version in new_versions.items():
            name = _checked_name(channel), _version_key(channel, version)
            changed[name] = Keyframe(*self._dump(address, channel, values[channel])) if channel in values else None
        versions = {
            _checked_name(channel): _version_key(channel, version)
            for channel, version in checkpoint["channel_versions"].items()
        }
        full = cast("dict[str, Any]", get_checkpoint_metadata(config, metadata))
        seen: Any = checkpoint.get("versions_seen")
        is_apart = type(seen) is dict and len(versions) + len(seen) >= MANY and is_plain(seen)
        seen = copied(seen) if is_apart else None
        body = self._body(address, checkpoint, ("versions_seen",) if is_apart else ())
        body["metadata"] = self._beside(address, "metadata", full)
        if _names_another(full, address.thread_id):
            body[_FOREIGN] = True
        checkpoint_id = checkpoint["id"]
        if not isinstance(checkpoint_id, str) or not checkpoint_id:
            raise TypeError(
                f"{address.subject}: the checkpoint's id must be a non-empty string, not {checkpoint_id!r}."
            )
        text("checkpoint id", checkpoint_id)
        idempotency_key = b""
        if isinstance(self.serde, EncryptedSerializer):
            brought = {channel: values[channel] for channel in new_versions if channel in values}
            rest = {**checkpoint, "channel_values": {}}
            idempotency_key = self._idempotency_key(address, [address.checkpoint_id, new_versions, brought, rest, full])
        event = CheckpointSaved(
            address.namespace or "",
            checkpoint_id,
            address.checkpoint_id,
            versions,
            body,
            idempotency_key=idempotency_key,
            seen=seen,
            check=checksum_of_versions(Versions(versions, seen)),
            audit=self.stamp(config.get("metadata")),
        )
        return event, changed, full

    def writes_saved(
        self,
        address: Address,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
        metadata: object = None,
        *,
        indexes: Sequence[int] | None = None,
    ) -> WritesSaved:
        """Returns the event of a put_writes.

        `metadata` is that of the call's config. `indexes` are the indexes of writes that another saver has
        numbered. Raises `ValueUnwritable`, `InvalidArgument` or `TypeError`.
        """
        if address.checkpoint_id is None:
            raise InvalidArgument(f"{address.subject}: put_writes needs the checkpoint_id that the writes belong to.")
        for field, value in (("task_id", task_id), ("task_path", task_path)):
            if not isinstance(value, str):
                raise TypeError(f"{address.subject}: {field} must be a string, not {type(value).__name__}.")
            text(field, value)
        found: dict[int, Write] = {}
        for position, (channel, value) in enumerate(writes):
            idx = WRITES_IDX_MAP.get(channel, position) if indexes is None else indexes[position]
            found[idx] = Write(idx, _checked_name(channel), *self._dump(address, channel, value))
        return WritesSaved(
            address.namespace or "",
            address.checkpoint_id,
            task_id,
            task_path,
            tuple(found.values()),
            self._idempotency_key(address, [task_path, list(writes)]),
            self.stamp(metadata),
        )

    def _idempotency_key(self, address: Address, call: list[Any]) -> bytes:
        """Returns the idempotency key of a call under encryption.

        Encryption writes other bytes each time, so the key cannot be their digest. It is a digest of the plain call under a
        secret of this process, which reveals nothing about the call. Empty if the serializer does not encrypt.
        """
        if not isinstance(self.serde, EncryptedSerializer):
            return b""
        plain = Translator(self.serde.serde)
        digest = blake2b(key=_PROCESS_KEY, digest_size=16)
        for part in call:
            type_, data = plain._dump(address, "call", part)
            digest.update(b"%b:%d:" % (type_.encode(), len(data)))
            digest.update(data)
        return digest.digest()

    def stamp(self, metadata: object) -> Mapping[str, Any] | None:
        """Returns the audit stamp of a call.

        The config's metadata is left out if values are encrypted.
        """
        return stamp(None if isinstance(self.serde, EncryptedSerializer) else metadata)

    def _dump(self, address: Address, what: str, value: Any) -> tuple[str, bytes]:
        try:
            type_, data = self.serde.dumps_typed(value)
        except Exception as error:
            raise ValueUnwritable(
                f"{address.subject}: the serializer cannot write {what!r} ({type(value).__name__}): {error}. Nothing was saved. "
                "Keep such objects out of the state, or pass a serde that knows them."
            ) from error
        return type_, bytes(data)

    def _beside(self, address: Address, what: str, value: Any) -> Any:
        """Returns plain data as it is, other data as [serde type, bytes]."""
        if self._plain and is_plain(value):
            return value
        return list(self._dump(address, what, value))

    def _body(self, address: Address, checkpoint: Checkpoint, apart: Sequence[str]) -> dict[str, Any]:
        """Returns the parts of a checkpoint that are stored in the envelope."""
        rest = {key: value for key, value in checkpoint.items() if key not in _ELSEWHERE and key not in apart}
        if self._plain:
            return {"checkpoint": self._beside(address, "checkpoint", rest)}
        clear = {key: rest[key] for key in _CLEAR if key in rest}
        if not is_plain(clear):
            return {"checkpoint": self._beside(address, "checkpoint", rest)}
        other = {key: value for key, value in rest.items() if key not in clear}
        return {"checkpoint": clear, "rest": self._beside(address, "checkpoint", other)}

    def checkpoint_tuple(self, thread_id: str, stored: StoredCheckpoint) -> CheckpointTuple:
        """Returns the tuple that LangGraph reads.

        Raises `ValueUnreadable` or `CorruptEntry`.
        """
        subject = f"thread {thread_id!r}, checkpoint {stored.checkpoint_id!r}"
        checkpoint = self._load_beside(subject, stored.body, "checkpoint")
        if "rest" in stored.body:
            checkpoint |= self._load_beside(subject, stored.body, "rest")
        checkpoint |= {
            "id": stored.checkpoint_id,
            "channel_values": {
                channel: self._load(subject, channel, value) for channel, value in stored.values.items()
            },
            "channel_versions": {channel: _version_of(subject, key) for channel, key in stored.versions.items()},
        }
        if stored.seen is not None:
            checkpoint["versions_seen"] = copied(stored.seen)
        parent = stored.parent_id
        return CheckpointTuple(
            config=config_of(thread_id, stored.namespace, stored.checkpoint_id),
            checkpoint=cast("Checkpoint", checkpoint),
            metadata=cast("CheckpointMetadata", self.metadata(thread_id, stored.checkpoint_id, stored.body)),
            parent_config=None if parent is None else config_of(thread_id, stored.namespace, parent),
            pending_writes=self._writes(subject, stored.writes),
        )

    def metadata(self, thread_id: str, checkpoint_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the metadata of a stored checkpoint.

        The entries of a copied thread are its source's. If their metadata names the source, it is read with the
        copy's `thread_id`.
        """
        metadata = self.stored_metadata(thread_id, checkpoint_id, body)
        if _FOREIGN in body or not _names_another(metadata, thread_id):
            return metadata
        return {**metadata, "thread_id": thread_id}

    def stored_metadata(self, thread_id: str, checkpoint_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the metadata of a stored checkpoint as it was put, in any thread."""
        subject = f"thread {thread_id!r}, checkpoint {checkpoint_id!r}"
        return self._load_beside(subject, body, "metadata")

    def delta_channels(self, thread_id: str, event: CheckpointSaved) -> list[str]:
        """Returns the channels that may have to be rebuilt from writes of ancestors.

        These are LangGraph's `DeltaChannel`s.
        """
        counters = self.metadata(thread_id, event.checkpoint_id, event.body).get(_DELTA_COUNTERS)
        return list(counters) if isinstance(counters, Mapping) else []

    def delta_history(self, thread_id: str, channel: str, ancestry: Ancestry) -> DeltaChannelHistory:
        """Returns the history of one delta channel as LangGraph replays it."""
        subject = f"thread {thread_id!r}"
        history = DeltaChannelHistory(writes=self._writes(subject, ancestry.writes))
        if ancestry.seed is not None:
            history["seed"] = self._load(subject, channel, ancestry.seed)
        return history

    def value(self, thread_id: str, channel: str, value: Keyframe | StoredValue) -> Any:
        """Returns one value, deserialized.

        Raises `ValueUnreadable`.
        """
        return self._load(f"thread {thread_id!r}", channel, value)

    def _writes(self, subject: str, writes: Iterable[PendingWrite]) -> list[tuple[str, str, Any]]:
        return [
            (task_id, write.channel, self._load(subject, write.channel, Keyframe(write.type, write.data)))
            for _, task_id, write in writes
        ]

    def _load_beside(self, subject: str, body: Mapping[str, Any], part: str) -> dict[str, Any]:
        stored = body.get(part)
        if (
            self._refuses_plaintext
            and isinstance(stored, dict)
            and not (part == "checkpoint" and stored.keys() <= set(_CLEAR))
        ):
            raise _not_encrypted(subject, part)
        if isinstance(stored, list) and [str, bytes] == [type(item) for item in stored]:
            stored = self._load(subject, part, Keyframe(*stored))
        if not isinstance(stored, dict):
            raise CorruptEntry(
                f"{subject}: the envelope has no {part}. Restore the log from a backup, or delete the thread."
            )
        return stored

    def _load(self, subject: str, what: str, value: Keyframe | StoredValue) -> Any:
        if self._refuses_plaintext and "+" not in value.type:
            raise _not_encrypted(subject, what)
        try:
            return self.serde.loads_typed((value.type, value.data))
        except TypeNotAllowed as error:
            raise TypeNotAllowed(f"{subject}: the serializer refuses {what!r}: {error}", error.types) from error
        except Exception as error:
            raise ValueUnreadable(
                f"{subject}: the serializer cannot read {what!r} of type {value.type!r}: {error}. If another serde "
                "or key wrote it, pass that one."
            ) from error


def _encrypts(serde: SerializerProtocol) -> bool:
    """Whether a serializer is LangGraph's encrypting one, or has a cipher and marks its types with it in the same way."""
    return isinstance(serde, EncryptedSerializer) or (hasattr(serde, "cipher") and "+" in serde.dumps_typed(None)[0])


def _not_encrypted(subject: str, what: str) -> ValueNotEncrypted:
    return ValueNotEncrypted(
        f"{subject}: {what!r} is not encrypted, but the serializer encrypts. It was not deserialized. If it was written before "
        "encryption was switched on, open the saver with accept_plaintext=True (agentlog: --accept-plaintext); "
        "otherwise restore the log from an export or a backup."
    )


def copied(seen: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of `versions_seen`.

    LangGraph changes the checkpoint that it was given in place.
    """
    return {node: dict(versions) if isinstance(versions, dict) else versions for node, versions in seen.items()}


def config_of(thread_id: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    """Returns the config that names a checkpoint."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}}


def metadata_text(thread_id: str, metadata: Mapping[str, Any], key: str) -> str:
    """Returns a value of metadata as text, the form that it has in the feed.

    Raises `InvalidArgument` for a value without a text.
    """
    value = metadata.get(key)
    written = "" if value is None else _written(thread_id, key, value)
    if not written.isascii():
        text(f"Thread {thread_id!r}: metadata {key!r}", written)
    return written


def _names_another(metadata: Mapping[str, Any], thread_id: str) -> bool:
    """Whether metadata names another thread than this. Raises `InvalidArgument`."""
    return "thread_id" in metadata and _written(thread_id, "thread_id", metadata["thread_id"]) != thread_id


def _written(thread_id: str, key: str, value: object) -> str:
    """A value of metadata as `str` writes it; raises `InvalidArgument` where that fails."""
    try:
        return str(value)
    except Exception as error:
        raise InvalidArgument(
            f"Thread {thread_id!r}: metadata {key!r} has no text, since str() raised {type(error).__name__}. Pass a text."
        ) from error


def _checked_name(channel: object) -> str:
    if not isinstance(channel, str):
        raise TypeError(f"A channel's name must be a string, not {type(channel).__name__} ({channel!r:.80}).")
    if not channel.isascii():
        text("channel", channel)
    return channel


def _version_key(channel: str, version: object) -> str:
    if not isinstance(version, (str, int, float)):
        raise TypeError(
            f"The version of channel {channel!r} must be a string or a number, not {type(version).__name__}."
        )
    key = version_key(version)
    if not key.isascii():
        text(f"version of channel {channel!r}", key)
    return key


def _version_of(subject: str, key: str) -> str | int | float:
    if key[:1] == "s":
        return key[1:]
    try:
        return int(key[1:]) if key[:1] == "i" else float(key[1:])
    except ValueError as error:
        raise CorruptEntry(
            f"{subject}: {key!r:.80} is not a version. Restore the log from a backup, or delete the thread."
        ) from error

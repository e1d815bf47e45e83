"""Operations that append checkpoints and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from eventlog.codec import NEVER
from eventlog.events import CheckpointSaved, WritesSaved, ids_in
from eventlog.flow import Flow
from projections.checkpoints.save import About, save_checkpoint, save_writes
from projections.values.cache import ValueCache
from saver.configs import Address
from saver.nodes import NOTHING, Known, nodes_of, writer_of
from saver.operations_base import OperationsBase
from saver.translation import config_of, metadata_text

__all__ = ["Writing"]

_UNSHARED = ValueCache(0, NEVER)
"""For encrypted values, which share no bytes with each other and cannot be compressed."""


class Writing(OperationsBase):
    """Appends to logs."""

    def put(
        self,
        serde: SerializerProtocol,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Flow[RunnableConfig]:
        """Appends a checkpoint, and returns the config that names it."""
        address = self.address_of(config)
        event, values, full = self.translator(serde).checkpoint_saved(
            address, config, checkpoint, metadata, new_versions
        )
        source, step, run = [metadata_text(address.thread_id, full, key) for key in ("source", "step", "run_id")]
        about = About(source, step, run, self._nodes(address, checkpoint, full, event.audit))
        self._check_names(address, replace(event, values=dict.fromkeys(values, b"")), about)
        parts = max(len(event.versions), len(values), len(event.seen or ()))
        self.keyspace.limits.check_parts("channels or nodes", parts, f"{address.subject}: ")
        keys = self.keys_of(address.thread_id)
        cache = _UNSHARED if isinstance(serde, EncryptedSerializer) else self.cache
        yield from self.checked(save_checkpoint(keys, event, values, cache=cache, ttl=self.ttl.on_write, about=about))
        if self.trimming is not None:
            yield from self.trimming.after_put(keys.thread)
        return config_of(address.thread_id, event.namespace, event.checkpoint_id)

    def put_writes(
        self,
        serde: SerializerProtocol,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
        *,
        indexes: Sequence[int] | None = None,
    ) -> Flow[None]:
        """Appends the writes of a task, under LangGraph's indexes or the given ones."""
        address = self.address_of(config)
        event = self.translator(serde).writes_saved(
            address, writes, task_id, task_path, config.get("metadata"), indexes=indexes
        )
        if not event.writes:
            return
        known = self.known.get((address.thread_id, event.namespace, event.checkpoint_id))
        if event.audit is None and known is not None and known.audit is not None:
            event = replace(event, audit=known.audit)
        keys = self.keys_of(address.thread_id)
        about = _about_writes(address.thread_id, event, config, known)
        self._check_names(address, event, about)
        self.keyspace.limits.check_parts("writes", len(event.writes), f"{address.subject}: ")
        yield from self.checked(save_writes(keys, event, ttl=self.ttl.on_write, about=about))
        if self.trimming is not None:
            yield from self.trimming.after_put(keys.thread)

    def _check_names(self, address: Address, event: CheckpointSaved | WritesSaved, about: About) -> None:
        """Raises `OverLimit` for an id or a name that is too long."""
        beside = [("source", about.source), ("step", about.step), ("run_id", about.run)]
        beside += [("node", node) for node in about.nodes]
        self.keyspace.limits.check_ids(chain(ids_in(event), beside), f"{address.subject}: ")

    def _nodes(
        self,
        address: Address,
        checkpoint: Checkpoint,
        metadata: Mapping[str, Any],
        audit: Mapping[str, Any] | None,
    ) -> Sequence[str]:
        """Returns the nodes that ran for a checkpoint, and notes the checkpoint as known."""
        thread_id, namespace, parent_id = address
        namespace = namespace or ""
        before = NOTHING if parent_id is None else self.known.get((thread_id, namespace, parent_id))
        known = Known.of(checkpoint, metadata)
        self.known.note((thread_id, namespace, checkpoint["id"]), known._replace(audit=audit))
        return nodes_of(known, metadata.get("source"), before)


def _about_writes(thread_id: str, event: WritesSaved, config: RunnableConfig, known: Known | None) -> About:
    """Returns the pointer fields of writes.

    They belong to the step after their checkpoint's.
    """
    step = "" if known is None or known.step is None else str(known.step + 1)
    return About("", step, _run_of(thread_id, config), writer_of(event.task_path, known))


def _run_of(thread_id: str, config: RunnableConfig) -> str:
    """Returns the run of a call.

    It is found as LangGraph's `get_checkpoint_metadata` finds it for a put.
    """
    for part in (config.get("metadata"), config.get("configurable")):
        if isinstance(part, Mapping) and isinstance(part.get("run_id"), (str, int, float)):
            return metadata_text(thread_id, part, "run_id").replace("\0", "")
    return ""

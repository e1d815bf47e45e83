"""Operations that read checkpoints, delta histories, threads and values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, DeltaChannelHistory
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from eventlog.errors import InvalidArgument
from eventlog.feed.activity import Activity
from eventlog.flow import Flow
from projections.checkpoints.ancestry import read_ancestry
from projections.checkpoints.listing import Selection, list_checkpoints
from projections.checkpoints.read import read_checkpoint, read_latest, remember
from projections.registry.listing import list_threads
from projections.registry.rebuild import threads_of
from saver.activities import values_of
from saver.configs import configurable_of, id_of, whole_number
from saver.nodes import Known
from saver.operations_base import OperationsBase
from saver.translation import Translator, copied

__all__ = ["Reading"]


class Reading(OperationsBase):
    """Reads the current state."""

    def get_tuple(self, serde: SerializerProtocol, config: RunnableConfig) -> Flow[CheckpointTuple | None]:
        """Returns the checkpoint that a config names, or the latest of its namespace."""
        address = self.address_of(config)
        keys, namespace = self.keys_of(address.thread_id), address.namespace or ""
        if address.checkpoint_id is None:
            reading = read_latest(keys, namespace, ttl=self.ttl.on_read)
        else:
            reading = read_checkpoint(keys, namespace, address.checkpoint_id, ttl=self.ttl.on_read)
        stored = yield from self.checked(reading)
        if stored is None:
            return None
        if not isinstance(serde, EncryptedSerializer):
            remember(self.cache, keys, stored)
        translator = self.translator(serde)
        found = translator.checkpoint_tuple(address.thread_id, stored)
        known = Known.of(found.checkpoint, found.metadata)
        name = address.thread_id, namespace, stored.checkpoint_id
        self.known.note(name, known._replace(seen=copied(known.seen), audit=translator.stamp(config.get("metadata"))))
        return found

    def list(
        self,
        serde: SerializerProtocol,
        config: RunnableConfig | None,
        filter: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Flow[None]:
        """Emits the selected checkpoints, newest first."""
        translator = self.translator(serde)
        address = None if config is None else self.address_of(config)
        selection = Selection(
            namespace=address and address.namespace,
            checkpoint_id=address and address.checkpoint_id,
            before=self._before(before),
            matches=_matcher(translator, filter),
            limit=None if limit is None else whole_number(limit, "limit"),
        )
        if not self._is_checked:
            yield from self.check()
        threads = [address.thread_id.encode()] if address else (yield from threads_of(self.keyspace))
        yield from list_checkpoints(self.keyspace, threads, selection, translator.checkpoint_tuple)

    def _before(self, before: RunnableConfig | None) -> str | None:
        found = configurable_of(before, "before").get("checkpoint_id")
        if not found:
            return None
        field = "checkpoint_id of before"
        self.keyspace.limits.check_ids([(field, id_of(found, field))])
        return str(found)

    def delta_history(
        self, serde: SerializerProtocol, config: RunnableConfig, channels: Sequence[str]
    ) -> Flow[Mapping[str, DeltaChannelHistory]]:
        """Returns the histories from which LangGraph rebuilds delta channels."""
        if isinstance(channels, (str, bytes)) or not isinstance(channels, Iterable):
            raise TypeError(
                f"channels must be a list of channel names, not {type(channels).__name__}; pass [{channels!r}]."
            )
        channels = [id_of(channel, "each of channels") for channel in channels]
        self.keyspace.limits.check_ids(("each of channels", channel) for channel in channels)
        if not channels:
            return {}
        address = self.address_of(config)
        translator = self.translator(serde)
        ancestries = yield from self.checked(
            read_ancestry(self.keys_of(address.thread_id), address.namespace or "", address.checkpoint_id, channels)
        )
        return {
            channel: translator.delta_history(address.thread_id, channel, found)
            for channel, found in ancestries.items()
        }

    def threads(self, since: datetime | None, limit: int | None) -> Flow[None]:
        """Emits the threads, the last active first."""
        if limit is not None:
            whole_number(limit, "limit")
        if since is not None and not isinstance(since, datetime):
            raise TypeError(f"since must be a datetime, not {type(since).__name__}.")
        if since is not None and since.tzinfo is None:
            raise InvalidArgument(f"since {since!r} has no time zone; pass e.g. datetime.now(timezone.utc).")
        yield from self.checked_read_only(list_threads(self.keyspace, since=since, limit=limit))

    def values_of(self, serde: SerializerProtocol, activity: Activity) -> Flow[Sequence[tuple[str, Any]]]:
        """Returns the channels and values of an event."""
        return (yield from self.checked(values_of(self.translator(serde), self.keyspace, activity)))


def _matcher(
    translator: Translator, filter: Mapping[str, Any] | None
) -> Callable[[str, str, Mapping[str, Any]], bool] | None:
    """Returns a test for metadata that has every key of `filter` with an equal value."""
    if not filter:
        return None
    if not isinstance(filter, Mapping):
        raise TypeError(f"filter must be a mapping of metadata keys to values, not {type(filter).__name__}.")

    def matches(thread: str, checkpoint_id: str, body: Mapping[str, Any]) -> bool:
        metadata = translator.metadata(thread, checkpoint_id, body)
        return all(value == metadata.get(key) for key, value in filter.items())

    return matches

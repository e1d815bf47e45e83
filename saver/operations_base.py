"""The state that all operations of a saver share.

Before its first request an operation checks the server and the prefix, once per saver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from langgraph.checkpoint.serde.base import SerializerProtocol

from eventlog.connect.connections import Connections
from eventlog.connect.server import check_server
from eventlog.feed.reading import open_keyspace
from eventlog.feed.trimming import Retention
from eventlog.flow import Flow
from eventlog.keys import Keyspace, ThreadKeys
from projections.values.cache import ValueCache
from saver.configs import Address, address_of, ids_of
from saver.nodes import KnownCheckpoints
from saver.retention import TrimmingAfterPuts
from saver.translation import Translator
from saver.ttl import TimeToLive

__all__ = ["OperationsBase"]

T = TypeVar("T")


class OperationsBase:
    """Base class of the operations of each capability."""

    def __init__(
        self,
        connections: Connections,
        keyspace: Keyspace,
        ttl: TimeToLive,
        cache: ValueCache,
        retention: Retention | None = None,
        *,
        accept_plaintext: bool = False,
    ) -> None:
        self.connections = connections
        self.keyspace = keyspace
        self.ttl = ttl
        self.cache = cache
        self.accept_plaintext = accept_plaintext
        self.known = KnownCheckpoints()
        self.trimming = None if retention is None else TrimmingAfterPuts(keyspace, retention)
        self._is_checked = False

    def translator(self, serde: SerializerProtocol) -> Translator:
        """A translator for one call."""
        return Translator(serde, accept_plaintext=self.accept_plaintext)

    def check(self) -> Flow[None]:
        """Checks the server and the prefix. One round trip."""
        yield from check_server(self.keyspace, self.connections, expires=self.ttl.on_write > 0)
        self._is_checked = True

    def checked(self, flow: Flow[T]) -> Flow[T]:
        """Runs `flow`, after the check if this is the saver's first call."""
        if not self._is_checked:
            yield from self.check()
        return (yield from flow)

    def checked_read_only(self, flow: Flow[T]) -> Flow[T]:
        """Runs `flow`, which only reads, after a check that only reads."""
        if not self._is_checked:
            yield from open_keyspace(self.connections, self.keyspace.prefix, self.keyspace.partitions)
        return (yield from flow)

    def address_of(self, config: Mapping[str, Any] | None) -> Address:
        """The address in a config, with its ids checked.

        Raises `InvalidArgument`, `OverLimit` or `TypeError`.
        """
        address = address_of(config)
        self.keyspace.limits.check_ids(
            [
                ("thread_id", address.thread_id),
                ("checkpoint_ns", address.namespace),
                ("checkpoint_id", address.checkpoint_id),
            ]
        )
        return address

    def ids_of(self, ids: Sequence[str], field: str) -> list[str]:
        """A list of ids, checked. Raises as `address_of`."""
        found = ids_of(ids, field)
        self.keyspace.limits.check_ids((f"each of {field}", one) for one in found)
        return found

    def keys_of(self, thread_id: str) -> ThreadKeys:
        """The keys of a thread. Raises `OverLimit`."""
        return self.keyspace.thread(thread_id.encode())

"""Operations that read a thread's past and prove its log."""

from __future__ import annotations

import re
from collections.abc import Mapping

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.base import SerializerProtocol

from eventlog.errors import InvalidArgument
from eventlog.flow import Flow
from projections.integrity.findings import Verified
from projections.integrity.verify import verify_thread
from projections.time_travel.moment import When, moment_of
from projections.time_travel.replay import state_as_of
from saver.configs import address_of, id_of, thread_id_of
from saver.history import replayed
from saver.operations_base import OperationsBase

__all__ = ["Auditing"]


class Auditing(OperationsBase):
    """Reads the log alone, and changes nothing."""

    def get_tuple_as_of(
        self, serde: SerializerProtocol, config: RunnableConfig, when: When
    ) -> Flow[CheckpointTuple | None]:
        """Returns the latest checkpoint of the config's namespace as of a moment."""
        address = address_of(config)
        if address.checkpoint_id is not None:
            raise InvalidArgument(
                f"{address.subject}: the config names checkpoint {address.checkpoint_id!r}, which is the same at any time. "
                "Leave checkpoint_id out, or call get_tuple."
            )
        moment = moment_of(when, thread=address.thread_id)
        reading = state_as_of(self.keys_of(address.thread_id), address.namespace or "", moment)
        stored = yield from self.checked_read_only(reading)
        return None if stored is None else self.translator(serde).checkpoint_tuple(address.thread_id, stored)

    def replay(
        self, serde: SerializerProtocol, thread_id: str, namespace: str | None, since: When | None, until: When | None
    ) -> Flow[None]:
        """Emits each event of a thread with the state after it."""
        thread = thread_id_of(thread_id)
        namespace = None if namespace is None else id_of(namespace, "namespace")
        first = None if since is None else moment_of(since, "since", thread=thread)
        last = None if until is None else moment_of(until, "until", thread=thread)
        keys = self.keys_of(thread)
        yield from self.checked_read_only(
            replayed(self.translator(serde), keys, namespace=namespace, since=first, until=last)
        )

    def verify(self, thread_id: str, expected: Mapping[int, str] | None) -> Flow[Verified]:
        """Verifies the log of a thread."""
        keys = self.keys_of(thread_id_of(thread_id))
        return (yield from self.checked_read_only(verify_thread(keys, expected=_digests(expected))))


def _digests(expected: Mapping[int, str] | None) -> Mapping[int, str]:
    """Checks digests by sequence number. Raises `InvalidArgument` or `TypeError`."""
    if expected is None:
        return {}
    if not isinstance(expected, Mapping):
        raise TypeError(f"expected must map sequence numbers to digests, not be a {type(expected).__name__}.")
    for number, digest in expected.items():
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(digest, str):
            raise TypeError(f"expected must map ints to strings, not {number!r:.80} to {digest!r:.80}.")
        if number < 1 or not re.fullmatch(r"[0-9a-f]{40}", digest):
            raise InvalidArgument(
                f"expected: {number}: {digest!r:.80} is not a sequence number of 1 or more with a digest of 40 hex digits."
            )
    return expected

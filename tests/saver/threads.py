"""Small threads to put, and what is there afterwards."""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, CheckpointTuple, empty_checkpoint
from redis.backoff import NoBackoff
from redis.retry import Retry

from eventlog.keys import Keyspace, ThreadKeys
from saver.versions import next_version
from tests.servers import Client, Server

Step = tuple[Checkpoint, CheckpointMetadata, dict[str, Any]]

AT_ONCE: dict[str, Any] = {"retry": Retry(NoBackoff(), 0)}
"""Client options with which a server that is down is noticed at once."""


def following(entry_id: bytes) -> bytes:
    """An entry id for what is added after an entry.

    By itself the server may give an id of the same millisecond, or one ahead of the clock. It then does not end in -0.
    """
    return b"%d-0" % (int(entry_id.partition(b"-")[0]) + 1)


def config(thread: Any, ns: Any = "", checkpoint_id: Any = None) -> Any:
    """A config that names what is given."""
    named = {"thread_id": thread, "checkpoint_ns": ns}
    return {"configurable": named if checkpoint_id is None else {**named, "checkpoint_id": checkpoint_id}}


def step(values: dict[str, Any], *, checkpoint_id: str | None = None, **metadata: Any) -> Step:
    """A checkpoint of new values with metadata and versions, as `put` takes them after the config."""
    checkpoint = empty_checkpoint()
    checkpoint["id"] = checkpoint_id or checkpoint["id"]
    versions = {channel: next_version(None) for channel in values}
    checkpoint["channel_values"] = values
    checkpoint["channel_versions"] = dict(versions)
    described: Any = {"source": "loop", "step": 1, **metadata}
    return checkpoint, described, versions


def follow(before: Step, values: dict[str, Any], **metadata: Any) -> Step:
    """A checkpoint after `before`, of which only `values` changed."""
    checkpoint, described, versions = step(values, **metadata)
    checkpoint["channel_values"] = {**before[0]["channel_values"], **values}
    checkpoint["channel_versions"] = {**before[0]["channel_versions"], **checkpoint["channel_versions"]}
    return checkpoint, described, versions


def values_of(found: CheckpointTuple | None) -> Any:
    """The channel values of a checkpoint, None where there is none."""
    return None if found is None else found.checkpoint["channel_values"]


def writes_of(found: CheckpointTuple | None) -> Any:
    """The pending writes of a checkpoint."""
    return None if found is None else found.pending_writes


def keys_of(prefix: str, thread: str, partitions: int = 16) -> ThreadKeys:
    """The keys of a thread."""
    return Keyspace(prefix, partitions).thread(thread.encode())


def keys_under(server: Server, prefix: str) -> set[bytes]:
    """Every key of a prefix, on every node."""
    with server.client() as client:
        return set(client.scan_iter(match=f"*{prefix}*", count=1000))


def length_of(client: Client, keys: ThreadKeys) -> int:
    """How many entries the log of a thread has."""
    length: Any = client.xlen(keys.log)
    return int(length)

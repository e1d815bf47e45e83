"""The floor of a step: the least that a checkpointer over redis-py can do.

A put is one pipelined write of the serialized checkpoint, and it drops the writes of the one before. A `put_writes` is one `HSET`.
The latest is one pipelined read of the newest checkpoint and its writes. Nothing is checked, and nothing else can be read.
"""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from scripts.benchmark.floor import MOST_CONNECTIONS

__all__ = ["AsyncStepFloor", "StepFloor"]


class _Commands:
    """The commands of both colours."""

    def __init__(self) -> None:
        self._serde = JsonPlusSerializer()

    def get_next_version(self, current: int | None, _channel: None) -> int:
        """Return the next version, as the base class of LangGraph does."""
        return 1 if current is None else current + 1

    def _put(self, pipeline: Any, config: Any, checkpoint: Any, metadata: Any) -> None:
        key = _key(config)
        pipeline.lpush(key, self._dump([checkpoint, metadata, config["configurable"].get("checkpoint_id")]))
        pipeline.delete(key + ":writes")

    def _writes(self, writes: Any, task_id: str, task_path: str) -> dict[Any, Any]:
        return {
            f"{task_id}:{index}": self._dump([task_path, channel, value])
            for index, (channel, value) in enumerate(writes)
        }

    def _latest(self, pipeline: Any, config: Any) -> None:
        key = _key(config)
        pipeline.lindex(key, 0)
        pipeline.hgetall(key + ":writes")

    def _tuple(self, config: Any, reply: Any) -> CheckpointTuple:
        newest, pending = reply
        checkpoint, metadata, parent = self._load(newest)
        writes = []
        for name, stored in pending.items():
            _, channel, value = self._load(stored)
            writes.append((name.decode().rpartition(":")[0], channel, value))
        return CheckpointTuple(
            _named(config, checkpoint["id"]), checkpoint, metadata, parent and _named(config, parent), writes
        )

    def _dump(self, value: Any) -> bytes:
        return self._serde.dumps_typed(value)[1]

    def _load(self, data: bytes) -> Any:
        return self._serde.loads_typed(("msgpack", data))


def _key(config: Any) -> str:
    return f"floor:{config['configurable']['thread_id']}"


def _named(config: Any, checkpoint_id: str) -> Any:
    return {"configurable": {**config["configurable"], "checkpoint_id": checkpoint_id}}


class StepFloor(_Commands):
    """The sync floor."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._redis: Any = redis.Redis.from_url(url)

    def put(self, config: Any, checkpoint: Any, metadata: Any, _new_versions: Any) -> None:
        """Write the checkpoint whole."""
        with self._redis.pipeline(transaction=False) as pipeline:
            self._put(pipeline, config, checkpoint, metadata)
            pipeline.execute()

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        """Send one `HSET` of the writes."""
        self._redis.hset(_key(config) + ":writes", mapping=self._writes(writes, task_id, task_path))

    def get_tuple(self, config: Any) -> CheckpointTuple:
        """Read the newest checkpoint and its writes."""
        with self._redis.pipeline(transaction=False) as pipeline:
            self._latest(pipeline, config)
            return self._tuple(config, pipeline.execute())

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


class AsyncStepFloor(_Commands):
    """The async floor."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._redis: Any = redis.asyncio.Redis.from_url(url, max_connections=MOST_CONNECTIONS)

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, _new_versions: Any) -> None:
        """Write the checkpoint whole."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            self._put(pipeline, config, checkpoint, metadata)
            await pipeline.execute()

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        """Send one `HSET` of the writes."""
        await self._redis.hset(_key(config) + ":writes", mapping=self._writes(writes, task_id, task_path))

    async def aget_tuple(self, config: Any) -> CheckpointTuple:
        """Read the newest checkpoint and its writes."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            self._latest(pipeline, config)
            return self._tuple(config, await pipeline.execute())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

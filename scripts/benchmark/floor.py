"""The floor: the least that a saver of whole values can do on the same server.

A write serializes each changed value and sends one bare `XADD`. A read is one `HGETALL` of a prepared hash, whose values are
deserialized. The floor checks, folds and indexes nothing, and supports no other read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis
import redis.asyncio
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

__all__ = ["MOST_CONNECTIONS", "AsyncFloor", "Floor"]

MOST_CONNECTIONS = 4096
"""Most connections of the asyncio pool, more than there are conversations."""


class _Values:
    """The data that the sync and the async floor send and receive."""

    def __init__(self) -> None:
        self._serde = JsonPlusSerializer()

    def get_next_version(self, current: int | None, _channel: None) -> int:
        """Return the next version, as the base class of LangGraph does."""
        return 1 if current is None else current + 1

    def _whole(self, values: Mapping[str, Any]) -> dict[Any, Any]:
        """Return each value in the field of its channel, after its serialization format."""
        fields = {}
        for channel, value in values.items():
            kind, data = self._serde.dumps_typed(value)
            fields[channel] = kind.encode() + b":" + data
        return fields

    def _writes(self, writes: Any) -> dict[Any, Any]:
        fields = {}
        for index, (channel, value) in enumerate(writes):
            kind, data = self._serde.dumps_typed(value)
            fields[f"{index}:{channel}"] = kind.encode() + b":" + data
        return fields

    def _values(self, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
        values = {}
        for channel, stored in fields.items():
            kind, _, data = stored.partition(b":")
            values[channel.decode()] = self._serde.loads_typed((kind.decode(), data))
        return values


def _changed(checkpoint: Any, new_versions: Any) -> dict[str, Any]:
    values = checkpoint["channel_values"]
    return {channel: values[channel] for channel in new_versions if channel in values}


def _log(config: Any) -> str:
    return f"floor:{config['configurable']['thread_id']}"


def _hash(config: Any) -> str:
    return f"floor:{config['configurable']['thread_id']}:latest"


class Floor(_Values):
    """The sync floor, with redis-py and hiredis."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._redis: Any = redis.Redis.from_url(url)

    def prepare(self, config: Any, checkpoint: Any) -> None:
        """Make the hash that `get_tuple` reads, outside of the timed calls."""
        self._redis.delete(_hash(config))
        self._redis.hset(_hash(config), mapping=self._whole(checkpoint["channel_values"]))

    def put(self, config: Any, checkpoint: Any, _metadata: Any, new_versions: Any) -> None:
        """Send one `XADD` of the changed values."""
        self._redis.xadd(_log(config), self._whole(_changed(checkpoint, new_versions)))

    def put_writes(self, config: Any, writes: Any, _task_id: str, _task_path: str = "") -> None:
        """Send one `XADD` of the writes."""
        self._redis.xadd(_log(config), self._writes(writes))

    def get_tuple(self, config: Any) -> dict[str, Any]:
        """Send one `HGETALL`, and deserialize its values."""
        return self._values(self._redis.hgetall(_hash(config)))

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


class AsyncFloor(_Values):
    """The async floor, with redis.asyncio."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._redis: Any = redis.asyncio.Redis.from_url(url, max_connections=MOST_CONNECTIONS)

    async def prepare(self, name: str, checkpoint: Any) -> None:
        """Make a hash that conversations read, outside of the timed calls."""
        await self._redis.hset(name, mapping=self._whole(checkpoint["channel_values"]))

    async def aget_tuple(self, name: str) -> dict[str, Any]:
        """Send one `HGETALL` of a prepared hash, and deserialize its values."""
        return self._values(await self._redis.hgetall(name))

    async def aput(self, config: Any, checkpoint: Any, _metadata: Any, new_versions: Any) -> None:
        """Send one `XADD` of the changed values."""
        await self._redis.xadd(_log(config), self._whole(_changed(checkpoint, new_versions)))

    async def aput_writes(self, config: Any, writes: Any, _task_id: str, _task_path: str = "") -> None:
        """Send one `XADD` of the writes."""
        await self._redis.xadd(_log(config), self._writes(writes))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

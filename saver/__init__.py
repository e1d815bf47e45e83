"""A LangGraph checkpointer on plain Redis Streams."""

from saver.embedded import EmbeddedServer
from saver.saver import RedisStreamSaver

__all__ = ["EmbeddedServer", "RedisStreamSaver"]

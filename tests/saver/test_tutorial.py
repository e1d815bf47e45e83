"""The four ways in which LangGraph's tutorial hands a Redis connection to a checkpointer, each with a prebuilt agent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
import redis.asyncio

from saver import RedisStreamSaver
from tests.saver.agents import weather_agent
from tests.saver.conftest import Server

QUESTION = {"messages": [("human", "what's the weather in sf")]}
CONVERSATION = [
    ("human", "what's the weather in sf"),
    ("ai", ""),
    ("tool", "It's always sunny in sf"),
    ("ai", "It's sunny in sf."),
]


@pytest.fixture
async def async_pool(any_server: Server) -> AsyncIterator[redis.asyncio.ConnectionPool]:
    """An async pool, closed after the test."""
    pool = redis.asyncio.ConnectionPool.from_url(any_server.url)
    yield pool
    await pool.aclose()


def conversation(checkpoint: Any) -> list[tuple[str, str]]:
    """Who said what, as a checkpoint has it."""
    return [(message.type, message.content) for message in checkpoint["channel_values"]["messages"]]


def check_history(checkpoints: list[Any]) -> None:
    """Check that a listing shows the conversation growing: the newest checkpoint has all of it, the first none."""
    shown = [
        conversation(found.checkpoint) for found in checkpoints if "messages" in found.checkpoint["channel_values"]
    ]
    assert [CONVERSATION[:length] for length in (4, 3, 2, 1)] == shown
    assert [found.metadata["step"] for found in checkpoints] == [3, 2, 1, 0, -1]


def test_sync_pool(any_server: Server, prefix: str) -> None:
    """An agent remembers through a connection made from a sync pool."""
    config: Any = {"configurable": {"thread_id": "1"}}
    pool = redis.ConnectionPool.from_url(any_server.url)
    with redis.Redis(connection_pool=pool) as connection:
        saver = RedisStreamSaver(connection, prefix=prefix)
        answer = weather_agent(saver).invoke(QUESTION, config)
        assert answer["messages"][-1].content == "It's sunny in sf."
        assert conversation(saver.get(config)) == CONVERSATION
        check_history(list(saver.list(config)))
    pool.disconnect()


def test_sync_connection(any_server: Server, prefix: str) -> None:
    """An agent remembers through a sync connection."""
    config: Any = {"configurable": {"thread_id": "2"}}
    with redis.Redis.from_url(any_server.url) as connection:
        saver = RedisStreamSaver(connection, prefix=prefix)
        answer = weather_agent(saver).invoke(QUESTION, config)
        assert answer["messages"][-1].content == "It's sunny in sf."
        found = saver.get_tuple(config)
        assert found is not None
        assert conversation(found.checkpoint) == CONVERSATION
        check_history(list(saver.list(config)))


async def test_async_pool(async_pool: redis.asyncio.ConnectionPool, prefix: str) -> None:
    """An agent remembers through a connection made from an async pool."""
    config: Any = {"configurable": {"thread_id": "3"}}
    async with redis.asyncio.Redis(connection_pool=async_pool) as connection:
        saver = RedisStreamSaver(async_connection=connection, prefix=prefix)
        answer = await weather_agent(saver).ainvoke(QUESTION, config)
        assert answer["messages"][-1].content == "It's sunny in sf."
        assert conversation(await saver.aget(config)) == CONVERSATION
        check_history([found async for found in saver.alist(config)])


async def test_async_connection(any_server: Server, prefix: str) -> None:
    """An agent remembers through an async connection."""
    config: Any = {"configurable": {"thread_id": "4"}}
    async with redis.asyncio.Redis.from_url(any_server.url) as connection:
        saver = RedisStreamSaver(async_connection=connection, prefix=prefix)
        answer = await weather_agent(saver).ainvoke(QUESTION, config)
        assert answer["messages"][-1].content == "It's sunny in sf."
        found = await saver.aget_tuple(config)
        assert found is not None
        assert conversation(found.checkpoint) == CONVERSATION
        check_history([found async for found in saver.alist(config)])


async def test_both_connections(any_server: Server, prefix: str) -> None:
    """One saver with a connection of each kind serves `invoke` and `ainvoke` on one thread."""
    config: Any = {"configurable": {"thread_id": "5"}}
    async with redis.asyncio.Redis.from_url(any_server.url) as async_connection:
        with redis.Redis.from_url(any_server.url) as connection:
            saver = RedisStreamSaver(connection, async_connection, prefix=prefix)
            graph = weather_agent(saver)
            graph.invoke(QUESTION, config)
            assert conversation(await saver.aget(config)) == CONVERSATION
            await graph.ainvoke({"messages": [("human", "thanks")]}, config)
            thanked = [*CONVERSATION, ("human", "thanks"), ("ai", "You're welcome.")]
            assert thanked == conversation(saver.get(config))

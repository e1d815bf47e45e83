"""LangGraph's own conformance suite."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES

from saver import RedisStreamSaver
from tests.servers import Server


async def test_every_capability_conforms(server: Server, prefix: str) -> None:
    """All capabilities are there, and every test of each passes; none is skipped."""

    @checkpointer_test(name=f"RedisStreamSaver on {server.name}")
    async def opened() -> AsyncGenerator[BaseCheckpointSaver[str], None]:
        async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as saver:
            yield saver

    report = await validate(opened)
    assert {capability.value for capability in ALL_CAPABILITIES} == set(report.results)
    for name, result in report.results.items():
        assert (name, True, 0, 0) == (name, result.passed, result.tests_failed, result.tests_skipped), result.failures

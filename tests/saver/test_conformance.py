"""LangGraph's own conformance suite, and rules that versions after 0.0.2 add to it.

Its rules for delta channels are in `test_delta_history`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES

from saver import RedisStreamSaver
from tests.saver.drivers import Call
from tests.saver.threads import config, step, writes_of
from tests.servers import Server

pytestmark = pytest.mark.telling


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


async def test_nested_metadata_comes_back(saver: RedisStreamSaver, call: Call) -> None:
    """Metadata of lists and maps within each other, empty ones too, comes back as it was put."""
    nested = {
        "plan": {"steps": [{"name": "search", "tries": 2}, {"name": "read", "done": False}], "open": {}, "notes": []},
        "scores": [0.25, [1, [None, True]]],
    }
    put = await call(saver, "put", config("t"), *step({}, user=nested, label="flat"))
    for found in (
        await call(saver, "get_tuple", put),
        *await call(saver, "list", config("t"), filter={"user": nested}),
    ):
        assert (found.metadata["user"], found.metadata["label"]) == (nested, "flat")


async def test_writes_put_again_after_a_restart(server: Server, prefix: str, call: Call) -> None:
    """A task that a new process runs once more stores its writes once, and those of the first run stay."""
    writes = [("ch", "value"), ("ch", "another")]
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as saver:
        put = await call(saver, "put", config("t"), *step({"n": 1}))
        await call(saver, "put_writes", put, writes, "task")
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as saver:
        await call(saver, "put_writes", put, writes, "task")
        await call(saver, "put_writes", put, [("ch", "later"), ("ch", "another")], "task")
        assert writes_of(await call(saver, "get_tuple", put)) == [("task", *write) for write in writes]

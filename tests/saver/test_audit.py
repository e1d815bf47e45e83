"""Who did it and why: what `with audit(...)`, a config's metadata and an active span stamp on events."""

from __future__ import annotations

import asyncio
import operator
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from eventlog.attribution import audit, stamp
from eventlog.errors import InvalidArgument
from saver import RedisStreamSaver
from tests.saver.audit import Audit, config, put_of
from tests.saver.drivers import Call, call_sync
from tests.servers import Server

ROOT = Path(__file__).parents[2]
ALICE = {"actor": "alice", "reason": "refund"}


class Fan(TypedDict):
    """What several nodes add to."""

    done: Annotated[list[str], operator.add]


def stamps(server: Server, prefix: str, thread: str = "t") -> list[Any]:
    """The stamps of a thread's events."""
    with Audit(server.url, prefix) as look:
        return [getattr(one.event, "audit", None) for one in look.check(thread)]


async def test_every_event_inside_is_stamped(saver: RedisStreamSaver, call: Call, server: Server, prefix: str) -> None:
    """Puts, writes, prunings, deletions of runs and copies, with both drivers; what is outside is not."""
    await call(saver, "put", *put_of("t", 1))
    async with audit(**ALICE):
        await call(saver, "put", *put_of("t", 2, 1))
        await call(saver, "put_writes", config("t", 2), [("n", 1)], "task")
        await call(saver, "put", *put_of("t", 3, 2, run="q"))
        await call(saver, "prune", ["t"], keep_last=2)
        await call(saver, "delete_for_runs", ["q"])
        await call(saver, "copy_thread", "t", "u")
    await call(saver, "put", *put_of("t", 4))
    assert stamps(server, prefix) == [ALICE] * 3 + [
        None
    ]  # the pruning is reported by the deletion, which came after it
    assert stamps(server, prefix, "u") == [ALICE] * 4
    assert (await saver.averify("t")).sound


async def test_a_tombstone_is_stamped(saver: RedisStreamSaver, call: Call, server: Server, prefix: str) -> None:
    """The feed tells who deleted a thread."""
    await call(saver, "put", *put_of("t", 1))
    with audit(**ALICE, ticket=42):
        await call(saver, "delete_thread", "t")
    from eventlog.feed.feed import ActivityFeed

    with ActivityFeed.from_conn_string(server.url, prefix=prefix) as feed:
        *_, last = await call_sync(feed, "tail", "beginning", follow=False)
    assert (last.kind, last.audit) == ("deleted", {**ALICE, "ticket": 42})


async def test_metadata_names_actor_and_reason(
    one_saver: RedisStreamSaver, call: Call, any_server: Server, prefix: str
) -> None:
    """Of a config, where no block does; nothing else of it, and no other types."""
    named = {"metadata": {**ALICE, "ticket": 42}}
    where, *rest = put_of("t", 1)
    await call(one_saver, "put", {**where, **named}, *rest)
    await call(one_saver, "put_writes", {**config("t", 1), **named}, [("n", 1)], "task")
    where, *rest = put_of("t", 2)
    with audit(actor="bob"):
        await call(one_saver, "put", {**where, **named}, *rest)
    where, *rest = put_of("t", 3)
    await call(one_saver, "put", {**where, "metadata": {"actor": 7}}, *rest)
    marked = {**ALICE, "actor_source": "metadata", "reason_source": "metadata"}
    mixed = {"actor": "bob", "reason": "refund", "reason_source": "metadata"}
    assert stamps(any_server, prefix) == [marked, marked, mixed, None]


@pytest.mark.parametrize("name", ["actor_source", "reason_source"])
def test_a_block_cannot_set_the_mark_of_metadata(name: str) -> None:
    """Or nobody could tell a stamp of metadata from one of a block."""
    with pytest.raises(InvalidArgument, match=name):
        audit(**{name: "audit"})


@dataclass
class Silent:
    """A value that the serializer takes, and that has no text."""

    number: int = 1

    def __str__(self) -> str:
        raise RuntimeError("no text")


async def test_metadata_without_a_text_is_refused(one_saver: RedisStreamSaver, call: Call) -> None:
    """Its `__str__` may raise; the error names thread and key, and nothing is appended."""
    for key in ("thread_id", "run_id", "source", "step"):
        where, checkpoint, metadata, versions = put_of("t", 1)
        with pytest.raises(InvalidArgument, match=f"'t': metadata '{key}' has no text.*RuntimeError"):
            await call(one_saver, "put", where, checkpoint, {**metadata, key: Silent()}, versions)
    assert one_saver.get_tuple(config("t")) is None


async def test_a_call_made_again_is_the_same_whoever_makes_it(
    one_saver: RedisStreamSaver, any_server: Server, prefix: str
) -> None:
    """A put that is repeated inside another block appends nothing."""
    one_saver.put(*put_of("t", 1))
    with audit(actor="bob"):
        one_saver.put(*put_of("t", 1))
    assert stamps(any_server, prefix) == [None]


def test_blocks_add_up() -> None:
    """The inner one counts where both name a thing; after it all is as before; a block may be entered within itself."""
    outer = audit(**ALICE)
    with outer:
        with audit(actor="bob", ticket=1):
            assert stamp() == {"actor": "bob", "reason": "refund", "ticket": 1}
        with outer:
            assert stamp() == ALICE
        assert stamp() == ALICE
    assert stamp() is None
    with audit():
        assert stamp() is None


def test_an_error_ends_a_block() -> None:
    """As any other end."""
    with pytest.raises(ValueError, match="x"), audit(actor="alice"):
        raise ValueError("x")
    assert stamp() is None


async def test_tasks_and_threads_keep_apart() -> None:
    """What one task stamps does not reach another, nor a thread that does not copy its context; `to_thread` does."""

    async def task(name: str) -> Any:
        with audit(actor=name):
            await asyncio.sleep(0.01)
            return stamp(), await asyncio.to_thread(stamp)

    found = await asyncio.gather(*(task(str(number)) for number in range(5)))
    assert found == [({"actor": str(number)}, {"actor": str(number)}) for number in range(5)]
    bare: list[Any] = []
    with audit(actor="alice"):
        one = threading.Thread(target=lambda: bare.append(stamp()))
        one.start()
        one.join()
    assert bare == [None] or sys.flags.__dict__.get("thread_inherit_context")


@pytest.mark.parametrize("wrong", [{"ticket": object()}, {"ticket": (1, 2)}, {"reason": "\ud800"}, {"size": 2**70}])
def test_what_is_no_plain_data_is_refused(wrong: Any) -> None:
    """Before anything is appended."""
    with pytest.raises(InvalidArgument, match="plain data"):
        audit(**wrong)


def test_an_active_span_is_named(monkeypatch: pytest.MonkeyPatch, any_server: Server, prefix: str) -> None:
    """By OpenTelemetry's ids, as its exporters write them, if the package is in use; without a span nothing is added."""
    context = SimpleNamespace(is_valid=True, trace_id=0xABC, span_id=0x12)
    module = ModuleType("opentelemetry.trace")
    module.get_current_span = lambda: SimpleNamespace(get_span_context=lambda: context)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", module)
    span = {"trace_id": f"{0xABC:032x}", "span_id": f"{0x12:016x}"}
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver, audit(**ALICE):
        saver.put(*put_of("t", 1))
        context.is_valid = False
        saver.put(*put_of("t", 2))
    assert stamps(any_server, prefix) == [{**ALICE, **span}, ALICE]


def test_spans_of_opentelemetry_itself(any_server: Server, prefix: str) -> None:
    """The ids of the span that is active, as its own package formats them, in a process where it is in use."""
    code = """
import sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_span_id, format_trace_id
from saver import RedisStreamSaver
from tests.saver.audit import put_of

tracer = TracerProvider().get_tracer("test")
with RedisStreamSaver.from_conn_string(sys.argv[1], prefix=sys.argv[2]) as saver:
    with tracer.start_as_current_span("turn") as span:
        saver.put(*put_of("t", 1))
        context = span.get_span_context()
    saver.put(*put_of("t", 2))
print(format_trace_id(context.trace_id), format_span_id(context.span_id))
"""
    words = [sys.executable, "-c", code, any_server.url, prefix]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT)
    trace, span = done.stdout.split()
    assert stamps(any_server, prefix) == [{"trace_id": trace, "span_id": span}, None]


def test_metadata_of_an_encrypted_thread_is_no_stamp(any_server: Server, prefix: str) -> None:
    """What is encrypted as metadata does not lie in the clear as a stamp."""
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"k" * 16)
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, serde=serde) as saver:
        put: Any = put_of("t", 1)
        named: Any = {**put[0], "metadata": {"actor": "ann", "reason": "a secret"}}
        saver.put(named, *put[1:])
        with any_server.client() as client:
            (entry,) = client.xrange(saver._operations.keyspace.thread(b"t").log)
    assert b"a secret" not in b"".join(part for pair in entry[1].items() for part in pair)


def test_one_block_serves_several_threads(one_saver: RedisStreamSaver) -> None:
    """An audit object may be entered in two threads at once, and again inside itself."""
    block = audit(actor="ann")
    both = threading.Barrier(2)
    seen = []

    def use() -> None:
        with block, block:
            both.wait(10)
            seen.append(stamp())
            both.wait(10)
        seen.append(stamp())

    workers = [threading.Thread(target=use) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen == [{"actor": "ann"}] * 2 + [None] * 2


def test_an_actor_that_is_no_text_is_left_out(one_saver: RedisStreamSaver) -> None:
    """Metadata with a lone surrogate fails no put for the stamp's sake."""
    assert stamp({"actor": "\ud800", "reason": "x"}) == {"reason": "x", "reason_source": "metadata"}


async def test_parallel_tasks_are_stamped(saver: RedisStreamSaver, call: Call, server: Server, prefix: str) -> None:
    """Also where LangGraph saves a task's writes outside the context that the graph was invoked in."""

    def sleep(state: Any) -> dict[str, Any]:
        time.sleep(0.02 * state.get("turn", 1))
        return {"done": ["x"]}

    builder = StateGraph(Fan)
    builder.add_node("begin", lambda state: {"done": []})
    builder.add_node("work", sleep)
    builder.add_node("left", sleep)
    builder.add_node("right", sleep)
    builder.add_edge(START, "begin")
    builder.add_conditional_edges("begin", lambda _: [Send("work", {"turn": turn}) for turn in range(3)], ["work"])
    builder.add_edge("work", "left")
    builder.add_edge("work", "right")
    graph = builder.compile(checkpointer=saver)
    with audit(**ALICE):
        await call(graph, "invoke", {"done": []}, config("t"), durability="sync")
    told = stamps(server, prefix)
    assert len(told) > 8
    assert set(map(str, told)) == {str(ALICE)}
    await call(graph, "invoke", {"done": []}, config("t"))
    assert stamps(server, prefix)[-1] is None

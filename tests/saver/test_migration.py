"""Threads from other savers: the target answers as the source did, however often and in however many pieces they were brought."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import INTERRUPT
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from eventlog.errors import InvalidArgument
from saver import RedisStreamSaver
from saver.migration.migrate import Difference, Progress, acompare, amigrate, compare, migrate
from saver.migration.opening import open_source
from tests.saver.audit import Audit
from tests.saver.cli.commands import Agentlog
from tests.saver.threads import config, step
from tests.servers import Server

Open = Callable[[], Any]


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    items: list[str]


def add_all(before: list[str], writes: list[list[str]]) -> list[str]:
    return [*before, *(item for write in writes for item in write)]


class Deltas(TypedDict):
    log: Annotated[list[str], DeltaChannel(add_all, snapshot_frequency=3)]


def branching(saver: Any) -> Any:
    """A graph with parallel branches, Send, a subgraph and an interrupt."""
    inner = StateGraph(State)
    inner.add_node("inside", lambda state: {"log": ["inside"]})
    inner.add_node("ask", lambda state: {"log": [interrupt("go on?")]})
    inner.add_edge(START, "inside")
    inner.add_edge("inside", "ask")
    builder = StateGraph(State)
    builder.add_node("z", lambda state: {"log": ["z"]})
    builder.add_node("a", lambda state: {"log": ["a"]})
    builder.add_node("each", lambda item: {"log": [f"each {item}"]})
    builder.add_node("sub", inner.compile())
    builder.add_edge(START, "z")
    builder.add_edge(START, "a")
    builder.add_conditional_edges("a", lambda state: [Send("each", item) for item in state.get("items", ())])
    builder.add_edge("each", "sub")
    builder.add_edge("sub", END)
    return builder.compile(checkpointer=saver)


def counting(saver: Any) -> Any:
    """A graph with a delta channel."""
    builder = StateGraph(Deltas)
    builder.add_node("count", lambda state: {"log": [f"{len(state['log'])}"]})
    builder.add_edge(START, "count")
    builder.add_conditional_edges("count", lambda state: "count" if len(state["log"]) < 10 else END)
    return builder.compile(checkpointer=saver)


def chatting(saver: Any) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("answer", lambda state: {"messages": [AIMessage("yes", id=f"m{len(state['messages'])}")]})
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=saver)


def fill(saver: BaseCheckpointSaver[Any]) -> None:
    """Threads of all kinds: with forks, updates, interrupts that wait, and one that failed."""
    graph = branching(saver)
    for thread in ("waits", "goes on", "forks"):
        graph.invoke({"log": [thread], "items": ["1", "2", "3"]}, config(thread))
    graph.invoke(Command(resume="yes"), config("goes on"))
    graph.update_state(config("forks"), {"log": ["by hand"]}, as_node="a")
    past = list(graph.get_state_history(config("goes on")))[2]
    graph.invoke(None, past.config)
    graph.update_state(past.config, {"log": ["another way"]}, as_node="each")
    counting(saver).invoke({"log": ["begun"]}, config("deltas"))
    chat = chatting(saver)
    for number in range(6):
        chat.invoke({"messages": [("human", f"{number}: " + "words " * 30)]}, config("chat *:[{é"))


@contextlib.contextmanager
def memory(_: Path, __: Server) -> Iterator[Any]:
    yield InMemorySaver()


@contextlib.contextmanager
def sqlite(folder: Path, _: Server) -> Iterator[Any]:
    with SqliteSaver.from_conn_string(str(folder / "checkpoints.sqlite")) as saver:
        yield saver


@contextlib.contextmanager
def postgres(url: str, _: Any = None) -> Iterator[Any]:
    from langgraph.checkpoint.postgres import PostgresSaver

    with PostgresSaver.from_conn_string(url) as saver:
        saver.setup()
        yield saver


@contextlib.contextmanager
def plainredis(_: Path, server: Server) -> Iterator[Any]:
    package = pytest.importorskip("langgraph_checkpoint_plainredis")
    import redis

    with contextlib.closing(redis.Redis.from_url(f"{server.url.rstrip('/')}", protocol=2)) as client:
        yield package.RedisSaver(client, prefix=f"plain{os.getpid()}")
        for key in client.scan_iter(f"plain{os.getpid()}:*"):
            client.delete(key)


@contextlib.contextmanager
def valkey(_: Path, server: Server) -> Iterator[Any]:
    package = pytest.importorskip("langgraph_checkpoint_aws")
    from valkey import Valkey

    with contextlib.closing(Valkey.from_url(server.url)) as client:
        yield package.ValkeySaver(client)
        for name in ("thread:{*", "checkpoint:{*", "writes:{*"):
            for key in client.scan_iter(name):
                client.delete(key)


@contextlib.contextmanager
def own(_: Path, server: Server) -> Iterator[Any]:
    with RedisStreamSaver.from_conn_string(server.url, prefix=f"own{os.getpid()}", partitions=3) as saver:
        yield saver
        saver.prune([info.thread_id for info in saver.threads()], strategy="delete")


KINDS = [memory, sqlite, postgres, plainredis, valkey, own]


@pytest.fixture(params=[sqlite, postgres], ids=["sqlite", "postgres"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with threads, as `open_source` and `agentlog migrate` take it."""
    if request.param is sqlite:
        url = f"sqlite:///{tmp_path / 'checkpoints.sqlite'}"
        opened = SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite"))
    else:
        url = request.getfixturevalue("postgres_url")
        opened = postgres(url)
    with opened as saver:
        fill(saver)
    return url


@pytest.fixture(params=KINDS, ids=[kind.__name__ for kind in KINDS])
def source(request: pytest.FixtureRequest, tmp_path: Path, any_server: Server) -> Iterator[Any]:
    """Each saver that threads can come from, with some."""
    place = request.getfixturevalue("postgres_url") if request.param is postgres else tmp_path
    with request.param(place, any_server) as saver:
        fill(saver)
        yield saver


def told(saver: Any, thread: str) -> list[Any]:
    """What a saver lists of a thread, without what does not compare."""
    namespaces = {
        one.config["configurable"]["checkpoint_ns"] for one in saver.list({"configurable": {"thread_id": thread}})
    }
    return [
        (found.config["configurable"], found.checkpoint, found.metadata, found.parent_config, found.pending_writes)
        for namespace in sorted(namespaces)
        for found in saver.list(config(thread, namespace))
    ]


def test_the_target_answers_as_the_source(source: Any, one_saver: RedisStreamSaver) -> None:
    """Forks, interrupts that wait, subgraphs, Send, delta channels: both say the same, and a graph goes on as it would have."""
    done = migrate(source, one_saver)
    assert done.ok, done.differences
    assert done.threads == 5
    assert done.checkpoints == done.compared > 40
    assert done.writes > 60
    for thread in ("waits", "chat *:[{é"):
        assert told(one_saver, thread) == told(source, thread) or not isinstance(source, InMemorySaver)
    again = migrate(source, one_saver)
    assert again.ok
    assert (again.checkpoints, again.writes, again.present) == (0, 0, done.checkpoints)
    assert counting(one_saver).get_state(config("deltas")).values == counting(source).get_state(config("deltas")).values
    answers = [branching(saver).invoke(Command(resume="yes"), config("waits")) for saver in (source, one_saver)]
    assert answers[0] == answers[1]


def test_nothing_is_appended_twice(one_saver: RedisStreamSaver, any_server: Server, prefix: str) -> None:
    """A migration that is made again leaves every log as it is, and the views are right."""
    source = InMemorySaver()
    fill(source)
    migrate(source, one_saver)
    with Audit(any_server.url, prefix) as audit:
        before = audit.outline("waits", "goes on", "forks", "deltas")
        migrate(source, one_saver)
        assert audit.outline("waits", "goes on", "forks", "deltas") == before
    for thread in ("waits", "goes on", "forks", "deltas"):
        assert one_saver.check(thread).ok


@contextlib.asynccontextmanager
async def opened_async(url: str) -> AsyncIterator[Any]:
    """The saver with async methods on a database."""
    if url.startswith("sqlite:///"):
        async with AsyncSqliteSaver.from_conn_string(url.removeprefix("sqlite:///")) as saver:
            yield saver
    else:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        async with AsyncPostgresSaver.from_conn_string(url) as saver:
            yield saver


async def test_async_sources(stored: str, one_saver: RedisStreamSaver) -> None:
    """A source with async methods only, and a sync one from a loop."""
    async with opened_async(stored) as source:
        done = await amigrate(source, one_saver, threads=["waits", "deltas"])
        assert done.ok, done.differences
        with pytest.raises(TypeError, match="amigrate"):
            migrate(source, one_saver)
    with open_source(stored) as source_:
        done = await amigrate(source_, one_saver)
        assert done.ok, done.differences
        assert done.threads == 5
        assert (await acompare(source_, one_saver)).compared == done.compared


def test_the_command_line_takes_a_database(
    stored: str, any_server: Server, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`agentlog migrate` copies all of it, again without adding anything, and `--verify-only` finds no difference."""
    agentlog = Agentlog(any_server.url, prefix, capsys)
    assert agentlog("migrate", "--from", stored, "--verify-only").code == 1
    for words in ([], [], ["--verify-only"]):
        done = agentlog("migrate", "--from", stored, *words)
        assert (done.code, "differ" in done.err + done.out) == (0, True), done.err
    with Audit(any_server.url, prefix) as audit, open_source(stored) as source:
        before = audit.outline("waits", "goes on", "forks", "deltas")
        assert agentlog("migrate", "--from", stored).code == 0
        assert audit.outline("waits", "goes on", "forks", "deltas") == before
        with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver:
            assert (
                counting(saver).get_state(config("deltas")).values
                == counting(source).get_state(config("deltas")).values
            )


@pytest.mark.parametrize("kind", [int, float, str])
def test_versions_of_all_types(kind: Any, one_saver: RedisStreamSaver) -> None:
    """Versions that are numbers or texts, channels without a value, a parent that is gone, values of odd types."""
    source = InMemorySaver()
    parent: Any = "gone"
    for number in range(1, 30):
        checkpoint, metadata, _ = step({"x": (number // 3, {number}), "y": b"y", "none": None}, step=number)
        checkpoint["channel_versions"] = {
            "x": kind(number // 3 + 1),
            "y": kind(1),
            "none": kind(2),
            "empty": kind(number),
        }
        new = checkpoint["channel_versions"] if number == 1 else {"empty": kind(number), "x": kind(number // 3 + 1)}
        source.put(config("t", "", parent), checkpoint, metadata, new)
        parent = checkpoint["id"]
    done = migrate(source, one_saver)
    assert done.ok, done.differences
    assert told(one_saver, "t") == told(source, "t")


def test_places_of_writes(one_saver: RedisStreamSaver) -> None:
    """Indexes and paths of writes come along: a task that is done again after the migration adds nothing twice."""
    source = InMemorySaver()
    saved = source.put(config("t"), *step({"x": 1}))
    for saver in (source, one_saver):
        if saver is one_saver:
            assert migrate(source, one_saver).ok
        saver.put_writes(saved, [("x", "b")], "task b", "~1")
        saver.put_writes(saved, [(INTERRUPT, "?"), ("x", "late"), ("y", 1)], "task a", "~2")
        saver.put_writes(saved, [("x", "other"), ("y", "another"), ("z", 3)], "task a", "~2")
    found, expected = one_saver.get_tuple(saved), source.get_tuple(saved)
    assert found is not None
    assert expected is not None
    assert found.pending_writes == expected.pending_writes


def test_differences_are_found(one_saver: RedisStreamSaver) -> None:
    """What is otherwise on one side is reported by thread and checkpoint; comparing changes nothing; migrating mends what it can."""
    source = InMemorySaver()
    first = step({"x": 1})
    saved = source.put(config("t"), *first)
    assert compare(source, one_saver).differences[0] == Difference("t", "", first[0]["id"], "is missing")
    migrate(source, one_saver)
    source.put_writes(saved, [("x", 2)], "task")
    assert [one.what for one in compare(source, one_saver).differences] == [
        "pending writes",
        "read as the latest: pending writes",
    ]
    assert migrate(source, one_saver).ok
    one_saver.put(config("t"), {**first[0], "channel_values": {"x": 5}}, {**first[1], "step": 7}, first[2])
    found = {one.what for one in compare(source, one_saver).differences}
    assert {"value of channel 'x'", "metadata"} <= found
    assert migrate(source, one_saver).ok
    extra = one_saver.put(saved, *step({"x": 9}))
    assert [one.what for one in compare(source, one_saver).differences] == ["is not in the source"]
    assert extra["configurable"]["checkpoint_id"] == compare(source, one_saver).differences[0].checkpoint_id


def test_values_without_a_version(tmp_path: Path, one_saver: RedisStreamSaver) -> None:
    """A value that a source has under no version cannot be kept, and is reported."""
    with SqliteSaver.from_conn_string(str(tmp_path / "c.sqlite")) as source:
        checkpoint, metadata, _ = step({"x": 1})
        source.put(config("t"), {**checkpoint, "channel_values": {"x": 1, "loose": 2}}, metadata, {})
        done = migrate(source, one_saver)
    assert {one.what.partition(":")[0] for one in done.differences} == {
        "value of channel 'loose'",
        "read as the latest",
    }


def test_killed_in_the_middle(stored: str, any_server: Server, prefix: str) -> None:
    """A migration whose process was killed is completed by running it again, and by no more than what was missing."""
    words = [sys.executable, "-m", "tests.saver.migration_worker", stored, any_server.url, prefix]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        for _ in range(12):
            assert worker.stdout.readline()
        worker.kill()
    with (
        open_source(stored) as source,
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver,
    ):
        done = migrate(source, saver)
        assert done.ok, done.differences
        assert 10 <= done.present < done.compared
        assert done.present + done.checkpoints >= done.compared


def test_what_cannot_be_migrated(one_saver: RedisStreamSaver) -> None:
    """A saver that does not tell its threads, a thread that is not there, a target that is the source."""

    class Silent(BaseCheckpointSaver[str]):
        def list(self, *args: Any, **options: Any) -> Iterator[Any]:
            return iter(())

    with pytest.raises(InvalidArgument, match="Silent does not list"):
        migrate(Silent(), one_saver)
    with pytest.raises(InvalidArgument, match="no thread 'nobody'"):
        migrate(InMemorySaver(), one_saver, threads=["nobody"])
    with pytest.raises(InvalidArgument, match="same saver"):
        migrate(one_saver, one_saver)
    with pytest.raises(TypeError, match="threads must be a list"):
        migrate(InMemorySaver(), one_saver, threads="t")


def test_any_other_saver(one_saver: RedisStreamSaver) -> None:
    """A saver that nothing is known of is asked by what all have; its writes come in its order."""
    inner = InMemorySaver()
    fill(inner)

    class Other(BaseCheckpointSaver[Any]):
        def list(self, *args: Any, **options: Any) -> Iterator[Any]:
            return inner.list(*args, **options)

        def get_tuple(self, config: Any) -> Any:
            return inner.get_tuple(config)

    done = migrate(Other(serde=inner.serde), one_saver)
    assert done.ok, done.differences
    assert done.threads == 5


async def test_any_other_async_saver(one_saver: RedisStreamSaver) -> None:
    """A saver of an unknown kind with async methods alone is read on its event loop, where progress is reported too."""
    inner = InMemorySaver()
    fill(inner)
    loop = asyncio.get_running_loop()

    class Other(BaseCheckpointSaver[Any]):
        async def alist(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
            assert asyncio.get_running_loop() is loop
            async for found in inner.alist(*args, **options):
                yield found

        async def aget_tuple(self, config: Any) -> Any:
            assert asyncio.get_running_loop() is loop
            return await inner.aget_tuple(config)

    steps: list[Progress] = []
    other = Other(serde=inner.serde)
    done = await amigrate(
        other, one_saver, progress=lambda step: steps.append(step) if asyncio.get_running_loop() is loop else None
    )
    assert done.ok, done.differences
    assert (steps[-1].threads, steps[-1].of, done.threads) == (5, 5, 5)
    assert len(steps) == done.checkpoints + done.compared
    with pytest.raises(TypeError, match="amigrate"):
        migrate(other, one_saver)


async def test_a_source_that_answers_by_threads(one_saver: RedisStreamSaver) -> None:
    """A source may need the loop's shared threads to answer, however few there are: a migration waits in none of them."""
    inner = InMemorySaver()
    fill(inner)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))

    class Other(BaseCheckpointSaver[Any]):
        async def alist(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
            for found in await asyncio.to_thread(lambda: list(inner.list(*args, **options))):
                yield found

        async def aget_tuple(self, config: Any) -> Any:
            return await asyncio.to_thread(inner.get_tuple, config)

    done = await asyncio.wait_for(amigrate(Other(serde=inner.serde), one_saver), 60)
    assert done.ok, done.differences
    assert done.threads == 5


def test_another_thread_of_the_same_id_is_left_alone(one_saver: RedisStreamSaver) -> None:
    """Two histories are not mixed: it is reported, and nothing is written."""
    source = InMemorySaver()
    for thread in ("42", "43"):
        source.put(config(thread), *step({"n": thread}))
    one_saver.put(config("42"), *step({"n": "mine"}))
    before = list(one_saver.list(config("42")))
    done = migrate(source, one_saver)
    (difference,) = done.differences
    assert (difference.thread_id, done.ok, done.checkpoints) == ("42", False, 1)
    assert "nothing was copied" in difference.what
    assert list(one_saver.list(config("42"))) == before


def test_a_query_of_a_hostile_file_can_be_interrupted(tmp_path: Path) -> None:
    """A file whose pages lead back to each other gives a query without end, which Ctrl-C ends."""
    path = tmp_path / "c.sqlite"
    with SqliteSaver.from_conn_string(str(path)) as made:
        made.setup()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(KeyboardInterrupt), open_source(f"sqlite:///{path}") as source:
        late = threading.Timer(20, source.conn.interrupt)  # type: ignore[attr-defined]
        late.start()
        threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
        try:
            source.conn.execute(endless)  # type: ignore[attr-defined]
        finally:
            is_late = not late.is_alive()
            late.cancel()
    assert not is_late

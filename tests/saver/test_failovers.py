"""Graphs that run while servers lose events: a primary fails over to a replica that is behind, or restarts empty.

Each conversation repeats turns of a graph. A state that it reads must be one that the graph had, a turn that was acknowledged must
not vanish unannounced, and after an error the next turn must go through.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from operator import add
from pathlib import Path
from typing import Annotated, Any

import pytest
import redis
from langgraph.graph import END, START, StateGraph
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from typing_extensions import TypedDict

from eventlog.errors import LogRolledBack, ServerError
from saver import RedisStreamSaver
from tests.saver.threads import config
from tests.servers import RunningServer, free_ports, launch

SERVER, SENTINEL = (shutil.which(name, path="/usr/bin") for name in ("redis-server", "redis-sentinel"))
THREADS = 6
PROMOTIONS = 20
SERVICE = "mymaster"
PATIENCE = 60
"""Seconds after which a test that waits gives up."""
OPTIONS: dict[str, Any] = {"socket_timeout": 0.5, "retry": Retry(ConstantBackoff(0.05), 1)}

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(SERVER is None or SENTINEL is None, reason="needs redis-server and redis-sentinel in /usr/bin"),
]


class State(TypedDict, total=False):
    """A counter, and channels that change in some turns only, so that a mixture of two states shows."""

    asked: int
    n: int
    who: str
    said: Annotated[list[str], add]
    seen: int
    third: int
    fourth: str


def state_of(values: Any) -> str:
    """A state without the question, which the graph does not make."""
    return repr(sorted((name, value) for name, value in values.items() if name != "asked"))


class Conversation:
    """A thread on which turn follows turn: what its states were, and what went wrong."""

    def __init__(self, saver: RedisStreamSaver, thread: str) -> None:
        self.config = config(thread)
        self.turns = 0
        self.losses = 0
        self.wrong: list[str] = []
        self._thread = thread
        self._had = {state_of({})}
        self._acknowledged = 0
        builder = StateGraph(State)
        builder.add_node("first", self._first)
        builder.add_node("second", self._second)
        builder.add_edge(START, "first")
        builder.add_edge("first", "second")
        builder.add_edge("second", END)
        self.graph = builder.compile(checkpointer=saver)

    def _first(self, state: State) -> State:
        self._check("a run began with", state)
        n = state.get("n", 0) + 1
        made: State = {"n": n, "said": [f"{n}: " + "x" * 60]}
        if "who" not in state:
            made["who"] = self._thread
        if n % 3 == 0:
            made["third"] = n
        return self._made(state, made)

    def _second(self, state: State) -> State:
        self._check("a run went on with", state)
        n = state["n"]
        return self._made(state, {"seen": n, "fourth": "y" * 300 + str(n)} if n % 4 == 0 else {"seen": n})

    def _made(self, state: State, changes: State) -> State:
        after = {**state, **changes, "said": [*state.get("said", []), *changes.get("said", [])]}
        self._had.add(state_of(after))
        return changes

    def _check(self, what: str, state: Any) -> None:
        # LangGraph gives a channel with a reducer its empty value before it was written.
        values = {name: value for name, value in state.items() if (name, value) != ("said", [])}
        if state_of(values) not in self._had:
            self.wrong.append(f"{self._thread}: {what} a state that never was: {values}")

    def read(self, values: Any) -> None:
        """Checks a state that was read back."""
        self._check("it read", values)

    def done(self, values: Any) -> None:
        """Checks the state after a turn that was acknowledged."""
        self.read(values)
        if values["n"] <= self._acknowledged:
            self.wrong.append(f"{self._thread}: turn {self._acknowledged} was lost unannounced, this is {values['n']}")
        self._acknowledged = values["n"]
        self.turns += 1

    def failed(self, error: Exception) -> None:
        """Checks an error."""
        if not isinstance(error, ServerError):
            self.wrong.append(f"{self._thread}: {error!r}")
        self.losses += isinstance(error, LogRolledBack)
        self._acknowledged = 0  # of two calls that fail at once, LangGraph raises the error of one


def converse(one: Conversation, is_over: threading.Event) -> None:
    """Turns of a conversation, sync."""
    while not is_over.is_set():
        try:
            one.done(one.graph.invoke({"asked": one.turns}, one.config))
            one.read(one.graph.get_state(one.config).values)
        except Exception as error:
            one.failed(error)
        time.sleep(0.01)


async def aconverse(one: Conversation, is_over: threading.Event) -> None:
    """Turns of a conversation, async."""
    while not is_over.is_set():
        try:
            one.done(await one.graph.ainvoke({"asked": one.turns}, one.config))
            one.read((await one.graph.aget_state(one.config)).values)
        except Exception as error:
            one.failed(error)
        await asyncio.sleep(0.01)


@contextmanager
def conversations(saver: RedisStreamSaver) -> Iterator[list[Conversation]]:
    """Conversations that go on until the block ends, half of them sync and half of them async."""
    every = [Conversation(saver, f"thread {number}") for number in range(THREADS)]
    is_over = threading.Event()

    async def all_async() -> None:
        await asyncio.gather(*(aconverse(one, is_over) for one in every[THREADS // 2 :]))

    workers = [threading.Thread(target=converse, args=(one, is_over)) for one in every[: THREADS // 2]]
    workers.append(threading.Thread(target=lambda: asyncio.run(all_async())))
    for worker in workers:
        worker.start()
    try:
        yield every
    finally:
        is_over.set()
        for worker in workers:
            worker.join()
    assert not [wrong for one in every for wrong in one.wrong]


def until(what: str, is_so: Callable[[], object]) -> None:
    """Waits until something is so."""
    end = time.monotonic() + PATIENCE
    while True:
        with suppress(redis.RedisError):
            if is_so():
                return
        assert time.monotonic() < end, f"gave up waiting until {what}"
        time.sleep(0.01)


def go_on(every: list[Conversation]) -> None:
    """Waits until each conversation had two more turns: what was read for the last of them was read in this time."""
    before = [one.turns for one in every]
    until(
        "each thread had more turns",
        lambda: all(one.turns >= turns + 2 for one, turns in zip(every, before, strict=True)),
    )


class Pair:
    """A primary and its replica, which a Sentinel watches. Under load it may promote the replica unasked."""

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        first, second, port = free_ports(3)
        quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        self._servers = {one: launch(Path(str(SERVER)), *quick, dir=directory, port=one) for one in (first, second)}
        for server in self._servers.values():
            self._stack.callback(server.stop)
        self._ask(self._servers[second], "REPLICAOF", "127.0.0.1", first)
        settings = directory / "sentinel.conf"
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor {SERVICE} 127.0.0.1 {first} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 1000\nsentinel failover-timeout {SERVICE} 2000\n"
        )
        process = subprocess.Popen([str(SENTINEL), settings], stdout=subprocess.DEVNULL, cwd=directory)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self.url = f"redis+sentinel://127.0.0.1:{port}/{SERVICE}"
        self._sentinel: Any = self._stack.enter_context(redis.Redis(port=port, decode_responses=True))
        until("the Sentinel answers", self._sentinel.ping)
        with suppress(redis.ResponseError):  # before Redis 7 a Sentinel takes its time
            for period, ms in (("INFO-PERIOD", 100), ("PUBLISH-PERIOD", 100), ("PING-PERIOD", 300)):
                self._sentinel.execute_command("SENTINEL", "DEBUG", period, ms)
        until("the Sentinel knows the replica", lambda: self._sentinel.sentinel_slaves(SERVICE))
        self._until_synced()

    def close(self) -> None:
        """Ends all processes."""
        self._stack.close()

    def _roles(self) -> tuple[RunningServer, RunningServer]:
        """The primary, as the Sentinel has it, and the other server."""
        port = self._sentinel.sentinel_get_master_addr_by_name(SERVICE)[1]
        (other,) = self._servers.keys() - {port}
        return self._servers[port], self._servers[other]

    def _ask(self, server: RunningServer, *command: Any) -> Any:
        with server.client(retry=None) as client:
            return client.execute_command(*command)

    def _link(self, server: RunningServer) -> tuple[Any, Any]:
        """The port that a replica follows, and whether its link is up."""
        with server.client(retry=None) as client:
            found: Any = client.info("replication")
        return found.get("master_port"), found.get("master_link_status")

    def _until_synced(self) -> None:
        def is_synced() -> bool:
            primary, replica = self._roles()
            return self._link(replica) == (primary.port, "up")

        until("the replica follows the primary", is_synced)

    def part(self) -> None:
        """Lets the replica fall behind: it cannot connect to the primary again."""
        primary, replica = self._roles()
        self._ask(replica, "CONFIG", "SET", "masteruser", "nobody", "masterauth", "wrong")
        self._ask(primary, "CLIENT", "KILL", "TYPE", "replica")
        until("the replica is apart", lambda: self._link(replica)[1] == "down")

    def fail_over(self, how: str) -> None:
        """Lets the Sentinel promote the replica, and make the old primary its replica."""
        old, new = self._roles()
        if how == "kill":
            old.kill()
        elif how == "freeze":
            os.kill(old.pid, signal.SIGSTOP)
        else:
            until("the Sentinel begins", lambda: self._sentinel.sentinel_failover(SERVICE))
        until("the Sentinel promotes the replica", lambda: self._roles() == (new, old))
        if how == "kill":
            old.start()
        elif how == "freeze":
            os.kill(old.pid, signal.SIGCONT)
        self._ask(new, "CONFIG", "SET", "masteruser", "", "masterauth", "")
        self._until_synced()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two servers and a Sentinel."""
    made = Pair(tmp_path)
    yield made
    made.close()


def test_promotions(pair: Pair, prefix: str) -> None:
    """Replicas that are behind are promoted again and again: nothing is torn, each loss is announced, each thread goes on."""
    ways = ("ask", "kill", "ask", "ask", "freeze", "ask", "ask")
    with RedisStreamSaver.from_conn_string(pair.url, prefix=prefix, **OPTIONS) as saver:
        with conversations(saver) as every:
            go_on(every)
            for number in range(PROMOTIONS):
                losses = sum(one.losses for one in every)
                pair.part()
                go_on(every)
                pair.fail_over(ways[number % len(ways)])
                go_on(every)
                assert sum(one.losses for one in every) > losses, f"promotion {number}"
        for one in every:
            assert saver.check(one.config["configurable"]["thread_id"]).ok


def test_a_restart_without_data(tmp_path: Path, prefix: str) -> None:
    """A server without persistence restarts under a run: the loss is announced, and each thread begins again."""
    server = launch(Path(str(SERVER)), dir=tmp_path)
    try:
        with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, **OPTIONS) as saver:
            with conversations(saver) as every:
                go_on(every)
                for number in range(3):
                    losses = sum(one.losses for one in every)
                    server.kill()
                    server.start()
                    go_on(every)
                    assert sum(one.losses for one in every) > losses, f"restart {number}"
            for one in every:
                assert saver.check(one.config["configurable"]["thread_id"]).ok
    finally:
        server.stop()

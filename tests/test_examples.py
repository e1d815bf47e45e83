"""The examples in scripts/examples, run as their readers run them."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from eventlog import ActivityFeed
from saver import RedisStreamSaver
from scripts.examples import usage
from tests.postgres import ABSENT, has_driver
from tests.saver.audit import put_of
from tests.servers import RunningServer, Server

ROOT = Path(__file__).parent.parent


def talk(saver: RedisStreamSaver, thread: str, user: str, turns: int) -> None:
    """Hold a conversation of a user in which each answer takes ten tokens."""

    def answer(state: MessagesState) -> dict[str, Any]:
        usage: Any = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
        return {"messages": [AIMessage("yes", usage_metadata=usage)]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    graph = builder.compile(checkpointer=saver)
    config: Any = {"configurable": {"thread_id": thread}, "metadata": {"user_id": user}}
    for _ in range(turns):
        graph.invoke({"messages": [HumanMessage("well?")]}, config)


def test_usage_counts_steps_and_tokens_per_user(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """Steps and tokens of each user are counted once, over several runs and a rebuild."""
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver,
        ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed,
    ):
        database = usage.connect(tmp_path / "usage.db")
        talk(saver, "1", "ann", 2)
        usage.Usage(database, saver, usage.serving(database)).catch_up(feed)
        talk(saver, "2", "bob", 1)
        talk(saver, "1", "ann", 1)
        usage.Usage(database, saver, usage.serving(database)).catch_up(feed)
        wanted = [("ann", 3, 30), ("bob", 1, 10)]
        assert usage.table(database) == wanted
        usage.rebuild(database, saver, feed)
        assert usage.table(database) == wanted
        assert usage.serving(database) == 2


def test_usage_is_killed_between_any_two_statements_and_counts_once(
    any_server: Server, prefix: str, tmp_path: Path
) -> None:
    """A fold that is killed halfway leaves the table unchanged."""
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver,
        ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed,
    ):
        talk(saver, "1", "ann", 2)
        database = usage.connect(tmp_path / "usage.db")

        class Dies(usage.Usage):
            left = 3

            def _add(self, *args: Any, **options: Any) -> None:
                super()._add(*args, **options)
                Dies.left -= 1
                if not Dies.left:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Dies(database, saver, 1).catch_up(feed)
        database.close()
        again = usage.connect(tmp_path / "usage.db")
        assert usage.table(again) == []
        usage.Usage(again, saver, 1).catch_up(feed)
        assert usage.table(again) == [("ann", 2, 20)]


def test_usage_knows_the_user_of_writes_before_the_first_checkpoint(
    any_server: Server, prefix: str, tmp_path: Path
) -> None:
    """Tokens of writes before their thread's first checkpoint count for its user."""
    message = AIMessage("yes", usage_metadata={"input_tokens": 7, "output_tokens": 3, "total_tokens": 10})
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver,
        ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed,
    ):
        config, checkpoint, metadata, versions = put_of("1", 1, None)
        early: Any = {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}
        saver.put_writes(early, [("messages", [message])], "task")
        named: Any = {**metadata, "user_id": "ann"}
        saver.put(config, checkpoint, named, versions)
        database = usage.connect(tmp_path / "usage.db")
        usage.Usage(database, saver, usage.serving(database)).catch_up(feed)
        assert [(user, tokens) for user, _, tokens in usage.table(database)] == [("ann", 10)]


def test_usage_leaves_a_replaced_generation_alone(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """A fold that a rebuild overtakes changes nothing."""
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver,
        ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed,
    ):
        talk(saver, "1", "ann", 1)
        database = usage.connect(tmp_path / "usage.db")
        overtaken = usage.Usage(database, saver, usage.serving(database))
        usage.rebuild(database, saver, feed)
        tail = feed.tail("beginning", kinds=usage.Usage.kinds, follow=False)
        activities = list(tail)
        with pytest.raises(usage.Replaced):
            overtaken.fold(activities, tail.position)
    assert database.execute("SELECT * FROM usage").fetchall() == [(2, "1", "ann", 1, 10)]


def test_usage_runs_from_the_command_line(any_server: Server, tmp_path: Path) -> None:
    """The script prints a table and leaves a database."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/examples/usage.py", any_server.url, tmp_path / "usage.db"],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sqlite3.connect(tmp_path / "usage.db").execute("SELECT count(*) FROM generations").fetchone() == (1,)


def test_billing_charges_each_step_once(
    postgres_url: str, private_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    """Two workers, one of them killed within a charge, charge each checkpoint once."""
    import psycopg

    url = private_server().url
    threads = [f"thread {number}" for number in range(12)]
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, str(ROOT / "scripts/examples/billing.py"), url, postgres_url, name]
        with (tmp_path / name).open("wb") as log:
            started.append(subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log))
        return started[-1]

    def put(saver: RedisStreamSaver, steps: range) -> None:
        for number in steps:
            for thread in threads:
                saver.put(*put_of(thread, number, number - 1 or None))

    def eventually(condition: Callable[[], object], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, [path.read_text() for path in tmp_path.iterdir()]
            time.sleep(0.02)

    with (
        RedisStreamSaver.from_conn_string(url) as saver,
        ActivityFeed.from_conn_string(url) as feed,
        psycopg.connect(postgres_url, autocommit=True) as database,
    ):
        group = feed.group("billing", kinds="checkpoint")

        def count(query: str) -> int:
            return int(database.execute(query.encode()).fetchone()[0])  # type: ignore[index]

        try:
            first, second = start("worker-1"), start("worker-2")
            put(saver, range(1, 3))
            group.register()
            eventually(lambda: sorted(Counter(one.member for one in group.lag().partitions).values()) == [8, 8])
            eventually(lambda: count("SELECT count(*) FROM charges") == 2 * len(threads))
            with database.transaction():
                database.execute("LOCK TABLE charges IN EXCLUSIVE MODE")
                put(saver, range(3, 8))
                # Both are now within a charge, and the killed one has not committed it.
                eventually(lambda: count("SELECT count(*) FROM pg_locks WHERE NOT granted") == 2)
                first.kill()
                first.wait()
            put(saver, range(8, 11))
            eventually(lambda: count("SELECT count(*) FROM charges") >= 10 * len(threads))
            second.terminate()
            assert second.wait(30) == 0
        finally:
            for process in started:
                process.kill()
                process.wait()
        rows = database.execute("SELECT thread, sequence, count(*) FROM charges GROUP BY thread, sequence").fetchall()
        assert (group.lag().pending, group.parked()) == (0, [])
    assert {(thread, sequence) for thread, sequence, _ in rows} == {(t, n) for t in threads for n in range(1, 11)}
    assert {count for *_, count in rows} == {1}


@pytest.mark.server
@pytest.mark.parametrize("script", sorted((ROOT / "scripts/examples").glob("*.py")), ids=lambda path: path.name)
def test_every_example_has_a_help_text(script: Path) -> None:
    """`--help` of each example names its file."""
    if "billing" in script.name and not has_driver():
        pytest.skip(ABSENT)
    done = subprocess.run(
        [sys.executable, script, "--help"],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert script.name in done.stdout

"""LangGraph's own server, `langgraph dev`, on this saver: driven over HTTP, and looked at through a saver of the test's own.

The in-memory runtime takes the custom checkpointer that `langgraph.json` names: no environment variable, no licence. It wraps the
saver in an adapter (`langgraph_api._checkpointer._adapter`) that calls `aput`, `aput_writes`, `aget_tuple`, `aget`, `alist`,
`adelete_thread`, `adelete_for_runs` and `acopy_thread`, and chooses channel versions itself. Threads and runs are rows of its own.
A call that blocked its event loop would fail the run, since the server watches for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langgraph.types import Command
from langgraph_sdk import get_sync_client
from langgraph_sdk.errors import NotFoundError

from saver import RedisStreamSaver
from tests.saver.audit import Audit
from tests.saver.dev_server import AVAILABLE, DevServer, write_project
from tests.saver.served_graphs import nested_approval
from tests.saver.threads import config
from tests.servers import Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not AVAILABLE, reason="needs langgraph-cli[inmem], which needs Python 3.11"),
]

ASKED = ["checked 5"]
PAID = ["checked 5", "answer: yes", "paid"]


class Served:
    """A client of the server, and a saver on what the server writes to."""

    def __init__(self, dev: DevServer, server: Server, prefix: str) -> None:
        self.dev = dev
        self.prefix = prefix
        self.server = server
        self.client: Any = get_sync_client(url=dev.url)
        self.saver = RedisStreamSaver.from_conn_string(server.url, prefix=prefix)

    def close(self) -> None:
        self.client.close()
        self.saver.close()

    def asked(self) -> str:
        """A new thread whose run has stopped at its question."""
        thread = str(self.client.threads.create()["thread_id"])
        self.client.runs.wait(thread, "agent", input={"amount": 5, "log": []})
        return thread

    def paid(self) -> str:
        """A new thread whose question was answered."""
        thread = self.asked()
        self.resume(thread)
        return thread

    def resume(self, thread: str, **options: Any) -> Any:
        """The values after the answer to a thread's question."""
        return self.client.runs.wait(thread, "agent", command={"resume": "yes"}, **options)

    def history(self, thread: str) -> list[Any]:
        """What the server tells of the root's checkpoints, newest first."""
        return list(self.client.threads.get_history(thread, limit=100))

    def stored(self, thread: str) -> list[Any]:
        """Every checkpoint that is stored of a thread, in all its namespaces."""
        return list(self.saver.list({"configurable": {"thread_id": thread}}))

    def keys(self, thread: str) -> set[bytes]:
        """Every key that is named after a thread."""
        with Audit(self.server.url, self.prefix) as audit:
            return {key for key in audit.everything() if thread.encode() in key}

    def check(self, *threads: str) -> None:
        """The logs of threads are whole, and the views their folds."""
        for thread in threads:
            assert self.saver.verify(thread).findings == ()
            assert self.saver.check(thread).differences == ()


@pytest.fixture(scope="module")
def running(any_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`langgraph dev`, started once for the tests of this module."""
    home, prefix = tmp_path_factory.mktemp("served"), "t" + uuid4().hex[:8]
    write_project(home, any_server.url, prefix)
    with DevServer(home) as dev:
        served = Served(dev, any_server, prefix)
        yield served
        served.close()


@pytest.fixture
def served(running: Served) -> Iterator[Served]:
    """The running server, whose log has no error at the end of a test, and is shown if it has, or if the test fails."""
    seen = len(running.dev.log)
    yield running
    log = running.dev.log[seen:]
    print(log)
    assert "[error" not in log


def test_the_server_finds_nothing_missing(served: Served) -> None:
    """The README's configuration gives it this saver, and it warns of no method that it would have to do without."""
    assert "Using custom checkpointer: RedisStreamSaver" in served.dev.log
    assert "Custom checkpointer missing" not in served.dev.log
    assert "does not implement the expected checkpointer protocol" not in served.dev.log


def test_types_of_a_state(served: Served) -> None:
    """The server does not pass on the types of schemas. Those that `checkpointer.py` allows are read as they were written."""
    thread = str(served.client.threads.create()["thread_id"])
    for _ in range(2):
        found = served.client.runs.wait(thread, "typed", input={"parcels": []})
    assert found == {"parcels": [{"name": "after []"}, {"name": "after ['Parcel']"}]}
    assert len(served.history(thread)) > 2


def test_interrupt_and_resume(served: Served) -> None:
    """A run stops at its question and goes on with the answer; every checkpoint that the server tells of is stored."""
    thread = served.asked()
    state = served.client.threads.get_state(thread, subgraphs=True)
    assert (state["next"], [one["value"] for one in state["interrupts"]]) == (["approve"], [{"pay?": 5}])
    inner = state["tasks"][0]["state"]
    assert (inner["next"], inner["values"]["log"]) == (["ask"], ASKED)
    assert {one.config["configurable"]["checkpoint_ns"].partition(":")[0] for one in served.stored(thread)} == {
        "",
        "approve",
    }

    assert served.resume(thread)["log"] == PAID
    history = served.history(thread)
    listed = list(served.saver.list(config(thread)))
    assert [one["checkpoint"]["checkpoint_id"] for one in history] == [one.checkpoint["id"] for one in listed]
    assert [one["values"].get("log", []) for one in history] == [
        one.checkpoint["channel_values"].get("log", []) for one in listed
    ]
    assert all(one.metadata["run_id"] for one in listed)
    served.check(thread)


def test_stream(served: Served) -> None:
    """Updates and values are streamed while checkpoints are written, down to the interrupt."""
    thread = str(served.client.threads.create()["thread_id"])
    parts = served.client.runs.stream(
        thread, "agent", input={"amount": 5, "log": []}, stream_mode=["updates", "values"], stream_subgraphs=True
    )
    told = [(part.event.partition("|")[0], part.data) for part in parts]
    assert ("updates", {"check": {"log": ASKED}}) in told
    assert ("values", {"amount": 5, "log": []}) in told
    assert any("__interrupt__" in data for event, data in told if event == "updates")
    assert ASKED in [one["log"] for event, one in told if event == "values"]
    assert len(served.stored(thread)) > 2


def test_time_travel(served: Served) -> None:
    """A run from an earlier checkpoint and an update of one are forks, which the log has beside the first branch."""
    thread = served.paid()
    first = served.history(thread)
    at_question = next(one for one in first if one["next"] == ["approve"])
    again = served.client.runs.wait(
        thread, "agent", checkpoint_id=at_question["checkpoint"]["checkpoint_id"], command={"resume": "no"}
    )
    assert again["log"][-1] == "paid"

    update = served.client.threads.update_state(
        thread,
        {"amount": 7, "log": ["edited"]},
        as_node="approve",
        checkpoint_id=at_question["checkpoint"]["checkpoint_id"],
    )
    state = served.client.threads.get_state(thread)
    assert (state["values"], state["next"]) == ({"amount": 7, "log": ["edited"]}, [])
    stored = {one.checkpoint["id"]: one for one in served.saver.list(config(thread))}
    edited = stored[update["checkpoint_id"]]
    assert edited.metadata["source"] == "update"
    parent: Any = edited.parent_config
    assert parent["configurable"]["checkpoint_id"] == at_question["checkpoint"]["checkpoint_id"]
    assert {one["checkpoint"]["checkpoint_id"] for one in first} < set(stored)
    assert served.client.threads.get_state(thread, checkpoint_id=first[0]["checkpoint"]["checkpoint_id"])["values"] == {
        "amount": 5,
        "log": PAID,
    }
    served.check(thread)


def test_a_copy_is_complete_and_goes_on(served: Served) -> None:
    """The copy has every checkpoint and write of all namespaces; it is resumed, and its origin stays as it was."""
    thread = served.asked()
    copy = served.client.threads.copy(thread)["thread_id"]
    origin = served.stored(thread)
    assert [_content(one) for one in served.stored(copy)] == [_content(one) for one in origin]
    assert {one.metadata["thread_id"] for one in served.stored(copy)} == {copy}
    assert any(one.pending_writes for one in origin)
    assert served.resume(copy)["log"] == PAID
    assert served.client.threads.get_state(thread)["next"] == ["approve"]
    assert [_content(one) for one in served.stored(thread)] == [_content(one) for one in origin]
    served.check(thread, copy)


def _content(found: Any) -> Any:
    """What a checkpoint holds but for the thread it is in."""
    configs = [one and {**one["configurable"], "thread_id": ""} for one in (found.config, found.parent_config)]
    return configs, found.checkpoint, {**found.metadata, "thread_id": ""}, found.pending_writes


@pytest.mark.parametrize("how", ["delete", "prune"])
def test_nothing_is_left_of_a_deleted_thread(served: Served, how: str) -> None:
    """After a deletion no key names the thread and a read finds nothing; another thread stays."""
    thread, other = served.paid(), served.paid()
    assert len(served.keys(thread)) > 1
    if how == "delete":
        served.client.threads.delete(thread)
    else:
        assert served.client.threads.prune([thread], strategy="delete") == {"pruned_count": 1}
    assert served.keys(thread) == set()
    assert served.stored(thread) == []
    assert served.saver.get_tuple(config(thread)) is None
    assert thread not in {one.thread_id for one in served.saver.threads()}
    with pytest.raises(NotFoundError):
        served.client.threads.get(thread)
    assert served.client.threads.get_state(other)["values"]["log"] == PAID
    served.check(other)


def test_a_run_that_is_rolled_back_leaves_no_checkpoint(served: Served) -> None:
    """A run that another replaces with `rollback` has its checkpoints removed, and the thread is as if it had not been."""
    thread = str(served.client.threads.create()["thread_id"])
    served.client.runs.wait(thread, "slow", input={"seconds": 0, "done": ["before"]})
    before = served.stored(thread)
    first = served.client.runs.create(thread, "slow", input={"seconds": 600, "done": ["first"]})["run_id"]
    _until(
        lambda: [
            one
            for one in served.stored(thread)
            if "work" in str(one.checkpoint["channel_values"]) and one.metadata.get("run_id") == first
        ]
    )
    second = served.client.runs.wait(
        thread, "slow", input={"seconds": 0, "done": ["second"]}, multitask_strategy="rollback"
    )
    assert second["done"] == ["before", "begin", "work", "second", "begin", "work"]
    _until(lambda: all(one.metadata.get("run_id") != first for one in served.stored(thread)))
    kept = {one.checkpoint["id"] for one in served.stored(thread)}
    assert {one.checkpoint["id"] for one in before} < kept
    served.check(thread)


def _until(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_savers_and_the_server_take_turns(served: Served) -> None:
    """A thread that a saver begins is resumed by the server, then updated by the saver, then run by the server again."""
    graph = nested_approval(served.saver)
    thread = str(served.client.threads.create(graph_id="agent")["thread_id"])
    graph.invoke({"amount": 5, "log": []}, config(thread))
    assert served.client.threads.get_state(thread)["next"] == ["approve"]
    assert served.resume(thread)["log"] == PAID
    assert graph.get_state(config(thread)).values["log"] == PAID
    graph.update_state(config(thread), {"log": ["noted"]}, as_node="approve")
    served.client.runs.wait(thread, "agent", input={"amount": 6, "log": []})
    log = graph.invoke(Command(resume="no"), config(thread))["log"]
    assert (log[:4], log[-3:]) == ([*PAID, "noted"], ["checked 6", "answer: no", "paid"])
    served.check(thread)


def test_a_restarted_server_resumes(cluster: Server, prefix: str, tmp_path: Path) -> None:
    """A server that is asked to end does so, and another resumes the thread from what is stored, here on a cluster."""
    write_project(tmp_path, cluster.url, prefix)
    with DevServer(tmp_path) as dev:
        served = Served(dev, cluster, prefix)
        thread = served.asked()
        dev.terminate()
        assert "[error" not in dev.log
        served.close()
    with DevServer(tmp_path) as dev:
        served = Served(dev, cluster, prefix)
        served.client.threads.create(thread_id=thread, graph_id="agent", if_exists="do_nothing")
        assert served.client.threads.get_state(thread)["next"] == ["approve"]
        assert served.resume(thread)["log"] == PAID
        served.close()

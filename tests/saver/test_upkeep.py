"""Copying, pruning and deleting runs: what goes goes wholly, and what stays lacks nothing."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from eventlog.errors import InvalidArgument, ThreadExists, ThreadNotFound
from saver import RedisStreamSaver
from tests.saver.drivers import Call
from tests.saver.threads import config, follow, keys_of, keys_under, step, values_of, writes_of
from tests.servers import Server

pytestmark = pytest.mark.telling

SHARED = {b"meta", b"feed", b"threads", b"runs", b"expiries"}


async def put_line(call: Call, saver: Any, thread: str, runs: Sequence[str], ns: str = "") -> list[Any]:
    """Put a checkpoint per run, of which each changes `n` only; their configs, oldest first."""
    latest: Any = config(thread, ns)
    before = step({"kept": f"{thread} {ns}", "n": 0}, run_id=runs[0])
    configs = []
    for number, run in enumerate(runs):
        given = before if number == 0 else follow(before, {"n": number}, run_id=run)
        latest = await call(saver, "put", latest, *given)
        await call(saver, "put_writes", latest, [("n", f"write {number}")], f"task {number}")
        configs.append(latest)
        before = given
    return configs


async def seen(call: Call, saver: Any, thread: str) -> list[tuple[Any, Any, Any]]:
    """Values, writes and parents of all checkpoints of a thread, newest first."""
    found = await call(saver, "list", {"configurable": {"thread_id": thread}})
    return [
        (values_of(one), writes_of(one), one.parent_config and one.parent_config["configurable"]["checkpoint_id"])
        for one in found
    ]


async def test_delete_for_runs(saver: RedisStreamSaver, call: Call) -> None:
    """The checkpoints of a run go with their writes, on every thread and namespace; others keep the values they share."""
    for thread in ("a", "b"):
        await put_line(call, saver, thread, ["gone", "stays", "gone", "stays"])
        await put_line(call, saver, thread, ["gone", "stays"], "sub")
    await put_line(call, saver, "only gone", ["gone"])
    await put_line(call, saver, "untouched", ["stays"])
    untouched = await seen(call, saver, "untouched")
    await call(saver, "delete_for_runs", ["gone", "never was"])
    for thread in ("a", "b"):
        for ns, numbers in (("", [3, 1]), ("sub", [1])):
            found = await call(saver, "list", config(thread, ns))
            assert [values_of(one) for one in found] == [{"kept": f"{thread} {ns}", "n": number} for number in numbers]
            assert [writes_of(one) for one in found] == [[(f"task {n}", "n", f"write {n}")] for n in numbers]
            assert values_of(await call(saver, "get_tuple", config(thread, ns)))["n"] == numbers[0]
    assert await seen(call, saver, "only gone") == []
    assert await seen(call, saver, "untouched") == untouched
    assert await call(saver, "list", None, filter={"run_id": "gone"}) == []
    await call(saver, "delete_for_runs", ["gone"])
    assert len(await seen(call, saver, "a")) == 3


async def test_delete_for_no_runs(one_saver: RedisStreamSaver, call: Call) -> None:
    """No runs, and unknown ones, delete nothing; a string is not taken for its letters."""
    await put_line(call, one_saver, "t", ["r", "u", "n"])
    await call(one_saver, "delete_for_runs", [])
    await call(one_saver, "delete_for_runs", ["ru", ""])
    with pytest.raises(TypeError, match="run_ids"):
        await call(one_saver, "delete_for_runs", "run")
    assert len(await seen(call, one_saver, "t")) == 3


async def test_copy(saver: RedisStreamSaver, call: Call) -> None:
    """A copy has the complete history: every namespace, ids, parents, writes, runs and what deltas are rebuilt from."""
    configs = await put_line(call, saver, "source", ["r1", "r2", "r3"])
    await put_line(call, saver, "source", ["r1"], "sub|1")
    await call(saver, "put_writes", configs[0], [("__interrupt__", "late")], "late task")
    await call(saver, "copy_thread", "source", "copy")
    assert await seen(call, saver, "copy") == await seen(call, saver, "source")
    history = [
        await call(saver, "get_delta_channel_history", config=config(thread), channels=["n", "other"])
        for thread in ("source", "copy")
    ]
    assert history[0] == history[1]
    found = await call(saver, "get_tuple", config("copy"))
    assert found.config["configurable"]["thread_id"] == "copy"
    assert found.parent_config["configurable"]["thread_id"] == "copy"
    await call(saver, "delete_for_runs", ["r2"])
    assert len(await call(saver, "list", config("copy"))) == 2


async def test_copy_is_independent(saver: RedisStreamSaver, call: Call) -> None:
    """What happens to source or copy afterwards does not show in the other."""
    await put_line(call, saver, "source", ["r", "r"])
    await call(saver, "copy_thread", "source", "copy")
    original = await seen(call, saver, "source")
    latest = await call(saver, "get_tuple", config("copy"))
    await call(saver, "put", latest.config, *step({"n": "copy's"}))
    await call(saver, "put_writes", latest.config, [("n", "copy's")], "another")
    assert await seen(call, saver, "source") == original
    copied = await seen(call, saver, "copy")
    await call(saver, "prune", ["source"])
    assert await seen(call, saver, "copy") == copied
    await call(saver, "delete_thread", "source")
    assert await seen(call, saver, "copy") == copied
    await call(saver, "copy_thread", "copy", "source")
    assert await seen(call, saver, "source") == copied


async def metadata_threads(call: Call, saver: Any, thread: str) -> list[Any]:
    """The `thread_id` in the metadata of each checkpoint, newest first; it is the same in every way of reading."""
    listed = await call(saver, "list", config(thread))
    found = [one.metadata.get("thread_id") for one in listed]
    for one, name in zip(listed, found, strict=True):
        assert (await call(saver, "get_tuple", one.config)).metadata == one.metadata
        assert one in await call(saver, "list", config(thread), filter={"thread_id": name})
    latest = await call(saver, "get_tuple", config(thread))
    assert latest == listed[0]
    assert (
        await call(saver, "get_tuple_as_of", config(thread), datetime.now(timezone.utc) + timedelta(days=1)) == latest
    )
    events = [event for event in await call(saver, "replay", thread) if event.metadata is not None]
    assert [event.metadata.get("thread_id") for event in events] == found[::-1]
    assert [event.state.metadata.get("thread_id") for event in events] == found[::-1]
    return found


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
async def test_metadata_of_a_copy_names_the_copy(saver: RedisStreamSaver, call: Call, *, encrypted: bool) -> None:
    """A `thread_id` in metadata that was the source's is the copy's there; another thread's, or none, stays as put."""
    if encrypted:
        saver.serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
    latest: Any = config("source")
    put: list[dict[str, Any]] = [{"thread_id": "source"}, {"thread_id": "elsewhere"}, {}, {"thread_id": "source"}]
    for number, named in enumerate(put):
        latest = await call(saver, "put", latest, *step({"n": number}, **named))
    await call(saver, "copy_thread", "source", "copy")
    await call(saver, "copy_thread", "copy", "copy of a copy")
    for thread in ("source", "copy", "copy of a copy"):
        assert await metadata_threads(call, saver, thread) == [thread, None, "elsewhere", thread]
    assert await call(saver, "list", config("copy"), filter={"thread_id": "source"}) == []
    assert len(await call(saver, "list", None, filter={"thread_id": "source"})) == 2
    latest = await call(saver, "get_tuple", config("copy"))
    await call(saver, "put", latest.config, *step({"n": 9}, thread_id="source"))
    assert (await metadata_threads(call, saver, "copy"))[:2] == ["source", "copy"]
    assert (await call(saver, "verify", "copy")).sound


async def test_a_number_as_thread_id_of_metadata(one_saver: RedisStreamSaver, call: Call) -> None:
    """A thread's number in metadata is its own id: it comes back as it was put, and a copy has its own id there."""
    await call(one_saver, "put", config(7), *step({"n": 1}, thread_id=7))
    await call(one_saver, "copy_thread", "7", "copy")
    assert await metadata_threads(call, one_saver, "7") == [7]
    assert await metadata_threads(call, one_saver, "copy") == ["copy"]


async def test_copy_refused(one_saver: RedisStreamSaver, call: Call) -> None:
    """A source that is not there, a target that is, and a thread onto itself are refused, and change nothing."""
    await put_line(call, one_saver, "a", ["r"])
    await put_line(call, one_saver, "b", ["r", "r"])
    before = await seen(call, one_saver, "b")
    with pytest.raises(ThreadExists, match="'b'"):
        await call(one_saver, "copy_thread", "a", "b")
    with pytest.raises(ThreadNotFound, match="'nobody'"):
        await call(one_saver, "copy_thread", "nobody", "c")
    with pytest.raises(InvalidArgument, match="itself"):
        await call(one_saver, "copy_thread", "a", "a")
    assert await seen(call, one_saver, "b") == before
    assert await seen(call, one_saver, "c") == []


async def test_nothing_is_left_of_a_refused_copy(
    any_server: Server, prefix: str, one_saver: RedisStreamSaver, call: Call
) -> None:
    """A copy that is refused leaves no keys lying about."""
    await put_line(call, one_saver, "a", ["r"])
    await put_line(call, one_saver, "b", ["r"])
    before = keys_under(any_server, prefix)
    with pytest.raises(ThreadExists):
        await call(one_saver, "copy_thread", "a", "b")
    assert keys_under(any_server, prefix) == before


@pytest.mark.parametrize("keep", [None, 1, 2, 3, 100])
async def test_prune(one_saver: RedisStreamSaver, call: Call, keep: int | None) -> None:
    """The newest of each namespace stay, as many as asked for, with unchanged values and their writes; pruning again does nothing."""
    for ns in ("", "sub"):
        await put_line(call, one_saver, "t", ["r"] * 4, ns)
    expected = {ns: (await call(one_saver, "list", config("t", ns)))[: keep or 1] for ns in ("", "sub")}
    for _ in range(2):
        await call(one_saver, "prune", ["t", "nobody"], **({} if keep is None else {"keep_last": keep}))
        for ns, kept in expected.items():
            assert await call(one_saver, "list", config("t", ns)) == kept
            assert await call(one_saver, "get_tuple", config("t", ns)) == kept[0]


async def test_prune_frees_what_it_takes(
    any_server: Server, prefix: str, one_saver: RedisStreamSaver, call: Call
) -> None:
    """The entries of pruned checkpoints leave the log, but for those with values that the kept one has."""
    await put_line(call, one_saver, "t", ["r"] * 50)
    await call(one_saver, "prune", ["t"])
    with any_server.client() as client:
        assert client.xlen(keys_of(prefix, "t").log) == 4  # the first with `kept`, the last, its writes, and the event


@pytest.mark.parametrize("strategy", ["delete", "delete_all"])
async def test_prune_delete(saver: RedisStreamSaver, server: Server, prefix: str, call: Call, strategy: str) -> None:
    """The strategy "delete", by either name, leaves nothing of the threads but what their partition shares."""
    for thread in ("a", "b"):
        await put_line(call, saver, thread, ["r"] * 3)
        await put_line(call, saver, thread, ["r"] * 3, "sub")
    await call(saver, "prune", ["a", "b", "nobody"], strategy=strategy)
    assert await call(saver, "list", None) == []
    assert {key.rpartition(b":")[2] for key in keys_under(server, prefix)} == SHARED


async def test_prune_refused(one_saver: RedisStreamSaver, call: Call) -> None:
    """An unknown strategy or number, and a string for a list, are refused; no threads are nothing to do."""
    await put_line(call, one_saver, "t", ["r"] * 2)
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (["t"], {"strategy": "keep_none"}, "'keep_none'.*'keep_latest', 'delete' or 'delete_all'"),
        (["t"], {"keep_last": 0}, "keep_last"),
        (["t"], {"keep_last": True}, "keep_last"),
        (["t"], {"keep_last": 2, "strategy": "delete"}, "keep_last"),
        (["t"], {"keep_last": 2, "strategy": "delete_all"}, "keep_last"),
        ("t", {}, "thread_ids"),
        (None, {}, "thread_ids"),
    ]
    for threads, options, words in refused:
        with pytest.raises((ValueError, TypeError), match=words):
            await call(one_saver, "prune", threads, **options)
    await call(one_saver, "prune", [])
    assert len(await seen(call, one_saver, "t")) == 2


async def test_life_after_pruning(saver: RedisStreamSaver, call: Call) -> None:
    """A pruned thread goes on: new checkpoints, forks from the kept one, late writes, and pruning again."""
    configs = await put_line(call, saver, "t", ["r"] * 4)
    await call(saver, "prune", ["t"])
    kept = configs[-1]
    (branch_a, branch_b) = [await call(saver, "put", kept, *step({"n": name})) for name in ("a", "b")]
    await call(saver, "put_writes", kept, [("n", "late")], "late")
    await call(saver, "put_writes", configs[0], [("n", "to one that is gone")], "late")
    assert values_of(await call(saver, "get_tuple", config("t"))) == {"n": "b"}
    assert values_of(await call(saver, "get_tuple", branch_a)) == {"n": "a"}
    assert (await call(saver, "get_tuple", branch_b)).parent_config == kept
    assert ("late", "n", "late") in writes_of(await call(saver, "get_tuple", kept))
    assert await call(saver, "get_tuple", configs[0]) is None
    assert len(await seen(call, saver, "t")) == 3
    await call(saver, "prune", ["t"], keep_last=2)
    assert [values for values, _, _ in await seen(call, saver, "t")] == [{"n": "b"}, {"n": "a"}]


def joined(state: list[str], updates: Sequence[list[str]]) -> list[str]:
    """The reducer of a delta channel."""
    return [*state, *(one for update in updates for one in update)]


class Talk(TypedDict, total=False):
    """A state of which one part is stored as deltas."""

    said: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=4)]
    count: Annotated[int, operator.add]


def talking(saver: Any) -> Any:
    """A graph that adds to both parts."""
    graph = StateGraph(Talk)
    graph.add_node("answer", lambda state: {"said": [f"answer {len(state['said'])}"], "count": 1})
    graph.add_edge(START, "answer")
    return graph.compile(checkpointer=saver)


@pytest.mark.parametrize("turns", [1, 3, 6])
async def test_delta_channels_outlive_pruning(saver: RedisStreamSaver, call: Call, turns: int) -> None:
    """A graph with a delta channel has the same state before and after pruning, and what it is rebuilt from; and it goes on."""
    graph, twin = talking(saver), talking(saver)
    for thread in ("pruned", "whole"):
        for turn in range(turns):
            await call(
                graph, "invoke", {"said": [f"question {turn}"], "count": 0}, {"configurable": {"thread_id": thread}}
            )
    before = await call(graph, "get_state", config("pruned"))
    deltas = await call(saver, "get_delta_channel_history", config=config("pruned"), channels=["said"])
    for _ in range(2):
        await call(saver, "prune", ["pruned"])
        after = await call(twin, "get_state", config("pruned"))
        assert after == before
        (kept,) = await call(saver, "list", config("pruned"))
        if "said" not in values_of(kept):
            assert deltas == await call(saver, "get_delta_channel_history", config=config("pruned"), channels=["said"])
    await call(saver, "copy_thread", "pruned", "copy")
    answers = []
    for thread in ("pruned", "whole", "copy"):
        for turn in range(6):
            answer = await call(graph, "invoke", {"said": [f"more {turn}"]}, {"configurable": {"thread_id": thread}})
            if turn == 3:
                await call(saver, "prune", ["pruned"], keep_last=2)
        answers.append(answer)
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]["said"]) == 2 * (turns + 6)


async def test_nothing_is_left_of_a_deleted_thread(
    saver: RedisStreamSaver, server: Server, prefix: str, call: Call
) -> None:
    """Deleting a thread leaves none of its keys, whatever it had: subgraphs, pruned deltas, early writes, a copy's origin."""
    graph = talking(saver)
    for _ in range(3):
        await call(graph, "invoke", {"said": ["question"], "count": 0}, {"configurable": {"thread_id": "t"}})
    await call(saver, "prune", ["t"])
    await put_line(call, saver, "t", ["r"], "sub|1")
    await call(saver, "put_writes", config("t", "early", "c"), [("x", 1)], "task")
    await call(saver, "copy_thread", "t", "copy")
    for thread in ("t", "copy"):
        await call(saver, "delete_thread", thread)
        await call(saver, "delete_thread", thread)
    assert {key.rpartition(b":")[2] for key in keys_under(server, prefix)} == SHARED

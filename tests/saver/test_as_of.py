"""State as of a moment, and replay, as LangGraph's checkpoints."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from eventlog import BeforeFirstEvent, EventGone, InvalidArgument, SignatureInvalid, ThreadNotFound, audit
from projections.time_travel.past import Unavailable
from saver import RedisStreamSaver
from saver.history import Replayed
from tests.saver.deltas import Story, edits
from tests.saver.drivers import Call
from tests.saver.test_differential import outline
from tests.saver.test_graphs import delta_graph
from tests.saver.threads import config, step
from tests.servers import Server

pytestmark = pytest.mark.telling


async def test_each_moment_gives_what_was_read_then(call: Call, saver: RedisStreamSaver) -> None:
    """By sequence number, entry id and time; values that grow, forks of old checkpoints, pending writes."""
    story = Story(call, saver)
    answers: list[tuple[datetime, Any]] = []
    parents: list[str] = []
    for number, state in enumerate(edits(40)):
        parent = parents[number // 2] if number % 7 == 6 else None
        parents.append(await story.put({"n": state, "count": number}, parent))
        if number % 3 == 0:
            await call(saver, "put_writes", story.config(parents[-1]), [("n", ["w", number])], f"task {number}")
        await asyncio.sleep(0.005)  # entries that come within one millisecond are a little ahead of the clock
        answers.append((datetime.now(timezone.utc), outline(await call(saver, "get_tuple", story.config()))))
        await asyncio.sleep(0.002)  # the next entry has a millisecond of its own
    events = await call(saver, "replay", "t")
    assert [one.sequence for one in events] == list(range(1, len(events) + 1))
    by_time = [max(one.sequence for one in events if one.time <= when) for when, _ in answers]
    for (when, expected), sequence in list(zip(answers, by_time, strict=True))[::3]:
        for moment in (when, when.isoformat(), sequence, str(sequence), events[sequence - 1].id):
            assert outline(await call(saver, "get_tuple_as_of", config("t"), moment)) == expected
        assert outline(events[sequence - 1].state) == expected


async def test_replay_takes_bounds_and_a_namespace(call: Call, one_saver: RedisStreamSaver) -> None:
    """Both bounds included; an event has all that its entry says."""
    for number, namespace in enumerate(("", "sub", "", "sub")):
        async with audit("alice", f"reason {number}"):
            await call(one_saver, "put", config("t", namespace), *step({"n": [number]}, step=number))
    whole = await call(one_saver, "replay", "t")
    part = await call(one_saver, "replay", "t", since=2, until=whole[2].id)
    assert [(one.sequence, one.namespace, one.metadata["step"]) for one in part] == [(2, "sub", 1), (3, "", 2)]
    assert [one.sequence for one in await call(one_saver, "replay", "t", namespace="sub", since=whole[1].time)] == [
        2,
        4,
    ]
    assert part[0].audit == {"actor": "alice", "reason": "reason 1"}
    assert (part[0].kind, part[0].thread_id) == ("checkpoint", "t")
    assert abs(part[0].time - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert "checkpoint 2" in repr(part[0])


async def test_a_state_is_deserialized_when_it_is_asked_for(one_saver: RedisStreamSaver, monkeypatch: Any) -> None:
    """And once."""
    one_saver.put(config("t"), *step({"n": ["x"]}))
    loads, calls = type(one_saver.serde).loads_typed, []

    def counted(self: Any, data: Any) -> Any:
        calls.append(data)
        return loads(self, data)

    monkeypatch.setattr(type(one_saver.serde), "loads_typed", counted)
    (event,) = one_saver.replay("t")
    assert isinstance(event, Replayed)
    assert not calls
    state: Any = event.state
    assert state.checkpoint["channel_values"] == {"n": ["x"]}
    assert event.state is state
    assert len(calls) == 1


async def test_what_was_pruned_is_told(
    call: Call, one_saver: RedisStreamSaver, any_server: Server, prefix: str
) -> None:
    """As unavailable in a replay, as an error for one moment; what was kept is there, also for the time before."""
    saver = RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, cache_bytes=0)  # so that entries do go
    story = Story(call, saver)
    await story.put_all(edits(30))
    before = outline(await call(saver, "get_tuple", story.config()))
    await call(saver, "prune", ["t"], keep_last=3)
    with pytest.raises(EventGone, match="'t'") as gone:
        await call(saver, "get_tuple_as_of", config("t"), 20)
    assert gone.value.reason == "pruned"
    for moment in (30, 31, datetime.now(timezone.utc) + timedelta(seconds=1)):
        assert outline(await call(saver, "get_tuple_as_of", config("t"), moment)) == before
    events = await call(saver, "replay", "t")
    given = [one.sequence for one in events if one.sequence > 1 and not isinstance(one.state, Unavailable)]
    assert given == [28, 29, 30, 31]
    await saver.aclose()


async def test_what_cannot_be_asked_for(call: Call, one_saver: RedisStreamSaver) -> None:
    """A moment before the beginning, unknown threads, no moments, a checkpoint id: each an error of its own."""
    put = one_saver.put(config("t"), *step({"n": 1}))
    with pytest.raises(BeforeFirstEvent, match="'t' began at"):
        await call(one_saver, "get_tuple_as_of", config("t"), datetime(2020, 1, 1, tzinfo=timezone.utc))
    assert await call(one_saver, "get_tuple_as_of", config("t", "sub"), 1) is None
    for unknown in (("get_tuple_as_of", config("u"), 1), ("replay", "u")):
        with pytest.raises(ThreadNotFound, match="'u'"):
            await call(one_saver, *unknown)
    with pytest.raises(InvalidArgument, match="checkpoint_id"):
        await call(one_saver, "get_tuple_as_of", put, 1)
    for wrong in (datetime(2026, 1, 1), "1-1"):  # noqa: DTZ001
        with pytest.raises(InvalidArgument):
            await call(one_saver, "get_tuple_as_of", config("t"), wrong)
        with pytest.raises(InvalidArgument, match="Thread 't': until"):
            await call(one_saver, "replay", "t", until=wrong)
    with pytest.raises(TypeError):
        await call(one_saver, "replay", "t", since=1.5)


async def test_what_is_not_signed_is_refused(call: Call, any_server: Server, prefix: str) -> None:
    """By a saver with a key, of which every state that it gives was checked; a copy's too."""
    signing = RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, signing_key=b"0123456789abcdef")
    plain = RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix)
    story = Story(call, signing)
    await story.put_all(edits(12))
    await call(signing, "copy_thread", "t", "copy")
    for thread in ("t", "copy"):
        states = [one.state for one in await call(signing, "replay", thread)]
        assert [outline(one) for one in states[:12]] == [
            outline(one.state) for one in (await call(plain, "replay", thread))[:12]
        ]
        assert outline(states[-1]) == outline(await call(signing, "get_tuple", config(thread)))
        assert outline(await call(signing, "get_tuple_as_of", config(thread), 5)) == outline(states[4])
    await call(plain, "put", config("u"), *step({"n": 1}))
    for refused in (("replay", "u"), ("get_tuple_as_of", config("u"), 1)):
        with pytest.raises(SignatureInvalid, match="'u'"):
            await call(signing, *refused)
    for one in (signing, plain):
        await one.aclose()


def talker() -> StateGraph[Any]:
    builder = StateGraph(MessagesState)
    builder.add_node("one", lambda state: {"messages": [("ai", f"one of {len(state['messages'])}")]})
    builder.add_node("two", lambda state: {"messages": [("ai", f"two of {len(state['messages'])}")]})
    builder.add_edge(START, "one")
    builder.add_edge("one", "two")
    builder.add_edge("two", END)
    return builder


async def test_a_graph_is_run_again_from_any_point(call: Call, saver: RedisStreamSaver) -> None:
    """The recipe: copy the thread up to an event, and invoke the copy; the thread itself stays as it is."""
    graph = talker().compile(checkpointer=saver)
    await call(graph, "invoke", {"messages": [HumanMessage("hi")]}, config("t"))
    whole = (await call(saver, "get_tuple", config("t"))).checkpoint["channel_values"]["messages"]
    events = await call(saver, "replay", "t")
    for number, event in enumerate(one for one in events if one.kind == "checkpoint"):
        await call(saver, "copy_thread", "t", f"again {number}", until=event.sequence)
        await call(graph, "invoke", None, config(f"again {number}"))
        again = (await call(saver, "get_tuple", config(f"again {number}"))).checkpoint["channel_values"]["messages"]
        assert [one.content for one in again] == [one.content for one in whole]
    assert len(await call(saver, "replay", "t")) == len(events)


async def test_delta_channels_are_as_they_were(saver: RedisStreamSaver, call: Call) -> None:
    """Replay and as-of give of delta channels what was read right after each turn, and a rerun from there goes on from it."""
    graph = delta_graph(saver)
    answers = {}
    for turn in range(5):
        await call(graph, "invoke", {"words": [f"turn {turn}"]}, config("t"), durability="sync")
        found = await call(saver, "get_tuple", config("t"))
        answers[(await call(saver, "verify", "t")).sequence] = (
            outline(found),
            (await call(graph, "get_state", config("t"))).values,
        )
    states = {one.sequence: one.state for one in await call(saver, "replay", "t", namespace="")}
    for sequence, (expected, values) in answers.items():
        assert outline(states[sequence]) == expected
        assert outline(await call(saver, "get_tuple_as_of", config("t"), sequence)) == expected
        copy = f"copy {sequence}"
        await call(saver, "copy_thread", "t", copy, until=sequence)
        assert (await call(graph, "get_state", config(copy))).values == values

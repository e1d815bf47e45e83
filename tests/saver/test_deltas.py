"""Threads whose values are stored as deltas: whatever is done to them, every checkpoint reads back as it was put."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Annotated, Any

import pytest
import redis
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import START, StateGraph
from redis.backoff import NoBackoff
from redis.retry import Retry
from typing_extensions import TypedDict

from eventlog.errors import ServerUnavailable
from saver import RedisStreamSaver
from tests.projections.steps import Steps
from tests.proxy import Cut, Proxy
from tests.saver.audit import Audit
from tests.saver.deltas import Story, edits, talk, text
from tests.saver.drivers import Call, call_sync
from tests.saver.threads import config, step, values_of
from tests.servers import Server

KEY = b"0123456789abcdef"
AHEAD = 4_000_000_000_000
"""ms since 1970, long after these tests."""


@pytest.fixture
def audit(server: Server, prefix: str) -> Iterator[Audit]:
    """A look behind the savers of each server in turn."""
    with Audit(server.url, prefix) as opened:
        yield opened


@pytest.fixture
def one_audit(any_server: Server, prefix: str) -> Iterator[Audit]:
    """A look behind the savers of the one quick server."""
    with Audit(any_server.url, prefix) as opened:
        yield opened


@pytest.fixture
async def other(any_server: Server, prefix: str) -> AsyncIterator[RedisStreamSaver]:
    """Another saver on the one quick server, with a cache of its own."""
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as opened:
        yield opened


def named(checkpoint_id: str, values: dict[str, Any], version: str, **meta: Any) -> Any:
    """A checkpoint with an id and a version chosen by the test, as `put` takes it after the config."""
    checkpoint, metadata, versions = step(values, checkpoint_id=checkpoint_id, **meta)
    versions = dict.fromkeys(versions, version)
    checkpoint["channel_versions"] = versions
    checkpoint["ts"] = "2026-01-01T00:00:00+00:00"
    return checkpoint, metadata, versions


@pytest.mark.parametrize("compress_above", [None, 64], ids=["plain", "compressed"])
async def test_every_checkpoint_reads_back(
    server: Server, prefix: str, audit: Audit, call: Call, compress_above: int | None
) -> None:
    """By id and in every list, with and without views, for the saver that wrote and for one that comes new."""
    options: Any = {"prefix": prefix, "compress_above": compress_above}
    async with (
        RedisStreamSaver.from_conn_string(server.url, **options) as saver,
        RedisStreamSaver.from_conn_string(server.url, **options) as reader,
    ):
        story = Story(call, saver)
        await story.put_all(edits(40))
        forms = audit.forms("t")
        assert sum(map(forms.count, "Dd")) > 30
        assert ("d" in forms or "k" in forms) == (compress_above is not None)
        assert audit.changed_versions("t") > 20
        await story.check(audit)
        await story.check(saver=reader)


def test_a_thousand_versions(one_saver: RedisStreamSaver, one_audit: Audit) -> None:
    """Every version of a list that grows is there, one by one and in a list, in a small multiple of the last one's bytes."""
    given: Any = config("t")
    configs = []
    for number in range(1000):
        given = one_saver.put(given, *step({"n": talk(number)}))
        configs.append(given)
    for number in range(0, 1000, 7):
        assert values_of(one_saver.get_tuple(configs[number])) == {"n": talk(number)}
    numbers = 999
    for found in one_saver.list(config("t")):
        assert (found.config, values_of(found)) == (configs[numbers], {"n": talk(numbers)})
        numbers -= 1
    assert numbers == -1
    size = len(one_saver.serde.dumps_typed(talk(999))[1])
    assert sum(len(piece) for _, piece in one_audit.pieces("t")) < 8 * size
    one_audit.check("t")


async def test_two_branches_in_turn(saver: RedisStreamSaver, audit: Audit, call: Call) -> None:
    """Branches from one parent that are written to in turn do not mix, though each delta is against the other branch."""
    story = Story(call, saver)
    root = (await story.put_all([talk(20, "root")]))[0]
    branches = {"a": root, "b": root}
    for number in range(8):
        for name, parent in branches.items():
            state = [*story.told[parent]["n"], text(number, name)]
            branches[name] = await story.put({"n": state, "name": name}, parent)
            if number % 3 == 0:
                await story.check_latest()
    assert audit.forms("t", "n").count("D") > 10
    await story.check(audit)
    old = sorted(story.told)[4]
    await call(saver, "get_tuple", story.config(old))  # the saver knows an old value now
    await story.put({"n": [*story.told[story.latest]["n"], "after an old one was read"]})
    await story.check(audit)


async def test_a_copy_and_its_origin_go_on(saver: RedisStreamSaver, audit: Audit, call: Call) -> None:
    """A copy reads as its origin does, and both go on from there each with deltas of its own."""
    story = Story(call, saver)
    await story.put_all(edits(12))
    await call(saver, "copy_thread", "t", "copy")
    copy = story.copied("copy")
    await copy.check()
    for number in range(4):
        for one in (story, copy):
            await one.put({"n": [*one.told[one.latest]["n"], text(number, one.thread)]})
    assert audit.forms("t")[-4:].count("D") == audit.forms("copy")[-4:].count("D") == 3
    await story.check(audit)
    await copy.check(audit)
    await call(saver, "delete_thread", "t")
    await call(saver, "copy_thread", "copy", "t")
    story = copy.copied("t")
    await story.put({"n": [*copy.told[copy.latest]["n"], "in the place of what the saver knew"]})
    await story.check(audit)


@pytest.mark.parametrize("keep", [1, 3])
async def test_pruning_keeps_what_deltas_go_back_to(
    saver: RedisStreamSaver, audit: Audit, call: Call, keep: int
) -> None:
    """What is kept reads back, the log accounts for what is not, and the thread goes on and is pruned again."""
    story = Story(call, saver)
    for turn in range(4):
        await story.put_all([[*talk(20), *talk(turn * 4 + number, "more")] for number in range(4)], turn=turn)
        await call(saver, "prune", ["t"], keep_last=keep)
        story.forget(*sorted(story.told)[:-keep])
        await story.check(audit)
        assert "D" in audit.forms("t")
    for number in range(12):  # by then nothing needs what was there before
        await story.put({"n": number})
    await call(saver, "prune", ["t"])
    story.forget(*sorted(story.told)[:-1])
    assert "D" not in audit.forms("t")
    await story.check(audit)


async def test_deleting_runs_keeps_what_deltas_go_back_to(saver: RedisStreamSaver, audit: Audit, call: Call) -> None:
    """Of runs in turn those that stay read back, whatever was between them."""
    story = Story(call, saver)
    ids: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    for number, state in enumerate(edits(18)):
        run = "abc"[number % 3]
        ids[run].append(await story.put({"n": state}, run_id=run))
    for run in ("b", "c"):
        await call(saver, "delete_for_runs", [run])
        story.forget(*ids[run])
        await story.check(audit)
        state = [*story.told[story.latest]["n"], run]
        ids["a"].append(await story.put({"n": state}, run_id="a"))
        await story.check(audit)
    assert "D" in audit.forms("t")


async def test_an_overwritten_base_is_kept_by_a_pruning(
    one_saver: RedisStreamSaver, one_audit: Audit, call: Call
) -> None:
    """A value that a delta goes back to stays though its version has another value since, and its checkpoint is gone."""
    await call(one_saver, "put", config("t"), *named("1", {"n": talk(20)}, "v1"))
    await call(one_saver, "put", config("t", "", "1"), *named("2", {"n": talk(21)}, "v2"))
    await call(one_saver, "put", config("t"), *named("1", {"n": talk(5, "another")}, "v1"))
    for _ in ("at first", "again"):
        await call(one_saver, "prune", ["t"])
        for _ in ("with views", "without"):
            (found,) = await call(one_saver, "list", config("t"))
            assert values_of(found) == values_of(await call(one_saver, "get_tuple", config("t"))) == {"n": talk(21)}
            one_audit.check("t")
            one_audit.forget_views("t")
    await call(one_saver, "put", config("t", "", "2"), *named("3", {"n": talk(22)}, "v3"))
    assert values_of(await call(one_saver, "get_tuple", config("t"))) == {"n": talk(22)}


@pytest.mark.parametrize("view", ["index", "order", "head", "all"])
async def test_views_deleted_at_every_step(saver: RedisStreamSaver, audit: Audit, call: Call, view: str) -> None:
    """Before every put and every read a view is gone; deltas go on all the same."""
    keys = audit.keyspace.thread(b"t")
    gone = {"index": [keys.index], "order": [keys.order], "head": [keys.head(b"")], "all": audit.views("t")}[view]
    story = Story(call, saver)
    for state in edits(12):
        await story.put({"n": state})
        audit.client.delete(*gone)
        await story.check_latest()
        audit.client.delete(*gone)
    assert audit.forms("t").count("D") > 8
    await story.check(audit)


async def test_values_end_with_their_thread(any_server: Server, prefix: str, one_audit: Audit, call: Call) -> None:
    """All keys of a thread with deltas have one end; after it a saver that still knows the values starts over with whole ones."""
    options: Any = {"prefix": prefix, "ttl": 60}
    async with RedisStreamSaver.from_conn_string(any_server.url, **options) as saver:
        story = Story(call, saver)
        await story.put_all(edits(5))
        keys = [one_audit.keyspace.thread(b"t").log, *one_audit.views("t")]
        ends = {one_audit.client.pexpiretime(key) for key in keys}
        assert len(ends) == 1
        assert min(ends) > 0
        for key in keys:
            one_audit.client.pexpireat(key, 1)  # it is over
        one_audit.client.zadd(one_audit.keyspace.thread(b"t").shared.expiries, {"tt": 1})
        assert await call(saver, "get_tuple", config("t")) is None
        before, story = story, Story(call, saver)
        await story.put({"n": [*before.told[before.latest]["n"], "after the end"]})
        await story.put({"n": [*before.told[before.latest]["n"], "after the end", "and on"]})
        assert one_audit.forms("t") == "KD"
        await story.check_latest()
        assert len({one_audit.client.pexpiretime(key) for key in keys}) == 1
        await story.check(one_audit)


@pytest.mark.parametrize("first", ["delta", "keyframe"])
@pytest.mark.parametrize("again", ["same saver", "one that knows more", "one that knows nothing"])
async def test_a_put_sent_again_is_one_event(
    any_server: Server, prefix: str, one_audit: Audit, other: RedisStreamSaver, call: Call, first: str, again: str
) -> None:
    """After a lost reply the put is made again, by whichever saver, with the value in whichever form: one event."""
    with Proxy(any_server.url) as proxy:
        retry: Any = {"retry": Retry(NoBackoff(), 0)}
        async with RedisStreamSaver.from_conn_string(proxy.url, prefix=prefix, **retry) as saver:
            story = Story(call, saver)
            await story.put({"n": talk(20)}, by=other)
            if first == "delta":
                await story.check_latest()
            else:
                await call(saver, "setup")
            put, stray = step({"n": talk(21)}), step({"n": b"x" * 500}, checkpoint_id="0")
            given = (story.config(story.latest), *put)
            proxy.cut(1, Cut.AFTER)
            with pytest.raises(ServerUnavailable):
                await call(saver, "put", *given)
            proxy.plan()
            by = saver if again == "same saver" else other
            if again == "one that knows more":
                await call(other, "get_tuple", config("t"))
            elif again == "one that knows nothing":
                await call(other, "put", config("t"), *stray)
            for _ in range(2):
                assert await call(by, "put", *given) == config("t", "", put[0]["id"])
            story.note(put[0])
            assert one_audit.forms("t")[:2] == ("KD" if first == "delta" else "KK")
            assert len(one_audit.kinds("t")) == 2 + (again == "one that knows nothing")
            for number in (22, 23):  # what the saver that sent it again knows of the value is what the log has
                await story.put({"n": talk(number)}, by=by)
                await story.check_latest(by)
            if again == "one that knows nothing":
                story.note(stray[0])
            await story.check(one_audit)


async def test_two_savers_in_turn(
    one_saver: RedisStreamSaver, other: RedisStreamSaver, one_audit: Audit, call: Call
) -> None:
    """Savers that do not read what the other wrote make deltas against what they last saw, which the log still has."""
    story = Story(call, one_saver)
    for number, state in enumerate(edits(20)):
        await story.put({"n": state}, by=(one_saver, other)[number % 2])
        if number % 5 == 4:
            await story.check_latest(random.choice([one_saver, other]))
    assert one_audit.forms("t").startswith("KKD")
    assert one_audit.forms("t").count("D") > 12
    await story.check(one_audit)
    await story.check(saver=other)


@pytest.mark.parametrize("how", ["pruned", "overwritten", "deleted", "emptied log"])
def test_a_refused_delta_becomes_a_keyframe(
    one_saver: RedisStreamSaver, other: RedisStreamSaver, one_audit: Audit, how: str
) -> None:
    """A saver that knows a value which the log has no longer sends the new one whole, within the call: two round trips, once."""
    first = one_saver.put(config("t"), *named("1", {"n": talk(20)}, "v1"))
    if how == "pruned":
        other.put(first, *named("2", {"n": b"x" * 1000}, "v2"))
        other.prune(["t"])
    elif how == "overwritten":
        other.put(config("t"), *named("1", {"n": talk(20, "another")}, "v1"))
    elif how == "deleted":
        other.delete_thread("t")
    else:
        other.delete_thread("t")
        other.put(config("t"), *named("1", {"n": talk(20, "another")}, "another"))
    steps = Steps(one_saver)
    parent: Any = first
    for number, calls in ((3, 2), (4, 1)):
        parent = steps.run(steps.putting(parent, *named(str(number), {"n": talk(18 + number)}, f"v{number}")))
        assert len(steps.requests) == len(steps.calls("save_checkpoint")) == calls
    assert one_audit.forms("t").endswith("KD")
    for reader in (one_saver, other):
        assert values_of(reader.get_tuple(config("t"))) == {"n": talk(22)}
        assert values_of(reader.get_tuple(config("t", "", "3"))) == {"n": talk(21)}
    one_audit.check("t")


async def test_versions_that_get_another_value(
    one_saver: RedisStreamSaver, other: RedisStreamSaver, one_audit: Audit, call: Call
) -> None:
    """Checkpoint and version are put again with other values, by the saver that knows the old one and by one that does not."""
    expected: dict[str, Any] = {}
    for number in range(6):
        for checkpoint_id, by in (("1", one_saver), ("2", other), ("1", other), ("2", one_saver)):
            value = [*talk(20), text(number, checkpoint_id), by is other]
            given = config("t", "", "1") if checkpoint_id == "2" else config("t")
            await call(by, "put", given, *named(checkpoint_id, {"n": value}, f"v{checkpoint_id}"))
            expected[checkpoint_id] = {"n": value}
            for reader in (one_saver, other):
                for named_id, values in expected.items():
                    assert values_of(await call(reader, "get_tuple", config("t", "", named_id))) == values
                assert values_of(await call(reader, "get_tuple", config("t"))) == expected[max(expected)]
    assert one_audit.forms("t").count("D") > 12
    one_audit.check("t")
    one_audit.forget_views("t")
    listed = await call(other, "list", config("t"))
    assert {one.checkpoint["id"]: values_of(one) for one in listed} == expected


@pytest.mark.parametrize(("first", "second"), [(None, b""), (1, b"\x01"), (b"x" * 300, bytearray(b"x" * 300))])
async def test_another_value_of_the_same_bytes(
    one_saver: RedisStreamSaver, one_audit: Audit, call: Call, first: Any, second: Any
) -> None:
    """A checkpoint put again with a value that differs by its type alone is replaced: that is no call made twice."""
    for value in (first, second):
        await call(one_saver, "put", config("t"), *named("1", {"n": value}, "v1"))
        found = values_of(await call(one_saver, "get_tuple", config("t")))["n"]
        assert (type(found), found) == (type(value), value)
    assert one_audit.kinds("t") == ["checkpoint"] * 2


@pytest.mark.parametrize("compress_above", [None, 64], ids=["plain", "compressed"])
async def test_values_that_come_go_and_change_type(
    server: Server, prefix: str, audit: Audit, call: Call, compress_above: int | None
) -> None:
    """Absent, None, empty, bytes, list, map, and back; each next to a channel that keeps growing."""
    values: list[Any] = [talk(20), talk(21), None, talk(22), "", b"", [], {}, b"x" * 500, bytearray(b"x" * 500)]
    values += [
        b"x" * 500 + b"y",
        {"a": talk(20)},
        {"a": talk(20), "b": 1},
        talk(20),
        "".join(talk(20)),
        "".join(talk(21)),
    ]
    values += [0, talk(3), talk(1), b"\x93" * 200, b"\xdc\0\x10" + b"x" * 200, talk(23)]
    drawn = random.Random(5)
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, compress_above=compress_above) as saver:
        story = Story(call, saver)
        for number in range(50):
            grown = {"grown": talk(10 + number)}
            if number % 4 == 3:
                await story.put(grown, empty=["n"])
            else:
                at = number % len(values) if number < len(values) else drawn.randrange(len(values))
                await story.put({**grown, "n": values[at]})
            if drawn.random() < 0.3:
                await story.check_latest()
        found = values_of(await call(saver, "get_tuple", story.config()))
        assert {name: type(value) for name, value in found.items()} == {
            name: type(value) for name, value in story.told[story.latest].items()
        }
        assert "E" in audit.forms("t", "n")
        await story.check(audit)


@pytest.mark.parametrize("compress_above", [None, 1000], ids=["plain", "compressed"])
async def test_values_of_all_sizes(
    any_server: Server, prefix: str, one_audit: Audit, call: Call, compress_above: int | None
) -> None:
    """From nothing to several MiB and back, edited in front, within and at the end."""
    drawn = random.Random(7)
    whole = drawn.randbytes(5 * 2**20)
    sizes = [0, 1, 100, 127, 128, 129, 255, 256, 1000, 2**16 - 1, 2**16, 2**20, 3 * 2**20, len(whole), 2**20, 128, 0]
    options: Any = {"prefix": prefix, "compress_above": compress_above}
    async with RedisStreamSaver.from_conn_string(any_server.url, **options) as saver:
        story = Story(call, saver)
        for number, size in enumerate(sizes):
            data = bytearray(whole[:size])
            if size > 1000:
                at = drawn.randrange(size - 100)
                data[at : at + 10] = b"%d" % number * drawn.randrange(1, 20)
            await story.put({"n": [bytes(data)], "bytes": bytes(data) + b"end", "text": data.hex()[:300_000]})
            await story.check_latest()
        assert one_audit.forms("t").upper().count("D") > 10
        await story.check(one_audit)


class Salted:
    """A cipher whose output differs from call to call at its end only."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "salted", bytes(one ^ 85 for one in plaintext) + random.randbytes(16)

    def decrypt(self, _: str, ciphertext: bytes) -> bytes:
        return bytes(one ^ 85 for one in ciphertext[:-16])


def ciphered(kind: str) -> EncryptedSerializer:
    return EncryptedSerializer(Salted()) if kind == "salted" else EncryptedSerializer.from_pycryptodome_aes(key=KEY)


@pytest.mark.parametrize("kind", ["aes", "salted"])
async def test_encrypted_values(any_server: Server, prefix: str, one_audit: Audit, call: Call, kind: str) -> None:
    """They are stored whole where the cipher hides what they share; a put made again counts once, and all goes on from there."""
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, serde=ciphered(kind)) as saver:
        story = Story(call, saver)
        await story.put_all([talk(20 + number) for number in range(8)])
        put = step({"n": talk(30)})
        for _ in range(3):
            await call(saver, "put", story.config(), *put)
        story.note(put[0])
        assert one_audit.kinds("t") == ["checkpoint"] * 9
        if kind == "aes":
            assert one_audit.forms("t") == "K" * 9
        for number in range(3):
            await story.put({"n": talk(31 + number)})
            await story.check_latest()
        await story.check(one_audit)


async def test_wide_states(one_saver: RedisStreamSaver, one_audit: Audit, call: Call) -> None:
    """More than a thousand channels with deltas of their own, in one put: also where that takes several entries."""
    story = Story(call, one_saver)
    for number in range(2):
        await story.put({f"c{at}": talk(4 + number, str(at)) for at in range(2300)})
    await story.put({f"c{at}": talk(7, str(at)) for at in range(0, 2300, 2)}, empty=["c1"])
    assert set(one_audit.kinds("t")) == {"values", "checkpoint"}
    assert one_audit.forms("t").count("D") > 2300
    await story.check_latest()
    await call(one_saver, "prune", ["t"], keep_last=2)
    story.forget(*sorted(story.told)[:-2])
    await story.check(one_audit)


ODD = [
    "",
    "\0",
    "x",
    "1:x",
    "+1:x",
    "1:1:x",
    ":",
    "=",
    "=x",
    "+",
    "#",
    "#x",
    "!",
    "!1",
    "id",
    "at",
    "e",
    "s",
    "w",
    "p",
    "é🙂",
    "%s",
]


async def test_odd_channel_names(saver: RedisStreamSaver, audit: Audit, call: Call) -> None:
    """However channels are named, the fields of a head do not collide: all have deltas, and read back with and without it."""
    story = Story(call, saver)
    for number in range(4):
        await story.put({name: talk(5 + number, f"channel {name}") for name in ODD})
        await story.check_latest()
    assert audit.forms("t").count("D") == 3 * len(ODD)
    await story.put({name: talk(9, f"channel {name}") for name in ODD[::2]}, empty=ODD[1::4])
    await story.check(audit)


def joined(state: list[str], updates: list[list[str]]) -> list[str]:
    """The reducer of a delta channel."""
    return [*state, *(one for update in updates for one in update)]


class Talk(TypedDict, total=False):
    """A state of which one part is LangGraph's delta channel, and one a list that grows."""

    said: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=3)]
    heard: list[str]


def _answer(state: Talk) -> Talk:
    turn = len(state["said"])
    return {"said": [text(turn, "answer")], "heard": [*state.get("heard", talk(8)), text(turn, "heard")]}


@pytest.mark.parametrize("keep", [1, 2])
async def test_delta_channels(saver: RedisStreamSaver, audit: Audit, call: Call, keep: int) -> None:
    """Snapshots of LangGraph's own delta channels are stored as deltas, and rebuilt from, also after a pruning."""
    builder = StateGraph(Talk)
    builder.add_node("answer", _answer)
    builder.add_edge(START, "answer")
    graph = builder.compile(checkpointer=saver)
    answers: dict[str, Any] = {}
    for thread in ("pruned", "whole"):
        for turn in range(9):
            inputs = {"said": [text(turn, "question")]}
            answers[thread] = await call(graph, "invoke", inputs, {"configurable": {"thread_id": thread}})
            if thread == "pruned" and turn % 3:
                await call(saver, "prune", [thread], keep_last=keep)
                audit.check(thread)
        assert "D" in audit.forms(thread, "heard")
    assert answers["pruned"] == answers["whole"]
    assert len(answers["whole"]["said"]) == 18
    for thread, answer in answers.items():
        audit.forget_views(thread)
        assert (await call(graph, "get_state", config(thread))).values == answer
    whole = [one.values async for one in graph.aget_state_history(config("whole"))]
    assert [one.get("heard", [])[-1:] for one in whole[:2]] == [[text(17, "heard")], [text(15, "heard")]]


@pytest.mark.parametrize("cache_bytes", [0, 3_000, 20_000])
async def test_a_small_cache(any_server: Server, prefix: str, one_audit: Audit, call: Call, cache_bytes: int) -> None:
    """Where values do not fit the cache, or push each other out, more of them are stored whole; all read back."""
    options: Any = {"prefix": prefix, "cache_bytes": cache_bytes}
    async with RedisStreamSaver.from_conn_string(any_server.url, **options) as saver:
        stories = [Story(call, saver, f"t{number}") for number in range(6)]
        for number in range(12):
            for story in stories[: 6 if number % 2 else 2]:
                await story.put({"n": talk(8 + 2 * number, story.thread), "m": number})
                if number % 3 == 0:
                    await story.check_latest()
        forms = "".join(one_audit.forms(story.thread, "n") for story in stories)
        assert ("D" in forms, "K" in forms) == (cache_bytes > 0, True)
        for story in stories:
            await story.check(one_audit)


def test_threads_on_one_cache(any_server: Server, prefix: str, one_audit: Audit) -> None:
    """Threads that write to conversations of their own and to a shared one, with a cache too small for all, read what they wrote."""
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, cache_bytes=15_000) as saver:
        wrong: list[Any] = []

        def work(number: int) -> None:
            drawn = random.Random(number)
            for turn in range(25):
                for thread in (f"own {number}", "shared"):
                    value = {"n": [*talk(10), *talk(turn, f"{thread} {number}")], "by": number}
                    put = saver.put(config(thread), *step(value))
                    if values_of(saver.get_tuple(put)) != value:
                        wrong.append((thread, turn))
                    if thread != "shared" and values_of(saver.get_tuple(config(thread))) != value:
                        wrong.append((thread, turn))
                    if drawn.random() < 0.1:
                        one_audit.forget_views(thread)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not wrong
        for thread, count in (("shared", 200), ("own 3", 25)):
            listed = [values_of(one) for one in saver.list(config(thread))]
            assert len(listed) == count
            assert all(one["n"][:10] == talk(10) for one in listed)
            assert "D" in one_audit.forms(thread)
            one_audit.check(thread)


async def test_tasks_on_one_cache(saver: RedisStreamSaver, audit: Audit) -> None:
    """Tasks that put to one thread at once, forks of one another, all read back."""

    async def work(number: int) -> tuple[Any, Any]:
        values = {"n": [*talk(20), *talk(number % 7, str(number))]}
        return await saver.aput(config("t"), *step(values)), values

    await saver.aput(config("t"), *step({"n": talk(20)}))
    done = await asyncio.gather(*map(work, range(60)))
    for given, values in done:
        assert values_of(await saver.aget_tuple(given)) == values
    assert audit.forms("t").count("D") > 40
    audit.check("t")


async def test_a_thread_deleted_and_begun_anew(
    saver: RedisStreamSaver, server: Server, prefix: str, audit: Audit, call: Call
) -> None:
    """What a saver knows of a deleted thread is no base in the new one, be versions the same or not, no matter who deleted it."""
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as stranger:
        for version in ("v1", "another"):
            await call(saver, "put", config("t"), *named("1", {"n": talk(20)}, "v1"))
            for by in (stranger, saver):
                await call(by, "delete_thread", "t")
                await asyncio.sleep(0.005)  # entries of the new log have other ids
                await call(by, "put", config("t"), *named("1", {"n": talk(20, "new")}, version))
                await call(saver, "put", config("t", "", "1"), *named("2", {"n": talk(21)}, "v2"))
                assert values_of(await call(stranger, "get_tuple", config("t", "", "1"))) == {"n": talk(20, "new")}
                for reader in (saver, stranger):
                    assert values_of(await call(reader, "get_tuple", config("t"))) == {"n": talk(21)}
                audit.check("t")
            await call(saver, "delete_thread", "t")


async def test_a_thread_begun_anew_in_the_same_millisecond(
    one_saver: RedisStreamSaver, other: RedisStreamSaver, one_audit: Audit, call: Call
) -> None:
    """A saver that knows a value of a deleted thread is not misled by another with the same version in an entry of the same id."""
    index = one_audit.keyspace.thread(b"t").index
    for by, name in ((one_saver, "old"), (other, "new")):
        await call(other, "delete_thread", "t")
        await call(by, "put", config("t"), *named("0", {"n": name}, "v0"))
        one_audit.client.hset(index, "l", f"{AHEAD}-0")  # as if the clock stood still between the two
        await call(by, "put", config("t"), *named("1", {"n": talk(20, name)}, "v1"))
    await call(one_saver, "put", config("t", "", "1"), *named("2", {"n": talk(21, "old")}, "v2"))
    for _ in ("with views", "without"):
        assert values_of(await call(other, "get_tuple", config("t"))) == {"n": talk(21, "old")}
        assert values_of(await call(other, "get_tuple", config("t", "", "1"))) == {"n": talk(20, "new")}
        one_audit.forget_views("t")


async def test_a_server_that_was_flushed(private_server: Any, prefix: str, call: Call) -> None:
    """A saver that knows values of a server that lost all starts over, with a whole value."""
    server = private_server()
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as saver:
        await Story(call, saver).put_all(edits(5))
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
        story = Story(call, saver)
        await story.put_all(edits(8)[5:])
        with Audit(server.url, prefix) as audit:
            assert audit.forms("t") == "KDD"
            await story.check(audit)


async def test_a_namespace_of_its_own(saver: RedisStreamSaver, audit: Audit, call: Call) -> None:
    """Namespaces of a thread with the same channels have deltas of their own."""
    stories = [Story(call, saver, namespace=namespace) for namespace in ("", "sub", "sub|1:x", "1:")]
    for number in range(6):
        for story in stories:
            await story.put({"n": talk(10 + number, story.namespace)})
    assert audit.forms("t").count("D") == 20
    for story in stories:
        await story.check(audit)


async def test_put_without_values_between(saver: RedisStreamSaver, audit: Audit, call: Call) -> None:
    """A version that is named without its value, which comes later or never, is no trouble for the deltas around it."""
    await call(saver, "put", config("t"), *named("1", {"n": talk(20)}, "v1"))
    checkpoint, metadata, versions = named("2", {"n": talk(21)}, "v2")
    await call(saver, "put", config("t", "", "1"), checkpoint, metadata, {})
    assert values_of(await call(saver, "get_tuple", config("t"))) == {}
    await call(saver, "put", config("t", "", "2"), *named("3", {"n": talk(22)}, "v3"))
    assert values_of(await call(saver, "get_tuple", config("t"))) == {"n": talk(22)}
    await call(saver, "put", config("t", "", "1"), checkpoint, metadata, versions)
    expected = [{"n": talk(count)} for count in (22, 21, 20)]
    for _ in ("with views", "without"):
        assert [values_of(one) for one in await call(saver, "list", config("t"))] == expected
        assert values_of(await call(saver, "get_tuple", config("t"))) == expected[0]
        audit.check("t")
        audit.forget_views("t")
    assert audit.forms("t") == "KDD"


def test_reads_and_writes_through_both_drivers(one_saver: RedisStreamSaver, one_audit: Audit) -> None:
    """Sync and async calls on one saver share what is known: a delta may follow a write of the other driver."""

    async def work() -> None:
        story = Story(call_sync, one_saver)
        for number, state in enumerate(edits(10)):
            story.call = call_sync if number % 2 else _call_async
            await story.put({"n": state})
        await story.check()

    asyncio.run(work())
    assert one_audit.forms("t").count("D") > 6


async def _call_async(target: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    with suppress(TypeError):
        return await getattr(target, f"a{method}")(*args, **kwargs)
    return [found async for found in getattr(target, f"a{method}")(*args, **kwargs)]


CHANNELS = [f"channel number {number}" for number in range(40)]


def wide(checkpoint_id: str, version: str, other: str = "v0", **meta: Any) -> Any:
    """A checkpoint of many channels, of which the first has another version each time and the last another where said so."""
    checkpoint, metadata, _ = named(checkpoint_id, {CHANNELS[0]: version}, version, **meta)
    checkpoint["channel_versions"] = {**dict.fromkeys(CHANNELS, "v0"), CHANNELS[0]: version, CHANNELS[-1]: other}
    return checkpoint, metadata, {CHANNELS[0]: version}


@pytest.mark.parametrize("method", ["prune", "delete_for_runs", "copy_thread"])
async def test_upkeep_after_a_checkpoint_was_replaced(
    one_saver: RedisStreamSaver, other: RedisStreamSaver, one_audit: Audit, call: Call, method: str
) -> None:
    """A replaced entry whose versions changed from one that was pruned is no trouble for later upkeep, nor are its values."""
    arguments: Any = {"prune": (["t"],), "delete_for_runs": (["early"],), "copy_thread": ("t", "copy")}[method]
    for number in range(1, 6):
        put = wide(str(number), f"v{number}", run_id="early")
        await call(one_saver, "put", config("t", "", str(number - 1) if number > 1 else None), *put)
    await call(other, "put", config("t", "", "4"), *wide("5", "v5", run_id="late"))
    await call(one_saver, "prune", ["t"])
    for number in (6, 7):
        await call(one_saver, "put", config("t", "", str(number - 1)), *wide(str(number), f"v{number}", run_id="late"))
        await call(one_saver, method, *arguments)
        await call(one_saver, "delete_thread", "copy")
        for _ in ("with views", "without"):
            found = await call(other, "get_tuple", config("t"))
            assert found.checkpoint["channel_versions"] == wide("", f"v{number}")[0]["channel_versions"]
            one_audit.check("t")
            one_audit.forget_views("t")


async def test_versions_of_a_thread_begun_anew(
    one_saver: RedisStreamSaver, other: RedisStreamSaver, one_audit: Audit, call: Call
) -> None:
    """Nor do versions mislead where entry and checkpoint of a deleted thread have the same ids as those of the new one."""
    index = one_audit.keyspace.thread(b"t").index
    for by, name in ((one_saver, "old"), (other, "new")):
        await call(other, "delete_thread", "t")
        await call(by, "put", config("t"), *wide("0", "v0"))
        one_audit.client.hset(index, "l", f"{AHEAD}-0")
        await call(by, "put", config("t"), *wide("1", "v1", name))
    await call(one_saver, "put", config("t", "", "1"), *wide("2", "v2", "old"))
    for _ in ("with views", "without"):
        for checkpoint_id, name in (("1", "new"), ("2", "old")):
            found = await call(other, "get_tuple", config("t", "", checkpoint_id))
            assert found.checkpoint["channel_versions"][CHANNELS[-1]] == name
        one_audit.forget_views("t")

"""The saver against LangGraph's InMemorySaver: the same calls, the same answers.

A state machine makes random histories (lines, forks, late and early arrivals, copies, overwritten checkpoints, several
namespaces and threads) and reads them back in every form. The short tests after it pin one rule each.

InMemorySaver is the model with two differences. It lists namespace by namespace, where SQLite's and Postgres's savers
order by checkpoint id over everything; the latter is expected here. And it returns the config it was given from a read
by id, so configs are compared by their three ids.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME

from saver import RedisStreamSaver
from tests.saver.conftest import Server
from tests.saver.drivers import Call, call_async, call_now
from tests.saver.strategies import (
    CHANNELS,
    METADATA_KEYS,
    extras,
    metadata,
    plain,
    successors,
    task_ids,
    task_paths,
    writes,
)

pytestmark = pytest.mark.telling

settings.register_profile(
    "machine",
    max_examples=15,
    stateful_step_count=30,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile("machine-long", parent=settings.get_profile("machine"), max_examples=2000)

VERSION_KINDS = {"t": "saver", "thread:{1} *?[x] é🙂": "saver", "a\x00b": "saver", "whole": "int", "fraction": "float"}
THREADS = list(VERSION_KINDS)
NAMESPACES = ["", "a", "a|b:1", "a|b:10", "é{*}\x00"]
ODD_IDS = ["1", "10", "1ef", "2", "é", "z*[a]", "{x}", "￿", "🙂"]
WIDE = {f"node {number} of a graph that has many of them": {"n": str(number)} for number in range(20)}
"""What has been seen, enough for versions to be stored as what changed."""
OPTIONS: list[dict[str, Any]] = [{}, {"cache_bytes": 0}, {"compress_above": 64}, {"cache_bytes": 4000}]
"""Of the savers of one history after the other: values as deltas, whole, compressed, and with a cache that holds few."""
NEVER_PUT = ["00000000-dead", "ffffffff-dead"]


def typed(value: Any) -> Any:
    """`value` in a form whose equality also compares types, so that 1, 1.0 and True differ and NaN equals itself."""
    match value:
        case dict():
            return "dict", sorted(((typed(k), typed(v)) for k, v in value.items()), key=repr)
        case set() | frozenset():
            return type(value).__name__, sorted((typed(item) for item in value), key=repr)
        case list() | tuple():
            return type(value).__name__, [typed(item) for item in value]
        case BaseMessage():
            return type(value).__name__, typed(value.model_dump())
        case _:
            return type(value).__name__, repr(value)


def ids(config: Any) -> tuple[str, str, str] | None:
    """The three ids in a config."""
    if config is None:
        return None
    named = config["configurable"]
    return named["thread_id"], named.get("checkpoint_ns", ""), named["checkpoint_id"]


def outline(found: CheckpointTuple | None) -> Any:
    """All that a checkpoint tuple says, ready to be compared."""
    if found is None:
        return None
    return {
        "ids": ids(found.config),
        "parent": ids(found.parent_config),
        "checkpoint": typed(found.checkpoint),
        "metadata": typed(found.metadata),
        "writes": [typed(list(write)) for write in found.pending_writes or []],
    }


def config_of(thread: str, ns: str | None = None, checkpoint_id: str | None = None) -> Any:
    """A config naming what is given."""
    named = {"thread_id": thread}
    if ns is not None:
        named["checkpoint_ns"] = ns
    if checkpoint_id is not None:
        named["checkpoint_id"] = checkpoint_id
    return {"configurable": named}


def assert_listed(actual: list[CheckpointTuple], matching: Iterable[CheckpointTuple], limit: int | None) -> None:
    """Check a listing: ids descending over everything, no more than `limit`; checkpoints of one id in any order."""
    expected = sorted(matching, key=lambda found: found.checkpoint["id"], reverse=True)
    by_ids = {ids(found.config): found for found in expected}
    assert [found.checkpoint["id"] for found in expected[:limit]] == [found.checkpoint["id"] for found in actual]
    assert len({ids(found.config) for found in actual}) == len(actual)
    for found in actual:
        assert outline(by_ids.get(ids(found.config))) == outline(found)


class SyncSubject:
    """Two savers, each with a cache of its own, used in turn through their sync methods."""

    def __init__(self, *savers: RedisStreamSaver) -> None:
        self.saver, self.other = (saver.__enter__() for saver in savers)

    def switch(self) -> None:
        self.saver, self.other = self.other, self.saver

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return call_now(self.saver, method, *args, **kwargs)

    def close(self) -> None:
        for saver in (self.saver, self.other):
            saver.__exit__(None, None, None)


class AsyncSubject:
    """Two savers, each with a cache of its own, used in turn through their async methods, in an event loop of their own."""

    def __init__(self, *savers: RedisStreamSaver) -> None:
        self.loop = asyncio.new_event_loop()
        self.saver, self.other = (self.loop.run_until_complete(saver.__aenter__()) for saver in savers)

    def switch(self) -> None:
        self.saver, self.other = self.other, self.saver

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.loop.run_until_complete(call_async(self.saver, method, *args, **kwargs))

    def close(self) -> None:
        for saver in (self.saver, self.other):
            self.loop.run_until_complete(saver.__aexit__(None, None, None))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


Subject = SyncSubject | AsyncSubject
Place = tuple[str, str]
places = st.tuples(st.integers(0, 3), st.integers(0, 3))  # numbers into the threads and namespaces of this history


class SaverMachine(RuleBasedStateMachine):
    """Does everything to the saver and to InMemorySaver, and compares what they answer."""

    new_subject: ClassVar[Callable[[], Subject]]
    deltas: ClassVar[int] = 0
    """How often values were seen to have been stored as deltas, over all histories."""

    def __init__(self) -> None:
        super().__init__()
        self.subject = type(self).new_subject()
        self.model = InMemorySaver()
        self.checkpoints: dict[Place, dict[str, Any]] = {}
        self.parents: dict[Place, dict[str, str | None]] = {}
        self.awaited: dict[Place, set[str]] = {}
        self.puts: list[tuple[Place, tuple[Any, Any, Any, Any], Any]] = []
        self.versions: set[Any] = set()
        self.threads: list[str] = []
        self.namespaces: list[str] = []
        self.newest = 0
        self.last_place: Place | None = None

    def teardown(self) -> None:
        self.subject.close()

    def at(self, numbers: tuple[int, int]) -> Place:
        return self.threads[numbers[0] % len(self.threads)], self.namespaces[numbers[1] % len(self.namespaces)]

    def filled(self, numbers: tuple[int, int], data: st.DataObject) -> Place:
        """A place that mostly holds something."""
        place = self.at(numbers)
        if place not in self.checkpoints and data.draw(st.integers(0, 4)):
            for _ in range(data.draw(st.integers(1, 4))):
                self.put_one(place, data)
        return place

    def both(self, method: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return call_now(self.model, method, *args, **kwargs), self.subject.call(method, *args, **kwargs)

    def next_version(self, thread: str, current: Any) -> Any:
        """A version that names one value only, as LangGraph's do."""
        match VERSION_KINDS[thread]:
            case "int":
                version: Any = len(self.versions) + 1
            case "float":
                version = len(self.versions) + 1.5
            case _:
                version = self.subject.saver.get_next_version(current, None)
                assert current is None or version > current
        assert version not in self.versions, "one version for two values: a fork would overwrite the other branch"
        self.versions.add(version)
        return version

    def new_id(self, data: st.DataObject, place: Place) -> str:
        choice = data.draw(st.sampled_from(["next", "next", "next", "anywhere", "odd", "awaited", "existing"]))
        if choice == "odd":
            return data.draw(st.sampled_from(ODD_IDS))
        if choice == "awaited" and (awaited := sorted(self.awaited.get(place, ()))):
            return data.draw(st.sampled_from(awaited))
        if choice == "existing" and (existing := sorted(self.checkpoints.get(place, ()))):
            return data.draw(st.sampled_from(existing))
        if choice == "anywhere":
            return f"{data.draw(st.integers(0, self.newest + 1)):08x}-{data.draw(st.integers(1, 9))}"
        self.newest += 1
        return f"{self.newest:08x}-0"

    def some_id(self, data: st.DataObject, place: Place) -> str:
        return data.draw(st.sampled_from([*sorted(self.checkpoints.get(place, ())), *NEVER_PUT]))

    def is_own_ancestor(self, place: Place, checkpoint_id: str, parent: str | None) -> bool:
        """Whether the put would close a circle, which would send any walk round forever."""
        while parent is not None and parent != checkpoint_id:
            parent = self.parents.get(place, {}).get(parent)
        return parent is not None

    def do_put(self, place: Place, put: tuple[Any, Any, Any, Any], full: Any) -> None:
        """Put on both; `full` is the checkpoint with the channels that `put` leaves out, for others to build on."""
        config, checkpoint, _, _ = put
        expected, actual = self.both("put", *put)
        assert expected == actual
        self.parents.setdefault(place, {})[checkpoint["id"]] = config["configurable"].get("checkpoint_id")
        self.checkpoints.setdefault(place, {})[checkpoint["id"]] = full
        self.puts.append((place, put, full))
        self.last_place = place

    @initialize(
        threads=st.lists(st.sampled_from(THREADS), min_size=1, max_size=2, unique=True),
        namespaces=st.lists(st.sampled_from(NAMESPACES), min_size=1, max_size=2, unique=True),
    )
    def choose_places(self, threads: list[str], namespaces: list[str]) -> None:
        """A few places, so that each comes to hold enough to be interesting."""
        self.threads, self.namespaces = threads, namespaces

    @rule()
    def another_saver(self) -> None:
        """From now on the calls go to the other saver, which knows the values of an earlier time."""
        self.subject.switch()

    @rule(numbers=places, times=st.integers(1, 4), data=st.data())
    def put(self, numbers: tuple[int, int], times: int, data: st.DataObject) -> None:
        for _ in range(times):
            self.put_one(self.at(numbers), data)

    def put_one(self, place: Place, data: st.DataObject) -> None:
        parentage = data.draw(st.sampled_from(["latest", "latest", "latest", "any", "none", "unknown"]))
        changed = data.draw(st.lists(st.sampled_from(CHANNELS), max_size=3, unique=True))
        thread, ns = place
        known = self.checkpoints.get(place, {})
        parent: str | None = None
        if parentage == "latest" and known:
            parent = max(known)
        elif parentage == "any" and known:
            parent = data.draw(st.sampled_from(sorted(known)))
        elif parentage == "unknown":
            parent = self.new_id(data, place)
            self.awaited.setdefault(place, set()).add(parent)
        checkpoint_id = self.new_id(data, place)
        if self.is_own_ancestor(place, checkpoint_id, parent):
            parent = None

        base = known.get(parent or "", {"channel_values": {}, "channel_versions": {}})
        values, versions = dict(base["channel_values"]), dict(base["channel_versions"])
        new_versions = {channel: self.next_version(thread, versions.get(channel)) for channel in changed}
        versions.update(new_versions)
        for channel in changed:
            if data.draw(st.integers(0, 4)) == 0:
                values.pop(channel, None)
            else:
                values[channel] = data.draw(successors(values.get(channel)))
        full = {
            "v": 4,
            "id": checkpoint_id,
            "ts": "2026-01-01T00:00:00+00:00",
            "channel_values": values,
            "channel_versions": versions,
            "versions_seen": {"__input__": {}, "node": dict(base["channel_versions"]), **WIDE},
            "updated_channels": data.draw(st.sampled_from([None, [], ["n"]])),
        }
        # An unchanged channel may be absent from the values, as DeltaChannel's are: its version still names its value.
        kept = [channel for channel in values if channel in changed or data.draw(st.booleans())]
        config = {"metadata": data.draw(extras), **config_of(thread, ns, parent)}
        config["configurable"] |= data.draw(extras)
        sent = {**full, "channel_values": {channel: values[channel] for channel in kept}}
        self.do_put(place, (config, sent, data.draw(metadata), new_versions), full)
        cached = self.subject.saver._operations.cache._known.values()
        type(self).deltas += sum(getattr(one, "deltas", 0) > 0 for one in cached)

    @rule(data=st.data())
    def put_again(self, data: st.DataObject) -> None:
        """A put repeated, right away or after others."""
        if not self.puts:
            return
        place, put, full = data.draw(st.sampled_from(self.puts[-5:]))
        if not self.is_own_ancestor(place, full["id"], put[0]["configurable"].get("checkpoint_id")):
            self.do_put(place, put, full)

    @rule(numbers=places, data=st.data())
    def copy(self, numbers: tuple[int, int], data: st.DataObject) -> None:
        """A copy of a checkpoint beside it, as `update_state(..., as_node="__copy__")` makes: no new versions."""
        place = self.filled(numbers, data)
        if not (known := self.checkpoints.get(place)):
            return
        original = data.draw(st.sampled_from(sorted(known)))
        parent = self.parents[place][original]
        checkpoint_id = self.new_id(data, place)
        if self.is_own_ancestor(place, checkpoint_id, parent):
            return
        copied = {**known[original], "id": checkpoint_id}
        self.do_put(place, (config_of(*place, parent), copied, {"source": "fork", "step": 1}, {}), copied)

    @rule(numbers=places, early=st.integers(0, 5).map(lambda n: n == 0), times=st.integers(1, 4), data=st.data())
    def put_writes(self, numbers: tuple[int, int], early: bool, times: int, data: st.DataObject) -> None:
        """The writes of several tasks to one checkpoint, which may not be there yet."""
        place = self.filled(numbers, data)
        known = sorted(self.checkpoints.get(place, ()))
        checkpoint_id = data.draw(st.sampled_from(known)) if known and not early else self.new_id(data, place)
        if checkpoint_id not in known:
            self.awaited.setdefault(place, set()).add(checkpoint_id)
        config = config_of(*place, checkpoint_id)
        for _ in range(times):
            task = [data.draw(task_ids), data.draw(task_paths)]
            arguments = task if task[1] or data.draw(st.booleans()) else task[:1]
            self.both("put_writes", config, data.draw(writes), *arguments)
        expected, actual = self.both("get_tuple", config)
        assert outline(expected) == outline(actual)

    @rule(numbers=places, really=st.integers(0, 5).map(lambda n: n == 0))
    def delete_thread(self, numbers: tuple[int, int], really: bool) -> None:
        if not really:
            return
        thread, _ = self.at(numbers)
        self.both("delete_thread", thread)
        for place in list(self.checkpoints):
            if place[0] == thread:
                del self.checkpoints[place]
        for place in list(self.parents):
            if place[0] == thread:
                del self.parents[place]
        # What was deleted is not put again: its channels' other values are gone.
        self.puts = [put for put in self.puts if put[0][0] != thread]

    @invariant()
    def latest_of_the_last_place(self) -> None:
        if self.last_place is not None:
            expected, actual = self.both("get_tuple", config_of(*self.last_place))
            assert outline(expected) == outline(actual)

    @rule(numbers=places, how=st.sampled_from(["latest", "empty id", "by id"]), data=st.data())
    def get_tuple(self, numbers: tuple[int, int], how: str, data: st.DataObject) -> None:
        place = self.filled(numbers, data)
        thread, ns = place
        checkpoint_id = {"latest": None, "empty id": ""}.get(how, "-") and self.some_id(data, place)
        config = config_of(thread, ns or data.draw(st.sampled_from(["", None])), checkpoint_id)
        expected, actual = self.both("get_tuple", config)
        assert outline(expected) == outline(actual)
        expected, actual = self.both("get", config)
        assert typed(expected) == typed(actual)

    @rule(
        numbers=places,
        channels=st.just(CHANNELS) | st.lists(st.sampled_from([*CHANNELS, ERROR, "never"]), max_size=4, unique=True),
        latest=st.booleans(),
        data=st.data(),
    )
    def get_delta_channel_history(
        self, numbers: tuple[int, int], channels: list[str], latest: bool, data: st.DataObject
    ) -> None:
        place = self.filled(numbers, data)
        config = config_of(*place, None if latest else self.some_id(data, place))
        expected, actual = self.both("get_delta_channel_history", config=config, channels=channels)
        assert {name: _typed_history(entry) for name, entry in expected.items()} == {
            name: _typed_history(entry) for name, entry in actual.items()
        }

    @rule(numbers=places, times=st.integers(1, 4), data=st.data())
    def listing(self, numbers: tuple[int, int], times: int, data: st.DataObject) -> None:
        for _ in range(times):
            self.list_once(self.filled(numbers, data), data)

    def list_once(self, place: Place, data: st.DataObject) -> None:
        thread, ns = place
        scope = data.draw(st.sampled_from(["all", "thread", "namespace", "id in thread", "id in namespace"]))
        config = None
        if scope != "all":
            named = self.some_id(data, place) if "id" in scope else None
            config = config_of(thread, ns if "namespace" in scope else None, named)
        before: Any = data.draw(st.sampled_from([None, None, {"configurable": {}}, "full", "id only"]))
        if before in ("full", "id only"):
            checkpoint_id = self.some_id(data, place)
            named_only = {"configurable": {"checkpoint_id": checkpoint_id}}
            before = named_only if before == "id only" else config_of(*place, checkpoint_id)
        wanted = self.draw_filter(data) if data.draw(st.booleans()) else data.draw(st.sampled_from([None, {}]))
        limit = data.draw(st.sampled_from([None, None, 0, 1, 2, 3, 100]))
        note(f"list({config}, filter={wanted}, before={before}, limit={limit})")
        matching = list(self.model.list(config, filter=wanted, before=before))
        assert_listed(self.subject.call("list", config, filter=wanted, before=before, limit=limit), matching, limit)

    def draw_filter(self, data: st.DataObject) -> dict[str, Any]:
        """A filter that some checkpoint meets, mostly; one that none may meet, else."""
        known: Any = [found.metadata for found in self.model.list(None) if found.metadata]
        if known and data.draw(st.integers(0, 3)):
            meta: Any = data.draw(st.sampled_from(known))
            keys = data.draw(st.lists(st.sampled_from(sorted(meta)), min_size=1, max_size=2))
            return {key: meta[key] for key in keys}
        return data.draw(
            st.dictionaries(
                st.sampled_from(["source", "step", *METADATA_KEYS]),
                plain.filter(_without_tuples),
                min_size=1,
                max_size=2,
            )
        )


def _typed_history(entry: Any) -> Any:
    return {"writes": [typed(list(write)) for write in entry["writes"]]} | (
        {"seed": typed(entry["seed"])} if "seed" in entry else {}
    )


def _without_tuples(value: Any) -> bool:
    """Metadata comes back with lists for tuples, and whether a tuple then matches a list is nowhere specified."""
    match value:
        case tuple():
            return False
        case list():
            return all(map(_without_tuples, value))
        case dict():
            return all(map(_without_tuples, value.values()))
        case _:
            return True


@pytest.mark.timeout(1200)  # finding the smallest failing history may take a while
@pytest.mark.parametrize("driver", [SyncSubject, AsyncSubject], ids=["sync", "async"])
def test_answers_as_the_in_memory_saver_does(server: Server, prefix: str, driver: type[Subject]) -> None:
    """Any history reads back in every form as it does from InMemorySaver."""
    numbers = itertools.count()

    class Machine(SaverMachine):
        @staticmethod
        def new_subject() -> Subject:
            number = next(numbers)
            options: dict[str, Any] = {"prefix": f"{prefix}-{number}", **OPTIONS[number % len(OPTIONS)]}
            return driver(*(RedisStreamSaver.from_conn_string(server.url, **options) for _ in range(2)))

    profile = settings.get_profile(os.environ.get("MACHINE_PROFILE", "machine"))
    run_state_machine_as_test(Machine, settings=profile)
    assert Machine.deltas > 0 or profile.max_examples < 100, "long runs come across deltas"


def checkpoint_of(
    checkpoint_id: str, values: dict[str, Any] | None = None, versions: dict[str, Any] | None = None
) -> Any:
    """A checkpoint with the least in it."""
    return {
        "v": 4,
        "id": checkpoint_id,
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values or {},
        "channel_versions": versions or {},
        "versions_seen": {},
        "updated_channels": None,
    }


def ids_of(found: Iterable[CheckpointTuple]) -> list[str]:
    return [one.checkpoint["id"] for one in found]


async def test_put_returns_the_config_of_what_it_stored(saver: RedisStreamSaver, call: Call) -> None:
    """The config from `put` names the three ids and nothing else."""
    config = config_of("t", "a", "1")
    config["configurable"]["user"] = "u"
    assert config_of("t", "a", "2") == await call(saver, "put", config, checkpoint_of("2"), {}, {})


async def test_latest_is_by_checkpoint_id_not_by_arrival(saver: RedisStreamSaver, call: Call) -> None:
    """A checkpoint with a smaller id that arrives later is not the latest."""
    for checkpoint_id in ["2", "10", "3", "1"]:
        await call(saver, "put", config_of("t", ""), checkpoint_of(checkpoint_id), {}, {})
    assert (await call(saver, "get_tuple", config_of("t"))).checkpoint["id"] == "3"
    assert ids_of(await call(saver, "list", config_of("t"))) == ["3", "2", "10", "1"]


async def test_list_orders_by_id_over_threads_and_namespaces(saver: RedisStreamSaver, call: Call) -> None:
    """Without a thread or a namespace, ids descend over all of them, and the limit counts over all of them."""
    for checkpoint_id, thread, ns in [("1", "a", ""), ("2", "b", "x"), ("3", "a", "x"), ("4", "c", ""), ("5", "a", "")]:
        await call(saver, "put", config_of(thread, ns), checkpoint_of(checkpoint_id), {}, {})
    assert ids_of(await call(saver, "list", None)) == ["5", "4", "3", "2", "1"]
    assert ids_of(await call(saver, "list", None, limit=3)) == ["5", "4", "3"]
    assert ids_of(await call(saver, "list", config_of("a"))) == ["5", "3", "1"]
    assert ids_of(await call(saver, "list", config_of("a", ""))) == ["5", "1"]


async def test_limit_counts_matches(saver: RedisStreamSaver, call: Call) -> None:
    """The filter and `before` come before the limit."""
    for step in range(8):
        meta = {"step": step, "source": "loop" if step % 2 else "update", "nested": {"even": [step % 2 == 0]}}
        await call(saver, "put", config_of("t", ""), checkpoint_of(str(step)), meta, {})
    before = config_of("t", "", "6")
    assert ids_of(await call(saver, "list", config_of("t"), filter={"source": "loop"}, before=before, limit=2)) == [
        "5",
        "3",
    ]
    assert ids_of(await call(saver, "list", config_of("t"), filter={"nested": {"even": [True]}}, limit=1)) == ["6"]
    assert ids_of(await call(saver, "list", config_of("t"), filter={"source": "loop", "step": 2})) == []
    assert ids_of(await call(saver, "list", config_of("t"), limit=0)) == []


async def test_first_ordinary_write_wins_and_last_special_one(saver: RedisStreamSaver, call: Call) -> None:
    """A repeated ordinary write changes nothing and longer repeats add their tail; special writes are replaced."""
    config = await call(saver, "put", config_of("t", ""), checkpoint_of("1"), {}, {})
    await call(saver, "put_writes", config, [("a", 1), (ERROR, "old")], "task")
    await call(saver, "put_writes", config, [("b", 2), (ERROR, "new"), ("c", 3), (RESUME, "r")], "task")
    found = await call(saver, "get_tuple", config)
    assert found.pending_writes == [
        ("task", RESUME, "r"),
        ("task", ERROR, "new"),
        ("task", "a", 1),
        ("task", "c", 3),
    ]


async def test_writes_before_their_checkpoint_are_kept(saver: RedisStreamSaver, call: Call) -> None:
    """An interrupt that is stored before its checkpoint is there once the checkpoint is."""
    await call(saver, "put_writes", config_of("t", "", "1"), [(INTERRUPT, "?")], "task")
    assert await call(saver, "get_tuple", config_of("t")) is None
    await call(saver, "put", config_of("t", ""), checkpoint_of("1"), {}, {})
    found = await call(saver, "get_tuple", config_of("t"))
    assert found.pending_writes == [("task", INTERRUPT, "?")]


async def test_writes_are_in_order_of_path_task_and_index(saver: RedisStreamSaver, call: Call) -> None:
    """Neither arrival nor task id alone decides the order of pending writes; ids order by code point."""
    config = await call(saver, "put", config_of("t", ""), checkpoint_of("1"), {}, {})
    arrivals = [("1", "~b"), ("2", "🙂"), ("2", "￿"), ("9", "~a"), ("5", ""), ("10", "~a")]
    for task_id, path in arrivals:
        await call(saver, "put_writes", config, [("n", path), ("m", path)], task_id + path, path)
    found = await call(saver, "get_tuple", config)
    ordered = sorted((path, task_id + path) for task_id, path in arrivals)
    assert [(task_id, channel, path) for path, task_id in ordered for channel in ("n", "m")] == found.pending_writes


async def test_a_version_names_its_value_in_any_branch(saver: RedisStreamSaver, call: Call) -> None:
    """A copy under the original's parent brings no new versions, and reads all of the original's values."""
    root = await call(saver, "put", config_of("t", ""), checkpoint_of("1", {"n": 0}, {"n": "1.a"}), {}, {"n": "1.a"})
    await call(saver, "put", root, checkpoint_of("2", {"n": 1}, {"n": "2.b"}), {}, {"n": "2.b"})
    await call(saver, "put", root, checkpoint_of("3", {"n": 2}, {"n": "2.c"}), {}, {"n": "2.c"})
    copied = await call(saver, "put", root, checkpoint_of("4", {"n": 1}, {"n": "2.b"}), {"source": "fork"}, {})
    found = await call(saver, "get_tuple", copied)
    assert ({"n": 1}, ids(root)) == (found.checkpoint["channel_values"], ids(found.parent_config))
    assert [one.checkpoint["channel_values"]["n"] for one in await call(saver, "list", config_of("t"))] == [1, 2, 1, 0]


async def test_forks_get_versions_of_their_own(saver: RedisStreamSaver) -> None:
    """Two branches from one version get two versions, both greater than it."""
    versions: list[Any] = [saver.get_next_version(None, None)]
    first, second = (saver.get_next_version(versions[0], None) for _ in range(2))
    assert first != second
    assert versions[0] < min(first, second)
    for _ in range(12):
        versions.append(saver.get_next_version(versions[-1], None))
    assert sorted(versions) == versions


async def test_an_emptied_channel_is_absent(saver: RedisStreamSaver, call: Call) -> None:
    """A channel with a new version and no value reads as absent, until it has a value again; None is a value."""
    config = config_of("t", "")
    steps: list[dict[str, Any]] = [{"n": [1]}, {}, {"n": None}, {"n": [1]}]
    for step, channel_values in enumerate(steps):
        version = {"n": f"{step:032}.0"}
        config = await call(saver, "put", config, checkpoint_of(str(step), channel_values, version), {}, version)
    assert list(reversed(steps)) == [
        one.checkpoint["channel_values"] for one in await call(saver, "list", config_of("t"))
    ]


async def test_a_checkpoint_put_again_is_replaced(saver: RedisStreamSaver, call: Call) -> None:
    """Another put of an id replaces checkpoint, metadata and parent, and keeps the pending writes."""
    await call(saver, "put", config_of("t", "", "0"), checkpoint_of("1", {"n": 1}, {"n": "1"}), {"step": 1}, {"n": "1"})
    await call(saver, "put_writes", config_of("t", "", "1"), [("n", 5)], "task")
    await call(saver, "put", config_of("t", ""), checkpoint_of("1", {"n": 2}, {"n": "2"}), {"step": 2}, {"n": "2"})
    (found,) = await call(saver, "list", config_of("t"))
    assert (
        found.checkpoint["channel_values"],
        found.metadata,
        found.parent_config,
        found.pending_writes,
    ) == ({"n": 2}, {"step": 2}, None, [("task", "n", 5)])


async def test_deleting_a_thread_leaves_its_neighbours(saver: RedisStreamSaver, call: Call) -> None:
    """Ids that look like patterns or prefixes of one another are ids."""
    names = ["t", "t*", "t:a", "t|a", "?", "{t}", "t\x00", "T", "é🙂"]
    for name in names:
        for ns in ["", "t"]:
            config = await call(saver, "put", config_of(name, ns), checkpoint_of("1"), {}, {})
            await call(saver, "put_writes", config, [("n", 1)], "task")
    for count, name in enumerate(names, 1):
        await call(saver, "delete_thread", name)
        assert await call(saver, "get_tuple", config_of(name)) is None
        assert {(other, ns) for other in names[count:] for ns in ["", "t"]} == {
            (found.config["configurable"]["thread_id"], found.config["configurable"]["checkpoint_ns"])
            for found in await call(saver, "list", None)
        }


async def test_delta_history_ends_with_the_writes_on_its_seed(saver: RedisStreamSaver, call: Call) -> None:
    """The walk takes the writes of each ancestor on the path, those on the seed's included, and none of another branch."""
    config = config_of("t", "")
    for step in range(5):
        versions = {"log": "1.0"} if step == 1 else {}
        checkpoint = checkpoint_of(str(step), {"log": ["seed"]} if versions else {}, versions)
        if step > 1:
            checkpoint["channel_versions"] = {"log": f"{step}.0"}  # written, not snapshotted
        config = await call(saver, "put", config, checkpoint, {}, checkpoint["channel_versions"])
        await call(saver, "put_writes", config, [("log", f"b{step}"), ("n", step)], "2", "~b")
        await call(saver, "put_writes", config, [("log", f"a{step}")], "9", "~a")
    fork = await call(saver, "put", config_of("t", "", "2"), checkpoint_of("5"), {}, {})
    expected = [("9", "log", "a1"), ("2", "log", "b1"), ("9", "log", "a2"), ("2", "log", "b2")]
    for target, writes_on_path in [
        (fork, expected),
        (config, [*expected, ("9", "log", "a3"), ("2", "log", "b3")]),
    ]:
        found = await call(saver, "get_delta_channel_history", config=target, channels=["log", "n", "never"])
        assert found["log"] == {"writes": writes_on_path, "seed": ["seed"]}
        assert found["never"] == {"writes": []}
        assert [value for _, _, value in found["n"]["writes"]] == list(range(len(writes_on_path) // 2 + 1))
    assert await call(saver, "get_delta_channel_history", config=fork, channels=[]) == {}


async def test_a_deleted_thread_starts_from_nothing(saver: RedisStreamSaver, call: Call) -> None:
    """A thread that is used again after it was deleted has none of its old writes or values."""
    version = {"n": "1"}
    config = await call(saver, "put", config_of("t", ""), checkpoint_of("1", {"n": 1}, version), {}, version)
    await call(saver, "put_writes", config, [("n", 1)], "task")
    await call(saver, "put_writes", config_of("t", "", "2"), [("n", 1)], "task")
    await call(saver, "delete_thread", "t")
    for checkpoint_id in ["1", "2"]:
        checkpoint = checkpoint_of(checkpoint_id, {}, version)
        await call(saver, "put", config_of("t", "", "1"), checkpoint, {}, {})
        found = await call(saver, "get_tuple", config_of("t"))
        assert (found.checkpoint["channel_values"], found.pending_writes) == ({}, [])


async def test_values_round_trip_where_their_length_prefix_grows(saver: RedisStreamSaver, call: Call) -> None:
    """Lists and texts that grow or shrink past a msgpack header's size come back as they were."""
    config = config_of("t", "")
    sizes = [0, 15, 16, 17, 16, 15, 255, 256, 65_535, 65_536, 65_535, 32, 31]
    for step, size in enumerate(sizes):
        values = {"list": [0] * size, "text": "x" * size, "map": {str(n): n for n in range(min(size, 300))}}
        versions = dict.fromkeys(values, f"{step:032}.0")
        config = await call(saver, "put", config, checkpoint_of(f"{step:02}", values, versions), {}, versions)
        assert values == (await call(saver, "get", config_of("t")))["channel_values"]
    for step, size in enumerate(sizes):
        found = await call(saver, "get", config_of("t", "", f"{step:02}"))
        assert (size, size) == (len(found["channel_values"]["list"]), len(found["channel_values"]["text"]))


async def test_metadata_takes_in_the_config(saver: RedisStreamSaver, call: Call) -> None:
    """Plain values of config metadata and configurable join the metadata; LangGraph's own and private keys do not."""
    config = config_of("t", "")
    config["configurable"] |= {"user": "u\x00v", "__pregel_x": object(), "langgraph_step": 3, "tags": ["no"]}
    config["metadata"] = {"step": 9, "score": 1.0, "ok": True, "none": None}
    await call(saver, "put", config, checkpoint_of("1"), {"step": 1, "parents": {"": "0"}, "pair": (1, 2)}, {})
    found = await call(saver, "get_tuple", config_of("t"))
    assert typed({"step": 1, "parents": {"": "0"}, "pair": [1, 2], "score": 1.0, "ok": True, "user": "uv"}) == typed(
        found.metadata
    )


async def test_long_messages_survive_edits(saver: RedisStreamSaver, call: Call) -> None:
    """A conversation that grows, is summarised and edited reads back the same at every checkpoint."""
    config = config_of("t", "")
    state: list[Any] = []
    states = []
    for step in range(40):
        if step % 11 == 10:
            state = [HumanMessage("summary", id=f"s{step}"), *state[-2:]]
        elif step % 7 == 6:
            state = [*state[:1], HumanMessage("edited " * 50, id=f"e{step}"), *state[2:]]
        state = [*state, HumanMessage(f"{step} " * 200, id=str(step))]
        states.append(state)
        versions = {"messages": f"{step:032}.0"}
        config = await call(
            saver, "put", config, checkpoint_of(f"{step:02}", {"messages": state}, versions), {"step": step}, versions
        )
    found = await call(saver, "list", config_of("t"))
    assert list(reversed(states)) == [one.checkpoint["channel_values"]["messages"] for one in found]

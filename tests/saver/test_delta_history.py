"""`get_delta_channel_history`: the same answers as `InMemorySaver`, and those that LangGraph's contract asks for.

`langgraph-checkpoint-conformance` 0.0.2 lacks this capability. Its later versions check the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from langgraph._internal._typing import MISSING
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from saver import RedisStreamSaver
from tests.saver.drivers import Call
from tests.saver.threads import config, step

NO_SEED = "no seed"
Answer = tuple[Any, list[Any]]
"""The seed of a channel, and the values of its writes."""


class Chain:
    """A thread that the saver under test and the reference both have, checkpoint by checkpoint."""

    def __init__(self, call: Call, saver: RedisStreamSaver, namespace: str = "") -> None:
        self.ids: list[str] = []
        self._call = call
        self._namespace = namespace
        self._savers: tuple[RedisStreamSaver, InMemorySaver] = (saver, InMemorySaver())

    async def add(self, stored: Mapping[str, Any] | None = None, *, parent: str | None = None, **writes: Any) -> str:
        """Puts a checkpoint that stores these values, by default after the last, with a write to each channel; its id."""
        parent = parent or (self.ids[-1] if self.ids else None)
        number = len(self.ids) + 1
        checkpoint, metadata, _ = step(dict(stored or {}), step=number)
        checkpoint["ts"] = ""
        versions = dict.fromkeys(stored or (), number)
        checkpoint["channel_versions"] = dict(versions)
        self.ids.append(checkpoint["id"])
        for saver in self._savers:
            given = config("t", self._namespace, parent)
            await self._call(saver, "put", given, {**checkpoint}, metadata, dict(versions))
        for channel, value in writes.items():
            await self.write(self.ids[-1], channel, value, f"task {channel}")
        return self.ids[-1]

    async def write(self, checkpoint_id: str, channel: str, value: Any, task: str, *path: str) -> None:
        """Puts a task's write to a checkpoint."""
        given = config("t", self._namespace, checkpoint_id)
        for saver in self._savers:
            await self._call(saver, "put_writes", given, [(channel, value)], task, *path)

    async def found(self, *channels: str, at: str | None = None) -> dict[str, Any]:
        """The history at a checkpoint, by default the latest, once all that tell it are seen to agree.

        These are the saver, the reference, and LangGraph's own walk over `get_tuple`, which its server uses.
        """
        wanted = {"config": config("t", self._namespace, at), "channels": list(channels)}
        saver, reference = self._savers
        told = [
            await self._call(one, "get_delta_channel_history", **wanted)
            for one in (saver, reference, super(RedisStreamSaver, saver))
        ]
        assert told[0] == told[1] == told[2]
        return dict(told[0])

    async def history(self, *channels: str, at: str | None = None) -> Any:
        """Seed and written values of each channel; of one channel without its name."""
        answers: dict[str, Answer] = {}
        for channel, one in (await self.found(*channels, at=at)).items():
            assert {name for _, name, _ in one["writes"]} <= {channel}
            answers[channel] = (one.get("seed", NO_SEED), [value for *_, value in one["writes"]])
        return answers[channels[0]] if len(channels) == 1 else answers


@pytest.fixture
def chain(saver: RedisStreamSaver, call: Call) -> Chain:
    """An empty thread on each server in turn."""
    return Chain(call, saver)


async def test_writes_come_oldest_first(chain: Chain) -> None:
    """Writes between the snapshot and the target come in the order of their checkpoints."""
    await chain.add({"ch": _DeltaSnapshot(["start"])})
    for number in range(1, 5):
        await chain.add(ch=[number])
    assert await chain.history("ch") == (_DeltaSnapshot(["start"]), [[1], [2], [3]])


async def test_the_nearest_stored_value_is_the_seed(chain: Chain) -> None:
    """Of two snapshots the nearer one counts, and what came before it does not; a target further back has the other one."""
    await chain.add({"ch": _DeltaSnapshot("old")})
    await chain.add(ch="before")
    await chain.add({"ch": _DeltaSnapshot("new")})
    await chain.add(ch="after")
    await chain.add(ch="of the target")
    assert await chain.history("ch") == (_DeltaSnapshot("new"), ["after"])
    assert await chain.history("ch", at=chain.ids[3]) == (_DeltaSnapshot("new"), [])
    assert await chain.history("ch", at=chain.ids[2]) == (_DeltaSnapshot("old"), ["before"])


async def test_what_the_target_has_does_not_count(chain: Chain) -> None:
    """Neither a target's pending writes nor its own stored value are part of its history."""
    await chain.add({"ch": _DeltaSnapshot("seed")}, ch="first")
    target = await chain.add({"ch": _DeltaSnapshot("own")}, ch="pending")
    await chain.write(target, "ch", "pending too", "another task")
    assert await chain.history("ch") == (_DeltaSnapshot("seed"), ["first"])


async def test_each_channel_ends_at_its_own_seed(chain: Chain) -> None:
    """Channels of one call go back to different checkpoints, and one of them to the root."""
    await chain.add(a=0, b=0, c=0)
    await chain.add({"a": _DeltaSnapshot("of a")}, a=1, b=1, c=1)
    await chain.add(a=2, b=2)
    await chain.add({"b": _DeltaSnapshot("of b")}, a=3, b=3)
    await chain.add(a=4, b=4, c=4)
    assert await chain.history("a", "b", "c", "never written") == {
        "a": (_DeltaSnapshot("of a"), [1, 2, 3]),
        "b": (_DeltaSnapshot("of b"), [3]),
        "c": (NO_SEED, [0, 1]),
        "never written": (NO_SEED, []),
    }


async def test_no_channels_no_history(chain: Chain) -> None:
    """Without channels the answer is empty, also for a thread that does not exist."""
    assert await chain.found() == {}
    await chain.add({"ch": 1})
    await chain.add()
    assert await chain.found() == {}


async def test_no_seed_up_to_the_root(chain: Chain) -> None:
    """Where no ancestor stores a value all writes up to the root come, and no seed; the root itself has neither."""
    for number in range(4):
        await chain.add(ch=number)
    assert await chain.history("ch") == (NO_SEED, [0, 1, 2])
    assert await chain.history("ch", at=chain.ids[0]) == (NO_SEED, [])


@pytest.mark.parametrize("plain", [[10, 20], [], 0, None], ids=repr)
async def test_a_plain_value_is_a_seed(chain: Chain, plain: Any) -> None:
    """A value of the channel's type before it became a delta channel ends the walk, an empty one and None too."""
    await chain.add({"ch": "older"}, ch="subsumed")
    await chain.add({"ch": plain}, ch="at the seed")
    await chain.add(ch="after the seed")
    await chain.add(ch="pending")
    assert await chain.history("ch") == (plain, ["at the seed", "after the seed"])


async def test_writes_of_one_step_come_by_task_path(chain: Chain) -> None:
    """Parallel tasks' writes come in the order of their paths, whatever their ids; those without a path, an input's, first."""
    await chain.add({"ch": _DeltaSnapshot("seed")})
    parallel = await chain.add()
    await chain.write(parallel, "ch", "second", "a task", "~pull, 02")
    await chain.write(parallel, "ch", "first", "z task", "~pull, 01")
    await chain.write(parallel, "ch", "input", "zz task")
    await chain.write(parallel, "other", "of another channel", "b task", "~pull, 03")
    await chain.add()
    assert await chain.history("ch") == (_DeltaSnapshot("seed"), ["input", "first", "second"])


async def test_forks_have_histories_of_their_own(chain: Chain) -> None:
    """Only ancestors of the target count, not what was put between them on another branch."""
    root = await chain.add({"ch": _DeltaSnapshot("seed")}, ch="shared")
    left = await chain.add(ch="left")
    right = await chain.add(parent=root, ch="right")
    left_end = await chain.add(parent=left)
    right_end = await chain.add(parent=right)
    assert await chain.history("ch", at=left_end) == (_DeltaSnapshot("seed"), ["shared", "left"])
    assert await chain.history("ch", at=right_end) == (_DeltaSnapshot("seed"), ["shared", "right"])
    assert await chain.history("ch") == await chain.history("ch", at=right_end)


async def test_namespaces_have_histories_of_their_own(saver: RedisStreamSaver, call: Call) -> None:
    """A subgraph's history takes nothing from the root's."""
    chains = [Chain(call, saver, namespace) for namespace in ("", "child:1")]
    for number in range(3):
        for name, chain in zip("rc", chains, strict=True):
            await chain.add({"ch": _DeltaSnapshot(name)} if number == 0 else None, ch=f"{name} {number}")
    for name, chain in zip("rc", chains, strict=True):
        assert await chain.history("ch") == (_DeltaSnapshot(name), [f"{name} 0", f"{name} 1"])


async def test_no_such_target_no_history(chain: Chain) -> None:
    """A thread or checkpoint that does not exist has neither seed nor writes."""
    assert await chain.history("ch") == (NO_SEED, [])
    await chain.add({"ch": 1}, ch=2)
    assert await chain.history("ch", at="1f000000-0000-6000-8000-000000000000") == (NO_SEED, [])


@pytest.mark.parametrize("snapshots", [[], [0], [0, 3]], ids=str)
async def test_a_channel_is_rebuilt_from_its_history(chain: Chain, snapshots: list[int]) -> None:
    """LangGraph's own `DeltaChannel` has every value again that it had, whichever snapshots there are."""
    value: list[int] = []
    for number in range(6):
        await chain.add({"ch": _DeltaSnapshot(list(value))} if number in snapshots else None, ch=[number, -number])
        one = (await chain.found("ch", at=chain.ids[-1]))["ch"]
        channel: Any = DeltaChannel(lambda state, writes: [*state, *(item for write in writes for item in write)], list)
        rebuilt = channel.from_checkpoint(one.get("seed", MISSING))
        rebuilt.replay_writes(one["writes"])
        assert rebuilt.get() == value
        value += [number, -number]

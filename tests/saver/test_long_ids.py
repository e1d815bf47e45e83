"""Ids and names that are too long, and puts of too many parts: refused before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import Checkpoint

from eventlog import ActivityFeed, Limits, OverLimit
from saver import RedisStreamSaver
from tests.saver.drivers import Call
from tests.saver.threads import config, step
from tests.servers import Server

NOWHERE = "redis://localhost:1"
"""No server: a request would end in another error."""
LONG = "é" * 32_769
"""Two bytes more than an id may have."""
CHECKPOINT, METADATA, VERSIONS = step({"a": 1})


def checkpoint(**changes: Any) -> Checkpoint:
    """A checkpoint with changes."""
    changed: Any = {**CHECKPOINT, **changes}
    return changed  # type: ignore[no-any-return]


CALLS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "get: thread": ("get_tuple", (config(LONG),), {}),
    "get: namespace": ("get_tuple", (config("t", LONG),), {}),
    "get: checkpoint": ("get_tuple", (config("t", checkpoint_id=LONG),), {}),
    "as of: thread": ("get_tuple_as_of", (config(LONG), 1), {}),
    "as of: namespace": ("get_tuple_as_of", (config("t", LONG), 1), {}),
    "list: thread": ("list", (config(LONG),), {}),
    "list: namespace": ("list", (config("t", LONG),), {}),
    "list: before": ("list", (config("t"),), {"before": config("t", checkpoint_id=LONG)}),
    "replay": ("replay", (LONG,), {}),
    "replay: namespace": ("replay", ("t",), {"namespace": LONG}),
    "history: thread": ("get_delta_channel_history", (), {"config": config(LONG), "channels": ["a"]}),
    "history: channel": ("get_delta_channel_history", (), {"config": config("t"), "channels": ["a", LONG]}),
    "put: thread": ("put", (config(LONG), CHECKPOINT, METADATA, VERSIONS), {}),
    "put: namespace": ("put", (config("t", LONG), CHECKPOINT, METADATA, VERSIONS), {}),
    "put: parent": ("put", (config("t", checkpoint_id=LONG), CHECKPOINT, METADATA, VERSIONS), {}),
    "put: id": ("put", (config("t"), checkpoint(id=LONG), METADATA, VERSIONS), {}),
    "put: channel": ("put", (config("t"), *step({LONG: 1})), {}),
    "put: version": ("put", (config("t"), checkpoint(channel_versions={"a": LONG}), METADATA, {}), {}),
    "put: new version": ("put", (config("t"), CHECKPOINT, METADATA, {"a": LONG}), {}),
    "put: run": ("put", (config("t"), CHECKPOINT, {**METADATA, "run_id": LONG}, VERSIONS), {}),
    "put: source": ("put", (config("t"), CHECKPOINT, {**METADATA, "source": LONG}, VERSIONS), {}),
    "writes: thread": ("put_writes", (config(LONG, checkpoint_id="1"), [("a", 1)], "task"), {}),
    "writes: checkpoint": ("put_writes", (config("t", checkpoint_id=LONG), [("a", 1)], "task"), {}),
    "writes: task": ("put_writes", (config("t", checkpoint_id="1"), [("a", 1)], LONG), {}),
    "writes: path": ("put_writes", (config("t", checkpoint_id="1"), [("a", 1)], "task", LONG), {}),
    "writes: channel": ("put_writes", (config("t", checkpoint_id="1"), [(LONG, 1)], "task"), {}),
    "delete": ("delete_thread", (LONG,), {}),
    "delete runs": ("delete_for_runs", (["run", LONG],), {}),
    "copy: source": ("copy_thread", (LONG, "t"), {}),
    "copy: target": ("copy_thread", ("t", LONG), {}),
    "prune": ("prune", ([LONG],), {}),
    "prune: delete": ("prune", (["t", LONG],), {"strategy": "delete"}),
    "verify": ("verify", (LONG,), {}),
    "check": ("check", (LONG,), {}),
    "rebuild": ("rebuild", (LONG,), {}),
    "export": ("export_threads", ("file", ["t", LONG]), {}),
    "import": ("import_threads", ("file", [LONG]), {}),
    "archive": ("archive_thread", (LONG, "file"), {}),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_long_id_in_a_call(call: Call, name: str) -> None:
    """Every method names the field, the beginning of the id, its length, the limit and the setting, and asks no server."""
    method, args, kwargs = CALLS[name]
    async with RedisStreamSaver.from_conn_string(NOWHERE) as saver:
        with pytest.raises(OverLimit) as caught:
            await call(saver, method, *args, **kwargs)
    message = str(caught.value)
    assert "65,53" in message
    assert "above the limit of 65,536 for an id" in message
    assert "limits=Limits(id_bytes=6553" in message
    assert len(message) < 500


@pytest.mark.parametrize(("limits", "kind"), [(7, TypeError), ({"id_bytes": 7}, TypeError)])
def test_limits_of_another_type(limits: Any, kind: type[Exception]) -> None:
    """A saver takes `Limits`."""
    with pytest.raises(kind, match="limits must be Limits"):
        RedisStreamSaver.from_conn_string(NOWHERE, limits=limits)


async def test_too_many_parts(call: Call) -> None:
    """A put of so many channels, or writes, that it would hold up the server is refused."""
    many = {f"c{number}": 1 for number in range(11)}
    async with RedisStreamSaver.from_conn_string(NOWHERE, limits=Limits(put_parts=10)) as saver:
        with pytest.raises(
            OverLimit, match=r"thread 't': a put has 11 channels or nodes, above the limit of 10.*put_parts=11"
        ):
            await call(saver, "put", config("t"), *step(many))
        with pytest.raises(OverLimit, match=r"thread 't': a put has 11 writes, above"):
            await call(saver, "put_writes", config("t", checkpoint_id="1"), list(many.items()), "task")


@pytest.mark.parametrize("name", ["thread", "namespace", "node"])
def test_a_long_name_in_a_filter(name: str) -> None:
    """Tails and groups refuse it."""
    feed: Any = ActivityFeed.from_conn_string(NOWHERE)
    generous: Any = ActivityFeed.from_conn_string(NOWHERE, limits=Limits(id_bytes=10**6))
    with pytest.raises(OverLimit, match=f"^{name} 'é"):
        feed.tail(**{name: ["short", LONG]})
    with pytest.raises(OverLimit, match=f"^{name} 'é"):
        feed.group("g", **{name: LONG})
    feed.tail(**{name: LONG[:1000]})
    generous.tail(**{name: LONG})


def test_long_names_of_groups_and_members() -> None:
    """They are refused like ids."""
    feed = ActivityFeed.from_conn_string(NOWHERE)
    with pytest.raises(OverLimit, match="^group 'é"):
        feed.group(LONG)
    with pytest.raises(OverLimit, match="^group 'é"):
        feed.drop_group(LONG)
    with pytest.raises(OverLimit, match="^member 'é"):
        feed.group("g").member(LONG)


def test_long_names_in_a_group(any_server: Server, prefix: str) -> None:
    """The thread of a parked event, and the key of an effect, are refused where the group is known."""
    with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver,
        ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed,
    ):
        saver.put(config("t"), CHECKPOINT, METADATA, VERSIONS)
        group = feed.group("g")
        group.register()
        for refused in (group.retry, group.skip, group.effect_keys):
            with pytest.raises(OverLimit, match="'é"):
                refused(LONG)
        with group.member("m") as member:
            for _ in member:
                with pytest.raises(OverLimit, match="effect key 'é"):
                    member.effect("SET", LONG, 1)
                break


def test_longer_ids_that_are_stored(
    one_saver: RedisStreamSaver, any_server: Server, prefix: str, tmp_path: Path
) -> None:
    """With a higher limit they are read, copied and imported; without it each says so, and lists leave the thread out."""
    limits = Limits(id_bytes=70_000)
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, limits=limits) as wide:
        wide.put(config(LONG), CHECKPOINT, METADATA, VERSIONS)
        wide.put(config("t", LONG), CHECKPOINT, METADATA, VERSIONS)
        wide.copy_thread("t", "copy")
        wide.export_threads(tmp_path / "e", ["t"])
        wide.export_threads(tmp_path / "long", [LONG])
        assert len(list(wide.list(None))) == 3
        assert LONG not in {one.config["configurable"]["thread_id"] for one in one_saver.list(None)}
        for refused in (
            lambda: list(one_saver.list(config(LONG))),
            lambda: one_saver.copy_thread("t", "other"),
            lambda: one_saver.import_threads(tmp_path / "e"),
            lambda: one_saver.import_threads(tmp_path / "long"),
        ):
            with pytest.raises(OverLimit, match="id_bytes=65538"):
                refused()
        for thread in (LONG, "t", "copy"):
            wide.delete_thread(thread)
        assert wide.import_threads(tmp_path / "e").threads == 1
        assert wide.import_threads(tmp_path / "long").threads == 1

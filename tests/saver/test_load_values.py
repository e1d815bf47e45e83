"""The values behind an activity of the feed, through the saver's serializer."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from eventlog import ActivityFeed, EventGone
from saver import RedisStreamSaver
from tests.saver.drivers import Call
from tests.saver.threads import config, follow, step
from tests.servers import Server


async def activities(saver: RedisStreamSaver, server: Server, prefix: str) -> list[Any]:
    with ActivityFeed.from_conn_string(server.url, prefix=prefix) as feed:
        return list(feed.tail("beginning", follow=False))


async def test_values_are_what_the_event_brought(
    server: Server, prefix: str, saver: RedisStreamSaver, call: Call
) -> None:
    """Of each event its own values, typed, and no others."""
    first = step({"a": Decimal("1.5"), "b": [1, 2]})
    saver.put(config("t"), *first)
    checkpoint_id = first[0]["id"]
    saver.put_writes(config("t", "", checkpoint_id), [("b", 3), ("c", {"k": b"x"}), ("b", 4)], "task")
    second = follow(first, {"b": [1, 2, 3]})
    second[0]["channel_versions"]["b"] = second[2]["b"] = "b2"
    saver.put(config("t", "", checkpoint_id), *second)
    brought = [list(await call(saver, "load_values", one)) for one in await activities(saver, server, prefix)]
    assert brought == [
        [("a", Decimal("1.5")), ("b", [1, 2])],
        [("b", 3), ("c", {"k": b"x"}), ("b", 4)],
        [("b", [1, 2, 3])],
    ]


async def test_very_wide_states_and_encrypted_ones(any_server: Server, prefix: str) -> None:
    """Values that overflow into entries of their own, and ones that only the key reads."""
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"k" * 16)
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, serde=serde) as saver:
        saver.put(config("t"), *step({f"c{number}": number for number in range(2500)}))
        (activity,) = await activities(saver, any_server, prefix)
        assert sorted(saver.load_values(activity)) == sorted((f"c{number}", number) for number in range(2500))
        assert len(activity.channels) == 64


async def test_what_is_gone_says_so(any_server: Server, prefix: str, one_saver: RedisStreamSaver, call: Call) -> None:
    """Pruned, saved again, deleted: a typed error with its reason; other kinds bring nothing."""
    first = step({"a": 1})
    one_saver.put(config("t"), *first)
    second = follow(first, {"a": 2})
    one_saver.put(config("t", "", first[0]["id"]), *second)
    again = follow(first, {"a": 3}, step=7)
    again[0]["id"] = second[0]["id"]
    one_saver.put(config("t", "", first[0]["id"]), *again)
    one_saver.prune(["t"])
    old, replaced, kept, pruned = await activities(one_saver, any_server, prefix)
    for gone in (old, replaced):
        with pytest.raises(EventGone) as found:
            await call(one_saver, "load_values", gone)
        assert found.value.reason == "pruned"
    assert list(await call(one_saver, "load_values", kept)) == [("a", 3)]
    assert list(await call(one_saver, "load_values", pruned)) == []
    one_saver.delete_thread("t")
    *_, tombstone = await activities(one_saver, any_server, prefix)
    for gone in (kept, tombstone):
        with pytest.raises(EventGone) as found:
            await call(one_saver, "load_values", gone)
        assert found.value.reason == "deleted"

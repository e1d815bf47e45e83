"""Savers that are closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio

from eventlog.errors import SaverClosed
from saver import RedisStreamSaver
from tests.saver.audit import config, number_of, put_of
from tests.saver.drivers import Call
from tests.servers import Server

METHODS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "get_tuple": lambda: (config("t"),),
    "list": lambda: (None,),
    "put": lambda: put_of("t", 2, 1),
    "put_writes": lambda: (config("t", 1), [("n", 1)], "task"),
    "delete_thread": lambda: ("t",),
    "delete_for_runs": lambda: (["r"],),
    "copy_thread": lambda: ("t", "copy"),
    "prune": lambda: (["t"],),
    "setup": tuple,
}


@pytest.mark.parametrize("how", ["with", "async with", "close", "aclose"])
async def test_a_closed_saver_says_so(any_server: Server, prefix: str, call: Call, how: str) -> None:
    """After its `with` block, or `close`, every method of a saver that opened its connections raises `SaverClosed`."""
    saver = RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix)
    if how == "with":
        with saver:
            saver.put(*put_of("t", 1))
    elif how == "async with":
        async with saver:
            await saver.aput(*put_of("t", 1))
    else:
        await call(saver, "put", *put_of("t", 1))
        if how == "close":
            saver.close()
        else:
            await saver.aclose()
    for method, arguments in METHODS.items():
        with pytest.raises(SaverClosed, match="closed"):
            await call(saver, method, *arguments())
    with pytest.raises(SaverClosed, match="closed"):
        await call(saver, "get_delta_channel_history", config=config("t"), channels=["n"])
    await saver.aclose()
    async with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as other:
        assert [number_of(found) for found in other.list(None)] == [1]


async def test_a_saver_on_given_connections_goes_on(any_server: Server, prefix: str, call: Call) -> None:
    """Connections that a saver was given are not its to close: after `close` it works as before."""
    with redis.Redis.from_url(any_server.url) as given:
        async with redis.asyncio.Redis.from_url(any_server.url) as twin:
            with RedisStreamSaver(given, twin, prefix=prefix) as saver:
                await call(saver, "put", *put_of("t", 1))
            await call(saver, "put", *put_of("t", 2, 1))
            saver.close()
            await saver.aclose()
            assert [number_of(found) for found in await call(saver, "list", config("t"))] == [2, 1]
            assert number_of(await call(saver, "get_tuple", config("t"))) == 2

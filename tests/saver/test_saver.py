"""The saver's face: what its docstrings promise, and its set-up in every way of calling it."""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import redis
import redis.asyncio

from eventlog.errors import LayoutMismatch, NoSyncConnection
from projections.integrity import verify
from projections.log import pages
from projections.time_travel import replay
from projections.transfer import copy, export, import_
from saver import RedisStreamSaver, SaverOptions
from tests.saver.conftest import Server
from tests.saver.threads import config

OTHER_PARTITIONS = 4
Opened = Callable[..., RedisStreamSaver]


def stated(module: ModuleType, entries: str = "PAGE", size: str = "PAGE_BYTES") -> str:
    """How a docstring gives the size of a module's pages."""
    return f"{getattr(module, entries)} events or {getattr(module, size) // 2**20} MiB"


@pytest.mark.parametrize(
    ("method", "page"),
    [
        ("verify", stated(verify)),
        ("replay", stated(replay)),
        ("copy_thread", stated(copy)),
        ("export_threads", stated(export)),
        ("import_threads", stated(import_)),
        ("get_tuple_as_of", stated(pages, "SCAN", "SCAN_BYTES")),
        ("prune", stated(pages, "SCAN", "SCAN_BYTES")),
        ("check", stated(pages, "SCAN", "SCAN_BYTES")),
        ("rebuild", stated(pages, "SCAN", "SCAN_BYTES")),
    ],
)
def test_docstrings_state_the_size_of_a_page(method: str, page: str) -> None:
    """The events and bytes per round trip in a docstring are those that the code reads."""
    assert page in " ".join(str(getattr(RedisStreamSaver, method).__doc__).split())


def test_every_option_is_stated_everywhere() -> None:
    """The docstring of the class and the parameters of `from_conn_string` have the options of `SaverOptions`."""
    options = list(SaverOptions.__annotations__)
    stated = str(inspect.getdoc(RedisStreamSaver)).partition("Options:")[2]
    assert re.findall(r"^    (\w+):", stated, re.MULTILINE)[: len(options)] == options
    parameters = inspect.signature(RedisStreamSaver.from_conn_string).parameters.values()
    assert [one.name for one in parameters if one.kind is one.KEYWORD_ONLY] == options


def test_an_unknown_option_is_refused() -> None:
    """An option that no saver has is a TypeError that names it and those there are."""
    options: Any = {"partition": 1}
    with pytest.raises(TypeError, match=r"'?partition'?.*prefix, partitions"):
        RedisStreamSaver(redis.Redis(), **options)


def on_url(url: str, **options: Any) -> RedisStreamSaver:
    return RedisStreamSaver.from_conn_string(url, **options)


def on_sync(url: str, **options: Any) -> RedisStreamSaver:
    return RedisStreamSaver(redis.Redis.from_url(url), **options)


def on_async(url: str, **options: Any) -> RedisStreamSaver:
    return RedisStreamSaver(async_connection=redis.asyncio.Redis.from_url(url), **options)


def on_both(url: str, **options: Any) -> RedisStreamSaver:
    return RedisStreamSaver(redis.Redis.from_url(url), redis.asyncio.Redis.from_url(url), **options)


async def release(*savers: RedisStreamSaver) -> None:
    """Closes savers and the connections they were given."""
    for saver in savers:
        await saver.aclose()
        if saver._connections._given_sync is not None:
            saver._connections._given_sync.close()
        if saver._connections._given_async is not None:
            await saver._connections._given_async.aclose()


def is_set_up(server: Server, prefix: str) -> bool:
    with redis.Redis.from_url(server.url) as client:
        return bool(client.exists(f"{prefix}:meta"))


@pytest.mark.parametrize("opened", [on_url, on_sync, on_both])
def test_setup_without_an_event_loop(any_server: Server, prefix: str, opened: Opened) -> None:
    """Outside an event loop `setup()` checks at once, and raises its error there."""
    saver = opened(any_server.url, prefix=prefix)
    other = opened(any_server.url, prefix=prefix, partitions=OTHER_PARTITIONS)
    saver.setup()
    assert is_set_up(any_server, prefix)
    with pytest.raises(LayoutMismatch):
        other.setup()
    asyncio.run(release(saver, other))


@pytest.mark.parametrize("opened", [on_url, on_sync, on_both])
async def test_setup_in_an_event_loop(any_server: Server, prefix: str, opened: Opened) -> None:
    """Where sync calls work, `setup()` checks at once in an event loop, too, and its result may be awaited."""
    saver = opened(any_server.url, prefix=prefix)
    other = opened(any_server.url, prefix=prefix, partitions=OTHER_PARTITIONS)
    done = saver.setup()
    assert is_set_up(any_server, prefix)
    await done
    await saver.setup()
    with pytest.raises(LayoutMismatch):
        other.setup()
    await release(saver, other)


async def test_setup_awaited_on_an_async_connection(any_server: Server, prefix: str) -> None:
    """With an async connection alone, `await saver.setup()` checks on its event loop, and raises its error there."""
    saver = on_async(any_server.url, prefix=prefix)
    other = on_async(any_server.url, prefix=prefix, partitions=OTHER_PARTITIONS)
    await saver.setup()
    assert is_set_up(any_server, prefix)
    await asyncio.wait_for(saver.setup(), 60)
    await asyncio.gather(saver.setup(), saver.asetup())
    with pytest.raises(LayoutMismatch):
        await other.setup()
    await release(saver, other)


def test_setup_awaited_on_an_async_connection_made_outside(any_server: Server, prefix: str) -> None:
    """A saver made before its event loop ran, and one whose first event loop has ended, are set up in the same way."""
    saver = on_async(any_server.url, prefix=prefix)

    async def work() -> None:
        await saver.setup()
        await release(saver)

    asyncio.run(work())
    assert is_set_up(any_server, prefix)
    asyncio.run(work())
    with pytest.raises(NoSyncConnection, match="setup: .*sync_connection"):
        saver.setup()


async def test_setup_that_is_not_awaited(any_server: Server, prefix: str, recwarn: pytest.WarningsRecorder) -> None:
    """With an async connection alone, `setup()` that is not awaited warns of nothing, and the first call checks."""
    saver = on_async(any_server.url, prefix=prefix)
    other = on_async(any_server.url, prefix=prefix, partitions=OTHER_PARTITIONS)
    await saver.setup()
    other.setup()
    gc.collect()
    assert not recwarn.list
    with pytest.raises(LayoutMismatch):
        await other.aget_tuple(config("t"))
    await release(saver, other)


async def test_setup_from_another_thread(any_server: Server, prefix: str) -> None:
    """From another thread than its event loop's, `setup()` over an async connection checks at once."""
    saver = on_async(any_server.url, prefix=prefix)
    other = on_async(any_server.url, prefix=prefix, partitions=OTHER_PARTITIONS)
    await asyncio.to_thread(saver.setup)
    assert is_set_up(any_server, prefix)
    with pytest.raises(LayoutMismatch):
        await asyncio.to_thread(other.setup)
    await release(saver, other)

"""Connections that break at every possible moment: nothing is done twice, nothing is lost.

Every operation runs once without a break. Then it runs with a break at its first command, at its second, and so on, each before
the command, after it, and within its answer, until no command is left to break; what is stored must not tell the difference.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import redis
import redis.asyncio
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from eventlog.errors import ServerUnavailable, ThreadExists
from saver import RedisStreamSaver
from tests.proxy import Cut, Proxy
from tests.saver.audit import Audit, config, put_of, shared_value_of
from tests.saver.conftest import Server
from tests.saver.drivers import Call, call_async, call_sync

put_shared = partial(put_of, shared=True)
"""A checkpoint whose value is stored as a delta, where a saver knows another one."""
THREADS = ("t", "copy")
MOST = 60
"""More commands than any operation here takes."""


def _chain(saver: RedisStreamSaver) -> None:
    """Two checkpoints in the root namespace, with writes, and one in a subgraph's."""
    for number in (2, 3):
        saver.put(*put_shared("t", number, number - 1, run=f"run-{number % 2}"))
        saver.put_writes(config("t", number), [("n", number), ("__interrupt__", "?")], "task", "path")
    saver.put(*put_shared("t", 1, namespace="sub"))


async def _put(saver: RedisStreamSaver, call: Call) -> Any:
    return await call(saver, "put", *put_shared("t", 4, 3))


async def _put_wide(saver: RedisStreamSaver, call: Call) -> Any:
    return await call(saver, "put", *put_shared("t", 4, 3, channels=[f"c{number}" for number in range(1100)]))


async def _put_fork(saver: RedisStreamSaver, call: Call) -> Any:
    return await call(saver, "put", *put_shared("t", 4, 2))


async def _put_writes(saver: RedisStreamSaver, call: Call) -> Any:
    return await call(saver, "put_writes", config("t", 3), [("n", 1), ("m", 2)], "other")


async def _put_special_writes(saver: RedisStreamSaver, call: Call) -> Any:
    return await call(
        saver, "put_writes", config("t", 3), [("__interrupt__", "new"), ("__resume__", 1)], "task", "path"
    )


async def _put_early_writes(saver: RedisStreamSaver, call: Call) -> Any:
    return await call(saver, "put_writes", config("t", 4), [("n", 1), ("__error__", 2)], "task")


async def _delete(saver: RedisStreamSaver, call: Call) -> Any:
    return await call(saver, "delete_thread", "t")


async def _copy(saver: RedisStreamSaver, call: Call) -> Any:
    return await call(saver, "copy_thread", "t", "copy")


async def _prune(saver: RedisStreamSaver, call: Call) -> Any:
    return await call(saver, "prune", ["t"])


async def _delete_runs(saver: RedisStreamSaver, call: Call) -> Any:
    return await call(saver, "delete_for_runs", ["run-1"])


async def _read(saver: RedisStreamSaver, call: Call) -> Any:
    return await call(saver, "get_tuple", config("t"))


Operation = Callable[[RedisStreamSaver, Call], Awaitable[Any]]
OPERATIONS: dict[str, Operation] = {
    "put": _put,
    "put wide": _put_wide,
    "put fork": _put_fork,
    "put_writes": _put_writes,
    "put_writes special": _put_special_writes,
    "put_writes early": _put_early_writes,
    "delete_thread": _delete,
    "copy_thread": _copy,
    "prune": _prune,
    "delete_for_runs": _delete_runs,
}


@dataclass
class Line:
    """Savers that go through a proxy, and others that do not."""

    server: Server
    prefix: str
    proxy: Proxy
    resend: int
    """How often redis-py sends a command again."""
    through: redis.Redis
    athrough: redis.asyncio.Redis
    direct: redis.Redis
    cache: dict[str, int]
    """What savers learn of their caches."""
    runs: int = 0

    def savers(self) -> tuple[RedisStreamSaver, RedisStreamSaver, Audit]:
        """One through the proxy and one direct, on a new prefix."""
        self.runs += 1
        options: Any = {"prefix": f"{self.prefix}-{self.runs}", "partitions": 2, **self.cache}
        return (
            RedisStreamSaver(self.through, self.athrough, **options),
            RedisStreamSaver(self.direct, **options),
            Audit(self.server.url, options["prefix"], partitions=2),
        )

    async def outcome(
        self, operation: Operation, call: Call, number: int, how: Cut, *, without_views: bool = False
    ) -> tuple[Any, bool]:
        """What is stored after an operation with a break at a command; whether the operation had so many commands."""
        through, direct, audit = self.savers()
        with audit:
            _chain(direct)
            for namespace in ("", "sub"):  # what is read is known from then on
                await call(through, "get_tuple", config("t", namespace=namespace))
            if without_views:
                audit.forget_views("t", "", "sub")
            self.proxy.cut(number, how)
            result = await self._retried(operation, through, call)
            cut = self.proxy.cuts > 0
            self.proxy.plan()
            outline = audit.outline(*THREADS)
            latest = [direct.get_tuple(config("t", namespace=namespace)) for namespace in ("", "sub")]
            for thread in THREADS:
                audit.forget_views(thread, "", "sub")
            rebuilt = [direct.get_tuple(config("t", namespace=namespace)) for namespace in ("", "sub")]
            assert rebuilt == latest
            if operation in {_put, _put_fork}:
                assert audit.forms("t").endswith("K" if self.cache else "D")
            return [result, outline, list(direct.list(None))], cut

    async def _retried(self, operation: Operation, saver: RedisStreamSaver, call: Call) -> Any:
        """The result of an operation, called again after a typed error if redis-py does not send again itself."""
        if self.resend:
            return await operation(saver, call)
        try:
            return await operation(saver, call)
        except ServerUnavailable:
            with suppress(ThreadExists):  # the copy that was asked for is there, or half of it could not have been
                return await operation(saver, call)


@pytest.fixture(params=[0, 3], ids=["caller retries", "redis-py resends"])
def resend(request: pytest.FixtureRequest) -> int:
    """How often redis-py sends a command again."""
    return int(request.param)


@pytest.fixture
def cache() -> dict[str, int]:
    """Settings with which savers make deltas."""
    return {}


@pytest.fixture
async def line(any_server: Server, prefix: str, resend: int, cache: dict[str, int]) -> AsyncIterator[Line]:
    """Connections through a proxy, where redis-py sends again or does not."""
    with Proxy(any_server.url) as proxy:
        through = redis.Redis.from_url(proxy.url, retry=Retry(NoBackoff(), resend))
        athrough = redis.asyncio.Redis.from_url(proxy.url, retry=AsyncRetry(NoBackoff(), resend))
        with redis.Redis.from_url(any_server.url) as direct:
            yield Line(any_server, prefix, proxy, resend, through, athrough, direct, cache)
        through.close()
        await athrough.aclose()


WHOLE = {(Cut.AFTER, 0, "sync"), (Cut.AFTER, 3, "async"), (Cut.WITHIN, 0, "async")}
WAYS = [
    pytest.param(
        how,
        resend,
        call,
        {"cache_bytes": 0} if (how, resend, driver) in WHOLE else {},
        id=f"{how.name}-{'resent' if resend else 'retried'}-{driver}",
    )
    for how in Cut
    for resend in (0, 3)
    for driver, call in (("sync", call_sync), ("async", call_async))
    if how is Cut.AFTER or (resend == 0) == ((how is Cut.WITHIN) == (call is call_sync))
]
"""A lost reply in every combination; for the other breaks, both drivers and both who send again. Some of them without deltas."""


@pytest.mark.parametrize(("how", "resend", "call", "cache"), WAYS)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_break_at_any_command_changes_nothing(line: Line, call: Call, operation: str, how: Cut) -> None:
    """After a break at any of its commands an operation has left the same events, feed and checkpoints as without one."""
    expected, _ = await line.outcome(OPERATIONS[operation], call, MOST, how)
    for number in range(1, MOST):
        found, cut = await line.outcome(OPERATIONS[operation], call, number, how)
        assert found == expected, number
        if not cut:
            break
    assert 1 < number < MOST


@pytest.mark.parametrize(("how", "resend", "call", "cache"), WAYS)
@pytest.mark.parametrize("operation", [_put, _put_writes, _read], ids=["put", "put_writes", "get_tuple"])
async def test_a_break_while_views_are_rebuilt(line: Line, call: Call, operation: Operation, how: Cut) -> None:
    """A break at any command with which deleted views are rebuilt is made up for."""
    expected, _ = await line.outcome(operation, call, MOST, how)
    for number in range(1, MOST):
        found, cut = await line.outcome(operation, call, number, how, without_views=True)
        assert found == expected, number
        if not cut:
            break
    assert 2 < number < MOST


@pytest.mark.parametrize("operation", [_copy, _read], ids=["copy_thread", "get_tuple"])
async def test_nothing_laid_ready_stays_for_ever(line: Line, call: Call, operation: Operation) -> None:
    """Keys in which something was staged have a time to live, wherever the connection broke."""
    for number in range(1, MOST):
        through, direct, audit = line.savers()
        with audit:
            _chain(direct)
            await call(through, "setup")
            if operation is _read:
                audit.forget_views("t")
            line.proxy.cut(number, Cut.AFTER)
            with suppress(ServerUnavailable):
                await operation(through, call)
            left = [key for key in audit.everything() if b"stage:" in key]
            assert all(audit.client.ttl(key) != -1 for key in left), f"after command {number}: {left}"
        if not line.proxy.cuts:
            break


async def test_an_encrypted_retry_adds_no_event(line: Line, call: Call) -> None:
    """A put and writes that are called again after a lost reply add nothing, though their bytes are encrypted again."""
    _, _, audit = line.savers()
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
    through = RedisStreamSaver(line.through, line.athrough, prefix=audit.keyspace.prefix, partitions=2, serde=serde)
    await call(through, "setup")
    with audit:
        for step in (
            ("put", *put_shared("t", 1)),
            ("put_writes", config("t", 1), [("n", 1)], "task"),
            ("put_writes", config("t", 1), [("__error__", 1)], "task"),
        ):
            line.proxy.cut(1, Cut.AFTER)
            with suppress(ServerUnavailable):
                await call(through, *step)
            await call(through, *step)
        assert audit.kinds("t") == ["checkpoint", "writes", "writes"]
        found = await call(through, "get_tuple", config("t"))
        assert found.pending_writes == [("task", "__error__", 1), ("task", "n", 1)]


async def test_breaks_at_random(line: Line, call: Call) -> None:
    """Traffic over a line that breaks at every fourth command or so leaves one event per operation, and no other."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    through, _, audit = line.savers()
    line.proxy.plan(lambda _, __: dice.choice([*Cut, *[None] * 9]))

    async def retried(method: str, *args: Any) -> Any:
        for _ in range(100):
            try:
                return await call(through, method, *args)
            except ServerUnavailable:
                continue
        raise AssertionError(f"{method} never got through")

    for number in range(1, 31):
        await retried("put", *put_shared("t", number, number - 1 or None))
        await retried("put_writes", config("t", number), [("n", number)], "task")
        await retried("put_writes", config("t", number), [("__error__", number)], "task")
        latest = await retried("get_tuple", config("t"))
        assert latest.checkpoint["channel_values"] == {"n": shared_value_of(number)}
        assert latest.pending_writes == [("task", "__error__", number), ("task", "n", number)]
    cuts = line.proxy.cuts
    line.proxy.plan()
    assert cuts > 10
    with audit:
        assert audit.forms("t").count("D") > 20
        assert audit.kinds("t") == ["checkpoint", "writes", "writes"] * 30
        assert len(audit.feed("t")) == 90


async def test_a_cancelled_call_can_be_made_again(line: Line) -> None:
    """Calls cancelled at any moment leave no half-done work, no answer for another call, and are made again without a trace."""
    through, _, audit = line.savers()
    await through.asetup()
    dice = random.Random(random.randrange(2**32))

    async def write(thread: str) -> None:
        for number in range(1, 6):
            for give_up in (True, True, False):
                calling = asyncio.create_task(through.aput(*put_shared(thread, number, number - 1 or None)))
                if give_up:
                    for _ in range(dice.randrange(12)):
                        await asyncio.sleep(0)
                    calling.cancel()
                with suppress(asyncio.CancelledError):
                    assert await calling == config(thread, number)
            found = await through.aget_tuple(config(thread))
            assert found is not None
            assert found.checkpoint["channel_values"] == {"n": shared_value_of(number)}

    await asyncio.gather(*(write(f"thread {number}") for number in range(8)))
    with audit:
        for number in range(8):
            assert audit.kinds(f"thread {number}") == ["checkpoint"] * 5

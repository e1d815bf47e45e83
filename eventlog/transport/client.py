"""Requests go through the public methods of a redis-py client, sync or asyncio.

Scripts are called by digest, and sent whole if the server does not know them. Errors are redis-py's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import redis.exceptions as rx
from redis.asyncio.cluster import RedisCluster

from eventlog.connect.given import is_cluster
from eventlog.flow import Batch, Call, Command, Request, Wait, load_script
from eventlog.transport.steps import Steps, finish, finish_async, patiently
from eventlog.transport.waiting import block_for, keys_in, xread
from eventlog.transport.wire import command_words, settled, words

__all__ = ["ask", "ask_async"]

_COMMAND = load_script("eventlog/transport/command")


def ask(client: Any, request: Request) -> Any:
    """The reply to a request, from a sync client."""
    return finish(patiently(partial(_BY_TYPE[type(request)], client, request), time.sleep))


async def ask_async(client: Any, request: Request) -> Any:
    """The reply to a request, from an asyncio client."""
    return await finish_async(patiently(partial(_initialized, client, request), asyncio.sleep))


def _initialized(client: Any, request: Request) -> Steps:
    """The steps of a request, after those that initialize an asyncio cluster client."""
    if isinstance(client, RedisCluster):
        yield client.initialize()  # or concurrent first calls would close each other's connections
    return (yield from _BY_TYPE[type(request)](client, request))


def _call(client: Any, call: Call) -> Steps:
    try:
        return (yield from _attempt(client, call, whole=False))
    except rx.NoScriptError:
        return (yield from _attempt(client, call, whole=True))


def _attempt(client: Any, call: Call, *, whole: bool) -> Steps:
    if call.then is None:
        return (yield client.execute_command(*words(call, whole=whole)))
    return (yield from _pair(client, call, call.then, whole=whole))


def _pair(client: Any, call: Call, then: Command, *, whole: bool) -> Steps:
    """A call and the command after it."""
    if is_cluster(client):
        # A cluster's client may send a reading command to a replica that lags; a script goes to the primary.
        following = Call(_COMMAND, [then.key], [then.name, *then.arguments])
        reply = yield client.execute_command(*words(call, whole=whole))
        return reply, (yield client.execute_command(*words(following, whole=whole)))
    pipeline = client.pipeline(transaction=False)
    pipeline.execute_command(*words(call, whole=whole))
    pipeline.execute_command(*command_words(then))
    reply = settled((yield pipeline.execute(raise_on_error=False)))
    if isinstance(reply, Exception):
        raise reply
    return reply


def _command(client: Any, command: Command) -> Steps:
    return (yield client.execute_command(*command_words(command)))


def _batch(client: Any, batch: Batch) -> Steps:
    pipeline = client.pipeline(transaction=False)
    for command in batch.commands:
        pipeline.execute_command(*command_words(command))
    return (yield pipeline.execute())


def _wait(client: Any, wait: Wait) -> Steps:
    return keys_in((yield client.execute_command(*xread(wait.streams, block_for(client, wait.ms)))))


_BY_TYPE: Mapping[type, Callable[[Any, Any], Steps]] = {Call: _call, Command: _command, Batch: _batch, Wait: _wait}
"""The steps for each type of request."""

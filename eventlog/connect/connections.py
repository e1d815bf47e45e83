"""Operations run on redis-py clients that the caller gives, or that a URL opens.

Rules:

1. A given client is never closed or changed. `close` and `aclose` close the clients that this module opened.
2. A sync client serves all threads. An asyncio client serves one event loop; each further loop gets a twin, which is
   closed before that loop ends.
3. A given asyncio client serves the loop that runs when it is given, or otherwise the first loop that asks for it. If
   it has open connections on another loop, it serves that loop.
4. The child of a fork makes new clients, and never uses an asyncio connection of the parent.

Only the first call on a cluster URL makes a round trip, in `sync_client`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from typing import Any

import redis.cluster

from eventlog.connect.clients import check_options, make_async, make_sync, sentinels_of, twin
from eventlog.connect.given import AsyncClient, GivenAsync, GivenSync, SyncClient, accept_async, accept_sync, is_cluster
from eventlog.connect.loops import LoopClient, loops_in_use, running_loop
from eventlog.connect.urls import Address, parse_address
from eventlog.errors import InvalidArgument

__all__ = ["Connections"]


class Connections:
    """The redis-py clients, sync and async, for many threads and event loops at once."""

    def __init__(self, sync_connection: GivenSync | None = None, async_connection: GivenAsync | None = None) -> None:
        """Use clients, cluster clients or pools of the caller, who closes them.

        Raises TypeError for an argument of the wrong type; the message names the right one. Raises InvalidArgument if
        one of them decodes responses, or if only one is a cluster client.
        """
        if sync_connection is None and async_connection is None:
            raise TypeError(
                "no connection given; pass sync_connection=redis.Redis(...), async_connection=redis.asyncio.Redis(...) or both"
            )
        sync_client = None if sync_connection is None else accept_sync(sync_connection)
        async_client = None if async_connection is None else accept_async(async_connection)
        if sync_client and async_client and is_cluster(sync_client) != is_cluster(async_client):
            raise InvalidArgument(
                "sync_connection and async_connection differ: one is a cluster client, the other is not. "
                "To fix it: pass two connections to the same deployment."
            )
        self._set_up(sync_client, async_client, None)

    @classmethod
    def from_url(cls, url: str, *, max_connections: int = 64, **client_options: Any) -> Connections:
        """Connections to a URL (see `eventlog.connect.urls`), opened at first use.

        `max_connections` counts for the sync client and for each event loop, and on a cluster for each node. A call
        waits up to 20 s for a connection; `timeout` changes that. On a cluster and behind Sentinel, redis-py raises
        MaxConnectionsError instead. `client_options` are redis-py's. Raises InvalidArgument for an impossible URL or
        option; the message never contains a password.
        """
        address = parse_address(url, {"max_connections": max_connections, **client_options})
        check_options(address)
        made = cls.__new__(cls)
        made._set_up(None, None, address)
        return made

    def _set_up(
        self, sync_client: SyncClient | None, async_client: AsyncClient | None, address: Address | None
    ) -> None:
        self._address = address
        self._given_sync = sync_client
        self._given_async = async_client
        self._opened_sync: SyncClient | None = None
        self._loop_clients: dict[asyncio.AbstractEventLoop, LoopClient] = {}
        self._left_to_parent: list[object] = []
        self._first_loop = self._recent_loop = running_loop()
        self._served_loop: asyncio.AbstractEventLoop | None = None
        if self._first_loop is not None and self._given_fits(self._first_loop):
            self._served_loop = self._first_loop
        self._begin_process()

    @property
    def has_sync(self) -> bool:
        """Whether there is a sync client."""
        return self._given_sync is not None or self._address is not None

    @property
    def has_async(self) -> bool:
        """Whether there is an asyncio client."""
        return self._given_async is not None or self._address is not None

    @property
    def is_cluster(self) -> bool:
        """Whether the clients are cluster clients."""
        if self._address is not None:
            return self._address.deployment == "cluster"
        given = self._given_sync or self._given_async
        return given is not None and is_cluster(given)

    @property
    def user(self) -> str:
        """The user of the server that the connections name, '' for the default user."""
        options = _options_of(self._given_sync or self._given_async) if self._address is None else self._address.options
        name = options.get("username") or getattr(options.get("credential_provider"), "username", None) or ""
        return "" if name == "default" else str(name)

    @property
    def pool(self) -> object:
        """The pool of a given client, or these connections, which open their own."""
        given = self._given_sync or self._given_async
        return self if given is None else getattr(given, "connection_pool", given)

    @property
    def home_loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop on which other threads may run operations, None if none runs.

        It is the loop that ran when this was made, or the last one that called `async_client`, or any other that called
        it and runs.
        """
        self._notice_fork()
        loops = [self._first_loop, self._recent_loop, self._served_loop, *tuple(self._loop_clients)]
        return next((loop for loop in loops if loop is not None and loop.is_running()), None)

    def sync_client(self) -> SyncClient:
        """The client for sync calls, from any thread.

        Raises asyncio.InvalidStateError if only `async_connection` was given. The first call on a cluster URL asks a
        node for the slots, and so may raise redis-py's errors.
        """
        if self._given_sync is not None:
            return self._given_sync
        if self._address is None:
            raise asyncio.InvalidStateError(
                "there is no sync connection; pass sync_connection=redis.Redis(...) as well"
            )
        self._notice_fork()
        with self._sync_lock:
            if self._opened_sync is None:
                self._opened_sync = make_sync(self._address)
            return self._opened_sync

    def async_client(self) -> AsyncClient:
        """The client for calls on the running event loop.

        Raises asyncio.InvalidStateError if only `sync_connection` was given, and RuntimeError if no loop runs.
        """
        if not self.has_async:
            raise asyncio.InvalidStateError(
                "there is no asyncio connection; pass async_connection=redis.asyncio.Redis(...) as well"
            )
        loop = asyncio.get_running_loop()
        self._notice_fork()
        self._recent_loop = loop
        if loop is self._served_loop and self._given_async is not None:
            return self._given_async
        found = self._loop_clients.get(loop)
        if found is not None and found.open:
            return found.client
        with self._async_lock:
            self._drop_closed_loops()
            return self._client_for(loop)

    def opened(self, client: SyncClient | AsyncClient) -> bool:
        """Whether a client of these connections was opened here rather than given."""
        return client is not self._given_sync and client is not self._given_async

    def serves(self, client: AsyncClient) -> bool:
        """Whether an asyncio client of the running loop has not been closed here."""
        if client is self._given_async:
            return True
        found = self._loop_clients.get(asyncio.get_running_loop())
        return found is not None and found.open and found.client is client

    def close(self) -> None:
        """Close the clients that were opened here; a later call opens new ones.

        An event loop that runs in another thread closes its connections itself, soon after.
        """
        self._close_sync()
        for client in self._take_loop_clients():
            client.close()

    async def aclose(self) -> None:
        """Close the clients that were opened here; a later call opens new ones.

        This waits for the connections of the running loop. Other loops close theirs as `close` describes.
        """
        self._close_sync()
        for client in self._take_loop_clients():
            await client.aclose()

    def _client_for(self, loop: asyncio.AbstractEventLoop) -> AsyncClient:
        if self._given_async is not None and self._served_loop is None and self._given_fits(loop):
            self._served_loop = loop
            return self._given_async
        if self._address is not None:
            made = LoopClient(make_async(self._address))
        else:
            assert self._given_async is not None
            made = LoopClient(twin(self._given_async))
        self._loop_clients[loop] = made
        return made.client

    def _given_fits(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self._given_async is not None and loops_in_use(self._given_async) <= {loop}

    def _drop_closed_loops(self) -> None:
        for loop in [loop for loop in self._loop_clients if loop.is_closed()]:
            self._loop_clients.pop(loop).close()

    def _close_sync(self) -> None:
        self._notice_fork()
        with self._sync_lock:
            opened, self._opened_sync = self._opened_sync, None
        if opened is not None:
            for client in (opened, *sentinels_of(opened)):
                client.close()

    def _take_loop_clients(self) -> list[LoopClient]:
        with self._async_lock:
            taken, self._loop_clients = list(self._loop_clients.values()), {}
        return taken

    def _begin_process(self) -> None:
        self._pid = os.getpid()
        self._sync_lock = threading.Lock()
        self._async_lock = threading.Lock()

    def _notice_fork(self) -> None:
        if self._pid == os.getpid():
            return
        # To close a loop's connections here would remove them from the selector, which parent and child share.
        self._left_to_parent.append(self._loop_clients)
        self._loop_clients = {}
        self._first_loop = self._recent_loop = self._served_loop = None
        self._begin_process()


def _options_of(client: Any) -> Mapping[str, Any]:
    """The options of a client's connections."""
    if not is_cluster(client):
        return client.connection_pool.connection_kwargs  # type: ignore[no-any-return]
    owner = client.nodes_manager if isinstance(client, redis.cluster.RedisCluster) else client
    return owner.connection_kwargs

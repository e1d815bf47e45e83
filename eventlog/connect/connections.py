"""The redis-py clients an operation may run on: what people hold already, or what a URL opens.

Rules:

1. What was given is never closed and never altered. What was opened here is closed by `close` or `aclose`.
2. A sync client serves every thread. An asyncio client serves one event loop; every further loop gets a client of its own,
   equal to the first, which is closed before that loop ends.
3. A given asyncio client serves the loop that ran as it was handed over, else the first loop that asks for it, unless its
   open connections show that it works on another loop already.
4. After a fork the child starts anew: it touches none of the parent's asyncio connections.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from eventlog.connect.clients import check_options, make_async, make_sync, sentinels_of, twin
from eventlog.connect.given import AsyncClient, GivenAsync, GivenSync, SyncClient, accept_async, accept_sync, is_cluster
from eventlog.connect.loops import LoopClient, loops_in_use, running_loop
from eventlog.connect.urls import Address, parse_address
from eventlog.errors import InvalidArgument

__all__ = ["Connections"]


class Connections:
    """The redis-py clients an operation may run on, in both colours. Usable from many threads and event loops at once."""

    def __init__(self, sync_connection: GivenSync | None = None, async_connection: GivenAsync | None = None) -> None:
        """Use what the caller holds: clients, cluster clients or pools, which stay the caller's to close. No round trips.

        Raises TypeError where an argument is of the wrong kind (the message names the right one), InvalidArgument where one
        decodes responses or where only one of the two is a cluster client.
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
        """Connections to what `url` names (see `eventlog.connect.urls`), opened at first use and closed by `close` or `aclose`.

        `max_connections` is per colour and event loop, in a cluster also per node; a call waits up to 20 s for a connection to
        come free (`timeout` sets another time), except in a cluster or behind Sentinel, where redis-py has no such waiting and
        raises MaxConnectionsError. `client_options` are redis-py's. No round trips. Raises InvalidArgument where the URL or an
        option is impossible; the message never holds a password.
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
        """Whether `sync_client` returns one."""
        return self._given_sync is not None or self._address is not None

    @property
    def has_async(self) -> bool:
        """Whether `async_client` returns one."""
        return self._given_async is not None or self._address is not None

    @property
    def is_cluster(self) -> bool:
        """Whether the clients speak to a cluster."""
        if self._address is not None:
            return self._address.deployment == "cluster"
        given = self._given_sync or self._given_async
        return given is not None and is_cluster(given)

    @property
    def home_loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop on which another thread may run asyncio operations; None where none runs.

        The loop that ran when this was made, else the one that called `async_client` last, else any that called it and runs.
        """
        self._notice_fork()
        loops = [self._first_loop, self._recent_loop, self._served_loop, *tuple(self._loop_clients)]
        return next((loop for loop in loops if loop is not None and loop.is_running()), None)

    def sync_client(self) -> SyncClient:
        """The client for sync calls, from any thread.

        Makes no round trip, except that the first call on a cluster URL asks a node for the slots and so raises redis-py's
        errors. Raises asyncio.InvalidStateError where only `async_connection` was given.
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
        """The client for calls on the running event loop. No round trips.

        Raises asyncio.InvalidStateError where only `sync_connection` was given, RuntimeError where no loop runs.
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
        """Whether `client`, which `sync_client` or `async_client` returned, was opened here rather than given."""
        return client is not self._given_sync and client is not self._given_async

    def serves(self, client: AsyncClient) -> bool:
        """Whether `client`, which `async_client` returned on the running loop, has not been closed here since."""
        if client is self._given_async:
            return True
        found = self._loop_clients.get(asyncio.get_running_loop())
        return found is not None and found.open and found.client is client

    def close(self) -> None:
        """Close what was opened here, in both colours; what was given stays open. A later call opens anew.

        Connections of an event loop that runs in another thread are closed by that loop, soon after.
        """
        self._close_sync()
        for client in self._take_loop_clients():
            client.close()

    async def aclose(self) -> None:
        """Close what was opened here, in both colours; what was given stays open. A later call opens anew.

        Waits for the connections of the running loop; those of other loops are closed as `close` closes them.
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
        # Closing a loop's connections here would take them out of the parent's selector, which both processes share.
        self._left_to_parent.append(self._loop_clients)
        self._loop_clients = {}
        self._first_loop = self._recent_loop = self._served_loop = None
        self._begin_process()

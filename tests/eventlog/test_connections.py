"""Connections: what is accepted, who closes what, and that every event loop gets a client that works on it."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.backoff
import redis.cluster
import redis.retry
import redis.sentinel

from eventlog.connect.connections import Connections
from eventlog.errors import InvalidArgument
from tests.forks import in_child

SERVER = "/usr/bin/redis-server"
Close = Callable[[Connections], None]

pytestmark = [pytest.mark.server, pytest.mark.skipif(not Path(SERVER).exists(), reason="needs redis-server")]


@contextmanager
def running(*arguments: str, sentinel: str = "") -> Iterator[None]:
    """A server process; for a Sentinel, `sentinel` is its configuration."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        command = [SERVER, "--save", "", "--dir", directory, *arguments]
        if sentinel:
            (Path(directory) / "sentinel.conf").write_text(sentinel)
            command = [SERVER, f"{directory}/sentinel.conf", "--sentinel"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        yield


def free_port() -> int:
    """A port whose cluster bus port is likely free as well."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55000:
            return port


def until(answers: Callable[[], object], patience: float = 10.0) -> None:
    """Wait until `answers` returns something true."""
    end = time.monotonic() + patience
    while True:
        try:
            if answers():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < end, "the server did not come up"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Unix socket of a server."""
    path = str(tmp_path_factory.mktemp("server") / "s")
    with running("--port", "0", "--unixsocket", path):
        until(lambda: Path(path).exists())
        yield path


@pytest.fixture
def url(path: str) -> Iterator[str]:
    """The URL of a server that nobody is connected to, neither before the test nor after it."""
    with redis.Redis(unix_socket_path=path) as probe:
        until(lambda: others(probe) == 0)
        yield f"unix://{path}"
        gc.collect()
        until(lambda: others(probe) == 0)


def others(probe: redis.Redis) -> int:
    """The number of connections the server has beside `probe`'s own."""
    listed: Any = probe.client_list()
    return len(listed) - 1


@pytest.fixture(scope="module")
def cluster_ports() -> Iterator[list[int]]:
    """The ports of a cluster of three."""
    ports = [free_port() for _ in range(3)]
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(running("--port", str(port), "--cluster-enabled", "yes", "--bind", "127.0.0.1"))
        nodes: list[Any] = [stack.enter_context(redis.Redis(port=port)) for port in ports]
        for number, node in enumerate(nodes):
            until(node.ping)
            node.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.execute_command(
                "CLUSTER", "ADDSLOTSRANGE", number * 5461, 16383 if number == 2 else number * 5461 + 5460
            )
            node.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0])
        for node in nodes:
            until(lambda node=node: b"cluster_state:ok" in raw_info(node))  # type: ignore[misc]
            until(lambda node=node: b"cluster_known_nodes:3" in raw_info(node))  # type: ignore[misc]
        yield ports


def raw_info(node: Any) -> bytes:
    """CLUSTER INFO as the server wrote it."""
    node.response_callbacks.pop("CLUSTER INFO", None)
    return bytes(node.execute_command("CLUSTER INFO"))


@pytest.fixture(scope="module")
def sentinel_port() -> Iterator[int]:
    """The port of a Sentinel that watches one server as "primary"."""
    data, port = free_port(), free_port()
    configuration = f"port {port}\nbind 127.0.0.1\nsentinel monitor primary 127.0.0.1 {data} 1\n"
    with running("--port", str(data), "--bind", "127.0.0.1"), running(sentinel=configuration):
        with redis.Redis(port=data) as server, redis.Redis(port=port) as sentinel:
            until(server.ping)
            until(sentinel.ping)
        yield port


async def use(connections: Connections, calls: int = 3) -> Any:
    """Several calls at once on the running loop; the client they ran on."""
    client = connections.async_client()
    await asyncio.gather(*(client.set(f"{{k}}{number}", number) for number in range(calls)))
    assert await client.get("{k}0") == b"0"
    return client


def retry_policy(retry: Any) -> tuple[object, ...]:
    """What makes two retry policies alike."""
    return type(retry), retry._retries, type(retry._backoff), vars(retry._backoff)


def open_files() -> int:
    """The number of file descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


# What is accepted


def test_nothing_given() -> None:
    """Without any connection, the error says what to pass."""
    with pytest.raises(TypeError, match=r"sync_connection=redis\.Redis.*async_connection=redis\.asyncio\.Redis"):
        Connections()


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"sync_connection": redis.asyncio.Redis()}, "sync_connection is a .*; pass it as async_connection"),
        ({"sync_connection": redis.asyncio.ConnectionPool()}, "sync_connection is a .*; pass it as async_connection"),
        ({"async_connection": redis.Redis()}, "async_connection is a .*; pass it as sync_connection"),
        ({"async_connection": redis.BlockingConnectionPool()}, "async_connection is a .*; pass it as sync_connection"),  # type: ignore[no-untyped-call,unused-ignore]
        ({"sync_connection": "redis://h"}, "sync_connection is a URL.*from_conn_string"),
        ({"async_connection": b"redis://h"}, "async_connection is a URL.*from_conn_string"),
        ({"sync_connection": redis.sentinel.Sentinel([])}, r"sync_connection is a Sentinel.*sentinel\.master_for"),  # type: ignore[no-untyped-call,unused-ignore]
        ({"async_connection": redis.asyncio.sentinel.Sentinel([])}, r"async_connection is a Sentinel.*master_for"),  # type: ignore[no-untyped-call,unused-ignore]
        ({"sync_connection": redis.Redis().pipeline()}, "sync_connection is a pipeline.*the client it was made from"),
        ({"sync_connection": 7}, r"sync_connection must be a redis\.Redis.*not builtins\.int"),
        ({"async_connection": redis.asyncio.Redis}, r"async_connection must be a redis\.asyncio\.Redis"),
    ],
)
def test_wrong_kinds(given: dict[str, Any], remedy: str) -> None:
    """An argument that is no connection of its driver is refused by name, with the remedy."""
    with pytest.raises(TypeError, match=remedy):
        Connections(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"sync_connection": redis.Redis(decode_responses=True)},
        {"sync_connection": redis.ConnectionPool(decode_responses=True)},
        {"sync_connection": redis.Redis.from_url("redis://h?decode_responses=true")},
        {"async_connection": redis.asyncio.Redis(decode_responses=True)},
        {"async_connection": redis.asyncio.BlockingConnectionPool(decode_responses=True)},
        {"async_connection": redis.asyncio.RedisCluster("h", decode_responses=True)},
        {"async_connection": redis.asyncio.sentinel.Sentinel([]).master_for("s", decode_responses=True)},  # type: ignore[no-untyped-call,unused-ignore]
    ],
)
def test_decoding_clients_are_refused(given: dict[str, Any]) -> None:
    """A client that decodes responses would damage stored bytes; every accepted kind is checked for it."""
    with pytest.raises(InvalidArgument, match=f"{next(iter(given))} has decode_responses on.*To fix it"):
        Connections(**given)


def test_two_deployments_are_refused() -> None:
    """A cluster client beside a plain one is a mistake."""
    with pytest.raises(InvalidArgument, match="one is a cluster client"):
        Connections(redis.Redis(), redis.asyncio.RedisCluster("h"))


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "redis+sentinel"])
@pytest.mark.parametrize(("named", "user"), [("", ""), (":b@", ""), ("default:b@", ""), ("a:b@", "a")])
def test_the_user_of_a_url(scheme: str, named: str, user: str) -> None:
    """It is the name in the URL of any deployment, and empty for the default user."""
    assert Connections.from_url(f"{scheme}://{named}h:1/{'s' if 'sentinel' in scheme else ''}").user == user


def test_the_user_of_a_client() -> None:
    """It is the name that a client of any kind was made with."""
    for given in (redis.asyncio.Redis(username="a"), redis.asyncio.RedisCluster("h", username="a")):
        assert Connections(async_connection=given).user == "a"
    assert Connections(redis.Redis()).user == ""


def test_the_other_driver_is_missing() -> None:
    """Asking for the driver that was not given names the argument to pass."""
    sync_only, async_only = Connections(redis.Redis()), Connections(async_connection=redis.asyncio.Redis())
    assert (sync_only.has_sync, sync_only.has_async, async_only.has_sync, async_only.has_async) == (
        True,
        False,
        False,
        True,
    )
    with pytest.raises(asyncio.InvalidStateError, match="async_connection"):
        sync_only.async_client()
    with pytest.raises(asyncio.InvalidStateError, match="sync_connection"):
        async_only.sync_client()


@pytest.mark.parametrize("url", ["redis://h?no_such_option=1", "redis+cluster://h:1?no_such_option=1"])
def test_unknown_options(url: str) -> None:
    """A misspelt option is found when the URL is given, not at the first call."""
    with pytest.raises(InvalidArgument, match="no_such_option"):
        Connections.from_url(url)


# One server


def test_given_clients_are_used_as_they_are(url: str) -> None:
    """A client given is the client used, and neither close nor aclose closes it."""
    with redis.Redis.from_url(url) as given:
        connections = Connections(given)
        assert connections.sync_client() is given
        number = given.client_id()
        connections.close()
        asyncio.run(connections.aclose())
        assert given.client_id() == number


def test_given_pools(url: str) -> None:
    """A given pool is used by its driver, and is left open."""
    pool = redis.BlockingConnectionPool.from_url(url, max_connections=2)
    connections = Connections(pool)
    client: Any = connections.sync_client()
    number = client.client_id()
    connections.close()
    assert client.connection_pool is pool
    assert client.client_id() == number
    pool.close()

    async def over_async_pool() -> None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(url)
        connections = Connections(async_connection=pool)
        client = await use(connections, 1)
        await connections.aclose()
        connections.close()
        assert client.connection_pool is pool
        assert pool._available_connections[0].is_connected
        await pool.disconnect()

    asyncio.run(over_async_pool())


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_from_url_opens_blocking_pools_that_retry(driver: str) -> None:
    """What a URL opens waits up to 20 s for a connection and keeps redis-py's own retries."""
    connections = Connections.from_url("redis://h?max_connections=3")

    async def opened() -> Any:
        return connections.async_client()

    client: Any = connections.sync_client() if driver == "sync" else asyncio.run(opened())
    pool: Any = client.connection_pool
    standard: Any = redis.Redis() if driver == "sync" else redis.asyncio.Redis()
    assert isinstance(pool, (redis.BlockingConnectionPool, redis.asyncio.BlockingConnectionPool))
    assert (pool.timeout, pool.max_connections) == (20, 3)
    expected = retry_policy(standard.get_retry())
    assert retry_policy(client.get_retry()) == expected
    made = pool.make_connection()  # type: ignore[no-untyped-call,unused-ignore]
    assert retry_policy(made.retry) == expected


def test_a_retry_policy_serves_both_drivers() -> None:
    """A retry policy given with the URL is converted for each driver."""
    policy = redis.retry.Retry(redis.backoff.ConstantBackoff(2), 5)
    connections = Connections.from_url("redis://h", retry=policy)

    async def opened() -> Any:
        return connections.async_client()

    sync_client: Any = connections.sync_client()
    assert sync_client.get_retry() is policy
    converted = asyncio.run(opened()).get_retry()
    assert isinstance(converted, redis.asyncio.retry.Retry)
    assert retry_policy(converted)[1:3] == (5, redis.backoff.ConstantBackoff)


def test_both_drivers_from_a_url(url: str) -> None:
    """One URL serves sync and async calls; close ends both, and a later call opens new connections."""
    connections = Connections.from_url(url)
    assert (connections.has_sync, connections.has_async, connections.is_cluster) == (True, True, False)
    for _ in range(2):
        assert connections.sync_client() is connections.sync_client()
        assert connections.sync_client().ping()
        asyncio.run(use(connections))
        connections.close()


def test_waiting_for_a_connection(url: str) -> None:
    """More calls at once than connections wait for their turn."""
    connections = Connections.from_url(url, max_connections=2)
    asyncio.run(use(connections, 50))
    threads = [threading.Thread(target=connections.sync_client().set, args=("k", "v")) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connections.close()


def test_one_sync_client_for_all_threads(url: str) -> None:
    """Threads that ask at the same moment get the same client."""
    connections = Connections.from_url(url)
    barrier, found = threading.Barrier(8), list[object]()

    def ask() -> None:
        barrier.wait()
        found.append(connections.sync_client())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    connections.close()


# Event loops in turn


def test_loops_in_turn_from_a_url(url: str) -> None:
    """Each asyncio.run has a client of its own, closed with its loop: no file descriptor stays."""
    connections = Connections.from_url(url)
    asyncio.run(use(connections))
    before = open_files()
    clients = [asyncio.run(use(connections)) for _ in range(4)]
    assert len(set(map(id, clients))) == 4
    assert open_files() == before
    connections.close()


@pytest.mark.parametrize("kind", ["client", "pool"])
def test_loops_in_turn_over_something_given(url: str, kind: str) -> None:
    """The first loop uses what was given, later ones an equal client that ends with its loop."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=7, timeout=3, client_name="me")
    given = redis.asyncio.Redis(connection_pool=pool)
    connections = Connections(async_connection=given if kind == "client" else pool)

    async def first() -> None:
        client = await use(connections)
        assert client.connection_pool is pool
        assert (client is given) == (kind == "client")
        await pool.disconnect()

    asyncio.run(first())
    before = open_files()
    for _ in range(3):
        client = asyncio.run(use(connections))
        twin = client.connection_pool
        assert twin is not pool
        assert type(twin) is type(pool)
        assert (twin.max_connections, twin.timeout, twin.connection_class) == (7, 3, pool.connection_class)
        shared = {name: pool.connection_kwargs[name] for name in ("path", "client_name")}
        assert {name: twin.connection_kwargs[name] for name in shared} == shared
        assert twin.connection_kwargs.get("himport_registry") is not pool.connection_kwargs.get("himport_registry", 0)
    assert open_files() == before
    assert not pool._available_connections[0].is_connected


def test_a_subclass_keeps_its_class(url: str) -> None:
    """The twin of a subclass of Redis is of that subclass and has its response callbacks."""

    class Mine(redis.asyncio.Redis):
        pass

    given = Mine.from_url(url)

    def exclaim(reply: bytes, **_: Any) -> bytes:
        return reply + b"!"

    loose: Any = given
    loose.set_response_callback("ECHO", exclaim)
    connections = Connections(async_connection=given)

    async def echo() -> Any:
        client: Any = connections.async_client()
        assert type(client) is Mine
        answer = await client.echo("hello")
        if client is given:
            await given.aclose()
        return answer

    assert [asyncio.run(echo()) for _ in range(2)] == [b"hello!", b"hello!"]


def test_a_client_at_work_on_another_loop(url: str) -> None:
    """A given client that already holds connections of another loop is not used on this one."""
    given = redis.asyncio.Redis.from_url(url)
    theirs = asyncio.new_event_loop()
    theirs.run_until_complete(given.ping())
    connections = Connections(async_connection=given)
    assert asyncio.run(use(connections)) is not given
    assert theirs.run_until_complete(use(connections)) is given
    theirs.run_until_complete(given.aclose())
    theirs.close()


def test_handed_over_inside_a_loop(url: str) -> None:
    """A client handed over inside a running loop serves that loop, even if another asks first."""
    ours = asyncio.new_event_loop()
    given = redis.asyncio.Redis.from_url(url)

    async def hand_over() -> Connections:
        return Connections(async_connection=given)

    connections = ours.run_until_complete(hand_over())
    assert asyncio.run(use(connections)) is not given
    assert ours.run_until_complete(use(connections)) is given
    ours.run_until_complete(given.aclose())
    ours.close()


def test_loops_at_the_same_time(url: str) -> None:
    """Loops that run in several threads at once do not share a connection."""
    connections = Connections.from_url(url)
    clients = list[object]()
    barrier = threading.Barrier(4)

    async def together() -> None:
        barrier.wait()
        for _ in range(10):
            client = await use(connections)
        clients.append(client)

    threads = [threading.Thread(target=asyncio.run, args=(together(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, clients))) == 4


def test_loops_closed_by_hand(url: str) -> None:
    """A loop closed without ceremony leaves sockets behind, which are closed in silence at the next chance."""
    connections = Connections.from_url(url)
    asyncio.run(use(connections))
    before = open_files()
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use(connections))
        loop.close()
    asyncio.run(use(connections))
    assert open_files() == before
    connections.close()


def test_close_inside_the_loop(url: str) -> None:
    """close in a coroutine closes this loop's connections without waiting; later calls open new ones."""
    connections = Connections.from_url(url)

    async def close_twice() -> None:
        await use(connections)
        connections.close()
        await use(connections)
        await connections.aclose()
        await use(connections)
        connections.close()

    asyncio.run(close_twice())


def test_close_while_the_loop_pauses(url: str) -> None:
    """close outside any loop reaches the connections of a loop that is between two runs."""
    connections = Connections.from_url(url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use(connections))
    connections.close()
    loop.close()


def test_close_from_another_thread(url: str) -> None:
    """close reaches the connections of a loop that runs in another thread."""
    connections = Connections.from_url(url)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(use(connections), loop).result()
    connections.close()
    with redis.Redis.from_url(url) as probe:
        until(lambda: others(probe) == 1)  # the url fixture's probe
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_dropped_without_close(url: str) -> None:
    """Connections that nobody closed are closed when the last reference goes, without a warning."""

    async def forget() -> None:
        await use(Connections.from_url(url))
        await asyncio.sleep(0.05)

    asyncio.run(forget())


def test_home_loop(url: str) -> None:
    """The home loop is the one that ran at the making, else the latest that asked for a client, and only while it runs."""
    outside = Connections.from_url(url)
    assert outside.home_loop is None

    async def inside() -> None:
        here = asyncio.get_running_loop()
        assert Connections.from_url(url).home_loop is here
        assert outside.home_loop is None
        outside.async_client()
        assert outside.home_loop is here

    asyncio.run(inside())
    assert outside.home_loop is None
    asyncio.run(inside())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # threads of other tests may still be about
def test_after_a_fork(url: str) -> None:
    """The child of a fork opens connections of its own and leaves the parent's alone."""
    connections = Connections.from_url(url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use(connections))
    assert connections.sync_client().ping()

    def work() -> None:
        assert connections.home_loop is None
        assert connections.sync_client().ping()
        asyncio.run(use(connections))
        connections.close()

    in_child(work)
    loop.run_until_complete(use(connections))
    assert connections.sync_client().ping()
    connections.close()
    loop.close()


# Clusters and Sentinel


def test_cluster_url(cluster_ports: list[int]) -> None:
    """A cluster URL serves both drivers and loops in turn, and leaves nothing open."""
    nodes = ",".join(f"127.0.0.1:{port}" for port in cluster_ports)
    connections = Connections.from_url(f"redis+cluster://{nodes}")
    assert connections.is_cluster
    assert isinstance(connections.sync_client(), redis.RedisCluster)
    assert connections.sync_client().set("a", "1")
    before = open_files()
    for _ in range(3):
        assert isinstance(asyncio.run(use(connections)), redis.asyncio.RedisCluster)
    assert open_files() == before
    connections.close()


def test_cluster_given(cluster_ports: list[int]) -> None:
    """A given cluster client serves the first loop, an equal one each later loop and each closed by hand."""
    given = redis.asyncio.RedisCluster("127.0.0.1", cluster_ports[0], max_connections=9, require_full_coverage=False)
    connections = Connections(redis.RedisCluster("127.0.0.1", cluster_ports[0]), given)
    assert connections.is_cluster
    assert connections.user == ""

    async def first() -> None:
        assert await use(connections) is given
        await given.aclose()

    asyncio.run(first())
    gc.collect()
    before = open_files()
    for _ in range(2):
        client = asyncio.run(use(connections))
        assert client is not given
        assert client.connection_kwargs["max_connections"] == 9
        assert not client.nodes_manager.require_full_coverage
    for _ in range(2):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use(connections))
        loop.close()
    connections.close()
    gc.collect()
    assert open_files() == before
    connections.sync_client().close()


def test_cluster_clients_that_decode_are_refused(cluster_ports: list[int]) -> None:
    """The check for decoding covers the sync cluster client."""
    with (
        redis.RedisCluster("127.0.0.1", cluster_ports[0], decode_responses=True) as given,
        pytest.raises(InvalidArgument, match="decode_responses"),
    ):
        Connections(given)


def test_sentinel_url(sentinel_port: int) -> None:
    """A Sentinel URL serves both drivers and loops in turn, closing the connections to the Sentinels as well."""
    dead = free_port()
    before = open_files()
    connections = Connections.from_url(f"redis+sentinel://127.0.0.1:{dead},127.0.0.1:{sentinel_port}/primary/3")
    client: Any = connections.sync_client()
    assert client.ping()
    assert client.connection_pool.connection_kwargs["db"] == 3
    connections.close()
    for _ in range(3):
        asyncio.run(use(connections, 1))
    assert open_files() == before


def test_sentinel_given(sentinel_port: int) -> None:
    """The twin of a Sentinel-managed client asks the Sentinels over connections of its own loop."""
    manager: Any = redis.asyncio.sentinel.Sentinel([("127.0.0.1", sentinel_port)])  # type: ignore[no-untyped-call,unused-ignore]
    connections = Connections(async_connection=manager.master_for("primary"))

    async def first() -> None:
        client = await use(connections)
        await client.aclose()
        for sentinel in manager.sentinels:
            await sentinel.aclose()

    asyncio.run(first())
    before = open_files()
    for _ in range(3):
        client = asyncio.run(use(connections))
        assert client.connection_pool.sentinel_manager is not manager
    assert open_files() == before

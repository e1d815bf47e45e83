"""Users with the access rights of OPERATIONS.md can do their work, and what its table says, and no more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from eventlog import ActivityFeed
from saver import RedisStreamSaver
from tests.saver.agents import ask, human, weather_agent
from tests.saver.drivers import Call
from tests.saver.threads import AT_ONCE, config, step, values_of
from tests.saver.users import CLUSTER, DOCUMENT, GREETING, MEMBERS, rights_of, set_user, user_on
from tests.servers import RunningServer, Server, binaries, launch_cluster

USERS = ("agent", "auditor")
KEY = "{PREFIX:0}:log:x"
WORDS = {
    "HGETALL": f"HGETALL {KEY}",
    "XRANGE": f"XRANGE {KEY} - +",
    "EVAL": f"EVAL return(redis.call('EXISTS',KEYS[1])) 1 {KEY}",
    "SET": f"SET {KEY} 1",
    "DEL": f"DEL {KEY}",
    "XTRIM": f"XTRIM {KEY} MAXLEN 0",
    "RENAME": f"RENAME {KEY} {KEY}y",
    "GET other": "GET other",
    "SET other": "SET other 1",
    "EVAL other": "EVAL return(redis.call('GET','other')) 0",
    "SORT": f"SORT {KEY} BY nosort GET other*",
    "SORT_RO": f"SORT_RO {KEY} BY nosort GET other*",
    "KEYS": "KEYS *",
    "SCAN": "SCAN 0",
    "CLUSTERSCAN": "CLUSTERSCAN 0",
    "RANDOMKEY": "RANDOMKEY",
    "DBSIZE": "DBSIZE",
    "CLIENT TRACKING": "CLIENT TRACKING ON BCAST",
    "FLUSHALL": "FLUSHALL",
    "FLUSHDB": "FLUSHDB",
    "SWAPDB": "SWAPDB 0 1",
    "MOVE": f"MOVE {KEY} 1",
    "COPY": f"COPY {KEY} {KEY} DB 1",
    "MIGRATE": f"MIGRATE 127.0.0.1 1 {KEY} 0 10",
    "DUMP": f"DUMP {KEY}",
    "RESTORE": f"RESTORE {KEY} 0 x",
    "CLIENT LIST": "CLIENT LIST",
    "CLIENT KILL": "CLIENT KILL TYPE normal",
    "CLIENT PAUSE": "CLIENT PAUSE 1",
    "CLIENT UNBLOCK": "CLIENT UNBLOCK 1",
    "MONITOR": "MONITOR",
    "SUBSCRIBE": "SUBSCRIBE __keyspace@0__:*",
    "PUBLISH": "PUBLISH x y",
    "FUNCTION LOAD": "FUNCTION LOAD #!lua",
    "FUNCTION FLUSH": "FUNCTION FLUSH",
    "SCRIPT FLUSH": "SCRIPT FLUSH",
    "SCRIPT KILL": "SCRIPT KILL",
    "CONFIG SET": "CONFIG SET maxmemory 1",
    "ACL SETUSER": "ACL SETUSER default nopass",
    "MODULE LOAD": "MODULE LOAD /tmp/x.so",
    "SHUTDOWN": "SHUTDOWN NOSAVE",
    "SAVE": "SAVE",
    "BGREWRITEAOF": "BGREWRITEAOF",
    "REPLICAOF": "REPLICAOF 127.0.0.1 1",
    "CLUSTER RESET": "CLUSTER RESET",
    "DEBUG": "DEBUG SLEEP 0",
    "SELECT": "SELECT 0",
    "INFO": "INFO",
}
"""What stands for each command that the table of OPERATIONS.md names."""
KEYLESS = {
    *("auth", "hello", "quit", "reset", "ping", "select", "client|setname"),
    *("multi", "exec", "discard", "unwatch", "info", "time", "xinfo|help", "xgroup|help"),
    *("host:", "post"),  # not commands: Redis 6.2 ends connections that send them
}
"""Commands without a key that users may have."""


def table() -> list[tuple[str, list[str], dict[str, bool]]]:
    """The rows of the table: what they say, their commands, and for each user whether they are allowed."""
    lines = DOCUMENT.partition("| the user can |")[2].partition("\n\n")[0].splitlines()
    rows = []
    for line in lines[2:]:
        said, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        assert {*cells} <= {"yes", "no"}, line
        rows.append(
            (said, re.findall("`([^`]+)`", said), dict(zip(USERS, (cell == "yes" for cell in cells), strict=True)))
        )
    return rows


@pytest.fixture(params=[*binaries(), "cluster"])
def node(
    request: pytest.FixtureRequest, private_server: Callable[..., RunningServer], server_pool: Any
) -> Iterator[Any]:
    """Connections to a private server of each kind, and to a node of the shared cluster."""
    if request.param == "cluster":
        with server_pool.server("cluster").client() as client:
            first = client.get_primaries()[0]

        def connection(**options: Any) -> redis.Redis:
            return redis.Redis(host=first.host, port=first.port, **options)
    else:
        connection = private_server(binary=binaries()[request.param]).client
    yield connection
    with connection() as owner:
        for user in USERS:
            owner.execute_command("ACL DELUSER", user)


def refused(reply: object) -> bool:
    """Whether a reply says that the user lacks a right, or that the server's file refuses the command to all."""
    signs = ("NOPERM", "permissions", "executing the script", "If the enable-")
    return isinstance(reply, redis.ResponseError) and any(sign in str(reply) for sign in signs)


def send(connection: Any, *words: object) -> Any:
    """A command's reply, or its error."""
    connection.send_command(*words)
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def test_the_table_is_true(node: Callable[..., redis.Redis], prefix: str) -> None:
    """On every server, each user may or may not run the commands that the table names, as it says."""
    rows = table()
    assert len(rows) >= 15
    with node() as owner:
        for user in USERS:
            set_user(owner, user, rights_of(user, MEMBERS), prefix)
            with node(username=user, password="secret") as client:
                for said, commands, allowed in rows:
                    assert commands, said
                    for command in commands:
                        connection = client.connection_pool.make_connection()
                        reply = send(connection, *WORDS[command].replace("PREFIX", prefix).split())
                        connection.disconnect()
                        unknown = "unknown command" in str(reply).lower()
                        assert refused(reply) is not allowed[user] or unknown, (user, said, command, reply)
        assert owner.ping()


def test_users_have_no_other_command_without_a_key(node: Callable[..., redis.Redis], prefix: str) -> None:
    """On every server, the key patterns confine every command but the listed ones, also the commands that no test names."""
    with node() as owner:
        known = list(named(owner.connection_pool, "COMMAND"))
        assert len(known) > 200
        for user in USERS:
            set_user(owner, user, rights_of(user, MEMBERS, CLUSTER), prefix)
            with node(username=user, password="secret") as client:
                connection = client.connection_pool.make_connection()
                assert send(connection, "MULTI") == b"OK"  # in which commands wait, once their rights were seen
                for name, arity, keys in known:
                    if keys or name.partition("|")[0] in KEYLESS | {"command", "cluster|slots", "readonly", "asking"}:
                        continue
                    words = name.split("|")
                    reply = send(connection, *words, *["x"] * (abs(arity) - len(words)))
                    assert reply != b"QUEUED" or name in KEYLESS | {"cluster|slots"}, (user, name)
                assert send(connection, "DISCARD") == b"OK"
                connection.disconnect()


def named(pool: Any, *words: str) -> Iterator[tuple[str, int, bool]]:
    """The commands of a server: name, arity, and whether they name keys; those with subcommands once for each of them."""
    connection = pool.make_connection()
    waiting = [("", one) for one in send(connection, *words)]
    connection.disconnect()
    for parent, (name, arity, flags, first, *rest) in waiting:
        below = rest[6] if len(rest) > 6 else []
        waiting.extend((f"{name.decode()}|", one) for one in below)
        if not below:
            full = name.decode() if b"|" in name else parent + name.decode()
            yield full.lower(), arity, first != 0 or b"movablekeys" in flags


def test_a_user_may_read_and_write_in_a_transaction(node: Callable[..., redis.Redis], prefix: str) -> None:
    """WATCH, MULTI and EXEC are within the lines, since versions to come may need them."""
    key = f"{{{prefix}:0}}:log:x"
    with node() as owner:
        for user in USERS:
            set_user(owner, user, rights_of(user), prefix)
            with node(username=user, password="secret") as client:
                connection = client.connection_pool.make_connection()
                words = [("WATCH", key), ("MULTI",), ("EXISTS", key), ("EXEC",), ("UNWATCH",)]
                assert not any(refused(send(connection, *one)) for one in words)
                assert refused(send(connection, "WATCH", "other"))
                connection.disconnect()


def test_an_earlier_right_is_taken_away(node: Callable[..., redis.Redis], prefix: str) -> None:
    """The lines begin with `reset`, so a user who could do all before has these rights only."""
    with node() as owner:
        for user in USERS:
            owner.execute_command("ACL SETUSER", user, "on", ">old", "~*", "+@all")
            set_user(owner, user, rights_of(user), prefix)
            with node(username=user, password="secret") as client, pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command("GET", "other")
            with node(username=user, password="old", **AT_ONCE) as client, pytest.raises(redis.AuthenticationError):
                client.ping()


def test_keys_of_similar_prefixes_are_out_of_reach(node: Callable[..., redis.Redis], prefix: str) -> None:
    """The patterns match no key of a prefix that begins alike, also of one that older versions accepted."""
    with node() as owner:
        for user in USERS:
            set_user(owner, user, rights_of(user, MEMBERS), prefix)
            with node(username=user, password="secret") as client:
                for other in (f"{prefix}:admin", f"{prefix}x", f"{prefix}-x", prefix[:-1], "*", prefix.upper()):
                    for key in (f"{{{other}:0}}:log:t", f"{other}:meta", f"{other}:groups"):
                        with pytest.raises(redis.exceptions.NoPermissionError):
                            client.execute_command("EXISTS", key)


def review(_: MessagesState) -> dict[str, Any]:
    """A node that waits for a person."""
    return {"messages": [AIMessage(interrupt("sure?"), id="reviewed")]}


async def test_a_graph_and_its_upkeep(server: Server, prefix: str, call: Call) -> None:
    """On every server, an agent with its rights runs turns with tools and interrupts, and cares for its threads."""
    graph: Any = StateGraph(MessagesState)
    graph.add_node("review", review)
    graph.add_edge(START, "review")
    with user_on(server, "agent", prefix) as url:
        options: Any = {"ttl": 60, "feed_retention": timedelta(days=1), "client_name": "agent"}
        async with RedisStreamSaver.from_conn_string(url, prefix=prefix, **options) as saver:
            await saver.setup()
            agent = weather_agent(saver, [ask(1, "sf", "nyc"), AIMessage("Sunny.", id="answer")])
            done = await call(agent, "invoke", {"messages": [human("weather?")]}, config("agent"))
            assert done["messages"][-1].content == "Sunny."
            asking = graph.compile(checkpointer=saver)
            await call(asking, "invoke", {"messages": [human("go")]}, config("asking"))
            assert await call(saver, "get_tuple", config("asking")) is not None
            done = await call(asking, "invoke", Command(resume="yes"), config("asking"))
            assert done["messages"][-1].content == "yes"
            before = values_of(await call(saver, "get_tuple", config("agent")))
            await call(saver, "copy_thread", "agent", "copied")
            assert values_of(await call(saver, "get_tuple", config("copied"))) == before
            await call(saver, "prune", ["agent"], keep_last=2)
            await call(saver, "prune", ["agent"], strategy="keep_latest")
            assert values_of(await call(saver, "get_tuple", config("agent"))) == before
            for number in range(2):
                await call(saver, "put", config("runs"), *step({"n": number}, run_id=f"r{number}"))
            await call(saver, "delete_for_runs", ["r0"])
            assert (await call(saver, "check", "agent")).differences == ()
            await call(saver, "rebuild", "agent")
            assert (await call(saver, "verify", "agent")).findings == ()
            await call(saver, "delete_thread", "asking")
            assert await call(saver, "get_tuple", config("asking")) is None
            assert {one.thread_id for one in saver.threads()} == {"agent", "copied", "runs"}
            assert all(one.bytes for one in saver.threads())
            listed = {found.config["configurable"]["thread_id"] for found in saver.list(None)}
            assert listed == {"agent", "copied", "runs"}


def test_a_group_with_all_effects(server: Server, prefix: str) -> None:
    """On every server, a member with its rights follows, acknowledges, retries and writes effects of every type."""
    with user_on(server, "agent", prefix, MEMBERS) as url:
        with RedisStreamSaver.from_conn_string(url, prefix=prefix) as saver:
            for number in range(3):
                saver.put(config(f"t{number}"), *step({"n": number}))
        with ActivityFeed.from_conn_string(url, prefix=prefix) as feed:
            group = feed.group("billing")
            with group.member("clerk", stop_on_sigterm=False) as member:
                seen = set()
                for activity in member:
                    member.effect("HINCRBY", "hash", activity.thread_id, 1)
                    member.effect("ZADD", "zset", 1, activity.thread_id)
                    member.effect("SADD", "set", activity.thread_id)
                    member.effect("RPUSH", "list", activity.thread_id)
                    member.effect("SET", f"text-{activity.thread_id}", 1)
                    member.effect("XADD", "stream", "*", "thread", activity.thread_id)
                    member.effect("PEXPIRE", "set", 100000)
                    seen.add(activity.thread_id)
                    if len(seen) == 3:
                        member.stop()
            assert group.lag().pending == 0
            assert len(group.effect_keys("hash")) == 16
            assert feed.trim(0).entries == 3
            assert [one.name for one in feed.groups()] == ["billing"]
            feed.drop_group("billing")
            assert feed.groups() == []


def test_a_saver_without_the_rights_of_members(any_server: Server, prefix: str) -> None:
    """The rights of members are needed for their keys, and the error names the place where rights are listed."""
    with user_on(any_server, "agent", prefix) as url, ActivityFeed.from_conn_string(url, prefix=prefix) as feed:
        with RedisStreamSaver.from_conn_string(url, prefix=prefix) as saver:
            saver.put(config("t"), *step({"n": 1}))
        with pytest.raises(Exception, match="Access rights"):
            feed.group("billing").register()


@pytest.mark.parametrize("binary", binaries().values(), ids=binaries())
def test_a_cluster_of_each_server(binary: Path, prefix: str) -> None:
    """The additional rights for clusters are enough on each server, for all nodes."""
    cluster = launch_cluster(binary)
    try:
        for user in USERS:
            with user_on(cluster, user, prefix) as url, RedisStreamSaver.from_conn_string(url, prefix=prefix) as saver:
                for number in range(8):
                    if user == "agent":
                        saver.put(config(f"t{number}"), *step({"n": number}))
                    assert values_of(saver.get_tuple(config(f"t{number}"))) == {"n": number}
    finally:
        cluster.stop()


def test_the_greeting_of_redis_py(node: Callable[..., redis.Redis], prefix: str) -> None:
    """The optional right keeps redis-py's greeting out of `ACL LOG`, on servers that know it."""
    with node() as owner:
        try:
            set_user(owner, "agent", rights_of("agent", GREETING), prefix)
        except redis.ResponseError as error:
            assert "Unknown command" in str(error)
            return
        owner.execute_command("ACL LOG", "RESET")
        with node(username="agent", password="secret") as client:
            client.ping()
        if int(owner.info("server")["redis_version"].split(".")[0]) >= 7:
            assert owner.execute_command("ACL LOG") == []


def test_a_loop_in_a_script(private_server: Callable[..., RunningServer], prefix: str) -> None:
    """A user's loop holds the server until the owner ends it; the table says so, because rights do not prevent that."""
    server = private_server("--lua-time-limit", "1")
    with user_on(server, "auditor", prefix) as url, redis.Redis.from_url(url) as client, server.client() as owner:
        looping = client.connection_pool.make_connection()
        looping.send_command("EVAL", "while true do end", 0)
        reply = send(owner_connection := owner.connection_pool.make_connection(), "PING")
        while "BUSY" not in str(reply):
            reply = send(owner_connection, "PING")
        assert send(owner_connection, "SCRIPT", "KILL") == b"OK"
        with pytest.raises(redis.ResponseError, match="killed"):
            looping.read_response()
        looping.disconnect()
        owner_connection.disconnect()


CHANGES = (
    "setfenv(0, setmetatable({redis={call=function() return 'changed' end}}, {__index=getfenv(0)}))",
    "redis.call = function() return 'changed' end",
    "string.match = function() return 'changed' end",
    "rawset(_G, 'tonumber', function() return 'changed' end)",
    "setmetatable(_G, {__index=function() return 'changed' end})",
    "getmetatable('').__index = function() return 'changed' end",
)
"""Scripts that would change what later scripts do."""
PROBE = """
return {redis.call('PING'), string.match('x', 'x'), tonumber('7'), pcall(function() return other end) and 1 or 0, ('x'):len()}
"""


@pytest.mark.parametrize("binary", binaries().values(), ids=binaries())
def test_scripts_of_others_stay_as_they_are(
    private_server: Callable[..., RunningServer], binary: Path, prefix: str
) -> None:
    """A script of the auditor changes nothing for later scripts of others, but on Redis 6.2, as OPERATIONS.md warns."""
    changed = []
    for change in CHANGES:
        server = private_server(binary=binary)
        with user_on(server, "auditor", prefix) as url, redis.Redis.from_url(url) as client, server.client() as owner:
            connection = owner.connection_pool.make_connection()
            before = send(connection, "EVAL", PROBE, 0)
            of_auditor = client.connection_pool.make_connection()
            send(of_auditor, "EVAL", change, 0)
            of_auditor.disconnect()
            if str(send(connection, "EVAL", PROBE, 0)) != str(before):
                changed.append(change)
            connection.disconnect()
    assert bool(changed) is is_old(binary)
    assert "On Redis 6.2, a script can change what all later scripts do" in DOCUMENT


def is_old(binary: Path) -> bool:
    """Whether a server's scripts share their globals."""
    return "redis-6.2" in {name for name, path in binaries().items() if path == binary}


@pytest.mark.parametrize("binary", binaries().values(), ids=binaries())
async def test_an_old_server_with_users(
    private_server: Callable[..., RunningServer],
    binary: Path,
    prefix: str,
    call: Call,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Saver and feed of a named user warn of Redis 6.2 once per connection pool, and of no later server."""
    server = private_server(binary=binary)
    options: dict[str, Any] = {"prefix": prefix}
    with user_on(server, "agent", prefix) as url, redis.Redis.from_url(url) as given:
        name, path = f"{prefix}-agent", given.connection_pool.connection_kwargs["path"]
        provider = redis.UsernamePasswordCredentialProvider(name, "secret")
        with redis.Redis(unix_socket_path=path, credential_provider=provider) as provided:
            for saver in (
                RedisStreamSaver.from_conn_string(url, **options),
                RedisStreamSaver(given, **options),
                RedisStreamSaver(given.connection_pool, **options),
                RedisStreamSaver(provided, **options),
            ):
                with saver:
                    await call(saver, "threads")
                    await call(saver, "setup")
                    await call(saver, "get_tuple", config("t"))
            for feed in (ActivityFeed.from_conn_string(url, **options), ActivityFeed(given, **options)):
                with feed:
                    await call(feed, "now")
    found = [record.getMessage() for record in caplog.records if record.name == "eventlog.connect"]
    assert len(found) == (4 if is_old(binary) else 0)  # two URLs and two pools
    assert all(f"user {name!r}" in one and "Upgrade to Redis 7.0 or later" in one for one in found)


@pytest.mark.parametrize("binary", binaries().values(), ids=binaries())
def test_an_old_server_without_users(
    private_server: Callable[..., RunningServer], binary: Path, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no warning for the default user, nor for a user who may not ask for the server's version."""
    server = private_server(binary=binary)
    with server.client() as owner:
        set_user(owner, "silent", [*rights_of("agent"), "-info"], prefix)
    scheme, _, rest = server.url.partition("://")
    for user in ("", "default:x@", "silent:secret@"):
        with RedisStreamSaver.from_conn_string(f"{scheme}://{user}{rest}", prefix=prefix) as saver:
            saver.setup()
    assert not caplog.records

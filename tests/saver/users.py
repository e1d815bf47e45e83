"""Users with the access rights that OPERATIONS.md lists, on any server."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from tests.servers import Running, Server, connect

DOCUMENT = (Path(__file__).parents[2] / "OPERATIONS.md").read_text()
MEMBERS = "Members of consumer groups"
CLUSTER = "All users of a cluster"
GREETING = "Optional from Redis 7.2 on"


def rights_of(user: str, *more: str) -> list[str]:
    """The rights that OPERATIONS.md gives to a user, with those of some of its bullets."""
    line = re.search(rf"^ACL SETUSER {user} (.*)$", DOCUMENT, re.MULTILINE)
    assert line is not None
    words = line[1].split()
    for start in more:
        bullet = re.search(rf"^- {start}.*?`([^`]*)`", DOCUMENT, re.MULTILINE)
        assert bullet is not None
        words += bullet[1].split()
    return words


def set_user(client: Any, name: str, rights: list[str], prefix: str) -> None:
    """Gives a user these rights to a prefix, on every node."""
    words = [one.replace("langgraph", prefix) for one in rights]
    everywhere = {"target_nodes": redis.RedisCluster.ALL_NODES} if isinstance(client, redis.RedisCluster) else {}
    client.execute_command("ACL SETUSER", name, *words, **everywhere)


@contextlib.contextmanager
def user_on(server: Running | Server, user: str, prefix: str, *more: str) -> Iterator[str]:
    """The address for a user of OPERATIONS.md, who exists within the block."""
    name = f"{prefix}-{user}"
    scheme, _, rest = server.url.partition("://")
    with connect(server.url) as client:
        clustered = isinstance(client, redis.RedisCluster)
        set_user(client, name, rights_of(user, *more, *([CLUSTER] if clustered else [])), prefix)
        try:
            yield f"{scheme}://{name}:secret@{rest}"
        finally:
            everywhere = {"target_nodes": redis.RedisCluster.ALL_NODES} if clustered else {}
            client.execute_command("ACL DELUSER", name, **everywhere)

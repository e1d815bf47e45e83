"""The first use of a prefix checks the server and the layout of the prefix."""

from __future__ import annotations

import logging
from weakref import WeakSet

from eventlog.connect.connections import Connections
from eventlog.errors import LayoutMismatch, ServerMisconfigured
from eventlog.flow import Call, Flow, load_script
from eventlog.framing import is_number
from eventlog.keys import LAYOUT, Keyspace

__all__ = ["check_server", "layout_of"]

CHECK = load_script("eventlog/connect/check_server")
OLDEST = (6, 2)
APART = (7, 0)
"""The first version of Redis in which a script cannot change what the scripts of other users do."""

log = logging.getLogger("eventlog.connect")
_warned: WeakSet[object] = WeakSet()
"""The connection pools whose server was warned of."""


def check_server(keyspace: Keyspace, connections: Connections, *, expires: bool) -> Flow[None]:
    """Stores the layout of a new prefix, and checks that of an old one and the server.

    One round trip. Warns as `layout_of`.

    `expires` tells whether keys get a ttl, since a `volatile-*` policy lets the server evict such keys.

    Raises:
        LayoutMismatch: the prefix has another number of partitions or layout version.
        ServerMisconfigured: the server is too old, or may evict keys of the log.

    """
    layout, partitions, server, memory = yield Call(CHECK, [keyspace.meta], [LAYOUT, keyspace.partitions])
    if not is_number(layout or b"") or not is_number(partitions or b""):
        raise LayoutMismatch(
            f"Prefix {keyspace.prefix!r} has a meta key that this package did not write: layout {layout!r:.40}, "
            f"partitions {partitions!r:.40}. Use another prefix, or delete {keyspace.meta.decode()!r} if only this saver uses "
            "the prefix."
        )
    if int(layout) != LAYOUT:
        raise LayoutMismatch(
            f"Prefix {keyspace.prefix!r} has layout version {int(layout)}, this package has {LAYOUT}. Use a version of the "
            "package with that layout, or another prefix."
        )
    if int(partitions) != keyspace.partitions:
        raise LayoutMismatch(
            f"Prefix {keyspace.prefix!r} has partitions={int(partitions)}, this saver has "
            f"partitions={keyspace.partitions}. Pass partitions={int(partitions)}, or use another prefix."
        )
    version = _setting(server, b"redis_version")
    if () < _numbers(version) < OLDEST:
        raise ServerMisconfigured(f"The server is Redis {version}; 6.2 is the oldest that works. Upgrade it.")
    policy = _setting(memory, b"maxmemory_policy")
    if policy.startswith("allkeys") or (expires and policy.startswith("volatile")):
        raise ServerMisconfigured(
            f"The server's maxmemory-policy is {policy}: when memory runs out, it would evict threads without "
            "notice. Set maxmemory-policy to noeviction"
            + (" or use no ttl." if not policy.startswith("allkeys") else ".")
        )
    _warn_of_shared_scripts(connections, version)


def layout_of(keyspace: Keyspace, connections: Connections) -> Flow[tuple[bytes | None, bytes | None]]:
    """Reads the layout version and the number of partitions of a prefix, None where it has none. Writes nothing.

    One round trip. Logs a warning, once per connection pool, if the connections name a user and the server is older than
    Redis 7.0.
    """
    layout, partitions, server, _ = yield Call(CHECK, [keyspace.meta], [])
    _warn_of_shared_scripts(connections, _setting(server, b"redis_version"))
    return layout, partitions


def _warn_of_shared_scripts(connections: Connections, version: str) -> None:
    if not connections.user or not () < _numbers(version) < APART or connections.pool in _warned:
        return
    _warned.add(connections.pool)
    log.warning(
        "The server is Redis %s, and the connections name the user %r. Before Redis 7.0, access rights do not hold: a user with "
        "EVAL can change what the scripts of other users do. Upgrade to Redis 7.0 or later, or use one server per trust domain.",
        version,
        connections.user,
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version, () if it is unknown."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _setting(info: bytes, name: bytes) -> str:
    """The value of a name in an INFO section, '' if it has none."""
    for line in info.splitlines():
        key, _, value = line.partition(b":")
        if key == name:
            return value.decode()
    return ""

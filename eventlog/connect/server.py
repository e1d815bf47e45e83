"""The first use of a prefix: is the server fit, and is the prefix laid out as this saver expects?"""

from __future__ import annotations

from eventlog.errors import LayoutMismatch, ServerMisconfigured
from eventlog.flow import Call, Flow, load_script
from eventlog.keys import LAYOUT, Keyspace

__all__ = ["check_server"]

CHECK = load_script("eventlog/connect/check_server")
OLDEST = (6, 2)


def check_server(keyspace: Keyspace, *, expires: bool) -> Flow[None]:
    """Lays a new prefix out, and checks an old one and the server. One round trip.

    `expires`: whether keys are given a ttl, which a `volatile-*` policy would let the server evict.

    Raises:
        LayoutMismatch: the prefix was laid out with another number of partitions or by another layout version.
        ServerMisconfigured: the server is too old, or may evict keys of the log.

    """
    layout, partitions, server, memory = yield Call(CHECK, [keyspace.meta], [LAYOUT, keyspace.partitions])
    if not (layout or b"").isdigit() or not (partitions or b"").isdigit():
        raise LayoutMismatch(
            f"Prefix {keyspace.prefix!r} has a meta key that this package did not write: layout {layout!r}, partitions "
            f"{partitions!r}. Use another prefix, or delete {keyspace.meta.decode()!r} if the prefix is this saver's alone."
        )
    if int(layout) != LAYOUT:
        raise LayoutMismatch(
            f"Prefix {keyspace.prefix!r} has layout version {int(layout)}, this package has {LAYOUT}. Use the version of the "
            "package that laid it out, or another prefix."
        )
    if int(partitions) != keyspace.partitions:
        raise LayoutMismatch(
            f"Prefix {keyspace.prefix!r} was laid out with partitions={int(partitions)}, this saver has "
            f"partitions={keyspace.partitions}. Pass partitions={int(partitions)}, or use another prefix."
        )
    version = _setting(server, b"redis_version")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST:
        raise ServerMisconfigured(f"The server is Redis {version}; 6.2 is the oldest that works. Upgrade it.")
    policy = _setting(memory, b"maxmemory_policy")
    if policy.startswith("allkeys") or (expires and policy.startswith("volatile")):
        raise ServerMisconfigured(
            f"The server's maxmemory-policy is {policy}: when memory runs short it would evict threads, and an agent would "
            "forget without notice. Set maxmemory-policy to noeviction"
            + (" or use no ttl." if not policy.startswith("allkeys") else ".")
        )


def _setting(info: bytes, name: bytes) -> str:
    """A line of an INFO section, '' where the server does not say."""
    for line in info.splitlines():
        key, _, value = line.partition(b":")
        if key == name:
            return value.decode()
    return ""

"""Which partitions are whose: members keep themselves alive, renew their leases, and take what nobody has, up to their fair share.

There is no coordinator. Each member counts those alive, and takes or gives up partitions until it has its share. A member that died
is not alive once its lease is over, and its partitions are free then: so within a lease and a third of it they are others'.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from secrets import token_hex
from threading import Lock
from typing import Union

from eventlog.errors import GroupNotFound
from eventlog.feed.position import Offset
from eventlog.feed.registration import register_in, registration
from eventlog.feed.replies import FENCED, NONE, OK, Leased
from eventlog.flow import Argument, Call, Flow, load_script
from eventlog.keys import Keyspace

__all__ = ["Gained", "Leases", "Lost"]

log = logging.getLogger("eventlog.feed")

JOIN = load_script("eventlog/feed/join")
LEASE = load_script("eventlog/feed/lease")
EAGER = 0.3
"""Seconds between looks of a member that has less than its share."""


@dataclass(frozen=True, slots=True)
class Gained:
    """A lease was taken."""

    number: int
    token: bytes
    at: Leased
    """Where the group is in the partition."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A lease is another's now."""

    number: int
    token: bytes


class Leases:
    """The leases of one member. `upkeep` may run beside the member's own work: what it finds out is left in `news`."""

    def __init__(self, keyspace: Keyspace, group: str, name: str, lease: float) -> None:
        self._keyspace = keyspace
        self._group = group
        self._encoded = group.encode()
        self.name = name
        self.member = f"{name}/{token_hex(4)}"
        self._ms = int(lease * 1000)
        self._lease = lease
        self.tokens: dict[int, bytes] = {}
        self.share = keyspace.partitions
        self.news: deque[Union[Gained, Lost]] = deque()
        self.left = False
        self._lock = Lock()

    def drop(self, number: int, token: bytes) -> None:
        """Forgets a lease, if it is this one still."""
        with self._lock:
            if self.tokens.get(number) == token:
                del self.tokens[number]

    @property
    def interval(self) -> float:
        """Seconds until `upkeep` is due again."""
        return min(EAGER, self._lease / 3) if len(self.tokens) < self.share else self._lease / 3

    def upkeep(self) -> Flow[None]:
        """One round trip, one per partition leased, and one per partition tried for. Raises `GroupNotFound`."""
        alive = yield Call(JOIN, [self._keyspace.members(self._encoded)], [self.member, self._ms])
        for number, token in list(self.tokens.items()):
            reply = yield from self._call(number, b"renew", token)
            if reply.status == FENCED:
                self._lose(number, token)
        partitions = self._keyspace.partitions
        rank = alive.index(self.member.encode())
        self.share = partitions // len(alive) + (rank < partitions % len(alive))
        first = rank * partitions // len(alive)
        for offset in range(partitions):
            if len(self.tokens) >= self.share or self.left:
                return
            number = (first + offset) % partitions
            if number not in self.tokens:
                yield from self._take(number)

    def take_again(self, number: int, token: bytes) -> Flow[None]:
        """Asks anew where a partition that is leased under a token is. One round trip."""
        if self.tokens.get(number) == token:
            yield from self._take(number, token)

    def _take(self, number: int, again: bytes | None = None) -> Flow[None]:
        token = again or token_hex(8).encode()
        reply = yield from self._call(number, b"take", token)
        if reply.status == OK:
            self.tokens[number] = token
            self.news.append(Gained(number, token, reply))
        elif again is not None:
            self._lose(number, token)

    def _lose(self, number: int, token: bytes) -> None:
        self.drop(number, token)
        self.news.append(Lost(number, token))

    def release(self, number: int, token: bytes) -> Flow[None]:
        """Gives a lease back. One round trip."""
        self.drop(number, token)
        yield from self._call(number, b"release", token)

    def leave(self) -> Flow[None]:
        """Gives all back, and counts as alive no longer."""
        self.left = True
        for number, token in list(self.tokens.items()):
            yield from self.release(number, token)
        yield Call(JOIN, [self._keyspace.members(self._encoded)], [self.member, 0])

    def _call(self, number: int, what: bytes, token: bytes) -> Flow[Leased]:
        shared = self._keyspace.partition(number)
        keys = shared.group(self._encoded)
        words: list[Argument] = [self._encoded, what, token, self.member.encode(), self._ms]
        call = Call(LEASE, [shared.positions, keys.state, keys.due], words)
        reply = Leased.of((yield call))
        if reply.status == NONE and (yield from registration(self._keyspace, self._group)) is not None:
            log.warning(
                "Group %r was lost in partition %d; it begins anew there with what the feed has", self._group, number
            )
            yield from register_in(self._keyspace, self._group, number, Offset("beginning"))
            reply = Leased.of((yield call))
        if reply.status == NONE:
            raise GroupNotFound(f"Group {self._group!r} was dropped; its members end. Register it anew to begin again.")
        return reply

"""Leases: which member has which partition.

There is no coordinator. Each member keeps itself alive and counts the live members. It takes free partitions, or gives some
up, until it has its fair share. A member that died is not alive once its lease is over, and its partitions are free then. So
other members take over its partitions within 1.3 lease periods.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from secrets import token_hex
from threading import Lock
from typing import Any, Union

from eventlog.errors import GroupNotFound
from eventlog.feed.position import Offset
from eventlog.feed.registration import register_in, registration, state_damaged
from eventlog.feed.replies import FENCED, NONE, OK, Leased
from eventlog.flow import Argument, Call, Flow, load_script
from eventlog.keys import GroupKeys, Keyspace

__all__ = ["Gained", "Leases", "Lost"]

log = logging.getLogger("eventlog.feed")

JOIN = load_script("eventlog/feed/join")
LEASE = load_script("eventlog/feed/lease")
WAITING = 1000
"""Most threads with waiting events that one call reads."""
EAGER = 0.3
"""The seconds between attempts of a member that has less than its share."""


@dataclass(frozen=True, slots=True)
class Gained:
    """A lease was taken."""

    number: int
    token: bytes
    at: Leased
    """The group's position in the partition."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A lease was lost."""

    number: int
    token: bytes


class Leases:
    """The leases of one member.

    `upkeep` may run beside the member's own work, and reports in `news`.
    """

    def __init__(self, keyspace: Keyspace, group: str, name: str, lease: float) -> None:
        self.name = name
        self.tokens: dict[int, bytes] = {}
        """The fencing token of each partition that is leased: random, so that a failover never makes one twice."""
        self.share = keyspace.partitions
        self.news: deque[Union[Gained, Lost]] = deque()
        self._keyspace = keyspace
        self._group = group
        self._member = f"{name}/{token_hex(4)}"
        self._lease = lease
        self._left = False
        self._lock = Lock()

    def drop(self, number: int, token: bytes) -> None:
        """Forgets a lease, if the partition still has this token."""
        with self._lock:
            if self.tokens.get(number) == token:
                del self.tokens[number]

    @property
    def interval(self) -> float:
        """The seconds until `upkeep` is due again."""
        return min(EAGER, self._lease / 3) if len(self.tokens) < self.share else self._lease / 3

    def upkeep(self) -> Flow[None]:
        """Renews the leases, and takes more up to the share. Raises `GroupNotFound`.

        One round trip, one more per partition leased, and one per partition tried, or one per 1,000 threads that have waiting
        events there.
        """
        alive = yield from self._join(self._lease)
        for number, token in list(self.tokens.items()):
            reply = yield from self._call(number, b"renew", token)
            if reply.status == FENCED:
                self._lose(number, token)
        partitions = self._keyspace.partitions
        rank = alive.index(self._member.encode())
        self.share = partitions // len(alive) + (rank < partitions % len(alive))
        first = rank * partitions // len(alive)
        for step in range(partitions):
            if len(self.tokens) >= self.share or self._left:
                return
            number = (first + step) % partitions
            if number not in self.tokens:
                yield from self._take(number, token_hex(8).encode())

    def take_again(self, number: int, token: bytes) -> Flow[None]:
        """Asks for the group's position in a partition that is leased. One round trip."""
        if self.tokens.get(number) == token and not (yield from self._take(number, token)):
            self._lose(number, token)

    def release(self, number: int, token: bytes) -> Flow[None]:
        """Gives a lease back. One round trip."""
        self.drop(number, token)
        yield from self._call(number, b"release", token)

    def leave(self) -> Flow[None]:
        """Gives all leases back, and takes the member out of the live ones."""
        self._left = True
        for number, token in list(self.tokens.items()):
            yield from self.release(number, token)
        yield from self._join(0)

    def _join(self, seconds: float) -> Flow[list[bytes]]:
        """Keeps the member alive for some seconds, and returns the live members."""
        keys = [self._keyspace.members(self._group.encode())]
        return (yield Call(JOIN, keys, [self._member, int(seconds * 1000)]))  # type: ignore[no-any-return]

    def _take(self, number: int, token: bytes) -> Flow[bool]:
        waiting: set[str] = set()
        bound = b"-"
        while bound:  # each call takes the lease again
            reply = yield from self._call(number, b"take", token, bound, WAITING)
            if reply.status != OK:
                return False
            waiting |= reply.waiting
            bound = reply.bound
        self.tokens[number] = token
        self.news.append(Gained(number, token, reply._replace(waiting=frozenset(waiting))))
        return True

    def _lose(self, number: int, token: bytes) -> None:
        self.drop(number, token)
        self.news.append(Lost(number, token))

    def _call(self, number: int, action: bytes, token: bytes, *more: Argument) -> Flow[Leased]:
        group, shared = self._group.encode(), self._keyspace.partition(number)
        keys = shared.group(group)
        words: list[Argument] = [group, action, token, self._member.encode(), int(self._lease * 1000), *more]
        call = Call(LEASE, [shared.positions, keys.state, keys.held], words)
        reply = self._decoded(keys, (yield call))
        if reply.status == NONE and (yield from registration(self._keyspace, self._group)) is not None:
            log.warning(
                "Group %r was lost in partition %d; it starts there with the oldest entry of the feed",
                self._group,
                number,
            )
            yield from register_in(self._keyspace, self._group, number, Offset("beginning"))
            reply = self._decoded(keys, (yield call))
        if reply.status == NONE:
            raise GroupNotFound(
                f"Group {self._group!r} was dropped; its members end. Register it again to start from the beginning."
            )
        return reply

    def _decoded(self, keys: GroupKeys, reply: list[Any]) -> Leased:
        try:
            return Leased.of(reply)
        except ValueError as error:
            raise state_damaged(self._group, keys, error) from error

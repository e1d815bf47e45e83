"""Projections of one's own: the feed folded into any store, with its position in the same transaction.

A projection that keeps its position where it keeps what it made of the feed can neither miss an activity nor count one twice,
whatever is killed when. It is one reader, at its own pace, apart from all consumer groups: what is to be worked off by several,
or to be retried event by event, is a group's.

To change what a projection makes of the feed, fold a new one from zero beside the old one, which goes on serving; when it has
caught up, let readers go over to it. Trimming would take from under it what it has not read: keep the feed, or register a group
for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable

from eventlog.feed.activity import Activity
from eventlog.feed.feed import ActivityFeed
from eventlog.feed.position import Position

__all__ = ["FeedProjection"]

BATCH = 500


class FeedProjection(ABC):
    """Folds activities into a store. To be derived from: `position` and `fold` are the store's."""

    kinds: Sequence[str] | None = None
    """Kinds of activity that are wanted, decided at the server; None: all."""
    partial: bool = False
    """Whether an empty store may begin with the oldest activity there is, where the feed was trimmed: it is not whole then."""

    @abstractmethod
    def position(self) -> Position | str | None:
        """The position that the store has, as `fold` was given it or as its text; None if it is empty."""

    @abstractmethod
    def fold(self, activities: Sequence[Activity], position: Position) -> Awaitable[None] | None:
        """Folds activities into the store and puts `position` in place of the one it has: both in one transaction, or neither.

        The activities may be none: then only the position moves. Raising leaves the store where it was, and ends the fold.
        """

    def catch_up(self, feed: ActivityFeed, *, batch: int = BATCH) -> int:
        """Folds what the feed has beyond the store's position. How many activities that was.

        Raises `PositionLost` where the store has folded what the server has lost since, `PositionTrimmed` where what comes next was
        trimmed: in both cases the store has to be folded anew. Round trips are those of `ActivityFeed.tail`.
        """
        start = self._start()
        tail = feed.tail(start, kinds=self.kinds, follow=False, batch=batch)
        count, some = 0, list[Activity]()
        for activity in tail:
            some.append(activity)
            if len(some) == batch:
                self.fold(some, activity.position)
                count, some = count + len(some), []
        if some or tail.position != start:
            self.fold(some, tail.position)
        return count + len(some)

    async def acatch_up(self, feed: ActivityFeed, *, batch: int = BATCH) -> int:
        """Async twin of `catch_up`; `fold` may be a coroutine function."""
        start = self._start()
        tail = feed.tail(start, kinds=self.kinds, follow=False, batch=batch)
        count, some = 0, list[Activity]()
        async for activity in tail:
            some.append(activity)
            if len(some) == batch:
                await _settled(self.fold(some, activity.position))
                count, some = count + len(some), []
        if some or tail.position != start:
            await _settled(self.fold(some, tail.position))
        return count + len(some)

    def follow(self, feed: ActivityFeed, *, until: Callable[[], bool] = lambda: False, batch: int = BATCH) -> None:
        """Catches up and goes on folding what comes, until `until()`, asked once a second or oftener, says so."""
        while not until():
            self.catch_up(feed, batch=batch)
            if not until():
                feed.wait_beyond(self._position())

    async def afollow(
        self, feed: ActivityFeed, *, until: Callable[[], bool] = lambda: False, batch: int = BATCH
    ) -> None:
        """Async twin of `follow`."""
        while not until():
            await self.acatch_up(feed, batch=batch)
            if not until():
                await feed.await_beyond(self._position())

    def _start(self) -> Position | str:
        found = self.position()
        if found is None:
            return "beginning" if self.partial else Position({})
        if isinstance(found, str):
            return Position.parse(found)
        if not isinstance(found, Position):
            raise TypeError(f"position() must give a Position, its text, or None, not {type(found).__name__}.")
        return found

    def _position(self) -> Position:
        start = self._start()
        return Position({}) if isinstance(start, str) else start


async def _settled(outcome: object) -> None:
    if isawaitable(outcome):
        await outcome

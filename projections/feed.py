"""The base class of projections that applications write.

A projection folds the feed into any store, and keeps its position there in the same transaction. So it neither misses an activity
nor counts one twice, even if it is killed. A projection is one reader with its own pace, apart from all consumer groups. Use a
group for work that several members share, or that is retried event by event.

To change what a projection makes of the feed, fold a new one from zero while the old one goes on serving. Let readers go over to
the new one when it has caught up. Trimming would remove activities that a projection has not read: keep the feed, or register a
group for the projection.
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
    """Folds activities into a store. Subclasses write `position` and `fold`."""

    kinds: Sequence[str] | None = None
    """The kinds of activity that are wanted, filtered by the server; None for all."""
    partial: bool = False
    """Whether an empty store may begin with the oldest activity of a feed that was trimmed: the store is not complete then."""

    @abstractmethod
    def position(self) -> Position | str | None:
        """The position in the store, as `fold` was given it or as text; None if empty."""

    @abstractmethod
    def fold(self, activities: Sequence[Activity], position: Position) -> Awaitable[None] | None:
        """Folds activities into the store, and replaces its position, in one transaction.

        There may be no activities: then only the position moves. If this raises, the store must be as it was, and the fold ends.
        """

    def catch_up(self, feed: ActivityFeed, *, batch: int = BATCH) -> int:
        """Folds the activities after the store's position, and returns how many they were.

        Round trips are those of `ActivityFeed.tail`.

        Raises:
            PositionLost: the store has folded activities that the server has lost since. Fold the store from zero.
            PositionTrimmed: the next activities were trimmed. Fold the store from zero.

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
        """Async form of `catch_up`; `fold` may be a coroutine function."""
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
        """Catches up, and goes on folding new activities until `until()` is true.

        `until` is called at least once a second.
        """
        while not until():
            self.catch_up(feed, batch=batch)
            if not until():
                feed.wait_beyond(self._position())

    async def afollow(
        self, feed: ActivityFeed, *, until: Callable[[], bool] = lambda: False, batch: int = BATCH
    ) -> None:
        """Async form of `follow`."""
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
            raise TypeError(f"position() must return a Position, its text, or None, not {type(found).__name__}.")
        return found

    def _position(self) -> Position:
        start = self._start()
        return Position({}) if isinstance(start, str) else start


async def _settled(outcome: object) -> None:
    if isawaitable(outcome):
        await outcome

"""Projections that users write: the feed folded into a store with its position."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from eventlog import Activity, ActivityFeed, Position, PositionTrimmed
from projections import FeedProjection
from saver import RedisStreamSaver
from tests.saver.threads import config, follow, step
from tests.servers import Server


class Counts(FeedProjection):
    """Activities by thread, in SQLite."""

    def __init__(self, path: Path, fail_after: int | None = None) -> None:
        self.database = sqlite3.connect(path, check_same_thread=False)
        self.database.execute("CREATE TABLE IF NOT EXISTS seen (thread TEXT, sequence INTEGER)")
        self.database.execute("CREATE TABLE IF NOT EXISTS place (position TEXT)")
        self.database.commit()
        self.fail_after = fail_after

    def position(self) -> str | None:
        found = self.database.execute("SELECT position FROM place").fetchone()
        return str(found[0]) if found else None

    def fold(self, activities: Sequence[Activity], position: Position) -> None:
        with self.database:
            for activity in activities:
                self.database.execute("INSERT INTO seen VALUES (?, ?)", (activity.thread_id, activity.sequence))
            self.database.execute("DELETE FROM place")
            self.database.execute("INSERT INTO place VALUES (?)", (str(position),))
            if self.fail_after is not None:
                self.fail_after -= 1
                if self.fail_after < 0:
                    raise RuntimeError("the store failed")

    def seen(self) -> list[tuple[str, int]]:
        return self.database.execute("SELECT thread, sequence FROM seen ORDER BY rowid").fetchall()


@pytest.fixture
def feed(server: Server, prefix: str) -> Iterator[ActivityFeed]:
    with ActivityFeed.from_conn_string(server.url, prefix=prefix) as opened:
        yield opened


@pytest.fixture
def saver(server: Server, prefix: str) -> Iterator[RedisStreamSaver]:
    with RedisStreamSaver.from_conn_string(server.url, prefix=prefix) as opened:
        yield opened


def write(saver: RedisStreamSaver, threads: int = 5, steps: int = 7) -> None:
    for number in range(threads):
        at = step({"a": 0})
        saver.put(config(f"t{number}"), *at)
        for value in range(1, steps):
            parent = at[0]["id"]
            at = follow(at, {"a": value})
            saver.put(config(f"t{number}", "", parent), *at)


def in_order(seen: list[tuple[str, int]]) -> bool:
    """Whether each thread's events came in order, and none twice."""
    last: dict[str, int] = {}
    for thread, sequence in seen:
        if sequence != last.get(thread, 0) + 1:
            return False
        last[thread] = sequence
    return True


def test_it_catches_up_and_goes_on(feed: ActivityFeed, saver: RedisStreamSaver, tmp_path: Path) -> None:
    """Each activity is folded once, in the order of its thread, over as many catch-ups as there are."""
    write(saver)
    counts = Counts(tmp_path / "counts.db")
    assert counts.catch_up(feed, batch=4) == 35
    assert counts.catch_up(feed) == 0
    saver.delete_thread("t0")
    assert Counts(tmp_path / "counts.db").catch_up(feed) == 1
    assert len(counts.seen()) == 36
    assert in_order(counts.seen()[:35])


def test_a_store_that_fails_is_left_where_it_was(feed: ActivityFeed, saver: RedisStreamSaver, tmp_path: Path) -> None:
    """Counts and position move together or not at all, whenever the store fails."""
    write(saver)
    for folds in range(4):
        with pytest.raises(RuntimeError):
            Counts(tmp_path / "counts.db", fail_after=folds % 2).catch_up(feed, batch=3)
        assert in_order(Counts(tmp_path / "counts.db").seen())
    counts = Counts(tmp_path / "counts.db")
    counts.catch_up(feed)
    assert len(counts.seen()) == 35
    assert in_order(counts.seen())


async def test_the_async_twin_folds_the_same(feed: ActivityFeed, saver: RedisStreamSaver, tmp_path: Path) -> None:
    """acatch_up folds what catch_up would, also with a fold that is a coroutine."""
    write(saver)

    class Later(Counts):
        async def fold(self, activities: Sequence[Activity], position: Position) -> None:  # type: ignore[override]
            Counts.fold(self, activities, position)

    counts = Later(tmp_path / "counts.db")
    assert await counts.acatch_up(feed, batch=10) == 35
    assert in_order(counts.seen())


def test_following_folds_what_comes(feed: ActivityFeed, saver: RedisStreamSaver, tmp_path: Path) -> None:
    """follow() goes on until it is stopped."""
    counts = Counts(tmp_path / "counts.db")
    writer = threading.Thread(target=write, args=(saver,))
    writer.start()
    counts.follow(feed, until=lambda: len(counts.seen()) == 35)
    writer.join()
    assert in_order(counts.seen())


def test_a_fold_from_zero_does_not_begin_behind_what_was_trimmed(
    feed: ActivityFeed, saver: RedisStreamSaver, tmp_path: Path
) -> None:
    """A store that is empty cannot become whole from a feed that was trimmed: that is an error, not a gap."""
    write(saver)
    folded = Counts(tmp_path / "folded.db")
    folded.catch_up(feed)
    assert feed.trim(0).entries == 35
    with pytest.raises(PositionTrimmed):
        Counts(tmp_path / "empty.db").catch_up(feed)
    assert folded.catch_up(feed) == 0


class InMemory(FeedProjection):
    """Threads in the order of their events, in a list; its fold is a coroutine function."""

    partial = True

    def __init__(self) -> None:
        self.kept: object = None
        self.threads: list[str] = []

    def position(self) -> Any:
        return self.kept

    async def fold(self, activities: Sequence[Activity], position: Position) -> None:
        await asyncio.sleep(0)
        self.threads += [activity.thread_id for activity in activities]
        self.kept = position


async def test_a_coroutine_function_follows(any_server: Server, prefix: str) -> None:
    """An async projection whose store is partial begins with the oldest activity left, and folds as activities come."""
    projection = InMemory()
    async with (
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver,
        ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed,
    ):
        await saver.aput(config("gone"), *step({"a": 1}))
        await feed.atrim(0)
        following = asyncio.create_task(projection.afollow(feed, until=lambda: len(projection.threads) == 2))
        for thread in ("first", "second"):
            await saver.aput(config(thread), *step({"a": 1}))
        await asyncio.wait_for(following, 20)
    assert projection.threads == ["first", "second"]


def test_a_position_of_another_type(any_server: Server, prefix: str) -> None:
    """A store's position is a `Position`, its text, or None."""
    projection = InMemory()
    projection.kept = 7
    with ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed, pytest.raises(TypeError, match="int"):
        projection.catch_up(feed)

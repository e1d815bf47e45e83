"""A projection of one's own: steps and tokens per user, folded from the feed into SQLite.

    usage.py redis://localhost:6379/0 usage.db              catch up, print the table
    usage.py redis://localhost:6379/0 usage.db --follow     and go on until Ctrl-C
    usage.py redis://localhost:6379/0 usage.db --rebuild    fold anew from zero; the old table serves until that is done

Users are told by `metadata={"user_id": ...}` in the config that a graph is invoked with. Counts and position are written in one
transaction, so a kill at any moment neither loses nor repeats a count.
"""

from __future__ import annotations

import argparse
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from eventlog import Activity, ActivityFeed, CheckpointSaved, EventGone, EventLogError, Position
from projections import FeedProjection
from saver import RedisStreamSaver

TABLES = """
CREATE TABLE IF NOT EXISTS generations (number INTEGER PRIMARY KEY, position TEXT, serving INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS users (generation INTEGER, thread TEXT, user TEXT, PRIMARY KEY (generation, thread));
CREATE TABLE IF NOT EXISTS usage (generation INTEGER, user TEXT, steps INTEGER NOT NULL, tokens INTEGER NOT NULL,
                                  PRIMARY KEY (generation, user));
"""


class Replaced(Exception):
    """Another generation serves by now."""


class Usage(FeedProjection):
    """Steps and tokens per user, in one generation of tables."""

    kinds = ("checkpoint", "writes")

    def __init__(self, database: sqlite3.Connection, saver: RedisStreamSaver, generation: int) -> None:
        self.database = database
        self.saver = saver
        self.generation = generation

    def position(self) -> str | None:
        """Where this generation is."""
        query = "SELECT position FROM generations WHERE number = ?"
        found = self.database.execute(query, (self.generation,)).fetchone()
        if found is None:
            raise Replaced
        return None if found[0] is None else str(found[0])

    def fold(self, activities: Sequence[Activity], position: Position) -> None:
        """Counts, and moves the position, in one transaction."""
        with self.database:
            self.database.execute("BEGIN IMMEDIATE")
            for activity in activities:
                try:
                    self._count(activity)
                except EventGone:  # deleted since: nobody is charged for it
                    continue
            moved = (str(position), self.generation)
            self.database.execute("UPDATE generations SET position = ? WHERE number = ?", moved)

    def _count(self, activity: Activity) -> None:
        if activity.kind == "checkpoint":
            user = self._user_of(activity)
            self._add(user, int(bool(activity.nodes)), 0)
        elif "messages" in activity.channels:
            tokens = sum(map(_tokens, self.saver.load_values(activity)))
            query = "SELECT user FROM users WHERE generation = ? AND thread = ?"
            found = self.database.execute(query, (self.generation, activity.thread_id)).fetchone()
            self._add(found[0] if found else "(unknown)", 0, tokens)

    def _user_of(self, activity: Activity) -> str:
        event = activity.load().event
        assert isinstance(event, CheckpointSaved)
        metadata = event.body["metadata"]
        user = str(metadata.get("user_id", "(unknown)")) if isinstance(metadata, dict) else "(encrypted)"
        self.database.execute(
            "INSERT OR REPLACE INTO users VALUES (?, ?, ?)", (self.generation, activity.thread_id, user)
        )
        return user

    def _add(self, user: str, steps: int, tokens: int) -> None:
        self.database.execute(
            "INSERT INTO usage VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET steps = steps + excluded.steps, tokens = tokens + excluded.tokens",
            (self.generation, user, steps, tokens),
        )


def _tokens(write: tuple[str, Any]) -> int:
    """Tokens of the messages in a write."""
    channel, value = write
    if channel != "messages":
        return 0
    messages = value if isinstance(value, list) else [value]
    usages = [getattr(message, "usage_metadata", None) for message in messages]
    return sum(usage["total_tokens"] for usage in usages if usage)


def connect(path: str | Path) -> sqlite3.Connection:
    """The database, with its tables."""
    database = sqlite3.connect(path, isolation_level=None)
    database.executescript(TABLES)
    database.execute(
        "INSERT INTO generations (number, serving) SELECT 1, 1 WHERE NOT EXISTS (SELECT * FROM generations)"
    )
    return database


def serving(database: sqlite3.Connection) -> int:
    """The generation that readers are to look at."""
    (found,) = database.execute("SELECT number FROM generations WHERE serving").fetchone()
    return int(found)


def rebuild(database: sqlite3.Connection, saver: RedisStreamSaver, feed: ActivityFeed) -> None:
    """Folds a new generation from zero while the old one serves, then lets it serve, and drops the others."""
    (newest,) = database.execute("SELECT max(number) FROM generations").fetchone()
    database.execute("INSERT INTO generations (number) VALUES (?)", (newest + 1,))
    Usage(database, saver, newest + 1).catch_up(feed)
    with database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE generations SET serving = (number = ?)", (newest + 1,))
        for table in ("usage", "users"):
            database.execute(f"DELETE FROM {table} WHERE generation <= ?", (newest,))
        database.execute("DELETE FROM generations WHERE number <= ?", (newest,))


def follow(database: sqlite3.Connection, saver: RedisStreamSaver, feed: ActivityFeed) -> None:
    """Folds what comes, prints the table when it has changed, and goes over to a generation that was rebuilt meanwhile."""
    shown = None
    while True:
        with suppress(Replaced):
            Usage(database, saver, serving(database)).follow(feed, until=lambda: table(database) != shown)  # noqa: B023
        if table(database) != shown:
            shown = show(database)


def show(database: sqlite3.Connection) -> list[tuple[str, int, int]]:
    """Prints the table."""
    found = table(database)
    for user, steps, tokens in found:
        print(f"{user:<30} {steps:>8} steps {tokens:>12} tokens")
    print(flush=True)
    return found


def table(database: sqlite3.Connection) -> list[tuple[str, int, int]]:
    """User, steps and tokens of the generation that serves."""
    query = "SELECT user, steps, tokens FROM usage WHERE generation = ? ORDER BY user"
    return database.execute(query, (serving(database),)).fetchall()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("database")
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--rebuild", action="store_true")
    options = parser.parse_args()
    database = connect(options.database)
    with RedisStreamSaver.from_conn_string(options.url) as saver, ActivityFeed.from_conn_string(options.url) as feed:
        try:
            if options.rebuild:
                rebuild(database, saver, feed)
            Usage(database, saver, serving(database)).catch_up(feed)
            show(database)
            if options.follow:
                with suppress(KeyboardInterrupt):
                    follow(database, saver, feed)
        except EventLogError as error:
            raise SystemExit(f"scripts.examples.usage: {error}") from error


if __name__ == "__main__":
    main()
